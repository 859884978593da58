/*
 * The overlay over a store in memory that records what is written: what a guest reads, and what it
 * would read after a crash at any point, with any of the writes since the last sync lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "snapshot/overlay.h"
#include "tests/support/image_sample.h"

#define SECTOR      UINT64_C(512)
#define DISK_BYTES  (5 * OVERLAY_BLOCK_BYTES + 3 * SECTOR) /* the last block is a short one */
#define STORE_BYTES (16 * OVERLAY_BLOCK_BYTES)
#define EVENTS      4096

enum event_kind { WRITE, ZERO, SYNC, FLUSHED };

struct event {
    enum event_kind kind;
    uint64_t offset;
    size_t size;
    uint8_t *data;
};

struct memory_store {
    struct overlay_store store;
    uint8_t *bytes;
    struct event events[EVENTS];
    unsigned count;
    int fail_sync;
};

static struct event *record(struct memory_store *m, enum event_kind kind)
{
    assert_true(m->count < EVENTS);
    m->events[m->count] = (struct event){.kind = kind};
    return &m->events[m->count++];
}

static int memory_read(struct overlay_store *store, void *data, size_t size, uint64_t offset)
{
    const struct memory_store *m = (struct memory_store *)store;

    assert_true(offset + size <= STORE_BYTES);
    memcpy(data, m->bytes + offset, size);
    return 0;
}

static int memory_write(struct overlay_store *store, const void *data, size_t size, uint64_t offset)
{
    struct memory_store *m = (struct memory_store *)store;
    struct event *event = record(m, WRITE);

    assert_true(offset + size <= STORE_BYTES);
    event->offset = offset;
    event->size = size;
    event->data = malloc(size);
    assert_non_null(event->data);
    memcpy(event->data, data, size);
    memcpy(m->bytes + offset, data, size);
    return 0;
}

static int memory_zero(struct overlay_store *store, uint64_t offset, uint64_t size)
{
    struct memory_store *m = (struct memory_store *)store;
    struct event *event = record(m, ZERO);

    event->offset = offset;
    event->size = size;
    memset(m->bytes + offset, 0, size);
    return 0;
}

static int memory_sync(struct overlay_store *store)
{
    struct memory_store *m = (struct memory_store *)store;

    record(m, SYNC);
    return m->fail_sync;
}

static struct memory_store *store_new(void)
{
    struct memory_store *m = calloc(1, sizeof(*m));

    assert_non_null(m);
    m->store = (struct overlay_store){memory_read, memory_write, memory_zero, memory_sync};
    m->bytes = calloc(1, STORE_BYTES);
    assert_non_null(m->bytes);
    return m;
}

static void store_free(struct memory_store *m)
{
    for (unsigned i = 0; i < m->count; i++)
        free(m->events[i].data);
    free(m->bytes);
    free(m);
}

static uint8_t base_content[DISK_BYTES];

static int base_read(void *opaque, void *data, size_t size, uint64_t offset)
{
    (void)opaque;
    assert_true(offset + size <= DISK_BYTES);
    memcpy(data, base_content + offset, size);
    return 0;
}

static struct overlay_base base_new(void)
{
    struct overlay_base base = {.read = base_read, .size_bytes = DISK_BYTES};
    uint64_t seed = 7;

    for (size_t i = 0; i < DISK_BYTES; i++)
        base_content[i] = (uint8_t)sample_random(&seed);
    memset(base.digest, 0xd1, sizeof(base.digest));
    return base;
}

static struct overlay *open_new(struct memory_store *m, const struct overlay_base *base)
{
    struct overlay *overlay;
    struct ferry_error err;

    assert_int_equal(overlay_format(&m->store, base), 0);
    assert_int_equal(overlay_open(&m->store, base, "test", &overlay, &err), 0);
    return overlay;
}

static void expect_content(struct overlay *overlay, const uint8_t *want)
{
    uint8_t *got = malloc(DISK_BYTES);

    assert_non_null(got);
    assert_int_equal(overlay_read(overlay, got, DISK_BYTES, 0), 0);
    assert_memory_equal(got, want, DISK_BYTES);
    free(got);
}

