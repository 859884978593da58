/* Filling and printing of struct ferry_error. */
#define FERRY_ERROR_IMPLEMENTATION
#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int fill(struct ferry_error *err, enum ferry_error_kind kind, int code, const char *about,
                const char *fmt, va_list args) __attribute__((format(printf, 5, 0)));

static int fill(struct ferry_error *err, enum ferry_error_kind kind, int code, const char *about,
                const char *fmt, va_list args)
{
    if (err) {
        memset(err, 0, sizeof(*err));
        err->kind = kind;
        err->code = code;
        snprintf(err->about, sizeof(err->about), "%s", about ? about : "");
        vsnprintf(err->message, sizeof(err->message), fmt, args);
    }
    return code;
}

int ferry_fail(struct ferry_error *err, int code, const char *about, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, FERRY_FAILED, code, about, fmt, args);
    va_end(args);
    return code;
}

int ferry_fail_sys(struct ferry_error *err, int code, const char *about, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, FERRY_FAILED, code, about, fmt, args);
    va_end(args);
    if (err)
        snprintf(err->cause, sizeof(err->cause), "%s", strerror(-code));
    return code;
}

int ferry_refuse(struct ferry_error *err, int code, const char *about, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, FERRY_REFUSED, code, about, fmt, args);
    va_end(args);
    return code;
}

int ferry_usage(struct ferry_error *err, const char *about, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, FERRY_USAGE, -EINVAL, about, fmt, args);
    va_end(args);
    return -EINVAL;
}

int ferry_wrap(struct ferry_error *err, const char *about, const char *fmt, ...)
{
    const struct ferry_error below = *err;
    char text[sizeof(below.about) + sizeof(below.message) + sizeof(below.cause) + 8];
    va_list args;

    va_start(args, fmt);
    fill(err, below.kind, below.code, about, fmt, args);
    va_end(args);
    ferry_error_text(&below, text, sizeof(text));
    snprintf(err->cause, sizeof(err->cause), "%.*s", (int)sizeof(err->cause) - 1, text);
    return below.code;
}

const char *ferry_error_text(const struct ferry_error *err, char *text, size_t size)
{
    snprintf(text, size, "%s%s%s%s%s%s", err->about, err->about[0] ? ": " : "", err->message,
             err->cause[0] ? " (" : "", err->cause, err->cause[0] ? ")" : "");
    return text;
}
