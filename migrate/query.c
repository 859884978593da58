/*
 * After a handover whose answer was lost: asking the other side, or taking the operator's word.
 * Both go through the handover table from IN_DOUBT (the machine is here, paused) or ORPHAN (only
 * its ticket is left), and may be repeated at will.
 */
#include <errno.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "migrate/source.h"

/* The party as the ticket describes it.  *settled: the log has the answer already. */
static int recall(struct source *s, const uint8_t vm_id[MOVE_ID_BYTES],
                  struct ticket_record *record, bool *settled, struct ferry_error *err)
{
    int error = ticket_find(s->options->tickets, vm_id, TICKET_SOURCE, record, err);

    if (error)
        return error;
    memcpy(s->id.vm_id, vm_id, MOVE_ID_BYTES);
    memcpy(s->id.host, record->peer_host, MOVE_ID_BYTES);
    s->id.epoch = record->epoch;
    s->was_running = s->paused_by_us = record->running;
    s->handover = (struct handover){s->machine ? SOURCE_IN_DOUBT : SOURCE_ORPHAN, source_act, s};
    *settled = record->state != TICKET_HANDOVER;
    s->result->outcome = record->state == TICKET_RELEASED ? MIGRATE_MOVED : MIGRATE_KEPT;
    return 0;
}

/* 0 once it is decided, whichever way. */
static int outcome(struct source *s, struct ferry_error *err)
{
    int error = source_outcome(s, err);

    return s->result->outcome == MIGRATE_IN_DOUBT ? error : 0;
}

/* The log took KEPT but could not say that it had: what follows KEPT is still to be done. */
static bool is_half_kept(const struct source *s, const struct ticket_record *record)
{
    return s->machine && record->state == TICKET_KEPT;
}

static int finish_keeping(struct source *s, struct ferry_error *err)
{
    s->result->outcome = MIGRATE_IN_DOUBT;
    s->handover.state = SOURCE_HELD;
    handover_happen(&s->handover, EVENT_QUERY);
    return outcome(s, err);
}

static int query(struct source *s, const uint8_t vm_id[MOVE_ID_BYTES], struct ferry_error *err)
{
    struct ticket_record record;
    bool settled;

    *s->result = (struct migrate_result){.mode = "pre-copy", .outcome = MIGRATE_IN_DOUBT};
    int error = recall(s, vm_id, &record, &settled, err);
    if (!error && is_half_kept(s, &record))
        return finish_keeping(s, err);
    if (error || settled)
        return error;
    const char *uri = s->options->uri ? s->options->uri : record.peer_uri;
    if (source_connect(s, uri)) {
        handover_happen(&s->handover, EVENT_LOST);
        return outcome(s, err);
    }
    handover_happen(&s->handover, EVENT_QUERY);
    handover_happen(&s->handover, source_await(s));
    source_disconnect(s);
    return outcome(s, err);
}

int migrate_query(struct machine *machine, const struct migrate_options *options,
                  struct migrate_result *result, struct ferry_error *err)
{
    struct source s = {.machine = machine, .options = options, .result = result};

    return query(&s, machine_config(machine)->vm_id, err);
}

int migrate_query_orphan(const uint8_t vm_id[MOVE_ID_BYTES], const struct migrate_options *options,
                         struct migrate_result *result, struct ferry_error *err)
{
    struct source s = {.options = options, .result = result};

    return query(&s, vm_id, err);
}

int migrate_resolve(struct machine *machine, const uint8_t vm_id[MOVE_ID_BYTES], bool keep,
                    const struct migrate_options *options, struct migrate_result *result,
                    struct ferry_error *err)
{
    struct source s = {.machine = machine, .options = options, .result = result};
    struct ticket_record record;
    bool settled;

    *result = (struct migrate_result){.mode = "pre-copy", .outcome = MIGRATE_IN_DOUBT};
    int error = recall(&s, vm_id, &record, &settled, err);
    if (error)
        return error;
    if (keep && is_half_kept(&s, &record))
        return finish_keeping(&s, err);
    if (settled)
        return ferry_refuse(err, -EALREADY, record.name, "is not in doubt: the log says %s",
                            ticket_state_name(record.state));
    handover_happen(&s.handover, keep ? EVENT_FENCED : EVENT_RELEASE);
    return outcome(&s, err);
}
