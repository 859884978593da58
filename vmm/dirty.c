/*
 * Dirty pages from KVM's log and from ferry's own writes, by RAM offset.
 *
 * Order, so that no write is ever lost.  Collecting: take the bits (both sources), write-protect
 * again (KVM_CLEAR_DIRTY_LOG), and only then does the caller copy the pages.  A write after the
 * protection sets its bit for the next round; one before it is in the copy.  KVM_GET_DIRTY_LOG
 * does not clear under manual protection, and KVM_CLEAR_DIRTY_LOG clears exactly the bits it is
 * given: a page first written between the two stays in the log.
 *
 * KVM_DIRTY_LOG_INITIALLY_SET is not used: it saves write-protecting everything at the start, but
 * then every page counts as dirty in the first round, which a move has sent anyway.
 */
#include "vmm/dirty.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "vmm/machine_internal.h"

#define SLOTS      2
#define WORD_PAGES 64u

struct dirty {
    struct machine *machine;
    uint64_t words;
    uint64_t *log;    /* of one slot */
    unsigned logging; /* slots 0..logging-1 have the log switched on */
};

static uint64_t pages_of(const struct memory_region *region)
{
    return region->size / MEMORY_PAGE_BYTES;
}

static uint64_t words_for(uint64_t pages)
{
    return (pages + WORD_PAGES - 1) / WORD_PAGES;
}

static int set_logging(const struct machine *machine, uint32_t slot, bool on)
{
    const struct memory_region *region = &memory_regions(machine->memory)[slot];
    uint8_t *base = memory_base(machine->memory);
    struct kvm_userspace_memory_region request = {
        .slot = slot,
        .flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = region->gpa,
        .memory_size = region->size,
        .userspace_addr = (uintptr_t)(base + region->ram_offset),
    };
    if (!region->size)
        return 0;
    return ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &request) ? -errno : 0;
}

static void dirty_cleanup(struct dirty **dirty)
{
    dirty_stop(*dirty);
}

int dirty_start(struct machine *machine, struct dirty **out, struct ferry_error *err)
{
    const struct memory_region *regions = memory_regions(machine->memory);
    struct dirty *dirty CLEANUP(dirty_cleanup) = calloc(1, sizeof(*dirty));
    uint64_t most = pages_of(&regions[0]) > pages_of(&regions[1]) ? pages_of(&regions[0])
                                                                  : pages_of(&regions[1]);
    if (!dirty)
        return ferry_fail_sys(err, -ENOMEM, "memory", "cannot track dirty pages");
    dirty->machine = machine;
    dirty->words = words_for(memory_size(machine->memory) / MEMORY_PAGE_BYTES);
    dirty->log = calloc(words_for(most), sizeof(*dirty->log));
    int rc = dirty->log ? memory_track_start(machine->memory) : -ENOMEM;
    while (!rc && dirty->logging < SLOTS) {
        rc = set_logging(machine, dirty->logging, true);
        dirty->logging += !rc;
    }
    if (rc)
        return ferry_fail_sys(err, rc, "memory", "cannot track dirty pages");
    *out = take_ptr(&dirty);
    return 0;
}

uint64_t dirty_words(const struct dirty *dirty)
{
    return dirty->words;
}

/* Clear words [first, end) of the log just fetched.  Word granularity is what the ioctl wants. */
static int clear_words(const struct dirty *dirty, uint32_t slot, uint64_t first, uint64_t end)
{
    uint64_t pages = pages_of(&memory_regions(dirty->machine->memory)[slot]);
    uint64_t count = (end - first) * WORD_PAGES;
    if (count > pages - first * WORD_PAGES)
        count = pages - first * WORD_PAGES; /* the odd end of the slot */
    struct kvm_clear_dirty_log request = {.slot = slot,
                                          .first_page = first * WORD_PAGES,
                                          .num_pages = (uint32_t)count,
                                          .dirty_bitmap = dirty->log + first};
    return ioctl(dirty->machine->vm_fd, KVM_CLEAR_DIRTY_LOG, &request) ? -errno : 0;
}

/* Fetch one slot's log into bitmap (from ram_offset on) and clear it, run of dirty words by run. */
static int collect_slot(const struct dirty *dirty, uint32_t slot, uint64_t *bitmap)
{
    const struct memory_region *region = &memory_regions(dirty->machine->memory)[slot];
    uint64_t words = words_for(pages_of(region));
    struct kvm_dirty_log request = {.slot = slot, .dirty_bitmap = dirty->log};
    int rc = 0;

    if (!region->size)
        return 0;
    if (ioctl(dirty->machine->vm_fd, KVM_GET_DIRTY_LOG, &request))
        return -errno;
    /* Region 1 starts at a multiple of 64 pages: MEMORY_LOW_END is one. */
    uint64_t *to = bitmap + region->ram_offset / MEMORY_PAGE_BYTES / WORD_PAGES;
    for (uint64_t at = 0; !rc && at < words;) {
        if (!dirty->log[at]) {
            at++;
            continue;
        }
        uint64_t first = at;
        for (; at < words && dirty->log[at]; at++)
            to[at] |= dirty->log[at];
        rc = clear_words(dirty, slot, first, at);
    }
    return rc;
}

int64_t dirty_collect(struct dirty *dirty, uint64_t *bitmap, struct ferry_error *err)
{
    struct memory *memory = dirty->machine->memory;
    int64_t count = 0;

    memset(bitmap, 0, dirty->words * sizeof(*bitmap));
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        int rc = collect_slot(dirty, slot, bitmap);
        if (rc)
            return ferry_fail_sys(err, rc, "memory", "cannot collect dirty pages");
    }
    memory_track_collect(memory, 0, memory_size(memory) / MEMORY_PAGE_BYTES, bitmap);
    for (uint64_t i = 0; i < dirty->words; i++)
        count += __builtin_popcountll(bitmap[i]);
    return count;
}

void dirty_stop(struct dirty *dirty)
{
    if (!dirty)
        return;
    memory_track_stop(dirty->machine->memory);
    while (dirty->logging)
        (void)set_logging(dirty->machine, --dirty->logging, false);
    free(dirty->log);
    free(dirty);
}
