/*
 * The faulty stream follows the frames that pass, so that a fault can be placed within one of
 * them, and lets through as much as lies before the next fault.
 */
#include "transport/faulty_stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "transport/frame.h"

#define FAULTS_MAX 8

/* Where in the run of frames one direction stands. */
struct track {
    uint64_t frames; /* begun */
    uint64_t within; /* bytes since the start of the current frame */
    uint64_t length; /* of the current frame; 0 while its header is incomplete */
    uint8_t header[FRAME_HEADER_BYTES];
};

struct faulty_stream {
    struct stream stream;
    struct stream *inner; /* NULL after a cut */
    struct fault faults[FAULTS_MAX];
    unsigned count;
    struct track track[2];
    bool silent, truncated, struck;
};

static struct faulty_stream *of(struct stream *s)
{
    return (struct faulty_stream *)s;
}

/* Bytes of the current frame that can pass before something is learnt or due. */
static uint64_t stretch(const struct track *t)
{
    return (t->length ? t->length : FRAME_HEADER_BYTES) - t->within;
}

/* size bytes have passed; at most stretch() of them. */
static void advance(struct track *t, const uint8_t *data, uint64_t size)
{
    if (!size)
        return;
    if (!t->within)
        t->frames++;
    if (t->within < FRAME_HEADER_BYTES)
        memcpy(t->header + t->within, data, size);
    t->within += size;
    if (t->within == FRAME_HEADER_BYTES && !t->length) {
        struct reader r = reader_init(t->header + 8, 4);
        t->length = FRAME_HEADER_BYTES + reader_u32(&r);
    }
    if (t->length && t->within == t->length)
        t->within = t->length = 0;
}

/* The fault that is due now, or NULL; *room: bytes until the next one in this frame. */
static struct fault *due(struct faulty_stream *s, enum fault_direction direction, uint64_t *room)
{
    const struct track *t = &s->track[direction];
    uint64_t frame = t->within ? t->frames - 1 : t->frames;

    for (unsigned i = 0; i < s->count; i++) {
        struct fault *f = &s->faults[i];
        if (f->kind == FAULT_NONE || f->direction != direction || f->frame != frame ||
            f->bytes < t->within)
            continue;
        if (f->bytes == t->within)
            return f;
        if (f->bytes - t->within < *room)
            *room = f->bytes - t->within;
    }
    return NULL;
}

static void cut(struct faulty_stream *s)
{
    stream_close(s->inner);
    s->inner = NULL;
}

static void pass_time(uint64_t ns)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)},
        NULL);
}

/* Let the fault happen.  True: the byte at hand is to be corrupted. */
static bool strike(struct faulty_stream *s, struct fault *f)
{
    bool corrupt = f->kind == FAULT_CORRUPT;

    s->struck = true;
    if (f->kind == FAULT_CUT)
        cut(s);
    else if (f->kind == FAULT_TRUNCATE)
        s->truncated = true;
    else if (f->kind == FAULT_SILENCE)
        s->silent = true;
    else if (f->kind == FAULT_DELAY)
        pass_time(f->delay_ns);
    else if (f->kind == FAULT_CALL)
        f->call(f->opaque);
    f->kind = FAULT_NONE;
    return corrupt;
}

static ssize_t faulty_read(struct stream *stream, void *data, size_t size, int timeout_ms)
{
    struct faulty_stream *s = of(stream);
    struct track *t = &s->track[FAULT_READING];
    uint64_t room = stretch(t);
    bool corrupt = false;
    struct fault *f = due(s, FAULT_READING, &room);

    while (f) {
        corrupt |= strike(s, f);
        room = corrupt ? 1 : stretch(t);
        f = due(s, FAULT_READING, &room);
    }
    if (!s->inner)
        return -ECONNRESET;
    if (s->silent) {
        pass_time((uint64_t)(timeout_ms < 0 ? 1000 : timeout_ms) * 1000000);
        return -ETIMEDOUT;
    }
    ssize_t got =
        s->inner->ops->read(s->inner, data, size < room ? size : (size_t)room, timeout_ms);
    if (got > 0) {
        advance(t, data, (uint64_t)got);
        if (corrupt)
            *(uint8_t *)data ^= 0x10;
    }
    return got;
}

static ssize_t faulty_writev(struct stream *stream, const struct iovec *iov, int count,
                             int timeout_ms)
{
    struct faulty_stream *s = of(stream);
    struct track *t = &s->track[FAULT_WRITING];
    uint64_t room = stretch(t);
    bool corrupt = false;
    struct fault *f;

    while (count && !iov->iov_len) {
        iov++;
        count--;
    }
    if (!count)
        return 0;
    f = due(s, FAULT_WRITING, &room);
    while (f) {
        corrupt |= strike(s, f);
        room = corrupt ? 1 : stretch(t);
        f = due(s, FAULT_WRITING, &room);
    }
    if (!s->inner)
        return -EPIPE;
    uint8_t changed = *(const uint8_t *)iov->iov_base;
    struct iovec piece = {.iov_base = iov->iov_base,
                          .iov_len = iov->iov_len < room ? iov->iov_len : (size_t)room};
    if (corrupt) {
        changed ^= 0x10;
        piece.iov_base = &changed;
    }
    ssize_t put = (ssize_t)piece.iov_len;
    if (!s->silent && !s->truncated)
        put = s->inner->ops->writev(s->inner, &piece, 1, timeout_ms);
    if (put > 0)
        advance(t, iov->iov_base, (uint64_t)put);
    return put;
}

static int faulty_poll_fd(struct stream *stream)
{
    struct faulty_stream *s = of(stream);
    return s->inner && !s->silent ? s->inner->ops->poll_fd(s->inner) : -1;
}

static const char *faulty_peer(struct stream *stream)
{
    struct faulty_stream *s = of(stream);
    return s->inner ? s->inner->ops->peer(s->inner) : "faulty stream";
}

static void faulty_cancel(struct stream *stream)
{
    struct faulty_stream *s = of(stream);
    if (s->inner)
        s->inner->ops->cancel(s->inner);
}

static void faulty_close(struct stream *stream)
{
    cut(of(stream));
    free(stream);
}

static const struct stream_ops faulty_ops = {
    .read = faulty_read,
    .writev = faulty_writev,
    .poll_fd = faulty_poll_fd,
    .peer = faulty_peer,
    .cancel = faulty_cancel,
    .close = faulty_close,
};

int faulty_stream_create(struct stream *inner, const struct fault *faults, unsigned count,
                         struct stream **out, struct ferry_error *err)
{
    CLEANUP(stream_cleanup) struct stream *owned = inner;

    if (count > FAULTS_MAX)
        return ferry_fail(err, -EINVAL, NULL, "too many faults");
    struct faulty_stream *s = calloc(1, sizeof(*s));
    if (!s)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    s->stream.ops = &faulty_ops;
    s->inner = take_ptr(&owned);
    if (count)
        memcpy(s->faults, faults, count * sizeof(*faults));
    s->count = count;
    *out = &s->stream;
    return 0;
}

uint64_t faulty_stream_frames(const struct stream *s, enum fault_direction direction)
{
    return ((const struct faulty_stream *)s)->track[direction].frames;
}

bool faulty_stream_struck(const struct stream *s)
{
    return ((const struct faulty_stream *)s)->struck;
}
