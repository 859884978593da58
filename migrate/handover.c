/*
 * The rules.  What keeps the guest from running twice:
 *  - the source resumes after COMMIT only by way of TAKING_BACK, which only ABORTED leads to (or
 *    the operator's word), and ABORTED is sent only after it was logged;
 *  - the destination runs only after OWNED was logged, and OWNED is logged only over INCOMING;
 *  - one file decides: OWNED and ABORTED exclude each other.
 */
#include "migrate/handover.h"

#include <stdio.h>

#define RULE(state, event, next, ...)             \
    {                                             \
        state, EVENT_##event, {__VA_ARGS__}, next \
    }
#define NOTHING ACTION_NONE

static const struct handover_rule rules[] = {
    /* Before COMMIT the source goes on whatever happens. */
    RULE(SOURCE_START, START, SOURCE_OFFERED, ACTION_SEND_HELLO),
    RULE(SOURCE_START, LOST, SOURCE_KEPT, NOTHING),
    RULE(SOURCE_START, CANCEL, SOURCE_KEPT, NOTHING),
    RULE(SOURCE_OFFERED, ACCEPT, SOURCE_ROUNDS, NOTHING),
    RULE(SOURCE_OFFERED, REFUSE, SOURCE_KEPT, NOTHING),
    RULE(SOURCE_OFFERED, ABORTED, SOURCE_KEPT, NOTHING),
    RULE(SOURCE_OFFERED, LOST, SOURCE_KEPT, NOTHING),
    RULE(SOURCE_OFFERED, CANCEL, SOURCE_KEPT, ACTION_SEND_ABORT),
    RULE(SOURCE_ROUNDS, CONVERGED, SOURCE_PAUSED, ACTION_PAUSE, ACTION_SEND_STATE),
    RULE(SOURCE_ROUNDS, ABORTED, SOURCE_KEPT, NOTHING),
    RULE(SOURCE_ROUNDS, LOST, SOURCE_KEPT, ACTION_SEND_ABORT),
    RULE(SOURCE_ROUNDS, CANCEL, SOURCE_KEPT, ACTION_SEND_ABORT),
    RULE(SOURCE_PAUSED, READY, SOURCE_LOGGING, ACTION_LOG_HANDOVER),
    RULE(SOURCE_PAUSED, ABORTED, SOURCE_KEPT, ACTION_RESUME),
    RULE(SOURCE_PAUSED, LOST, SOURCE_KEPT, ACTION_SEND_ABORT, ACTION_RESUME),
    RULE(SOURCE_PAUSED, CANCEL, SOURCE_KEPT, ACTION_SEND_ABORT, ACTION_RESUME),
    RULE(SOURCE_LOGGING, DONE, SOURCE_RELEASING, ACTION_RELEASE_DISKS),
    RULE(SOURCE_LOGGING, FAILED, SOURCE_KEPT, ACTION_SEND_ABORT, ACTION_RESUME),
    RULE(SOURCE_RELEASING, DONE, SOURCE_COMMITTED, ACTION_SEND_COMMIT),
    RULE(SOURCE_RELEASING, FAILED, SOURCE_TAKING_BACK, ACTION_SEND_ABORT, ACTION_TAKE_DISKS),

    /* After COMMIT only an answer decides. */
    RULE(SOURCE_COMMITTED, RUNNING, SOURCE_CONFIRMING, ACTION_LOG_RELEASED),
    RULE(SOURCE_COMMITTED, ABORTED, SOURCE_TAKING_BACK, ACTION_TAKE_DISKS),
    RULE(SOURCE_COMMITTED, LOST, SOURCE_IN_DOUBT, NOTHING),
    RULE(SOURCE_IN_DOUBT, QUERY, SOURCE_IN_DOUBT, ACTION_SEND_STATUS),
    RULE(SOURCE_IN_DOUBT, RUNNING, SOURCE_CONFIRMING, ACTION_LOG_RELEASED),
    RULE(SOURCE_IN_DOUBT, ABORTED, SOURCE_TAKING_BACK, ACTION_TAKE_DISKS),
    RULE(SOURCE_IN_DOUBT, UNKNOWN, SOURCE_IN_DOUBT, NOTHING),
    RULE(SOURCE_IN_DOUBT, LOST, SOURCE_IN_DOUBT, NOTHING),
    RULE(SOURCE_IN_DOUBT, FENCED, SOURCE_TAKING_BACK, ACTION_TAKE_DISKS),
    RULE(SOURCE_IN_DOUBT, RELEASE, SOURCE_CONFIRMING, ACTION_LOG_RELEASED),
    RULE(SOURCE_TAKING_BACK, DONE, SOURCE_KEEPING, ACTION_LOG_KEPT),
    RULE(SOURCE_TAKING_BACK, FAILED, SOURCE_HELD, NOTHING),
    RULE(SOURCE_HELD, QUERY, SOURCE_TAKING_BACK, ACTION_TAKE_DISKS),
    RULE(SOURCE_KEEPING, DONE, SOURCE_KEPT, ACTION_RAISE_EPOCH, ACTION_RESUME),
    RULE(SOURCE_KEEPING, FAILED, SOURCE_HELD, NOTHING),
    RULE(SOURCE_CONFIRMING, DONE, SOURCE_MOVED, ACTION_SEND_GONE),
    RULE(SOURCE_CONFIRMING, FAILED, SOURCE_MOVED, NOTHING),
    RULE(SOURCE_MOVED, RUNNING, SOURCE_MOVED, NOTHING),

    /* The source's process died after HANDOVER was logged: only the log is left. */
    RULE(SOURCE_ORPHAN, QUERY, SOURCE_ORPHAN, ACTION_SEND_STATUS),
    RULE(SOURCE_ORPHAN, RUNNING, SOURCE_CONFIRMING, ACTION_LOG_RELEASED),
    RULE(SOURCE_ORPHAN, ABORTED, SOURCE_BURYING, ACTION_LOG_LOST),
    RULE(SOURCE_ORPHAN, UNKNOWN, SOURCE_ORPHAN, NOTHING),
    RULE(SOURCE_ORPHAN, LOST, SOURCE_ORPHAN, NOTHING),
    RULE(SOURCE_ORPHAN, FENCED, SOURCE_BURYING, ACTION_LOG_LOST),
    RULE(SOURCE_ORPHAN, RELEASE, SOURCE_CONFIRMING, ACTION_LOG_RELEASED),
    RULE(SOURCE_BURYING, DONE, SOURCE_LOST, NOTHING),
    RULE(SOURCE_BURYING, FAILED, SOURCE_ORPHAN, NOTHING),

    /* The destination may abort at any time before OWNED is logged. */
    RULE(DESTINATION_START, HELLO, DESTINATION_RESERVING, ACTION_LOG_INCOMING),
    RULE(DESTINATION_START, UNFIT, DESTINATION_SILENT, ACTION_SEND_REFUSE),
    RULE(DESTINATION_START, LOST, DESTINATION_SILENT, NOTHING),
    RULE(DESTINATION_START, CANCEL, DESTINATION_SILENT, NOTHING),
    RULE(DESTINATION_RESERVING, DONE, DESTINATION_RECEIVING, ACTION_SEND_ACCEPT),
    RULE(DESTINATION_RESERVING, FAILED, DESTINATION_SILENT, ACTION_SEND_REFUSE),
    RULE(DESTINATION_RECEIVING, STATE, DESTINATION_LOADING, ACTION_LOAD),
    RULE(DESTINATION_RECEIVING, ABORT, DESTINATION_ABORTING, ACTION_LOG_ABORTED),
    RULE(DESTINATION_RECEIVING, LOST, DESTINATION_ABORTING, ACTION_LOG_ABORTED),
    RULE(DESTINATION_RECEIVING, CANCEL, DESTINATION_ABORTING, ACTION_LOG_ABORTED),
    RULE(DESTINATION_LOADING, DONE, DESTINATION_READY, ACTION_SEND_READY),
    RULE(DESTINATION_LOADING, FAILED, DESTINATION_ABORTING, ACTION_LOG_ABORTED),
    RULE(DESTINATION_READY, COMMIT, DESTINATION_TAKING, ACTION_TAKE_DISKS),
    RULE(DESTINATION_READY, ABORT, DESTINATION_ABORTING, ACTION_LOG_ABORTED),
    RULE(DESTINATION_READY, LOST, DESTINATION_ABORTING, ACTION_LOG_ABORTED),
    RULE(DESTINATION_READY, CANCEL, DESTINATION_ABORTING, ACTION_LOG_ABORTED),
    RULE(DESTINATION_TAKING, DONE, DESTINATION_DECIDING, ACTION_LOG_OWNED),
    RULE(DESTINATION_TAKING, FAILED, DESTINATION_ABORTING, ACTION_LOG_ABORTED),
    RULE(DESTINATION_DECIDING, DONE, DESTINATION_RUNNING, ACTION_RESUME, ACTION_SEND_RUNNING),
    RULE(DESTINATION_DECIDING, FAILED, DESTINATION_ABORTING, ACTION_RELEASE_DISKS,
         ACTION_LOG_ABORTED),
    RULE(DESTINATION_ABORTING, DONE, DESTINATION_ABORTED, ACTION_SEND_ABORTED),
    RULE(DESTINATION_ABORTING, FAILED, DESTINATION_SILENT, NOTHING),
    RULE(DESTINATION_RUNNING, GONE, DESTINATION_CONFIRMED, NOTHING),
    RULE(DESTINATION_RUNNING, LOST, DESTINATION_RUNNING, NOTHING),
    RULE(DESTINATION_RUNNING, COMMIT, DESTINATION_RUNNING, ACTION_SEND_RUNNING),
    RULE(DESTINATION_RUNNING, CANCEL, DESTINATION_RUNNING, NOTHING),

    /* Being asked decides what is not decided yet. */
    RULE(LOG_NONE, STATUS, LOG_REFUSING, ACTION_LOG_ABORTED),
    RULE(LOG_INCOMING, STATUS, LOG_REFUSING, ACTION_LOG_ABORTED),
    RULE(LOG_OWNED, STATUS, LOG_OWNED, ACTION_SEND_RUNNING),
    RULE(LOG_ABORTED, STATUS, LOG_ABORTED, ACTION_SEND_ABORTED),
    RULE(LOG_REFUSING, DONE, LOG_ABORTED, ACTION_SEND_ABORTED),
    RULE(LOG_REFUSING, FAILED, LOG_INCOMING, NOTHING),
};

