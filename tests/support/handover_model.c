/* The steps of the model: what can happen in a world, and what must hold in each. */
#include "tests/support/handover_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/hash.h"

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
bool model_happen(const struct graph *g, struct process *p, enum handover_event event)
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

void model_apply(struct world *w, struct process *p, enum handover_action action, int who)
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
        model_apply(&w, p, action, who);
        reach(g, &w, false);
        return;
    }
    int possible = outcomes(g, before, action, who);
    struct world failed = w;
    if (possible & 2) {
        model_apply(&w, p, action, who);
        struct world half = w; /* done, but reported as failed: fsync said so */
        if (last)
            model_happen(g, p, EVENT_DONE);
        reach(g, &w, false);
        if (action == ACTION_LOG_HANDOVER || action == ACTION_RELEASE_DISKS) {
            if (last)
                model_happen(g, process_of(&half, who), EVENT_FAILED);
            reach(g, &half, true);
        }
    }
    if (last)
        model_happen(g, process_of(&failed, who), EVENT_FAILED);
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
    if (!model_happen(g, p, (enum handover_event)event))
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

    if (model_happen(g, process_of(&w, who), event))
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

void model_step(struct graph *g, const struct world *w)
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

void model_add(struct graph *g, const struct world *start)
{
    (void)intern(g, start);
}
