/*
 * Framing.  Small frames gather in a queue and leave in one write; a large one is hashed and
 * written from where its pieces lie.  Waits are cut into slices so that a cancel is seen soon, and
 * a limited rate is kept by sleeping off the debt after each write.
 */
#include "transport/frame.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <xxh_x86dispatch.h> /* the same functions, by what the CPU has: four times as fast */

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/limits.h"

#define SLICE_NS          (50 * UINT64_C(1000000)) /* a cancel is seen within this */
#define QUEUE_LIMIT_BYTES (8 * MIB)
#define RATE_BURST_NS     (20 * UINT64_C(1000000)) /* how far a limited rate may run ahead */

struct channel {
    struct stream *stream;
    uint64_t timeout_ns;
    const atomic_bool *cancelled;
    uint64_t rate;    /* bytes a second, 0: no limit */
    uint64_t free_at; /* when the limited line will have carried what was written */
    uint64_t sequence_out, sequence_in;
    uint64_t bytes_out, bytes_in;
    struct sha256 *digest_out, *digest_in;
    struct writer queue;
    struct writer payload; /* of the frame received last */
    bool broken;
};

int channel_create(struct stream *stream, uint64_t timeout_ns, struct channel **out,
                   struct ferry_error *err)
{
    struct channel *c = calloc(1, sizeof(*c));

