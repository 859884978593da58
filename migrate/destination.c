/*
 * The destination's side of a move, for one connection.  Frames become events of the handover
 * table; the table says when to log, take the disks, and run.  Until OWNED is logged everything
 * here can be thrown away, and is, whenever anything is not as it must be: the peer is hostile.
 */
#include "migrate/destination.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "migrate/handover.h"
#include "migrate/pages.h"

#define REPORT_EVERY_NS (100 * UINT64_C(1000000))
#define ENTRY_WAIT_NS   UINT64_C(1000000000) /* for the first entry, before RUNNING is sent */

struct destination {
    struct handover handover;
    const struct receive_host *host;
    struct progress *progress;
    struct stream *stream;
    struct channel *channel;
    struct machine *machine;
    struct machine_config *config;
    struct move_id id;
    uint8_t source_host[MOVE_ID_BYTES];
    uint64_t known_epoch; /* why the offered one is refused, or 0 */
    uint32_t round, sections;
    uint64_t round_bytes, state_bytes;
    bool run; /* the guest ran there */
    uint64_t commit_ns;
    uint64_t reported_ns;
    struct ferry_error why;
};

/* The first thing that went wrong is what both sides are told. */
static int reason(struct destination *d, const struct ferry_error *why)
{
    if (!d->why.code)
        d->why = *why;
    return why->code;
}

static int refuse_peer(struct destination *d, const char *what)
{
    struct ferry_error why = {0};

    ferry_refuse(&why, -EBADMSG, d->stream->ops->peer(d->stream), "%s", what);
    return reason(d, &why);
}

/* ---- actions ---- */

static int send_writer(struct destination *d, enum message_type type, struct writer *w)
{
    struct ferry_error why = {0};
    int error = w->error ? ferry_fail(&why, w->error, NULL, "cannot put a message together")
                         : channel_queue(d->channel, (uint16_t)type, w->data, w->size, &why);

    if (!error)
        error = channel_flush(d->channel, &why);
    writer_free(w);
    return error ? reason(d, &why) : 0;
}

static int send_refuse(struct destination *d)
{
    struct writer w = writer_init(LIMIT_FRAME_BYTES);
    char text[LIMIT_REASON_BYTES];

    refuse_encode(&w, d->known_epoch, ferry_error_text(&d->why, text, sizeof(text)));
    return send_writer(d, MESSAGE_REFUSE, &w);
}

static int send_accept(struct destination *d)
{
    struct writer w = writer_init(LIMIT_FRAME_BYTES);

    accept_encode(&w, &(struct accept){.version = PROTOCOL_VERSION, .id = d->id});
    return send_writer(d, MESSAGE_ACCEPT, &w);
}

static int send_aborted(struct destination *d)
{
    struct writer w = writer_init(LIMIT_FRAME_BYTES);
    char text[LIMIT_REASON_BYTES];

    word_encode(&w, &d->id, ferry_error_text(&d->why, text, sizeof(text)));
    return send_writer(d, MESSAGE_ABORTED, &w);
}

static int send_ready(struct destination *d)
{
    struct writer w = writer_init(LIMIT_FRAME_BYTES);
    struct ready m = {.id = d->id};

    if (channel_digest_received(d->channel, m.digest))
        w.error = -EINVAL;
    ready_encode(&w, &m);
    return send_writer(d, MESSAGE_READY, &w);
}

static int send_running(struct destination *d)
{
    struct writer w = writer_init(LIMIT_FRAME_BYTES);
    struct running m = {.id = d->id};
    uint64_t deadline = monotonic_ns() + ENTRY_WAIT_NS;

    while (d->run && !machine_resumed_at_ns(d->machine) && monotonic_ns() < deadline)
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    read_boot_id(m.boot_id);
    m.entered_at_ns = d->run ? machine_resumed_at_ns(d->machine) : 0;
    m.entered_after_ns = m.entered_at_ns > d->commit_ns ? m.entered_at_ns - d->commit_ns : 0;
    m.sent_after_ns = monotonic_ns() - d->commit_ns;
    running_encode(&w, &m);
    return send_writer(d, MESSAGE_RUNNING, &w);
}

