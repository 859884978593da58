/*
 * The control socket.  Only the loop's thread touches sockets: other threads append to a client's
 * output under the mutex and ring an eventfd.  Input is cut into lines; a line becomes a call,
 * which is the client's one call under way until it is answered.  A client that hung up is closed
 * at once, but its struct stays until its call has been answered, so that job threads need not
 * know.
 */
#include "vmm/control.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "vmm/control_private.h"

#define READ_BYTES      16384
#define FAREWELL_MS     1000 /* for clients to read the last lines when all ends */
#define FDS_PER_MESSAGE 4

static void serve_client(struct control_client *client);

/* ---- Clients ---- */

/* Close the connection.  The struct stays while a call is under way. */
static void hang_up(struct control_client *client)
{
    if (client->fd < 0)
        return;
    loop_remove(client->control->loop, client->fd);
    close(client->fd);
    client->fd = -1;
    if (client->passed_fd >= 0)
        close(take_fd(&client->passed_fd));
    void (*gone)(void *) = NULL;
    void *opaque = NULL;
    {
        LOCK_SCOPE(&client->control->mutex);
        writer_reset(&client->out);
        client->out_sent = 0;
        if (client->call) {
            gone = client->call->gone;
            opaque = client->call->gone_opaque;
            client->call->gone = NULL;
        }
    }
    if (gone)
        gone(opaque);
}

static void free_client(struct control_client *client)
{
    hang_up(client);
    if (client->call)
        control_free_call(client->call);
    writer_free(&client->in);
    writer_free(&client->out);
    free(client);
}

static bool client_is_over(struct control_client *client)
{
    LOCK_SCOPE(&client->control->mutex);
    return client->fd < 0 && !client->call;
}

/* Free the clients that hung up and have no call; the loop's thread, outside of any client. */
static void reap_clients(struct control *control)
{
    struct control_client **link = &control->clients;

    while (*link) {
        struct control_client *client = *link;
        if (!client_is_over(client)) {
            link = &client->next;
            continue;
        }
        {
            LOCK_SCOPE(&control->mutex); /* control_event walks the list */
            *link = client->next;
            control->client_count--;
        }
        free_client(client);
        if (control->deaf && control->listen_fd >= 0) {
            control->deaf = false;
            loop_change(control->loop, control->listen_fd, EPOLLIN);
        }
    }
}

