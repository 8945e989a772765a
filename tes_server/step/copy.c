/* Results that lie in the image's own file system, taken to the task's volume after the command has ended. */
#include "step.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEEPEST = 200 }; /* two descriptors a level */

static int copy_entry(int from, const char *name, int to, const char *as, int follow, int depth);

static int copy_bytes(int in, int out)
{
    static char chunk[65536];
    for (;;) {
        ssize_t length = read(in, chunk, sizeof chunk);
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            return (int)length;
        for (ssize_t done = 0; done < length;) {
            ssize_t part = write(out, chunk + done, (size_t)(length - done));
            if (part < 0 && errno != EINTR)
                return -1;
            done += part > 0 ? part : 0;
        }
    }
}

/* Whoever stages out may be another user: everybody may read and write the copy. */
static int copy_file(int in, int to, const char *as, mode_t mode)
{
    int out = openat(to, as, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0)
        return -1;
    int done = copy_bytes(in, out);
    if (done == 0)
        done = fchmod(out, (mode & 0777) | 0666);
    if (close(out) < 0)
        done = -1;
    return done;
}

static int copy_directory(int in, int to, const char *as, int depth)
{
    if (depth >= DEEPEST) {
        errno = ELOOP;
        return -1;
    }
    if (mkdirat(to, as, 0777) < 0)
        return -1;
    int out = openat(to, as, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), again = dup(in);
    DIR *entries = again < 0 ? NULL : fdopendir(again);
    int done = out < 0 || entries == NULL ? -1 : 0;
    for (struct dirent *entry; done == 0 && (entry = readdir(entries)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            done = copy_entry(in, entry->d_name, out, entry->d_name, 0, depth + 1);
    int cause = errno;
    if (entries != NULL)
        closedir(entries);
    else if (again >= 0)
        close(again);
    if (out >= 0)
        close(out);
    errno = cause;
    return done;
}

static int copy_link(int from, const char *name, int to, const char *as)
{
    char target[4096];
    ssize_t length = readlinkat(from, name, target, sizeof target - 1);
    if (length < 0)
        return -1;
    target[length] = 0;
    return symlinkat(target, to, as);
}

/* Pipes, sockets and devices are no results: left out. */
static int copy_entry(int from, const char *name, int to, const char *as, int follow, int depth)
{
    struct stat found;
    if (fstatat(from, name, &found, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    if (S_ISLNK(found.st_mode))
        return copy_link(from, name, to, as);
    if (!S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode))
        return 0;
    int in = openat(from, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
    if (in < 0)
        return -1;
    int done = S_ISDIR(found.st_mode) ? copy_directory(in, to, as, depth) : copy_file(in, to, as, found.st_mode);
    int cause = errno;
    close(in);
    errno = cause;
    return done;
}

/* rename does not replace a full directory, nor a directory by a file: what an earlier executor left there goes first. */
static int put_in_place(int from, const char *name, int to, const char *as)
{
    if (renameat(from, name, to, as) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST && errno != EISDIR && errno != ENOTDIR)
        return -1;
    return remove_entry(to, as) < 0 ? -1 : renameat(from, name, to, as);
}

/* What is not there is not copied: whether an output may be missing is the business of stage-out. A link at FROM itself is followed,
 * since the task asked for what is at that path. */
void copy_out(const struct pair *pair)
{
    const char *name;
    char temporary[64];
    struct stat found;
    if (stat(pair->from, &found) < 0)
        return;
    int to = open_parent(pair->to, &name);
    snprintf(temporary, sizeof temporary, ".tes-step.%ld", (long)getpid());
    if (to < 0 || remove_entry(to, temporary) < 0 || copy_entry(AT_FDCWD, pair->from, to, temporary, 1, 0) < 0 ||
        (faccessat(to, temporary, F_OK, AT_SYMLINK_NOFOLLOW) == 0 && put_in_place(to, temporary, to, name) < 0)) {
        say("%s: not copied: %s", pair->from, strerror(errno));
        if (to >= 0)
            (void)remove_entry(to, temporary);
    }
    if (to >= 0)
        close(to);
}

/* A move within one file system, for a place that the command could write to: no link is followed on either side. */
void move_out(const struct pair *pair)
{
    const char *name, *as;
    int from = open_parent(pair->from, &name), to = open_parent(pair->to, &as);
    if (from < 0 || to < 0 || (put_in_place(from, name, to, as) < 0 && errno != ENOENT))
        say("%s: not moved: %s", pair->from, strerror(errno));
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
}
