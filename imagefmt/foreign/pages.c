/*
 * Pages of 4 KiB, each with one slot where it may be: a table that is walked, or one looked at from
 * several threads near the same place, is read once.  A page at the source's end is short.
 */
#include "imagefmt/foreign/pages.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define PAGE_BYTES (4 * KIB)
#define SLOTS      64

struct page {
    uint64_t number; /* UINT64_MAX: nothing is in it */
    uint8_t bytes[PAGE_BYTES];
};

struct pages {
    struct source *source;
    pthread_mutex_t lock;
    struct page slots[SLOTS];
};

int pages_create(struct source *source, struct pages **out, struct ferry_error *err)
{
    struct pages *pages = malloc(sizeof(*pages));

    if (!pages)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    pages->source = source;
    pthread_mutex_init(&pages->lock, NULL);
    for (size_t i = 0; i < SLOTS; i++)
        pages->slots[i].number = UINT64_MAX;
    *out = pages;
    return 0;
}

void pages_destroy(struct pages *pages)
{
    if (!pages)
        return;
    pthread_mutex_destroy(&pages->lock);
    free(pages);
}

/* The slot of a page of the source, filled; the lock is held. */
static int fill(struct pages *pages, uint64_t number, const struct page **out,
                struct ferry_error *err)
{
    struct page *page = &pages->slots[number % SLOTS];
    struct source *source = pages->source;

    *out = page;
    if (page->number == number)
        return 0;
    page->number = UINT64_MAX;
    uint64_t offset = number * PAGE_BYTES, left = source->size_bytes - offset;
    int error =
        source->pread(source, offset, page->bytes, left < PAGE_BYTES ? left : PAGE_BYTES, err);
    if (!error)
        page->number = number;
    return error;
}

int pages_read(struct pages *pages, uint64_t offset, void *data, size_t size,
               struct ferry_error *err)
{
    struct source *source = pages->source;
    uint8_t *out = data;

    if (offset > source->size_bytes || size > source->size_bytes - offset)
        return source->pread(source, offset, data, size, err); /* which says what is wrong */
    LOCK_SCOPE(&pages->lock);
    while (size) {
        const struct page *page;
        size_t within = offset % PAGE_BYTES;
        size_t part = size < PAGE_BYTES - within ? size : PAGE_BYTES - within;
        int error = fill(pages, offset / PAGE_BYTES, &page, err);
        if (error)
            return error;
        memcpy(out, page->bytes + within, part);
        out += part;
        offset += part;
        size -= part;
    }
    return 0;
}
