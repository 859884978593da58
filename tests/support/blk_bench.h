/* A rig with one virtio disk on memory under a started driver. */
#ifndef FERRY_TESTS_SUPPORT_BLK_BENCH_H
#define FERRY_TESTS_SUPPORT_BLK_BENCH_H

#include <stdatomic.h>

#include "tests/support/virtio_rig.h"
#include "vmm/device/virtio_blk.h"

#define DISK_BYTES   (4u << 20)
#define DISK_SECTORS (DISK_BYTES / 512)
#define BLK_ID       0x1042
#define FEATURE(bit) (UINT64_C(1) << (bit))

struct ram_disk {
    struct block block;
    uint8_t *data;
    unsigned flushes, discards, zeroes;
    int fail;         /* returned by everything */
    atomic_bool slow; /* a transfer takes a while */
    atomic_bool busy; /* and is at it */
};

struct bench {
    struct rig rig;
    struct ram_disk disk;
    struct device *device;
    struct driver driver;
};

/* A disk of DISK_BYTES in a pattern, resumed.  disk->data is the caller's to free. */
struct device *add_disk(struct rig *rig, struct ram_disk *disk, const char *name, bool readonly);
/* without: features that the driver does not take. */
void bench_open(struct bench *bench, bool readonly, uint64_t without);
void bench_close(struct bench *bench);
uint8_t *data_of(struct bench *bench); /* the driver's data buffer */
/* Interrupts on vector since the last call. */
uint64_t interrupts(struct device *device, unsigned vector);

#endif
