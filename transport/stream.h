/*
 * A byte stream to another ferry, whatever carries it.  unix: and tcp: are sockets; the interface
 * leaves room for tls, ssh and the faulty one.
 */
#ifndef FERRY_TRANSPORT_STREAM_H
#define FERRY_TRANSPORT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/error.h"

struct stream;

struct stream_ops {
    /* As read(2) and writev(2): bytes moved, 0 at the end of the stream (read), negative errno.
     * Both wait at most timeout_ms (-1: for ever; -ETIMEDOUT). */
    ssize_t (*read)(struct stream *s, void *data, size_t size, int timeout_ms);
    ssize_t (*writev)(struct stream *s, const struct iovec *iov, int count, int timeout_ms);
    int (*poll_fd)(struct stream *s);      /* fd to watch for input, -1: none */
    const char *(*peer)(struct stream *s); /* who is there, for messages */
    /* Break the stream from another thread: blocked calls return -ECANCELED. */
    void (*cancel)(struct stream *s);
    void (*close)(struct stream *s); /* frees it */
};

struct stream {
    const struct stream_ops *ops;
};

static inline void stream_close(struct stream *s) /* NULL is fine */
{
    if (s)
        s->ops->close(s);
}

static inline void stream_cleanup(struct stream **s) /* CLEANUP(stream_cleanup) */
{
    stream_close(*s);
}

/* text: "unix:PATH" or "tcp://HOST:PORT" (uri.h).  tcp beyond loopback is refused unless insecure.
 * timeout_ms bounds the connecting of each address. */
int stream_connect(const char *text, bool insecure, int timeout_ms, struct stream **out,
                   struct ferry_error *err);
/* Wrap a connected socket or pipe; takes fd over, on failure too. */
int stream_from_fd(int fd, const char *peer, struct stream **out, struct ferry_error *err);

struct listener;
/* A unix socket has mode 0600; one of that name that nobody serves is replaced, and nothing else.
 */
int listener_open(const char *text, bool insecure, struct listener **out, struct ferry_error *err);
int listener_fd(const struct listener *l);          /* readable when a peer waits */
const char *listener_uri(const struct listener *l); /* with the real port if 0 was asked for */
int listener_accept(struct listener *l, struct stream **out, struct ferry_error *err);
void listener_close(struct listener *l); /* unlinks a unix socket it made */
/* In a forked child: let go of the listener of the parent, whose socket keeps its name. */
void listener_drop(struct listener *l);

#endif
