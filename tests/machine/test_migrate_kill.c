/*
 * kill -9 of the source, the destination, or both, at each step of a move between processes.
 *
 * The parent holds the listener and no machine.  A source process boots the payload and moves it; a
 * destination process takes the first connection and strikes at a chosen frame; an answering
 * process takes all later ones, as `ferry receive` would.  Who runs is asked of the guests: their
 * ticks, which each process publishes in shared memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/support/two_hosts.h"

#define OPTIONS     "fill=6 ws=2 rate=10 period=10"
#define TIMEOUT_NS  (400 * UINT64_C(1000000))
#define PATIENCE_NS (30 * UINT64_C(1000000000))
#define LAST_FRAMES 9

enum { SOURCE, DESTINATION, BOTH };

struct side {
    _Atomic pid_t pid;
    _Atomic uint64_t output; /* bytes the guest has said here: it grows while it runs here */
    atomic_bool settled;     /* the process knows what became of the guest */
    atomic_int outcome;      /* enum migrate_outcome, of the source */
};

struct shared {
    struct side side[2];
    atomic_bool accepted;
    _Atomic uint64_t frames[2];
    uint8_t vm_id[16];
};

static struct shared *shared;
static struct two_hosts hosts;
static struct listener *listener;
static pid_t answerer;
static int victim;

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* ---- the processes ---- */

static void publish(struct payload *p, struct side *side)
{
    for (;;) {
        pthread_mutex_lock(&p->lock);
        atomic_store(&side->output, p->size);
        pthread_mutex_unlock(&p->lock);
        sleep_ms(2);
    }
}

static void source_process(void)
{
    struct payload *p = &hosts.host[0].payload;
    struct migrate_options options = move_options(&hosts, TIMEOUT_NS);
    struct progress progress = {0};
    struct migrate_result result;
    struct ferry_error err = {0};

    if (payload_start(p, OPTIONS, &err) || !payload_wait(p, "tick 2 "))
        _exit(2);
    memcpy(shared->vm_id, machine_config(p->machine)->vm_id, 16);
    (void)migrate_out(p->machine, &options, &progress, &result, &err);
    for (int tries = 0; result.outcome == MIGRATE_IN_DOUBT && tries < 50; tries++) {
        if (machine_is_running(p->machine))
            _exit(3); /* in doubt, and it runs */
        sleep_ms(20);
        (void)migrate_query(p->machine, &options, &result, &err);
    }
    atomic_store(&shared->side[SOURCE].outcome, (int)result.outcome);
    atomic_store(&shared->side[SOURCE].settled, true);
    publish(p, &shared->side[SOURCE]);
}

static int create(void *opaque, struct machine_config *config, struct machine **out,
                  struct ferry_error *err)
{
    struct payload *p = opaque;
    struct machine_host host;

    int error = payload_host(p, config, &host, err);
    return error ? error : machine_create(config, &host, out, err);
}

static void strike(void *opaque)
{
    (void)opaque;
    if (victim != DESTINATION)
        kill(atomic_load(&shared->side[SOURCE].pid), SIGKILL);
    if (victim != SOURCE)
        raise(SIGKILL);
}

static void destination_process(const struct fault *fault)
{
    struct payload *p = &hosts.host[1].payload;
    const struct receive_host host = {
        .opaque = p, .create = create, .tickets = hosts.host[1].tickets, .timeout_ns = TIMEOUT_NS};
    struct progress progress = {0};
    struct receive_result result;
    struct stream *plain, *stream;
    struct ferry_error err = {0};

    if (listener_accept(listener, &plain, &err))
        _exit(2);
    atomic_store(&shared->accepted, true);
    if (faulty_stream_create(plain, fault, fault ? 1 : 0, &stream, &err))
        _exit(2);
    int error = migrate_in(stream, &host, &progress, &p->machine, &result, &err);
    for (int i = 0; i < 2; i++)
        atomic_store(&shared->frames[i], faulty_stream_frames(stream, (enum fault_direction)i));
    stream_close(stream);
    atomic_store(&shared->side[DESTINATION].settled, true);
    if (error)
        _exit(0);
    publish(p, &shared->side[DESTINATION]);
}

static int create_never(void *opaque, struct machine_config *config, struct machine **out,
                        struct ferry_error *err)
{
    (void)opaque;
    (void)config;
    (void)out;
    return ferry_refuse(err, -EPERM, NULL, "only answers");
}

static void answering_process(void)
{
    const struct receive_host host = {
        .create = create_never, .tickets = hosts.host[1].tickets, .timeout_ns = TIMEOUT_NS};

    for (;;) {
        struct progress progress = {0};
        struct receive_result result;
        struct machine *machine;
        struct stream *stream;
        if (listener_accept(listener, &stream, NULL))
            _exit(2);
        (void)migrate_in(stream, &host, &progress, &machine, &result, NULL);
        stream_close(stream);
    }
}

/* ---- one move ---- */

static bool is_dead(int who)
{
    pid_t pid = atomic_load(&shared->side[who].pid);
    siginfo_t info = {0};

    return !waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid == pid;
}

static void begin(const struct fault *fault)
{
    memset(shared, 0, sizeof(*shared));
    two_hosts_open(&hosts);
    assert_int_equal(listener_open(hosts.host[1].uri, false, &listener, NULL), 0);
    pid_t destination = fork();
    assert_true(destination >= 0);
    if (!destination)
        destination_process(fault);
    atomic_store(&shared->side[DESTINATION].pid, destination);
    pid_t source = fork();
    assert_true(source >= 0);
    atomic_store(&shared->side[SOURCE].pid, source ? source : getpid());
    if (!source)
        source_process();
    while (!atomic_load(&shared->accepted) && !is_dead(DESTINATION) && !is_dead(SOURCE))
        sleep_ms(1);
    answerer = fork();
    assert_true(answerer >= 0);
    if (!answerer)
        answering_process();
}

