/* The bus: who answers, in which widths, and what may not be put on it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/bus.h"

struct probe {
    struct bus_region region;
    struct bus *bus;
    unsigned reads, writes;
    uint64_t offset, value;
    unsigned size;
    uint64_t answer;
    uint64_t move_to; /* moved there by the next write */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t on_read(void *opaque, uint64_t offset, unsigned size)
{
    struct probe *p = opaque;
    p->reads++;
    p->offset = offset;
    p->size = size;
    return p->answer >> 8 * offset;
}

static void on_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct probe *p = opaque;
    p->writes++;
    p->offset = offset;
    p->size = size;
    p->value = value;
    if (p->move_to)
        assert_int_equal(bus_move(p->bus, &p->region, p->move_to), 0);
}

static void add(struct bus *bus, struct probe *p, const char *name, uint64_t start, uint64_t size)
{
    memset(p, 0, sizeof(*p));
    p->bus = bus;
    p->answer = 0x1122334455667788;
    p->region = (struct bus_region){.start = start,
                                    .size = size,
                                    .name = name,
                                    .lock = &lock,
                                    .opaque = p,
                                    .read = on_read,
                                    .write = on_write};
    assert_int_equal(bus_add(bus, &p->region, NULL), 0);
}

static void the_right_one_answers(void **state)
{
    (void)state;
    struct bus *bus;
    struct probe a, b;
    uint32_t value;

    assert_int_equal(bus_create(&bus), 0);
    add(bus, &b, "b", 0x200, 8);
    add(bus, &a, "a", 0x100, 8);
    bus_read(bus, 0x204, &value, 4);
    assert_int_equal(value, 0x11223344);
    assert_int_equal(b.offset, 4);
    assert_int_equal(b.size, 4);
    assert_int_equal(a.reads, 0);
    bus_write(bus, 0x107, &(uint8_t){0xab}, 1);
    assert_int_equal(a.value, 0xab);
    assert_int_equal(a.offset, 7);
    uint64_t wide = 0x0102030405060708;
    bus_write(bus, 0x100, &wide, 8);
    assert_true(a.value == wide);
    bus_destroy(bus);
}

static void nobody_answers_ones(void **state)
{
    (void)state;
    struct bus *bus;
    struct probe a;
    uint64_t value = 0;

    assert_int_equal(bus_create(&bus), 0);
    bus_read(bus, 0x100, &value, 4);
    assert_true(value == 0xffffffff);
    bus_write(bus, 0x100, &value, 4);
    add(bus, &a, "a", 0x100, 8);
    bus_read(bus, 0x108, &value, 8);
    assert_true(value == UINT64_MAX);
    bus_read(bus, 0xf8, &value, 8);
    assert_true(value == UINT64_MAX);
    assert_int_equal(a.reads, 0);
    bus_remove(bus, &a.region);
    bus_remove(bus, &a.region); /* not there: nothing */
    bus_read(bus, 0x100, &value, 8);
    assert_true(value == UINT64_MAX);
    bus_destroy(bus);
}

static void across_an_end_goes_byte_by_byte(void **state)
{
    (void)state;
    struct bus *bus;
    struct probe a;
    uint8_t data[8];

    assert_int_equal(bus_create(&bus), 0);
    add(bus, &a, "a", 0x100, 8);
    bus_read(bus, 0x106, data, 4);
    assert_int_equal(a.reads, 2);
    assert_int_equal(data[0], 0x22);
    assert_int_equal(data[1], 0x11);
    assert_int_equal(data[2], 0xff);
    a.reads = 0;
    bus_read(bus, 0x101, data, 3); /* a width no CPU has, from a split access */
    assert_int_equal(a.reads, 3);
    assert_int_equal(data[2], 0x55);
    bus_write(bus, 0xff, (uint8_t[]){1, 2}, 2);
    assert_int_equal(a.writes, 1);
    assert_int_equal(a.value, 2);
    bus_destroy(bus);
}

static void overlaps_are_refused(void **state)
{
    (void)state;
    static const uint64_t bad[][2] = {{0x100, 8}, {0xf8, 9}, {0x107, 1}, {0, 0x1000}, {0x103, 2}};
    struct bus *bus;
    struct probe a, b;
    struct ferry_error err;

    assert_int_equal(bus_create(&bus), 0);
    add(bus, &a, "a", 0x100, 8);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        b.region = a.region;
        b.region.name = "b";
        b.region.start = bad[i][0];
        b.region.size = bad[i][1];
        assert_int_equal(bus_add(bus, &b.region, &err), -EEXIST);
        assert_string_equal(err.about, "b");
    }
    b.region.start = UINT64_MAX - 3;
    b.region.size = 8; /* wraps */
    assert_int_equal(bus_add(bus, &b.region, &err), -EINVAL);
    b.region.size = 0;
    assert_int_equal(bus_add(bus, &b.region, &err), -EINVAL);
    b.region.size = 4; /* the very end is fine */
    assert_int_equal(bus_add(bus, &b.region, &err), 0);
    bus_destroy(bus);
}

static void handlers_may_move_regions(void **state)
{
    (void)state;
    struct bus *bus;
    struct probe a, b;
    uint32_t value = 1;

    assert_int_equal(bus_create(&bus), 0);
    add(bus, &a, "a", 0x1000, 0x1000);
    add(bus, &b, "b", 0x3000, 0x1000);
    a.move_to = 0x8000;
    bus_write(bus, 0x1000, &value, 4);
    a.move_to = 0;
    bus_write(bus, 0x8004, &value, 4);
    assert_int_equal(a.writes, 2);
    assert_int_equal(a.offset, 4);
    bus_write(bus, 0x1000, &value, 4);
    assert_int_equal(a.writes, 2);
    /* Onto another one: it is off the bus then, and comes back by a move elsewhere. */
    assert_int_equal(bus_move(bus, &a.region, 0x3800), -EEXIST);
    bus_write(bus, 0x8000, &value, 4);
    assert_int_equal(a.writes, 2);
    assert_int_equal(bus_move(bus, &a.region, 0x8000), 0);
    bus_write(bus, 0x8000, &value, 4);
    assert_int_equal(a.writes, 3);
    bus_destroy(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_right_one_answers),           cmocka_unit_test(nobody_answers_ones),
        cmocka_unit_test(across_an_end_goes_byte_by_byte), cmocka_unit_test(overlaps_are_refused),
        cmocka_unit_test(handlers_may_move_regions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
