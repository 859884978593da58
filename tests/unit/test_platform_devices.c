/* ACPI fixed hardware, reset by the keyboard controller, VM generation id. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/limits.h"
#include "tests/support/fake_platform.h"
#include "vmm/device/acpi_pm.h"
#include "vmm/device/reset.h"
#include "vmm/device/vmgenid.h"
#include "vmm/layout.h"

#define NS_PER_S UINT64_C(1000000000)

enum { STATUS = PORT_PM_EVENT, ENABLE = PORT_PM_EVENT + 2, GPE_ENABLE = PORT_GPE0 + 2 };
enum {
    TMR = 1,
    GBL = 0x20,
    PWRBTN = 0x100,
    RTC = 0x400,
    SCI_EN = 1,
    SLP_EN = 1 << 13,
    S5 = 5 << 10
};

struct bench {
    struct fake_platform *fake;
    struct device *pm, *reset, *vmgenid;
};

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));

    b->fake = fake_platform_create(16 * MIB);
    *state = b;
    return acpi_pm_create(&b->fake->platform, &b->pm, NULL) ||
           reset_create(&b->fake->platform, &b->reset, NULL) ||
           vmgenid_create(&b->fake->platform, b->pm, &b->vmgenid, NULL);
}

static int teardown(void **state)
{
    struct bench *b = *state;

    b->vmgenid->ops->destroy(b->vmgenid);
    b->reset->ops->destroy(b->reset);
    b->pm->ops->destroy(b->pm);
    fake_platform_destroy(b->fake);
    free(b);
    return 0;
}

static uint16_t in16(struct bench *b, uint16_t port)
{
    return (uint16_t)fake_in(b->fake, port, 2);
}

static void out16(struct bench *b, uint16_t port, uint16_t value)
{
    fake_out(b->fake, port, value, 2);
}

/* Put the PM timer, which then stands still, at a time since power on. */
static void set_timer(struct bench *b, uint64_t ns)
{
    void *s = fake_state_capture(b->pm);
    uint64_t ticks = ns / NS_PER_S * ACPI_PM_TIMER_HZ + ns % NS_PER_S * ACPI_PM_TIMER_HZ / NS_PER_S;

    fake_state_set(b->pm, s, "timer_ns", 0, ns);
    fake_state_set(b->pm, s, "timer_halves", 0, ticks >> 31);
    assert_int_equal(b->pm->ops->commit(b->pm, s, NULL), 0);
    free(s);
}

static void test_power_button(void **state)
{
    struct bench *b = *state;

    assert_int_equal(in16(b, STATUS), 0);
    acpi_pm_power_button(b->pm);
    assert_int_equal(in16(b, STATUS), PWRBTN);
    out16(b, STATUS, GBL); /* other bits do not clear it */
    assert_int_equal(in16(b, STATUS), PWRBTN);
    out16(b, STATUS, PWRBTN);
    assert_int_equal(in16(b, STATUS), 0);
}

static void test_enable_keeps_what_exists(void **state)
{
    struct bench *b = *state;

    out16(b, ENABLE, 0xffff);
    assert_int_equal(in16(b, ENABLE), TMR | GBL | PWRBTN | RTC);
    fake_out(b->fake, ENABLE + 1, 0, 1); /* bytes work too */
    assert_int_equal(in16(b, ENABLE), TMR | GBL);
    assert_int_equal(fake_in(b->fake, STATUS, 4), (uint64_t)(TMR | GBL) << 16);
}

static void test_sci_is_enabled_status(void **state)
{
    struct bench *b = *state;

    fake_platform_need_kvm(b->fake);
    acpi_pm_power_button(b->pm);
    assert_false(fake_platform_line(b->fake, GSI_SCI));
    out16(b, ENABLE, PWRBTN);
    assert_true(fake_platform_line(b->fake, GSI_SCI));
    acpi_pm_raise_gpe(b->pm, GPE_VMGENID);
    out16(b, STATUS, PWRBTN);
    assert_false(fake_platform_line(b->fake, GSI_SCI));
    out16(b, GPE_ENABLE, 1 << GPE_VMGENID);
    assert_true(fake_platform_line(b->fake, GSI_SCI));
    out16(b, PORT_GPE0, 1 << GPE_VMGENID);
    assert_false(fake_platform_line(b->fake, GSI_SCI));
}

static void test_sci_is_driven_again_after_load(void **state)
{
    struct bench *b = *state, *other;
    void *saved;

    fake_platform_need_kvm(b->fake);
    out16(b, ENABLE, PWRBTN);
    acpi_pm_power_button(b->pm);
    saved = fake_state_capture(b->pm);
    setup((void **)&other);
    assert_int_equal(other->pm->ops->commit(other->pm, saved, NULL), 0);
    assert_false(fake_platform_line(other->fake, GSI_SCI));
    assert_int_equal(other->pm->ops->resume(other->pm, NULL), 0);
    assert_true(fake_platform_line(other->fake, GSI_SCI));
    free(saved);
    teardown((void **)&other);
}

