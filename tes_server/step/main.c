/* tes-step [options] -- argv...
 *
 *   --record DIR         write start, exit, stdout, stderr into DIR (record.c, stream.c)
 *   --lock FD            descriptor whose flock says that we live; never the command's
 *   --tail N             bytes of head, and as many of tail, kept of each stream (10240)
 *   --tee                also write the command's output to our own
 *   --stdin P            read from P; without it /dev/null
 *   --stdout P           write to P, made with its parents; likewise --stderr. Both may name one file
 *   --workdir P          made if missing
 *   --argv-file P        the command as NUL-terminated strings, instead of argv
 *   --env-file P         its whole environment, likewise K=V
 *   --env-add P          likewise what is added to our own. P may be a named pipe: what comes through it lies on no disk
 *   --grace S            seconds between TERM and KILL (10); the record's `stop` file overrides it (nanoseconds)
 *   --copy FROM TO       after the end, if FROM is there (copy.c)
 *   --move FROM TO       likewise, for a place that the command could write to
 *   --open DIR           after the end: others may read and write what is ours below DIR
 *   --cgroup FILE        the command joins this cgroup.procs
 *   --oom FILE           the record's mark `oom` is made if the line `oom_kill` of this file of the command's own cgroup is not 0
 *   --rlimit-data BYTES  private memory of each process of the command
 *   --rlimit-nproc N     processes and threads of the command's user (in its user namespace, from Linux 5.14 on)
 *   --user UID GID       the command's, with no supplementary groups but each --group GID; its powers go if it is not 0
 *   --alone              the command reaches no abstract socket but its own, where the kernel can do that (Linux 6.12)
 *   --keep FD            the command may have FD
 *   --wipe DIR           no command: delete everything below DIR
 *   --hold               make and hold the lock of the record ourselves (turn.c)
 *   --after DIR          run once the step with that record has ended well, else write `skipped`; --after-any: once it has ended
 *   --until P            end the command, as TERM does, and write `late` when CLOCK_MONOTONIC is what P holds (nanoseconds)
 *   --time S             the same when it has run for so many seconds
 *   --env K=V            one more variable
 *   --tell P             tell how it does in lines of our own stdout, seldom and only what is new, and how it ended in P (tell.c)
 *   --exit-zero          exit with 0 whatever the command did, once its record is safe
 *   --exit-oom           but with 137 where a process of it was killed for memory: an init container that ends well after that hangs its pod
 *
 * A sandbox takes two: `tes-step --inner FD ... -- bwrap ... -- tes-step --report FD ... -- argv`. The outer one writes the record, the
 * inner one opens the task's files, inside, and tells by FD how the command ended. The inner one may also hold the memory of all processes
 * together with --memory BYTES (memory.c; the outer one then writes `oom`). Without that word the command was never started: the
 * outer one then writes `failed` beside `exit`. The outer one of a root server also takes (isolate.c):
 *
 *   --userns BASE COUNT  a user namespace in which 0 is the host's BASE
 *   --stage SRC NAME     SRC is at /tmp/NAME for bwrap
 *   --own DIR            what is ours at and below DIR is given to BASE before
 *
 * Where the command was ended from outside, by TERM without a `stop` file or with its sandbox, the record has `cut` beside `exit`.
 *
 * Exit code: the command's; 128 + signal; 127 no such program; 126 it, its workdir or one of its files cannot be used (said on its
 * stderr); 125 failure of our own: nothing was started, or a redirected stream could not be kept whole. */
#include "step.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

enum { LIST_FIRST = 1 << 14, LIST_MAX = 64 << 20 }; /* bytes of an argv or environment file: the first room for it, and far more than exec takes */

void say(const char *format, ...)
{
    char line[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    dprintf(2, "tes-step: %s\n", line);
}

static void refuse(const char *option, const char *why) __attribute__((noreturn));

static void refuse(const char *option, const char *why)
{
    say("%s: %s", option, why);
    exit(FAILED);
}

static uint64_t number(const char *option, const char *text, uint64_t most)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != 0 || errno != 0 || value > most)
        refuse(option, "not a number that it takes");
    return value;
}

/* "2", "0.25": to nanoseconds, without floating point. */
static uint64_t seconds(const char *option, const char *text)
{
    char whole[16], part[] = "000000000";
    size_t digits = strspn(text, "0123456789"), decimals = 0;
    if (digits == 0 || digits >= sizeof whole)
        refuse(option, "not a number of seconds");
    memcpy(whole, text, digits);
    whole[digits] = 0;
    if (text[digits] == '.') {
        decimals = strspn(text + digits + 1, "0123456789");
        memcpy(part, text + digits + 1, decimals < 9 ? decimals : 9);
        decimals++;
    }
    if (text[digits + decimals] != 0)
        refuse(option, "not a number of seconds");
    return number(option, whole, UINT32_MAX) * 1000000000u + strtoull(part, NULL, 10);
}

