/* What an image holds, for people and programs: `ferry inspect`. */
#ifndef FERRY_SNAPSHOT_INSPECT_H
#define FERRY_SNAPSHOT_INSPECT_H

#include <jansson.h>

#include "common/error.h"

/*
 * Read the image from fd (pipe or file) to its end, checking it as image_read does, and describe
 * it:
 *
 *     {"format": "ferry image", "version", "bytes", "content_bytes", "stored_bytes", "chunks",
 *      "root": hex, "manifest": {...},
 *      "sections": [{"name", "kind": "state", "version", "bytes", "digest", "state": {...}},
 *                   {"name", "kind": "ram" | "disk", "bytes", "chunk_bytes", "chunks",
 *                    "content_bytes", "stored_bytes", "digest"}]}
 *
 * "state" is left out of a section whose kind of device is not known here, or whose version is
 * newer; "problem" says why then.  *out is a new reference.
 */
int snapshot_inspect(int fd, const char *about, json_t **out, struct ferry_error *err);

#endif
