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

static void need_payload(void)
{
    const char *why = payload_impossible();

    if (!why)
        return;
    print_message("SKIPPED: %s\n", why);
    skip();
}

static void succeeds(int error, const struct ferry_error *err)
{
    char text[768];

    if (error)
        fail_msg("error %d: %s", error, ferry_error_text(err, text, sizeof(text)));
}

static struct payload *guest(void)
{
    return &hosts.host[hosts.here].payload;
}

static void start(unsigned cpus, const char *options)
{
    struct ferry_error err = {0};

    need_payload();
    two_hosts_open(&hosts);
    guest()->config.cpus = cpus;
    succeeds(payload_start(guest(), options, &err), &err);
    assert_true(payload_wait(guest(), "tick 2 "));
}

static bool runs(unsigned host)
{
    struct machine *machine = hosts.host[host].payload.machine;
    return machine && machine_is_running(machine);
}

/* What the guest has said, in order, on hosts that it has left. */
static char *said;
static size_t said_size;

/* The machine at host is no more, as when its process ends. */
static void leave(unsigned host)
{
    struct payload *p = &hosts.host[host].payload;

    machine_destroy(p->machine);
    p->machine = NULL;
    char *more = realloc(said, said_size + p->size + 1);
    assert_non_null(more);
    said = more;
    memcpy(said + said_size, p->text ? p->text : "", p->size);
    said_size += p->size;
    said[said_size] = 0;
    p->size = 0;
    if (p->text)
        p->text[0] = 0;
}

/* The highest tick printed so far. */
static unsigned last_tick(void)
{
    unsigned last = 0;
    struct payload *p = guest();

    pthread_mutex_lock(&p->lock);
    const char *texts[2] = {said, p->text};
    for (int i = 0; i < 2; i++)
        for (const char *at = texts[i]; at && (at = strstr(at, "tick ")); at++) {
            unsigned tick = (unsigned)strtoul(at + 5, NULL, 10);
            last = tick > last ? tick : last;
        }
    pthread_mutex_unlock(&p->lock);
    return last;
}

static void goes_on(void)
{
    char text[32];

    snprintf(text, sizeof(text), "tick %u ", last_tick() + 2);
    assert_true(payload_wait(guest(), text));
}

static struct payload reference;

/* The guest has said exactly what one says that was never moved. */
static void matches_undisturbed(unsigned cpus, const char *options)
{
    struct ferry_error err = {0};
    unsigned last = last_tick() - 1;
    char text[32];
    const char *at = said;

    leave(hosts.here);
    payload_init(&reference, "reference");
    reference.config.cpus = cpus;
    succeeds(payload_start(&reference, options, &err), &err);
    snprintf(text, sizeof(text), "tick %u ", last + 1);
    assert_true(payload_wait(&reference, text));
    at = said;
    for (unsigned tick = 1; tick <= last; tick++) {
        char *expected = payload_tick(&reference, tick);
        assert_non_null(expected);
        snprintf(text, sizeof(text), "tick %u ", tick);
        at = strstr(at, text);
        assert_non_null(at);
        if (strncmp(at, expected, strlen(expected)))
            fail_msg("expected %s, the moved guest said %.100s", expected, at);
        free(expected);
    }
    assert_null(strstr(said, "damaged"));
    print_message("%u ticks are those of an undisturbed guest\n", last);
}

static int teardown(void **state)
{
    (void)state;
    two_hosts_close(&hosts);
    if (reference.machine)
        payload_destroy(&reference);
    free(said);
    said = NULL;
    said_size = 0;
    return 0;
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
    succeeds(move_once(&hosts, &arrival, NULL, 0, &options, &progress, &result, &err), &err);
    succeeds(arrival.error, &arrival.err);
    assert_int_equal(result.outcome, MIGRATE_MOVED);
    assert_true(arrival.result.source_released);
    assert_false(runs(hosts.here));
    assert_true(runs(!hosts.here));
    assert_int_equal(machine_config(hosts.host[!hosts.here].payload.machine)->epoch,
                     arrival.result.epoch);
    assert_true(result.rounds >= 2);
    assert_true(result.downtime_ns > 0);
    assert_true(result.bytes_state > 0);
    assert_true(result.bytes_sent >= result.bytes_raw);
    assert_true(result.bytes_absent > 0);
    leave(hosts.here);
    hosts.here = !hosts.here;
    print_message("moved: %u rounds, %.1f ms, downtime %.2f ms, %llu KiB raw\n", result.rounds,
                  (double)result.total_ns / 1e6, (double)result.downtime_ns / 1e6,
                  (unsigned long long)result.bytes_raw >> 10);
}

