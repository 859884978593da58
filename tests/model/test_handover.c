/*
 * Every interleaving of the handover table, exhaustively.
 *
 * A world is a source, one destination process for each of two attempts (epochs), the log of the
 * destination's host that answers STATUS, the disks' lock, and the messages in flight.  Messages
 * are a set for each epoch: they may arrive in any order, twice, or never, which is more than a
 * stream would do.  Actions are steps of their own, so that a crash falls between any two of them.
 *
 * For every reachable world it is checked that at most one side runs the guest, that ownership is
 * never logged while the other side may run, that nobody running is always visible as such; and
 * over the whole graph, that whenever faults stop, everything comes to a decision.  To prove that
 * the checker sees, the table is then broken in one place after another and it must complain.
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

#include "common/hash.h"
#include "migrate/handover.h"

#define ATTEMPTS 2
#define NO_RULE  0xff

enum { DISKS_FREE, DISKS_SOURCE, DISKS_DESTINATION /* + attempt */ };
enum { SLOG_NONE, SLOG_HANDOVER, SLOG_SETTLED };
/* The source's process died while the guest was its own: nothing is left to decide. */
#define SOURCE_DEAD ((uint8_t)HANDOVER_STATE_COUNT)

struct process {
    uint8_t state;
    uint8_t rule; /* whose actions are being done, NO_RULE: none */
    uint8_t action;
    uint8_t running; /* the guest */
};

struct world {
    struct process source, destination[ATTEMPTS];
    uint8_t source_log, source_log_attempt;
    uint8_t log[ATTEMPTS]; /* LOG_* states, for each epoch */
    uint8_t disks;
    uint8_t attempt;     /* of the source */
    uint8_t commit_sent; /* bit for each attempt */
    uint8_t crashed;     /* some process has died */
    uint8_t crashes_left;
    uint16_t flight[ATTEMPTS]; /* bit for each message event */
};

/* What is changed for a mutation, beside the table. */
struct rules_of_world {
    const struct handover_table *table;
    bool locks_work;       /* false: two hosts whose locks do not reach each other */
    bool owned_unchecked;  /* mutation: OWNED is logged whatever the log says */
    bool aborted_unlogged; /* mutation: ABORTED is answered without a log */
    bool restart_runs;     /* mutation: a source restarted from its log runs its old guest */
};

struct edge {
    uint32_t from, to;
};

struct graph {
    struct rules_of_world rules;
    struct world *worlds;
    uint8_t *decided;
    size_t count, capacity;
    uint32_t *slots; /* hash table of index + 1 */
    size_t slot_count;
    struct edge *edges; /* without faults */
    size_t edge_count, edge_capacity;
    uint32_t current;
    const char *violation;
    struct world bad;
};

/* ---- the set of worlds ---- */

static void *grow(void *data, size_t *capacity, size_t size)
{
    *capacity = *capacity ? *capacity * 2 : 1024;
    data = realloc(data, *capacity * size);
    assert_non_null(data);
    return data;
}

static void rehash(struct graph *g)
{
    g->slot_count = g->slot_count ? g->slot_count * 2 : 1 << 16;
    free(g->slots);
    g->slots = calloc(g->slot_count, sizeof(*g->slots));
    assert_non_null(g->slots);
    for (size_t i = 0; i < g->count; i++) {
        size_t at = xxh3(&g->worlds[i], sizeof(g->worlds[i])) & (g->slot_count - 1);
        while (g->slots[at])
            at = (at + 1) & (g->slot_count - 1);
        g->slots[at] = (uint32_t)i + 1;
    }
}

static uint32_t intern(struct graph *g, const struct world *w)
{
    if (g->count * 2 >= g->slot_count)
        rehash(g);
    size_t at = xxh3(w, sizeof(*w)) & (g->slot_count - 1);
    for (; g->slots[at]; at = (at + 1) & (g->slot_count - 1))
        if (!memcmp(&g->worlds[g->slots[at] - 1], w, sizeof(*w)))
            return g->slots[at] - 1;
    if (g->count == g->capacity)
        g->worlds = grow(g->worlds, &g->capacity, sizeof(*g->worlds));
    g->worlds[g->count] = *w;
    g->slots[at] = (uint32_t)++g->count;
    return (uint32_t)g->count - 1;
}

/* ---- what must hold in every world ---- */

