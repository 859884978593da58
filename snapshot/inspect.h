/* What an image holds, for people and programs: `ferry inspect`. */
#ifndef FERRY_SNAPSHOT_INSPECT_H
#define FERRY_SNAPSHOT_INSPECT_H

#include <jansson.h>

#include "common/error.h"
#include "imagefmt/chain.h"

/*
 * Describe the image at fd.  A pipe is read to its end and checked as image_read does; of a file
 * the section table, the manifest and the state are read and checked, but not RAM and disks:
 *
 *     {"format": "ferry image", "version", "bytes", "content_bytes", "stored_bytes", "chunks",
 *      "root": hex, "base": hex (of a child), "checked": all content was, "manifest": {...},
 *      "sections": [{"name", "kind": "state", "version", "bytes", "digest", "state": {...}},
 *                   {"name", "kind": "ram" | "disk" | "file", "bytes", "chunk_bytes", "chunks",
 *                    "content_bytes", "stored_bytes", "digest"}]}
 *
 * "state" is left out of a section whose kind of device is not known here, or whose version is
 * newer; "problem" says why then.  *out is a new reference.
 */
int snapshot_inspect(int fd, const char *about, const struct image_environment *env, json_t **out,
                     struct ferry_error *err);

#endif
