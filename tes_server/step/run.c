/* The supervisor: starts the command, moves its output, passes signals on, reaps, and writes the record. */
#include "step.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const uint64_t NEVER = UINT64_MAX;
static const uint64_t RESEND_NS = 100000000; /* see stop_command */
static const uint64_t DISK_WAIT_S = 1;
static const uint64_t MEMORY_NS = 100000000; /* between two counts: a tenth of a millisecond of work each */
static const uint64_t TELL_LEAST_NS = 500000000, TELL_MOST_NS = 5000000000; /* between two lines that tell: the longer it runs, the rarer */

struct supervisor {
    const struct options *options;
    int record;                /* directory, or -1 */
    int signals;               /* signalfd */
    int reported;              /* read end of the inner tes-step's report, or -1 */
    struct stream streams[2];
    pid_t child;
    int proc;                  /* /proc as it was before the command, or -1 */
    bool ended, stopping, out_of_memory;
    bool cut;                  /* whoever ended the command was neither the server nor the command */
    bool late;                 /* its time was over */
    int status;                /* from waitpid */
    uint64_t kill_at, resend_at, count_at, until; /* monotonic */
    uint64_t tell_at, told_at, begun_at;
    uint64_t begun;            /* since 1970 */
    struct stream log;         /* our own stdout, for what is told */
};

/* Files */

static int open_output(struct supervisor *self, int which, const char *path)
{
    struct stream *stream = &self->streams[which];
    struct stat mine, other;
    if (path == NULL)
        return 0;
    stream->path = path;
    if (make_parents(path) < 0)
        return -1;
    stream->file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_CLOEXEC, 0666);
    if (stream->file < 0)
        return -1;
    /* Both into one file: one descriptor, so one offset, or they would overwrite each other. */
    if (which == 1 && self->streams[0].file >= 0 && fstat(stream->file, &mine) == 0 && fstat(self->streams[0].file, &other) == 0 &&
        mine.st_dev == other.st_dev && mine.st_ino == other.st_ino) {
        close(stream->file);
        stream->file = self->streams[0].file;
    }
    return 0;
}

static int make_workdir(const char *path)
{
    struct stat found;
    if (make_parents(path) < 0 || (mkdir(path, 0777) < 0 && errno != EEXIST) || stat(path, &found) < 0)
        return -1;
    if (!S_ISDIR(found.st_mode)) {
        errno = ENOTDIR;
        return -1;
    }
    return 0;
}

/* The files that the task named. What fails is the task's affair: said on its stderr. NULL, or the path at fault (errno says why). */
static const char *open_files(struct supervisor *self, int *input)
{
    const struct options *options = self->options;
    if (options->workdir != NULL && make_workdir(options->workdir) < 0)
        return options->workdir;
    if (open_output(self, 0, options->stdout_path) < 0)
        return options->stdout_path;
    if (open_output(self, 1, options->stderr_path) < 0)
        return options->stderr_path;
    const char *path = options->stdin_path != NULL ? options->stdin_path : "/dev/null";
    *input = open(path, O_RDONLY | O_NOCTTY | O_CLOEXEC);
    return *input < 0 ? path : NULL;
}

/* A pipe where its bytes have somewhere to go beside our own output, else that output itself, or /dev/null. The child's end. */
static int connect_stream(struct stream *stream)
{
    int ends[2];
    if (stream->ring < 0 && stream->file < 0) {
        int own = stream->tee >= 0 ? fcntl(stream->tee, F_DUPFD_CLOEXEC, 3) : open("/dev/null", O_WRONLY | O_CLOEXEC);
        stream->tee = -1;
        return own;
    }
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    stream->source = ends[0];
    return ends[1];
}

/* Birth */

static int start_child(struct supervisor *self, int input)
{
    const struct options *options = self->options;
    struct birth birth = {.input = input, .report = -1, .mapped = {-1, -1}, .parent = getpid()};
    int report[2] = {-1, -1};
    for (int i = 0; i < 2; i++)
        if ((birth.outputs[i] = connect_stream(&self->streams[i])) < 0)
            return -1;
    if (options->inner >= 0 && pipe2(report, O_CLOEXEC) < 0)
        return -1;
    if (options->ids_count > 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, birth.mapped) < 0)
        return -1;
    birth.report = report[1];
    self->reported = report[0];
    self->child = fork();
    if (self->child < 0)
        return -1;
    if (self->child == 0)
        child_run(options, &birth);
    setpgid(self->child, self->child); /* the child does so too: whoever is first */
    close(input);
    close(birth.outputs[0]);
    close(birth.outputs[1]);
    if (report[1] >= 0)
        close(report[1]);
    if (options->ids_count > 0) {
        char byte = 0;
        close(birth.mapped[1]);
        if (read(birth.mapped[0], &byte, 1) == 1 && map_ids(options, self->child) == 0)
            (void)!write(birth.mapped[0], &byte, 1);
        close(birth.mapped[0]); /* without the byte the child gives up and says why */
    }
    return 0;
}

