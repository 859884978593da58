/* Frames: what arrives is what was sent, and whatever is not exactly that is refused unseen. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/limits.h"
#include "transport/faulty_stream.h"
#include "transport/frame.h"

#define TIMEOUT_NS (100 * UINT64_C(1000000))

struct pair {
    struct stream *a, *b;
    struct channel *from, *to;
    int raw; /* of a, for writing bytes by hand */
};

/* faults strike what a writes. */
static void setup(struct pair *p, const struct fault *faults, unsigned count)
{
    int fds[2];
    struct stream *inner;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(stream_from_fd(fds[0], "a", &inner, NULL), 0);
    p->raw = fds[0];
    assert_int_equal(faulty_stream_create(inner, faults, count, &p->a, NULL), 0);
    assert_int_equal(stream_from_fd(fds[1], "b", &p->b, NULL), 0);
    assert_int_equal(channel_create(p->a, TIMEOUT_NS, &p->from, NULL), 0);
    assert_int_equal(channel_create(p->b, TIMEOUT_NS, &p->to, NULL), 0);
}

static void teardown(struct pair *p)
{
    channel_destroy(p->from);
    channel_destroy(p->to);
    stream_close(p->a);
    stream_close(p->b);
}

static void test_frames_arrive_in_order_and_whole(void **state)
{
    struct pair p;
    struct frame f;
    uint8_t data[3000], sent[SHA256_BYTES], received[SHA256_BYTES];
    const struct iovec pieces[2] = {{data, 1000}, {data + 1000, 2000}};

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    setup(&p, NULL, 0);
    assert_int_equal(channel_queue(p.from, 1, "one", 3, NULL), 0);
    assert_int_equal(channel_queue(p.from, 2, NULL, 0, NULL), 0);
    assert_int_equal(channel_send(p.from, 3, pieces, 2, NULL), 0);
    assert_int_equal(channel_receive(p.to, 0, &f, NULL), 0);
    assert_int_equal(f.type, 1);
    assert_int_equal(f.size, 3);
    assert_memory_equal(f.data, "one", 3);
    assert_int_equal(channel_receive(p.to, 0, &f, NULL), 0);
    assert_int_equal(f.type, 2);
    assert_int_equal(f.size, 0);
    assert_int_equal(channel_receive(p.to, 0, &f, NULL), 0);
    assert_int_equal(f.type, 3);
    assert_int_equal(f.size, sizeof(data));
    assert_memory_equal(f.data, data, sizeof(data));
    assert_int_equal(channel_bytes_sent(p.from), channel_bytes_received(p.to));
    assert_int_equal(channel_bytes_sent(p.from), 3 * FRAME_HEADER_BYTES + 3 + sizeof(data));
    assert_int_equal(channel_digest_sent(p.from, sent), 0);
    assert_int_equal(channel_digest_received(p.to, received), 0);
    assert_memory_equal(sent, received, sizeof(sent));
    assert_true(channel_digest_sent(p.from, sent) < 0); /* once */
    teardown(&p);
}

/* Any changed bit of a frame is found, and nothing of the frame is handed out. */
static void test_every_corrupted_byte_is_refused(void **state)
{
    static const char text[] = "what the other side says";

    (void)state;
    for (uint64_t at = 0; at < FRAME_HEADER_BYTES + sizeof(text); at++) {
        const struct fault fault = {FAULT_CORRUPT, FAULT_WRITING, .frame = 1, .bytes = at};
        struct ferry_error err = {0};
        struct pair p;
        struct frame f;

        setup(&p, &fault, 1);
        assert_int_equal(channel_queue(p.from, 1, "fine", 4, NULL), 0);
        assert_int_equal(channel_queue(p.from, 7, text, sizeof(text), NULL), 0);
        assert_int_equal(channel_queue(p.from, 1, "fine", 4, NULL), 0);
        assert_int_equal(channel_flush(p.from, NULL), 0);
        assert_true(faulty_stream_struck(p.a));
        assert_int_equal(channel_receive(p.to, 0, &f, NULL), 0);
        f.type = 0;
        assert_int_equal(channel_receive(p.to, 0, &f, &err), -EBADMSG);
        assert_int_equal(err.kind, FERRY_REFUSED);
        assert_int_equal(f.type, 0);
        assert_int_equal(channel_receive(p.to, 0, &f, NULL), -EPIPE); /* and it stays so */
        teardown(&p);
    }
}