static bool in_handover(uint8_t state)
{
    switch (state) {
    case SOURCE_LOGGING:
    case SOURCE_RELEASING:
    case SOURCE_COMMITTED:
    case SOURCE_IN_DOUBT:
    case SOURCE_ORPHAN:
    case SOURCE_TAKING_BACK:
    case SOURCE_HELD:
    case SOURCE_KEEPING:
    case SOURCE_CONFIRMING:
    case SOURCE_BURYING:
        return true;
    default:
        return false;
    }
}

static bool source_goes_on(const struct world *w)
{
    return w->source.state == SOURCE_START || w->source.state == SOURCE_OFFERED ||
           w->source.state == SOURCE_ROUNDS || w->source.state == SOURCE_KEPT;
}

static bool runs_without_disks(const struct world *w)
{
    if (w->source.running && w->disks != DISKS_SOURCE)
        return true;
    for (int i = 0; i < ATTEMPTS; i++)
        if (w->destination[i].running && w->disks != DISKS_DESTINATION + i)
            return true;
    return false;
}

static const char *check_world(const struct graph *g, const struct world *w)
{
    int runners = w->source.running, owners = 0, owner_running = 0;

    for (int i = 0; i < ATTEMPTS; i++) {
        runners += w->destination[i].running;
        owners += w->log[i] == LOG_OWNED;
        owner_running |= w->log[i] == LOG_OWNED &&
                         (w->destination[i].running || w->destination[i].rule != NO_RULE ||
                          w->destination[i].state == DESTINATION_DECIDING);
        if (w->destination[i].running && w->log[i] != LOG_OWNED)
            return "a destination runs without having logged OWNED";
    }
    if (runners > 1)
        return "two runners";
    if (owners > 1)
        return "two epochs are owned by the destination";
    if (owners && w->source.running)
        return "the source runs and the destination has logged OWNED";
    if (owners && (w->source.state == SOURCE_TAKING_BACK || w->source.state == SOURCE_KEEPING))
        return "the source takes back what the destination has logged as OWNED";
    if (g->rules.locks_work && runs_without_disks(w))
        return "a guest runs without its disks";
    if (w->source_log == SLOG_HANDOVER && w->source_log_attempt == w->attempt &&
        !in_handover(w->source.state) && !w->source.running && w->source.rule == NO_RULE &&
        w->source.state != SOURCE_DEAD && w->source.state != SOURCE_MOVED)
        return "in doubt, and it cannot be seen";
    if (w->crashed || runners || w->source.rule != NO_RULE)
        return NULL;
    if (source_goes_on(w))
        return "the source should run and does not";
    if (w->source.state == SOURCE_MOVED && !owner_running)
        return "moved, and nobody runs";
    return NULL;
}

/* ---- steps ---- */

/* The message can still do something; what cannot is forgotten, which keeps the graph small and
 * changes nothing, for no process goes back to an earlier state of the same epoch. */
static bool still_matters(const struct world *w, int attempt, int event)
{
    uint8_t s = w->source.state, d = w->destination[attempt].state;

    switch (event) {
    case EVENT_HELLO:
        return d == DESTINATION_START;
    case EVENT_STATE:
        return d <= DESTINATION_RECEIVING;
    case EVENT_ABORT:
        return d <= DESTINATION_READY;
    case EVENT_COMMIT:
    case EVENT_GONE:
        return d <= DESTINATION_DECIDING || d == DESTINATION_RUNNING;
    case EVENT_STATUS:
        return attempt == w->attempt ||
               (w->log[attempt] != LOG_OWNED && w->log[attempt] != LOG_ABORTED);
    case EVENT_ACCEPT:
    case EVENT_REFUSE:
        return attempt == w->attempt && s <= SOURCE_OFFERED;
    case EVENT_READY:
        return attempt == w->attempt && s <= SOURCE_PAUSED;
    default:
        return attempt == w->attempt && s <= SOURCE_ORPHAN;
    }
}

static void forget(struct world *w)
{
    for (int i = 0; i < ATTEMPTS; i++)
        for (int event = 0; event < HANDOVER_EVENT_COUNT; event++)
            if (w->flight[i] & 1u << event && !still_matters(w, i, event))
                w->flight[i] &= (uint16_t) ~(1u << event);
}

