/*
 * The source's party in the handover: its connection, what the other side's messages mean as
 * events, and the actions that the table asks for.  source.c moves with it, query.c asks with it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "migrate/precopy.h"
#include "migrate/source.h"

/* ---- the connection ---- */

uint64_t source_timeout_ns(const struct migrate_options *options)
{
    return options->timeout_ns ? options->timeout_ns : SOURCE_TIMEOUT_NS;
}

/* The first thing that went wrong is what the user is told. */
void source_reason(struct source *s, const struct ferry_error *why)
{
    if (!s->why.code)
        s->why = *why;
    log_debug(s->options->log, "move: %s", why->message);
}

int source_connect(struct source *s, const char *uri)
{
    struct ferry_error why = {0};
    uint64_t timeout_ns = source_timeout_ns(s->options);

    int error =
        stream_connect(uri, s->options->insecure, (int)(timeout_ns / 1000000), &s->stream, &why);
    if (!error)
        error = channel_create(s->stream, timeout_ns, &s->channel, &why);
    if (error) {
        source_reason(s, &why);
        source_disconnect(s);
    }
    return error;
}

void source_disconnect(struct source *s)
{
    channel_destroy(take_ptr(&s->channel));
    stream_close(take_ptr(&s->stream));
}

static int send_writer(struct source *s, enum message_type type, struct writer *w)
{
    struct ferry_error why = {0};

    if (!s->channel)
        return -EPIPE;
    int error = w->error ? ferry_fail(&why, w->error, NULL, "cannot put a message together")
                         : channel_queue(s->channel, (uint16_t)type, w->data, w->size, &why);
    if (!error)
        error = channel_flush(s->channel, &why);
    if (error)
        source_reason(s, &why);
    return error;
}

static int send_word(struct source *s, enum message_type type, const char *text)
{
    CLEANUP(writer_free) struct writer w = writer_init(LIMIT_FRAME_BYTES);

    word_encode(&w, &s->id, text);
    return send_writer(s, type, &w);
}

/* What the other side says about this move, as an event; `why` explains what ends it. */
static enum handover_event understand(struct source *s, const struct frame *f,
                                      struct ferry_error *why)
{
    const char *peer = s->stream->ops->peer(s->stream);
    struct word word;

    switch (f->type) {
    case MESSAGE_RUNNING:
        if (running_decode(f, &s->running) || !move_id_equal(&s->running.id, &s->id))
            break;
        s->running_arrived_ns = monotonic_ns();
        return EVENT_RUNNING;
    case MESSAGE_ABORTED:
        if (word_decode(f, &word) || !move_id_equal(&word.id, &s->id))
            break;
        ferry_refuse(why, -ECONNABORTED, peer, "the destination gave up: %.200s", word.text);
        return EVENT_ABORTED;
    case MESSAGE_UNKNOWN:
        if (word_decode(f, &word) || !move_id_equal(&word.id, &s->id))
            break;
        ferry_refuse(why, -ENOENT, peer, "the other side cannot tell: %.200s", word.text);
        return EVENT_UNKNOWN;
    case MESSAGE_READY: {
        struct ready ready;
        uint8_t digest[SHA256_BYTES];
        if (ready_decode(f, &ready) || !move_id_equal(&ready.id, &s->id) ||
            channel_digest_sent(s->channel, digest))
            break;
        if (!memcmp(digest, ready.digest, sizeof(digest)))
            return EVENT_READY;
        ferry_refuse(why, -EBADMSG, peer, "the destination holds another state than was sent");
        return EVENT_LOST;
    }
    default:
        break;
    }
    ferry_refuse(why, -EBADMSG, peer, "the other side answered with a message out of place");
    return EVENT_LOST;
}

enum handover_event source_event_of(struct source *s, const struct frame *f)
{
    struct ferry_error why = {0};
    enum handover_event event = understand(s, f, &why);

    if (why.code)
        source_reason(s, &why);
    return event;
}

enum handover_event source_await(struct source *s)
{
    struct ferry_error why = {0};
    struct frame f;

    if (!s->channel)
        return EVENT_LOST;
    int error = channel_receive(s->channel, 0, &f, &why);
    if (!error)
        return source_event_of(s, &f);
    source_reason(s, &why);
    return error == -ECANCELED ? EVENT_CANCEL : EVENT_LOST;
}

/* ---- the actions ---- */

static int send_hello(struct source *s)
{
    CLEANUP(writer_free) struct writer w = writer_init(LIMIT_FRAME_BYTES);
    json_t *config = machine_config_to_json(machine_config(s->machine));
    CLEANUP_FREE char *text = config ? json_dumps(config, JSON_COMPACT) : NULL;
    struct hello m = {.version = PROTOCOL_VERSION,
                      .page_bytes = MEMORY_PAGE_BYTES,
                      .epoch = s->id.epoch,
                      .json = text,
                      .json_size = text ? strlen(text) : 0};

    json_decref(config);
    if (!text)
        w.error = -ENOMEM;
    memcpy(m.vm_id, s->id.vm_id, sizeof(m.vm_id));
    memcpy(m.host, ticket_store_host(s->options->tickets), sizeof(m.host));
    hello_encode(&w, &m);
    return send_writer(s, MESSAGE_HELLO, &w);
}

struct section_sink {
    struct source *source;
    uint32_t count;
};

static int put_section(void *opaque, const struct machine_section *section, struct ferry_error *err)
{
    struct section_sink *sink = opaque;
    CLEANUP(writer_free) struct writer w = writer_init(LIMIT_FRAME_BYTES);

    sink->count++;
    sink->source->result->bytes_state += section->size;
    section_encode(&w, section);
    if (w.error)
        return ferry_fail_sys(err, w.error, section->name, "cannot send the state");
    return channel_queue(sink->source->channel, MESSAGE_SECTION, w.data, w.size, err);
}

