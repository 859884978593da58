/* The 16550A, register by register, against the PC16550D data sheet and what Linux asks of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/fake_platform.h"
#include "vmm/device/serial.h"
#include "vmm/layout.h"

enum { DATA, IER, FCR, LCR, MCR, LSR, MSR, SCR, IIR = 2 };

struct bench {
    struct fake_platform *fake;
    struct device *serial;
    unsigned rooms;
};

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));

    b->fake = fake_platform_create(0);
    *state = b;
    return serial_create(&b->fake->platform, &b->serial, NULL);
}

static int teardown(void **state)
{
    struct bench *b = *state;

    b->serial->ops->destroy(b->serial);
    fake_platform_destroy(b->fake);
    free(b);
    return 0;
}

static uint8_t get(struct bench *b, unsigned reg)
{
    return (uint8_t)fake_in(b->fake, (uint16_t)(PORT_SERIAL0 + reg), 1);
}

static void put(struct bench *b, unsigned reg, uint8_t value)
{
    fake_out(b->fake, (uint16_t)(PORT_SERIAL0 + reg), value, 1);
}

static size_t input(struct bench *b, const char *text)
{
    return serial_input(b->serial, (const uint8_t *)text, strlen(text));
}

static void test_registers_after_reset(void **state)
{
    struct bench *b = *state;

    assert_int_equal(get(b, IER), 0);
    assert_int_equal(get(b, IIR), 0x01);
    assert_int_equal(get(b, LCR), 0);
    assert_int_equal(get(b, MCR), 0);
    assert_int_equal(get(b, LSR), 0x60);
    assert_int_equal(get(b, MSR), 0xb0);
}

/* Linux 8250 autoconfig: scratch, IER bits, FIFO bits of IIR. */
static void test_probe_finds_a_16550a(void **state)
{
    struct bench *b = *state;

    put(b, IER, 0x0f);
    assert_int_equal(get(b, IER), 0x0f);
    put(b, IER, 0xf0);
    assert_int_equal(get(b, IER), 0);
    put(b, SCR, 0xa5);
    assert_int_equal(get(b, SCR), 0xa5);
    put(b, FCR, 0x01);
    assert_int_equal(get(b, IIR) & 0xc0, 0xc0);
    put(b, FCR, 0x00);
    assert_int_equal(get(b, IIR) & 0xc0, 0);
    put(b, MCR, 0xff);
    assert_int_equal(get(b, MCR), 0x1f);
}

static void test_loopback_mirrors_modem_outputs(void **state)
{
    struct bench *b = *state;

    put(b, MCR, 0x1a); /* loop, OUT2, RTS: the probe of Linux */
    assert_int_equal(get(b, MSR) & 0xf0, 0x90);
    put(b, MCR, 0x15); /* loop, OUT1, DTR */
    assert_int_equal(get(b, MSR) & 0xf0, 0x60);
    put(b, MCR, 0x10);
    assert_int_equal(get(b, MSR), 0x06); /* DSR changed, RI fell */
    assert_int_equal(get(b, MSR), 0x00); /* the read has cleared that */
    put(b, MCR, 0x14);
    assert_int_equal(get(b, MSR), 0x40); /* RI rising is no event */
}

static void test_loopback_keeps_bytes_inside(void **state)
{
    struct bench *b = *state;

    put(b, MCR, 0x10);
    put(b, DATA, 'x');
    assert_int_equal(b->fake->output_size, 0);
    assert_int_equal(input(b, "y"), 0);
    assert_int_equal(get(b, LSR), 0x61);
    assert_int_equal(get(b, DATA), 'x');
    assert_int_equal(get(b, LSR), 0x60);
}

static void test_overrun_is_told_once(void **state)
{
    struct bench *b = *state;

    put(b, MCR, 0x10);
    put(b, DATA, '1');
    put(b, DATA, '2'); /* no FIFO: replaces the first */
    put(b, IER, 0x05);
    assert_int_equal(get(b, IIR), 0x06);
    assert_int_equal(get(b, LSR), 0x63);
    assert_int_equal(get(b, LSR), 0x61);
    assert_int_equal(get(b, IIR), 0x04);
    assert_int_equal(get(b, DATA), '2');

    put(b, FCR, 0x01);
    for (int i = 0; i < 17; i++)
        put(b, DATA, (uint8_t)i);
    assert_int_equal(get(b, LSR), 0x63);
    for (int i = 0; i < 16; i++) /* the FIFO keeps what it has */
        assert_int_equal(get(b, DATA), i);
    assert_int_equal(get(b, LSR), 0x60);
}

