/* A machine's state on /dev/kvm: written down in one machine and read back in another. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "tests/support/box.h"
#include "vmm/clock_state.h"
#include "vmm/irqchip_state.h"
#include "vmm/vcpu_state.h"

#define DEADLINE_NS UINT64_C(20000000000)

static void *decode(const struct state_table *table, const struct machine_section *section)
{
    void *state = calloc(1, table->size);
    assert_non_null(state);
    assert_int_equal(
        state_load(table, section->version, section->data, section->size, NULL, state, NULL), 0);
    return state;
}

/* Put another state in the place of a section. */
static void encode(const struct state_table *table, const void *state,
                   struct box_sections *sections, const char *name)
{
    struct writer out CLEANUP(writer_free) = writer_init(LIMIT_SECTION_BYTES);
    assert_int_equal(state_save(table, state, &out, NULL), 0);
    box_replace(sections, name, take_ptr(&out.data), out.size);
}

/* The clock is the one section that must differ: time goes on. */
static void drop_clock(struct box_sections *sections)
{
    struct machine_section *clock = box_find(sections, "clock");
    clock->size = 0;
}

/* The age of the PIT's counts, too. */
static void settle(struct box_sections *sections)
{
    struct pit_state *pit = decode(&pit_table, box_find(sections, "pit"));
    for (unsigned i = 0; i < 3; i++)
        pit->channels[i].age_ns = 0;
    encode(&pit_table, pit, sections, "pit");
    free(pit);
    drop_clock(sections);
}

static struct box *running_box(uint32_t cpus)
{
    struct box *box = box_create(cpus);
    box_boot(box, BOX_COUNT_CODE, sizeof(BOX_COUNT_CODE) - 1);
    box_resume(box);
    box_wait_change(box, BOX_COUNTER, 0);
    box_pause(box);
    return box;
}

static void saving_changes_nothing(void **state)
{
    (void)state;
    struct box_sections a, b;
    struct box *box = running_box(2);
    box_save(box, &a);
    box_save(box, &b);
    settle(&a);
    settle(&b);
    box_assert_equal(&a, &b);
    box_free(&a);
    box_free(&b);
    box_destroy(box);
}

static void guest_goes_on_in_another_machine(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box_sections a, b;
    struct box *from = running_box(2);
    struct box *to = box_twin(from);

    box_save(from, &a);
    box_copy_ram(to, from);
    assert_int_equal(box_load(to, &a, &err), 0);
    box_save(to, &b);
    settle(&a);
    settle(&b);
    box_assert_equal(&a, &b);
    uint32_t counter = box_load_u32(to, BOX_COUNTER);
    assert_int_equal(counter, box_load_u32(from, BOX_COUNTER));
    box_resume(to);
    box_wait_change(to, BOX_COUNTER, counter);
    box_pause(to);
    assert_true(box_load_u32(to, BOX_COUNTER) > counter);
    assert_int_equal(box_load_u32(from, BOX_COUNTER), counter);
    box_free(&a);
    box_free(&b);
    box_destroy(to);
    box_destroy(from);
}

/* Values that no guest of a few instructions would make. */
static void fill_vcpu(struct vcpu_state *v)
{
    v->rax = 0x1111222233334444;
    v->r8 = UINT64_MAX;
    v->r15 = 0x8000000000000001;
    v->dr6 |= 0xf;
    v->debug_addresses[3] = 0xdeadb000;
    v->cr2 = 0xfeedf00d;
    v->cr4 |= 1 << 18 | 1 << 9; /* OSXSAVE, OSFXSR */
    for (uint32_t i = 0; i < v->xcr_count; i++)
        if (v->xcrs[i].index == 0)
            v->xcrs[i].value = 7; /* x87, SSE, AVX */
    for (unsigned i = 0; i < 256; i++)
        v->xsave[160 + i] = (uint8_t)(i * 7 + 1); /* xmm0..15 */
    for (unsigned i = 0; i < 256; i++)
        v->xsave[576 + i] = (uint8_t)(i * 5 + 3); /* upper halves of ymm0..15 */
    v->xsave[512] = 7;                            /* XSTATE_BV */
    for (uint32_t i = 0; i < v->msr_count; i++)
        if (v->msrs[i].index == 0xc0000102) /* KERNEL_GS_BASE */
            v->msrs[i].value = 0xffff800012345678;
        else if (v->msrs[i].index == 0x2ff) /* MTRRs on, write-back */
            v->msrs[i].value = 0x806;
        else if (v->msrs[i].index == 0x200) /* a variable range */
            v->msrs[i].value = 0xc0000000;
}

