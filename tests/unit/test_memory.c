/* Guest RAM: ranges, overflow, loading, holes, tracking. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "vmm/memory.h"

#define SMALL (16 * MIB)
#define BIG   (MEMORY_LOW_END + 64 * MIB) /* sparse: nothing of it is touched */

static struct memory *create(uint64_t size)
{
    struct memory *memory;
    struct ferry_error err;
    if (memory_create(size, &memory, &err))
        fail_msg("%s", err.message);
    return memory;
}

static struct gpa at(uint64_t value)
{
    return (struct gpa){value};
}

static void sizes_are_checked(void **state)
{
    (void)state;
    static const uint64_t bad[] = {
        0, 4096, SMALL + 1, SMALL + 512, LIMIT_MEMORY_BYTES + 4096, UINT64_MAX};
    struct memory *memory = NULL;
    struct ferry_error err;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(memory_create(bad[i], &memory, &err), -EINVAL);
        assert_int_equal(err.kind, FERRY_USAGE);
    }
    assert_null(memory);
    memory_destroy(NULL);
}

static void ranges_of_small_ram(void **state)
{
    (void)state;
    struct memory *m = create(SMALL);
    assert_int_equal(memory_size(m), SMALL);
    assert_true(memory_contains(m, at(0), SMALL));
    assert_true(memory_contains(m, at(SMALL - 1), 1));
    assert_true(memory_contains(m, at(SMALL), 0));
    assert_false(memory_contains(m, at(0), SMALL + 1));
    assert_false(memory_contains(m, at(SMALL - 1), 2));
    assert_false(memory_contains(m, at(SMALL), 1));
    assert_false(memory_contains(m, at(4), UINT64_MAX - 2));
    assert_false(memory_contains(m, at(UINT64_MAX), 1));
    assert_false(memory_contains(m, at(UINT64_MAX - 7), 16));
    assert_false(memory_contains(m, at(MEMORY_HIGH_START), 1));
    assert_int_equal(memory_regions(m)[1].size, 0);
    memory_destroy(m);
}

static void ranges_around_the_hole(void **state)
{
    (void)state;
    struct memory *m = create(BIG);
    const struct memory_region *high = &memory_regions(m)[1];
    uint8_t byte = 0x5a;

    assert_int_equal(high->gpa, MEMORY_HIGH_START);
    assert_int_equal(high->ram_offset, MEMORY_LOW_END);
    assert_int_equal(high->size, 64 * MIB);
    assert_true(memory_contains(m, at(MEMORY_LOW_END - 1), 1));
    assert_false(memory_contains(m, at(MEMORY_LOW_END - 1), 2)); /* one region at a time */
    assert_false(memory_contains(m, at(MEMORY_HIGH_START - 1), 2));
    assert_false(memory_contains(m, at(0), BIG));
    assert_true(memory_contains(m, at(MEMORY_HIGH_START), 64 * MIB));
    assert_false(memory_contains(m, at(MEMORY_HIGH_START + 64 * MIB), 1));
    assert_int_equal(memory_write(m, at(MEMORY_HIGH_START + 3), &byte, 1), 0);
    const uint8_t *base = memory_base(m);
    assert_int_equal(base[MEMORY_LOW_END + 3], 0x5a);
    memory_destroy(m);
}

static void accesses_outside_are_refused(void **state)
{
    (void)state;
    struct memory *m = create(SMALL);
    uint8_t buffer[64];
    uint16_t value;

    memset(buffer, 0x77, sizeof(buffer));
    assert_int_equal(memory_read(m, at(SMALL - 1), buffer, 2), -EFAULT);
    assert_int_equal(buffer[0], 0x77);
    assert_int_equal(memory_write(m, at(SMALL - 1), buffer, 2), -EFAULT);
    assert_int_equal(memory_write(m, at(UINT64_MAX - 1), buffer, 4), -EFAULT);
    assert_null(memory_dma(m, at(SMALL - 16), 17));
    assert_non_null(memory_dma(m, at(SMALL - 16), 16));
    assert_int_equal(memory_load_u16(m, at(SMALL), &value), -EFAULT);
    assert_int_equal(memory_load_u16(m, at(1), &value), -EFAULT);
    assert_int_equal(memory_store_u16(m, at(3), 1), -EFAULT);
    assert_int_equal(memory_load(m, SMALL - 1, buffer, 2), -EFAULT);
    assert_int_equal(memory_load(m, UINT64_MAX, buffer, 2), -EFAULT);
    assert_int_equal(memory_discard(m, SMALL, 1), -EFAULT);
    assert_int_equal(memory_discard(m, 1, UINT64_MAX), -EFAULT);
    memory_mark_dirty(m, at(SMALL), 1); /* nothing happens */
    memory_destroy(m);
}