const struct handover_table handover_table = {rules, sizeof(rules) / sizeof(rules[0])};

const struct handover_rule *handover_find(const struct handover_table *table,
                                          enum handover_state state, enum handover_event event)
{
    for (size_t i = 0; i < table->count; i++)
        if (table->rules[i].state == state && table->rules[i].event == event)
            return &table->rules[i];
    return NULL;
}

enum handover_role handover_role_of(enum handover_state state)
{
    if (state <= SOURCE_LOST)
        return HANDOVER_SOURCE;
    return state <= DESTINATION_SILENT ? HANDOVER_DESTINATION : HANDOVER_ANSWER;
}

int handover_is_fallible(enum handover_action action)
{
    switch (action) {
    case ACTION_LOAD:
    case ACTION_TAKE_DISKS:
    case ACTION_RELEASE_DISKS:
    case ACTION_LOG_HANDOVER:
    case ACTION_LOG_KEPT:
    case ACTION_LOG_RELEASED:
    case ACTION_LOG_LOST:
    case ACTION_LOG_INCOMING:
    case ACTION_LOG_OWNED:
    case ACTION_LOG_ABORTED:
        return 1;
    default:
        return 0;
    }
}

void handover_happen(struct handover *h, enum handover_event event)
{
    for (;;) {
        const struct handover_rule *rule = handover_find(&handover_table, h->state, event);
        if (!rule)
            rule = handover_find(&handover_table, h->state, EVENT_LOST);
        if (!rule)
            return;
        enum handover_action last = ACTION_NONE;
        int error = 0;
        h->state = rule->next;
        for (size_t i = 0; i < HANDOVER_ACTIONS_MAX && rule->actions[i]; i++) {
            last = rule->actions[i];
            error = h->act(h->opaque, last);
        }
        if (!handover_is_fallible(last))
            return;
        event = error ? EVENT_FAILED : EVENT_DONE;
    }
}

