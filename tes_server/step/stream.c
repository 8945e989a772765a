/* One output of the command: from its pipe to the record's ring, a redirection and our own stdout or stderr. */
#include "step.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    CHUNK = 65536,       /* a pipe's usual capacity */
    TEE_CHUNK = 4096,    /* a pipe that polls writable takes so much without blocking */
    TEE_PATIENCE = 5000, /* ms: a reader that takes nothing for so long is given up */
};

static void put_at(int fd, const char *bytes, size_t length, uint64_t offset)
{
    while (length > 0) {
        ssize_t done = pwrite(fd, bytes, length, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return; /* a full disk costs the log, not the command */
        bytes += done;
        length -= (size_t)done;
        offset += (uint64_t)done;
    }
}

/* Byte number k is in the head at 8 + k where k < keep, else in the ring at 8 + keep + (k - keep) % keep. The count goes last, so that
 * a reader never believes in bytes that are not there. */
static void put_ring(struct stream *stream, const char *bytes, size_t length)
{
    uint64_t keep = stream->keep, end = stream->count + length, at = stream->count;
    unsigned char count[8];
    if (keep > 0 && at < keep) {
        size_t part = length < keep - at ? length : (size_t)(keep - at);
        put_at(stream->ring, bytes, part, 8 + at);
        bytes += part;
        at += part;
    }
    if (keep > 0 && end - at > keep) { /* only the last `keep` bytes will be left */
        bytes += end - at - keep;
        at = end - keep;
    }
    while (keep > 0 && at < end) {
        uint64_t place = (at - keep) % keep;
        size_t part = end - at < keep - place ? (size_t)(end - at) : (size_t)(keep - place);
        put_at(stream->ring, bytes, part, 8 + keep + place);
        bytes += part;
        at += part;
    }
    for (int i = 0; i < 8; i++)
        count[i] = (unsigned char)(end >> (8 * i));
    put_at(stream->ring, (const char *)count, sizeof count, 0);
}

static void put_file(struct stream *stream, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t done = write(stream->file, bytes, length);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0) {
            stream->error = errno;
            return;
        }
        bytes += done;
        length -= (size_t)done;
    }
}

void stream_tee(struct stream *stream, const char *bytes, size_t length)
{
    while (length > 0 && stream->tee >= 0) {
        struct pollfd ready = {.fd = stream->tee, .events = POLLOUT};
        int found = poll(&ready, 1, stream->patient ? -1 : TEE_PATIENCE);
        if (found < 0 && errno == EINTR)
            continue;
        ssize_t done = found <= 0 ? -1 : write(stream->tee, bytes, length < TEE_CHUNK ? length : TEE_CHUNK);
        if (done < 0 && found > 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (done < 0) {
            stream->tee = -1;
            return;
        }
        bytes += done;
        length -= (size_t)done;
    }
}

void stream_put(struct stream *stream, const char *bytes, size_t length)
{
    if (stream->ring >= 0)
        put_ring(stream, bytes, length);
    stream->count += length;
    if (stream->file >= 0 && stream->error == 0)
        put_file(stream, bytes, length);
    if (stream->tee >= 0)
        stream_tee(stream, bytes, length);
}

/* From byte number `from` on, as far as the ring has them in one piece. */
size_t stream_kept(const struct stream *stream, uint64_t from, char *bytes, size_t length)
{
    uint64_t keep = stream->keep, at = from < keep ? from : keep + (from - keep) % keep, end = from < keep ? keep : 2 * keep;
    if (length > end - at)
        length = (size_t)(end - at);
    ssize_t done = pread(stream->ring, bytes, length, (off_t)(8 + at));
    return done < 0 ? 0 : (size_t)done;
}

void stream_say(struct stream *stream, const char *subject, const char *what)
{
    char line[4096 + 128];
    int length = snprintf(line, sizeof line, "tes-step: %.4096s: %.96s\n", subject, what);
    stream_put(stream, line, (size_t)length);
}

bool stream_pump(struct stream *stream, size_t limit)
{
    static char chunk[CHUNK];
    ssize_t length = read(stream->source, chunk, limit < CHUNK ? limit : CHUNK);
    if (length < 0)
        return errno == EINTR || errno == EAGAIN;
    if (length > 0)
        stream_put(stream, chunk, (size_t)length);
    return length > 0;
}