/* Life */

static void signal_command(const struct supervisor *self, int number)
{
    kill(-self->child, number);
    if (getpgid(self->child) != self->child) /* it made a group of its own */
        kill(self->child, number);
    if (number == SIGKILL && getpid() == 1)
        kill(-1, SIGKILL);
}

/* An inner tes-step may not be there yet to take the signal (bwrap blocks it and forks): it is sent again until somebody ends. */
static void stop_command(struct supervisor *self, bool from_outside)
{
    uint64_t now = clock_ns(CLOCK_MONOTONIC), grace = self->options->grace_ns;
    if (self->stopping)
        return;
    self->stopping = true;
    if (self->record >= 0 && !record_stop(self->record, &grace))
        self->cut = from_outside; /* nobody wished for it: a daemon or a machine that goes down */
    self->kill_at = grace < NEVER - now ? now + grace : NEVER;
    self->resend_at = self->options->inner >= 0 ? now + RESEND_NS : NEVER;
    signal_command(self, SIGTERM);
}

static void keep_time(struct supervisor *self)
{
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    if (now >= self->until) {
        self->until = NEVER;
        self->late = !self->stopping;
        stop_command(self, false);
    }
    if (now >= self->kill_at) {
        self->kill_at = self->resend_at = NEVER;
        signal_command(self, SIGKILL);
    } else if (now >= self->resend_at) {
        self->resend_at = now + RESEND_NS;
        signal_command(self, SIGTERM);
    }
    if (now >= self->tell_at) {
        self->tell_at = NEVER;
        self->told_at = now;
        tell_log(&self->log, self->record, self->streams, &(struct ending){.start_ns = self->begun});
    }
    if (now >= self->count_at) {
        self->count_at = now + MEMORY_NS;
        if (hold_memory(self->proc, self->options->memory))
            self->out_of_memory = true;
    }
}

static int time_left_ms(const struct supervisor *self)
{
    uint64_t next = self->kill_at < self->resend_at ? self->kill_at : self->resend_at, now = clock_ns(CLOCK_MONOTONIC);
    if (self->count_at < next)
        next = self->count_at;
    if (self->tell_at < next)
        next = self->tell_at;
    if (self->until < next)
        next = self->until;
    if (next == NEVER)
        return -1;
    uint64_t left = next <= now ? 0 : (next - now) / 1000000 + 1;
    return left > 60000 ? 60000 : (int)left;
}

/* Something is new: it will be told. */
static void wish_to_tell(struct supervisor *self)
{
    if (self->options->tell == NULL || self->tell_at != NEVER)
        return;
    uint64_t pause = (clock_ns(CLOCK_MONOTONIC) - self->begun_at) / 20;
    self->tell_at = self->told_at + (pause < TELL_LEAST_NS ? TELL_LEAST_NS : pause > TELL_MOST_NS ? TELL_MOST_NS : pause);
}

static void take_signals(struct supervisor *self)
{
    struct signalfd_siginfo got;
    while (read(self->signals, &got, sizeof got) == (ssize_t)sizeof got)
        if (got.ssi_signo != SIGCHLD)
            stop_command(self, getpid() != 1 || got.ssi_pid == 0); /* in a container the command can signal us, and has a number */
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) /* as PID 1 we inherit everybody's orphans */
        if (pid == self->child) {
            self->ended = true;
            self->status = status;
        }
}

static void watch(struct supervisor *self)
{
    while (!self->ended) {
        struct pollfd polled[3] = {
            {.fd = self->signals, .events = POLLIN},
            {.fd = self->streams[0].source, .events = POLLIN},
            {.fd = self->streams[1].source, .events = POLLIN},
        };
        if (poll(polled, 3, time_left_ms(self)) < 0 && errno != EINTR)
            break;
        keep_time(self);
        for (int i = 0; i < 2; i++) {
            if (polled[1 + i].revents == 0)
                continue;
            if (stream_pump(&self->streams[i], SIZE_MAX)) {
                wish_to_tell(self);
            } else {
                close(self->streams[i].source);
                self->streams[i].source = -1;
            }
        }
        if (polled[0].revents != 0)
            take_signals(self);
    }
    /* What was written before the end is in the pipes now. Whoever still holds them (a daemon it left) is not waited for. */
    for (int i = 0; i < 2; i++) {
        int left = 0;
        struct stream *stream = &self->streams[i];
        if (stream->source < 0)
            continue;
        ioctl(stream->source, FIONREAD, &left);
        for (uint64_t end = stream->count + (uint64_t)(left > 0 ? left : 0); stream->count < end;)
            if (!stream_pump(stream, (size_t)(end - stream->count)))
                break;
        close(stream->source);
        stream->source = -1;
    }
}