/*
 * All state, the last pages, and STATE.  Pages come last because taking the state of a vCPU may
 * write guest memory (KVM marks the vCPU as preempted in its steal time).
 */
static int send_state(struct source *s)
{
    CLEANUP(writer_free) struct writer w = writer_init(LIMIT_FRAME_BYTES);
    struct section_sink sink = {.source = s};
    struct ferry_error why = {0};

    int error = s->trouble;
    if (!error)
        error = machine_save(s->machine, put_section, &sink, &why);
    if (!error)
        error = precopy_finish(s->precopy, &why);
    if (error) {
        s->trouble = error;
        source_reason(s, &why);
        return error;
    }
    state_encode(&w,
                 &(struct state_end){.id = s->id, .sections = sink.count, .run = s->was_running});
    return s->trouble = send_writer(s, MESSAGE_STATE, &w);
}

static int pause_guest(struct source *s)
{
    struct ferry_error why = {0};

    if (s->was_running && !machine_is_running(s->machine))
        s->trouble = ferry_fail(&why, -ECANCELED, machine_config(s->machine)->name,
                                "the guest stopped by itself during the move");
    else if (s->was_running) {
        s->paused_by_us = true; /* also if it fails half way */
        s->trouble = machine_pause(s->machine, &why);
    }
    if (s->trouble)
        source_reason(s, &why);
    return s->trouble;
}

static int resume_guest(struct source *s)
{
    struct ferry_error why = {0};

    if (!s->paused_by_us)
        return 0;
    s->paused_by_us = false;
    int error = machine_resume(s->machine, &why);
    if (error) {
        log_error(s->options->log, "the guest is owned here but cannot be resumed: %s",
                  why.message);
        source_reason(s, &why);
    }
    return error;
}

static int take_disks(struct source *s)
{
    struct ferry_error why = {0};
    bool owned = true;

    for (uint32_t i = 0; i < machine_disk_count(s->machine); i++)
        owned &= machine_disk(s->machine, i)->active;
    int error = owned ? 0 : machine_activate_disks(s->machine, &why);
    if (error) {
        ferry_wrap(&why, NULL, "the guest is owned here but its disks cannot be had yet");
        s->why = why; /* what keeps it paused now, whatever was first */
    }
    return error;
}

static int release_disks(struct source *s)
{
    struct ferry_error why = {0};
    int error = machine_release_disks(s->machine, &why);

    if (error)
        source_reason(s, &why);
    return error;
}

static struct ticket_record handover_record(const struct source *s)
{
    struct ticket_record record = {.epoch = s->id.epoch, .running = s->was_running};

    memcpy(record.vm_id, s->id.vm_id, sizeof(record.vm_id));
    memcpy(record.peer_host, s->id.host, sizeof(record.peer_host));
    snprintf(record.name, sizeof(record.name), "%s", machine_config(s->machine)->name);
    snprintf(record.peer_uri, sizeof(record.peer_uri), "%s", s->options->uri);
    return record;
}

void source_draft(struct source *s)
{
    const struct ticket_record record = handover_record(s);

    ticket_draft_hand_over(s->options->tickets, &record);
}

static int log_handover(struct source *s)
{
    const struct ticket_record record = handover_record(s);
    struct ferry_error why = {0};
    int error = ticket_hand_over(s->options->tickets, &record, &why);

    if (error)
        source_reason(s, &why);
    return error;
}

static int settle(struct source *s, enum ticket_state state)
{
    struct ferry_error why = {0};
    int error = ticket_settle(s->options->tickets, s->id.vm_id, s->id.epoch, state, &why);

    if (error) {
        log_warn(s->options->log, "cannot log %s: %s", ticket_state_name(state), why.message);
        source_reason(s, &why);
    }
    return error;
}

int source_act(void *opaque, enum handover_action action)
{
    struct source *s = opaque;

    log_debug(s->options->log, "move: %s", handover_action_name(action));
    switch (action) {
    case ACTION_SEND_HELLO:
        return send_hello(s);
    case ACTION_PAUSE:
        return pause_guest(s);
    case ACTION_SEND_STATE:
        return send_state(s);
    case ACTION_LOG_HANDOVER:
        return log_handover(s);
    case ACTION_RELEASE_DISKS:
        return release_disks(s);
    case ACTION_SEND_COMMIT:
        s->committed_ns = monotonic_ns();
        if (s->channel)
            channel_watch(s->channel, NULL); /* from here on a cancel comes too late */
        return send_word(s, MESSAGE_COMMIT, "");
    case ACTION_SEND_ABORT:
        return send_word(s, MESSAGE_ABORT, s->why.code ? s->why.message : "");
    case ACTION_SEND_GONE:
        return send_word(s, MESSAGE_GONE, "");
    case ACTION_SEND_STATUS:
        return send_word(s, MESSAGE_STATUS, "");
    case ACTION_TAKE_DISKS:
        return take_disks(s);
    case ACTION_LOG_KEPT:
        return settle(s, TICKET_KEPT);
    case ACTION_LOG_RELEASED:
        return settle(s, TICKET_RELEASED);
    case ACTION_LOG_LOST:
        return settle(s, TICKET_LOST);
    case ACTION_RAISE_EPOCH:
        machine_set_epoch(s->machine, s->id.epoch + 1);
        return 0;
    case ACTION_RESUME:
        return resume_guest(s);
    default:
        return -EINVAL;
    }
}
