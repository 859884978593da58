/*
 * Guest RAM; see memory.h for the contract.
 *
 * The memfd is mapped once, MAP_SHARED and MAP_NORESERVE, and sealed against a change of size, so
 * that no other holder of it can take mapped pages away.  The bitmap of ferry's own writes is
 * mapped at the first start of tracking and stays until the end: a writer may still be looking at
 * it while tracking stops.
 */
#include "vmm/memory.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/units.h"

#define PAGES_PER_WORD 64u

struct memory {
    uint64_t size;
    int fd;
    uint8_t *base;
    struct memory_region regions[2];
    atomic_bool tracking;
    void *bitmap_map;         /* NULL until the first start */
    _Atomic uint64_t *bitmap; /* the same, to look at */
};

static uint64_t bitmap_bytes(const struct memory *memory)
{
    uint64_t pages = memory->size / MEMORY_PAGE_BYTES;
    return (pages + PAGES_PER_WORD - 1) / PAGES_PER_WORD * sizeof(uint64_t);
}

/* RAM is only promised, never reserved; but more than the host has in all can only end badly. */
static int check_host(uint64_t size, struct ferry_error *err)
{
    struct sysinfo host;
    char want[32], have[32];

    if (sysinfo(&host))
        return 0;
    uint64_t total = ((uint64_t)host.totalram + host.totalswap) * host.mem_unit;
    if (size <= total)
        return 0;
    return ferry_fail(
        err, -ENOMEM, "memory", "%s of guest memory is too much: this host has %s, swap included",
        format_size(size, want, sizeof(want)), format_size(total, have, sizeof(have)));
}

static int check_size(uint64_t size, struct ferry_error *err)
{
    char text[32];
    if (size >= LIMIT_MEMORY_MIN_BYTES && size <= LIMIT_MEMORY_BYTES &&
        size % MEMORY_PAGE_BYTES == 0)
        return check_host(size, err);
    return ferry_usage(err, "memory",
                       "%s is not a memory size: from 8 MiB to 1 TiB, in whole 4 KiB pages",
                       format_size(size, text, sizeof(text)));
}

static void set_regions(struct memory *memory)
{
    uint64_t low = memory->size < MEMORY_LOW_END ? memory->size : MEMORY_LOW_END;
    memory->regions[0] = (struct memory_region){.size = low};
    memory->regions[1] = (struct memory_region){
        .gpa = MEMORY_HIGH_START, .ram_offset = low, .size = memory->size - low};
}

static int map_ram(struct memory *memory, struct ferry_error *err)
{
    memory->fd = memfd_create("ferry-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory->fd < 0)
        return ferry_fail_sys(err, -errno, "memory", "cannot create the memfd of guest memory");
    if (ftruncate(memory->fd, (off_t)memory->size) ||
        fcntl(memory->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
        return ferry_fail_sys(err, -errno, "memory", "cannot size the memfd of guest memory");
    void *base =
        mmap(NULL, memory->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory->fd, 0);
    if (base == MAP_FAILED)
        return ferry_fail_sys(err, -errno, "memory", "cannot map guest memory");
    memory->base = base;
    /* A core dump of ferry is not the place for the guest's secrets.  Best effort. */
    madvise(base, memory->size, MADV_DONTDUMP);
    return 0;
}

static void memory_cleanup(struct memory **memory)
{
    memory_destroy(*memory);
}

int memory_create(uint64_t size, struct memory **out, struct ferry_error *err)
{
    int rc = check_size(size, err);
    if (rc)
        return rc;
    struct memory *memory CLEANUP(memory_cleanup) = calloc(1, sizeof(*memory));
    if (!memory)
        return ferry_fail_sys(err, -ENOMEM, "memory", "cannot describe guest memory");
    memory->fd = -1;
    memory->size = size;
    set_regions(memory);
    rc = map_ram(memory, err);
    if (rc)
        return rc;
    *out = take_ptr(&memory);
    return 0;
}

void memory_destroy(struct memory *memory)
{
    if (!memory)
        return;
    if (memory->bitmap_map)
        munmap(memory->bitmap_map, bitmap_bytes(memory));
    if (memory->base)
        munmap(memory->base, memory->size);
    if (memory->fd >= 0)
        close(memory->fd);
    free(memory);
}

uint64_t memory_size(const struct memory *memory)
{
    return memory->size;
}

int memory_fd(const struct memory *memory)
{
    return memory->fd;
}

void *memory_base(const struct memory *memory)
{
    return memory->base;
}

const struct memory_region *memory_regions(const struct memory *memory)
{
    return memory->regions;
}

/* Finds the RAM offset of [gpa, gpa + size); false if it is not RAM of one region. */
static bool locate(const struct memory *memory, struct gpa gpa, uint64_t size, uint64_t *ram_offset)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct memory_region *r = &memory->regions[i];
        if (gpa.value < r->gpa || gpa.value - r->gpa > r->size)
            continue;
        uint64_t within = gpa.value - r->gpa;
        if (size > r->size - within)
            continue;
        *ram_offset = r->ram_offset + within;
        return true;
    }
    return false;
}

bool memory_contains(const struct memory *memory, struct gpa gpa, uint64_t size)
{
    uint64_t offset;
    return locate(memory, gpa, size, &offset);
}

void *memory_dma(const struct memory *memory, struct gpa gpa, uint64_t size)
{
    uint64_t offset;
    return locate(memory, gpa, size, &offset) ? memory->base + offset : NULL;
}

/*
 * Called after the bytes are in place.  The fence pairs with the one in memory_track_start: either
 * this writer sees tracking on, or whoever started it sees the bytes.
 */
static void mark_offset(struct memory *memory, uint64_t offset, uint64_t size)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (!size || !atomic_load_explicit(&memory->tracking, memory_order_acquire))
        return;
    uint64_t last = (offset + size - 1) / MEMORY_PAGE_BYTES;
    for (uint64_t page = offset / MEMORY_PAGE_BYTES; page <= last; page++)
        atomic_fetch_or(&memory->bitmap[page / PAGES_PER_WORD], UINT64_C(1)
                                                                    << page % PAGES_PER_WORD);
}

