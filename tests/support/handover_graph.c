/* The graph of all worlds: walking it, and what must hold over the whole of it. */
#include "tests/support/handover_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

    g->decided = calloc(g->count + 1, 1);
    queue = calloc(g->count + 1, sizeof(*queue));
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
               ((model_happen(g, p, EVENT_LOST) || model_happen(g, p, EVENT_FAILED)) &&
                can_go_on(g, w, depth + 1));
    const struct handover_rule *rule = &g->rules.table->rules[p->rule];
    enum handover_action action = rule->actions[p->action];
    bool last = p->action + 1 == HANDOVER_ACTIONS_MAX || !rule->actions[p->action + 1];
    p->action = last ? 0 : p->action + 1;
    p->rule = last ? NO_RULE : p->rule;
    struct world failed = w;
    model_apply(&w, p, action, DISKS_SOURCE);
    if (last && handover_is_fallible(action)) {
        model_happen(g, &failed.source, EVENT_FAILED);
        if (can_go_on(g, failed, depth + 1))
            return true;
        model_happen(g, p, EVENT_DONE);
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

void explore(struct graph *g, const struct rules_of_world *rules, int crashes, bool whole)
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
    model_add(g, &start);
    for (size_t i = 0; i < g->count && !g->violation; i++) {
        struct world w = g->worlds[i];
        g->current = (uint32_t)i;
        model_step(g, &w);
    }
    if (!g->violation && whole)
        g->violation = check_liveness(g);
    if (!g->violation && whole)
        g->violation = check_freedom(g);
}

void graph_free(struct graph *g)
{
    free(g->worlds);
    free(g->decided);
    free(g->slots);
    free(g->edges);
}

void print_world(const struct world *w)
{
    printf("  source %s running %d log %d disks %d attempt %d commit %d crashed %d\n",
           w->source.state == SOURCE_DEAD ? "DEAD" : handover_state_name(w->source.state),
           w->source.running, w->source_log, w->disks, w->attempt, w->commit_sent, w->crashed);
    for (int i = 0; i < ATTEMPTS; i++)
        printf("  destination %d %s running %d log %s flight %x\n", i,
               handover_state_name(w->destination[i].state), w->destination[i].running,
               handover_state_name((enum handover_state)w->log[i]), w->flight[i]);
}