/* Death */

/* The inner tes-step's own words. Without them nothing was started, unless a signal cut it short. */
static bool read_report(struct supervisor *self, struct ending *ending)
{
    char text[128];
    struct ending said;
    int out_of_memory;
    fcntl(self->reported, F_SETFL, O_NONBLOCK);
    ssize_t length = read(self->reported, text, sizeof text - 1);
    if (length <= 0)
        return false;
    text[length] = 0;
    if (sscanf(text, "%d %d %" SCNu64 " %" SCNu64 " %d", &said.code, &said.signal, &said.start_ns, &said.end_ns, &out_of_memory) != 5)
        return false;
    said.out_of_memory = out_of_memory != 0;
    *ending = said;
    return true;
}

static void judge(struct supervisor *self, struct ending *ending)
{
    ending->end_ns = clock_ns(CLOCK_REALTIME);
    ending->out_of_memory = self->out_of_memory;
    if (WIFSIGNALED(self->status)) {
        ending->signal = WTERMSIG(self->status);
        ending->code = SIGNALLED + ending->signal;
    } else {
        ending->code = WEXITSTATUS(self->status);
    }
    if (self->reported < 0 || read_report(self, ending))
        return;
    if (ending->signal == 0 && ending->code <= SIGNALLED) { /* beyond it: bwrap tells that the inner one was killed */
        ending->code = FAILED;
        if (self->record >= 0)
            (void)record_failed(self->record);
    } else if (!self->stopping && !ending->out_of_memory) {
        self->cut = true; /* the sandbox was killed, and the command with it */
    }
}

static void finish_files(struct supervisor *self, struct ending *ending)
{
    const struct options *options = self->options;
    for (int i = 0; i < 2; i++) {
        struct stream *stream = &self->streams[i];
        if (stream->file >= 0 && (i == 0 || stream->file != self->streams[0].file) && close(stream->file) < 0 && stream->error == 0)
            stream->error = errno;
    }
    for (int i = 0; i < 2; i++) {
        struct stream *stream = &self->streams[i];
        stream->file = -1;
        if (stream->error != 0) { /* a result that is not whole must not look like a success */
            stream_say(&self->streams[1], stream->path, strerror(stream->error));
            if (ending->code == 0)
                ending->code = FAILED;
        }
    }
    for (size_t i = 0; i < options->copies.count; i++)
        copy_out(&options->copies.at[i]);
    for (size_t i = 0; i < options->moves.count; i++)
        move_out(&options->moves.at[i]);
    for (size_t i = 0; i < options->opens.count; i++)
        open_tree_to_others(options->opens.at[i]);
}

static int write_ending(struct supervisor *self, const struct ending *ending)
{
    if (self->record >= 0 && ending->out_of_memory)
        (void)record_oom(self->record);
    if (self->record >= 0 && self->cut)
        (void)record_cut(self->record);
    if (self->record >= 0 && self->late)
        (void)record_late(self->record);
    for (size_t i = 0; self->record >= 0 && i < self->options->counters.count; i++)
        (void)record_counted_oom(self->record, self->options->counters.at[i]); /* version 1 and 2 of cgroups have other names: one is missing */
    while (self->record >= 0 && record_exit(self->record, ending) < 0) {
        if (errno != ENOSPC && errno != EDQUOT) {
            say("the exit record: %s", strerror(errno));
            return FAILED;
        }
        sleep(DISK_WAIT_S); /* holding the lock: late is better than lost */
    }
    bool whole = true;
    if (self->options->tell != NULL && tell_end(self->options->tell, self->record, self->streams, ending, &whole) < 0)
        say("%s: %s", self->options->tell, strerror(errno));
    if (!whole)
        tell_log(&self->log, self->record, self->streams, ending);
    if (self->options->report >= 0)
        dprintf(self->options->report, "%d %d %" PRIu64 " %" PRIu64 " %d\n", ending->code, ending->signal, ending->start_ns, ending->end_ns,
                ending->out_of_memory);
    if (self->options->exit_oom && (ending->out_of_memory || (self->record >= 0 && record_has_oom(self->record))))
        return SIGNALLED + SIGKILL;
    return self->options->exit_zero ? 0 : ending->code;
}

