/*
 * XVA, reading at random.  The blocks of each disk are a sorted list, made once of all members. The
 * sum of a block is checked when it is read for the first time; finish reads those that nobody did.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/xva.h"

struct block {
    uint64_t offset; /* in the disk */
    uint64_t member;
    uint32_t bytes;
    uint8_t sum; /* enum xva_sum: of the member behind it */
    atomic_bool checked;
};

struct blocks {
    struct block *list;
    uint64_t count, room;
    struct xva_place place;
};

struct xva_random {
    struct container_index *index;
    struct blocks disks[LIMIT_DISKS];
    uint32_t next;
};

struct random_disk {
    struct disk disk;
    struct xva_reader *reader;
    const struct blocks *blocks;
};

/* ---- Blocks ---- */

static int load_block(const struct xva_reader *r, struct block *block, void *data,
                      struct ferry_error *err)
{
    const struct container_member *member = container_member(r->random->index, block->member);
    struct source *source = r->input.source;
    uint8_t text[XVA_SUM_BYTES];

    int error = source->pread(source, member->offset, data, block->bytes, err);
    if (error || block->sum == XVA_SUM_NONE || atomic_load(&block->checked))
        return error;
    const struct container_member *sum = container_member(r->random->index, block->member + 1);
    error = source->pread(source, sum->offset, text, (size_t)sum->size_bytes, err);
    if (!error)
        error = xva_check_sum(block->sum, text, (size_t)sum->size_bytes, data, block->bytes,
                              member->name, r->input.about, err);
    if (!error)
        atomic_store(&block->checked, true);
    return error;
}

/* Part of a block. */
static int read_block(const struct xva_reader *r, struct block *block, uint32_t from, void *data,
                      uint32_t size, struct ferry_error *err)
{
    const struct container_member *member = container_member(r->random->index, block->member);

    if (size == block->bytes)
        return load_block(r, block, data, err);
    if (atomic_load(&block->checked))
        return r->input.source->pread(r->input.source, member->offset + from, data, size, err);
    CLEANUP_FREE uint8_t *whole = malloc(block->bytes);
    if (!whole)
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    int error = load_block(r, block, whole, err);
    if (!error)
        memcpy(data, whole + from, size);
    return error;
}

/* The first block that ends behind offset; blocks->count: none. */
static uint64_t find_block(const struct blocks *blocks, uint64_t offset)
{
    uint64_t low = 0, high = blocks->count;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (blocks->list[middle].offset + blocks->list[middle].bytes > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* ---- A disk ---- */

static int disk_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                       struct ferry_error *err)
{
    const struct blocks *blocks = ((struct random_disk *)disk->opaque)->blocks;
    uint64_t i = find_block(blocks, offset), end = disk->size_bytes;

    (void)err;
    extent->kind = DISK_ZERO;
    if (i < blocks->count) {
        const struct block *block = &blocks->list[i];
        extent->kind = block->offset <= offset ? DISK_DATA : DISK_ZERO;
        end = extent->kind == DISK_DATA ? block->offset + block->bytes : block->offset;
    }
    extent->size_bytes = (end < disk->size_bytes ? end : disk->size_bytes) - offset;
    return 0;
}

static int disk_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                     struct ferry_error *err)
{
    const struct random_disk *d = disk->opaque;
    struct disk_extent extent;
    uint8_t *at = data;
    int error = 0;

    while (!error && size) {
        disk_extent(disk, offset, &extent, NULL);
        size_t part = extent.size_bytes < size ? (size_t)extent.size_bytes : size;
        if (extent.kind == DISK_ZERO) {
            memset(at, 0, part);
        } else {
            struct block *block = &d->blocks->list[find_block(d->blocks, offset)];
            error = read_block(d->reader, block, (uint32_t)(offset - block->offset), at,
                               (uint32_t)part, err);
        }
        at += part;
        offset += part;
        size -= part;
    }
    return error;
}

static void disk_close(struct disk *disk)
{
    free(disk->opaque);
}

static const struct disk_format random_format = {
    .name = "xva",
    .extent = disk_extent,
    .read = disk_read,
    .close = disk_close,
};

int xva_random_next_disk(struct xva_reader *r, uint32_t *index, struct ferry_error *err)
{
    struct xva_random *random = r->random;

    if (r->disk)
        r->disk->format->close(take_ptr(&r->disk));
    if (random->next == r->bundle.guest.disk_count)
        return 0;
    struct random_disk *d = calloc(1, sizeof(*d));
    if (!d)
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    *index = random->next++;
    d->reader = r;
    d->blocks = &random->disks[*index];
    d->disk = (struct disk){
        .format = &random_format,
        .size_bytes = r->bundle.guest.disks[*index].size_bytes,
        .block_bytes = XVA_BLOCK_BYTES,
        .opaque = d,
    };
    r->disk = &d->disk;
    return 1;
}

/* ---- The index ---- */

