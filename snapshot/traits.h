/*
 * What other hypervisors know of a machine and ferry's own does not have: firmware, network cards,
 * buses of disks.  An imported machine keeps it, so that it can go out again as it came.
 */
#ifndef FERRY_SNAPSHOT_TRAITS_H
#define FERRY_SNAPSHOT_TRAITS_H

#include <jansson.h>

#include "imagefmt/foreign/guest.h"

struct machine_traits {
    bool known; /* false: a machine of ferry's own, nothing of this is written */
    enum guest_firmware firmware;
    bool serial_console;
    char os[64];
    uint8_t uuid[16]; /* all zero: none */
    enum guest_bus buses[LIMIT_DISKS];
    uint32_t nic_count;
    struct guest_nic nics[LIMIT_NICS];
};

/* {"firmware", "serial_console", "os", "uuid", "buses": [...], "nics": [{"mac", "network",
 * "model"}]}, for so many disks.  A new reference; NULL: out of memory. */
json_t *machine_traits_to_json(const struct machine_traits *traits, uint32_t disk_count);
/* Hostile JSON; NULL: traits are not known.  Errors are FERRY_REFUSED and name the key. */
int machine_traits_from_json(const json_t *json, const char *about, struct machine_traits *traits,
                             struct ferry_error *err);

#endif
