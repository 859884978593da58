/*
 * The one way in which ferry's library reports that something went wrong.
 *
 * A function that can fail returns 0 (or a count) or a negative errno, and takes a
 * `struct ferry_error *` as its last parameter; the pointer may be NULL.  The errno is for the
 * program, the error object for the person: what happened, what it was about, and the cause below.
 * Only cli/ prints it or turns it into an exit status.
 */
#ifndef FERRY_COMMON_ERROR_H
#define FERRY_COMMON_ERROR_H

#include <stdbool.h>
#include <stddef.h>

/* The kinds are the exit statuses of DESIGN 10. */
enum ferry_error_kind {
    FERRY_FAILED = 1,  /* something did not work: I/O, memory, a peer that went away */
    FERRY_USAGE = 2,   /* the caller asked for something that makes no sense */
    FERRY_REFUSED = 3, /* damaged, incompatible, not trusted, in doubt: ferry will not */
};

struct ferry_error {
    enum ferry_error_kind kind;
    int code;          /* negative errno, 0: nothing was reported */
    char about[160];   /* file, device, section or peer; may be empty */
    char message[320]; /* what happened and what to do, one or two lines */
    char cause[256];   /* the cause below (strerror or a lower error's text); may be empty */
};

/*
 * Fill *err (if not NULL) and return code, so that callers write `return ferry_fail(...)`.
 * code: negative errno.  about: what it is about, NULL or "" for nothing.  The text follows fmt.
 * ferry_fail: kind FERRY_FAILED, no cause.  ferry_fail_sys: the same, cause = strerror(-code).
 * ferry_refuse: kind FERRY_REFUSED.  ferry_usage: kind FERRY_USAGE, code is always -EINVAL.
 */
int ferry_fail(struct ferry_error *err, int code, const char *about, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int ferry_fail_sys(struct ferry_error *err, int code, const char *about, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int ferry_refuse(struct ferry_error *err, int code, const char *about, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int ferry_usage(struct ferry_error *err, const char *about, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#if defined(__clang_analyzer__) && !defined(FERRY_ERROR_IMPLEMENTATION)
/* Their code is negative: without knowing, the analyzer follows paths on which a failure is none.
 */
static inline int ferry_negative(int code)
{
    if (code >= 0)
        __builtin_unreachable();
    return code;
}
#define ferry_fail(...)     ferry_negative(ferry_fail(__VA_ARGS__))
#define ferry_fail_sys(...) ferry_negative(ferry_fail_sys(__VA_ARGS__))
#define ferry_refuse(...)   ferry_negative(ferry_refuse(__VA_ARGS__))
#define ferry_usage(...)    ferry_negative(ferry_usage(__VA_ARGS__))
#endif

/*
 * Put a higher-level message over the error already in *err: the old about, message and cause
 * become the cause, kind and code stay.  Returns the code.  err must not be NULL.
 */
int ferry_wrap(struct ferry_error *err, const char *about, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* "about: message (cause)" into text; always terminated.  Returns text. */
const char *ferry_error_text(const struct ferry_error *err, char *text, size_t size);

#endif