static void test_sleep_s5_powers_off(void **state)
{
    struct bench *b = *state;

    assert_int_equal(in16(b, PORT_PM_CONTROL), SCI_EN);
    out16(b, PORT_PM_CONTROL, S5); /* ACPICA first writes the type alone */
    assert_int_equal(b->fake->poweroffs, 0);
    assert_int_equal(in16(b, PORT_PM_CONTROL), SCI_EN | S5);
    out16(b, PORT_PM_CONTROL, S5 | SLP_EN);
    assert_int_equal(b->fake->poweroffs, 1);
    assert_int_equal(in16(b, PORT_PM_CONTROL), SCI_EN | S5); /* SLP_EN reads as 0 */
    out16(b, PORT_PM_CONTROL, SLP_EN | 1 << 10);             /* S1: there is none */
    assert_int_equal(b->fake->poweroffs, 1);
    fake_out(b->fake, PORT_PM_CONTROL + 1, (S5 | SLP_EN) >> 8, 1);
    assert_int_equal(b->fake->poweroffs, 2);
}

static void test_timer_runs_at_its_rate(void **state)
{
    struct bench *b = *state;

    set_timer(b, 10 * NS_PER_S);
    assert_int_equal(fake_in(b->fake, PORT_PM_TIMER, 4), 10 * ACPI_PM_TIMER_HZ);
    set_timer(b, NS_PER_S / 2);
    assert_int_equal(fake_in(b->fake, PORT_PM_TIMER, 4), ACPI_PM_TIMER_HZ / 2);
    set_timer(b, 2000 * NS_PER_S); /* past 32 bits */
    assert_int_equal(fake_in(b->fake, PORT_PM_TIMER, 4),
                     2000 * (uint64_t)ACPI_PM_TIMER_HZ & UINT32_MAX);
}

/* Over pause, save, load and resume the timer shows the time that has passed, as all clocks do. */
static void test_timer_goes_on_after_load(void **state)
{
    struct bench *b = *state, *other;
    uint64_t before, after;
    void *saved;

    set_timer(b, 100 * NS_PER_S);
    assert_int_equal(b->pm->ops->resume(b->pm, NULL), 0);
    assert_int_equal(b->pm->ops->quiesce(b->pm, NULL), 0);
    before = fake_in(b->fake, PORT_PM_TIMER, 4);
    usleep(2000);
    assert_int_equal(fake_in(b->fake, PORT_PM_TIMER, 4), before);
    saved = fake_state_capture(b->pm);
    setup((void **)&other);
    assert_int_equal(other->pm->ops->commit(other->pm, saved, NULL), 0);
    assert_int_equal(fake_in(other->fake, PORT_PM_TIMER, 4), before);
    assert_int_equal(other->pm->ops->resume(other->pm, NULL), 0);
    after = fake_in(other->fake, PORT_PM_TIMER, 4);
    assert_true(after >= before + ACPI_PM_TIMER_HZ / 500); /* the 2 ms it was away */
    free(saved);
    teardown((void **)&other);
}

static void test_timer_status_and_interrupt(void **state)
{
    /* 2^31 ticks are just under 600 s; stand 5 ms before */
    const uint64_t half_ns = (UINT64_C(1) << 31) / ACPI_PM_TIMER_HZ * NS_PER_S +
                             (UINT64_C(1) << 31) % ACPI_PM_TIMER_HZ * NS_PER_S / ACPI_PM_TIMER_HZ;
    struct bench *b = *state;

    set_timer(b, half_ns - 5000000);
    assert_int_equal(in16(b, STATUS), 0);
    out16(b, ENABLE, TMR);
    assert_int_equal(b->pm->ops->resume(b->pm, NULL), 0);
    if (b->fake->has_kvm)
        while (!fake_platform_line(b->fake, GSI_SCI)) /* by itself, without an access */
            usleep(1000);
    else
        while (!(in16(b, STATUS) & TMR))
            usleep(1000);
    assert_int_equal(in16(b, STATUS), TMR);
    out16(b, STATUS, TMR);
    assert_int_equal(in16(b, STATUS), 0);
}

static void fix_pm(const struct device *device, void *s, uint64_t *seed)
{
    fake_state_set(device, s, "pm1_status", 0, fake_random(seed) & (TMR | GBL | PWRBTN));
    fake_state_set(device, s, "pm1_enable", 0, fake_random(seed) & (TMR | GBL | PWRBTN | RTC));
    fake_state_set(device, s, "pm1_control", 0, fake_random(seed) & 0x1c02);
}