static void test_to_and_fro(void **state)
{
    (void)state;
    start(2, "cpus=2 " OPTIONS);
    for (int i = 0; i < 20; i++) {
        move_well(NULL);
        goes_on();
    }
    assert_int_equal(machine_config(guest()->machine)->epoch, 21);
    matches_undisturbed(2, "cpus=2 " OPTIONS);
}

static void test_limited_bandwidth(void **state)
{
    const struct migrate_options slow = {.bandwidth = 40 * MIB};

    (void)state;
    start(1, OPTIONS);
    uint64_t began = monotonic_ns();
    move_well(&slow);
    assert_true(monotonic_ns() - began > 100 * UINT64_C(1000000)); /* 8 MiB at 40 MiB/s */
    goes_on();
}

static void test_paused_guest_stays_paused(void **state)
{
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;

    (void)state;
    start(1, OPTIONS);
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    succeeds(machine_pause(guest()->machine, &err), &err);
    succeeds(move_once(&hosts, &arrival, NULL, 0, &options, &progress, &result, &err), &err);
    assert_int_equal(result.outcome, MIGRATE_MOVED);
    assert_false(runs(0));
    assert_false(runs(1));
    leave(0);
    hosts.here = 1;
    succeeds(machine_resume(guest()->machine, &err), &err);
    goes_on();
}

/* ---- moves that do not happen ---- */

static void test_refusal_says_why(void **state)
{
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};
    struct arrival arrival;

    (void)state;
    start(1, OPTIONS);
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    hosts.host[1].refuse = "there is one of that name already; give --name";
    assert_true(move_once(&hosts, &arrival, NULL, 0, &options, &progress, &result, &err) < 0);
    assert_int_equal(result.outcome, MIGRATE_KEPT);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "give --name"));
    assert_true(arrival.error < 0);
    assert_true(runs(0));
    goes_on();
    hosts.host[1].refuse = NULL;
    move_well(NULL); /* and then it works */
    goes_on();
}

static void test_nobody_there(void **state)
{
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};

    (void)state;
    start(1, OPTIONS);
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    assert_true(migrate_out(guest()->machine, &options, &progress, &result, &err) < 0);
    assert_int_equal(result.outcome, MIGRATE_KEPT);
    assert_true(runs(0));
    goes_on();
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
    start(1, OPTIONS);
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    const struct machine_config *config = machine_config(guest()->machine);
    assert_int_equal(ticket_reserve(hosts.host[1].tickets, config->vm_id, 70, "moving",
                                    config->vm_id, &logged, NULL),
                     0);
    assert_int_equal(ticket_own(hosts.host[1].tickets, config->vm_id, 70, NULL), 0);
    arrival_start(&arrival, &hosts.host[1], NULL, 0, 2, TIMEOUT_NS);
    succeeds(migrate_out(guest()->machine, &options, &progress, &result, &err), &err);
    arrival_join(&arrival);
    assert_int_equal(result.outcome, MIGRATE_MOVED);
    assert_int_equal(arrival.result.epoch, 71);
    leave(0);
    hosts.here = 1;
    goes_on();
}

#define TEST(name) cmocka_unit_test_teardown(name, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_to_and_fro),
        TEST(test_limited_bandwidth),
        TEST(test_paused_guest_stays_paused),
        TEST(test_refusal_says_why),
        TEST(test_nobody_there),
        TEST(test_stale_epoch_is_offered_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
