/*
 * The handover table: well formed, printed as it is, and safe in every interleaving (the model is
 * tests/support/handover_model.h).  To prove that the checker sees, the table is then broken in one
 * place after another and it must complain.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/handover_model.h"

static void explore_real_table(bool locks_work)
{
    struct rules_of_world rules = {.table = &handover_table, .locks_work = locks_work};
    struct graph g;

    explore(&g, &rules, 2, true);
    printf("handover, disk locks %s: %zu states, %zu steps without faults, no violation%s\n",
           locks_work ? "work" : "do not reach the other host", g.count, g.edge_count,
           g.violation ? " EXPECTED, BUT:" : "");
    if (g.violation) {
        printf("%s\n", g.violation);
        print_world(&g.bad);
    }
    assert_null(g.violation);
    assert_true(g.count > 10000);
    graph_free(&g);
}

static void test_no_interleaving_breaks_a_promise(void **state)
{
    (void)state;
    explore_real_table(true);
}

static void test_promises_hold_without_disk_locks(void **state)
{
    (void)state;
    explore_real_table(false);
}

/* ---- the checker must find what is broken ---- */

struct mutation {
    const char *what;
    struct handover_rule rule; /* replaces that of its state and event, or is added */
    bool owned_unchecked, aborted_unlogged, restart_runs;
};

static const struct mutation mutations[] = {
    {"the source resumes at a timeout after COMMIT",
     {SOURCE_COMMITTED, EVENT_LOST, {ACTION_TAKE_DISKS}, SOURCE_TAKING_BACK},
     false,
     false,
     false},
    {"the source resumes when the answer is UNKNOWN",
     {SOURCE_IN_DOUBT, EVENT_UNKNOWN, {ACTION_TAKE_DISKS}, SOURCE_TAKING_BACK},
     false,
     false,
     false},
    {"the user's cancel counts after COMMIT",
     {SOURCE_COMMITTED, EVENT_CANCEL, {ACTION_RESUME}, SOURCE_KEPT},
     false,
     false,
     false},
    {"COMMIT is sent before HANDOVER is logged",
     {SOURCE_PAUSED, EVENT_READY, {ACTION_SEND_COMMIT, ACTION_LOG_HANDOVER}, SOURCE_LOGGING},
     false,
     false,
     false},
    {"the source resumes without taking its disks back",
     {SOURCE_COMMITTED, EVENT_ABORTED, {ACTION_RESUME}, SOURCE_KEPT},
     false,
     false,
     false},
    {"the destination runs before it logs",
     {DESTINATION_TAKING, EVENT_DONE, {ACTION_RESUME, ACTION_SEND_RUNNING}, DESTINATION_RUNNING},
     false,
     false,
     false},
    {"the destination runs without COMMIT",
     {DESTINATION_LOADING, EVENT_DONE, {ACTION_TAKE_DISKS}, DESTINATION_TAKING},
     false,
     false,
     false},
    {"the destination runs although the log refuses",
     {DESTINATION_DECIDING,
      EVENT_FAILED,
      {ACTION_RESUME, ACTION_SEND_RUNNING},
      DESTINATION_RUNNING},
     false,
     false,
     false},
    {"the destination says ABORTED before it logs so",
     {DESTINATION_READY, EVENT_LOST, {ACTION_SEND_ABORTED}, DESTINATION_READY},
     false,
     false,
     false},
    {"RUNNING is sent before OWNED is logged, and nothing follows",
     {DESTINATION_TAKING,
      EVENT_DONE,
      {ACTION_SEND_RUNNING, ACTION_LOG_ABORTED},
      DESTINATION_ABORTING},
     false,
     false,
     false},
    {"the source never asks",
     {SOURCE_IN_DOUBT, EVENT_QUERY, {ACTION_NONE}, SOURCE_IN_DOUBT},
     false,
     false,
     false},
    {"HELD is never tried again",
     {SOURCE_HELD, EVENT_QUERY, {ACTION_NONE}, SOURCE_HELD},
     false,
     false,
     false},
    {"the source waits for READY for ever",
     {SOURCE_PAUSED, EVENT_LOST, {ACTION_NONE}, SOURCE_PAUSED},
     false,
     false,
     false},
    {"a failed release of the disks hands over all the same",
     {SOURCE_RELEASING, EVENT_FAILED, {ACTION_SEND_ABORT}, SOURCE_IN_DOUBT},
     false,
     false,
     false},
    {"OWNED is logged over ABORTED", {0}, true, false, false},
    {"STATUS is answered ABORTED without a log", {0}, false, true, false},
    {"a source that restarts runs its old guest", {0}, false, false, true},
};