    if (!c)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    c->stream = stream;
    c->timeout_ns = timeout_ns;
    c->queue = writer_init(QUEUE_LIMIT_BYTES);
    c->payload = writer_init(LIMIT_FRAME_BYTES);
    c->digest_out = sha256_new();
    c->digest_in = sha256_new();
    if (!c->digest_out || !c->digest_in) {
        channel_destroy(c);
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    *out = c;
    return 0;
}

void channel_destroy(struct channel *c)
{
    if (!c)
        return;
    sha256_free(c->digest_out);
    sha256_free(c->digest_in);
    writer_free(&c->queue);
    writer_free(&c->payload);
    free(c);
}

void channel_watch(struct channel *c, const atomic_bool *cancelled)
{
    c->cancelled = cancelled;
}

void channel_limit(struct channel *c, uint64_t bytes_per_s)
{
    c->rate = bytes_per_s;
}

uint64_t channel_bytes_sent(const struct channel *c)
{
    return c->bytes_out;
}

uint64_t channel_bytes_received(const struct channel *c)
{
    return c->bytes_in;
}

uint64_t channel_timeout_ns(const struct channel *c)
{
    return c->timeout_ns;
}

static int finish_digest(struct sha256 **sum, uint8_t out[SHA256_BYTES])
{
    if (!*sum)
        return -EINVAL;
    sha256_final(take_ptr(sum), out);
    return 0;
}

int channel_digest_sent(struct channel *c, uint8_t out[SHA256_BYTES])
{
    return finish_digest(&c->digest_out, out);
}

int channel_digest_received(struct channel *c, uint8_t out[SHA256_BYTES])
{
    return finish_digest(&c->digest_in, out);
}

static bool is_cancelled(const struct channel *c)
{
    return c->cancelled && atomic_load(c->cancelled);
}

/* The part of the wait until deadline_ns that one call of the stream may take. */
static int slice_ms(uint64_t deadline_ns)
{
    uint64_t now = monotonic_ns();
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

    return (int)(((left < SLICE_NS ? left : SLICE_NS) + 999999) / 1000000);
}

static int fail(struct channel *c, int error, const char *doing, struct ferry_error *err)
{
    const char *peer = c->stream->ops->peer(c->stream);

    c->broken = true;
    if (error == -ECANCELED)
        return ferry_fail(err, error, peer, "cancelled while %s", doing);
    if (error == -ETIMEDOUT)
        return ferry_fail(err, error, peer, "no sign of life for %llu ms while %s",
                          (unsigned long long)(c->timeout_ns / 1000000), doing);
    return ferry_fail_sys(err, error, peer, "the connection broke while %s", doing);
}

static int damaged(struct channel *c, const char *what, struct ferry_error *err)
{
    c->broken = true;
    return ferry_refuse(err, -EBADMSG, c->stream->ops->peer(c->stream), "the stream is damaged: %s",
                        what);
}

/* ---- sending ---- */

/* Sleep until the limited line has room again. */
static int keep_rate(struct channel *c, size_t just_sent)
{
    if (!c->rate)
        return 0;
    uint64_t now = monotonic_ns();
    if (c->free_at < now)
        c->free_at = now;
    c->free_at += (uint64_t)((double)just_sent * 1e9 / (double)c->rate);
    while ((now = monotonic_ns()) + RATE_BURST_NS < c->free_at) {
        if (is_cancelled(c))
            return -ECANCELED;
        uint64_t wait = c->free_at - now;
        if (wait > SLICE_NS)
            wait = SLICE_NS;
        nanosleep(&(struct timespec){.tv_nsec = (long)wait}, NULL);
    }
    return 0;
}

/* Shorten the pieces to what one write may carry under the rate limit. */
static int clip(const struct channel *c, struct iovec *iov, int count)
{
    if (!c->rate)
        return count;
    size_t left = c->rate / 50 < 4 * KIB ? 4 * KIB : c->rate / 50;
    for (int i = 0; i < count; i++) {
        if (iov[i].iov_len >= left) {
            iov[i].iov_len = left;
            return i + 1;
        }
        left -= iov[i].iov_len;
    }
    return count;
}

static int write_pieces(struct channel *c, struct iovec *iov, int count, struct ferry_error *err)
{
    uint64_t deadline = monotonic_ns() + c->timeout_ns;
    size_t moved = 0;

    while (count) {
        struct iovec now[FRAME_IOV_MAX + 2];
        memcpy(now, iov, (size_t)count * sizeof(*iov));
        ssize_t put =
            c->stream->ops->writev(c->stream, now, clip(c, now, count), slice_ms(deadline));
        if (is_cancelled(c))
            return fail(c, -ECANCELED, "sending", err);
        if (put == -ETIMEDOUT && monotonic_ns() < deadline)
            continue;
        if (put < 0)
            return fail(c, (int)put, "sending", err);
        int error = keep_rate(c, (size_t)put);
        if (error)
            return fail(c, error, "sending", err);
        c->bytes_out += (uint64_t)put;
        moved += (size_t)put;
        if (moved >= LIMIT_FRAME_STEP_BYTES || c->rate) {
            deadline = monotonic_ns() + c->timeout_ns;
            moved = 0;
        }
        size_t left = (size_t)put;
        while (count && left >= iov->iov_len) {
            left -= iov->iov_len;
            iov++;
            count--;
        }
        if (count) {
            iov->iov_base = (char *)iov->iov_base + left;
            iov->iov_len -= left;
        }
    }
    return 0;
}

static int payload_sum(const struct iovec *pieces, int count, uint64_t *sum)
{
    if (count == 1) {
        *sum = xxh3(pieces[0].iov_base, pieces[0].iov_len);
        return 0;
    }
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return -ENOMEM;
    XXH3_64bits_reset(state);
    for (int i = 0; i < count; i++)
        XXH3_64bits_update(state, pieces[i].iov_base, pieces[i].iov_len);
    *sum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return 0;
}

/* The header into w; counts the frame. */
static void put_header(struct channel *c, struct writer *w, uint16_t type, size_t size,
                       uint64_t sum)
{
    size_t start = w->size;

    writer_u32(w, FRAME_MAGIC);
    writer_u16(w, type);
    writer_u16(w, 0);
    writer_u32(w, (uint32_t)size);
    writer_u32(w, 0);
    writer_u64(w, c->sequence_out);
    writer_u64(w, sum);
    if (w->error)
        return;
    writer_u64(w, xxh3(w->data + start, w->size - start));
    if (w->error)
        return;
    c->sequence_out++;
    if (c->digest_out)
        sha256_update(c->digest_out, w->data + start, FRAME_HEADER_BYTES);
}

static int check_sendable(struct channel *c, size_t size, struct ferry_error *err)
{
    if (c->broken)
        return ferry_fail(err, -EPIPE, c->stream->ops->peer(c->stream),
                          "the connection is broken already");
    if (size > LIMIT_FRAME_BYTES)
        return ferry_fail(err, -EMSGSIZE, NULL, "a frame of %zu bytes is over the limit", size);
    return 0;
}

int channel_queue(struct channel *c, uint16_t type, const void *data, size_t size,
                  struct ferry_error *err)
{
    int error = check_sendable(c, size, err);

    if (error)
        return error;
    if (c->queue.size && c->queue.size + size + FRAME_HEADER_BYTES > QUEUE_LIMIT_BYTES / 2) {
        error = channel_flush(c, err);
        if (error)
            return error;
    }
    put_header(c, &c->queue, type, size, xxh3(data, size));
    writer_copy(&c->queue, data, size);
    if (c->queue.error)
        return ferry_fail_sys(err, fail(c, c->queue.error, "queueing", NULL), NULL,
                              "cannot queue a frame");
    return 0;
}

int channel_flush(struct channel *c, struct ferry_error *err)
{
    struct iovec iov = {.iov_base = c->queue.data, .iov_len = c->queue.size};
    int error = check_sendable(c, 0, err);

    if (!error && iov.iov_len)
        error = write_pieces(c, &iov, 1, err);
    writer_reset(&c->queue);
    return error;
}

int channel_send(struct channel *c, uint16_t type, const struct iovec *pieces, int count,
                 struct ferry_error *err)
{
    struct iovec iov[FRAME_IOV_MAX + 1];
    uint64_t sum;
    size_t size = 0;