static int load_state(struct destination *d)
{
    struct ferry_error why = {0};

    return machine_load_commit(d->machine, &why) ? reason(d, &why) : 0;
}

static int log_incoming(struct destination *d)
{
    struct ferry_error why = {0};
    uint64_t logged = 0;
    int error = ticket_reserve(d->host->tickets, d->id.vm_id, d->id.epoch, d->config->name,
                               d->source_host, &logged, &why);

    if (error == -ESTALE)
        d->known_epoch = logged;
    return error ? reason(d, &why) : 0;
}

/* Ticket and disk actions differ only in what they call. */
static int with_reason(struct destination *d, int error, const struct ferry_error *why)
{
    return error ? reason(d, why) : 0;
}

static int resume(struct destination *d)
{
    struct ferry_error why = {0};

    machine_set_epoch(d->machine, d->id.epoch);
    if (!d->run || !machine_resume(d->machine, &why))
        return 0;
    /* Owned is owned: it stays here, paused, and the user may try again. */
    log_error(d->host->log, "the guest has arrived but cannot be resumed: %s", why.message);
    d->run = false;
    return 0;
}

static int act(void *opaque, enum handover_action action)
{
    struct destination *d = opaque;
    struct ferry_error why = {0};

    log_debug(d->host->log, "receive: %s", handover_action_name(action));
    switch (action) {
    case ACTION_SEND_REFUSE:
        return send_refuse(d);
    case ACTION_SEND_ACCEPT:
        return send_accept(d);
    case ACTION_SEND_READY:
        return send_ready(d);
    case ACTION_SEND_ABORTED:
        return send_aborted(d);
    case ACTION_SEND_RUNNING:
        return send_running(d);
    case ACTION_LOAD:
        return load_state(d);
    case ACTION_TAKE_DISKS:
        return with_reason(d, machine_activate_disks(d->machine, &why), &why);
    case ACTION_RELEASE_DISKS:
        return with_reason(d, machine_release_disks(d->machine, &why), &why);
    case ACTION_LOG_INCOMING:
        return log_incoming(d);
    case ACTION_LOG_OWNED:
        return with_reason(d, ticket_own(d->host->tickets, d->id.vm_id, d->id.epoch, &why), &why);
    case ACTION_LOG_ABORTED:
        return with_reason(d, ticket_abort(d->host->tickets, d->id.vm_id, d->id.epoch, &why), &why);
    case ACTION_RESUME:
        return resume(d);
    default:
        return -EINVAL;
    }
}

/* ---- messages ---- */

static int parse_config(struct destination *d, const struct hello *m, struct ferry_error *err)
{
    json_error_t where;
    json_t *json = json_loadb(m->json, m->json_size, JSON_REJECT_DUPLICATES, &where);

    if (!json)
        return ferry_refuse(err, -EBADMSG, "HELLO", "the machine's description is not JSON: %s",
                            where.text);
    int error = machine_config_from_json(json, d->config, err);
    json_decref(json);
    if (!error && memcmp(d->config->vm_id, m->vm_id, MOVE_ID_BYTES))
        error = ferry_refuse(err, -EBADMSG, "HELLO", "the machine's description is of another");
    return error;
}

static enum handover_event understand_hello(struct destination *d, const struct frame *f)
{
    struct ferry_error why = {0};
    struct hello m;

