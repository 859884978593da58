/*
 * A bus is a small array of regions, sorted by address.  A lookup takes a copy of what it needs
 * under a read lock and lets go of it before the handler runs, so that a handler may itself add,
 * move or remove regions (a write to a PCI BAR).  Hence an access that was under way may reach a
 * handler once more just after bus_remove; devices are freed only when no vCPU runs.
 */
#include "vmm/bus.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define BUS_REGIONS 256 /* far more than devices bring: 32 PCI functions, 6 BARs */

struct bus {
    pthread_rwlock_t lock;
    unsigned count;
    struct bus_region *regions[BUS_REGIONS];
};

struct hit {
    struct bus_region *region;
    uint64_t offset;
};

static void unlock_rw(pthread_rwlock_t **lock)
{
    pthread_rwlock_unlock(*lock);
}

#define READ_SCOPE(lock_)                                                 \
    __attribute__((unused, cleanup(unlock_rw))) pthread_rwlock_t *scope = \
        (pthread_rwlock_rdlock(lock_), (lock_))
#define WRITE_SCOPE(lock_)                                                \
    __attribute__((unused, cleanup(unlock_rw))) pthread_rwlock_t *scope = \
        (pthread_rwlock_wrlock(lock_), (lock_))

int bus_create(struct bus **out)
{
    struct bus *bus = calloc(1, sizeof(*bus));
    if (!bus)
        return -ENOMEM;
    pthread_rwlock_init(&bus->lock, NULL);
    *out = bus;
    return 0;
}

void bus_destroy(struct bus *bus)
{
    if (!bus)
        return;
    pthread_rwlock_destroy(&bus->lock);
    free(bus);
}

/* Index of the first region that ends after address. */
static unsigned position(const struct bus *bus, uint64_t address)
{
    unsigned low = 0, high = bus->count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        const struct bus_region *r = bus->regions[middle];
        if (r->start + (r->size - 1) < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int insert(struct bus *bus, struct bus_region *region, struct bus_region **other)
{
    uint64_t last = region->start + (region->size - 1);
    *other = NULL;
    if (!region->size || last < region->start)
        return -EINVAL;
    unsigned at = position(bus, region->start);
    if (at < bus->count && bus->regions[at]->start <= last) {
        *other = bus->regions[at];
        return -EEXIST;
    }
    if (bus->count == BUS_REGIONS)
        return -ENOSPC;
    memmove(&bus->regions[at + 1], &bus->regions[at], (bus->count - at) * sizeof(bus->regions[0]));
    bus->regions[at] = region;
    bus->count++;
    return 0;
}

static void take_out(struct bus *bus, const struct bus_region *region)
{
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->regions[i] != region)
            continue;
        bus->count--;
        memmove(&bus->regions[i], &bus->regions[i + 1], (bus->count - i) * sizeof(bus->regions[0]));
        return;
    }
}

int bus_add(struct bus *bus, struct bus_region *region, struct ferry_error *err)
{
    struct bus_region *other;
    WRITE_SCOPE(&bus->lock);
    int rc = insert(bus, region, &other);
    if (rc == -EEXIST)
        return ferry_fail(err, rc, region->name, "address 0x%llx already belongs to %s",
                          (unsigned long long)region->start, other->name);
    if (rc)
        return ferry_fail_sys(err, rc, region->name, "cannot be put on the bus at 0x%llx",
                              (unsigned long long)region->start);
    return 0;
}

void bus_remove(struct bus *bus, struct bus_region *region)
{
    WRITE_SCOPE(&bus->lock);
    take_out(bus, region);
}

int bus_move(struct bus *bus, struct bus_region *region, uint64_t start)
{
    struct bus_region *other;
    WRITE_SCOPE(&bus->lock);
    take_out(bus, region);
    region->start = start;
    return insert(bus, region, &other);
}

/* The region that holds all of [address, address + size). */
static struct hit find(struct bus *bus, uint64_t address, unsigned size)
{
    READ_SCOPE(&bus->lock);
    unsigned at = position(bus, address);
    if (at == bus->count || bus->regions[at]->start > address)
        return (struct hit){0};
    struct bus_region *region = bus->regions[at];
    uint64_t offset = address - region->start;
    if (size > region->size - offset)
        return (struct hit){0};
    return (struct hit){.region = region, .offset = offset};
}

static bool whole(unsigned size)
{
    return size == 1 || size == 2 || size == 4 || size == 8;
}

/* False: nobody claims it as one access. */
static bool read_at(struct bus *bus, uint64_t address, uint8_t *data, unsigned size)
{
    struct hit hit = whole(size) ? find(bus, address, size) : (struct hit){0};
    if (!hit.region)
        return false;
    uint64_t value;
    {
        LOCK_SCOPE(hit.region->lock);
        value = hit.region->read(hit.region->opaque, hit.offset, size);
    }
    for (unsigned i = 0; i < size; i++)
        data[i] = (uint8_t)(value >> 8 * i);
    return true;
}

static bool write_at(struct bus *bus, uint64_t address, const uint8_t *data, unsigned size)
{
    struct hit hit = whole(size) ? find(bus, address, size) : (struct hit){0};
    if (!hit.region)
        return false;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)data[i] << 8 * i;
    LOCK_SCOPE(hit.region->lock);
    hit.region->write(hit.region->opaque, hit.offset, value, size);
    return true;
}

/* What lies across the end of a region, or comes in odd sizes, goes byte by byte. */
void bus_read(struct bus *bus, uint64_t address, void *data, unsigned size)
{
    uint8_t *bytes = data;
    if (read_at(bus, address, bytes, size))
        return;
    memset(bytes, 0xff, size);
    for (unsigned i = 0; size > 1 && i < size; i++)
        read_at(bus, address + i, bytes + i, 1);
}

void bus_write(struct bus *bus, uint64_t address, const void *data, unsigned size)
{
    const uint8_t *bytes = data;
    if (write_at(bus, address, bytes, size))
        return;
    for (unsigned i = 0; size > 1 && i < size; i++)
        write_at(bus, address + i, bytes + i, 1);
}
