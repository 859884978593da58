/* Formatting of log lines; the sink belongs to the caller. */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>

void log_write(const struct log *log, enum log_level level, const char *fmt, ...)
{
    char text[1024];
    va_list args;

    if (!log || !log->line || level > log->level)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    log->line(log->context, level, text);
}
