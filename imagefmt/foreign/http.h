/*
 * A file on a web server, read at random by ranges.  The server is not trusted: what it answers is
 * checked against what was asked, and a file that changes meanwhile is refused.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_HTTP_H
#define FERRY_IMAGEFMT_FOREIGN_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/error.h"

struct http_options {
    const char *ca_file; /* PEM: whose certificates alone are trusted; NULL: the system's */
    uint64_t stall_ns;   /* a connection that brings nothing for so long is given up; 0: 30 s */
};

struct http;

/* Does text begin with http:// or https://? */
bool http_is_url(const char *text);
/*
 * Ask for the file's size.  Only http and https are spoken, also after a redirect, and https is
 * never left for http.  A user's name and password may be in url; ~/.netrc is not read.
 * Errors: FERRY_USAGE (not a URL), FERRY_REFUSED (no ranges, a certificate that is not trusted, a
 * redirect that is not followed, larger than LIMIT_DISK_BYTES), FERRY_FAILED (all else, -ENOENT
 * for what is not there).
 */
int http_open(const char *url, const struct http_options *options, struct http **out,
              struct ferry_error *err);
void http_close(struct http *http); /* NULL is fine */
uint64_t http_size(const struct http *http);
/* The URL as it may be shown: without name, password and query. */
const char *http_about(const struct http *http);
/* What tells this content from a later one, its ETag or time of change; "": the server says
 * nothing, and only another size would be noticed. */
const char *http_validator(const struct http *http);
/*
 * The bytes from offset on into all of iov[0..count); within the file's size.  Any thread; each
 * uses a connection of its own, which is kept.  Tried again with growing pauses, from the byte
 * reached, LIMIT_HTTP_TRIES times.  FERRY_REFUSED: -ESTALE, it has changed; -EBADMSG, the answer
 * makes no sense.
 */
int http_read(struct http *http, uint64_t offset, const struct iovec *iov, int count,
              struct ferry_error *err);

#endif
