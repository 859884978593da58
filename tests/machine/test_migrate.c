/*
 * The move of a real KVM machine between two hosts (of one process): the payload guest goes on
 * where it was, whatever breaks on the way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/support/two_hosts.h"

#define OPTIONS    "fill=8 ws=2 rate=10 period=20 avx=1"
#define TIMEOUT_NS (400 * UINT64_C(1000000))

static struct two_hosts hosts;

static int teardown(void **state)
{
    (void)state;
    two_hosts_close(&hosts);
    return 0;
}

static struct payload *guest(void)
{
    return two_hosts_guest(&hosts);
}

/* ---- moves that succeed ---- */

static void move_well(const struct migrate_options *with)
{
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;
    struct migrate_options options = move_options(&hosts, 10 * UINT64_C(1000000000));

    if (with) {
        options.bandwidth = with->bandwidth;
        options.downtime_ns = with->downtime_ns;
    }
    must(move_once(&hosts, &arrival, NULL, 0, &options, &progress, &result, &err), &err);
    must(arrival.error, &arrival.err);
    assert_int_equal(result.outcome, MIGRATE_MOVED);
    assert_true(arrival.result.source_released);
    assert_false(two_hosts_runs(&hosts, hosts.here));
    assert_true(two_hosts_runs(&hosts, !hosts.here));
    assert_int_equal(machine_config(hosts.host[!hosts.here].payload.machine)->epoch,
                     arrival.result.epoch);
    assert_true(result.rounds >= 2);
    assert_true(result.downtime_ns > 0);
    assert_true(result.bytes_state > 0);
    assert_true(result.bytes_sent >= result.bytes_raw);
    assert_true(result.bytes_absent > 0);
    two_hosts_leave(&hosts, hosts.here);
    hosts.here = !hosts.here;
    print_message("moved: %u rounds, %.1f ms, downtime %.2f ms, %llu KiB raw\n", result.rounds,
                  (double)result.total_ns / 1e6, (double)result.downtime_ns / 1e6,
                  (unsigned long long)result.bytes_raw >> 10);
}

static void test_to_and_fro(void **state)
{
    (void)state;
    two_hosts_start(&hosts, 2, "cpus=2 " OPTIONS);
    for (int i = 0; i < 20; i++) {
        move_well(NULL);
        two_hosts_go_on(&hosts);
    }
    assert_int_equal(machine_config(guest()->machine)->epoch, 21);
    two_hosts_match_undisturbed(&hosts);
}

static void test_over_tcp(void **state)
{
    (void)state;
    two_hosts_start(&hosts, 1, OPTIONS);
    for (int i = 0; i < 2; i++)
        snprintf(hosts.host[i].uri, sizeof(hosts.host[i].uri), "tcp://127.0.0.1:0");
    move_well(NULL);
    two_hosts_go_on(&hosts);
    two_hosts_match_undisturbed(&hosts);
}

static void test_limited_bandwidth(void **state)
{
    const struct migrate_options slow = {.bandwidth = 40 * MIB};

    (void)state;
    two_hosts_start(&hosts, 1, OPTIONS);
    uint64_t began = monotonic_ns();
    move_well(&slow);
    assert_true(monotonic_ns() - began > 100 * UINT64_C(1000000)); /* 8 MiB at 40 MiB/s */
    two_hosts_go_on(&hosts);
}

static void test_paused_guest_stays_paused(void **state)
{
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;

    (void)state;
    two_hosts_start(&hosts, 1, OPTIONS);
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    must(machine_pause(guest()->machine, &err), &err);
    must(move_once(&hosts, &arrival, NULL, 0, &options, &progress, &result, &err), &err);
    assert_int_equal(result.outcome, MIGRATE_MOVED);
    assert_false(two_hosts_runs(&hosts, 0));
    assert_false(two_hosts_runs(&hosts, 1));
    two_hosts_leave(&hosts, 0);
    hosts.here = 1;
    must(machine_resume(guest()->machine, &err), &err);
    two_hosts_go_on(&hosts);
}

/* ---- moves that do not happen ---- */

static void test_refusal_says_why(void **state)
{
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;

    (void)state;
    two_hosts_start(&hosts, 1, OPTIONS);
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    hosts.host[1].refuse = "there is one of that name already; give --name";
    assert_true(move_once(&hosts, &arrival, NULL, 0, &options, &progress, &result, &err) < 0);
    assert_int_equal(result.outcome, MIGRATE_KEPT);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "give --name"));
    assert_true(arrival.error < 0);
    assert_true(two_hosts_runs(&hosts, 0));
    two_hosts_go_on(&hosts);
    hosts.host[1].refuse = NULL;
    move_well(NULL); /* and then it works */
    two_hosts_go_on(&hosts);
}

static void test_nobody_there(void **state)
{
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};

    (void)state;
    two_hosts_start(&hosts, 1, OPTIONS);
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    assert_true(migrate_out(guest()->machine, &options, &progress, &result, &err) < 0);
    assert_int_equal(result.outcome, MIGRATE_KEPT);
    assert_true(two_hosts_runs(&hosts, 0));
    two_hosts_go_on(&hosts);
}

/* The other side knows a later epoch (an older image was restored here): a later one is offered. */
static void test_stale_epoch_is_offered_anew(void **state)
{
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;
    uint64_t logged;

    (void)state;
    two_hosts_start(&hosts, 1, OPTIONS);
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    const struct machine_config *config = machine_config(guest()->machine);
    assert_int_equal(ticket_reserve(hosts.host[1].tickets, config->vm_id, 70, "moving",
                                    config->vm_id, &logged, NULL),
                     0);
    assert_int_equal(ticket_own(hosts.host[1].tickets, config->vm_id, 70, NULL), 0);
    arrival_start(&arrival, &hosts.host[1], NULL, 0, 2, TIMEOUT_NS);
    must(migrate_out(guest()->machine, &options, &progress, &result, &err), &err);
    arrival_join(&arrival);
    assert_int_equal(result.outcome, MIGRATE_MOVED);
    assert_int_equal(arrival.result.epoch, 71);
    two_hosts_leave(&hosts, 0);
    hosts.here = 1;
    two_hosts_go_on(&hosts);
}

#define TEST(name) cmocka_unit_test_teardown(name, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_to_and_fro),
        TEST(test_over_tcp),
        TEST(test_limited_bandwidth),
        TEST(test_paused_guest_stays_paused),
        TEST(test_refusal_says_why),
        TEST(test_nobody_there),
        TEST(test_stale_epoch_is_offered_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
