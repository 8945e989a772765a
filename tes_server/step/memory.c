/* The memory of a sandbox as a whole, where no cgroup holds it: summed now and then, and the largest process killed when it is too much,
 * as the kernel would. Runs in the first process of the sandbox, whose /proc shows the command's processes and no others. */
#include "step.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tally {
    uint64_t sum, largest; /* bytes */
    pid_t pid;             /* of the largest, 0: none */
};

static bool read_text(int process, const char *name, char *text, size_t size)
{
    int fd = openat(process, name, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    if (length > 0)
        text[length] = 0;
    return length > 0;
}

/* Resident memory: cheap, but what processes share is counted once for each of them. */
static uint64_t resident(int process)
{
    char text[128];
    uint64_t pages = 0;
    if (read_text(process, "statm", text, sizeof text))
        (void)sscanf(text, "%*u %" SCNu64, &pages);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Its fair share of what is shared: the kernel walks all of its memory for that. Without leave to look, all that is resident. */
static uint64_t proportional(int process)
{
    char text[1024], *line;
    uint64_t kilobytes;
    if (read_text(process, "smaps_rollup", text, sizeof text) && (line = strstr(text, "\nPss:")) != NULL &&
        sscanf(line, "\nPss: %" SCNu64, &kilobytes) == 1)
        return kilobytes * 1024;
    return resident(process);
}

static struct tally count(int proc, uint64_t (*weigh)(int process))
{
    struct tally tally = {0, 0, 0};
    int again = openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = again < 0 ? NULL : fdopendir(again);
    if (entries == NULL) {
        if (again >= 0)
            close(again);
        return tally;
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        int process = pid > 1 ? openat(proc, entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
        if (process < 0)
            continue;
        uint64_t bytes = weigh(process);
        close(process);
        tally.sum += bytes;
        if (bytes >= tally.largest) {
            tally.largest = bytes;
            tally.pid = pid;
        }
    }
    closedir(entries);
    return tally;
}

bool hold_memory(int proc, uint64_t limit)
{
    if (count(proc, resident).sum <= limit)
        return false;
    struct tally tally = count(proc, proportional);
    return tally.sum > limit && tally.pid > 0 && kill(tally.pid, SIGKILL) == 0;
}