/* A destination that has aborted ends, and the kernel drops its locks with it. */
static void exit_processes(struct world *w)
{
    for (int i = 0; i < ATTEMPTS; i++)
        if (w->disks == DISKS_DESTINATION + i && w->destination[i].rule == NO_RULE &&
            (w->destination[i].state == DESTINATION_ABORTED ||
             w->destination[i].state == DESTINATION_SILENT))
            w->disks = DISKS_FREE;
}

static void reach(struct graph *g, const struct world *reached, bool fault)
{
    struct world copy = *reached, *w = &copy;

    forget(w);
    exit_processes(w);
    const char *violation = check_world(g, w);

    if (violation && !g->violation) {
        g->violation = violation;
        g->bad = *w;
    }
    uint32_t to = intern(g, w);
    if (fault || to == g->current)
        return;
    if (g->edge_count == g->edge_capacity)
        g->edges = grow(g->edges, &g->edge_capacity, sizeof(*g->edges));
    g->edges[g->edge_count++] = (struct edge){g->current, to};
}

/* The event happens to the process: the rule's actions are queued.  False: there is no rule. */
static bool happen(const struct graph *g, struct process *p, enum handover_event event)
{
    const struct handover_rule *rule = handover_find(g->rules.table, p->state, event);

    if (!rule || p->rule != NO_RULE)
        return false;
    p->state = (uint8_t)rule->next;
    p->rule = rule->actions[0] ? (uint8_t)(rule - g->rules.table->rules) : NO_RULE;
    p->action = 0;
    return true;
}

static enum handover_event message_of(enum handover_action action)
{
    switch (action) {
    case ACTION_SEND_HELLO:
        return EVENT_HELLO;
    case ACTION_SEND_ACCEPT:
        return EVENT_ACCEPT;
    case ACTION_SEND_REFUSE:
        return EVENT_REFUSE;
    case ACTION_SEND_STATE:
        return EVENT_STATE;
    case ACTION_SEND_READY:
        return EVENT_READY;
    case ACTION_SEND_COMMIT:
        return EVENT_COMMIT;
    case ACTION_SEND_RUNNING:
        return EVENT_RUNNING;
    case ACTION_SEND_ABORTED:
        return EVENT_ABORTED;
    case ACTION_SEND_ABORT:
        return EVENT_ABORT;
    case ACTION_SEND_GONE:
        return EVENT_GONE;
    case ACTION_SEND_STATUS:
        return EVENT_STATUS;
    default:
        return EVENT_START; /* not a message */
    }
}

/* May log INCOMING: neither this epoch nor a later one is known. */
static bool epoch_is_new(const struct world *w, int attempt)
{
    for (int i = attempt; i < ATTEMPTS; i++)
        if (w->log[i] != LOG_NONE)
            return false;
    return true;
}

/* The action succeeds or not, as far as the world allows.  Bit 0: can fail, bit 1: can succeed. */
static int outcomes(const struct graph *g, const struct world *w, enum handover_action action,
                    int who)
{
    bool mine = w->disks == who;

    switch (action) {
    case ACTION_TAKE_DISKS:
        return w->disks == DISKS_FREE || mine || !g->rules.locks_work ? 3 : 1;
    case ACTION_LOG_INCOMING:
        return epoch_is_new(w, who - DISKS_DESTINATION) ? 3 : 1;
    case ACTION_LOG_OWNED:
        return g->rules.owned_unchecked || w->log[who - DISKS_DESTINATION] == LOG_INCOMING ? 3 : 1;
    case ACTION_LOG_ABORTED:
        return w->log[who - DISKS_DESTINATION] != LOG_OWNED ? 3 : 1;
    default:
        return 3;
    }
}

static void apply(struct world *w, struct process *p, enum handover_action action, int who)
{
    int attempt = who == DISKS_SOURCE ? w->attempt : who - DISKS_DESTINATION;
    enum handover_event message = message_of(action);

    if (message != EVENT_START)
        w->flight[attempt] |= (uint16_t)(1u << message);
    if (action == ACTION_SEND_COMMIT)
        w->commit_sent |= (uint8_t)(1 << attempt);
    if (action == ACTION_PAUSE)
        p->running = 0;
    if (action == ACTION_RESUME)
        p->running = 1;
    if (action == ACTION_TAKE_DISKS)
        w->disks = (uint8_t)who;
    if (action == ACTION_RELEASE_DISKS && w->disks == who)
        w->disks = DISKS_FREE;
    if (action == ACTION_LOG_HANDOVER) {
        w->source_log = SLOG_HANDOVER;
        w->source_log_attempt = w->attempt;
    }
    if (action == ACTION_LOG_KEPT || action == ACTION_LOG_RELEASED || action == ACTION_LOG_LOST)
        w->source_log = SLOG_SETTLED;
    if (action == ACTION_LOG_INCOMING)
        w->log[attempt] = LOG_INCOMING;
    if (action == ACTION_LOG_OWNED)
        w->log[attempt] = LOG_OWNED;
    if (action == ACTION_LOG_ABORTED)
        w->log[attempt] = LOG_ABORTED;
}