/* ---- names and print ---- */

struct name {
    const char *name, *text;
};

#define X(name, text) {#name, text},
static const struct name states[] = {{"-", ""}, HANDOVER_STATES(X)};
static const struct name events[] = {HANDOVER_EVENTS(X)};
static const struct name actions[] = {{"-", "nothing"}, HANDOVER_ACTIONS(X)};
#undef X

const char *handover_state_name(enum handover_state state)
{
    return (unsigned)state < HANDOVER_STATE_COUNT ? states[state].name : "?";
}

const char *handover_event_name(enum handover_event event)
{
    return (unsigned)event < HANDOVER_EVENT_COUNT ? events[event].name : "?";
}

const char *handover_action_name(enum handover_action action)
{
    return (unsigned)action < HANDOVER_ACTION_COUNT ? actions[action].name : "?";
}

static void describe_rule(const struct handover_rule *rule, char *text, size_t size)
{
    int at =
        snprintf(text, size, "| %s | %s | ", states[rule->state].name, events[rule->event].name);

    for (size_t i = 0; i < HANDOVER_ACTIONS_MAX && (!i || rule->actions[i]); i++)
        at += snprintf(text + at, size - (size_t)at, "%s%s", i ? "; " : "",
                       actions[rule->actions[i]].text);
    snprintf(text + at, size - (size_t)at, " | %s |\n", states[rule->next].name);
}

void handover_describe(void (*put)(void *opaque, const char *text), void *opaque)
{
    char text[512];

    put(opaque, "| state | meaning |\n|---|---|\n");
    for (size_t i = 1; i < HANDOVER_STATE_COUNT; i++) {
        snprintf(text, sizeof(text), "| %s | %s |\n", states[i].name, states[i].text);
        put(opaque, text);
    }
    put(opaque, "\n| event | what has happened |\n|---|---|\n");
    for (size_t i = 0; i < HANDOVER_EVENT_COUNT; i++) {
        snprintf(text, sizeof(text), "| %s | %s |\n", events[i].name, events[i].text);
        put(opaque, text);
    }
    put(opaque, "\n| state | event | actions, in this order | next state |\n|---|---|---|---|\n");
    for (size_t i = 0; i < handover_table.count; i++) {
        describe_rule(&handover_table.rules[i], text, sizeof(text));
        put(opaque, text);
    }
}