void memory_mark_dirty(struct memory *memory, struct gpa gpa, uint64_t size)
{
    uint64_t offset;
    if (locate(memory, gpa, size, &offset))
        mark_offset(memory, offset, size);
}

int memory_read(const struct memory *memory, struct gpa gpa, void *out, size_t size)
{
    uint64_t offset;
    if (!locate(memory, gpa, size, &offset))
        return -EFAULT;
    memcpy(out, memory->base + offset, size);
    return 0;
}

int memory_write(struct memory *memory, struct gpa gpa, const void *data, size_t size)
{
    uint64_t offset;
    if (!locate(memory, gpa, size, &offset))
        return -EFAULT;
    memcpy(memory->base + offset, data, size);
    mark_offset(memory, offset, size);
    return 0;
}

int memory_load_u16(const struct memory *memory, struct gpa gpa, uint16_t *value)
{
    uint64_t offset;
    if (gpa.value % sizeof(*value) || !locate(memory, gpa, sizeof(*value), &offset))
        return -EFAULT;
    const _Atomic uint16_t *at = (const void *)(memory->base + offset);
    *value = le16toh(atomic_load_explicit(at, memory_order_acquire));
    return 0;
}

int memory_store_u16(struct memory *memory, struct gpa gpa, uint16_t value)
{
    uint64_t offset;
    if (gpa.value % sizeof(value) || !locate(memory, gpa, sizeof(value), &offset))
        return -EFAULT;
    _Atomic uint16_t *at = (void *)(memory->base + offset);
    atomic_store_explicit(at, htole16(value), memory_order_release);
    mark_offset(memory, offset, sizeof(value));
    return 0;
}

static bool offset_valid(const struct memory *memory, uint64_t offset, uint64_t size)
{
    return offset <= memory->size && size <= memory->size - offset;
}

int memory_load(struct memory *memory, uint64_t ram_offset, const void *data, size_t size)
{
    if (!offset_valid(memory, ram_offset, size))
        return -EFAULT;
    const uint8_t *from = data;
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(memory->fd, from + done, size - done, (off_t)(ram_offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENOMEM; /* tmpfs has no more to give */
        done += (size_t)n;
    }
    mark_offset(memory, ram_offset, size);
    return 0;
}

int memory_discard(struct memory *memory, uint64_t ram_offset, uint64_t size)
{
    if (!offset_valid(memory, ram_offset, size))
        return -EFAULT;
    if (size && fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)ram_offset,
                          (off_t)size))
        return -errno;
    mark_offset(memory, ram_offset, size);
    return 0;
}

int memory_next_data(const struct memory *memory, uint64_t *start, uint64_t *end)
{
    if (*start >= memory->size)
        return 0;
    off_t data = lseek(memory->fd, (off_t)*start, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return 0;
    off_t hole = data < 0 ? -1 : lseek(memory->fd, data, SEEK_HOLE);
    if (data < 0 || hole < 0) { /* cannot tell: all of it may be data */
        *end = memory->size;
        return 1;
    }
    *start = (uint64_t)data;
    *end = (uint64_t)hole;
    return 1;
}

int memory_track_start(struct memory *memory)
{
    size_t bytes = bitmap_bytes(memory);
    if (memory->bitmap_map) {
        /* Left over from an earlier run.  Fresh zero pages take its place in one step. */
        if (madvise(memory->bitmap_map, bytes, MADV_DONTNEED))
            return -errno;
    } else {
        void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED)
            return -errno;
        memory->bitmap_map = map;
        memory->bitmap = map;
    }
    atomic_store_explicit(&memory->tracking, true, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    return 0;
}

void memory_track_stop(struct memory *memory)
{
    atomic_store_explicit(&memory->tracking, false, memory_order_release);
}

void memory_track_collect(struct memory *memory, uint64_t first_page, uint64_t pages,
                          uint64_t *bitmap)
{
    uint64_t total = memory->size / MEMORY_PAGE_BYTES;
    if (!memory->bitmap || first_page % PAGES_PER_WORD || first_page >= total)
        return;
    if (pages > total - first_page)
        pages = total - first_page;
    _Atomic uint64_t *from = memory->bitmap + first_page / PAGES_PER_WORD;
    uint64_t words = (pages + PAGES_PER_WORD - 1) / PAGES_PER_WORD;
    for (uint64_t i = 0; i < words; i++)
        if (atomic_load_explicit(&from[i], memory_order_relaxed))
            bitmap[i] |= atomic_exchange(&from[i], 0);
}