static void *grown(void *list, size_t count, size_t size)
{
    void *larger = realloc(list, (count + 1) * size);
    if (larger == NULL)
        refuse("options", strerror(ENOMEM));
    return larger;
}

static void add(struct strings *list, const char *value)
{
    list->at = grown(list->at, list->count, sizeof *list->at);
    list->at[list->count++] = value;
}

static void add_pair(struct pairs *list, char **values)
{
    list->at = grown(list->at, list->count, sizeof *list->at);
    list->at[list->count++] = (struct pair){values[0], values[1]};
}

/* NUL-terminated strings of a file, as exec wants them; or of a named pipe, until its writer closes it. Kept for life. */
static char **read_list(const char *path)
{
    static char *text; /* the newest list; those before are held by their entries */
    size_t size = 0, room = 0, count = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        refuse(path, strerror(errno));
    text = NULL;
    for (ssize_t part = 1; part > 0; size += (size_t)part) {
        if (size == room)
            text = grown(text, room = room > 0 ? 2 * room : LIST_FIRST, 1);
        if (room > 2 * LIST_MAX)
            refuse(path, "too long");
        do
            part = read(fd, text + size, room - size);
        while (part < 0 && errno == EINTR);
        if (part < 0)
            refuse(path, strerror(errno));
    }
    close(fd);
    if (size > 0 && text[size - 1] != 0)
        refuse(path, "not a whole list");
    for (size_t i = 0; i < size; i++)
        count += text[i] == 0;
    char **list = calloc(count + 1, sizeof *list);
    if (list == NULL)
        refuse(path, strerror(ENOMEM));
    for (size_t i = 0, at = 0; i < count; i++, at += strlen(text + at) + 1)
        list[i] = text + at;
    if (count == 0)
        free(text);
    return list;
}

/* Takes one option with its values; how many it took, or -1 if it is none of these. Likewise the next two. */
static int take_text(struct options *options, const char *name, char **values)
{
    const struct {
        const char *name;
        const char **to;
    } texts[] = {
        {"--record", &options->record},       {"--stdin", &options->stdin_path},     {"--stdout", &options->stdout_path},
        {"--stderr", &options->stderr_path},  {"--workdir", &options->workdir},      {"--env-file", &options->env_file},
        {"--argv-file", &options->argv_file}, {"--wipe", &options->wipe},           {"--after", &options->after},
        {"--after-any", &options->after_any}, {"--until", &options->until},          {"--env-add", &options->env_add},
        {"--tell", &options->tell},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(name, texts[i].name) == 0) {
            *texts[i].to = values[0];
            return 1;
        }
    if (strcmp(name, "--cgroup") == 0)
        add(&options->cgroups, values[0]);
    else if (strcmp(name, "--oom") == 0)
        add(&options->counters, values[0]);
    else if (strcmp(name, "--group") == 0)
        add(&options->groups, values[0]);
    else if (strcmp(name, "--open") == 0)
        add(&options->opens, values[0]);
    else if (strcmp(name, "--own") == 0)
        add(&options->owns, values[0]);
    else if (strcmp(name, "--env") == 0)
        add(&options->variables, values[0]);
    else
        return -1;
    return 1;
}

static int take_number(struct options *options, const char *name, char **values)
{
    if (strcmp(name, "--lock") == 0)
        options->lock = (int)number(name, values[0], INT_MAX);
    else if (strcmp(name, "--inner") == 0)
        options->inner = (int)number(name, values[0], INT_MAX);
    else if (strcmp(name, "--report") == 0)
        options->report = (int)number(name, values[0], INT_MAX);
    else if (strcmp(name, "--tail") == 0)
        options->tail = (size_t)number(name, values[0], 1 << 30);
    else if (strcmp(name, "--grace") == 0)
        options->grace_ns = seconds(name, values[0]);
    else if (strcmp(name, "--time") == 0)
        options->time_ns = seconds(name, values[0]);
    else if (strcmp(name, "--rlimit-data") == 0)
        options->rlimit_data = number(name, values[0], INT64_MAX);
    else if (strcmp(name, "--rlimit-nproc") == 0)
        options->rlimit_nproc = number(name, values[0], INT64_MAX);
    else if (strcmp(name, "--memory") == 0)
        options->memory = number(name, values[0], INT64_MAX);
    else if (strcmp(name, "--keep") == 0 && options->keeps < sizeof options->keep / sizeof *options->keep)
        options->keep[options->keeps++] = (int)number(name, values[0], INT_MAX);
    else
        return -1;
    return 1;
}

