/*
 * A stream over one descriptor.  Every transfer is tried at once and only waits, in poll, when the
 * kernel has nothing or no room; an eventfd beside it lets another thread break the wait.  Sockets
 * stay blocking and are used with MSG_DONTWAIT; other descriptors (pipes) are made non-blocking.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/limits.h"
#include "transport/stream.h"

#define UNIX_BUFFER_BYTES                                                   \
    (1 * (int)MIB) /* enough to keep both sides busy, small enough to drain \
                    */

struct socket_stream {
    struct stream stream;
    int fd;
    int cancel_fd;
    bool is_socket;
    atomic_bool cancelled;
    char peer[160];
};

static struct socket_stream *of(struct stream *s)
{
    return (struct socket_stream *)s;
}

/* Wait until fd has one of events.  0, -ETIMEDOUT, -ECANCELED. */
static int wait_for(struct socket_stream *s, short events, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = s->fd, .events = events},
                                {.fd = s->cancel_fd, .events = POLLIN}};
        int timeout_ms = -1;
        if (deadline_ns) {
            uint64_t now = monotonic_ns();
            if (now >= deadline_ns)
                return -ETIMEDOUT;
            timeout_ms = (int)((deadline_ns - now + 999999) / 1000000);
        }
        int ready = poll(fds, 2, timeout_ms);
        if (ready < 0 && errno != EINTR)
            return -errno;
        if (atomic_load(&s->cancelled))
            return -ECANCELED;
        if (ready > 0 && fds[0].revents)
            return 0;
    }
}

static uint64_t deadline_of(int timeout_ms)
{
    return timeout_ms < 0 ? 0 : monotonic_ns() + (uint64_t)timeout_ms * 1000000 + 1;
}

static ssize_t socket_read(struct stream *stream, void *data, size_t size, int timeout_ms)
{
    struct socket_stream *s = of(stream);
    uint64_t deadline_ns = deadline_of(timeout_ms);

    for (;;) {
        if (atomic_load(&s->cancelled))
            return -ECANCELED;
        ssize_t got =
            s->is_socket ? recv(s->fd, data, size, MSG_DONTWAIT) : read(s->fd, data, size);
        if (got >= 0)
            return got;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        int error = wait_for(s, POLLIN, deadline_ns);
        if (error)
            return error;
    }
}

static ssize_t put(struct socket_stream *s, const struct iovec *iov, int count)
{
    if (!s->is_socket)
        return writev(s->fd, iov, count);
    struct msghdr message = {.msg_iovlen = (size_t)count};
    struct iovec copy[16];
    if (count > 16)
        message.msg_iovlen = (size_t)(count = 16);
    memcpy(copy, iov, (size_t)count * sizeof(*iov));
    message.msg_iov = copy;
    return sendmsg(s->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t socket_writev(struct stream *stream, const struct iovec *iov, int count,
                             int timeout_ms)
{
    struct socket_stream *s = of(stream);
    uint64_t deadline_ns = deadline_of(timeout_ms);

    for (;;) {
        if (atomic_load(&s->cancelled))
            return -ECANCELED;
        ssize_t sent = put(s, iov, count);
        if (sent >= 0)
            return sent;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        int error = wait_for(s, POLLOUT, deadline_ns);
        if (error)
            return error;
    }
}

static int socket_poll_fd(struct stream *stream)
{
    return of(stream)->fd;
}

static const char *socket_peer(struct stream *stream)
{
    return of(stream)->peer;
}

static void socket_cancel(struct stream *stream)
{
    struct socket_stream *s = of(stream);
    uint64_t one = 1;

    atomic_store(&s->cancelled, true);
    /* An eventfd that is already full wakes the waiter all the same. */
    ssize_t ignored = write(s->cancel_fd, &one, sizeof(one));
    (void)ignored;
}

static void socket_close(struct stream *stream)
{
    struct socket_stream *s = of(stream);

    close(s->fd);
    close(s->cancel_fd);
    free(s);
}

static const struct stream_ops socket_ops = {
    .read = socket_read,
    .writev = socket_writev,
    .poll_fd = socket_poll_fd,
    .peer = socket_peer,
    .cancel = socket_cancel,
    .close = socket_close,
};

/* Failures only cost speed. */
static void tune(int fd)
{
    int domain = 0, one = 1, bytes = UNIX_BUFFER_BYTES;
    socklen_t size = sizeof(domain);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size))
        return;
    if (domain == AF_UNIX) {
        if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)))
            setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    } else {
        /* The kernel sizes the buffers of TCP itself, and better. */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
}

static int set_up(struct socket_stream *s, int fd, const char *peer, struct ferry_error *err)
{
    int type;
    socklen_t size = sizeof(type);

    s->stream.ops = &socket_ops;
    s->is_socket = !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
    if (s->is_socket)
        tune(fd);
    else if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
        return ferry_fail_sys(err, -errno, peer, "cannot use the descriptor as a stream");
    s->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->cancel_fd < 0)
        return ferry_fail_sys(err, -errno, peer, "cannot create an eventfd");
    snprintf(s->peer, sizeof(s->peer), "%s", peer);
    return 0;
}

int stream_from_fd(int fd, const char *peer, struct stream **out, struct ferry_error *err)
{
    CLEANUP_FD int owned = fd;
    struct socket_stream *s = calloc(1, sizeof(*s));

    if (!s)
        return ferry_fail(err, -ENOMEM, peer, "out of memory");
    int error = set_up(s, fd, peer, err);
    if (error) {
        free(s);
        return error;
    }
    s->fd = take_fd(&owned);
    *out = &s->stream;
    return 0;
}