static struct process *process_of(struct world *w, int who)
{
    return who == DISKS_SOURCE ? &w->source : &w->destination[who - DISKS_DESTINATION];
}

/* Do the next queued action of a process, with every outcome that it can have. */
static void do_action(struct graph *g, const struct world *before, int who)
{
    struct world w = *before;
    struct process *p = process_of(&w, who);
    const struct handover_rule *rule = &g->rules.table->rules[p->rule];
    enum handover_action action = rule->actions[p->action];
    bool last = p->action + 1 == HANDOVER_ACTIONS_MAX || !rule->actions[p->action + 1];

    p->action = last ? 0 : p->action + 1;
    p->rule = last ? NO_RULE : p->rule;
    if (!handover_is_fallible(action)) {
        apply(&w, p, action, who);
        reach(g, &w, false);
        return;
    }
    int possible = outcomes(g, before, action, who);
    struct world failed = w;
    if (possible & 2) {
        apply(&w, p, action, who);
        struct world half = w; /* done, but reported as failed: fsync said so */
        if (last)
            happen(g, p, EVENT_DONE);
        reach(g, &w, false);
        if (action == ACTION_LOG_HANDOVER || action == ACTION_RELEASE_DISKS) {
            if (last)
                happen(g, process_of(&half, who), EVENT_FAILED);
            reach(g, &half, true);
        }
    }
    if (last)
        happen(g, process_of(&failed, who), EVENT_FAILED);
    reach(g, &failed, (possible & 2) != 0);
}

/* Whoever answers STATUS: one step, for the log is locked meanwhile. */
static void answer(struct graph *g, struct world *w, int attempt)
{
    const struct handover_rule *rule =
        handover_find(g->rules.table, (enum handover_state)w->log[attempt], EVENT_STATUS);

    if (!rule)
        return;
    for (int i = 0; i < HANDOVER_ACTIONS_MAX && rule->actions[i]; i++) {
        if (rule->actions[i] == ACTION_LOG_ABORTED) {
            if (!g->rules.aborted_unlogged)
                w->log[attempt] = LOG_ABORTED;
            w->flight[attempt] |= 1u << EVENT_ABORTED; /* LOG_REFUSING, DONE */
        } else {
            w->flight[attempt] |= (uint16_t)(1u << message_of(rule->actions[i]));
        }
    }
    reach(g, w, false);
}

static bool is_for_destination(int event)
{
    return event == EVENT_HELLO || event == EVENT_STATE || event == EVENT_COMMIT ||
           event == EVENT_ABORT || event == EVENT_GONE;
}

static void deliver(struct graph *g, const struct world *before, int attempt, int event)
{
    struct world kept = *before, taken;

    if (event == EVENT_STATUS) {
        taken = kept;
        taken.flight[attempt] &= (uint16_t) ~(1u << event);
        answer(g, &taken, attempt);
        answer(g, &kept, attempt);
        return;
    }
    if (!is_for_destination(event) && attempt != before->attempt)
        return; /* of an old epoch: not for us */
    struct process *p = is_for_destination(event) ? &kept.destination[attempt] : &kept.source;
    if (!happen(g, p, (enum handover_event)event))
        return;
    taken = kept;
    taken.flight[attempt] &= (uint16_t) ~(1u << event);
    reach(g, &taken, false);
    reach(g, &kept, true); /* it will come once more */
}

static void crash_source(struct graph *g, struct world w)
{
    bool orphan = w.source_log == SLOG_HANDOVER && w.source_log_attempt == w.attempt;

    w.crashes_left--;
    w.crashed = 1;
    w.source = (struct process){.state = orphan ? SOURCE_ORPHAN : SOURCE_DEAD, .rule = NO_RULE};
    if (orphan && g->rules.restart_runs)
        w.source = (struct process){.state = SOURCE_KEPT, .rule = NO_RULE, .running = 1};
    if (w.disks == DISKS_SOURCE)
        w.disks = DISKS_FREE;
    reach(g, &w, true);
}

