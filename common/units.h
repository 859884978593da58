/* Sizes and times as people write and read them. */
#ifndef FERRY_COMMON_UNITS_H
#define FERRY_COMMON_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/*
 * "512M", "1G", "4096", "1.5G" to bytes; K, M, G, T are binary; a trailing "iB" or "B" is taken.
 * what: the option, for the message.  Errors: FERRY_USAGE on anything else or overflow.
 */
int parse_size(const char *what, const char *text, uint64_t *bytes, struct ferry_error *err);
/* "100ms", "5s", "250us", "2m" to nanoseconds.  A bare number needs a unit, but 0 does not. */
int parse_duration(const char *what, const char *text, uint64_t *ns, struct ferry_error *err);
/* A plain decimal within [min, max]. */
int parse_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *value,
                 struct ferry_error *err);
/* "1.2 GiB", "340.0 MiB", "17 B".  Returns text. */
const char *format_size(uint64_t bytes, char *text, size_t size);
/* "1.24 s", "37.2 ms", "180 us".  Returns text. */
const char *format_duration(uint64_t ns, char *text, size_t size);

#endif
