/*
 * Messages of the library to whoever runs it.  The library never prints: it is given a struct log,
 * whose sink cli/ provides.  A NULL log swallows everything.
 */
#ifndef FERRY_COMMON_LOG_H
#define FERRY_COMMON_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

struct log {
    enum log_level level; /* messages above it are dropped */
    void (*line)(void *context, enum log_level level, const char *text); /* thread-safe */
    void *context;
};

void log_write(const struct log *log, enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(log, ...) log_write(log, LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(log, ...)  log_write(log, LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(log, ...)  log_write(log, LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(log, ...) log_write(log, LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