static bool has_avx(const struct box *box)
{
    for (uint32_t i = 0; i < box->config.cpuid_count; i++)
        if (box->config.cpuid[i].function == 0xd && box->config.cpuid[i].index == 0)
            return box->config.cpuid[i].eax & 1u << 2;
    return false;
}

static void rare_registers_survive(void **state)
{
    (void)state;
    struct ferry_error err = {0};
    struct box_sections a, b;
    struct box *box = running_box(2);

    if (!has_avx(box)) {
        print_message("no AVX on this host: skipped\n");
        box_destroy(box);
        skip();
    }
    box_save(box, &a);
    struct vcpu_state *v = decode(&vcpu_table, box_find(&a, "vcpu1"));
    fill_vcpu(v);
    encode(&vcpu_table, v, &a, "vcpu1");
    if (box_load(box, &a, &err))
        fail_msg("%s: %s (%s)", err.about, err.message, err.cause);
    box_save(box, &b);
    settle(&a);
    settle(&b);
    box_assert_equal(&a, &b);
    free(v);
    box_free(&a);
    box_free(&b);
    box_destroy(box);
}

/* Run for a moment, but until the guest has taken three of the bytes that follow *typed. */
static void run_and_type(struct box *box, uint8_t *typed, uint64_t moment_ns)
{
    uint64_t start = monotonic_ns();
    uint8_t first = *typed;

    box->output_size = 0;
    box_resume(box);
    while ((uint8_t)(*typed - first) < 3 || monotonic_ns() - start < moment_ns) {
        *typed += (uint8_t)machine_serial_input(box->machine, typed, 1);
        if (monotonic_ns() - start > DEADLINE_NS)
            fail_msg("the guest takes no input");
    }
    box_pause(box);
}

/*
 * The guest echoes what is typed on COM1 and hops between two machines at any point.  Reading the
 * receive buffer takes the byte out of it: one that is missing was read by an access that the
 * pause left half done, one that comes twice was written by such.
 *   loop: mov $0x3fd, %dx; in %dx, %al; test $1, %al; jz loop
 *         mov $0x3f8, %dx; in %dx, %al; out %al, %dx; jmp loop
 */
static void accesses_survive_hops(void **state)
{
    (void)state;
    static const char code[] = "\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7"
                               "\x66\xba\xf8\x03\xec\xee\xeb\xef";
    struct ferry_error err;
    struct box *here = box_create(1);
    struct box *there = box_twin(here);
    uint8_t typed = 0, next = 0;
    unsigned bytes = 0;

    box_boot(here, code, sizeof(code) - 1);
    box_copy_ram(there, here);
    for (unsigned hop = 0; hop < 150; hop++) {
        struct box_sections all;
        run_and_type(here, &typed, 200000 + hop * UINT64_C(1300) % 100000);
        for (size_t i = 0; i < here->output_size; i++)
            if (here->output[i] != next++)
                fail_msg("byte %zu of %zu after hop %u is %u, not %u", i, here->output_size, hop,
                         here->output[i], (uint8_t)(next - 1));
        assert_true(here->output_size < BOX_OUTPUT);
        bytes += (unsigned)here->output_size;
        box_save(here, &all);
        assert_int_equal(box_load(there, &all, &err), 0);
        box_free(&all);
        struct box *swap = here;
        here = there;
        there = swap;
    }
    assert_true(bytes > 100);
    box_destroy(here);
    box_destroy(there);
}

/* What a section becomes, and what the refusal must be about. */
struct damage {
    const char *section;
    const struct state_table *table;
    void (*damage)(void *state);
    const char *word;
};

