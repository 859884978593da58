/*
 * Port and memory-mapped I/O: who answers a vCPU's access.
 *
 * Accesses come from vCPU threads.  The bus holds the region's lock while it calls the handler, so
 * a device sees one access at a time per region lock; a device with several regions gives them one
 * lock.  Accesses that nobody claims read as all ones and write into nothing, as on a PC.
 */
#ifndef FERRY_VMM_BUS_H
#define FERRY_VMM_BUS_H

#include <pthread.h>
#include <stdint.h>

#include "common/error.h"

struct bus;

struct bus_region {
    uint64_t start;
    uint64_t size;
    const char *name;
    pthread_mutex_t *lock;
    void *opaque;
    /* offset: from start; size: 1, 2, 4 or 8 bytes; never crosses the region's end */
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
};

int bus_create(struct bus **out);
void bus_destroy(struct bus *bus);
/* The region must stay valid until removed.  -EEXIST if it overlaps another one. */
int bus_add(struct bus *bus, struct bus_region *region, struct ferry_error *err);
void bus_remove(struct bus *bus, struct bus_region *region);
/* Move a region (PCI BAR); -EEXIST on overlap, and the region is then not on the bus. */
int bus_move(struct bus *bus, struct bus_region *region, uint64_t start);
/* From the vCPU loop: data is little-endian, size 1, 2, 4 or 8. */
void bus_read(struct bus *bus, uint64_t address, void *data, unsigned size);
void bus_write(struct bus *bus, uint64_t address, const void *data, unsigned size);

#endif
