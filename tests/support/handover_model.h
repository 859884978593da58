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
 * over the whole graph, that whenever faults stop, everything comes to a decision.
 */
#ifndef FERRY_TESTS_SUPPORT_HANDOVER_MODEL_H
#define FERRY_TESTS_SUPPORT_HANDOVER_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
    uint8_t zero;              /* no padding: worlds are compared as bytes */
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

/* All worlds that `crashes` crashes and any other faults lead to, until one breaks a promise
 * (g->violation says which, g->bad is it).  whole: check the graph as such, too. */
void explore(struct graph *g, const struct rules_of_world *rules, int crashes, bool whole);
void graph_free(struct graph *g);
void print_world(const struct world *w);

/* For handover_model.c and handover_graph.c */
void model_add(struct graph *g, const struct world *start);
void model_step(struct graph *g, const struct world *w);
bool model_happen(const struct graph *g, struct process *p, enum handover_event event);
void model_apply(struct world *w, struct process *p, enum handover_action action, int who);

#endif
