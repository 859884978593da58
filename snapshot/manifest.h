/*
 * The manifest: the JSON at the head of an image that says which machine it holds.
 *
 *     {"format": "ferry machine", "version": 1,
 *      "machine": {...},                             machine_config_to_json
 *      "saved": {"realtime_ns": 1763800000000000000},   or, of one that is switched off,
 *      "stopped": true,
 *      "disks": [{"device": "vda", "in_image": true}],
 *      "guest": {...}}                               of an imported one: snapshot/traits.h
 */
#ifndef FERRY_SNAPSHOT_MANIFEST_H
#define FERRY_SNAPSHOT_MANIFEST_H

#include <jansson.h>

#include "snapshot/traits.h"
#include "vmm/config.h"

#define MANIFEST_VERSION 1

struct manifest {
    struct machine_config machine;
    bool stopped;         /* no RAM, no state, no identity: ferry run gives it those */
    uint64_t realtime_ns; /* CLOCK_REALTIME when the guest stood still; stopped: 0 */
    bool disk_in_image[LIMIT_DISKS];
    struct machine_traits traits;
};

/* The text, malloc'd; NULL: out of memory. */
char *manifest_encode(const struct manifest *manifest);
/* Hostile text to JSON: size and depth within the limits, an object, no key twice. */
int manifest_parse(const char *text, size_t size, const char *about, json_t **out,
                   struct ferry_error *err);
/* Hostile JSON to a manifest.  Errors are FERRY_REFUSED. */
int manifest_decode(const json_t *json, const char *about, struct manifest *manifest,
                    struct ferry_error *err);

#endif
