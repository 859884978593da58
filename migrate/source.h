/* What source.c and query.c share: one party, one table, one set of actions. */
#ifndef FERRY_MIGRATE_SOURCE_H
#define FERRY_MIGRATE_SOURCE_H

#include "migrate/handover.h"
#include "migrate/message.h"
#include "migrate/migrate.h"
#include "migrate/ticket.h"

#define SOURCE_TIMEOUT_NS (10 * UINT64_C(1000000000))

struct precopy;

struct source {
    struct handover handover;
    struct machine *machine; /* NULL: its process is gone, only the log is left */
    const struct migrate_options *options;
    struct progress *progress;
    struct migrate_result *result;
    struct stream *stream;
    struct channel *channel; /* NULL: not connected */
    struct precopy *precopy;
    struct move_id id;
    bool was_running;  /* the guest ran when the move began */
    bool paused_by_us; /* so it runs again if it is kept */
    int trouble;       /* pausing or sending the state failed */
    struct running running;
    uint64_t committed_ns, running_arrived_ns;
    struct ferry_error why;
};

uint64_t source_timeout_ns(const struct migrate_options *options);
void source_reason(struct source *s, const struct ferry_error *why);
int source_connect(struct source *s, const char *uri);
void source_disconnect(struct source *s);
int source_act(void *opaque, enum handover_action action); /* for struct handover */
/* The next message as an event; EVENT_LOST or EVENT_CANCEL if there is none. */
enum handover_event source_await(struct source *s);
enum handover_event source_event_of(struct source *s, const struct frame *f);
/* Have HANDOVER ready to be logged, long before the guest is paused. */
void source_draft(struct source *s);
/* The table's last state as result->outcome and return value. */
int source_outcome(struct source *s, struct ferry_error *err);

#endif