/* One change of a guest, to the overlay and to the model. */
static void change(struct overlay *overlay, uint8_t *model, uint64_t *seed)
{
    uint64_t sectors = DISK_BYTES / 512, first = sample_random(seed) % sectors;
    uint64_t most = sample_random(seed) % 4 ? 16 : 300, left = sectors - first;
    uint64_t count = 1 + sample_random(seed) % (left < most ? left : most);
    uint64_t offset = first * 512;
    size_t size = (size_t)count * 512;

    if (sample_random(seed) % 4 == 0) {
        memset(model + offset, 0, size);
        assert_int_equal(overlay_zero(overlay, offset, size), 0);
        return;
    }
    memset(model + offset, (int)(1 + sample_random(seed) % 255), size);
    assert_int_equal(overlay_write(overlay, model + offset, size, offset), 0);
}

static void test_content_and_again(void **state)
{
    (void)state;
    struct overlay_base base = base_new();
    struct memory_store *m = store_new();
    struct overlay *overlay = open_new(m, &base);
    struct ferry_error err;
    uint8_t *model = malloc(DISK_BYTES);
    uint64_t seed = 1;

    assert_non_null(model);
    memcpy(model, base_content, DISK_BYTES);
    expect_content(overlay, model);
    for (int i = 0; i < 60; i++) {
        change(overlay, model, &seed);
        expect_content(overlay, model);
    }
    assert_int_equal(overlay_flush(overlay), 0);
    overlay_close(overlay);
    assert_int_equal(overlay_open(&m->store, &base, "test", &overlay, &err), 0);
    expect_content(overlay, model);
    overlay_close(overlay);
    store_free(m);
    free(model);
}

static void test_runs(void **state)
{
    (void)state;
    struct overlay_base base = base_new();
    struct memory_store *m = store_new();
    struct overlay *overlay = open_new(m, &base);
    uint64_t start = 0, end = 0;

    assert_false(overlay_next(overlay, &start, &end));
    assert_int_equal(overlay_write(overlay, "x", 1, 2 * OVERLAY_BLOCK_BYTES + 5), 0);
    assert_int_equal(overlay_zero(overlay, DISK_BYTES - 512, 512), 0);
    assert_true(overlay_next(overlay, &start, &end));
    assert_int_equal(start, 2 * OVERLAY_BLOCK_BYTES);
    assert_int_equal(end, 3 * OVERLAY_BLOCK_BYTES);
    start = 2 * OVERLAY_BLOCK_BYTES + 100;
    assert_true(overlay_next(overlay, &start, &end));
    assert_int_equal(start, 2 * OVERLAY_BLOCK_BYTES + 100);
    start = end;
    assert_true(overlay_next(overlay, &start, &end));
    assert_int_equal(start, 5 * OVERLAY_BLOCK_BYTES);
    assert_int_equal(end, DISK_BYTES);
    start = end;
    assert_false(overlay_next(overlay, &start, &end));
    overlay_close(overlay);
    store_free(m);
}

static void apply(uint8_t *bytes, const struct event *event, size_t size)
{
    if (event->kind == WRITE)
        memcpy(bytes + event->offset, event->data, size);
    else if (event->kind == ZERO)
        memset(bytes + event->offset, 0, size);
}

/*
 * The store after a crash behind event `at`: all up to the last sync, and of what came after it
 * each write by chance, whole or a sector's multiple of it.
 */
static void crash(const struct memory_store *m, unsigned at, uint64_t *seed, uint8_t *bytes)
{
    unsigned synced = 0;

    memset(bytes, 0, STORE_BYTES);
    for (unsigned i = 0; i < at; i++)
        if (m->events[i].kind == SYNC)
            synced = i;
    for (unsigned i = 0; i < at; i++) {
        size_t size = m->events[i].size;
        uint64_t luck = i < synced ? 0 : sample_random(seed) % 3;
        if (luck == 1)
            continue;
        if (luck == 2)
            size = size / 512 ? sample_random(seed) % (size / 512 + 1) * 512 : 0;
        apply(bytes, &m->events[i], size);
    }
}

/* Every sector is as at the last flush, or as it was at some time since. */
static void expect_promise(const uint8_t *got, uint8_t *const *history, unsigned from, unsigned to)
{
    for (size_t sector = 0; sector < DISK_BYTES; sector += 512) {
        bool known = false;
        for (unsigned h = from; h <= to && !known; h++)
            known = !memcmp(got + sector, history[h] + sector, 512);
        if (!known)
            fail_msg("sector %zu has content that it never had", sector / 512);
    }
}

