/* A machine on /dev/kvm: run, pause, events, reset. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/box.h"
#include "vmm/kvm.h"
#include "vmm/machine_internal.h"

static void boots_and_runs(void **state)
{
    (void)state;
    /* mov $0x3f8, %dx; mov $'H', %al; out; mov $'i', %al; out; then count */
    static const char code[] = "\x66\xba\xf8\x03\xb0H\xee\xb0i\xee" BOX_COUNT_CODE;
    struct box *box = box_create(1);
    box_boot(box, code, sizeof(code) - 1);
    assert_false(machine_is_running(box->machine));
    assert_int_equal(machine_resumed_at_ns(box->machine), 0);
    box_resume(box);
    assert_true(machine_is_running(box->machine));
    box_wait_change(box, BOX_COUNTER, 0);
    box_pause(box);
    assert_int_equal(box->output_size, 2);
    assert_memory_equal(box->output, "Hi", 2);
    assert_true(machine_resumed_at_ns(box->machine) > 0);
    assert_true(machine_paused_at_ns(box->machine) > machine_resumed_at_ns(box->machine));
    box_destroy(box);
}

static void pause_means_pause(void **state)
{
    (void)state;
    struct box *box = box_create(1);
    box_boot(box, BOX_COUNT_CODE, sizeof(BOX_COUNT_CODE) - 1);
    for (unsigned i = 0; i < 50; i++) {
        uint32_t before = box_load_u32(box, BOX_COUNTER);
        box_resume(box);
        box_resume(box); /* again is fine */
        box_wait_change(box, BOX_COUNTER, before);
        box_pause(box);
        box_pause(box);
        uint32_t paused = box_load_u32(box, BOX_COUNTER);
        usleep(2000);
        assert_int_equal(box_load_u32(box, BOX_COUNTER), paused);
    }
    box_destroy(box);
}

/* Pause and resume at once, so that threads still wake up while the next order comes. */
static void pause_and_resume_in_haste(void **state)
{
    (void)state;
    struct box *box = box_create(2);
    box_boot(box, BOX_COUNT_CODE, sizeof(BOX_COUNT_CODE) - 1);
    for (unsigned i = 0; i < 500; i++) {
        box_resume(box);
        box_pause(box);
    }
    uint32_t before = box_load_u32(box, BOX_COUNTER);
    box_resume(box);
    box_wait_change(box, BOX_COUNTER, before);
    box_destroy(box); /* while it runs */
}

/*
 * A pause between an access and its completion must neither drop nor repeat it:
 *   mov $0x3ff, %dx; loop: in %dx, %al; inc %al; out %al, %dx; incl counter; jmp loop
 * counts in COM1's scratch register as it does in RAM.
 */
static void no_access_is_lost_or_doubled(void **state)
{
    (void)state;
    static const char code[] = "\x66\xba\xff\x03\xec\xfe\xc0\xee\xff\x05\x00\x00\x20\x00\xeb\xf0";
    struct box *box = box_create(1);
    box_boot(box, code, sizeof(code) - 1);
    for (unsigned i = 0; i < 200; i++) {
        box_resume(box);
        usleep(i * 7 % 300);
        box_pause(box);
    }
    struct box_sections sections;
    box_save(box, &sections);
    struct vcpu_state *vcpu = calloc(1, sizeof(*vcpu));
    const struct machine_section *s = box_find(&sections, "vcpu0");
    assert_int_equal(state_load(&vcpu_table, s->version, s->data, s->size, NULL, vcpu, NULL), 0);
    /* al follows the counter by at most the instructions between inc, out and incl. */
    uint8_t al = (uint8_t)vcpu->rax;
    uint8_t count = (uint8_t)box_load_u32(box, BOX_COUNTER);
    assert_true(box_load_u32(box, BOX_COUNTER) > 0);
    assert_true((uint8_t)(al - count) <= 1);
    free(vcpu);
    box_free(&sections);
    box_destroy(box);
}

static void halted_guest_can_be_paused(void **state)
{
    (void)state;
    struct box *box = box_create(2); /* the second vCPU waits for its INIT */
    box_boot(box, BOX_HALT_CODE, sizeof(BOX_HALT_CODE) - 1);
    for (unsigned i = 0; i < 20; i++) {
        box_resume(box);
        usleep(1000);
        box_pause(box);
    }
    box_destroy(box);
}

static void triple_fault_is_a_reset(void **state)
{
    (void)state;
    /* lidt (an empty one at 0x200000); ud2 */
    static const char code[] = "\x0f\x01\x1d\x00\x00\x20\x00\x0f\x0b";
    struct ferry_error err;
    struct box *box = box_create(1);
    box_boot(box, code, sizeof(code) - 1);
    box_resume(box);
    box_wait_event(box, MACHINE_EVENT_RESET);
    assert_false(machine_is_running(box->machine));
    box_pause(box);
    assert_int_equal(machine_resume(box->machine, &err), -ESHUTDOWN);
    assert_non_null(strstr(err.message, "reset"));
    /* From here the owner may start it anew. */
    assert_int_equal(machine_reset(box->machine, &err), 0);
    box_boot(box, BOX_COUNT_CODE, sizeof(BOX_COUNT_CODE) - 1);
    box_resume(box);
    box_wait_change(box, BOX_COUNTER, 0);
    assert_int_equal(box->events[MACHINE_EVENT_RESET], 1);
    box_destroy(box);
}

static int refuse_all(void *opaque, const struct machine_section *section, struct ferry_error *err)
{
    (void)opaque;
    return ferry_fail(err, -EIO, section->name, "must not be called");
}

