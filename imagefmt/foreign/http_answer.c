/*
 * Header lines.  What is not understood is as if it had not been sent; a status line begins anew,
 * because a redirect or a 100 came before.
 */
#include "imagefmt/foreign/http_answer.h"

#include <string.h>
#include <strings.h>

#include "common/limits.h"

struct text {
    const char *at, *end;
};

static bool take_number(struct text *t, uint64_t *value)
{
    const char *start = t->at;

    *value = 0;
    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++)
        if (__builtin_mul_overflow(*value, 10u, value) ||
            __builtin_add_overflow(*value, (unsigned)(*t->at - '0'), value))
            return false;
    return t->at > start;
}

static bool take_char(struct text *t, char c)
{
    if (t->at == t->end || *t->at != c)
        return false;
    t->at++;
    return true;
}

/* RFC 9110, 14.4: "bytes 0-99/1000", with "*" for a total that is not known, or "bytes * /1000". */
static void take_range(struct http_answer *a, struct text t)
{
    uint64_t last = 0;

    a->ranged = false;
    if (t.end - t.at < 6 || strncasecmp(t.at, "bytes ", 6) != 0)
        return;
    t.at += 6;
    a->unsatisfied = take_char(&t, '*');
    if (!a->unsatisfied && (!take_number(&t, &a->from) || !take_char(&t, '-') ||
                            !take_number(&t, &last) || last < a->from || last == UINT64_MAX))
        return;
    a->end = last + 1;
    if (!take_char(&t, '/'))
        return;
    if (take_char(&t, '*'))
        a->total = HTTP_SIZE_UNKNOWN;
    else if (!take_number(&t, &a->total) || (!a->unsatisfied && a->total <= last))
        return;
    a->ranged = t.at == t.end;
}

/* It will be sent back: so nothing of it may be more than one line of plain text. */
static void take_validator(char out[HTTP_VALIDATOR_BYTES], struct text t)
{
    size_t size = (size_t)(t.end - t.at);

    out[0] = 0;
    if (size >= HTTP_VALIDATOR_BYTES)
        return;
    for (const char *c = t.at; c < t.end; c++)
        if (*c < ' ' || *c > '~')
            return;
    memcpy(out, t.at, size);
    out[size] = 0;
}

static bool is_called(struct text *t, const char *name)
{
    size_t length = strlen(name);

    if ((size_t)(t->end - t->at) < length || strncasecmp(t->at, name, length) != 0)
        return false;
    t->at += length;
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\t'))
        t->at++;
    return true;
}

static void begin(struct http_answer *a, struct text t)
{
    uint64_t status = 0;

    *a = (struct http_answer){.header_bytes = a->header_bytes};
    while (t.at < t.end && *t.at != ' ')
        t.at++;
    if (take_char(&t, ' ') && take_number(&t, &status) && status < 1000)
        a->status = (unsigned)status;
}

bool http_answer_line(struct http_answer *a, const char *line, size_t size)
{
    struct text t = {line, line + size};

    a->header_bytes += size;
    if (a->header_bytes > LIMIT_HTTP_HEADER_BYTES)
        return false;
    while (t.end > t.at && (t.end[-1] == '\r' || t.end[-1] == '\n' || t.end[-1] == ' '))
        t.end--;
    if (is_called(&t, "HTTP/"))
        begin(a, t);
    else if (is_called(&t, "Content-Range:"))
        take_range(a, t);
    else if (is_called(&t, "ETag:"))
        take_validator(a->etag, t);
    else if (is_called(&t, "Last-Modified:"))
        take_validator(a->modified, t);
    else if (is_called(&t, "Content-Encoding:"))
        a->encoded = !(t.end - t.at == 8 && !strncasecmp(t.at, "identity", 8));
    return true;
}
