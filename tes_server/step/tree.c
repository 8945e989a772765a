/* Directory trees: made, opened to others, given away, emptied. The trees are the command's: every name in them may be a trap. */
#include "step.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    DEEPEST = 200,      /* levels of a walk: one descriptor each, and 1024 is a usual limit */
    NAME = 256,         /* one component of a path */
    WIPE_PASSES = 10000 /* of a directory that somebody still fills */
};

typedef void visit(int directory, const char *name, const struct stat *found, const void *extra);

int make_parents(const char *path)
{
    char part[4096];
    size_t length = strlen(path);
    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    for (size_t end = 1; end < length; end++) {
        if (path[end] != '/')
            continue;
        memcpy(part, path, end);
        part[end] = 0;
        if (mkdir(part, 0777) < 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
            return -1; /* those say nothing of a directory that is there; the next step will */
    }
    return 0;
}

int open_parent(const char *path, const char **name)
{
    char part[NAME];
    int at = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (;;) {
        path += strspn(path, "/");
        size_t length = strcspn(path, "/");
        if (at < 0)
            return -1;
        if (path[length] == 0) {
            *name = path;
            return at;
        }
        if (length >= sizeof part) {
            close(at);
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(part, path, length);
        part[length] = 0;
        if (mkdirat(at, part, 0777) < 0 && errno != EEXIST && errno != EROFS && errno != EACCES) {
            int cause = errno;
            close(at);
            errno = cause;
            return -1;
        }
        int next = openat(at, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int cause = errno;
        close(at);
        errno = cause;
        at = next;
        path += length;
    }
}

/* chmod without following a link and without a right to open it: by way of a path descriptor. */
static void change_mode(int directory, const char *name, mode_t mode)
{
    char path[64];
    int fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat found;
    if (fd < 0)
        return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fstat(fd, &found) == 0 && !S_ISLNK(found.st_mode) && (found.st_mode & 07777) != mode && chmod(path, mode) < 0)
        say("%s: %s", name, strerror(errno));
    close(fd);
}

static bool dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Visit everything below `fd` (which it closes), a directory before what is in it. */
static void walk(int fd, visit *visitor, const void *extra, int depth)
{
    DIR *directory = fdopendir(fd);
    if (directory == NULL) {
        close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        struct stat found;
        if (dots(entry->d_name) || fstatat(fd, entry->d_name, &found, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        visitor(fd, entry->d_name, &found, extra);
        if (!S_ISDIR(found.st_mode))
            continue;
        int below = depth < DEEPEST ? openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (below >= 0)
            walk(below, visitor, extra, depth + 1);
        else
            say("%s: left as it is: %s", entry->d_name, depth < DEEPEST ? strerror(errno) : "too deep");
    }
    closedir(directory);
}

static void walk_path(const char *path, visit *visitor, const void *extra)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        say("%s: %s", path, strerror(errno));
    else
        walk(fd, visitor, extra, 0);
}

/* Set-id bits go: a file that others may write to must not lend them its owner. */
static void open_to_others(int directory, const char *name, const struct stat *found, const void *extra)
{
    const uid_t *us = extra;
    mode_t mode = (found->st_mode & 0777) | (S_ISDIR(found->st_mode) ? 0707 : 0606);
    if (found->st_uid == *us && (S_ISDIR(found->st_mode) || S_ISREG(found->st_mode)) && mode != (found->st_mode & 07777))
        change_mode(directory, name, mode);
}

void open_tree_to_others(const char *path)
{
    uid_t us = geteuid();
    struct stat found;
    if (lstat(path, &found) == 0) /* else we could not even list what its owner closed */
        open_to_others(AT_FDCWD, path, &found, &us);
    walk_path(path, open_to_others, &us);
}

struct owner {
    uid_t from, uid;
    gid_t gid;
};

static void give(int directory, const char *name, const struct stat *found, const void *extra)
{
    const struct owner *owner = extra;
    if (found->st_uid == owner->from && fchownat(directory, name, owner->uid, owner->gid, AT_SYMLINK_NOFOLLOW) < 0)
        say("%s: %s", name, strerror(errno));
}

void own_tree(const char *path, uid_t uid, gid_t gid)
{
    struct owner owner = {.from = geteuid(), .uid = uid, .gid = gid};
    if (lchown(path, uid, gid) < 0)
        say("%s: %s", path, strerror(errno));
    walk_path(path, give, &owner);
}

/* The sub-directories of `name` are moved up into `top`, for later: no recursion, so no depth is too much. */
static void raise_children(int top, const char *name, unsigned *number)
{
    char raised[NAME];
    int fd = openat(top, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (directory == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (dots(entry->d_name) || unlinkat(fd, entry->d_name, 0) == 0)
            continue;
        change_mode(fd, entry->d_name, 0700); /* moving a directory writes its `..` */
        do
            snprintf(raised, sizeof raised, ".tes-step.%u", (*number)++);
        while (renameat(fd, entry->d_name, top, raised) < 0 && (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR));
    }
    closedir(directory);
}

int empty_directory(int directory)
{
    unsigned number = 0;
    for (int pass = 0; pass < WIPE_PASSES; pass++) {
        int again = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *entries = again < 0 ? NULL : fdopendir(again);
        size_t left = 0, gone = 0;
        if (entries == NULL) {
            if (again >= 0)
                close(again);
            return -1;
        }
        for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
            if (dots(entry->d_name))
                continue;
            left++;
            if (unlinkat(directory, entry->d_name, 0) == 0) {
                gone++;
                continue;
            }
            change_mode(directory, entry->d_name, 0700);
            raise_children(directory, entry->d_name, &number);
            gone += unlinkat(directory, entry->d_name, AT_REMOVEDIR) == 0;
        }
        int cause = errno;
        closedir(entries);
        if (left == 0)
            return 0;
        if (gone == 0) {
            errno = cause;
            return -1;
        }
    }
    errno = EBUSY;
    return -1;
}

int remove_entry(int directory, const char *name)
{
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT)
        return 0;
    change_mode(directory, name, 0700);
    int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int done = empty_directory(fd);
    close(fd);
    return done < 0 ? -1 : unlinkat(directory, name, AT_REMOVEDIR);
}
