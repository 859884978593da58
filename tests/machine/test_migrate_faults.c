/*
 * The fault matrix of the move: the connection is cut, falls silent, or damages a byte, at every
 * frame of either direction; the user cancels at every frame; disks cannot be had.  After each of
 * these exactly one side has the guest, at once or after asking, and in the end the guest has said
 * what an undisturbed one says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/two_hosts.h"
#include "vmm/block.h"

#define OPTIONS     "fill=6 ws=2 rate=10 period=20 avx=1"
#define TIMEOUT_NS  (250 * UINT64_C(1000000))
#define PATIENCE_NS (10 * UINT64_C(1000000000)) /* where nothing is to fail */
#define LAST_FRAMES 34 /* what comes after the bulk of pages: rounds, state, handover */
#define END_FRAMES  9  /* of these, the end of the state and the handover */

static struct two_hosts hosts;
static struct {
    unsigned kept, moved, asked_kept, asked_moved;
} tally;

static int teardown(void **state)
{
    (void)state;
    two_hosts_close(&hosts);
    memset(&tally, 0, sizeof(tally));
    return 0;
}

static bool has(unsigned host)
{
    return hosts.host[host].payload.machine != NULL;
}

static void arrived(void)
{
    two_hosts_leave(&hosts, hosts.here);
    hosts.here = !hosts.here;
}

/* In doubt: the source stands still and says so, until the other host answers. */
static void resolve_by_asking(void)
{
    struct machine *machine = two_hosts_guest(&hosts)->machine;
    struct migrate_options options = move_options(&hosts, PATIENCE_NS);
    struct migrate_result result;
    struct ticket_record record;
    struct ferry_error err = {0};
    struct arrival answer;
    uint64_t epoch = machine_config(machine)->epoch;

    assert_false(two_hosts_runs(&hosts, hosts.here));
    must(ticket_find(options.tickets, machine_config(machine)->vm_id, TICKET_SOURCE, &record, &err),
         &err);
    assert_int_equal(record.state, TICKET_HANDOVER);
    arrival_start(&answer, &hosts.host[!hosts.here], NULL, 0, 1, PATIENCE_NS);
    options.uri = NULL; /* the ticket knows */
    int error = migrate_query(machine, &options, &result, &err);
    arrival_join(&answer);
    must(error, &err);
    assert_true(answer.result.answered_only);
    if (has(!hosts.here)) {
        assert_int_equal(result.outcome, MIGRATE_MOVED);
        assert_true(answer.result.source_released);
        assert_false(two_hosts_runs(&hosts, hosts.here));
        tally.asked_moved++;
        arrived();
    } else {
        assert_int_equal(result.outcome, MIGRATE_KEPT);
        assert_true(two_hosts_runs(&hosts, hosts.here));
        assert_true(machine_config(machine)->epoch > epoch);
        tally.asked_kept++;
    }
}

/* One move with this fault; whatever comes of it must be right. */
static void attempt(const struct fault *fault, struct progress *progress)
{
    struct progress none = {0};
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;

    int error = move_once(&hosts, &arrival, fault, fault ? 1 : 0, &options,
                          progress ? progress : &none, &result, &err);
    bool there = has(!hosts.here);
    assert_int_equal(arrival.error == 0, there);
    assert_int_equal(error == 0, result.outcome == MIGRATE_MOVED);
    switch (result.outcome) {
    case MIGRATE_MOVED:
        assert_true(there);
        tally.moved++;
        arrived();
        break;
    case MIGRATE_KEPT:
        assert_false(there);
        assert_true(err.message[0]);
        tally.kept++;
        break;
    case MIGRATE_IN_DOUBT:
        resolve_by_asking();
        break;
    }
    assert_true(two_hosts_runs(&hosts, hosts.here));
    assert_false(has(!hosts.here));
}

/* One frame of pages is like another, and so is one section of state. */
static bool is_worth_it(uint64_t frame, uint64_t total)
{
    if (frame < 3 || frame == 15 || frame + END_FRAMES >= total)
        return true;
    return frame + LAST_FRAMES >= total && frame % 3 == 0;
}

static uint64_t frames_of_a_move(enum fault_direction direction)
{
    struct progress progress = {0};
    struct migrate_options options = move_options(&hosts, PATIENCE_NS);
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;

    must(move_once(&hosts, &arrival, NULL, 0, &options, &progress, &result, &err), &err);
    arrived();
    return arrival.frames[direction];
}

