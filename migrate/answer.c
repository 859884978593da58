/*
 * STATUS, answered by any process of the destination's host out of the log, through the same table
 * as everything else.  The log may change between looking and aborting; then the abort fails, and
 * another look tells.
 */
#include <errno.h>
#include <string.h>

#include "migrate/destination.h"
#include "migrate/handover.h"

#define LOOKS_MAX 3

struct answerer {
    struct handover handover;
    struct channel *channel;
    struct ticket_store *tickets;
    struct move_id id;
    bool answered;
    bool running; /* the answer was RUNNING */
    int error;
    struct ferry_error *err;
};

static int answer(struct answerer *a, enum message_type type, struct writer *w)
{
    a->answered = true;
    a->error = w->error ? ferry_fail(a->err, w->error, NULL, "cannot put an answer together")
                        : channel_queue(a->channel, (uint16_t)type, w->data, w->size, a->err);
    if (!a->error)
        a->error = channel_flush(a->channel, a->err);
    writer_free(w);
    return a->error;
}

static int answer_word(struct answerer *a, enum message_type type, const char *text)
{
    struct writer w = writer_init(LIMIT_FRAME_BYTES);

    word_encode(&w, &a->id, text);
    return answer(a, type, &w);
}

static int act(void *opaque, enum handover_action action)
{
    struct answerer *a = opaque;
    struct writer w = writer_init(LIMIT_FRAME_BYTES);
    struct running running = {.id = a->id};

    switch (action) {
    case ACTION_LOG_ABORTED:
        return a->error = ticket_abort(a->tickets, a->id.vm_id, a->id.epoch, a->err);
    case ACTION_SEND_ABORTED:
        return answer_word(a, MESSAGE_ABORTED, "the move was not finished here and never will be");
    case ACTION_SEND_RUNNING:
        a->running = true;
        running_encode(&w, &running);
        return answer(a, MESSAGE_RUNNING, &w);
    default:
        return -EINVAL;
    }
}

static enum handover_state state_of(enum ticket_state logged)
{
    switch (logged) {
    case TICKET_INCOMING:
        return LOG_INCOMING;
    case TICKET_OWNED:
        return LOG_OWNED;
    case TICKET_ABORTED:
        return LOG_ABORTED;
    default:
        return LOG_NONE;
    }
}

/* The source says that it has let go, unless its log fails or it dies just now. */
static bool await_gone(struct answerer *a)
{
    struct frame frame;
    struct word word;

    return a->running && !a->error && !channel_receive(a->channel, GONE_WAIT_NS, &frame, NULL) &&
           frame.type == MESSAGE_GONE && !word_decode(&frame, &word) &&
           move_id_equal(&word.id, &a->id);
}

int answer_status(struct channel *channel, const struct frame *frame, struct ticket_store *tickets,
                  const struct log *log, bool *source_released, struct ferry_error *err)
{
    struct answerer a = {.channel = channel, .tickets = tickets, .err = err};
    enum ticket_state logged;
    struct word word;

    if (word_decode(frame, &word))
        return ferry_refuse(err, -EBADMSG, NULL, "a question is malformed");
    a.id = word.id;
    if (memcmp(a.id.host, ticket_store_host(tickets), MOVE_ID_BYTES))
        return answer_word(&a, MESSAGE_UNKNOWN,
                           "the move went to another host, or this one has lost its log");
    for (int looks = 0; looks < LOOKS_MAX && !a.answered; looks++) {
        int error = ticket_look(tickets, a.id.vm_id, a.id.epoch, &logged, err);
        if (error)
            return error;
        if (logged == TICKET_UNKNOWN)
            return answer_word(&a, MESSAGE_UNKNOWN, "that epoch is older than the log remembers");
        a.handover = (struct handover){state_of(logged), act, &a};
        handover_happen(&a.handover, EVENT_STATUS);
    }
    log_info(log, "asked about epoch %llu of a move: the log says %s",
             (unsigned long long)a.id.epoch, ticket_state_name(logged));
    *source_released = await_gone(&a);
    return a.error;
}
