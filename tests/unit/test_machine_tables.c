/* The tables of all sections: sound in themselves, and save -> load -> save for random states. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "tests/support/fake_platform.h"
#include "vmm/clock_state.h"
#include "vmm/irqchip_state.h"
#include "vmm/machine_internal.h"
#include "vmm/vcpu_state.h"

static void all_tables_are_sound(void **state)
{
    (void)state;
    const struct state_table *table;
    struct ferry_error err;
    size_t count = 0;
    for (; (table = machine_table_at(count)); count++)
        if (state_table_check(table, &err))
            fail_msg("%s: %s", err.about, err.message);
    assert_int_equal(count, 13);
}

/* What the tables' checks demand beyond ranges. */
static void make_valid(const struct state_table *table, void *state)
{
    if (table == &vcpu_table) {
        struct vcpu_state *v = state;
        v->xsave_bytes = VCPU_XSAVE_LEAST + v->xsave_bytes % VCPU_XSAVE_LEAST / 4 * 4;
        for (uint32_t i = 0; i < v->msr_count; i++)
            v->msrs[i].index = i * 1000 + v->msrs[i].index % 1000;
    } else if (table == &pit_table) {
        struct pit_state *pit = state;
        for (unsigned i = 0; i < 3; i++)
            pit->channels[i].mode =
                pit->channels[i].mode % 7 == 6 ? 0xff : pit->channels[i].mode % 7;
    }
}

static void round_trip(const struct state_table *table, uint64_t *seed)
{
    struct writer first CLEANUP(writer_free) = writer_init(LIMIT_SECTION_BYTES);
    struct writer second CLEANUP(writer_free) = writer_init(LIMIT_SECTION_BYTES);
    void *state CLEANUP_FREE = calloc(1, table->size);
    void *loaded CLEANUP_FREE = calloc(1, table->size);
    struct ferry_error err;

    assert_non_null(state);
    assert_non_null(loaded);
    fake_random_state(table, state, seed);
    make_valid(table, state);
    assert_int_equal(state_save(table, state, &first, &err), 0);
    if (state_load(table, table->version, first.data, first.size, NULL, loaded, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_int_equal(state_save(table, loaded, &second, &err), 0);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    json_t *json = state_to_json(table, loaded);
    assert_non_null(json);
    json_decref(json);
    /* Cut short anywhere, it is refused. */
    size_t cut = fake_random(seed) % first.size;
    assert_true(state_load(table, table->version, first.data, cut, NULL, loaded, &err) < 0);
    assert_int_equal(err.kind, FERRY_REFUSED);
}

static void random_states_round_trip(void **state)
{
    (void)state;
    static const struct state_table *const tables[] = {&clock_table, &vcpu_table, &pic_table,
                                                       &ioapic_table, &pit_table};
    uint64_t seed = 42;
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        for (unsigned round = 0; round < 200; round++)
            round_trip(tables[i], &seed);
}

/* Fields out of their ranges. */
static void expect_refused(const struct state_table *table, const void *state, const char *field)
{
    struct writer out CLEANUP(writer_free) = writer_init(LIMIT_SECTION_BYTES);
    void *loaded CLEANUP_FREE = calloc(1, table->size);
    struct ferry_error err;
    char text[1024];
    assert_int_equal(state_save(table, state, &out, NULL), 0);
    if (state_load(table, table->version, out.data, out.size, NULL, loaded, &err) == 0)
        fail_msg("%s is taken", field);
    if (err.kind != FERRY_REFUSED || !strstr(ferry_error_text(&err, text, sizeof(text)), field))
        fail_msg("%s: %s", field, text);
}

static struct vcpu_state *valid_vcpu(void)
{
    struct vcpu_state *v = calloc(1, sizeof(*v));
    assert_non_null(v);
    v->xsave_bytes = VCPU_XSAVE_LEAST;
    v->msr_count = 2;
    v->msrs[0].index = 1;
    v->msrs[1].index = 2;
    return v;
}

static void bad_vcpus_are_refused(void **state)
{
    (void)state;
    struct vcpu_state *v = valid_vcpu();
    v->mp_state = 9;
    expect_refused(&vcpu_table, v, "mp_state");
    free(v);
    v = valid_vcpu();
    v->cr8 = 16;
    expect_refused(&vcpu_table, v, "cr8");
    free(v);
    v = valid_vcpu();
    v->segments[SEG_SS].dpl = 4;
    expect_refused(&vcpu_table, v, "dpl");
    free(v);
    v = valid_vcpu();
    v->events[0].exception_nr = 32;
    expect_refused(&vcpu_table, v, "exception_nr");
    free(v);
    v = valid_vcpu();
    v->msrs[1].index = 1;
    expect_refused(&vcpu_table, v, "msrs");
    free(v);
    v = valid_vcpu();
    v->xsave_bytes = VCPU_XSAVE_LEAST - 1;
    expect_refused(&vcpu_table, v, "xsave");
    free(v);
    v = valid_vcpu();
    v->sregs_flags = 2;
    expect_refused(&vcpu_table, v, "sregs_flags");
    free(v);
}

static void bad_controllers_are_refused(void **state)
{
    (void)state;
    struct ioapic_state ioapic = {.base_address = 0xfec00000};
    ioapic.irr = 1 << 24;
    expect_refused(&ioapic_table, &ioapic, "irr");
    ioapic.irr = 0;
    ioapic.base_address = 0;
    expect_refused(&ioapic_table, &ioapic, "base_address");
    struct pic_state pic = {0};
    pic.chips[1].priority_add = 8;
    expect_refused(&pic_table, &pic, "priority_add");
    struct pit_state pit = {0};
    pit.channels[2].mode = 6;
    expect_refused(&pit_table, &pit, "mode");
    pit.channels[2].mode = 0;
    pit.channels[0].count = 0x10001;
    expect_refused(&pit_table, &pit, "count");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_tables_are_sound),
        cmocka_unit_test(random_states_round_trip),
        cmocka_unit_test(bad_vcpus_are_refused),
        cmocka_unit_test(bad_controllers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
