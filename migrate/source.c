/*
 * The source's side of a move: connects, feeds what happens (messages, rounds, the user) to the
 * handover table, and reads from the table's last state what became of the machine.  The actions
 * are source_actions.c's; the question after a lost answer is query.c's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "migrate/precopy.h"
#include "migrate/source.h"

#define EPOCH_TRIES 3 /* offers of a later epoch, when the other side knows a later one */

/* ---- the move ---- */

/* REFUSE or ACCEPT.  *later: an epoch that would be new to the other side, 0: that is not it. */
static enum handover_event await_accept(struct source *s, uint64_t *later)
{
    struct ferry_error why = {0};
    struct accept accept;
    struct refuse refuse;
    struct frame f;

    *later = 0;
    int error = channel_receive(s->channel, 0, &f, &why);
    const char *peer = s->stream->ops->peer(s->stream);
    if (error) {
        source_reason(s, &why);
        return error == -ECANCELED ? EVENT_CANCEL : EVENT_LOST;
    }
    if (f.type == MESSAGE_REFUSE && !refuse_decode(&f, &refuse)) {
        if (refuse.epoch >= s->id.epoch && refuse.epoch < LIMIT_EPOCH)
            *later = refuse.epoch + 1;
        ferry_refuse(&why, -EPERM, peer, "the destination refuses: %.280s", refuse.text);
        source_reason(s, &why);
        return EVENT_REFUSE;
    }
    if (f.type == MESSAGE_ACCEPT && !accept_decode(&f, &accept) &&
        accept.version == PROTOCOL_VERSION && !accept.features && accept.id.epoch == s->id.epoch &&
        !memcmp(accept.id.vm_id, s->id.vm_id, MOVE_ID_BYTES)) {
        memcpy(s->id.host, accept.id.host, MOVE_ID_BYTES);
        return EVENT_ACCEPT;
    }
    if (f.type == MESSAGE_ABORTED)
        return source_event_of(s, &f);
    ferry_refuse(&why, -EBADMSG, peer, "this is not a ferry that can take the machine");
    source_reason(s, &why);
    return EVENT_LOST;
}

static enum handover_event run_rounds(struct source *s)
{
    struct ferry_error why = {0};
    struct frame said;

    int error = precopy_create(s->machine, s->channel, s->options, s->progress, s->result,
                               &s->precopy, &why);
    if (!error)
        error = precopy_run(s->precopy, &said, &why);
    if (!error)
        return EVENT_CONVERGED;
    if (error == -ESHUTDOWN)
        return source_event_of(s, &said);
    /* A destination that gives up says why before it closes: prefer its word to a broken pipe. */
    if (error != -ECANCELED && channel_readable(s->channel)) {
        struct ferry_error ignored = {0};
        struct frame f;
        if (!channel_receive(s->channel, 0, &f, &ignored) && f.type == MESSAGE_ABORTED)
            return source_event_of(s, &f);
    }
    source_reason(s, &why);
    return error == -ECANCELED ? EVENT_CANCEL : EVENT_LOST;
}

/* After PAUSE and SEND_STATE: wait for READY, unless something failed there. */
static enum handover_event await_ready(struct source *s)
{
    if (!s->trouble)
        return source_await(s);
    return s->trouble == -ECANCELED ? EVENT_CANCEL : EVENT_LOST;
}

/* From the last guest instruction here to the first there. */
static void measure_downtime(struct source *s)
{
    uint64_t paused = machine_paused_at_ns(s->machine), zero[2] = {0};
    const struct running *r = &s->running;
    uint8_t boot_id[MOVE_ID_BYTES];

    read_boot_id(boot_id);
    if (!s->paused_by_us || !r->entered_at_ns)
        return;
    if (memcmp(boot_id, zero, sizeof(boot_id)) && !memcmp(boot_id, r->boot_id, sizeof(boot_id))) {
        s->result->downtime_ns = r->entered_at_ns > paused ? r->entered_at_ns - paused : 0;
        return;
    }
    /* Another clock: COMMIT took half of what the exchange took beyond the time spent there. */
    uint64_t exchange = s->running_arrived_ns - s->committed_ns;
    uint64_t wire = exchange > r->sent_after_ns ? exchange - r->sent_after_ns : 0;
    s->result->downtime_ns = s->committed_ns - paused + wire / 2 + r->entered_after_ns;
}

/* One offer, until it is over or in doubt. */
static void offer(struct source *s, uint64_t *later)
{
    struct handover *h = &s->handover;

    *later = 0;
    if (source_connect(s, s->options->uri)) {
        handover_happen(h, EVENT_LOST);
        return;
    }
    channel_watch(s->channel, &s->progress->cancelled);
    channel_limit(s->channel, s->options->bandwidth);
    handover_happen(h, EVENT_START);
    handover_happen(h, await_accept(s, later));
    if (h->state == SOURCE_ROUNDS) {
        source_draft(s);
        handover_happen(h, run_rounds(s));
    }
    if (h->state == SOURCE_PAUSED)
        handover_happen(h, await_ready(s));
    if (h->state == SOURCE_COMMITTED)
        handover_happen(h, source_await(s));
    s->result->bytes_sent += channel_bytes_sent(s->channel);
    if (h->state == SOURCE_MOVED)
        measure_downtime(s);
    source_disconnect(s);
    precopy_destroy(take_ptr(&s->precopy));
    ticket_draft_drop(s->options->tickets);
}

int source_outcome(struct source *s, struct ferry_error *err)
{
    switch (s->handover.state) {
    case SOURCE_MOVED:
        s->result->outcome = MIGRATE_MOVED;
        return 0;
    case SOURCE_KEPT:
    case SOURCE_LOST:
        s->result->outcome = MIGRATE_KEPT;
        break;
    default:
        s->result->outcome = MIGRATE_IN_DOUBT;
        break;
    }
    if (!s->why.code)
        ferry_fail(&s->why, -EIO, NULL, "the move failed");
    if (err)
        *err = s->why;
    return s->why.code;
}

int migrate_out(struct machine *machine, const struct migrate_options *options,
                struct progress *progress, struct migrate_result *result, struct ferry_error *err)
{
    const struct machine_config *config = machine_config(machine);
    uint64_t began = monotonic_ns(), later = config->epoch + 1;
    struct source s = {.machine = machine,
                       .options = options,
                       .progress = progress,
                       .result = result,
                       .was_running = machine_is_running(machine)};

    *result = (struct migrate_result){.mode = "pre-copy"};
    for (int tries = 0; later && tries < EPOCH_TRIES; tries++) {
        s.handover = (struct handover){SOURCE_START, source_act, &s};
        s.why = (struct ferry_error){0};
        s.id = (struct move_id){.epoch = later};
        memcpy(s.id.vm_id, config->vm_id, MOVE_ID_BYTES);
        offer(&s, &later);
    }
    /* An epoch is offered once: whatever became of this one, the next is a later one. */
    if (s.handover.state == SOURCE_KEPT && config->epoch < s.id.epoch)
        machine_set_epoch(machine, s.id.epoch);
    result->total_ns = monotonic_ns() - began;
    int error = source_outcome(&s, err);
    if (error && result->outcome == MIGRATE_IN_DOUBT && err)
        ferry_wrap(
            err, config->name,
            "in doubt: the guest stays paused until %.100s says who owns it (`ferry resolve`)",
            options->uri);
    return error;
}