static void everywhere(enum fault_direction direction, enum fault_kind kind, uint64_t within)
{
    two_hosts_start(&hosts, 1, OPTIONS);
    uint64_t total = frames_of_a_move(direction);
    for (uint64_t frame = 0; frame < total + 2; frame++) {
        const struct fault fault = {kind, direction, .frame = frame, .bytes = within};
        if (is_worth_it(frame, total))
            attempt(&fault, NULL);
    }
    print_message("%u kept, %u moved, %u asked and kept, %u asked and moved\n", tally.kept,
                  tally.moved, tally.asked_kept, tally.asked_moved);
    assert_true(tally.kept > 2 && tally.moved > 0);
    two_hosts_go_on(&hosts);
    two_hosts_match_undisturbed(&hosts);
}

static void test_cut_before_each_frame_of_the_source(void **state)
{
    (void)state;
    everywhere(FAULT_READING, FAULT_CUT, 0);
}

static void test_cut_within_each_frame_of_the_source(void **state)
{
    (void)state;
    everywhere(FAULT_READING, FAULT_CUT, 41);
}

static void test_silence_before_each_frame_of_the_source(void **state)
{
    (void)state;
    everywhere(FAULT_READING, FAULT_SILENCE, 0);
}

static void test_damage_in_each_frame_of_the_source(void **state)
{
    (void)state;
    everywhere(FAULT_READING, FAULT_CORRUPT, 45);
}

static void test_cut_at_each_frame_of_the_destination(void **state)
{
    (void)state;
    everywhere(FAULT_WRITING, FAULT_CUT, 0);
}

static void test_cut_within_each_frame_of_the_destination(void **state)
{
    (void)state;
    everywhere(FAULT_WRITING, FAULT_CUT, 41);
}

static void test_silence_at_each_frame_of_the_destination(void **state)
{
    (void)state;
    everywhere(FAULT_WRITING, FAULT_SILENCE, 0);
}

static void test_answers_lost_from_each_frame_on(void **state)
{
    (void)state;
    everywhere(FAULT_WRITING, FAULT_TRUNCATE, 0);
}

static void test_damage_in_each_frame_of_the_destination(void **state)
{
    (void)state;
    everywhere(FAULT_WRITING, FAULT_CORRUPT, 45);
}

static void cancel(void *opaque)
{
    struct progress *progress = opaque;
    atomic_store(&progress->cancelled, true);
}

static void test_cancel_at_each_frame(void **state)
{
    (void)state;
    two_hosts_start(&hosts, 1, OPTIONS);
    uint64_t total = frames_of_a_move(FAULT_READING);
    for (uint64_t frame = 0; frame < total + 1; frame++) {
        struct progress progress = {0};
        const struct fault fault = {FAULT_CALL, FAULT_READING, .frame = frame, .call = cancel,
                                    .opaque = &progress};
        if (is_worth_it(frame, total))
            attempt(&fault, &progress);
    }
    print_message("%u kept, %u moved\n", tally.kept, tally.moved);
    assert_true(tally.kept > 2);
    assert_int_equal(tally.asked_kept + tally.asked_moved, 0);
    two_hosts_match_undisturbed(&hosts);
}

/*
 * The log has taken KEPT, but said that it failed (the folder could not be made durable): the guest
 * stands still, in doubt, and the next question brings it back.
 */
static void test_kept_that_the_log_denied(void **state)
{
    struct fault fault = {FAULT_CUT, FAULT_WRITING, .frame = 0};
    struct migrate_result result = {.outcome = MIGRATE_MOVED};
    struct progress progress = {0};
    struct ferry_error err = {0};
    struct arrival arrival;

    (void)state;
    two_hosts_start(&hosts, 1, OPTIONS);
    fault.frame = frames_of_a_move(FAULT_WRITING) - 1; /* RUNNING, if the rounds are as many */
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    (void)move_once(&hosts, &arrival, &fault, 1, &options, &progress, &result, &err);
    while (result.outcome != MIGRATE_IN_DOUBT) {
        if (result.outcome == MIGRATE_MOVED)
            arrived();
        fault.frame = arrival.frames[FAULT_WRITING] - (result.outcome == MIGRATE_MOVED);
        options = move_options(&hosts, TIMEOUT_NS);
        (void)move_once(&hosts, &arrival, &fault, 1, &options, &progress, &result, &err);
    }
    two_hosts_leave(&hosts, !hosts.here); /* as if it had aborted */
    struct machine *machine = two_hosts_guest(&hosts)->machine;
    struct ticket_record record;
    const uint8_t *vm_id = machine_config(machine)->vm_id;
    must(ticket_find(options.tickets, vm_id, TICKET_SOURCE, &record, &err), &err);
    must(ticket_settle(options.tickets, vm_id, record.epoch, TICKET_KEPT, &err), &err);
    assert_false(two_hosts_runs(&hosts, hosts.here));
    must(migrate_query(machine, &options, &result, &err), &err);
    assert_int_equal(result.outcome, MIGRATE_KEPT);
    assert_true(two_hosts_runs(&hosts, hosts.here));
    assert_int_equal(machine_config(machine)->epoch, record.epoch + 1);
}

