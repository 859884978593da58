/*
 * The handover as a table: which side does what, when, and what it must have written down first.
 *
 * A rule says: in this state, at this event, do these actions in this order and then be in that
 * state.  The table decides nothing by itself and touches nothing: source.c, destination.c and
 * query.c carry the actions out and report what came of them as events, PROTOCOL.md prints it, and
 * tests/model/test_handover.c walks every interleaving of it.
 *
 * If the last action of a rule can fail (log, disks, load), the state that follows waits for
 * EVENT_DONE or EVENT_FAILED and for nothing else.  A message for which a state has no rule
 * breaks the connection: EVENT_LOST follows.  Every message carries vm id and epoch, and is not for
 * us if they differ.
 */
#ifndef FERRY_MIGRATE_HANDOVER_H
#define FERRY_MIGRATE_HANDOVER_H

#include <stddef.h>

enum handover_role {
    HANDOVER_SOURCE,
    HANDOVER_DESTINATION,
    HANDOVER_ANSWER, /* whoever answers STATUS on the destination's host, out of its log */
    HANDOVER_ROLES,
};

#define HANDOVER_STATES(X)                                                               \
    /* the source */                                                                     \
    X(SOURCE_START, "the guest runs here, nothing was said")                             \
    X(SOURCE_OFFERED, "HELLO was sent, the guest runs here")                             \
    X(SOURCE_ROUNDS, "the other side takes chunks, the guest runs here")                 \
    X(SOURCE_PAUSED, "the guest is paused, the rest is sent, READY is awaited")          \
    X(SOURCE_LOGGING, "HANDOVER is being logged")                                        \
    X(SOURCE_RELEASING, "the disks are being given up")                                  \
    X(SOURCE_COMMITTED, "COMMIT was sent, the answer is awaited")                        \
    X(SOURCE_IN_DOUBT, "paused until the other side says who owns the guest")            \
    X(SOURCE_ORPHAN, "in doubt, and the process that held the guest is gone")            \
    X(SOURCE_TAKING_BACK, "the other side will never own it; the disks are being taken") \
    X(SOURCE_HELD, "owned here, but the disks or the log cannot be had yet: paused")     \
    X(SOURCE_KEEPING, "KEPT is being logged")                                            \
    X(SOURCE_CONFIRMING, "RELEASED is being logged")                                     \
    X(SOURCE_BURYING, "LOST is being logged")                                            \
    X(SOURCE_KEPT, "end: the guest goes on here")                                        \
    X(SOURCE_MOVED, "end: the other side owns the guest")                                \
    X(SOURCE_LOST, "end: the other side refused, and the guest died with its process")   \
    /* the destination */                                                                \
    X(DESTINATION_START, "HELLO is awaited")                                             \
    X(DESTINATION_RESERVING, "INCOMING is being logged")                                 \
    X(DESTINATION_RECEIVING, "chunks and state come in")                                 \
    X(DESTINATION_LOADING, "the state is being checked and loaded")                      \
    X(DESTINATION_READY, "READY was sent, COMMIT is awaited")                            \
    X(DESTINATION_TAKING, "the disks are being taken")                                   \
    X(DESTINATION_DECIDING, "OWNED is being logged")                                     \
    X(DESTINATION_ABORTING, "ABORTED is being logged")                                   \
    X(DESTINATION_RUNNING, "end: the guest runs here, the source may still ask")         \
    X(DESTINATION_CONFIRMED, "end: the guest runs here, the source is gone")             \
    X(DESTINATION_ABORTED, "end: it never ran here and never will")                      \
    X(DESTINATION_SILENT, "end: it never ran here; the log decides when asked")          \
    /* the log of the destination's host, as it answers STATUS */                        \
    X(LOG_NONE, "nothing is logged of this epoch")                                       \
    X(LOG_INCOMING, "INCOMING is logged")                                                \
    X(LOG_OWNED, "OWNED is logged")                                                      \
    X(LOG_ABORTED, "ABORTED is logged")                                                  \
    X(LOG_REFUSING, "ABORTED is being logged before it is answered")

