/*
 * Comparing by identity.  A cursor gives the nodes of one section at the level of the larger chunk
 * size, made of several chunks where its own are smaller; two cursors are merged like sorted lists.
 */
#include "imagefmt/diff.h"

#include <string.h>

#include "imagefmt/content.h"

struct cursor {
    struct image *image;
    uint32_t section;
    unsigned level, own_level; /* of the nodes; of its chunks */
    struct image_chunk next;   /* the next chunk that no node has */
    int more;                  /* whether there is one */
    uint64_t index;            /* the node at hand; UINT64_MAX: the end */
    uint8_t node[SHA256_BYTES];
};

static int advance(struct cursor *c, struct ferry_error *err)
{
    unsigned shift = c->level - c->own_level;
    struct content_tree tree = {0};

    c->index = c->more > 0 ? c->next.index >> shift : UINT64_MAX;
    while (c->more > 0 && c->next.index >> shift == c->index) {
        uint64_t within = c->next.index - (c->index << shift);
        content_add(&tree, within, c->own_level, c->next.digest);
        c->more = image_next_chunk(c->image, c->section, c->next.index + 1, &c->next, err);
    }
    content_top(&tree, c->level, c->node);
    return c->more < 0 ? c->more : 0;
}

static int start(struct cursor *c, struct image *image, uint32_t section, uint32_t chunk_bytes,
                 struct ferry_error *err)
{
    *c = (struct cursor){.image = image,
                         .section = section,
                         .level = content_level(chunk_bytes),
                         .own_level = content_level(image_section(image, section)->chunk_bytes)};
    int error = image_check_pages(image, section, err);
    if (error)
        return error;
    c->more = image_next_chunk(image, section, 0, &c->next, err);
    return c->more < 0 ? c->more : advance(c, err);
}

/* The run of differing nodes that is growing. */
struct run {
    uint64_t start, end, limit; /* in bytes; start == end: none; limit: the longer section's size */
    int (*range)(void *opaque, uint64_t offset, uint64_t size, struct ferry_error *err);
    void *opaque;
};

static int flush(struct run *run, struct ferry_error *err)
{
    uint64_t end = run->end < run->limit ? run->end : run->limit;

    return end > run->start ? run->range(run->opaque, run->start, end - run->start, err) : 0;
}

static int differs(struct run *run, uint64_t offset, uint64_t size, struct ferry_error *err)
{
    int error = run->end == offset ? 0 : flush(run, err);

    if (run->end != offset || run->start == run->end)
        run->start = offset;
    run->end = offset + size;
    return error;
}

int image_diff(struct image *a, uint32_t section_a, struct image *b, uint32_t section_b,
               int (*range)(void *opaque, uint64_t offset, uint64_t size, struct ferry_error *err),
               void *opaque, struct ferry_error *err)
{
    const struct image_section *one = image_section(a, section_a);
    const struct image_section *other = image_section(b, section_b);
    uint32_t chunk = one->chunk_bytes > other->chunk_bytes ? one->chunk_bytes : other->chunk_bytes;
    uint64_t limit = one->size > other->size ? one->size : other->size;
    struct run run = {.limit = limit, .range = range, .opaque = opaque};
    struct cursor left, right;

    if (one->kind == IMAGE_STATE || other->kind == IMAGE_STATE)
        return ferry_usage(err, one->name, "state has no chunks to compare");
    int error = start(&left, a, section_a, chunk, err);
    if (!error)
        error = start(&right, b, section_b, chunk, err);
    while (!error && (left.index != UINT64_MAX || right.index != UINT64_MAX)) {
        uint64_t index = left.index < right.index ? left.index : right.index;
        bool both = left.index == right.index;
        if (!both || memcmp(left.node, right.node, SHA256_BYTES))
            error = differs(&run, index * chunk, chunk, err);
        bool step_left = left.index == index, step_right = right.index == index;
        if (!error && step_left)
            error = advance(&left, err);
        if (!error && step_right)
            error = advance(&right, err);
    }
    return error ? error : flush(&run, err);
}