#define STEPS 40

static void test_crash_at_any_point(void **state)
{
    (void)state;
    struct overlay_base base = base_new();
    struct memory_store *m = store_new(), *after = store_new();
    struct overlay *overlay = open_new(m, &base);
    uint8_t *history[STEPS + 1], *got = malloc(DISK_BYTES);
    unsigned flushed_at[STEPS + 1] = {0}, events_at[STEPS + 1];
    struct ferry_error err;
    uint64_t seed = 3;

    record(m, SYNC); /* the header was made durable when the file appeared */
    history[0] = malloc(DISK_BYTES);
    assert_true(history[0] && got);
    memcpy(history[0], base_content, DISK_BYTES);
    events_at[0] = m->count;
    for (unsigned i = 1; i <= STEPS; i++) {
        assert_non_null(history[i] = malloc(DISK_BYTES));
        memcpy(history[i], history[i - 1], DISK_BYTES);
        change(overlay, history[i], &seed);
        flushed_at[i] = flushed_at[i - 1];
        if (i % 5 == 0) {
            assert_int_equal(overlay_flush(overlay), 0);
            record(m, FLUSHED);
            flushed_at[i] = i;
        }
        events_at[i] = m->count;
    }
    overlay_close(overlay);
    unsigned step = 0;
    for (unsigned at = events_at[0]; at <= m->count; at++) {
        while (step < STEPS && events_at[step] < at)
            step++;
        /* The flush of this step counts only once it has returned. */
        unsigned from = at >= events_at[step] ? flushed_at[step] : step ? flushed_at[step - 1] : 0;
        for (int luck = 0; luck < 8; luck++) {
            crash(m, at, &seed, after->bytes);
            assert_int_equal(overlay_open(&after->store, &base, "after", &overlay, &err), 0);
            assert_int_equal(overlay_read(overlay, got, DISK_BYTES, 0), 0);
            expect_promise(got, history, from, step);
            overlay_close(overlay);
        }
    }
    for (unsigned i = 0; i <= STEPS; i++)
        free(history[i]);
    free(got);
    store_free(m);
    store_free(after);
}

static void test_failed_flush_is_final(void **state)
{
    (void)state;
    struct overlay_base base = base_new();
    struct memory_store *m = store_new();
    struct overlay *overlay = open_new(m, &base);

    assert_int_equal(overlay_flush(overlay), 0); /* nothing to do */
    assert_int_equal(overlay_write(overlay, "x", 1, 0), 0);
    m->fail_sync = -ENOSPC;
    assert_int_equal(overlay_flush(overlay), -ENOSPC);
    m->fail_sync = 0;
    assert_int_equal(overlay_flush(overlay), -EIO);
    overlay_close(overlay);
    store_free(m);
}

static void expect_refused(struct memory_store *m, const struct overlay_base *base, const char *why)
{
    struct overlay *overlay;
    struct ferry_error err;

    assert_true(overlay_open(&m->store, base, "test", &overlay, &err) < 0);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, why));
}

static void test_headers(void **state)
{
    (void)state;
    struct overlay_base base = base_new(), other = base;
    struct memory_store *m = store_new();

    expect_refused(m, &base, "is not an overlay");
    overlay_close(open_new(m, &base));
    for (unsigned bit = 0; bit < 64 * 8; bit++) {
        m->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        expect_refused(m, &base, bit < 64 ? "is not an overlay" : "header is damaged");
        m->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    other.digest[31] ^= 1;
    expect_refused(m, &other, "another disk");
    other = base;
    other.size_bytes -= 512;
    expect_refused(m, &other, "another disk");
    /* Bits behind the last block are nobody's. */
    struct overlay *overlay;
    struct ferry_error err;
    uint64_t start = 0, end;
    memset(m->bytes + 4096 + 1, 0xff, 4095);
    m->bytes[4096] = 0xc0;
    assert_int_equal(overlay_open(&m->store, &base, "test", &overlay, &err), 0);
    assert_false(overlay_next(overlay, &start, &end));
    expect_content(overlay, base_content);
    overlay_close(overlay);
    store_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_content_and_again),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_crash_at_any_point),
        cmocka_unit_test(test_failed_flush_is_final),
        cmocka_unit_test(test_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
