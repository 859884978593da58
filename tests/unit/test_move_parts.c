/* Parts of the move that need no machine: pages in frames, messages, and when to stop. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "migrate/message.h"
#include "migrate/pages.h"
#include "migrate/precopy.h"

#define RAM_BYTES (8 * MIB)
#define PAGE      ((size_t)MEMORY_PAGE_BYTES)

struct link {
    struct memory *from, *to;
    struct stream *a, *b;
    struct channel *out, *in;
    struct page_batch *batch;
};

static int setup(void **state)
{
    struct link *l = calloc(1, sizeof(*l));
    int fds[2];

    assert_non_null(l);
    assert_int_equal(memory_create(RAM_BYTES, &l->from, NULL), 0);
    assert_int_equal(memory_create(RAM_BYTES, &l->to, NULL), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_int_equal(stream_from_fd(fds[0], "a", &l->a, NULL), 0);
    assert_int_equal(stream_from_fd(fds[1], "b", &l->b, NULL), 0);
    assert_int_equal(channel_create(l->a, 1000000000, &l->out, NULL), 0);
    assert_int_equal(channel_create(l->b, 1000000000, &l->in, NULL), 0);
    assert_int_equal(page_batch_create(l->out, l->from, 64 << 10, &l->batch, NULL), 0);
    *state = l;
    return 0;
}

static int teardown(void **state)
{
    struct link *l = *state;

    page_batch_destroy(l->batch);
    channel_destroy(l->out);
    channel_destroy(l->in);
    stream_close(l->a);
    stream_close(l->b);
    memory_destroy(l->from);
    memory_destroy(l->to);
    free(l);
    return 0;
}

/* Install whatever has been sent. */
static uint64_t drain(struct link *l)
{
    uint64_t bytes, sum = 0;
    struct frame f;

    while (channel_readable(l->in)) {
        assert_int_equal(channel_receive(l->in, 0, &f, NULL), 0);
        assert_int_equal(f.type, MESSAGE_PAGES);
        assert_int_equal(pages_install(l->to, &f, &bytes, NULL), 0);
        sum += bytes;
    }
    return sum;
}

static void test_pages_arrive_and_zero_ones_cost_nothing(void **state)
{
    struct link *l = *state;
    uint8_t *from = memory_base(l->from);
    const uint8_t *to = memory_base(l->to);
    struct page_counts counts = {0};

    for (size_t page = 0; page < 64; page++)
        if (page % 3)
            memset(from + page * PAGE, (int)page, PAGE);
    for (size_t page = 0; page < 64; page += 8) {
        assert_int_equal(page_batch_add(l->batch, page * PAGE, 8 * PAGE, true, &counts, NULL), 0);
        drain(l);
    }
    assert_int_equal(page_batch_flush(l->batch, NULL), 0);
    drain(l);
    assert_memory_equal(from, to, 64 * PAGE);
    assert_int_equal(counts.raw_bytes, 42 * PAGE);
    assert_int_equal(counts.zero_bytes, 22 * PAGE);

    /* A page that has become zero is told to the other side in a later round. */
    memset(from + 4 * PAGE, 0, PAGE);
    assert_int_equal(page_batch_add(l->batch, 4 * PAGE, 2 * PAGE, false, &counts, NULL), 0);
    assert_int_equal(page_batch_flush(l->batch, NULL), 0);
    assert_int_equal(drain(l), 2 * PAGE);
    assert_memory_equal(from, to, 64 * PAGE);
}

static void put_run(struct writer *w, uint64_t offset, uint32_t size, uint32_t kind)
{
    writer_u64(w, offset);
    writer_u32(w, size);
    writer_u32(w, kind);
}

