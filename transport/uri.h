/* Where another ferry is: "unix:PATH" or "tcp://HOST:PORT", HOST may be [IPv6]. */
#ifndef FERRY_TRANSPORT_URI_H
#define FERRY_TRANSPORT_URI_H

#include <stdbool.h>
#include <stdint.h>

#include <sys/socket.h>
#include <sys/un.h>

#include "common/error.h"

#define LIMIT_HOST_BYTES 255 /* RFC 1035, 2.3.4 */

enum uri_kind { URI_UNIX, URI_TCP };

struct uri {
    enum uri_kind kind;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* of unix: */
    char host[LIMIT_HOST_BYTES + 1]; /* of tcp://, without brackets; "" means every address */
    uint16_t port;                   /* of tcp://; 0: any, for a listener only */
};

/* Errors: FERRY_USAGE, naming the text and what was expected. */
int uri_parse(const char *text, struct uri *uri, struct ferry_error *err);
/* 127.0.0.0/8, ::1 and the former written as IPv6. */
bool address_is_loopback(const struct sockaddr *address);
/* "HOST:PORT" or "[HOST]:PORT" of a numeric address into text. */
void address_format(const struct sockaddr *address, socklen_t size, char *text, size_t text_size);

#endif
