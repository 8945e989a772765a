/* The record directory: what outlives us. `start` before the command, `exit` after it, two rings of its output,
 * and the marks `failed`, `cut`, `late`, `oom`; `skipped` alone where it was not run. */
#include "step.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 128 }; /* longer than any record line */

uint64_t clock_ns(int clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int record_open(const char *directory)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    /* A record is begun once: a start that an engine repeats late must not run the command again. */
    if (fd >= 0 && faccessat(fd, "start", F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        close(fd);
        errno = EEXIST;
        return -1;
    }
    return fd;
}

static int write_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t done = write(fd, bytes, length);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        bytes += done;
        length -= (size_t)done;
    }
    return 0;
}

/* Durable when it returns 0: the reader finds all of the line or none of it. */
static int put_line(int directory, const char *name, const char *temporary, const char *line)
{
    int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -1;
    if (write_all(fd, line, strlen(line)) < 0 || ftruncate(fd, (off_t)strlen(line)) < 0 || fsync(fd) < 0) {
        int cause = errno;
        close(fd);
        errno = cause;
        return -1;
    }
    close(fd);
    if (renameat(directory, temporary, directory, name) < 0)
        return -1;
    return fsync(directory);
}

/* Field 22 of /proc/self/stat, in clock ticks since boot: with the pid it names this process for ever. The program's name (field 2)
 * may hold spaces and brackets, so fields are counted from the last bracket. */
static uint64_t start_ticks(void)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return 0;
    text[length] = 0;
    char *field = strrchr(text, ')');
    for (int number = 2; field != NULL && number < 22; number++)
        field = strchr(field + 1, ' ');
    return field == NULL ? 0 : strtoull(field + 1, NULL, 10);
}

int record_start(int directory, uint64_t now_ns)
{
    char line[LINE];
    /* Room for the exit line is taken now, so that a full disk cannot make an ended command look lost. */
    int fd = openat(directory, "exit.tmp", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -1;
    (void)posix_fallocate(fd, 0, LINE);
    close(fd);
    snprintf(line, sizeof line, "%ld %" PRIu64 " %" PRIu64 "\n", (long)getpid(), start_ticks(), now_ns);
    return put_line(directory, "start", "start.tmp", line);
}

int record_exit(int directory, const struct ending *ending)
{
    char line[LINE];
    snprintf(line, sizeof line, "%d %d %" PRIu64 " %" PRIu64 "\n", ending->code, ending->signal, ending->start_ns, ending->end_ns);
    return put_line(directory, "exit", "exit.tmp", line);
}

int record_failed(int directory)
{
    return put_line(directory, "failed", "failed.tmp", "the command was not started\n");
}

int record_oom(int directory)
{
    int fd = openat(directory, "oom", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    return fd < 0 ? -1 : close(fd);
}

bool record_has_oom(int directory)
{
    return faccessat(directory, "oom", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int record_cut(int directory)
{
    return put_line(directory, "cut", "cut.tmp", "the command was ended from outside\n");
}

int record_late(int directory)
{
    return put_line(directory, "late", "late.tmp", "the command's time was over\n");
}

int record_skipped(int directory)
{
    return put_line(directory, "skipped", "skipped.tmp", "it was not its turn\n");
}

/* The kernel counts a kill before it sends the signal, so that whoever saw the end of its victim finds it counted. */
int record_counted_oom(int directory, const char *counters)
{
    char text[1024];
    int fd = open(counters, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length < 0)
        return -1;
    text[length] = 0;
    const char *line = strstr(text, "oom_kill "); /* `oom_kill_disable` and `oom_group_kill` are other lines */
    if (line == NULL || strtoull(line + strlen("oom_kill "), NULL, 10) == 0)
        return 0;
    return record_oom(directory);
}

int record_stop(int directory, uint64_t *grace_ns)
{
    char text[32];
    int fd = openat(directory, "stop", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length < 0)
        return 0;
    text[length] = 0;
    *grace_ns = strtoull(text, NULL, 10);
    return 1;
}

/* A ring file: 8 bytes count, then `keep` bytes of head, then `keep` bytes of ring (see stream.c). */
int record_ring(int directory, const char *name, size_t keep)
{
    int fd = openat(directory, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    /* With its room on the disk: a command that fills the disk is the one whose words are wanted. */
    int lacks = fd < 0 ? 0 : posix_fallocate(fd, 0, (off_t)(8 + 2 * keep));
    if (lacks == ENOSPC || lacks == EDQUOT) {
        close(fd);
        errno = lacks;
        return -1;
    }
    if (fd >= 0 && ftruncate(fd, (off_t)(8 + 2 * keep)) < 0) { /* not every file system can promise room */
        int cause = errno;
        close(fd);
        errno = cause;
        return -1;
    }
    return fd;
}