static void test_malformed_pages_are_refused(void **state)
{
    static const struct {
        uint32_t codec, count;
        uint64_t offset, offset2;
        uint64_t size;
        uint32_t kind;
        size_t content;
    } bad[] = {
        {1, 1, 0, 0, PAGE, 0, PAGE},                  /* codec */
        {0, 0, 0, 0, PAGE, 0, PAGE},                  /* no run */
        {0, 3, 0, PAGE, PAGE, 0, PAGE},               /* fewer runs than said */
        {0, LIMIT_PAGE_RUNS + 1, 0, 0, PAGE, 0, 0},   /* too many */
        {0, UINT32_MAX, 0, 0, PAGE, 0, 0},            /* far too many */
        {0, 1, 1, 0, PAGE, 0, PAGE},                  /* not a page */
        {0, 1, 0, 0, PAGE + 1, 0, PAGE + 1},          /* nor this */
        {0, 1, 0, 0, 0, 0, 0},                        /* empty */
        {0, 1, 0, 0, PAGE, 2, PAGE},                  /* unknown kind */
        {0, 1, RAM_BYTES, 0, PAGE, 0, PAGE},          /* beyond RAM */
        {0, 1, RAM_BYTES - PAGE, 0, 2 * PAGE, 0, 0},  /* over its end */
        {0, 1, UINT64_MAX - PAGE + 1, 0, PAGE, 0, 0}, /* around the corner */
        {0, 1, 0, 0, PAGE, 0, PAGE - 1},              /* less content */
        {0, 1, 0, 0, PAGE, 0, PAGE + 1},              /* more content */
        {0, 1, 0, 0, PAGE, 1, PAGE},                  /* content of a zero run */
        {0, 2, PAGE, 0, PAGE, 1, 0},                  /* descending */
        {0, 2, PAGE, PAGE, PAGE, 1, 0},               /* twice */
        {0, 1, 0, 0, UINT32_MAX & ~(PAGE - 1), 1, 0}, /* more zeroes than RAM */
    };
    struct link *l = *state;
    uint64_t bytes;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CLEANUP(writer_free) struct writer w = writer_init(MIB);
        struct ferry_error err = {0};
        writer_u32(&w, bad[i].codec);
        writer_u32(&w, bad[i].count);
        put_run(&w, bad[i].offset, (uint32_t)bad[i].size, bad[i].kind);
        if (bad[i].count == 2)
            put_run(&w, bad[i].offset2, (uint32_t)bad[i].size, bad[i].kind);
        if (bad[i].content)
            memset(writer_grow(&w, bad[i].content), 0xaa, bad[i].content);
        const struct frame f = {MESSAGE_PAGES, w.data, (uint32_t)w.size};
        if (pages_install(l->to, &f, &bytes, &err) != -EBADMSG)
            fail_msg("case %zu was taken", i);
        assert_int_equal(err.kind, FERRY_REFUSED);
    }
    uint64_t start = 0, end;
    assert_int_equal(memory_next_data(l->to, &start, &end), 0); /* nothing got in */
}

/* Every message comes back as it went; one byte less or more is refused. */
#define ROUND_TRIP(encode, decode, type, value)                                \
    do {                                                                       \
        CLEANUP(writer_free) struct writer w_ = writer_init(MIB);              \
        type in_ = value, out_;                                                \
        memset(&out_, 0xee, sizeof(out_));                                     \
        encode(&w_, &in_);                                                     \
        assert_int_equal(w_.error, 0);                                         \
        struct frame f_ = {0, w_.data, (uint32_t)w_.size};                     \
        assert_int_equal(decode(&f_, &out_), 0);                               \
        CLEANUP(writer_free) struct writer again_ = writer_init(MIB);          \
        encode(&again_, &out_);                                                \
        assert_int_equal(again_.size, w_.size);                                \
        assert_memory_equal(again_.data, w_.data, w_.size);                    \
        writer_u8(&w_, 0);                                                     \
        for (f_.size = 0; f_.size <= w_.size; f_.size++) {                     \
            f_.data = w_.data;                                                 \
            assert_int_equal(decode(&f_, &out_) != 0, f_.size + 1 != w_.size); \
        }                                                                      \
    } while (0)

static void test_messages_round_trip_exactly(void **state)
{
    const struct move_id id = {{1, 2}, 77, {3, 4}};

    (void)state;
    ROUND_TRIP(accept_encode, accept_decode, struct accept,
               ((struct accept){.version = 1, .features = 5, .id = id}));
    ROUND_TRIP(round_encode, round_decode, struct round_end,
               ((struct round_end){.round = 3, .bytes = 1ull << 40}));
    ROUND_TRIP(state_encode, state_decode, struct state_end,
               ((struct state_end){.id = id, .sections = 9, .run = true}));
    ROUND_TRIP(ready_encode, ready_decode, struct ready,
               ((struct ready){.id = id, .digest = {7, 8}}));
    ROUND_TRIP(running_encode, running_decode, struct running,
               ((struct running){.id = id,
                                 .boot_id = {5},
                                 .entered_at_ns = 1,
                                 .entered_after_ns = 2,
                                 .sent_after_ns = 3}));
}

