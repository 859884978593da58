/* A disk in memory that knows its holes and can fail; a thread checker sees every byte of it. */
#ifndef FERRY_TESTS_SUPPORT_MEMORY_DISK_H
#define FERRY_TESTS_SUPPORT_MEMORY_DISK_H

#include <stdatomic.h>

#include "vmm/block.h"

struct memory_disk {
    struct block block;
    uint8_t *data;
    atomic_bool *has_data; /* by block of BLOCK_APART_BYTES */
    atomic_int fail_reads; /* a negative errno */
    unsigned discards, flushes;
};

/* Of this size, a hole; closed by ops->close. */
struct memory_disk *memory_disk_new(uint64_t size_bytes);

#endif