static int prepare(struct supervisor *self)
{
    const struct options *options = self->options;
    sigset_t watched;
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    sigaddset(&watched, SIGTERM);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGHUP);
    sigprocmask(SIG_BLOCK, &watched, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* ignored by our parent, it would be reaped by nobody's waitpid */
    self->signals = signalfd(-1, &watched, SFD_NONBLOCK | SFD_CLOEXEC);
    if (self->signals < 0)
        return -1;
    if (options->memory > 0) {
        if ((self->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
            return -1;
        self->count_at = clock_ns(CLOCK_MONOTONIC) + MEMORY_NS;
    }
    if (options->report >= 0) /* the command shares our user: it shall not read or trace the one that reports on it */
        prctl(PR_SET_DUMPABLE, 0);
    for (int i = 0; i < 2; i++)
        self->streams[i] = (struct stream){.source = -1,
                                           .ring = -1,
                                           .file = -1,
                                           .tee = options->tee ? 1 + i : -1,
                                           .keep = options->tail,
                                           .patient = options->report >= 0};
    if (options->record == NULL)
        return 0;
    if ((self->record = record_open(options->record)) < 0)
        return -1;
    if (options->hold && turn_hold(self->record) < 0)
        return -1;
    for (int i = 0; i < 2; i++)
        if ((self->streams[i].ring = record_ring(self->record, i == 0 ? "stdout" : "stderr", options->tail)) < 0)
            return -1;
    return 0;
}

/* Not our turn, or no more: the mark is all that is left. The exit code, or -1: run. */
static int skip(struct supervisor *self)
{
    const struct options *options = self->options;
    const char *before = options->after != NULL ? options->after : options->after_any;
    enum turn turn = before != NULL ? turn_await(before, options->after == NULL, self->signals) : RUN;
    if (turn == STUCK) {
        say("%s: %s", before, strerror(errno));
        return FAILED;
    }
    if (options->until != NULL)
        self->until = turn_until(options->until);
    bool late = turn == RUN && self->until <= clock_ns(CLOCK_MONOTONIC);
    if (turn == RUN && !late)
        return -1;
    if ((turn == STOPPED && record_cut(self->record) < 0) || (late && record_late(self->record) < 0) || record_skipped(self->record) < 0) {
        say("%s: %s", options->record, strerror(errno));
        return FAILED;
    }
    return 0;
}

int run(const struct options *options)
{
    struct supervisor self = {.options = options, .record = -1, .reported = -1, .proc = -1, .kill_at = NEVER, .resend_at = NEVER, .count_at = NEVER,
                              .until = NEVER, .tell_at = NEVER, .log = {.tee = 1}};
    bool prepared = prepare(&self) == 0;
    if (prepared && self.record >= 0) {
        int skipped = skip(&self);
        if (skipped >= 0)
            return skipped;
    }
    struct ending ending = {.start_ns = clock_ns(CLOCK_REALTIME)};
    self.begun = ending.start_ns;
    self.begun_at = self.told_at = clock_ns(CLOCK_MONOTONIC);
    if (options->time_ns != 0 && self.begun_at + options->time_ns < self.until)
        self.until = self.begun_at + options->time_ns;
    if (!prepared || (self.record >= 0 && record_start(self.record, ending.start_ns) < 0)) {
        say("%s: %s", options->record != NULL ? options->record : "start", strerror(errno));
        return FAILED;
    }
    for (size_t i = 0; i < options->owns.count; i++)
        own_tree(options->owns.at[i], (uid_t)options->ids_base, (gid_t)options->ids_base);
    int input = -1;
    const char *fault = open_files(&self, &input);
    if (fault != NULL) {
        stream_say(&self.streams[1], fault, strerror(errno));
        ending.code = NOT_RUNNABLE;
        ending.end_ns = clock_ns(CLOCK_REALTIME);
    } else if (start_child(&self, input) < 0) {
        stream_say(&self.streams[1], "fork", strerror(errno));
        ending.code = FAILED;
        ending.end_ns = clock_ns(CLOCK_REALTIME);
        if (self.record >= 0)
            (void)record_failed(self.record);
    } else {
        uint64_t grace;
        /* Whoever stops us writes `stop`, then looks for `start` to signal us; we wrote `start`, then look for `stop`: one of both sees
         * the other. */
        if (self.record >= 0 && record_stop(self.record, &grace))
            stop_command(&self, false);
        watch(&self);
        judge(&self, &ending);
    }
    finish_files(&self, &ending);
    return write_ending(&self, &ending);
}