static void crash_destination(struct graph *g, struct world w, int i)
{
    w.crashes_left--;
    w.crashed = 1;
    w.destination[i] = (struct process){.state = DESTINATION_SILENT, .rule = NO_RULE};
    if (w.disks == DISKS_DESTINATION + i)
        w.disks = DISKS_FREE;
    reach(g, &w, true);
}

static void feed(struct graph *g, const struct world *before, int who, enum handover_event event,
                 bool fault)
{
    struct world w = *before;

    if (happen(g, process_of(&w, who), event))
        reach(g, &w, fault);
}

static void step_process(struct graph *g, const struct world *w, int who)
{
    struct world copy = *w;
    const struct process *p = process_of(&copy, who);

    if (p->rule != NO_RULE) {
        do_action(g, w, who);
        return;
    }
    feed(g, w, who, EVENT_LOST, false); /* a timeout: not a fault that must not happen */
    feed(g, w, who, EVENT_CANCEL, true);
}

static void step(struct graph *g, const struct world *w)
{
    step_process(g, w, DISKS_SOURCE);
    feed(g, w, DISKS_SOURCE, EVENT_START, false);
    feed(g, w, DISKS_SOURCE, EVENT_CONVERGED, false);
    feed(g, w, DISKS_SOURCE, EVENT_QUERY, false);
    feed(g, w, DISKS_SOURCE, EVENT_UNKNOWN, true);
    for (int i = 0; i < ATTEMPTS; i++) {
        step_process(g, w, DISKS_DESTINATION + i);
        for (int event = 0; event < HANDOVER_EVENT_COUNT; event++) {
            if (!(w->flight[i] & 1u << event))
                continue;
            struct world dropped = *w;
            dropped.flight[i] &= (uint16_t) ~(1u << event);
            reach(g, &dropped, true);
            deliver(g, w, i, event);
        }
        if (w->flight[i] & 1u << EVENT_HELLO)
            feed(g, w, DISKS_DESTINATION + i, EVENT_UNFIT, true);
        if (w->crashes_left && w->destination[i].state != DESTINATION_SILENT)
            crash_destination(g, *w, i);
    }
    if (w->crashes_left && w->source.state != SOURCE_DEAD && w->source.state != SOURCE_MOVED)
        crash_source(g, *w);
    if (w->source.state == SOURCE_KEPT && w->source.running && w->attempt + 1 < ATTEMPTS) {
        struct world again = *w;
        again.attempt++;
        again.source = (struct process){.state = SOURCE_START, .rule = NO_RULE, .running = 1};
        reach(g, &again, true);
    }
}

/* ---- what must hold over the graph ---- */

static bool is_settled(const struct world *w)
{
    uint8_t s = w->source.state;

    if (w->source.rule != NO_RULE)
        return false;
    if (s != SOURCE_KEPT && s != SOURCE_MOVED && s != SOURCE_LOST && s != SOURCE_DEAD)
        return false;
    for (int i = 0; i < ATTEMPTS; i++) {
        uint8_t d = w->destination[i].state;
        if (w->destination[i].rule != NO_RULE ||
            (d != DESTINATION_START && d != DESTINATION_RUNNING && d != DESTINATION_CONFIRMED &&
             d != DESTINATION_ABORTED && d != DESTINATION_SILENT))
            return false;
    }
    int runners = w->source.running;
    for (int i = 0; i < ATTEMPTS; i++)
        runners += w->destination[i].running;
    return w->crashed || runners == 1;
}