static void keyboard_reset_stops_and_nothing_is_saved(void **state)
{
    (void)state;
    /* mov $0xfe, %al; out %al, $0x64; then count, which must not happen for long */
    static const char code[] = "\xb0\xfe\xe6\x64" BOX_COUNT_CODE;
    struct ferry_error err;
    struct box *box = box_create(2);
    box_boot(box, code, sizeof(code) - 1);
    box_resume(box);
    box_wait_event(box, MACHINE_EVENT_RESET);
    box_pause(box);
    assert_int_equal(machine_save(box->machine, refuse_all, NULL, &err), -ESHUTDOWN);
    box_destroy(box);
}

static void failure_is_told(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box *box = box_create(1);
    /* jump to where no memory is: KVM cannot fetch instructions from MMIO.  mov $0xd0000000, %eax;
     * jmp *%eax */
    static const char code[] = "\xb8\x00\x00\x00\xd0\xff\xe0";
    box_boot(box, code, sizeof(code) - 1);
    box_resume(box);
    box_wait_event(box, MACHINE_EVENT_FAILED);
    const struct ferry_error *failure = machine_failure(box->machine);
    assert_int_not_equal(failure->code, 0);
    assert_string_equal(failure->about, "vCPU 0");
    assert_non_null(strstr(failure->message, "rip 0xd0000000"));
    box_pause(box);
    assert_int_equal(machine_resume(box->machine, &err), -ESHUTDOWN);
    box_destroy(box);
}

static void state_needs_a_pause(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box *box = box_create(1);
    const struct machine_section section = {.name = "clock", .version = 1};
    box_boot(box, BOX_COUNT_CODE, sizeof(BOX_COUNT_CODE) - 1);
    box_resume(box);
    assert_int_equal(machine_save(box->machine, refuse_all, NULL, &err), -EBUSY);
    assert_int_equal(machine_load_section(box->machine, &section, &err), -EBUSY);
    assert_int_equal(machine_load_commit(box->machine, &err), -EBUSY);
    box_destroy(box);
}

static void reset_goes_back_to_power_on(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box *box = box_create(2);
    struct box_sections before, after;
    box_save(box, &before);
    /* load GDT, change CR0 and a debug register, mask nothing: any change will do */
    static const char code[] = "\x0f\x20\xc0\x0d\x20\x00\x00\x00\x0f\x22\xc0"
                               "\xb8\x34\x12\x00\x00\x0f\x23\xc0" BOX_COUNT_CODE;
    box_boot(box, code, sizeof(code) - 1);
    box_resume(box);
    box_wait_change(box, BOX_COUNTER, 0);
    assert_int_equal(machine_reset(box->machine, &err), 0);
    box_save(box, &after);
    static const char *const same[] = {"vcpu0", "vcpu1", "pic", "ioapic", "serial0", "pci"};
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        const struct machine_section *x = box_find(&before, same[i]);
        const struct machine_section *y = box_find(&after, same[i]);
        if (x->size != y->size || memcmp(x->data, y->data, x->size) != 0)
            fail_msg("%s is not as at power on", same[i]);
    }
    box_free(&before);
    box_free(&after);
    box_destroy(box);
}

static void too_much_is_refused(void **state)
{
    (void)state;
    struct ferry_error err;
    struct machine *machine = NULL;
    struct box *box = box_create(1);
    const struct machine_host host = {0};
    struct machine_config *config = calloc(1, sizeof(*config));
    assert_non_null(config);
    *config = box->config;
    config->memory_bytes = LIMIT_MEMORY_BYTES;
    assert_int_equal(machine_create(config, &host, &machine, &err), -ENOMEM);
    assert_non_null(strstr(err.message, "too much"));
    *config = box->config;
    config->cpus = LIMIT_VCPUS + 1;
    assert_int_equal(machine_create(config, &host, &machine, &err), -EINVAL);
    assert_null(machine);
    free(config);
    box_destroy(box);
}

/* Without scaling a frequency may be off by what KVM itself tolerates, and no more. */
static void tsc_frequency_is_checked(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box *box = box_create(1);
    const struct machine_host host = {0};
    struct machine_config *config = calloc(1, sizeof(*config));
    struct machine *machine = NULL;

    assert_non_null(config);
    assert_true(box->config.tsc_khz > 0);
    bool scales = kvm_capability(box->machine->vm_fd, KVM_CAP_TSC_CONTROL);
    static const struct {
        int ppm;
        bool taken;
    } cases[] = {{200, true}, {-200, true}, {300, false}, {-300, false}, {500000, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        *config = box->config;
        config->tsc_khz =
            (uint32_t)(config->tsc_khz + (int64_t)config->tsc_khz * cases[i].ppm / 1000000);
        int rc = machine_create(config, &host, &machine, &err);
        if (rc && (cases[i].taken || scales || err.kind != FERRY_REFUSED))
            fail_msg("%d ppm: %s", cases[i].ppm, err.message);
        if (!rc && !cases[i].taken && !scales)
            fail_msg("%d ppm is taken", cases[i].ppm);
        if (!rc)
            machine_destroy(machine);
    }
    free(config);
    box_destroy(box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boots_and_runs),
        cmocka_unit_test(pause_means_pause),
        cmocka_unit_test(pause_and_resume_in_haste),
        cmocka_unit_test(no_access_is_lost_or_doubled),
        cmocka_unit_test(halted_guest_can_be_paused),
        cmocka_unit_test(triple_fault_is_a_reset),
        cmocka_unit_test(keyboard_reset_stops_and_nothing_is_saved),
        cmocka_unit_test(failure_is_told),
        cmocka_unit_test(state_needs_a_pause),
        cmocka_unit_test(reset_goes_back_to_power_on),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(tsc_frequency_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
