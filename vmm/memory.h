/*
 * Guest RAM: one memfd, mapped whole, shown to the guest in one or two slots.
 *
 * Up to MEMORY_LOW_END bytes lie at guest-physical 0; what is more lies from 4 GiB up, so that
 * the 32-bit hole stays free for PCI, IOAPIC and LAPIC.  The memfd holds low and high RAM back to
 * back: a RAM offset is an offset in it, and images and streams speak of RAM offsets.
 *
 * A struct gpa cannot be dereferenced.  Every access names a size and is checked for overflow and
 * range; every write marks its pages dirty (after the bytes are there, so that whoever collects
 * dirty pages and then copies never misses a write).
 */
#ifndef FERRY_VMM_MEMORY_H
#define FERRY_VMM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/error.h"

#define MEMORY_PAGE_BYTES 4096u
#define MEMORY_LOW_END    UINT64_C(0xc0000000) /* start of the 32-bit hole */
#define MEMORY_HIGH_START UINT64_C(0x100000000)

struct gpa {
    uint64_t value;
};

struct memory;

struct memory_region {
    uint64_t gpa;        /* guest-physical start */
    uint64_t ram_offset; /* where it starts in the memfd */
    uint64_t size;       /* bytes; 0: region not used */
};

/* size: a multiple of the page, within LIMIT_MEMORY_*.  Errors: -EINVAL, -ENOMEM ("too much"). */
int memory_create(uint64_t size, struct memory **out, struct ferry_error *err);
void memory_destroy(struct memory *memory);
uint64_t memory_size(const struct memory *memory);
int memory_fd(const struct memory *memory); /* the memfd, owned by memory */
/* The mapping of all RAM, size bytes, for KVM slots and for reading by RAM offset. */
void *memory_base(const struct memory *memory);
/* region[0]: low RAM, region[1]: high RAM (size 0 if there is none). */
const struct memory_region *memory_regions(const struct memory *memory);

/* True if [gpa, gpa + size) is RAM of one region. */
bool memory_contains(const struct memory *memory, struct gpa gpa, uint64_t size);
/* Copies; -EFAULT if the range is not RAM. */
int memory_read(const struct memory *memory, struct gpa gpa, void *out, size_t size);
int memory_write(struct memory *memory, struct gpa gpa, const void *data, size_t size);
/*
 * For DMA by the kernel (preadv, pwritev): a pointer good for size bytes, NULL if not RAM.  After
 * the device has written through it, memory_mark_dirty must be called.
 */
void *memory_dma(const struct memory *memory, struct gpa gpa, uint64_t size);
void memory_mark_dirty(struct memory *memory, struct gpa gpa, uint64_t size);
/*
 * Little-endian loads and stores of naturally aligned values shared with the guest (virtqueue
 * rings): single accesses.  -EFAULT if not RAM or misaligned.
 */
int memory_load_u16(const struct memory *memory, struct gpa gpa, uint16_t *value);
int memory_store_u16(struct memory *memory, struct gpa gpa, uint16_t value);

/*
 * Put content at a RAM offset while no guest runs (restore, incoming move), by pwrite into the
 * memfd: cheaper than faulting pages in.  size and offset: any, within RAM.
 */
int memory_load(struct memory *memory, uint64_t ram_offset, const void *data, size_t size);
/* Make [ram_offset, +size) read as zero and give its pages back. */
int memory_discard(struct memory *memory, uint64_t ram_offset, uint64_t size);
/*
 * The next run of RAM that may hold data at or after *start (SEEK_DATA on the memfd): sets
 * [*start, *end) and returns 1, or 0 when there is none.  Pages never touched are not in it.
 */
int memory_next_data(const struct memory *memory, uint64_t *start, uint64_t *end);

/*
 * ferry's own half of dirty tracking (DESIGN 5): one bit a page, by RAM offset, set by
 * memory_write, memory_store_u16, memory_mark_dirty while tracking is on.
 */
int memory_track_start(struct memory *memory);
void memory_track_stop(struct memory *memory);
/* OR the bits of pages [first_page, first_page + pages) into bitmap (bit 0 = first_page) and clear
 * them here.  first_page is a multiple of 64. */
void memory_track_collect(struct memory *memory, uint64_t first_page, uint64_t pages,
                          uint64_t *bitmap);

#endif
