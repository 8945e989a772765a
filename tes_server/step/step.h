/* tes-step: runs one command under supervision and keeps a record of it. Shared declarations.
 *
 * Rules for all of it: no shell, no thread, no library but libc; memory use is bounded but for argv and the environment;
 * nothing that the command can write is trusted; a failure of our own is reported, never passed off as the command's. */
#ifndef TES_STEP_H
#define TES_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Exit codes of tes-step itself, beside those of the command. */
enum { FAILED = 125, NOT_RUNNABLE = 126, NOT_FOUND = 127, SIGNALLED = 128 };

struct pair {
    const char *from;
    const char *to;
};

/* A list of option values: pointers into argv, counted. */
struct strings {
    const char **at;
    size_t count;
};

struct pairs {
    struct pair *at;
    size_t count;
};

struct options {
    const char *record, *workdir, *stdin_path, *env_file, *argv_file, *wipe;
    const char *stdout_path, *stderr_path;
    const char *after, *after_any, *until, *env_add, *tell;
    bool tee, hold, exit_zero, exit_oom;
    int lock;           /* -1: none */
    int inner, report;  /* -1: none; see main.c */
    int keep[16];
    size_t keeps;
    size_t tail;
    uint64_t grace_ns, time_ns; /* time: 0 = as long as it takes */
    uint64_t rlimit_data, rlimit_nproc; /* 0: none */
    uint64_t memory;        /* of all processes together; 0: not counted */
    bool alone, changes_user;
    uid_t uid;
    gid_t gid;
    uint64_t ids_base, ids_count; /* count 0: no user namespace */
    struct strings cgroups, counters, groups, opens, owns, variables;
    struct pairs copies, moves, stages;
    char **argv;
};

/* How the command ended. */
struct ending {
    int code;
    int signal;
    bool out_of_memory; /* a process was killed for it, by us */
    uint64_t start_ns, end_ns; /* since 1970 */
};

/* One output of the command and where its bytes go; descriptors are -1 where there is none. */
struct stream {
    int source;       /* our end of the pipe */
    int ring;         /* record file */
    int file;         /* redirection */
    int tee;          /* our own stdout or stderr */
    const char *path; /* of `file` */
    int error;        /* errno of the first failed write to `file` */
    size_t keep;      /* bytes of head and of tail in the ring */
    uint64_t count;   /* bytes so far */
    bool patient;     /* the tee's reader is ours: wait for it */
};

/* main.c */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* record.c: the record directory. 0, or -1 with errno. */
int record_open(const char *directory);
int record_ring(int directory, const char *name, size_t keep);
int record_start(int directory, uint64_t now_ns);
int record_exit(int directory, const struct ending *ending);
int record_failed(int directory);
int record_cut(int directory);
int record_late(int directory);
int record_skipped(int directory);
int record_oom(int directory); /* marks a kill for memory */
bool record_has_oom(int directory);
int record_counted_oom(int directory, const char *counters); /* marks it if `counters` tells of one */
int record_stop(int directory, uint64_t *grace_ns); /* 1: a stop was asked for, `grace_ns` is set; 0: none */
uint64_t clock_ns(int clock);

/* turn.c */
enum turn { RUN, SKIP, STOPPED, STUCK }; /* STUCK: errno says why */
int turn_hold(int record); /* 0, or -1 with errno */
enum turn turn_await(const char *directory, bool any, int signals);
uint64_t turn_until(const char *path);

/* stream.c */
void stream_put(struct stream *stream, const char *bytes, size_t length);
void stream_say(struct stream *stream, const char *subject, const char *what);
bool stream_pump(struct stream *stream, size_t limit); /* false: end of file */
void stream_tee(struct stream *stream, const char *bytes, size_t length);
size_t stream_kept(const struct stream *stream, uint64_t from, char *bytes, size_t length); /* how many of them; 0: none */

/* tell.c */
void tell_log(struct stream *log, int record, const struct stream *streams, const struct ending *ending); /* `end_ns` 0: it runs */
int tell_end(const char *path, int record, const struct stream *streams, const struct ending *ending, bool *whole); /* 0, or -1 with errno */

/* child.c: never returns. `outputs` become the child's stdout and stderr. */
struct birth {
    int input;
    int outputs[2];
    int report;    /* write end of the pipe that becomes `inner`, or -1 */
    int mapped[2]; /* socket pair: [1] is the child's; -1 without a user namespace */
    pid_t parent;
};
void child_run(const struct options *options, const struct birth *birth) __attribute__((noreturn));

/* isolate.c: the mount and user namespace of a root server's sandbox */
int isolate(const struct options *options, int mapped);
int map_ids(const struct options *options, pid_t child);

/* memory.c: true if a process was killed. `proc`: descriptor of the sandbox's /proc */
bool hold_memory(int proc, uint64_t limit);

/* run.c */
int run(const struct options *options);

/* tree.c: directory trees. 0, or -1 with errno unless said otherwise; what cannot be done is said on stderr. */
int make_parents(const char *path); /* all but the last name; follows links */
int open_parent(const char *path, const char **name); /* makes it, follows no link; a descriptor */
void open_tree_to_others(const char *path);
void own_tree(const char *path, uid_t uid, gid_t gid);
int empty_directory(int directory);
int remove_entry(int directory, const char *name);

/* copy.c */
void copy_out(const struct pair *pair);
void move_out(const struct pair *pair);

#endif
