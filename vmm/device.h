/*
 * What every device has in common: a name, a state table, and the few calls of its life.
 *
 * The machine owns its devices in a list and walks it: reset at machine reset, quiesce before
 * state is taken and after the vCPUs have stopped, resume before they run again.  Save and load go
 * through the table alone: `capture` fills a state struct from the live device, `commit` makes a
 * checked state struct the live one and cannot fail half-way.
 */
#ifndef FERRY_VMM_DEVICE_H
#define FERRY_VMM_DEVICE_H

#include "common/error.h"
#include "vmm/state.h"

struct device;

struct device_ops {
    void (*reset)(struct device *device);
    /* Finish or withdraw all work in flight; afterwards nothing changes the state by itself. */
    int (*quiesce)(struct device *device, struct ferry_error *err);
    int (*resume)(struct device *device, struct ferry_error *err);
    void (*capture)(struct device *device, void *state);
    /* Beyond the table's check: what only the live device knows (features offered, ...). */
    int (*accept)(struct device *device, const void *state, struct ferry_error *err);
    int (*commit)(struct device *device, const void *state, struct ferry_error *err);
    void (*destroy)(struct device *device); /* frees it */
};

struct device {
    const char *name; /* unique in the machine, e.g. "serial0", "vda": the section's name */
    const struct state_table *table;
    const struct device_ops *ops; /* reset, quiesce, resume and accept may be NULL */
    struct device *next;          /* the machine's list */
};

#endif