static void test_truncation_is_told_from_the_end(void **state)
{
    (void)state;
    for (uint64_t at = 0; at < FRAME_HEADER_BYTES + 4; at++) {
        const struct fault fault = {FAULT_CUT, FAULT_WRITING, .frame = 0, .bytes = at};
        struct pair p;
        struct frame f;

        setup(&p, &fault, 1);
        assert_int_equal(channel_queue(p.from, 1, "four", 4, NULL), 0);
        assert_true(channel_flush(p.from, NULL) < 0);
        assert_int_equal(channel_receive(p.to, 0, &f, NULL), at ? -EBADMSG : -ENODATA);
        teardown(&p);
    }
}

/* A header of our making, with right sums. */
static void put_raw(int fd, uint32_t magic, uint16_t flags, uint32_t size, uint32_t zero,
                    uint64_t sequence)
{
    struct writer w = writer_init(64);

    writer_u32(&w, magic);
    writer_u16(&w, 1);
    writer_u16(&w, flags);
    writer_u32(&w, size);
    writer_u32(&w, zero);
    writer_u64(&w, sequence);
    writer_u64(&w, xxh3("", 0));
    writer_u64(&w, xxh3(w.data, 32));
    assert_int_equal(send(fd, w.data, w.size, 0), w.size);
    writer_free(&w);
}

static void test_well_summed_nonsense_is_refused(void **state)
{
    static const struct {
        uint32_t magic;
        uint16_t flags;
        uint32_t size, zero;
        uint64_t sequence;
    } bad[] = {
        {FRAME_MAGIC + 1, 0, 0, 0, 0},
        {FRAME_MAGIC, 1, 0, 0, 0},
        {FRAME_MAGIC, 0, LIMIT_FRAME_BYTES + 1, 0, 0},
        {FRAME_MAGIC, 0, UINT32_MAX, 0, 0},
        {FRAME_MAGIC, 0, 0, 1, 0},
        {FRAME_MAGIC, 0, 0, 0, 1},
        {FRAME_MAGIC, 0, 0, 0, UINT64_MAX},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct pair p;
        struct frame f;
        setup(&p, NULL, 0);
        put_raw(p.raw, bad[i].magic, bad[i].flags, bad[i].size, bad[i].zero, bad[i].sequence);
        assert_int_equal(channel_receive(p.to, 0, &f, NULL), -EBADMSG);
        teardown(&p);
    }
}

static void test_repeated_frame_is_refused(void **state)
{
    struct pair p;
    struct frame f;

    (void)state;
    setup(&p, NULL, 0);
    put_raw(p.raw, FRAME_MAGIC, 0, 0, 0, 0);
    put_raw(p.raw, FRAME_MAGIC, 0, 0, 0, 0);
    assert_int_equal(channel_receive(p.to, 0, &f, NULL), 0);
    assert_int_equal(channel_receive(p.to, 0, &f, NULL), -EBADMSG);
    teardown(&p);
}

/* An announced length costs no memory and the wait for it ends. */
static void test_announced_but_never_sent(void **state)
{
    struct pair p;
    struct frame f;

    (void)state;
    setup(&p, NULL, 0);
    put_raw(p.raw, FRAME_MAGIC, 0, LIMIT_FRAME_BYTES, 0, 0);
    assert_int_equal(channel_receive(p.to, 0, &f, NULL), -ETIMEDOUT);
    teardown(&p);
}