static void test_output_leaves_byte_by_byte(void **state)
{
    struct bench *b = *state;

    put(b, DATA, 'h');
    put(b, DATA, 'i');
    assert_int_equal(b->fake->output_size, 2);
    assert_memory_equal(b->fake->output, "hi", 2);
    assert_int_equal(get(b, LSR), 0x60);
}

static void test_divisor_hides_data_and_ier(void **state)
{
    struct bench *b = *state;

    put(b, IER, 0x05);
    put(b, LCR, 0x83);
    put(b, DATA, 0x34);
    put(b, IER, 0x12);
    assert_int_equal(get(b, DATA), 0x34);
    assert_int_equal(get(b, IER), 0x12);
    put(b, LCR, 0x03);
    assert_int_equal(get(b, IER), 0x05);
    assert_int_equal(b->fake->output_size, 0);
}

/* The THRE interrupt: on enabling, after a byte; gone when IIR has told it. */
static void test_thre_interrupt(void **state)
{
    struct bench *b = *state;

    put(b, IER, 0x02);
    assert_int_equal(get(b, IIR), 0x02);
    assert_int_equal(get(b, IIR), 0x01);
    put(b, DATA, 'a');
    assert_int_equal(get(b, IIR), 0x02);
    assert_int_equal(get(b, IIR), 0x01);
    put(b, IER, 0x00);
    put(b, IER, 0x02);
    assert_int_equal(get(b, IIR), 0x02);
}

static void test_receive_without_fifo_takes_one(void **state)
{
    struct bench *b = *state;

    assert_int_equal(input(b, "ab"), 1);
    assert_int_equal(input(b, "b"), 0);
    assert_int_equal(get(b, LSR), 0x61);
    assert_int_equal(get(b, DATA), 'a');
    assert_int_equal(get(b, DATA), 0);
    assert_int_equal(input(b, "b"), 1);
}

static void test_receive_levels_and_timeout(void **state)
{
    static const unsigned triggers[] = {1, 4, 8, 14};
    struct bench *b = *state;

    put(b, IER, 0x01);
    for (unsigned level = 0; level < 4; level++) {
        put(b, FCR, (uint8_t)(0x07 | level << 6));
        assert_int_equal(get(b, IIR), 0xc1);
        for (unsigned i = 1; i <= 16; i++) {
            assert_int_equal(input(b, "z"), 1);
            assert_int_equal(get(b, IIR), i >= triggers[level] ? 0xc4 : 0xcc);
        }
        assert_int_equal(input(b, "z"), 0);
    }
    put(b, FCR, 0x03);
    assert_int_equal(get(b, LSR), 0x60);
}

static void test_switching_the_fifo_empties_it(void **state)
{
    struct bench *b = *state;

    put(b, FCR, 0x01);
    assert_int_equal(input(b, "abc"), 3);
    put(b, FCR, 0x01); /* no change, no clear bit */
    assert_int_equal(get(b, DATA), 'a');
    put(b, FCR, 0x00);
    assert_int_equal(get(b, LSR), 0x60);
}

static void count_room(void *opaque)
{
    ((struct bench *)opaque)->rooms++;
}

static void test_room_is_announced_to_who_was_refused(void **state)
{
    struct bench *b = *state;

    serial_on_room(b->serial, count_room, b);
    put(b, FCR, 0x01);
    assert_int_equal(input(b, "short"), 5);
    get(b, DATA);
    assert_int_equal(b->rooms, 0);
    assert_int_equal(input(b, "0123456789abcdef"), 12);
    get(b, DATA);
    assert_int_equal(b->rooms, 1);
    get(b, DATA);
    assert_int_equal(b->rooms, 1);
}

static void test_wide_access_is_split(void **state)
{
    struct bench *b = *state;

    fake_out(b->fake, PORT_SERIAL0 + LCR, 0x0803, 2); /* LCR, then MCR */
    assert_int_equal(get(b, LCR), 0x03);
    assert_int_equal(get(b, MCR), 0x08);
    assert_int_equal(fake_in(b->fake, PORT_SERIAL0 + LCR, 2), 0x0803);
}