static void test_pm_state(void **state)
{
    static const struct {
        const char *field;
        uint64_t value;
    } bad[] = {{"pm1_status", 0x8000},
               {"pm1_status", RTC},
               {"pm1_enable", 0x200},
               {"pm1_control", SLP_EN},
               {"timer_ns", UINT64_MAX}};
    struct bench *b = *state;

    fake_check_round_trip(b->pm, fix_pm, NULL, 500);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        void *s = fake_state_capture(b->pm);

        fake_state_set(b->pm, s, bad[i].field, 0, bad[i].value);
        fake_check_refused(b->pm, s, NULL);
        free(s);
    }
}

static void test_pm_reset(void **state)
{
    struct bench *b = *state;

    out16(b, ENABLE, PWRBTN);
    acpi_pm_power_button(b->pm);
    acpi_pm_raise_gpe(b->pm, 3);
    acpi_pm_raise_gpe(b->pm, 16); /* there is none */
    assert_int_equal(in16(b, PORT_GPE0), 1 << 3);
    b->pm->ops->reset(b->pm);
    assert_int_equal(fake_in(b->fake, STATUS, 4), 0);
    assert_int_equal(fake_in(b->fake, PORT_GPE0, 4), 0);
}

static void test_keyboard_controller_resets(void **state)
{
    struct bench *b = *state;

    assert_int_equal(fake_in(b->fake, 0x64, 1), 0); /* never busy, never data */
    fake_out(b->fake, 0x64, 0xfe, 1);
    assert_int_equal(b->fake->resets, 1);
    fake_out(b->fake, 0x64, 0xff, 1); /* pulses nothing */
    fake_out(b->fake, 0x64, 0x20, 1);
    fake_out(b->fake, 0x60, 0xfe, 1); /* data without a command */
    assert_int_equal(b->fake->resets, 1);
    fake_out(b->fake, 0x64, 0xd1, 1);
    fake_out(b->fake, 0x60, 0xdf, 1); /* A20 on, reset line high */
    assert_int_equal(b->fake->resets, 1);
    fake_out(b->fake, 0x64, 0xd1, 1);
    fake_out(b->fake, 0x60, 0xfe, 1);
    assert_int_equal(b->fake->resets, 2);
    assert_int_equal(b->fake->poweroffs, 0);
}

static void fix_reset(const struct device *device, void *s, uint64_t *seed)
{
    fake_state_set(device, s, "command", 0, fake_random(seed) & 1 ? 0xd1 : 0);
}

static void test_reset_state(void **state)
{
    struct bench *b = *state;
    void *s = fake_state_capture(b->reset);

    fake_state_set(b->reset, s, "command", 0, 0xfe);
    fake_check_refused(b->reset, s, NULL);
    free(s);
    fake_check_round_trip(b->reset, fix_reset, NULL, 10);
}

static void test_generation_change_is_written_and_told(void **state)
{
    static const uint8_t first[16] = {1}, second[16] = {2, [15] = 9};
    struct bench *b = *state;
    uint8_t seen[16];
    void *saved;

    assert_int_equal(vmgenid_set(b->vmgenid, first, NULL), 0);
    out16(b, PORT_GPE0, 0xffff);
    assert_int_equal(vmgenid_set(b->vmgenid, first, NULL), 0);
    assert_int_equal(in16(b, PORT_GPE0), 0); /* no change, no event */
    saved = fake_state_capture(b->vmgenid);
    assert_int_equal(b->vmgenid->ops->commit(b->vmgenid, saved, NULL), 0);
    assert_int_equal(vmgenid_set(b->vmgenid, second, NULL), 0);
    assert_int_equal(in16(b, PORT_GPE0), 1 << GPE_VMGENID);
    assert_int_equal(
        memory_read(b->fake->platform.memory, (struct gpa){LAYOUT_VMGENID}, seen, sizeof(seen)), 0);
    assert_memory_equal(seen, second, 16);
    free(saved);
}

static void test_vmgenid_state(void **state)
{
    struct bench *b = *state;

    fake_check_round_trip(b->vmgenid, NULL, NULL, 50);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_power_button),
        T(test_enable_keeps_what_exists),
        T(test_sci_is_enabled_status),
        T(test_sci_is_driven_again_after_load),
        T(test_sleep_s5_powers_off),
        T(test_timer_runs_at_its_rate),
        T(test_timer_goes_on_after_load),
        T(test_timer_status_and_interrupt),
        T(test_pm_state),
        T(test_pm_reset),
        T(test_keyboard_controller_resets),
        T(test_reset_state),
        T(test_generation_change_is_written_and_told),
        T(test_vmgenid_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