static void bad_cr0(void *state)
{
    ((struct vcpu_state *)state)->cr0 = 0x80000000; /* PG without PE */
}
static void bad_msr_value(void *state)
{
    struct vcpu_state *v = state;
    for (uint32_t i = 0; i < v->msr_count; i++)
        if (v->msrs[i].index == 0xc0000082)
            v->msrs[i].value = UINT64_C(1) << 62; /* not canonical */
}
static void foreign_msr(void *state)
{
    struct vcpu_state *v = state;
    v->msrs[v->msr_count++] = (struct msr_value){0xc0010fff, 1};
}
static void bad_xcr0(void *state)
{
    struct vcpu_state *v = state;
    v->xcrs[0].value = 6; /* x87 cannot be off */
}
static void bad_xstate(void *state)
{
    ((struct vcpu_state *)state)->xsave[519] = 0x40; /* XSTATE_BV: a component of the future */
}
static void bad_cr4(void *state)
{
    ((struct vcpu_state *)state)->cr4 |= 1u << 30; /* reserved */
}
static void short_xsave(void *state)
{
    ((struct vcpu_state *)state)->xsave_bytes = 512;
}
static void bad_pit_mode(void *state)
{
    ((struct pit_state *)state)->channels[1].mode = 9;
}
static void more_tscs(void *state)
{
    ((struct clock_state *)state)->tsc_count++;
}

static const struct damage damages[] = {
    {"vcpu0", &vcpu_table, bad_cr0, "SREGS"},
    {"vcpu1", &vcpu_table, bad_msr_value, "LSTAR"},
    {"vcpu0", &vcpu_table, foreign_msr, "0xc0010fff"},
    {"vcpu1", &vcpu_table, bad_xcr0, "XCRS"},
    {"vcpu0", &vcpu_table, bad_xstate, "XSAVE"},
    {"vcpu1", &vcpu_table, bad_cr4, "SREGS"},
    {"vcpu0", &vcpu_table, short_xsave, "xsave"},
    {"pit", &pit_table, bad_pit_mode, "mode"},
    {"clock", &clock_table, more_tscs, "tsc"},
};

/* So that a load that is left half done shows. */
static void make_different(struct box_sections *sections)
{
    static const char *const names[] = {"vcpu0", "vcpu1"};
    for (size_t i = 0; i < 2; i++) {
        struct vcpu_state *v = decode(&vcpu_table, box_find(sections, names[i]));
        v->r12 = 0x1234567800 + i;
        v->xsave[160] ^= 0xff;
        v->lapic[0x80] ^= 0x10; /* task priority */
        v->cr8 ^= 1;
        encode(&vcpu_table, v, sections, names[i]);
        free(v);
    }
}

static void refused_loads_change_nothing(void **state)
{
    (void)state;
    struct box_sections good, now;
    struct box *from = running_box(2), *box = running_box(2);

    box_save(box, &good);
    settle(&good);
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        const struct damage *d = &damages[i];
        struct ferry_error err = {0};
        struct box_sections bad;
        box_save(from, &bad);
        make_different(&bad);
        void *damaged = decode(d->table, box_find(&bad, d->section));
        d->damage(damaged);
        encode(d->table, damaged, &bad, d->section);
        free(damaged);
        if (box_load(box, &bad, &err) == 0)
            fail_msg("damage %zu of %s is taken", i, d->section);
        machine_load_abandon(box->machine);
        char text[1024];
        ferry_error_text(&err, text, sizeof(text));
        if (err.kind != FERRY_REFUSED || !strstr(text, d->word))
            fail_msg("damage %zu of %s: %s", i, d->section, text);
        box_save(box, &now);
        settle(&now);
        box_assert_equal(&good, &now);
        box_free(&now);
        box_free(&bad);
    }
    uint32_t counter = box_load_u32(box, BOX_COUNTER);
    box_resume(box);
    box_wait_change(box, BOX_COUNTER, counter);
    box_free(&good);
    box_destroy(box);
    box_destroy(from);
}

