/* A client of one machine: a line out, lines in until the answer comes. */
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/runtime_dir.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/limits.h"
#include "vmm/control.h"

#define READ_BYTES 16384

int client_connect(const char *name, struct client *out, struct ferry_error *err)
{
    CLEANUP_FREE char *path = NULL;

    if (!machine_is_alive(name))
        return machine_missing(name, err);
    int error = runtime_path(name, "control.sock", &path, err);
    if (error)
        return error;
    int fd = control_connect(path);
    if (fd < 0 && machine_is_alive(name))
        return ferry_fail_sys(err, fd, name,
                              "its process does not serve the control socket (still starting?)");
    if (fd < 0)
        return machine_missing(name, err);
    *out = (struct client){.fd = fd, .in = writer_init(2 * LIMIT_CONTROL_LINE_BYTES)};
    snprintf(out->name, sizeof(out->name), "%s", name);
    return 0;
}

void client_close(struct client *client)
{
    if (client->fd >= 0) {
        close(client->fd);
        writer_free(&client->in);
    }
    *client = CLIENT_NONE;
}

static int lost(const struct client *client, struct ferry_error *err)
{
    return ferry_fail(err, -EPIPE, client->name, "its process went away before it answered");
}

static int send_line(const struct client *client, char *text, size_t size, int pass_fd,
                     struct ferry_error *err)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } ancillary = {{0}};
    struct iovec iov = {text, size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (pass_fd >= 0) {
        message.msg_control = ancillary.space;
        message.msg_controllen = sizeof(ancillary.space);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &pass_fd, sizeof(int));
    }
    while (iov.iov_len) {
        ssize_t sent = sendmsg(client->fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return lost(client, err);
        iov.iov_base = (char *)iov.iov_base + sent;
        iov.iov_len -= (size_t)sent;
        message.msg_control = NULL; /* went with the first bytes */
        message.msg_controllen = 0;
    }
    return 0;
}

/* Read some more into client->in.  0 at the end of the connection. */
static ssize_t fill(struct client *client, int timeout_ms, struct ferry_error *err)
{
    struct pollfd wait = {.fd = client->fd, .events = POLLIN};
    uint8_t bytes[READ_BYTES];
    int ready;

    do
        ready = poll(&wait, 1, timeout_ms);
    while (ready < 0 && errno == EINTR);
    if (!ready)
        return ferry_fail(err, -ETIMEDOUT, client->name, "its process does not answer");
    ssize_t got = read(client->fd, bytes, sizeof(bytes));
    if (got < 0)
        return errno == EINTR || errno == EAGAIN ? 1 : 0;
    writer_copy(&client->in, bytes, (size_t)got);
    if (client->in.error)
        return ferry_fail(err, -EFBIG, client->name, "answers with a line that is too long");
    return got;
}

/* The next message; NULL on an error or at the end of the connection. */
static int next_message(struct client *client, int timeout_ms, json_t **out,
                        struct ferry_error *err)
{
    struct writer *in = &client->in;
    const uint8_t *end;

    while (!(end = in->size ? memchr(in->data, '\n', in->size) : NULL)) {
        ssize_t got = fill(client, timeout_ms, err);
        if (got < 0)
            return (int)got;
        if (!got)
            return lost(client, err);
    }
    size_t length = (size_t)(end - in->data) + 1;
    *out = json_loadb((const char *)in->data, length, 0, NULL);
    memmove(in->data, in->data + length, in->size - length);
    in->size -= length;
    return *out ? 0
                : ferry_fail(err, -EPROTO, client->name, "answers with something else than JSON");
}

static void copy_text(const json_t *object, const char *key, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, key));

    snprintf(out, size, "%s", text ? text : "");
}

/* The machine's error object, as it was there. */
static int take_error(const json_t *error, struct ferry_error *err)
{
    const char *class = json_string_value(json_object_get(error, "class"));
    int code = (int)json_integer_value(json_object_get(error, "code"));

    *err = (struct ferry_error){.kind = FERRY_FAILED, .code = code < 0 ? code : -EIO};
    if (class && !strcmp(class, "refused"))
        err->kind = FERRY_REFUSED;
    else if (class && !strcmp(class, "usage"))
        err->kind = FERRY_USAGE;
    copy_text(error, "about", err->about, sizeof(err->about));
    copy_text(error, "message", err->message, sizeof(err->message));
    copy_text(error, "cause", err->cause, sizeof(err->cause));
    if (!err->message[0])
        copy_text(error, "desc", err->message, sizeof(err->message));
    return err->code;
}

static void show_event(const json_t *message, struct progress_view *view)
{
    const char *event = json_string_value(json_object_get(message, "event"));

    if (!view || !event || strcmp(event, "PROGRESS"))
        return;
    struct progress_report report = progress_from_json(json_object_get(message, "data"));
    progress_view_show(view, &report);
}

int client_call(struct client *client, const char *command, json_t *arguments, int pass_fd,
                struct progress_view *view, int timeout_ms, json_t **result,
                struct ferry_error *err)
{
    json_t *request = json_pack("{s:s, s:o}", "execute", command, "arguments",
                                arguments ? arguments : json_object());
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    struct ferry_error own = {0};
    int error = -ENOMEM;

    err = err ? err : &own;
    if (text) {
        size_t length = strlen(text);
        text[length] = '\n'; /* in place of the terminator */
        error = send_line(client, text, length + 1, pass_fd, err);
        explicit_bzero(text, length); /* there may be a secret in it */
    } else {
        ferry_fail(err, error, NULL, "out of memory, or an argument is not UTF-8");
    }
    free(text);
    json_decref(request);
    while (!error) {
        json_t *message = NULL;
        error = next_message(client, timeout_ms, &message, err);
        if (error)
            break;
        json_t *value = json_object_get(message, "return");
        const json_t *refusal = json_object_get(message, "error");
        if (value && result)
            *result = json_incref(value);
        else if (refusal)
            error = take_error(refusal, err);
        else if (!value)
            show_event(message, view);
        json_decref(message);
        if (value)
            break;
    }
    if (view)
        progress_view_end(view);
    return error;
}

int client_wait_end(struct client *client, uint64_t timeout_ns, struct ferry_error *err)
{
    uint64_t deadline = monotonic_ns() + timeout_ns;

    for (;;) {
        uint64_t now = monotonic_ns();
        uint64_t left_ms = now < deadline ? (deadline - now + 999999) / 1000000 : 0;
        if (!left_ms)
            return ferry_fail(err, -ETIMEDOUT, client->name, "still runs");
        writer_reset(&client->in); /* events do not matter here */
        ssize_t got = fill(client, left_ms > 60000 ? 60000 : (int)left_ms, NULL);
        if (!got)
            return 0;
        if (got < 0 && got != -ETIMEDOUT)
            return ferry_fail(err, (int)got, client->name, "cannot wait for its end");
    }
}

int client_ask(const char *name, const char *command, json_t *arguments, int timeout_ms,
               json_t **result, struct ferry_error *err)
{
    CLEANUP(client_close) struct client client = CLIENT_NONE;

    int error = client_connect(name, &client, err);
    if (error) {
        json_decref(arguments);
        return error;
    }
    return client_call(&client, command, arguments, -1, NULL, timeout_ms, result, err);
}
