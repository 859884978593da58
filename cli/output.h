/*
 * What a person or a program reads: results on stdout, everything else on stderr.
 */
#ifndef FERRY_CLI_OUTPUT_H
#define FERRY_CLI_OUTPUT_H

#include <stdint.h>

#include <jansson.h>

#include "common/error.h"
#include "common/log.h"

#define FERRY_VERSION "0.1.0"

/* 15 digits, so that 0.1 is not shown as 0.10000000000000001. */
#define OUTPUT_JSON_FLAGS (JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15))

/* "ferry: about: message (cause)" on stderr; an empty message prints nothing. */
void output_error(const struct ferry_error *err);
/* A remark on stderr, "ferry: ...". */
void output_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A result as text; ends the line itself.  Control characters become '?', as in errors and remarks;
 * so do newlines that fmt does not have.  Errors of stdout are found by output_flush. */
void output_text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A result as one line of JSON.  Steals value; NULL: out of memory. */
int output_json(json_t *value, struct ferry_error *err);
/* Everything written so far is out, or why not. */
int output_flush(struct ferry_error *err);

/* Nanoseconds to the milliseconds of a JSON key "..._ms". */
json_t *output_ms(uint64_t ns);

/* The log of the library: lines on stderr, level from FERRY_LOG (error, warn, info, debug). */
const struct log *output_log(void);

#endif
