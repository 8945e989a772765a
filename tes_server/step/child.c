/* Between fork and exec: the process that becomes the command. */
#include "step.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

enum { GROUPS = 1024 }; /* more than any user has */

static void fail(const char *subject, int code) __attribute__((noreturn));

static void fail(const char *subject, int code)
{
    struct stream standard_error = {.source = -1, .ring = -1, .file = 2, .tee = -1};
    stream_say(&standard_error, subject, strerror(errno));
    _exit(code);
}

static void join_cgroup(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) /* 0: whoever writes */
        fail(path, FAILED);
    close(fd);
}

static void limit(const char *option, int resource, uint64_t most)
{
    struct rlimit rlimit = {.rlim_cur = most, .rlim_max = most}, had;
    if (most == 0 || (getrlimit(resource, &had) == 0 && had.rlim_max <= most))
        return;
    if (setrlimit(resource, &rlimit) < 0)
        fail(option, FAILED);
}

static void become(const struct options *options)
{
    static gid_t groups[GROUPS];
    size_t count = options->groups.count < GROUPS ? options->groups.count : GROUPS;
    for (size_t i = 0; i < count; i++)
        groups[i] = (gid_t)strtoul(options->groups.at[i], NULL, 10);
    if (setgroups(count, groups) < 0 || setresgid(options->gid, options->gid, options->gid) < 0 ||
        setresuid(options->uid, options->uid, options->uid) < 0)
        fail("--user", FAILED);
}

/* Abstract sockets belong to the network, which the sandbox may share with the host, and know no permissions. Best effort: what is asked
 * for is newer than many kernels. */
static void stand_alone(void)
{
    struct {
        uint64_t files, network, scoped;
    } rules = {.scoped = 1}; /* LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET */
    int fd = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0U);
    if (fd < 0)
        return;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    syscall(SYS_landlock_restrict_self, fd, 0U);
    close(fd);
}

static void default_signals(const struct options *options)
{
    sigset_t blocked;
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigemptyset(&blocked);
    if (options->inner >= 0) /* bwrap must outlive the TERM that is meant for the tes-step in it */
        sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
}

/* Everything above 2 is closed by exec, but what is kept on purpose. */
static void close_descriptors(const struct options *options)
{
    if (syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) < 0) { /* Linux before 5.11 */
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        for (rlim_t fd = 3; fd < limit.rlim_cur; fd++)
            fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    }
    for (size_t i = 0; i < options->keeps; i++)
        if (fcntl(options->keep[i], F_SETFD, 0) < 0)
            fail("--keep", FAILED);
}

/* As execvp, but never through a shell, which some C libraries start for a file that is no program. Sets errno. */
static void exec_by_path(char **argv)
{
    char path[4096];
    const char *search = getenv("PATH");
    int cause = ENOENT;
    if (strchr(argv[0], '/') != NULL || argv[0][0] == 0) {
        execv(argv[0], argv);
        return;
    }
    for (const char *part = search != NULL ? search : "/usr/local/bin:/usr/bin:/bin";; part++) {
        int length = (int)strcspn(part, ":");
        if (snprintf(path, sizeof path, "%.*s%s%s", length, part, length > 0 ? "/" : "", argv[0]) < (int)sizeof path) {
            execv(path, argv);
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
                return;
            if (errno == EACCES)
                cause = EACCES; /* there may be another further on */
        }
        part += length;
        if (*part == 0)
            break;
    }
    errno = cause;
}

void child_run(const struct options *options, const struct birth *birth)
{
    setpgid(0, 0);
    close(birth->mapped[0]); /* or our own copy of the supervisor's end would let us wait for a dead one for ever */
    if (dup2(birth->input, 0) < 0 || dup2(birth->outputs[0], 1) < 0 || dup2(birth->outputs[1], 2) < 0)
        _exit(FAILED);
    for (size_t i = 0; i < options->cgroups.count; i++)
        join_cgroup(options->cgroups.at[i]);
    limit("--rlimit-data", RLIMIT_DATA, options->rlimit_data);
    limit("--rlimit-nproc", RLIMIT_NPROC, options->rlimit_nproc);
    if (options->ids_count > 0 && isolate(options, birth->mapped[1]) < 0)
        _exit(FAILED);
    if (options->workdir != NULL && chdir(options->workdir) < 0)
        fail(options->workdir, NOT_RUNNABLE);
    if (options->changes_user)
        become(options);
    if (options->alone)
        stand_alone();
    /* A command must not outlive its supervisor. Set after the change of user, which clears it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != birth->parent)
        _exit(FAILED);
    close_descriptors(options);
    if (birth->report >= 0) {
        if (birth->report == options->inner ? fcntl(birth->report, F_SETFD, 0) < 0 : dup2(birth->report, options->inner) < 0)
            fail("--inner", FAILED);
    }
    default_signals(options);
    exec_by_path(options->argv);
    fail(options->argv[0], errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : NOT_RUNNABLE);
}