/* ---- disks ---- */

#define DISK_BYTES (1u << 20)

static struct block *thief; /* somebody else who wants the disk */

/* COMMIT comes, so the source has let go: now it can be had. */
static void steal(void *opaque)
{
    (void)opaque;
    if (!thief->active)
        (void)thief->ops->activate(thief, NULL); /* -EBUSY before: then the next frame tries */
}

static void test_disk_that_somebody_else_takes(void **state)
{
    char path[] = "/tmp/ferry-disk-XXXXXX";
    struct fault faults[8];
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;

    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0 && !ftruncate(fd, DISK_BYTES));
    close(fd);
    two_hosts_open(&hosts);
    for (int i = 0; i < 2; i++)
        hosts.host[i].payload.disks[0] = path;
    struct machine_config *config = &hosts.host[0].payload.config;
    config->disk_count = 1;
    config->disks[0] = (struct disk_config){.device = "vda", .size_bytes = DISK_BYTES};
    if (payload_impossible()) {
        unlink(path);
        print_message("SKIPPED: %s\n", payload_impossible());
        skip();
    }
    must(payload_start(&hosts.host[0].payload, OPTIONS, &err), &err);
    assert_true(payload_wait(&hosts.host[0].payload, "tick 2 "));
    must(raw_file_open(path, false, DISK_BYTES, false, &thief, &err), &err);
    assert_int_equal(thief->ops->activate(thief, NULL), -EBUSY);

    /* COMMIT is among the last frames; before it the disk cannot be had. */
    struct migrate_options options = move_options(&hosts, PATIENCE_NS);
    uint64_t total = frames_of_a_move(FAULT_READING);
    options = move_options(&hosts, PATIENCE_NS);
    do {
        for (unsigned i = 0; i < 8; i++)
            faults[i] = (struct fault){FAULT_CALL, FAULT_READING, .frame = total - 5 + i,
                                       .bytes = 40, .call = steal};
        int error = move_once(&hosts, &arrival, faults, 8, &options, &progress, &result, &err);
        if (error)
            break;
        arrived(); /* COMMIT was not among them: pages vary */
        total = arrival.frames[FAULT_READING];
        options = move_options(&hosts, PATIENCE_NS);
    } while (1);

    /* The destination could not have it and aborted; the source cannot take it back yet: it stands
     * still, visibly, and goes on once the disk is free. */
    assert_int_equal(result.outcome, MIGRATE_IN_DOUBT);
    assert_false(has(!hosts.here));
    assert_false(two_hosts_runs(&hosts, hosts.here));
    struct machine *machine = two_hosts_guest(&hosts)->machine;
    arrival_start(&arrival, &hosts.host[!hosts.here], NULL, 0, 2, TIMEOUT_NS);
    assert_true(migrate_query(machine, &options, &result, &err) < 0);
    assert_int_equal(result.outcome, MIGRATE_IN_DOUBT);
    assert_false(two_hosts_runs(&hosts, hosts.here));
    must(thief->ops->release(thief, &err), &err);
    must(migrate_query(machine, &options, &result, &err), &err);
    arrival_join(&arrival);
    assert_int_equal(result.outcome, MIGRATE_KEPT);
    assert_true(two_hosts_runs(&hosts, hosts.here));
    assert_int_equal(thief->ops->activate(thief, NULL), -EBUSY);
    thief->ops->close(thief);
    two_hosts_go_on(&hosts);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_cut_before_each_frame_of_the_source, teardown),
        cmocka_unit_test_teardown(test_cut_within_each_frame_of_the_source, teardown),
        cmocka_unit_test_teardown(test_silence_before_each_frame_of_the_source, teardown),
        cmocka_unit_test_teardown(test_damage_in_each_frame_of_the_source, teardown),
        cmocka_unit_test_teardown(test_cut_at_each_frame_of_the_destination, teardown),
        cmocka_unit_test_teardown(test_cut_within_each_frame_of_the_destination, teardown),
        cmocka_unit_test_teardown(test_silence_at_each_frame_of_the_destination, teardown),
        cmocka_unit_test_teardown(test_answers_lost_from_each_frame_on, teardown),
        cmocka_unit_test_teardown(test_damage_in_each_frame_of_the_destination, teardown),
        cmocka_unit_test_teardown(test_cancel_at_each_frame, teardown),
        cmocka_unit_test_teardown(test_kept_that_the_log_denied, teardown),
        cmocka_unit_test_teardown(test_disk_that_somebody_else_takes, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