#define HANDOVER_EVENTS(X)                                                        \
    X(START, "the user asks for the move")                                        \
    X(HELLO, "message: a machine is offered, and this host would take it")        \
    X(UNFIT, "message: a machine is offered, and this host cannot take it")       \
    X(ACCEPT, "message")                                                          \
    X(REFUSE, "message")                                                          \
    X(CONVERGED, "the rest fits the wished downtime, or the rounds are used up")  \
    X(STATE, "message: all chunks and state are here")                            \
    X(READY, "message: the digest of all state agrees")                           \
    X(COMMIT, "message")                                                          \
    X(RUNNING, "message")                                                         \
    X(ABORTED, "message")                                                         \
    X(UNKNOWN, "message: the host that answers is not the one that was asked")    \
    X(ABORT, "message")                                                           \
    X(GONE, "message: the source has let go and will not ask again")              \
    X(STATUS, "message")                                                          \
    X(DONE, "the last action succeeded")                                          \
    X(FAILED, "the last action failed, or the log holds another decision")        \
    X(LOST, "the connection broke, or was not understood, or is silent too long") \
    X(CANCEL, "the user cancels")                                                 \
    X(QUERY, "time to ask, or to try again")                                      \
    X(FENCED, "operator: the other side is dead for certain, keep the guest")     \
    X(RELEASE, "operator: the other side has the guest for certain")

#define HANDOVER_ACTIONS(X)                                                     \
    X(SEND_HELLO, "send HELLO")                                                 \
    X(SEND_ACCEPT, "send ACCEPT")                                               \
    X(SEND_REFUSE, "send REFUSE")                                               \
    X(SEND_STATE, "send last chunks and state")                                 \
    X(SEND_READY, "send READY")                                                 \
    X(SEND_COMMIT, "send COMMIT")                                               \
    X(SEND_RUNNING, "send RUNNING")                                             \
    X(SEND_ABORTED, "send ABORTED")                                             \
    X(SEND_ABORT, "send ABORT")                                                 \
    X(SEND_GONE, "send GONE")                                                   \
    X(SEND_STATUS, "send STATUS")                                               \
    X(PAUSE, "pause the guest")                                                 \
    X(RESUME, "**run the guest**")                                              \
    X(RAISE_EPOCH, "own it at epoch + 1")                                       \
    X(LOAD, "check and load the state")                                         \
    X(TAKE_DISKS, "take the disks")                                             \
    X(RELEASE_DISKS, "give the disks up")                                       \
    X(LOG_HANDOVER, "log HANDOVER")                                             \
    X(LOG_KEPT, "log KEPT")                                                     \
    X(LOG_RELEASED, "log RELEASED")                                             \
    X(LOG_LOST, "log LOST")                                                     \
    X(LOG_INCOMING, "log INCOMING, unless this epoch or a later one is logged") \
    X(LOG_OWNED, "log OWNED, if the log says INCOMING")                         \
    X(LOG_ABORTED, "log ABORTED, unless the log says OWNED")

enum handover_state {
    HANDOVER_NO_STATE,
#define X(name, text) name,
    HANDOVER_STATES(X)
#undef X
        HANDOVER_STATE_COUNT
};

enum handover_event {
#define X(name, text) EVENT_##name,
    HANDOVER_EVENTS(X)
#undef X
        HANDOVER_EVENT_COUNT
};

enum handover_action {
    ACTION_NONE,
#define X(name, text) ACTION_##name,
    HANDOVER_ACTIONS(X)
#undef X
        HANDOVER_ACTION_COUNT
};

#define HANDOVER_ACTIONS_MAX 3

struct handover_rule {
    enum handover_state state;
    enum handover_event event;
    enum handover_action actions[HANDOVER_ACTIONS_MAX]; /* ACTION_NONE ends the list */
    enum handover_state next;
};

struct handover_table {
    const struct handover_rule *rules;
    size_t count;
};

extern const struct handover_table handover_table;

/* The rule for an event in a state, NULL: there is none. */
const struct handover_rule *handover_find(const struct handover_table *table,
                                          enum handover_state state, enum handover_event event);
enum handover_role handover_role_of(enum handover_state state);
/* The action can fail: EVENT_DONE or EVENT_FAILED is awaited after it. */
int handover_is_fallible(enum handover_action action);

/* A party that the table drives.  act carries one action out; its result counts if the action is
 * the last of its rule and can fail. */
struct handover {
    enum handover_state state;
    int (*act)(void *opaque, enum handover_action action);
    void *opaque;
};

/* Let the event happen: do what its rule says, and what follows from that.  An event without a rule
 * counts as EVENT_LOST, and as nothing where that has no rule either. */
void handover_happen(struct handover *h, enum handover_event event);

/* Names as they are printed ("SOURCE_PAUSED", "READY", "LOG_OWNED"). */
const char *handover_state_name(enum handover_state state);
const char *handover_event_name(enum handover_event event);
const char *handover_action_name(enum handover_action action);
/* The states, events and rules as Markdown, for PROTOCOL.md, through put(opaque, text). */
void handover_describe(void (*put)(void *opaque, const char *text), void *opaque);

#endif