static int take_pair(struct options *options, const char *name, char **values)
{
    if (strcmp(name, "--copy") == 0)
        add_pair(&options->copies, values);
    else if (strcmp(name, "--move") == 0)
        add_pair(&options->moves, values);
    else if (strcmp(name, "--stage") == 0)
        add_pair(&options->stages, values);
    else if (strcmp(name, "--userns") == 0) {
        options->ids_base = number(name, values[0], UINT32_MAX);
        options->ids_count = number(name, values[1], UINT32_MAX);
    } else if (strcmp(name, "--user") == 0) {
        options->changes_user = true;
        options->uid = (uid_t)number(name, values[0], UINT32_MAX);
        options->gid = (gid_t)number(name, values[1], UINT32_MAX);
    } else
        return -1;
    return 2;
}

static bool take_flag(struct options *options, const char *name)
{
    const struct {
        const char *name;
        bool *to;
    } flags[] = {
        {"--tee", &options->tee},
        {"--alone", &options->alone},
        {"--hold", &options->hold},
        {"--exit-zero", &options->exit_zero},
        {"--exit-oom", &options->exit_oom},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strcmp(name, flags[i].name) == 0) {
            *flags[i].to = true;
            return true;
        }
    return false;
}

static void parse(struct options *options, int argc, char **argv)
{
    int at = 1;
    while (at < argc && strcmp(argv[at], "--") != 0) {
        const char *name = argv[at++];
        int left = 0, took = -1;
        while (at + left < argc && left < 2 && strcmp(argv[at + left], "--") != 0)
            left++;
        if (take_flag(options, name))
            continue;
        if (left >= 1 && (took = take_text(options, name, argv + at)) < 0)
            took = take_number(options, name, argv + at);
        if (left >= 2 && took < 0)
            took = take_pair(options, name, argv + at);
        if (took < 0)
            refuse(name, "not an option, or its value is missing");
        at += took;
    }
    options->argv = at < argc ? argv + at + 1 : argv + argc;
    if (options->argv_file != NULL) {
        if (options->argv[0] != NULL)
            refuse("--argv-file", "and a command");
        options->argv = read_list(options->argv_file);
    }
    if (options->argv[0] == NULL && options->wipe == NULL)
        refuse("--", "a command must follow");
    if (options->record == NULL && (options->hold || options->after != NULL || options->after_any != NULL || options->until != NULL))
        refuse("--hold, --after, --until", "need --record");
    if (options->tell != NULL && (options->record == NULL || options->tee))
        refuse("--tell", "needs --record, and takes the place of --tee");
}

static void add_variable(const char *option, const char *entry)
{
    if (strchr(entry, '=') == NULL || putenv((char *)(uintptr_t)entry) != 0) /* the string is the environment's from now on */
        refuse(option, "not NAME=VALUE");
}

static void add_environment(const char *path)
{
    char **list = read_list(path);
    for (char **entry = list; *entry != NULL; entry++)
        add_variable("--env-add", *entry);
    free(list);
}

static void close_on_exec(int fd, const char *option)
{
    if (fd >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        refuse(option, strerror(errno));
}

static int wipe(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == EACCES && chmod(path, 0700) == 0)
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && (fchmod(fd, 0700), empty_directory(fd)) == 0)
        return 0;
    say("%s: %s", path, strerror(errno));
    return FAILED;
}

/* A descriptor of ours must never be taken for a standard stream that our parent left closed. */
static void fill_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    close(fd);
}

int main(int argc, char **argv)
{
    static struct options options = {.lock = -1, .inner = -1, .report = -1, .tail = 10240, .grace_ns = 10000000000u};
    fill_standard_streams();
    parse(&options, argc, argv);
    umask(0);
    if (options.wipe != NULL)
        return wipe(options.wipe);
    close_on_exec(options.lock, "--lock");
    close_on_exec(options.report, "--report");
    if (options.env_file != NULL)
        environ = read_list(options.env_file);
    if (options.env_add != NULL)
        add_environment(options.env_add);
    for (size_t i = 0; i < options.variables.count; i++)
        add_variable("--env", options.variables.at[i]);
    return run(&options);
}