static void sections_missing_double_and_unknown_are_refused(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box_sections all;
    struct box *box = running_box(2), *single = box_create(1);

    box_save(box, &all);
    for (size_t skip_one = 0; skip_one < all.count; skip_one++) {
        for (size_t i = 0; i < all.count; i++)
            if (i != skip_one)
                assert_int_equal(machine_load_section(box->machine, &all.section[i], &err), 0);
        assert_int_equal(machine_load_commit(box->machine, &err), -EBADMSG);
        assert_int_equal(err.kind, FERRY_REFUSED);
        assert_string_equal(err.about, all.section[skip_one].name);
        machine_load_abandon(box->machine);
    }
    assert_int_equal(machine_load_section(box->machine, &all.section[1], &err), 0);
    assert_int_equal(machine_load_section(box->machine, &all.section[1], &err), -EBADMSG);
    machine_load_abandon(box->machine);
    /* vcpu1 is no part of a machine with one vCPU. */
    assert_int_equal(machine_load_section(single->machine, box_find(&all, "vcpu1"), &err),
                     -EBADMSG);
    assert_string_equal(err.about, "vcpu1");
    box_free(&all);
    box_destroy(single);
    box_destroy(box);
}

/* Time goes on over a load by the time that has really passed, on every clock, and never back. */
static void clocks_never_go_back(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box_sections a, b;
    struct box *from = running_box(2), *to = box_twin(from);

    box_save(from, &a);
    usleep(50000);
    assert_int_equal(box_load(to, &a, &err), 0);
    box_save(to, &b);
    struct clock_state *old = decode(&clock_table, box_find(&a, "clock"));
    struct clock_state *new = decode(&clock_table, box_find(&b, "clock"));
    uint64_t real = new->realtime_ns - old->realtime_ns;
    uint64_t guest = new->kvmclock_ns - old->kvmclock_ns;
    assert_true(real >= 50000000);
    assert_true(guest + 5000000 > real && guest < real + 5000000);
    assert_true(new->tsc[0] > old->tsc[0]);
    assert_int_equal(new->tsc_count, 2);
    /* A source whose clock is ahead: no time has passed, but none is lost either. */
    old->realtime_ns += UINT64_C(3600000000000);
    encode(&clock_table, old, &a, "clock");
    assert_int_equal(box_load(from, &a, &err), 0);
    box_free(&b);
    box_save(from, &b);
    struct clock_state *third = decode(&clock_table, box_find(&b, "clock"));
    assert_true(third->kvmclock_ns >= old->kvmclock_ns);
    assert_true(third->kvmclock_ns < old->kvmclock_ns + UINT64_C(1000000000));
    free(old);
    free(new);
    free(third);
    box_free(&a);
    box_free(&b);
    box_destroy(to);
    box_destroy(from);
}

static void every_section_has_json(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box_sections all;
    struct box *box = running_box(2);

    box_save(box, &all);
    for (size_t i = 0; i < all.count; i++) {
        json_t *json = NULL;
        assert_int_equal(machine_section_to_json(&all.section[i], &json, &err), 0);
        assert_true(json_is_object(json));
        if (strcmp(all.section[i].name, "vcpu0") == 0)
            assert_non_null(json_object_get(json, "rip"));
        json_decref(json);
    }
    struct machine_section unknown = all.section[0];
    static const char *const names[] = {"", "vcpu", "vcpux", "clock0", "vdq", "vd", "teapot"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        json_t *json = NULL;
        unknown.name = names[i];
        assert_int_equal(machine_section_to_json(&unknown, &json, &err), -ENOENT);
    }
    box_free(&all);
    box_destroy(box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saving_changes_nothing),
        cmocka_unit_test(guest_goes_on_in_another_machine),
        cmocka_unit_test(accesses_survive_hops),
        cmocka_unit_test(rare_registers_survive),
        cmocka_unit_test(refused_loads_change_nothing),
        cmocka_unit_test(sections_missing_double_and_unknown_are_refused),
        cmocka_unit_test(clocks_never_go_back),
        cmocka_unit_test(every_section_has_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
