/* Printing, in the only folder that prints. */
#include "cli/output.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

/*
 * Names in images and messages of others may hold what a terminal takes for orders: control
 * characters, C1 ones in UTF-8 too, become '?'.
 */
static char *make_printable(char *text, bool newlines)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        bool fine = *c == '\t' || (*c == '\n' && newlines);
        if ((*c < ' ' && !fine) || *c == 0x7f)
            *c = '?';
        else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
            *c = c[1] = '?';
    }
    return text;
}

void output_error(const struct ferry_error *err)
{
    char text[sizeof(err->about) + sizeof(err->message) + sizeof(err->cause) + 8];

    if (!err->message[0])
        return;
    ferry_error_text(err, text, sizeof(text));
    fprintf(stderr, "ferry: %s\n", make_printable(text, true));
}

void output_note(const char *fmt, ...)
{
    char text[1024];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    fprintf(stderr, "ferry: %s\n", make_printable(text, true));
}

void output_text(const char *fmt, ...)
{
    CLEANUP_FREE char *text = NULL;
    va_list args;

    va_start(args, fmt);
    int size = vasprintf(&text, fmt, args);
    va_end(args);
    if (size < 0)
        text = NULL;
    else
        puts(make_printable(text, strchr(fmt, '\n')));
}

int output_json(json_t *value, struct ferry_error *err)
{
    if (!value)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    json_dumpf(value, stdout, OUTPUT_JSON_FLAGS);
    json_decref(value);
    putchar('\n');
    return output_flush(err);
}

int output_flush(struct ferry_error *err)
{
    if (fflush(stdout) || ferror(stdout))
        return ferry_fail_sys(err, errno ? -errno : -EIO, "standard output", "cannot write");
    return 0;
}

json_t *output_ms(uint64_t ns)
{
    uint64_t us = ns / 1000;

    return json_real((double)us / 1000.0);
}

static void log_line(void *context, enum log_level level, const char *text)
{
    static const char *const levels[] = {"error", "warning", "info", "debug"};

    (void)context;
    fprintf(stderr, "ferry: %s: %s\n", levels[level], text);
}

const struct log *output_log(void)
{
    static struct log log = {.level = LOG_LEVEL_WARN, .line = log_line};
    static const char *const names[] = {"error", "warn", "info", "debug"};
    const char *wanted = getenv("FERRY_LOG");

    for (int i = 0; wanted && i < 4; i++)
        if (!strcmp(wanted, names[i]))
            log.level = (enum log_level)i;
    return &log;
}