static void test_silence_times_out(void **state)
{
    const struct fault fault = {FAULT_SILENCE, FAULT_WRITING, .frame = 0, .bytes = 0};
    struct ferry_error err = {0};
    struct pair p;
    struct frame f;

    (void)state;
    setup(&p, &fault, 1);
    assert_int_equal(channel_queue(p.from, 1, "four", 4, NULL), 0);
    assert_int_equal(channel_flush(p.from, NULL), 0); /* it thinks so */
    assert_int_equal(channel_receive(p.to, 0, &f, &err), -ETIMEDOUT);
    assert_non_null(strstr(err.message, "no sign of life"));
    teardown(&p);
}

static void test_peer_that_takes_nothing_times_out(void **state)
{
    CLEANUP_FREE uint8_t *data = calloc(1, LIMIT_FRAME_BYTES);
    const struct iovec piece = {data, LIMIT_FRAME_BYTES};
    struct pair p;
    int error = 0;

    (void)state;
    setup(&p, NULL, 0);
    for (int i = 0; i < 10 && !error; i++)
        error = channel_send(p.from, 1, &piece, 1, NULL);
    assert_int_equal(error, -ETIMEDOUT);
    teardown(&p);
}

static void test_cancel_ends_a_wait(void **state)
{
    atomic_bool cancelled = true;
    struct pair p;
    struct frame f;

    (void)state;
    setup(&p, NULL, 0);
    channel_watch(p.to, &cancelled);
    assert_int_equal(channel_receive(p.to, UINT64_C(3600) * 1000000000, &f, NULL), -ECANCELED);
    teardown(&p);
}

static void *cancel_stream(void *stream)
{
    struct stream *s = stream;
    s->ops->cancel(s);
    return NULL;
}

static void test_stream_is_cancelled_from_another_thread(void **state)
{
    struct pair p;
    pthread_t thread;
    uint8_t byte;

    (void)state;
    setup(&p, NULL, 0);
    assert_int_equal(pthread_create(&thread, NULL, cancel_stream, p.b), 0);
    assert_int_equal(p.b->ops->read(p.b, &byte, 1, -1), -ECANCELED);
    pthread_join(thread, NULL);
    teardown(&p);
}

/* The limit is kept on the whole; the test does not mind a slow machine. */
static void test_rate_limit_is_kept(void **state)
{
    uint8_t data[64 << 10] = {0};
    const struct iovec piece = {data, sizeof(data)};
    struct pair p;
    struct frame f;

    (void)state;
    setup(&p, NULL, 0);
    channel_limit(p.from, 1 << 20);
    uint64_t began = monotonic_ns();
    for (int i = 0; i < 3; i++) {
        assert_int_equal(channel_send(p.from, 1, &piece, 1, NULL), 0);
        assert_int_equal(channel_receive(p.to, 0, &f, NULL), 0);
    }
    /* 192 KiB at 1 MiB/s are 187 ms, less the burst. */
    assert_true(monotonic_ns() - began > 150 * UINT64_C(1000000));
    teardown(&p);
}

static void test_over_long_frame_is_not_sent(void **state)
{
    uint8_t byte = 0;
    const struct iovec piece = {&byte, LIMIT_FRAME_BYTES + 1}; /* is not even looked at */
    struct pair p;

    (void)state;
    setup(&p, NULL, 0);
    assert_int_equal(channel_send(p.from, 1, &piece, 1, NULL), -EMSGSIZE);
    teardown(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_arrive_in_order_and_whole),
        cmocka_unit_test(test_every_corrupted_byte_is_refused),
        cmocka_unit_test(test_truncation_is_told_from_the_end),
        cmocka_unit_test(test_well_summed_nonsense_is_refused),
        cmocka_unit_test(test_repeated_frame_is_refused),
        cmocka_unit_test(test_announced_but_never_sent),
        cmocka_unit_test(test_silence_times_out),
        cmocka_unit_test(test_peer_that_takes_nothing_times_out),
        cmocka_unit_test(test_cancel_ends_a_wait),
        cmocka_unit_test(test_stream_is_cancelled_from_another_thread),
        cmocka_unit_test(test_rate_limit_is_kept),
        cmocka_unit_test(test_over_long_frame_is_not_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