    if (count < 1 || count > FRAME_IOV_MAX)
        return ferry_fail(err, -EINVAL, NULL, "a frame of %d pieces", count);
    for (int i = 0; i < count; i++)
        size += pieces[i].iov_len;
    int error = check_sendable(c, size, err);
    if (error)
        return error;
    error = payload_sum(pieces, count, &sum);
    if (error)
        return ferry_fail(err, error, NULL, "out of memory");
    put_header(c, &c->queue, type, size, sum);
    if (c->queue.error)
        return ferry_fail_sys(err, fail(c, c->queue.error, "sending", NULL), NULL,
                              "cannot send a frame");
    /* The header leaves with whatever was queued before it. */
    iov[0] = (struct iovec){.iov_base = c->queue.data, .iov_len = c->queue.size};
    memcpy(iov + 1, pieces, (size_t)count * sizeof(*pieces));
    error = write_pieces(c, iov, count + 1, err);
    writer_reset(&c->queue);
    return error;
}

/* ---- receiving ---- */

/* Exactly size bytes within one timeout.  *none: the stream ended before the first of them. */
static int read_step(struct channel *c, uint8_t *data, size_t size, uint64_t timeout_ns, bool *none,
                     struct ferry_error *err)
{
    uint64_t deadline = monotonic_ns() + timeout_ns;
    size_t have = 0;

    while (have < size) {
        ssize_t got = c->stream->ops->read(c->stream, data + have, size - have, slice_ms(deadline));
        if (is_cancelled(c))
            return fail(c, -ECANCELED, "waiting", err);
        if (got == -ETIMEDOUT && monotonic_ns() < deadline)
            continue;
        if (got < 0)
            return fail(c, (int)got, "waiting", err);
        if (!got) {
            *none = !have;
            c->broken = true;
            return ferry_fail(err, -ENODATA, c->stream->ops->peer(c->stream),
                              "the other side closed the connection");
        }
        have += (size_t)got;
        c->bytes_in += (uint64_t)got;
    }
    return 0;
}

static int read_payload(struct channel *c, size_t size, struct ferry_error *err)
{
    bool none;

    writer_reset(&c->payload);
    while (c->payload.size < size) {
        /* Memory grows with what has arrived, never with what was announced. */
        size_t step = size - c->payload.size;
        if (step > LIMIT_FRAME_STEP_BYTES)
            step = LIMIT_FRAME_STEP_BYTES;
        if (writer_reserve(&c->payload, step))
            return ferry_fail(err, fail(c, -ENOMEM, "receiving", NULL), NULL, "out of memory");
        int error =
            read_step(c, c->payload.data + c->payload.size, step, c->timeout_ns, &none, err);
        if (error == -ENODATA)
            return damaged(c, "it ends in the middle of a frame", err);
        if (error)
            return error;
        c->payload.size += step;
    }
    return 0;
}

int channel_receive(struct channel *c, uint64_t timeout_ns, struct frame *frame,
                    struct ferry_error *err)
{
    uint8_t bytes[FRAME_HEADER_BYTES];
    bool none = false;

    if (c->broken)
        return ferry_fail(err, -EPIPE, c->stream->ops->peer(c->stream),
                          "the connection is broken already");
    int error =
        read_step(c, bytes, sizeof(bytes), timeout_ns ? timeout_ns : c->timeout_ns, &none, err);
    if (error == -ENODATA && !none)
        return damaged(c, "it ends in the middle of a frame", err);
    if (error)
        return error;
    struct reader r = reader_init(bytes, sizeof(bytes));
    uint32_t magic = reader_u32(&r);
    uint16_t type = reader_u16(&r), flags = reader_u16(&r);
    uint32_t size = reader_u32(&r), zero = reader_u32(&r);
    uint64_t sequence = reader_u64(&r), payload = reader_u64(&r), header = reader_u64(&r);
    if (magic != FRAME_MAGIC)
        return damaged(c, "this is not ferry's protocol", err);
    if (header != xxh3(bytes, FRAME_HEADER_BYTES - 8))
        return damaged(c, "the sum of a frame's header is wrong", err);
    if (flags || zero)
        return damaged(c, "a frame has unknown flags", err);
    if (size > LIMIT_FRAME_BYTES)
        return damaged(c, "a frame is over the limit", err);
    if (sequence != c->sequence_in)
        return damaged(c, "a frame was lost, repeated or moved", err);
    error = read_payload(c, size, err);
    if (error)
        return error;
    if (payload != xxh3(c->payload.data, size))
        return damaged(c, "the sum of a frame's content is wrong", err);
    c->sequence_in++;
    if (c->digest_in)
        sha256_update(c->digest_in, bytes, sizeof(bytes));
    *frame = (struct frame){.type = type, .data = c->payload.data, .size = size};
    return 0;
}

bool channel_readable(struct channel *c)
{
    struct pollfd ready = {.fd = c->stream->ops->poll_fd(c->stream), .events = POLLIN};

    return ready.fd >= 0 && poll(&ready, 1, 0) > 0;
}