static void test_line_follows_iir_through_out2(void **state)
{
    struct bench *b = *state;

    fake_platform_need_kvm(b->fake);
    put(b, IER, 0x02);
    assert_false(fake_platform_line(b->fake, GSI_SERIAL0)); /* the gate is shut */
    put(b, MCR, 0x08);
    assert_true(fake_platform_line(b->fake, GSI_SERIAL0));
    get(b, IIR);
    assert_false(fake_platform_line(b->fake, GSI_SERIAL0));
    put(b, IER, 0x01);
    assert_int_equal(input(b, "k"), 1);
    assert_true(fake_platform_line(b->fake, GSI_SERIAL0));
    get(b, DATA);
    assert_false(fake_platform_line(b->fake, GSI_SERIAL0));
}

static void test_line_is_driven_again_after_load(void **state)
{
    struct bench *b = *state, *other;
    void *saved;

    fake_platform_need_kvm(b->fake);
    put(b, IER, 0x01);
    put(b, MCR, 0x08);
    assert_int_equal(input(b, "k"), 1);
    saved = fake_state_capture(b->serial);
    setup((void **)&other);
    assert_int_equal(other->serial->ops->commit(other->serial, saved, NULL), 0);
    assert_int_equal(other->serial->ops->resume(other->serial, NULL), 0);
    assert_true(fake_platform_line(other->fake, GSI_SERIAL0));
    assert_int_equal(get(other, DATA), 'k');
    free(saved);
    teardown((void **)&other);
}

static void test_line_falls_when_the_loaded_state_says_so(void **state)
{
    struct bench *b = *state;
    void *idle;

    fake_platform_need_kvm(b->fake);
    idle = fake_state_capture(b->serial);
    put(b, IER, 0x02);
    put(b, MCR, 0x08);
    assert_true(fake_platform_line(b->fake, GSI_SERIAL0));
    assert_int_equal(b->serial->ops->commit(b->serial, idle, NULL), 0);
    assert_int_equal(b->serial->ops->resume(b->serial, NULL), 0);
    assert_false(fake_platform_line(b->fake, GSI_SERIAL0));
    free(idle);
}

static void fix(const struct device *device, void *s, uint64_t *seed)
{
    uint8_t fcr = fake_random(seed) & 0xc9;

    fcr = fcr & 1 ? fcr : 0;
    fake_state_set(device, s, "fcr", 0, fcr);
    if (!fcr)
        fake_state_set_count(device, s, "rx", fake_random(seed) & 1);
}

static void test_state_round_trip(void **state)
{
    struct bench *b = *state;

    fake_check_round_trip(b->serial, fix, NULL, 500);
}

static void test_state_refused(void **state)
{
    static const struct {
        const char *field;
        uint64_t value;
    } bad[] = {{"ier", 0x10}, {"mcr", 0x20}, {"msr_deltas", 0x10}, {"fcr", 0x02}, {"fcr", 0x10}};
    struct bench *b = *state;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        void *s = fake_state_capture(b->serial);

        fake_state_set(b->serial, s, bad[i].field, 0, bad[i].value);
        fake_check_refused(b->serial, s, NULL);
        free(s);
    }
}

static void test_state_with_fifo_bytes_but_no_fifo_refused(void **state)
{
    struct bench *b = *state;
    void *s = fake_state_capture(b->serial);

    fake_state_set_count(b->serial, s, "rx", 2);
    fake_check_refused(b->serial, s, NULL);
    free(s);
}

static void test_reset_forgets(void **state)
{
    struct bench *b = *state;

    put(b, FCR, 0x01);
    put(b, LCR, 0x03);
    input(b, "abc");
    b->serial->ops->reset(b->serial);
    assert_int_equal(get(b, LSR), 0x60);
    assert_int_equal(get(b, LCR), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_registers_after_reset),
        T(test_probe_finds_a_16550a),
        T(test_loopback_mirrors_modem_outputs),
        T(test_loopback_keeps_bytes_inside),
        T(test_overrun_is_told_once),
        T(test_output_leaves_byte_by_byte),
        T(test_divisor_hides_data_and_ier),
        T(test_thre_interrupt),
        T(test_receive_without_fifo_takes_one),
        T(test_receive_levels_and_timeout),
        T(test_switching_the_fifo_empties_it),
        T(test_room_is_announced_to_who_was_refused),
        T(test_wide_access_is_split),
        T(test_line_follows_iir_through_out2),
        T(test_line_is_driven_again_after_load),
        T(test_line_falls_when_the_loaded_state_says_so),
        T(test_state_round_trip),
        T(test_state_refused),
        T(test_state_with_fifo_bytes_but_no_fifo_refused),
        T(test_reset_forgets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
