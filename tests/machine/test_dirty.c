/* Dirty pages of a machine on /dev/kvm: exactly those written, whoever wrote them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/box.h"
#include "vmm/dirty.h"

#define FIRST_PAGE 0x800
#define PAGES      64

/*
 * Writes to every second page of PAGES from FIRST_PAGE, then halts for ever:
 *   mov $0x800000, %edi; mov $32, %ecx
 *   loop: incl (%edi); add $0x2000, %edi; dec %ecx; jnz loop
 *   incl counter; cli; halt: hlt; jmp halt
 */
static const char scatter[] = "\xbf\x00\x00\x80\x00\xb9\x20\x00\x00\x00"
                              "\xff\x07\x81\xc7\x00\x20\x00\x00\x49\x75\xf5"
                              "\xff\x05\x00\x00\x20\x00\xfa\xf4\xeb\xfd";

static bool is_set(const uint64_t *bitmap, uint64_t page)
{
    return bitmap[page / 64] >> page % 64 & 1;
}

static uint64_t *bitmap_for(const struct dirty *dirty)
{
    uint64_t *bitmap = calloc(dirty_words(dirty), sizeof(*bitmap));
    assert_non_null(bitmap);
    return bitmap;
}

static void exactly_what_the_guest_writes(void **state)
{
    (void)state;
    struct ferry_error err;
    struct dirty *dirty;
    struct box *box = box_create(1);
    box_boot(box, scatter, sizeof(scatter) - 1);
    assert_int_equal(dirty_start(box->machine, &dirty, &err), 0);
    uint64_t *bitmap = bitmap_for(dirty);
    assert_int_equal(dirty_words(dirty), BOX_MEMORY / 4096 / 64);
    assert_int_equal(dirty_collect(dirty, bitmap, &err), 0);

    box_resume(box);
    box_wait_change(box, BOX_COUNTER, 0);
    box_pause(box);
    /* Hardware KVM counts a page as written that it maps for the first time, for a fetch too. */
    int64_t code = dirty_collect(dirty, bitmap, &err) - (PAGES / 2 + 1);
    assert_int_equal(code, is_set(bitmap, BOX_CODE / 4096));
    for (uint64_t page = 0; page < PAGES; page++)
        assert_int_equal(is_set(bitmap, FIRST_PAGE + page), page % 2 == 0);
    assert_true(is_set(bitmap, BOX_COUNTER / 4096));
    assert_int_equal(dirty_collect(dirty, bitmap, &err), 0);
    free(bitmap);
    dirty_stop(dirty);
    box_destroy(box);
}

static void ferrys_own_writes_count(void **state)
{
    (void)state;
    struct ferry_error err;
    struct dirty *dirty;
    struct box *box = box_create(1);
    struct memory *memory = machine_memory(box->machine);
    const uint8_t bytes[8192] = {1};

    assert_int_equal(memory_write(memory, (struct gpa){0x5000}, bytes, 1), 0); /* before: no */
    assert_int_equal(dirty_start(box->machine, &dirty, &err), 0);
    uint64_t *bitmap = bitmap_for(dirty);
    assert_int_equal(memory_write(memory, (struct gpa){0x10fff}, bytes, 4098), 0);
    assert_int_equal(memory_store_u16(memory, (struct gpa){0x20ffe}, 7), 0);
    memory_mark_dirty(memory, (struct gpa){0x30000}, 1);
    assert_int_equal(memory_read(memory, (struct gpa){0x40000}, (uint8_t[16]){0}, 16), 0);
    assert_int_equal(memory_load(memory, BOX_MEMORY - 1, bytes, 1), 0);
    assert_int_equal(dirty_collect(dirty, bitmap, &err), 6);
    static const uint64_t pages[] = {0x10, 0x11, 0x12, 0x20, 0x30, BOX_MEMORY / 4096 - 1};
    for (size_t i = 0; i < 6; i++)
        assert_true(is_set(bitmap, pages[i]));
    assert_int_equal(dirty_collect(dirty, bitmap, &err), 0);
    free(bitmap);
    dirty_stop(dirty);
    /* Once more: nothing is left over from before. */
    assert_int_equal(memory_write(memory, (struct gpa){0x5000}, bytes, 1), 0);
    assert_int_equal(dirty_start(box->machine, &dirty, &err), 0);
    bitmap = bitmap_for(dirty);
    assert_int_equal(dirty_collect(dirty, bitmap, &err), 0);
    free(bitmap);
    dirty_stop(dirty);
    box_destroy(box);
}

/*
 * Rounds over a running guest, as a move makes them: copy what is dirty, and at the end the copy
 * must equal the guest's RAM.
 *   loop: incl (%edi); add $0x1234, %edi; cmp $0x1000000, %edi; jb loop; mov $0x800000, %edi;
 *   incl counter; jmp loop
 */
static void copy_by_rounds_is_whole(void **state)
{
    (void)state;
    static const char code[] = "\xbf\x00\x00\x80\x00"
                               "\xff\x07\x81\xc7\x34\x12\x00\x00\x81\xff\x00\x00\x00\x01\x72\xf0"
                               "\xbf\x00\x00\x80\x00\xff\x05\x00\x00\x20\x00\xeb\xe3";
    struct ferry_error err;
    struct dirty *dirty;
    struct box *box = box_create(1);
    box_boot(box, code, sizeof(code) - 1);
    box_resume(box);
    box_wait_change(box, BOX_COUNTER, 0);
    assert_int_equal(dirty_start(box->machine, &dirty, &err), 0); /* while it runs */
    uint64_t *bitmap = bitmap_for(dirty);
    const uint8_t *ram = memory_base(machine_memory(box->machine));
    uint8_t *copy = malloc(BOX_MEMORY);
    assert_non_null(copy);
    memcpy(copy, ram, BOX_MEMORY);
    for (unsigned round = 0; round < 20; round++) {
        if (round == 19)
            box_pause(box);
        assert_true(dirty_collect(dirty, bitmap, &err) >= 0);
        for (uint64_t page = 0; page < BOX_MEMORY / 4096; page++)
            if (is_set(bitmap, page))
                memcpy(copy + page * 4096, ram + page * 4096, 4096);
        usleep(3000);
    }
    assert_memory_equal(copy, ram, BOX_MEMORY);
    free(copy);
    free(bitmap);
    dirty_stop(dirty);
    box_destroy(box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exactly_what_the_guest_writes),
        cmocka_unit_test(ferrys_own_writes_count),
        cmocka_unit_test(copy_by_rounds_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
