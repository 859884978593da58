/* Parsing of addresses; nothing is looked up here. */
#include "transport/uri.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "common/units.h"

static int parse_port(const char *text, const char *digits, uint16_t *port, struct ferry_error *err)
{
    uint64_t value;

    if (parse_number("port", digits, 0, 65535, &value, NULL))
        return ferry_usage(err, text, "\"%s\" is not a port (0 to 65535)", digits);
    *port = (uint16_t)value;
    return 0;
}

static int parse_tcp(const char *text, const char *rest, struct uri *uri, struct ferry_error *err)
{
    const char *end, *colon;

    if (*rest == '[') {
        rest++;
        end = strchr(rest, ']');
        colon = end ? end + 1 : NULL;
    } else {
        colon = strrchr(rest, ':');
        end = colon;
        if (colon && memchr(rest, ':', (size_t)(colon - rest)))
            return ferry_usage(err, text, "write an IPv6 address in brackets: tcp://[::1]:PORT");
    }
    if (!colon || *colon != ':')
        return ferry_usage(err, text, "expected tcp://HOST:PORT");
    size_t length = (size_t)(end - rest);
    if (length > LIMIT_HOST_BYTES)
        return ferry_usage(err, NULL, "a host name has at most %d characters", LIMIT_HOST_BYTES);
    memcpy(uri->host, rest, length);
    uri->host[length] = 0;
    uri->kind = URI_TCP;
    return parse_port(text, colon + 1, &uri->port, err);
}

int uri_parse(const char *text, struct uri *uri, struct ferry_error *err)
{
    *uri = (struct uri){0};
    if (!strncmp(text, "tcp://", 6))
        return parse_tcp(text, text + 6, uri, err);
    if (strncmp(text, "unix:", 5))
        return ferry_usage(err, text, "expected unix:PATH or tcp://HOST:PORT");
    size_t length = strlen(text + 5);
    if (!length)
        return ferry_usage(err, text, "expected a path after unix:");
    if (length >= sizeof(uri->path))
        return ferry_usage(err, NULL,
                           "the path of a unix socket has at most %zu bytes, this one has %zu",
                           sizeof(uri->path) - 1, length);
    uri->kind = URI_UNIX;
    memcpy(uri->path, text + 5, length + 1);
    return 0;
}

bool address_is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof(in));
        return ntohl(in.sin_addr.s_addr) >> 24 == 127;
    }
    if (address->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, address, sizeof(in6));
        if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr))
            return in6.sin6_addr.s6_addr[12] == 127;
        return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
    }
    return false;
}

void address_format(const struct sockaddr *address, socklen_t size, char *text, size_t text_size)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getnameinfo(address, size, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV))
        snprintf(text, text_size, "unknown address");
    else
        snprintf(text, text_size, address->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}
