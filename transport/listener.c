/*
 * Waiting for other ferries.  A unix socket gets its mode before it gets its name (Linux takes the
 * mode of the unbound socket's inode), so that no moment exists in which others could connect.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "transport/stream.h"
#include "transport/uri.h"

#define LISTEN_BACKLOG 16

struct listener {
    int fd;
    char uri[LIMIT_HOST_BYTES + 64];
    struct uri parsed;
    dev_t device; /* of the unix socket made here, so that only it is unlinked */
    ino_t inode;
};

/* 0 if path may be replaced: a socket that nobody serves. */
static int check_stale(const char *text, const struct sockaddr_un *address, struct ferry_error *err)
{
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct stat st;

    if (fd < 0)
        return ferry_fail_sys(err, -errno, text, "cannot create a socket");
    if (lstat(address->sun_path, &st))
        return errno == ENOENT ? 0 : ferry_fail_sys(err, -errno, text, "cannot look at the socket");
    if (!S_ISSOCK(st.st_mode))
        return ferry_fail(err, -EEXIST, text, "exists and is not a socket; ferry leaves it alone");
    if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)) || errno == EAGAIN)
        return ferry_fail(err, -EADDRINUSE, text, "is served by another process already");
    if (errno != ECONNREFUSED)
        return ferry_fail_sys(err, -errno, text, "cannot tell whether somebody serves the socket");
    if (unlink(address->sun_path) && errno != ENOENT)
        return ferry_fail_sys(err, -errno, text, "cannot replace the stale socket");
    return 0;
}

static int listen_unix(struct listener *l, struct ferry_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;

    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l->fd < 0 || fchmod(l->fd, 0600))
        return ferry_fail_sys(err, -errno, l->uri, "cannot create a socket");
    memcpy(address.sun_path, l->parsed.path, sizeof(address.sun_path));
    int bound = bind(l->fd, (const struct sockaddr *)&address, sizeof(address));
    if (bound && errno == EADDRINUSE) {
        int error = check_stale(l->uri, &address, err);
        if (error)
            return error;
        bound = bind(l->fd, (const struct sockaddr *)&address, sizeof(address));
    }
    if (bound)
        return ferry_fail_sys(err, -errno, l->uri, "cannot create the socket");
    if (lstat(address.sun_path, &st))
        return ferry_fail_sys(err, -errno, l->uri, "the socket has vanished");
    l->device = st.st_dev;
    l->inode = st.st_ino;
    return 0;
}

static void cleanup_addresses(struct addrinfo **list)
{
    if (*list)
        freeaddrinfo(*list);
}

/* The port that was really bound, into parsed and uri. */
static int note_address(struct listener *l, struct ferry_error *err)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);
    char text[LIMIT_HOST_BYTES + 16];

    if (getsockname(l->fd, (struct sockaddr *)&address, &size))
        return ferry_fail_sys(err, -errno, l->uri, "cannot find out the port");
    address_format((const struct sockaddr *)&address, size, text, sizeof(text));
    snprintf(l->uri, sizeof(l->uri), "tcp://%s", text);
    return 0;
}

static int listen_tcp(struct listener *l, bool insecure, struct ferry_error *err)
{
    CLEANUP(cleanup_addresses) struct addrinfo *list = NULL;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    char port[8];
    int one = 1;

    snprintf(port, sizeof(port), "%u", l->parsed.port);
    int failure = getaddrinfo(l->parsed.host[0] ? l->parsed.host : NULL, port, &hints, &list);
    if (failure)
        return ferry_fail(err, -EADDRNOTAVAIL, l->uri, "cannot find the address: %s",
                          gai_strerror(failure));
    if (!insecure && !address_is_loopback(list->ai_addr))
        return ferry_refuse(err, -EPERM, l->uri,
                            "tcp:// is neither encrypted nor authenticated: listen on "
                            "tcp://127.0.0.1:PORT behind a tunnel, or give --insecure on a "
                            "network you trust");
    l->fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l->fd < 0 || setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
        return ferry_fail_sys(err, -errno, l->uri, "cannot create a socket");
    if (bind(l->fd, list->ai_addr, list->ai_addrlen))
        return ferry_fail_sys(err, -errno, l->uri, "cannot listen there");
    return note_address(l, err);
}

int listener_open(const char *text, bool insecure, struct listener **out, struct ferry_error *err)
{
    struct listener *l = calloc(1, sizeof(*l));

    if (!l)
        return ferry_fail(err, -ENOMEM, text, "out of memory");
    l->fd = -1;
    int error = uri_parse(text, &l->parsed, err);
    if (!error) {
        snprintf(l->uri, sizeof(l->uri), "%s", text);
        error = l->parsed.kind == URI_UNIX ? listen_unix(l, err) : listen_tcp(l, insecure, err);
    }
    if (!error && listen(l->fd, LISTEN_BACKLOG))
        error = ferry_fail_sys(err, -errno, text, "cannot listen");
    if (error) {
        listener_close(l);
        return error;
    }
    *out = l;
    return 0;
}

int listener_fd(const struct listener *l)
{
    return l->fd;
}

const char *listener_uri(const struct listener *l)
{
    return l->uri;
}

static void name_peer(const struct listener *l, int fd, const struct sockaddr_storage *address,
                      socklen_t size, char *text, size_t text_size)
{
    struct ucred who;
    socklen_t length = sizeof(who);

    if (l->parsed.kind == URI_TCP)
        address_format((const struct sockaddr *)address, size, text, text_size);
    else if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length))
        snprintf(text, text_size, "%.100s (pid %d, uid %u)", l->uri, who.pid, who.uid);
    else
        snprintf(text, text_size, "%.140s", l->uri);
}

int listener_accept(struct listener *l, struct stream **out, struct ferry_error *err)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);
    char peer[160];
    int fd;

    do
        fd = accept4(l->fd, (struct sockaddr *)&address, &size, SOCK_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return ferry_fail_sys(err, -errno, l->uri, "cannot accept a connection");
    name_peer(l, fd, &address, size, peer, sizeof(peer));
    return stream_from_fd(fd, peer, out, err);
}

void listener_close(struct listener *l)
{
    struct stat st;

    if (!l)
        return;
    if (l->inode && !lstat(l->parsed.path, &st) && st.st_dev == l->device && st.st_ino == l->inode)
        unlink(l->parsed.path);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

void listener_drop(struct listener *l)
{
    if (l)
        l->inode = 0; /* not ours to unlink */
    listener_close(l);
}