    if (hello_decode(f, &m)) {
        refuse_peer(d, "the offer is malformed");
        return EVENT_LOST;
    }
    memcpy(d->id.vm_id, m.vm_id, MOVE_ID_BYTES);
    memcpy(d->id.host, ticket_store_host(d->host->tickets), MOVE_ID_BYTES);
    memcpy(d->source_host, m.host, MOVE_ID_BYTES);
    d->id.epoch = m.epoch;
    int error = 0;
    if (m.version != PROTOCOL_VERSION)
        error = ferry_refuse(&why, -EPROTO, "HELLO", "protocol version %u, this ferry speaks %u",
                             m.version, PROTOCOL_VERSION);
    else if (m.features || m.page_bytes != MEMORY_PAGE_BYTES)
        error = ferry_refuse(&why, -EPROTO, "HELLO", "needs features this ferry does not have");
    if (!error)
        error = parse_config(d, &m, &why);
    if (!error)
        error = d->host->create(d->host->opaque, d->config, &d->machine, &why);
    if (!error)
        return EVENT_HELLO;
    reason(d, &why);
    return EVENT_UNFIT;
}

static void report(struct destination *d, const char *phase)
{
    uint64_t now = monotonic_ns();

    if (!d->progress->report || now - d->reported_ns < REPORT_EVERY_NS)
        return;
    d->reported_ns = now;
    const struct progress_report r = {.phase = phase,
                                      .round = d->round + 1,
                                      .done_bytes = d->round_bytes,
                                      .sent_bytes = channel_bytes_received(d->channel)};
    d->progress->report(d->progress->opaque, &r);
}

/* A round cannot carry more than there is RAM: what a peer may make this host do is bounded. */
static int take_pages(struct destination *d, const struct frame *f)
{
    struct memory *memory = machine_memory(d->machine);
    struct ferry_error why = {0};
    uint64_t bytes;

    if (pages_install(memory, f, &bytes, &why))
        return reason(d, &why);
    d->round_bytes += bytes;
    if (d->round_bytes > memory_size(memory))
        return refuse_peer(d, "a round carries more than the machine's RAM");
    report(d, "ram");
    return 0;
}

static int end_round(struct destination *d, const struct frame *f)
{
    struct writer w = writer_init(64);
    struct round_end m;

    if (round_decode(f, &m) || m.round != d->round + 1 || m.round > LIMIT_MOVE_ROUNDS)
        return refuse_peer(d, "the rounds do not count up");
    d->round = m.round;
    d->round_bytes = 0;
    round_done_encode(&w, m.round);
    return send_writer(d, MESSAGE_ROUND_DONE, &w);
}

static int take_section(struct destination *d, const struct frame *f)
{
    char name[LIMIT_NAME_BYTES + 1];
    struct machine_section section;
    struct ferry_error why = {0};

    if (section_decode(f, &section, name))
        return refuse_peer(d, "a section of state is malformed");
    d->state_bytes += section.size;
    if (++d->sections > LIMIT_SECTIONS || d->state_bytes > LIMIT_STATE_BYTES)
        return refuse_peer(d, "there is more state than any machine has");
    return machine_load_section(d->machine, &section, &why) ? reason(d, &why) : 0;
}

/* A frame while chunks and state come in: an event, or START for "go on". */
static enum handover_event understand_incoming(struct destination *d, const struct frame *f)
{
    struct state_end end;
    int error;

    switch (f->type) {
    case MESSAGE_PAGES:
        error = take_pages(d, f);
        break;
    case MESSAGE_ROUND:
        error = end_round(d, f);
        break;
    case MESSAGE_SECTION:
        error = take_section(d, f);
        break;
    case MESSAGE_STATE:
        if (!state_decode(f, &end) && move_id_equal(&end.id, &d->id) &&
            end.sections == d->sections) {
            d->run = end.run;
            return EVENT_STATE;
        }
        error = refuse_peer(d, "the end of the state does not fit what came before");
        break;
    default:
        error = refuse_peer(d, "a message is out of place");
        break;
    }
    return error ? EVENT_LOST : EVENT_START;
}

static enum handover_event understand_word(struct destination *d, const struct frame *f)
{
    struct ferry_error why = {0};
    struct word word;

    if (word_decode(f, &word) || !move_id_equal(&word.id, &d->id)) {
        refuse_peer(d, "a message is of another move");
        return EVENT_LOST;
    }
    if (f->type == MESSAGE_COMMIT) {
        d->commit_ns = monotonic_ns();
        channel_watch(d->channel, NULL); /* a cancel comes too late */
        return EVENT_COMMIT;
    }
    if (f->type == MESSAGE_GONE)
        return EVENT_GONE;
    ferry_fail(&why, -ECANCELED, d->stream->ops->peer(d->stream), "the source gave up: %.200s",
               word.text);
    reason(d, &why);
    return EVENT_ABORT;
}