/* Every world has a way without faults to a settled one. */
static const char *check_liveness(struct graph *g)
{
    uint32_t *first = calloc(g->count + 1, sizeof(*first)), *queue = NULL, *in = NULL;
    size_t head = 0, tail = 0;

    g->decided = calloc(g->count, 1);
    queue = calloc(g->count, sizeof(*queue));
    in = calloc(g->edge_count + 1, sizeof(*in));
    assert_true(first && queue && in && g->decided);
    for (size_t i = 0; i < g->edge_count; i++)
        first[g->edges[i].to + 1]++;
    for (size_t i = 0; i < g->count; i++)
        first[i + 1] += first[i];
    uint32_t *next = malloc((g->count + 1) * sizeof(*next));
    assert_non_null(next);
    memcpy(next, first, (g->count + 1) * sizeof(*next));
    for (size_t i = 0; i < g->edge_count; i++)
        in[next[g->edges[i].to]++] = g->edges[i].from;
    for (size_t i = 0; i < g->count; i++)
        if (is_settled(&g->worlds[i])) {
            g->decided[i] = 1;
            queue[tail++] = (uint32_t)i;
        }
    for (; head < tail; head++)
        for (uint32_t e = first[queue[head]]; e < first[queue[head] + 1]; e++)
            if (!g->decided[in[e]]) {
                g->decided[in[e]] = 1;
                queue[tail++] = in[e];
            }
    const char *violation = NULL;
    for (size_t i = 0; i < g->count && !violation; i++)
        if (!g->decided[i]) {
            violation = "a world from which nothing is ever decided";
            g->bad = g->worlds[i];
        }
    free(first);
    free(next);
    free(queue);
    free(in);
    return violation;
}

/* Before COMMIT is sent, the source on its own gets back to a running guest. */
static bool can_go_on(const struct graph *g, struct world w, int depth)
{
    struct process *p = &w.source;

    if (depth > 12)
        return false;
    if (p->rule == NO_RULE)
        return (p->state == SOURCE_KEPT && p->running) ||
               ((happen(g, p, EVENT_LOST) || happen(g, p, EVENT_FAILED)) &&
                can_go_on(g, w, depth + 1));
    const struct handover_rule *rule = &g->rules.table->rules[p->rule];
    enum handover_action action = rule->actions[p->action];
    bool last = p->action + 1 == HANDOVER_ACTIONS_MAX || !rule->actions[p->action + 1];
    p->action = last ? 0 : p->action + 1;
    p->rule = last ? NO_RULE : p->rule;
    struct world failed = w;
    apply(&w, p, action, DISKS_SOURCE);
    if (last && handover_is_fallible(action)) {
        happen(g, &failed.source, EVENT_FAILED);
        if (can_go_on(g, failed, depth + 1))
            return true;
        happen(g, p, EVENT_DONE);
    }
    return w.commit_sent == 0 && can_go_on(g, w, depth + 1);
}

static const char *check_freedom(struct graph *g)
{
    for (size_t i = 0; i < g->count; i++) {
        const struct world *w = &g->worlds[i];
        uint8_t s = w->source.state;
        if (w->commit_sent || s < SOURCE_OFFERED || s > SOURCE_RELEASING)
            continue;
        if (!can_go_on(g, *w, 0)) {
            g->bad = *w;
            return "before COMMIT, and the source cannot go on";
        }
    }
    return NULL;
}

static void explore(struct graph *g, const struct rules_of_world *rules, int crashes, bool whole)
{
    struct world start = {.source = {.state = SOURCE_START, .rule = NO_RULE, .running = 1},
                          .disks = DISKS_SOURCE,
                          .crashes_left = (uint8_t)crashes};

    memset(g, 0, sizeof(*g));
    g->rules = *rules;
    for (int i = 0; i < ATTEMPTS; i++) {
        start.destination[i] = (struct process){.state = DESTINATION_START, .rule = NO_RULE};
        start.log[i] = LOG_NONE;
    }
    intern(g, &start);
    for (size_t i = 0; i < g->count && !g->violation; i++) {
        struct world w = g->worlds[i];
        g->current = (uint32_t)i;
        step(g, &w);
    }
    if (!g->violation && whole)
        g->violation = check_liveness(g);
    if (!g->violation && whole)
        g->violation = check_freedom(g);
}

static void graph_free(struct graph *g)
{
    free(g->worlds);
    free(g->decided);
    free(g->slots);
    free(g->edges);
}

static void print_world(const struct world *w)
{
    printf("  source %s running %d log %d disks %d attempt %d commit %d crashed %d\n",
           w->source.state == SOURCE_DEAD ? "DEAD" : handover_state_name(w->source.state),
           w->source.running, w->source_log, w->disks, w->attempt, w->commit_sent, w->crashed);
    for (int i = 0; i < ATTEMPTS; i++)
        printf("  destination %d %s running %d log %s flight %x\n", i,
               handover_state_name(w->destination[i].state), w->destination[i].running,
               handover_state_name((enum handover_state)w->log[i]), w->flight[i]);
}

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
    char *from = strstr(file.at, begin), *to = strstr(file.at, end);
    assert_true(from && to);
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
