/* RAM in frames: gathering pages into PAGES on the source, installing them on the destination. */
#ifndef FERRY_MIGRATE_PAGES_H
#define FERRY_MIGRATE_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "transport/frame.h"
#include "vmm/memory.h"

#define PAGES_CONTENT_BYTES (256u << 10) /* of one frame: what stays in a core's cache */

struct page_counts {
    uint64_t raw_bytes;  /* sent as content */
    uint64_t zero_bytes; /* not sent, or sent as a mark */
};

struct page_batch;

/* content_bytes: of one frame, a multiple of the page, at most PAGES_CONTENT_BYTES. */
int page_batch_create(struct channel *channel, const struct memory *memory, size_t content_bytes,
                      struct page_batch **out, struct ferry_error *err);
void page_batch_destroy(struct page_batch *batch); /* NULL is fine */
/*
 * Add RAM [offset, +size), whole pages, ascending within a round.  Each page is copied once, and
 * only the copy is looked at: the guest may be running.  Zero pages are left out if fresh (the
 * destination has never had anything there), else marked.  Full frames are sent.
 */
int page_batch_add(struct page_batch *batch, uint64_t offset, uint64_t size, bool fresh,
                   struct page_counts *counts, struct ferry_error *err);
int page_batch_flush(struct page_batch *batch, struct ferry_error *err);

/* Put the content of a PAGES frame into RAM.  *bytes: RAM covered.  -EBADMSG: not well formed. */
int pages_install(struct memory *memory, const struct frame *frame, uint64_t *bytes,
                  struct ferry_error *err);

#endif
