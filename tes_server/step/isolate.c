/* A root server's sandbox: the command must not be the host's root, or it owns the host whatever else it is denied.
 *
 * The child gets a mount namespace in which the few host paths that bwrap needs are gathered in one place that anybody may enter (our
 * data may lie below a 0700 directory), then a user namespace in which 0..count-1 are the host's base..base+count-1, and no capability
 * outside of it. Nothing here happens in the host's own namespaces. */
#include "step.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Covered in the new namespace only. Every Linux has it, and bwrap needs nothing that is really there. */
#define STAGE "/tmp"

static int complain(const char *what)
{
    say("%s: %s", what, strerror(errno));
    return -1;
}

static int gather(const struct pairs *stages)
{
    int *sources = calloc(stages->count + 1, sizeof *sources);
    char from[64], to[512];
    struct stat found;
    if (sources == NULL)
        return complain("stage");
    /* Opened before the cover, since some may lie below it; after unshare, since only mounts of one's own namespace may be bound. */
    for (size_t i = 0; i < stages->count; i++)
        if ((sources[i] = open(stages->at[i].from, O_PATH | O_NOFOLLOW | O_CLOEXEC)) < 0)
            return complain(stages->at[i].from);
    if (mount("tes-step", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") < 0)
        return complain(STAGE);
    for (size_t i = 0; i < stages->count; i++) {
        snprintf(from, sizeof from, "/proc/self/fd/%d", sources[i]);
        if (snprintf(to, sizeof to, STAGE "/%s", stages->at[i].to) >= (int)sizeof to || fstat(sources[i], &found) < 0)
            return complain(stages->at[i].to);
        int made = S_ISDIR(found.st_mode) ? mkdir(to, 0755) : mknod(to, S_IFREG | 0644, 0);
        if (made < 0 || mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0)
            return complain(stages->at[i].from);
        close(sources[i]);
    }
    free(sources);
    return 0;
}

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return complain(path);
    ssize_t done = write(fd, text, strlen(text));
    int cause = errno;
    close(fd);
    errno = cause;
    return done < 0 ? complain(path) : 0;
}

int isolate(const struct options *options, int mapped)
{
    char byte = 0;
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return complain("mount namespace");
    if (gather(&options->stages) < 0)
        return -1;
    if (unshare(CLONE_NEWUSER) < 0)
        return complain("user namespace");
    /* Only the parent, who still has the host's power, may map a range. */
    if (write(mapped, &byte, 1) != 1 || read(mapped, &byte, 1) != 1) {
        say("user namespace: the ids were not mapped");
        return -1;
    }
    if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
        return complain("change of user");
    /* No namespace within this one: the command needs none, and the kernel has had its worst holes there. */
    return put("/proc/sys/user/max_user_namespaces", "0");
}

int map_ids(const struct options *options, pid_t child)
{
    char path[64], line[64];
    snprintf(line, sizeof line, "0 %" PRIu64 " %" PRIu64 "\n", options->ids_base, options->ids_count);
    snprintf(path, sizeof path, "/proc/%ld/uid_map", (long)child);
    if (put(path, line) < 0)
        return -1;
    snprintf(path, sizeof path, "/proc/%ld/gid_map", (long)child);
    return put(path, line);
}
