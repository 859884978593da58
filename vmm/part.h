/*
 * One thing of a machine that is written down as one section: a vCPU, a controller, the clock, or
 * (through machine_state.c) a device.  As a device's calls are, but with the ioctls' errors.
 */
#ifndef FERRY_VMM_PART_H
#define FERRY_VMM_PART_H

#include <stdbool.h>

#include "common/error.h"
#include "common/limits.h"
#include "vmm/state.h"

struct part {
    char name[LIMIT_NAME_BYTES + 1];
    const struct state_table *table;
    void *opaque;
    /* Fill state, table->size zeroed bytes, while all vCPUs are parked and devices quiesced. */
    int (*capture)(void *opaque, void *state, struct ferry_error *err);
    /* Beyond the table's check: what this host or the live thing must agree to.  NULL: nothing. */
    int (*accept)(void *opaque, const void *state, struct ferry_error *err);
    int (*commit)(void *opaque, const void *state, struct ferry_error *err);
    void *scratch; /* what machine_load_section has parsed; NULL: nothing yet */
};

#endif
