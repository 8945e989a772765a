/* How the command does, as lines of JSON for whoever sees nothing of us but our container's log and its last words. Both streams are in them,
 * apart, which a log does not keep, and never more of them than the record has. What is no UTF-8 goes through as it is: readers mend it. */
#include "step.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    MESSAGE = 4096, /* bytes of a termination message that Kubernetes keeps */
    FACTS = 512,    /* of these for everything but the streams: more than is ever written */
    PIECE = 1024
};

/* A line on its way to a log, or kept here until it is whole. */
struct line {
    struct stream *log; /* or NULL */
    char kept[MESSAGE];
    size_t length; /* may be more than is kept: then it did not fit */
};

static void put(struct line *line, const char *bytes, size_t length)
{
    if (line->log != NULL)
        stream_tee(line->log, bytes, length);
    else if (line->length + length <= sizeof line->kept)
        memcpy(line->kept + line->length, bytes, length);
    line->length += length;
}

static void put_text(struct line *line, const char *text)
{
    put(line, text, strlen(text));
}

static void put_number(struct line *line, const char *name, uint64_t number)
{
    char text[64];
    snprintf(text, sizeof text, ",\"%s\":%" PRIu64, name, number);
    put_text(line, text);
}

static void put_escaped(struct line *line, const char *bytes, size_t length)
{
    char text[6 * PIECE + 1];
    size_t end = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        if (byte == '\n')
            end += (size_t)snprintf(text + end, sizeof text - end, "\\n");
        else if (byte < ' ')
            end += (size_t)snprintf(text + end, sizeof text - end, "\\u%04x", byte);
        else {
            if (byte == '"' || byte == '\\')
                text[end++] = '\\';
            text[end++] = bytes[i];
        }
    }
    put(line, text, end);
}

static void put_part(struct line *line, const char *name, const struct stream *stream, uint64_t from, uint64_t to)
{
    char piece[PIECE], text[32];
    snprintf(text, sizeof text, ",\"%s\":\"", name);
    put_text(line, text);
    while (from < to) {
        size_t got = stream_kept(stream, from, piece, to - from < PIECE ? (size_t)(to - from) : PIECE);
        if (got == 0)
            break; /* the command spoiled its own record */
        put_escaped(line, piece, got);
        from += got;
    }
    put_text(line, "\"");
}

/* `most` bytes of it, half of them from its head and half from its end; all where there are no more. */
static void put_stream(struct line *line, const char *name, const struct stream *stream, size_t most)
{
    uint64_t size = stream->count < 2 * stream->keep ? stream->count : 2 * stream->keep;
    if (size > most)
        size = most;
    uint64_t head = size < stream->count ? size / 2 : size;
    char text[32];
    snprintf(text, sizeof text, ",\"%s\":{", name);
    put_text(line, text);
    snprintf(text, sizeof text, "\"left_out\":%" PRIu64, stream->count - size);
    put_text(line, text);
    put_part(line, "head", stream, 0, head);
    put_part(line, "tail", stream, stream->count - (size - head), stream->count);
    put_text(line, "}");
}

static void put_all(struct line *line, int record, const struct stream *streams, const struct ending *ending, size_t most)
{
    static const char *const marks[] = {"failed", "cut", "late", "oom"};
    put_text(line, "{\"tes_step\":1");
    put_number(line, "start", ending->start_ns);
    if (ending->end_ns != 0) {
        put_number(line, "end", ending->end_ns);
        put_number(line, "code", (uint64_t)ending->code);
        put_number(line, "signal", (uint64_t)ending->signal);
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
            if (faccessat(record, marks[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
                put_text(line, ",\"");
                put_text(line, marks[i]);
                put_text(line, "\":true");
            }
    }
    put_stream(line, "stdout", &streams[0], most);
    put_stream(line, "stderr", &streams[1], most);
    put_text(line, "}");
}

void tell_log(struct stream *log, int record, const struct stream *streams, const struct ending *ending)
{
    struct line line = {.log = log};
    put_all(&line, record, streams, ending, SIZE_MAX);
    put_text(&line, "\n");
}

/* An escape takes up to six bytes: where half of the room for each stream is too much, half of that is tried, in the end nothing. */
int tell_end(const char *path, int record, const struct stream *streams, const struct ending *ending, bool *whole)
{
    struct line line = {.log = NULL};
    put_all(&line, record, streams, ending, SIZE_MAX);
    *whole = line.length <= sizeof line.kept;
    for (size_t most = (MESSAGE - FACTS) / 2; line.length > sizeof line.kept; most /= 2) {
        line.length = 0;
        put_all(&line, record, streams, ending, most);
    }
    int fd = open(path, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t done = write(fd, line.kept, line.length);
    if (close(fd) < 0 || done < 0)
        return -1;
    if ((size_t)done == line.length)
        return 0;
    errno = EIO;
    return -1;
}