static void end(void)
{
    pid_t pids[3] = {atomic_load(&shared->side[0].pid), atomic_load(&shared->side[1].pid),
                     answerer};

    for (int i = 0; i < 3; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    listener_close(listener);
    two_hosts_close(&hosts);
}

static void await_settled(void)
{
    uint64_t deadline = monotonic_ns() + PATIENCE_NS;

    for (int who = 0; who < 2; who++)
        while (!atomic_load(&shared->side[who].settled) && !is_dead(who)) {
            assert_true(monotonic_ns() < deadline);
            sleep_ms(2);
        }
}

/* The guest speaks at side who: what it says grows. */
static bool speaks(int who, uint64_t patience_ns)
{
    uint64_t before = atomic_load(&shared->side[who].output), began = monotonic_ns();
    bool first = true; /* what it said before may have been published only now */

    if (is_dead(who))
        return false;
    while (monotonic_ns() - began < patience_ns) {
        sleep_ms(5);
        uint64_t now = atomic_load(&shared->side[who].output);
        if (now != before && !first)
            return true;
        first &= now == before;
        before = now;
    }
    return false;
}

static const char *check(int kill_whom)
{
    enum ticket_state word = TICKET_NONE;
    struct ticket_record record = {0};
    bool source_dead = is_dead(SOURCE), destination_dead = is_dead(DESTINATION);

    assert_int_equal(ticket_look(hosts.host[1].tickets, shared->vm_id, 2, &word, NULL), 0);
    bool logged = !ticket_find(hosts.host[0].tickets, shared->vm_id, TICKET_SOURCE, &record, NULL);
    int outcome = source_dead ? -1 : atomic_load(&shared->side[SOURCE].outcome);

    /* Whoever should run does, and the other one does not. */
    if (outcome == MIGRATE_KEPT)
        assert_true(speaks(SOURCE, PATIENCE_NS));
    else
        assert_false(speaks(SOURCE, 60 * UINT64_C(1000000)));
    if (word == TICKET_OWNED && !destination_dead)
        assert_true(speaks(DESTINATION, PATIENCE_NS));
    else
        assert_false(speaks(DESTINATION, 60 * UINT64_C(1000000)));
    if (!source_dead) {
        assert_int_equal(outcome, word == TICKET_OWNED ? MIGRATE_MOVED : MIGRATE_KEPT);
        return word == TICKET_OWNED ? (destination_dead ? "died with its new owner" : "moved")
                                    : "kept";
    }
    assert_int_equal(kill_whom == DESTINATION, 0);
    if (!logged || record.state != TICKET_HANDOVER)
        return word == TICKET_OWNED ? "moved" : "died with its owner";

    /* The source died in the handover: it is seen to be in doubt, and asking settles it. */
    struct migrate_options options = {.tickets = hosts.host[0].tickets, .timeout_ns = TIMEOUT_NS};
    struct migrate_result result;
    struct ferry_error err = {0};
    assert_false(record.process_alive);
    must(migrate_query_orphan(shared->vm_id, &options, &result, &err), &err);
    assert_int_equal(result.outcome, word == TICKET_OWNED ? MIGRATE_MOVED : MIGRATE_KEPT);
    assert_int_equal(
        ticket_find(hosts.host[0].tickets, shared->vm_id, TICKET_SOURCE, &record, NULL), 0);
    assert_int_equal(record.state, word == TICKET_OWNED ? TICKET_RELEASED : TICKET_LOST);
    return word == TICKET_OWNED ? "in doubt, then moved" : "in doubt, then lost";
}

static const char *one(int kill_whom, const struct fault *fault)
{
    victim = kill_whom;
    begin(fault);
    await_settled();
    /* The source of a killed destination may be asking still: give it its time. */
    const char *what = check(kill_whom);
    end();
    return what;
}

static void at_each_frame(int kill_whom)
{
    static const char *const names[] = {"source", "destination", "both"};

    if (payload_impossible()) {
        print_message("SKIPPED: %s\n", payload_impossible());
        skip();
    }
    assert_string_equal(one(kill_whom, NULL), "moved");
    uint64_t totals[2] = {atomic_load(&shared->frames[0]), atomic_load(&shared->frames[1])};
    for (int direction = 0; direction < 2; direction++)
        for (uint64_t frame = 0; frame < totals[direction] + 1; frame++) {
            const struct fault fault = {FAULT_CALL, (enum fault_direction)direction, .frame = frame,
                                        .call = strike};
            if (frame > 1 && frame != 20 && frame + LAST_FRAMES < totals[direction])
                continue;
            print_message("kill %s before frame %llu of the %s: %s\n", names[kill_whom],
                          (unsigned long long)frame,
                          direction == FAULT_WRITING ? "destination" : "source",
                          one(kill_whom, &fault));
        }
}

static void test_kill_source_at_each_step(void **state)
{
    (void)state;
    at_each_frame(SOURCE);
}

static void test_kill_destination_at_each_step(void **state)
{
    (void)state;
    at_each_frame(DESTINATION);
}

static void test_kill_both_at_each_step(void **state)
{
    (void)state;
    at_each_frame(BOTH);
}

static int setup(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    munmap(shared, sizeof(*shared));
    return 0;
}

/* A test that failed leaves no process behind. */
static int stop_all(void **state)
{
    (void)state;
    if (hosts.host[0].tickets)
        end();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_kill_source_at_each_step, stop_all),
        cmocka_unit_test_teardown(test_kill_destination_at_each_step, stop_all),
        cmocka_unit_test_teardown(test_kill_both_at_each_step, stop_all),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