static const char *explore_mutation(const struct mutation *mutation, bool locks_work)
{
    struct handover_rule copy[256];
    struct handover_table table = {copy, handover_table.count};
    struct rules_of_world rules = {.table = &table,
                                   .locks_work = locks_work,
                                   .owned_unchecked = mutation->owned_unchecked,
                                   .aborted_unlogged = mutation->aborted_unlogged,
                                   .restart_runs = mutation->restart_runs};
    struct graph g;
    size_t at = 0;

    assert_true(handover_table.count < 250);
    memcpy(copy, handover_table.rules, handover_table.count * sizeof(*copy));
    while (at < table.count &&
           (copy[at].state != mutation->rule.state || copy[at].event != mutation->rule.event))
        at++;
    if (mutation->rule.state) {
        copy[at] = mutation->rule;
        table.count += at == table.count;
    }
    explore(&g, &rules, 1, true);
    graph_free(&g);
    return g.violation;
}

static void test_checker_finds_broken_tables(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof(mutations) / sizeof(mutations[0]); m++) {
        const char *found = explore_mutation(&mutations[m], true);
        if (!found)
            found = explore_mutation(&mutations[m], false);
        printf("broken: %s: %s\n", mutations[m].what, found ? found : "NOT FOUND");
        assert_non_null(found);
    }
}

/* ---- the table as such ---- */

static void test_table_is_well_formed(void **state)
{
    (void)state;
    for (size_t i = 0; i < handover_table.count; i++) {
        const struct handover_rule *rule = &handover_table.rules[i];
        assert_ptr_equal(handover_find(&handover_table, rule->state, rule->event), rule);
        assert_int_equal(handover_role_of(rule->state), handover_role_of(rule->next));
        size_t last = 0;
        for (size_t a = 0; a < HANDOVER_ACTIONS_MAX && rule->actions[a]; a++)
            last = a;
        bool fallible = handover_is_fallible(rule->actions[last]);
        bool awaits = handover_find(&handover_table, rule->next, EVENT_DONE) != NULL;
        assert_int_equal(fallible, awaits);
        assert_int_equal(awaits, handover_find(&handover_table, rule->next, EVENT_FAILED) != NULL);
    }
}

struct text {
    char *at;
    size_t size;
};

static void collect(void *opaque, const char *text)
{
    struct text *t = opaque;
    size_t length = strlen(text);

    t->at = realloc(t->at, t->size + length + 1);
    assert_non_null(t->at);
    memcpy(t->at + t->size, text, length + 1);
    t->size += length;
}

static void test_protocol_md_prints_this_table(void **state)
{
    static const char begin[] = "<!-- generated from migrate/handover.c: begin -->\n";
    static const char end[] = "<!-- generated from migrate/handover.c: end -->\n";
    struct text table = {0}, file = {0};
    char line[4096];
    FILE *f = fopen("migrate/PROTOCOL.md", "r");

    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        collect(&file, line);
    fclose(f);
    handover_describe(collect, &table);
    if (!file.at || !table.at) {
        fail();
        return;
    }
    char *from = strstr(file.at, begin), *to = strstr(file.at, end);
    if (!from || !to) {
        fail_msg("the marks are missing");
        return;
    }
    from += sizeof(begin) - 1;
    if ((size_t)(to - from) != table.size || memcmp(from, table.at, table.size))
        fail_msg("migrate/PROTOCOL.md is out of date: put this between its marks:\n%s", table.at);
    free(table.at);
    free(file.at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_well_formed),
        cmocka_unit_test(test_protocol_md_prints_this_table),
        cmocka_unit_test(test_no_interleaving_breaks_a_promise),
        cmocka_unit_test(test_promises_hold_without_disk_locks),
        cmocka_unit_test(test_checker_finds_broken_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