static void test_texts_are_bounded_and_harmless(void **state)
{
    CLEANUP(writer_free) struct writer w = writer_init(MIB);
    CLEANUP_FREE struct word *word = calloc(1, sizeof(*word));
    const struct move_id id = {.epoch = 1};
    struct frame f;

    (void)state;
    word_encode(&w, &id, "red \033[31m alert\177");
    f = (struct frame){0, w.data, (uint32_t)w.size};
    assert_int_equal(word_decode(&f, word), 0);
    assert_string_equal(word->text, "red ?[31m alert?");
    memset(writer_grow(&w, LIMIT_REASON_BYTES), 'x', LIMIT_REASON_BYTES);
    f = (struct frame){0, w.data, (uint32_t)w.size};
    assert_int_equal(word_decode(&f, word), -EBADMSG);
}

static void test_sections_are_bounded(void **state)
{
    char name[LIMIT_NAME_BYTES + 1];
    struct machine_section section;

    (void)state;
    const struct {
        uint16_t length;
        uint32_t size, real;
        const char *name;
        int error;
    } cases[] = {
        {4, 8, 8, "vcpu", 0},         {0, 8, 8, "", -EBADMSG},
        {64, 8, 8, "long", -EBADMSG}, {4, 9, 8, "vcpu", -EBADMSG},
        {4, 7, 8, "vcpu", -EBADMSG},  {4, LIMIT_SECTION_BYTES + 1, 8, "vcpu", -EBADMSG},
        {4, 8, 8, "vc\nu", -EBADMSG},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CLEANUP(writer_free) struct writer w = writer_init(MIB);
        writer_u16(&w, 1);
        writer_u16(&w, cases[i].length);
        writer_u32(&w, cases[i].size);
        writer_copy(&w, cases[i].name, strlen(cases[i].name));
        writer_grow(&w, cases[i].real);
        const struct frame f = {0, w.data, (uint32_t)w.size};
        assert_int_equal(section_decode(&f, &section, name), cases[i].error);
    }
}

/* ---- when to stop ---- */

#define MS 1000000ull

/* Rounds of a guest that dirties `dirty` bytes a second over a set of `set` bytes. */
static enum plan_verdict play(uint64_t wish_ns, uint64_t rate, uint64_t dirty, uint64_t set,
                              unsigned *rounds, uint64_t *rest)
{
    struct plan plan = plan_init(wish_ns, 30);
    enum plan_verdict verdict;

    *rest = GIB;
    *rounds = 0;
    do {
        double seconds = (double)*rest / (double)rate;
        *rest = (uint64_t)(seconds * (double)dirty);
        *rest = *rest > set ? set : *rest;
        verdict = plan_next(&plan, ++*rounds, *rest, rate, 2 * MS);
        assert_true(*rounds <= 30);
    } while (verdict == PLAN_GO_ON);
    return verdict;
}

static void test_rounds_stop_when_they_should(void **state)
{
    unsigned rounds;
    uint64_t rest;

    (void)state;
    assert_int_equal(play(100 * MS, GIB, 0, 0, &rounds, &rest), PLAN_FITS);
    assert_int_equal(rounds, 1);
    /* It converges, and goes on below the wish while that pays. */
    assert_int_equal(play(100 * MS, GIB, 170 * MIB, 256 * MIB, &rounds, &rest), PLAN_FITS);
    assert_true(rest < 2 * MIB);
    assert_true(rounds < 10);
    /* The guest is faster than the line, but its set is small enough for the wish. */
    assert_int_equal(play(100 * MS, GIB, 4 * GIB, 32 * MIB, &rounds, &rest), PLAN_FITS);
    assert_true(rounds < 12);
    /* It never fits: stop all the same, after few rounds. */
    assert_int_equal(play(10 * MS, GIB, 4 * GIB, 512 * MIB, &rounds, &rest), PLAN_NO_PROGRESS);
    assert_true(rounds < 10);
    /* Rounds are bounded. */
    struct plan plan = plan_init(10 * MS, 3);
    assert_int_equal(plan_next(&plan, 1, 900 * MIB, GIB, 0), PLAN_GO_ON);
    assert_int_equal(plan_next(&plan, 2, 600 * MIB, GIB, 0), PLAN_GO_ON);
    assert_int_equal(plan_next(&plan, 3, 400 * MIB, GIB, 0), PLAN_ROUNDS_UP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pages_arrive_and_zero_ones_cost_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_malformed_pages_are_refused, setup, teardown),
        cmocka_unit_test(test_messages_round_trip_exactly),
        cmocka_unit_test(test_texts_are_bounded_and_harmless),
        cmocka_unit_test(test_sections_are_bounded),
        cmocka_unit_test(test_rounds_stop_when_they_should),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