static int add_block(struct xva_reader *r, uint32_t disk, uint64_t member,
                     const struct xva_name *name, enum xva_sum sum, struct ferry_error *err)
{
    struct blocks *blocks = &r->random->disks[disk];
    uint64_t bytes = container_member(r->random->index, member)->size_bytes, offset;

    blocks->place.size_bytes = r->bundle.guest.disks[disk].size_bytes;
    int error = xva_place_next(&blocks->place, name, bytes, &offset, r->input.about, err);
    if (error || !bytes)
        return error;
    if (blocks->count == blocks->room) {
        uint64_t room = blocks->room ? blocks->room * 2 : 64;
        struct block *list = reallocarray(blocks->list, room, sizeof(*list));
        if (!list)
            return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
        blocks->list = list;
        blocks->room = room;
    }
    struct block *block = &blocks->list[blocks->count++];
    block->offset = offset;
    block->member = member;
    block->bytes = (uint32_t)bytes;
    block->sum = (uint8_t)sum;
    atomic_init(&block->checked, sum == XVA_SUM_NONE);
    return 0;
}

/* The kind of the sum that member is of block; XVA_SUM_NONE: it is not. */
static int find_sum(const struct xva_reader *r, uint64_t member, const struct xva_name *block,
                    enum xva_sum *sum, struct ferry_error *err)
{
    struct xva_name name;

    *sum = XVA_SUM_NONE;
    if (member == container_members(r->random->index))
        return 0;
    const struct container_member *m = container_member(r->random->index, member);
    if (!xva_parse_name(m->name, &name) || !xva_is_sum_of(&name, block))
        return 0;
    *sum = name.sum;
    return m->size_bytes <= XVA_SUM_BYTES
               ? 0
               : ferry_refuse(err, -EFBIG, r->input.about, "'%.100s' is no sum", m->name);
}

/* Member i, and the sum behind it, which *i is moved over. */
static int take_member(struct xva_reader *r, uint64_t *i, struct ferry_error *err)
{
    uint64_t member = (*i)++;
    const char *text = container_member(r->random->index, member)->name;
    struct xva_name name;
    enum xva_sum sum;

    if (!strcmp(text, XVA_DESCRIPTION))
        return 0;
    if (!xva_parse_name(text, &name)) {
        notes_add(&r->notes, "'%s' is not kept", text);
        return 0;
    }
    uint32_t disk = xva_disk_of(r, name.ref);
    if (disk == LIMIT_DISKS) {
        xva_note_ref(r, name.ref);
        return 0;
    }
    if (name.is_sum)
        return ferry_refuse(err, -EBADMSG, r->input.about, "has '%.100s' not behind its block",
                            text);
    int error = find_sum(r, *i, &name, &sum, err);
    *i += sum != XVA_SUM_NONE;
    if (!error && sum == XVA_SUM_NONE)
        xva_note_sum(r);
    return error ? error : add_block(r, disk, member, &name, sum, err);
}

static int load_description(struct xva_reader *r, struct ferry_error *err)
{
    const struct container_member *member = container_find(r->random->index, XVA_DESCRIPTION);
    CLEANUP_FREE uint8_t *text = NULL;
    size_t size;

    if (!member)
        return ferry_refuse(err, -ENOENT, r->input.about, "has no " XVA_DESCRIPTION);
    int error =
        container_load(r->random->index, member, LIMIT_DESCRIPTION_BYTES, &text, &size, err);
    return error ? error
                 : xva_parse((const char *)text, size, r->input.about, &r->bundle.guest, &r->refs,
                             &r->notes, err);
}

int xva_random_open(struct xva_reader *r, struct ferry_error *err)
{
    if (!(r->random = calloc(1, sizeof(*r->random))))
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    int error = container_index_tar(r->input.source, LIMIT_XVA_MEMBERS, &r->random->index, err);
    if (!error)
        error = load_description(r, err);
    for (uint64_t i = 0; !error && i < container_members(r->random->index);)
        error = take_member(r, &i, err);
    for (uint32_t i = 0; !error && i < r->bundle.guest.disk_count; i++) {
        r->random->disks[i].place.size_bytes = r->bundle.guest.disks[i].size_bytes;
        error = xva_place_end(&r->random->disks[i].place, r->refs.disks[i], r->input.about, err);
    }
    return error;
}

int xva_random_finish(struct xva_reader *r, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *data = malloc(LIMIT_XVA_BLOCK_BYTES);
    int error = data ? 0 : ferry_fail(err, -ENOMEM, r->input.about, "out of memory");

    for (uint32_t i = 0; i < r->bundle.guest.disk_count; i++) {
        struct blocks *blocks = &r->random->disks[i];
        for (uint64_t b = 0; !error && b < blocks->count; b++)
            if (!atomic_load(&blocks->list[b].checked))
                error = load_block(r, &blocks->list[b], data, err);
    }
    return error;
}

void xva_random_close(struct xva_random *random)
{
    if (!random)
        return;
    for (uint32_t i = 0; i < LIMIT_DISKS; i++)
        free(random->disks[i].list);
    container_index_close(random->index);
    free(random);
}
