/* JSON from outside: bounded before the parser, which recurses, sees it. */
#ifndef FERRY_COMMON_JSON_H
#define FERRY_COMMON_JSON_H

#include <stddef.h>

#include <jansson.h>

#include "common/error.h"

/*
 * text[0..size) as one JSON object: at most `most` bytes and LIMIT_JSON_DEPTH deep, no key twice.
 * *out is a new reference, NULL on error: FERRY_REFUSED, -EBADMSG, in which the text is called what
 * ("the manifest").
 */
int json_parse_object(const char *text, size_t size, size_t most, const char *about,
                      const char *what, json_t **out, struct ferry_error *err);

void json_cleanup(json_t **json); /* CLEANUP(json_cleanup); NULL is fine */

#endif
