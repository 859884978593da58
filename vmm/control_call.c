/*
 * Messages and calls of the control socket: lines to calls, replies and events to lines.  Output is
 * appended under the mutex by any thread; only control.c's loop thread sends it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "vmm/control_private.h"

void control_free_call(struct control_call *call)
{
    if (call->fd >= 0)
        close(call->fd);
    json_decref(call->arguments);
    json_decref(call->id);
    free(call);
}

/* Append one line.  With the mutex held. */
static void append_line(struct control_client *client, const json_t *message)
{
    char *text = json_dumps(message, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));

    if (text) {
        writer_copy(&client->out, text, strlen(text));
        writer_u8(&client->out, '\n');
    } else {
        client->out.error = -ENOMEM;
    }
    free(text);
}

static json_t *event_message(const char *event, json_t *data)
{
    uint64_t now = realtime_ns();

    return json_pack("{s:s, s:o, s:{s:I, s:I}}", "event", event, "data",
                     data ? data : json_object(), "timestamp", "seconds",
                     (json_int_t)(now / 1000000000u), "microseconds",
                     (json_int_t)(now % 1000000000u / 1000));
}

void control_progress(struct control_call *call, const char *event, json_t *data)
{
    json_t *message = event_message(event, data);
    struct control *control = call->control;
    {
        LOCK_SCOPE(&control->mutex);
        const struct control_client *client = call->client;
        /* A client that does not read loses progress, not the reply. */
        if (message && client->out.size - client->out_sent < CONTROL_OUTPUT_BYTES / 2)
            append_line(call->client, message);
    }
    json_decref(message);
    control_wake(control);
}

void control_event(struct control *control, const char *event, json_t *data)
{
    json_t *message = event_message(event, data);

    if (message) {
        LOCK_SCOPE(&control->mutex);
        for (struct control_client *c = control->clients; c; c = c->next)
            append_line(c, message);
    }
    json_decref(message);
    control_wake(control);
}

/* Steals message. */
static void end_call(struct control_call *call, json_t *message)
{
    struct control *control = call->control;

    if (message && call->id)
        json_object_set(message, "id", call->id);
    {
        LOCK_SCOPE(&control->mutex);
        append_line(call->client, message);
        call->client->call = NULL;
    }
    json_decref(message);
    control_free_call(call);
    control_wake(control);
}

void control_reply(struct control_call *call, json_t *result)
{
    end_call(call, json_pack("{s:o}", "return", result ? result : json_object()));
}

static json_t *error_message(const struct ferry_error *err)
{
    static const char *const classes[] = {"failed", "failed", "usage", "refused"};
    char text[sizeof(err->about) + sizeof(err->message) + sizeof(err->cause) + 8];
    const char *class = classes[(unsigned)err->kind <= FERRY_REFUSED ? err->kind : FERRY_FAILED];

    ferry_error_text(err, text, sizeof(text));
    /* "?" fails on text that is not UTF-8; then the class has to do. */
    json_t *message = json_pack("{s:{s:s, s:s, s:s, s:s, s:s, s:i}}", "error", "class", class,
                                "desc", text, "about", err->about, "message", err->message, "cause",
                                err->cause, "code", err->code);
    if (!message)
        message = json_pack("{s:{s:s, s:s, s:i}}", "error", "class", class, "desc",
                            "an error whose text cannot be shown", "code", err->code);
    return message;
}

void control_reply_error(struct control_call *call, const struct ferry_error *err)
{
    end_call(call, error_message(err));
}

/* To a client without a call: its line was no command. */
void control_complain(struct control_client *client, const struct ferry_error *err)
{
    json_t *message = error_message(err);
    LOCK_SCOPE(&client->control->mutex);

    append_line(client, message);
    json_decref(message);
}

const json_t *control_arguments(const struct control_call *call)
{
    return call->arguments;
}

int control_take_fd(struct control_call *call)
{
    return take_fd(&call->fd);
}

void control_on_hangup(struct control_call *call, void (*gone)(void *opaque), void *opaque)
{
    LOCK_SCOPE(&call->control->mutex);
    call->gone = gone;
    call->gone_opaque = opaque;
}

/* Nesting deeper than the limit?  A line that is not JSON may give any answer. */
static bool too_deep(const char *text, size_t size)
{
    unsigned depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == '{' || c == '['))
            depth++;
        else if (!in_string && depth && (c == '}' || c == ']'))
            depth--;
        if (depth > LIMIT_JSON_DEPTH)
            return true;
    }
    return false;
}

static const struct control_command *find_command(const struct control *control, const char *name)
{
    for (size_t i = 0; i < control->command_count; i++)
        if (!strcmp(control->commands[i].name, name))
            return &control->commands[i];
    return NULL;
}

/* A line to a message; *err says what is wrong with it. */
static int parse_line(const char *text, size_t size, json_t **out, struct ferry_error *err)
{
    json_error_t json_err;

    if (too_deep(text, size))
        return ferry_usage(err, "control socket", "the line nests deeper than %d",
                           LIMIT_JSON_DEPTH);
    json_t *message = json_loadb(text, size, JSON_REJECT_DUPLICATES, &json_err);
    if (!message)
        return ferry_usage(err, "control socket", "the line is not JSON: %s", json_err.text);
    const json_t *arguments = json_object_get(message, "arguments");
    if (!json_is_object(message) || !json_is_string(json_object_get(message, "execute")) ||
        (arguments && !json_is_object(arguments))) {
        json_decref(message);
        return ferry_usage(err, "control socket",
                           "the line is not {\"execute\": NAME, \"arguments\": {...}}");
    }
    *out = message;
    return 0;
}

void control_run_line(struct control_client *client, const char *text, size_t size)
{
    struct control *control = client->control;
    struct ferry_error err;
    json_t *message = NULL;

    if (parse_line(text, size, &message, &err)) {
        control_complain(client, &err);
        return;
    }
    struct control_call *call = calloc(1, sizeof(*call));
    if (!call) {
        json_decref(message);
        client->closing = true;
        return;
    }
    json_t *arguments = json_object_get(message, "arguments");
    const char *name = json_string_value(json_object_get(message, "execute"));
    const struct control_command *command = find_command(control, name);
    *call = (struct control_call){
        .control = control,
        .client = client,
        .arguments = arguments ? json_incref(arguments) : json_object(),
        .id = json_incref(json_object_get(message, "id")),
        .fd = take_fd(&client->passed_fd),
    };
    {
        LOCK_SCOPE(&control->mutex);
        client->call = call;
    }
    if (command) {
        command->run(call, control->opaque);
    } else {
        ferry_usage(&err, "control socket", "there is no command '%.60s'", name);
        control_reply_error(call, &err);
    }
    json_decref(message);
}
