/* Reaching another ferry by its address. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "transport/stream.h"
#include "transport/uri.h"

static void cleanup_addresses(struct addrinfo **list)
{
    if (*list)
        freeaddrinfo(*list);
}

/* connect(2) that gives up after timeout_ms.  fd is left blocking. */
static int connect_within(int fd, const struct sockaddr *address, socklen_t size, int timeout_ms)
{
    int flags = fcntl(fd, F_GETFL), error = 0;
    socklen_t length = sizeof(error);

    if (fcntl(fd, F_SETFL, flags | O_NONBLOCK))
        return -errno;
    if (connect(fd, address, size)) {
        if (errno != EINPROGRESS)
            return -errno;
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        int count;
        do
            count = poll(&ready, 1, timeout_ms);
        while (count < 0 && errno == EINTR);
        if (count <= 0)
            return count < 0 ? -errno : -ETIMEDOUT;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length))
            return -errno;
        if (error)
            return -error;
    }
    return fcntl(fd, F_SETFL, flags) ? -errno : 0;
}

static int connect_unix(const char *text, const struct uri *uri, int timeout_ms,
                        struct stream **out, struct ferry_error *err)
{
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (fd < 0)
        return ferry_fail_sys(err, -errno, text, "cannot create a socket");
    memcpy(address.sun_path, uri->path, sizeof(address.sun_path));
    int error = connect_within(fd, (const struct sockaddr *)&address, sizeof(address), timeout_ms);
    if (error == -ENOENT || error == -ECONNREFUSED)
        return ferry_fail_sys(err, error, text,
                              "nobody serves this socket; is `ferry receive` running there?");
    if (error)
        return ferry_fail_sys(err, error, text, "cannot connect");
    return stream_from_fd(take_fd(&fd), text, out, err);
}

static int try_address(const char *text, const struct addrinfo *at, int timeout_ms,
                       struct stream **out, struct ferry_error *err)
{
    CLEANUP_FD int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ferry_fail_sys(err, -errno, text, "cannot create a socket");
    int error = connect_within(fd, at->ai_addr, at->ai_addrlen, timeout_ms);
    if (error == -ECONNREFUSED)
        return ferry_fail_sys(err, error, text,
                              "nobody listens there; is `ferry receive` running?");
    if (error)
        return ferry_fail_sys(err, error, text, "cannot connect");
    return stream_from_fd(take_fd(&fd), text, out, err);
}

static int connect_tcp(const char *text, const struct uri *uri, bool insecure, int timeout_ms,
                       struct stream **out, struct ferry_error *err)
{
    CLEANUP(cleanup_addresses) struct addrinfo *list = NULL;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    char port[8];

    if (!uri->host[0] || !uri->port)
        return ferry_usage(err, text, "to connect, name a host and a port: tcp://HOST:PORT");
    snprintf(port, sizeof(port), "%u", uri->port);
    int failure = getaddrinfo(uri->host, port, &hints, &list);
    if (failure)
        return ferry_fail(err, -EHOSTUNREACH, text, "cannot find the host: %s",
                          gai_strerror(failure));
    for (const struct addrinfo *at = list; at && !insecure; at = at->ai_next)
        if (!address_is_loopback(at->ai_addr))
            return ferry_refuse(err, -EPERM, text,
                                "tcp:// is neither encrypted nor authenticated and this host is "
                                "not loopback; use a tunnel to tcp://127.0.0.1:PORT, or "
                                "--insecure on a network you trust");
    int error = -EHOSTUNREACH;
    for (const struct addrinfo *at = list; at; at = at->ai_next) {
        error = try_address(text, at, timeout_ms, out, err);
        if (!error)
            return 0;
    }
    return error;
}

int stream_connect(const char *text, bool insecure, int timeout_ms, struct stream **out,
                   struct ferry_error *err)
{
    struct uri uri;
    int error = uri_parse(text, &uri, err);

    if (error)
        return error;
    return uri.kind == URI_UNIX ? connect_unix(text, &uri, timeout_ms, out, err)
                                : connect_tcp(text, &uri, insecure, timeout_ms, out, err);
}