static enum handover_event await(struct destination *d, uint64_t timeout_ns)
{
    struct ferry_error why = {0};
    struct frame f;

    int error = channel_receive(d->channel, timeout_ns, &f, &why);
    if (error) {
        reason(d, &why);
        return error == -ECANCELED ? EVENT_CANCEL : EVENT_LOST;
    }
    if (f.type == MESSAGE_COMMIT || f.type == MESSAGE_ABORT || f.type == MESSAGE_GONE)
        return understand_word(d, &f);
    if (d->handover.state == DESTINATION_RECEIVING)
        return understand_incoming(d, &f);
    refuse_peer(d, "a message is out of place");
    return EVENT_LOST;
}

/* ---- the move ---- */

static void receive(struct destination *d, const struct frame *hello)
{
    struct handover *h = &d->handover;

    handover_happen(h, understand_hello(d, hello));
    if (h->state == DESTINATION_RECEIVING)
        ticket_draft_own(d->host->tickets, d->id.vm_id);
    while (h->state == DESTINATION_RECEIVING) {
        enum handover_event event = await(d, 0);
        if (event != EVENT_START)
            handover_happen(h, event);
    }
    if (h->state == DESTINATION_READY)
        handover_happen(h, await(d, 0));
    if (h->state == DESTINATION_RUNNING)
        handover_happen(h, await(d, GONE_WAIT_NS));
    ticket_draft_drop(d->host->tickets);
}

static int finish(struct destination *d, struct machine **out, struct receive_result *result,
                  struct ferry_error *err)
{
    enum handover_state state = d->handover.state;

    if (state == DESTINATION_RUNNING || state == DESTINATION_CONFIRMED) {
        result->epoch = d->id.epoch;
        result->source_released = state == DESTINATION_CONFIRMED;
        *out = take_ptr(&d->machine);
        return 0;
    }
    machine_destroy(take_ptr(&d->machine));
    if (!d->why.code)
        ferry_fail(&d->why, -EIO, NULL, "the move failed");
    if (err)
        *err = d->why;
    return d->why.code;
}

static int serve(struct destination *d, struct machine **out, struct receive_result *result,
                 struct ferry_error *err)
{
    struct frame first;

    int error = channel_receive(d->channel, 0, &first, err);
    if (error)
        return error;
    if (first.type == MESSAGE_STATUS) {
        result->answered_only = true;
        return answer_status(d->channel, &first, d->host->tickets, d->host->log,
                             &result->source_released, err);
    }
    if (first.type != MESSAGE_HELLO)
        return ferry_refuse(err, -EBADMSG, d->stream->ops->peer(d->stream),
                            "the peer neither offers a machine nor asks for one");
    d->config = calloc(1, sizeof(*d->config));
    if (!d->config)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    d->handover = (struct handover){DESTINATION_START, act, d};
    receive(d, &first);
    free(d->config);
    return finish(d, out, result, err);
}

int migrate_in(struct stream *stream, const struct receive_host *host, struct progress *progress,
               struct machine **out, struct receive_result *result, struct ferry_error *err)
{
    struct destination d = {.host = host, .progress = progress, .stream = stream};
    uint64_t began = monotonic_ns();

    *out = NULL;
    *result = (struct receive_result){0};
    int error = channel_create(stream, host->timeout_ns ? host->timeout_ns : DESTINATION_TIMEOUT_NS,
                               &d.channel, err);
    if (error)
        return error;
    channel_watch(d.channel, &progress->cancelled);
    error = serve(&d, out, result, err);
    result->bytes_received = channel_bytes_received(d.channel);
    result->total_ns = monotonic_ns() - began;
    channel_destroy(d.channel);
    return error;
}