void control_wake(const struct control *control)
{
    const uint64_t one = 1;

    while (write(control->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* Send what waits; true if some is left.  -1 on a broken client. */
static int send_output(struct control_client *client)
{
    LOCK_SCOPE(&client->control->mutex);
    struct writer *out = &client->out;

    while (!out->error && client->out_sent < out->size) {
        ssize_t sent = send(client->fd, out->data + client->out_sent, out->size - client->out_sent,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            return 1;
        if (sent < 0)
            return -1;
        client->out_sent += (size_t)sent;
    }
    if (out->error)
        return -1; /* too much unread, or out of memory: its stream has a gap */
    writer_reset(out);
    client->out_sent = 0;
    return 0;
}

static bool call_under_way(struct control_client *client)
{
    LOCK_SCOPE(&client->control->mutex);
    return client->call;
}

/* Run the complete lines at hand, as long as each is answered at once. */
static void run_lines(struct control_client *client)
{
    struct writer *in = &client->in;
    size_t done = 0;

    while (client->fd >= 0 && !client->closing && !call_under_way(client)) {
        const char *line = in->size ? (const char *)in->data + done : NULL;
        const char *end = in->size > done ? memchr(line, '\n', in->size - done) : NULL;
        if (!end)
            break;
        done += (size_t)(end - line) + 1;
        if (end > line && !(end == line + 1 && *line == '\r'))
            control_run_line(client, line, (size_t)(end - line));
    }
    if (done) {
        memmove(in->data, in->data + done, in->size - done);
        in->size -= done;
        explicit_bzero(in->data + in->size, done); /* there may have been a secret in it */
    }
    if (!client->closing && in->size >= LIMIT_CONTROL_LINE_BYTES &&
        !memchr(in->data, '\n', in->size)) {
        struct ferry_error err;
        ferry_usage(&err, "control socket", "the line is longer than %llu bytes",
                    (unsigned long long)LIMIT_CONTROL_LINE_BYTES);
        control_complain(client, &err);
        client->closing = true;
    }
}

/* Keep the first descriptor of a message for the line it came with. */
static void take_passed_fds(struct control_client *client, struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (client->passed_fd < 0)
                client->passed_fd = fd;
            else
                close(fd);
        }
    }
}

/* One read; false when there is nothing (more) to read for now or for ever. */
static bool receive(struct control_client *client)
{
    uint8_t bytes[READ_BYTES];
    union {
        char space[CMSG_SPACE(FDS_PER_MESSAGE * sizeof(int))];
        struct cmsghdr align;
    } ancillary;
    struct iovec iov = {bytes, sizeof(bytes)};
    size_t room = LIMIT_CONTROL_LINE_BYTES - client->in.size;
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.space,
                             .msg_controllen = sizeof(ancillary.space)};

    if (iov.iov_len > room)
        iov.iov_len = room;
    if (!room)
        return false;
    ssize_t got = recvmsg(client->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return errno == EINTR;
    take_passed_fds(client, &message);
    writer_copy(&client->in, bytes, (size_t)got);
    explicit_bzero(bytes, (size_t)got);
    if (!got || client->in.error)
        client->input_ended = true;
    return got > 0;
}

/* ---- The life of a connection on the loop's thread ---- */

static void client_ready(void *opaque, uint32_t events)
{
    struct control_client *client = opaque;
    struct control *control = client->control;

    if (events & EPOLLIN && !call_under_way(client) && !client->closing) {
        while (receive(client))
            run_lines(client);
        run_lines(client);
    } else if (events & (EPOLLHUP | EPOLLERR)) {
        hang_up(client);
    }
    serve_client(client);
    reap_clients(control);
}

/* Go on with a client after something has changed: lines that waited, output, what to wait for. */
static void serve_client(struct control_client *client)
{
    if (client->fd < 0)
        return;
    run_lines(client);
    int waiting = send_output(client);
    bool busy = call_under_way(client);
    if (waiting < 0 || (!waiting && !busy && (client->closing || client->input_ended))) {
        hang_up(client);
        return;
    }
    /* EPOLLHUP comes unasked: a client that leaves during its call is noticed. */
    bool listen_to = !busy && !client->closing && !client->input_ended;
    loop_change(client->control->loop, client->fd,
                (listen_to ? EPOLLIN : 0u) | (waiting ? EPOLLOUT : 0u));
}

static void woken(void *opaque, uint32_t events)
{
    struct control *control = opaque;
    uint64_t count;

    (void)events;
    while (read(control->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
    for (struct control_client *c = control->clients; c; c = c->next)
        serve_client(c);
    reap_clients(control);
}

static int add_client(struct control *control, int fd)
{
    struct control_client *client = calloc(1, sizeof(*client));

    if (!client)
        return -ENOMEM;
    *client = (struct control_client){
        .fd = fd,
        .passed_fd = -1,
        .control = control,
        .in = writer_init(LIMIT_CONTROL_LINE_BYTES),
        .out = writer_init(CONTROL_OUTPUT_BYTES),
    };
    int error = loop_add(control->loop, fd, EPOLLIN, client_ready, client);
    if (error) {
        free(client);
        return error;
    }
    LOCK_SCOPE(&control->mutex);
    client->next = control->clients;
    control->clients = client;
    control->client_count++;
    return 0;
}

static void accept_client(void *opaque, uint32_t events)
{
    struct control *control = opaque;

    (void)events;
    CLEANUP_FD int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if ((errno == EMFILE || errno == ENFILE) && control->clients) {
            control->deaf = true;
            loop_change(control->loop, control->listen_fd, 0);
        }
        return;
    }
    if (control->client_count >= LIMIT_CONTROL_CLIENTS) {
        log_warn(control->log, "control socket: more than %d clients, one turned away",
                 LIMIT_CONTROL_CLIENTS);
        return;
    }
    if (!add_client(control, fd))
        (void)take_fd(&fd); /* the client's now */
}

int control_create(struct loop *loop, const char *path, const struct control_command *commands,
                   size_t count, void *opaque, const struct log *log, struct control **out,
                   struct ferry_error *err)
{
    struct control *control = calloc(1, sizeof(*control));

    if (!control)
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    *control = (struct control){.loop = loop,
                                .commands = commands,
                                .command_count = count,
                                .opaque = opaque,
                                .log = log,
                                .listen_fd = -1,
                                .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    pthread_mutex_init(&control->mutex, NULL);
    int error = control->wake_fd < 0 ? -errno : 0;
    if (!error)
        error = control->listen_fd = control_bind(path);
    if (error >= 0)
        error = (control->path = strdup(path)) ? 0 : -ENOMEM;
    if (!error)
        error = loop_add(loop, control->wake_fd, EPOLLIN, woken, control);
    if (!error)
        error = loop_add(loop, control->listen_fd, EPOLLIN, accept_client, control);
    if (error) {
        control_destroy(control);
        return ferry_fail_sys(err, error, path, "cannot serve the control socket");
    }
    *out = control;
    return 0;
}

/* Wait until the clients have taken what was sent to them, but not for ever. */
static void say_farewell(struct control *control)
{
    uint64_t deadline = monotonic_ns() + FAREWELL_MS * UINT64_C(1000000);

    for (struct control_client *c = control->clients; c; c = c->next) {
        while (c->fd >= 0 && send_output(c) > 0) {
            uint64_t now = monotonic_ns();
            struct pollfd wait = {.fd = c->fd, .events = POLLOUT};
            if (now >= deadline || poll(&wait, 1, (int)((deadline - now) / 1000000)) <= 0)
                break;
        }
    }
}

void control_close(struct control *control)
{
    if (control->listen_fd < 0)
        return;
    loop_remove(control->loop, control->listen_fd);
    close(take_fd(&control->listen_fd));
    if (control->path)
        unlink(control->path);
}

void control_destroy(struct control *control)
{
    if (!control)
        return;
    control_close(control);
    say_farewell(control);
    while (control->clients) {
        struct control_client *client = control->clients;
        control->clients = client->next;
        if (client->call)
            client->call->gone = NULL; /* who ends the control socket needs no notice */
        free_client(client);
    }
    if (control->wake_fd >= 0) {
        loop_remove(control->loop, control->wake_fd);
        close(control->wake_fd);
    }
    pthread_mutex_destroy(&control->mutex);
    free(control->path);
    free(control);
}
