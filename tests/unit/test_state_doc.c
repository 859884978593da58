/*
 * vmm/STATE.md prints the state tables; here it is made anew and compared, and every table of the
 * machine is checked.  After a change of a table: FERRY_WRITE_DOCS=1
 * build/tests/unit/test_state_doc
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "vmm/machine_internal.h"
#include "vmm/state.h"

#define STATE_MD "vmm/STATE.md"
#define TABLES   64

static const char preface[] =
    "# Saved state\n\n"
    "What of a machine is written down, table by table, as the tables in the code declare it. Each "
    "is\none section of an image or a stream (the nested ones are elements of fields); the wire "
    "form "
    "is in\n`vmm/state.h`. Ids are never reused. This page is made by "
    "tests/unit/test_state_doc.c.\n";

static void put(void *opaque, const char *text)
{
    writer_copy(opaque, text, strlen(text));
}

/* Every table once, the nested ones behind those that hold them first. */
static size_t collect(const struct state_table *table, const struct state_table **all, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (all[i] == table)
            return count;
    assert_true(count < TABLES);
    all[count++] = table;
    for (uint32_t i = 0; i < table->field_count; i++)
        if (table->fields[i].type == STATE_STRUCT)
            count = collect(table->fields[i].table, all, count);
    return count;
}

static size_t collect_all(const struct state_table **all)
{
    size_t count = 0;

    for (size_t i = 0; machine_table_at(i); i++)
        count = collect(machine_table_at(i), all, count);
    return count;
}

static void test_every_table_is_sound(void **unused)
{
    const struct state_table *all[TABLES];
    size_t count = collect_all(all);

    (void)unused;
    assert_true(count > 13);
    for (size_t i = 0; i < count; i++) {
        struct ferry_error err = {0};
        char text[600] = "";
        if (state_table_check(all[i], &err))
            fail_msg("%s", ferry_error_text(&err, text, sizeof(text)));
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(all[i]->name, all[k]->name);
    }
}

static void test_state_md_prints_the_tables(void **unused)
{
    const struct state_table *all[TABLES];
    size_t count = collect_all(all), size;
    CLEANUP(writer_free) struct writer made = writer_init(1 * MIB);
    CLEANUP_FREE uint8_t *there = NULL;

    (void)unused;
    put(&made, preface);
    for (size_t i = 0; i < count; i++)
        state_describe(all[i], put, &made);
    assert_int_equal(made.error, 0);
    if (getenv("FERRY_WRITE_DOCS"))
        assert_int_equal(atomic_file_write(STATE_MD, made.data, made.size, NULL), 0);
    assert_int_equal(file_read(STATE_MD, 1 * MIB, &there, &size, NULL), 0);
    if (size != made.size || memcmp(there, made.data, size))
        fail_msg("%s is out of date; FERRY_WRITE_DOCS=1 with this test renews it", STATE_MD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_table_is_sound),
        cmocka_unit_test(test_state_md_prints_the_tables),
    };
    return cmocka_run_group_tests_name("state_doc", tests, NULL, NULL);
}