static void values_are_little_endian(void **state)
{
    (void)state;
    struct memory *m = create(SMALL);
    uint8_t bytes[2];
    uint16_t value;
    assert_int_equal(memory_store_u16(m, at(0x1000), 0x1234), 0);
    assert_int_equal(memory_read(m, at(0x1000), bytes, 2), 0);
    assert_int_equal(bytes[0], 0x34);
    assert_int_equal(memory_load_u16(m, at(0x1000), &value), 0);
    assert_int_equal(value, 0x1234);
    memory_destroy(m);
}

static void untouched_ram_is_a_hole(void **state)
{
    (void)state;
    struct memory *m = create(SMALL);
    const uint8_t data[5000] = {1, 2, 3};
    uint64_t start = 0, end = 0;

    assert_int_equal(memory_next_data(m, &start, &end), 0);
    assert_int_equal(memory_load(m, 0x100000, data, sizeof(data)), 0);
    assert_int_equal(memory_next_data(m, &start, &end), 1);
    assert_int_equal(start, 0x100000);
    assert_int_equal(end, 0x102000);
    start = end;
    assert_int_equal(memory_next_data(m, &start, &end), 0);
    uint8_t back[3];
    assert_int_equal(memory_read(m, at(0x100000), back, 3), 0);
    assert_memory_equal(back, data, 3);
    assert_int_equal(memory_discard(m, 0x100000, 0x2000), 0);
    start = 0;
    assert_int_equal(memory_next_data(m, &start, &end), 0);
    assert_int_equal(memory_read(m, at(0x100000), back, 3), 0);
    assert_int_equal(back[0] | back[1] | back[2], 0);
    start = SMALL;
    assert_int_equal(memory_next_data(m, &start, &end), 0);
    memory_destroy(m);
}

static void tracking_marks_whole_ranges(void **state)
{
    (void)state;
    struct memory *m = create(SMALL);
    uint64_t bits[SMALL / 4096 / 64] = {0};
    uint8_t byte = 1;

    assert_int_equal(memory_write(m, at(0x3000), &byte, 1), 0);
    assert_int_equal(memory_track_start(m), 0);
    memory_mark_dirty(m, at(0x3fff), 2);
    memory_mark_dirty(m, at(0x7f000), 0x2000); /* across a word */
    memory_mark_dirty(m, at(0x9000), 0);
    assert_int_equal(memory_write(m, at(SMALL - 1), &byte, 1), 0);
    bits[5] = 1; /* collecting only adds */
    memory_track_collect(m, 0, SMALL / 4096, bits);
    assert_int_equal(bits[0], 3u << 3);
    assert_int_equal(bits[1] >> 63, 1);
    assert_int_equal(bits[2], 1);
    assert_int_equal(bits[5], 1);
    assert_int_equal(bits[63] >> 63, 1);
    memset(bits, 0, sizeof(bits));
    memory_track_collect(m, 0, SMALL / 4096, bits);
    for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
        assert_int_equal(bits[i], 0);
    /* A part of it, from a word on; the rest stays. */
    memory_mark_dirty(m, at(0), 1);
    memory_mark_dirty(m, at(UINT64_C(64) * 4096), 1);
    memory_track_collect(m, 64, 64, bits);
    assert_int_equal(bits[0], 1);
    memory_track_collect(m, SMALL / 4096, 64, bits); /* past the end: nothing */
    memory_track_stop(m);
    memory_mark_dirty(m, at(0x5000), 1);
    assert_int_equal(memory_track_start(m), 0); /* all clean again */
    memset(bits, 0, sizeof(bits));
    memory_track_collect(m, 0, SMALL / 4096, bits);
    assert_int_equal(bits[0], 0);
    memory_destroy(m);
}

struct hammer {
    struct memory *memory;
    uint64_t marks;
};

static void *mark_many(void *opaque)
{
    struct hammer *h = opaque;
    for (uint64_t i = 0; i < h->marks; i++)
        memory_mark_dirty(h->memory, at(i * 4096 % SMALL), 1);
    return NULL;
}

/* Every page marked once by somebody: whatever the interleaving, all are collected in the end. */
static void concurrent_marks_are_not_lost(void **state)
{
    (void)state;
    struct memory *m = create(SMALL);
    struct hammer h = {.memory = m, .marks = SMALL / 4096};
    uint64_t bits[SMALL / 4096 / 64] = {0};
    pthread_t threads[2];

    for (unsigned round = 0; round < 20; round++) {
        assert_int_equal(memory_track_start(m), 0);
        memset(bits, 0, sizeof(bits));
        for (unsigned i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, mark_many, &h), 0);
        memory_track_collect(m, 0, SMALL / 4096, bits);
        for (unsigned i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        memory_track_collect(m, 0, SMALL / 4096, bits);
        for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
            assert_true(bits[i] == UINT64_MAX);
    }
    memory_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(ranges_of_small_ram),
        cmocka_unit_test(ranges_around_the_hole),
        cmocka_unit_test(accesses_outside_are_refused),
        cmocka_unit_test(values_are_little_endian),
        cmocka_unit_test(untouched_ram_is_a_hole),
        cmocka_unit_test(tracking_marks_whole_ranges),
        cmocka_unit_test(concurrent_marks_are_not_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
