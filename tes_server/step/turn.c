/* Steps that are started at once and run one after the other, as the containers of a pod are: each holds its lock, waits for the one before,
 * and sees by its record whether it may run. Nobody tells a step that its turn has come; a lock that is free does. */
#include "step.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { SHORTEST_MS = 2, LONGEST_MS = 200 }; /* between two looks */
static const uint64_t PART_NS = 50000000;   /* a fiftieth of what was waited, in ms */

/* Locked before it has its name: whoever finds the name finds us alive, or dead. For life; never the command's. */
int turn_hold(int record)
{
    int fd = openat(record, "lock.tmp", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || renameat(record, "lock.tmp", record, "lock") < 0) {
        int cause = errno;
        close(fd);
        errno = cause;
        return -1;
    }
    return 0;
}

static bool has(int directory, const char *name)
{
    return faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Sleeps until the step before has ended; false: a signal came. The one that waits longest looks least often. */
static bool await_end(int before, int signals)
{
    uint64_t begun = clock_ns(CLOCK_MONOTONIC);
    for (int lock = -1;;) {
        if (lock < 0) /* not there yet: its image may still be on its way */
            lock = openat(before, "lock", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (lock >= 0 && flock(lock, LOCK_SH | LOCK_NB) == 0) {
            close(lock);
            return true;
        }
        if (lock < 0 && (has(before, "exit") || has(before, "skipped"))) /* its command has removed the lock */
            return true;
        struct pollfd polled = {.fd = signals, .events = POLLIN};
        uint64_t part = (clock_ns(CLOCK_MONOTONIC) - begun) / PART_NS;
        if (poll(&polled, 1, part < SHORTEST_MS ? SHORTEST_MS : part > LONGEST_MS ? LONGEST_MS : (int)part) > 0) {
            if (lock >= 0)
                close(lock);
            return false;
        }
    }
}

enum turn turn_await(const char *directory, bool any, int signals)
{
    char text[8];
    enum turn turn = SKIP;
    int before = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (before < 0)
        return STUCK;
    if (!await_end(before, signals)) {
        close(before);
        return STOPPED;
    }
    /* What ended the step before from outside, or kept it from running, holds for us too. */
    if (!has(before, "skipped") && !has(before, "cut") && !has(before, "late")) {
        int fd = any ? -1 : openat(before, "exit", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        if (any || (length >= 2 && text[0] == '0' && text[1] == ' '))
            turn = RUN;
        if (fd >= 0)
            close(fd);
    }
    close(before);
    return turn;
}

/* A time of CLOCK_MONOTONIC in nanoseconds; UINT64_MAX where the file is not there or holds none. */
uint64_t turn_until(const char *path)
{
    char text[24];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (length <= 0 || text[0] < '0' || text[0] > '9')
        return UINT64_MAX;
    text[length] = 0;
    return strtoull(text, NULL, 10);
}
