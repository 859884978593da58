/*
 * Content at random: a chunk's record and stored bytes come in one read, are compared with what its
 * page says, and go through the same decoder as in a sequential read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "common/cleanup.h"
#include "imagefmt/access.h"
#include "imagefmt/chunk.h"

/* Both parts whole, from two buffers. */
static int read_two(const struct image *image, uint64_t offset, uint8_t *head, size_t head_bytes,
                    uint8_t *rest, size_t rest_bytes, struct ferry_error *err)
{
    size_t done = 0, all = head_bytes + rest_bytes;

    while (done < all) {
        size_t in_head = done < head_bytes ? head_bytes - done : 0;
        size_t in_rest = done > head_bytes ? done - head_bytes : 0;
        struct iovec iov[] = {{head + done, in_head}, {rest + in_rest, rest_bytes - in_rest}};
        ssize_t got = in_head ? preadv(image->fd, iov, 2, (off_t)(offset + done))
                              : preadv(image->fd, iov + 1, 1, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ferry_fail_sys(err, -errno, image->about, "cannot read the image");
        if (!got)
            return ferry_refuse(err, -EBADMSG, image->about, "has become shorter");
        done += (size_t)got;
    }
    return 0;
}

/*
 * The head of a chunk must be the one that its page speaks of, or that of an equal chunk which lies
 * elsewhere in the image; its sum goes to the slot.
 */
static const char *check_head(const struct image_chunk *chunk, uint8_t *record,
                              struct decode_slot *slot)
{
    const struct image *image = chunk->image;
    struct chunk_head head;

    const char *wrong = chunk_record_read(record, chunk->offset, image->seal, &head);
    if (wrong)
        return wrong;
    bool other = head.section != chunk->section || head.index != chunk->index;
    if ((other && !chunk->same) || head.stored_bytes != chunk->stored_bytes ||
        memcmp(head.digest, chunk->digest, SHA256_BYTES))
        return "the index speaks of another chunk";
    if (head.codec != CODEC_ZSTD)
        return "its codec is unknown";
    if (head.content_bytes != slot->content_bytes)
        return "its content has an impossible size";
    slot->sum = head.sum;
    slot->key = image->seal ? &image->seal->key : NULL;
    slot->seal_section = head.section;
    slot->seal_index = head.index;
    slot->seal_offset = chunk->offset + chunk_record_bytes(image->seal);
    memcpy(slot->digest, head.digest, SHA256_BYTES);
    return NULL;
}

int image_fetch(const struct image_chunk *chunk, struct decode_slot *slot, struct ferry_error *err)
{
    const struct image *image = chunk->image;
    const struct image_section *section = &image->table.entries[chunk->section].section;
    uint8_t head[CHUNK_RECORD_MOST_BYTES];

    slot->index = chunk->index;
    slot->image = image;
    slot->section = chunk->section;
    slot->content_bytes = section_chunk_bytes(section, chunk->index);
    slot->stored_bytes = chunk->stored_bytes;
    int error = read_two(image, chunk->offset, head, chunk_record_bytes(image->seal), slot->stored,
                         chunk_stored_bytes(image->seal, slot->stored_bytes), err);
    if (error)
        return error;
    const char *wrong = check_head(chunk, head, slot);
    return wrong ? image_refuse_chunk(image, section, chunk->index, wrong, err) : 0;
}

static bool keys_equal(const struct chunk_key *one, const struct chunk_key *other)
{
    return one->image == other->image && one->offset == other->offset &&
           one->chunk_bytes == other->chunk_bytes && one->content_bytes == other->content_bytes &&
           !memcmp(one->digest, other->digest, SHA256_BYTES);
}

static int make_room(struct image *image, struct cached_chunk *cached, uint32_t chunk_bytes,
                     struct ferry_error *err)
{
    if (cached->room < chunk_bytes) {
        free(take_ptr(&cached->content));
        cached->room = 0;
        if (!(cached->content = malloc(chunk_bytes)))
            return image_no_memory(image, err);
        cached->room = chunk_bytes;
    }
    return decode_prepare(&image->slot, chunk_bytes) ? image_no_memory(image, err) : 0;
}

/* Decode into the cache entry, whose buffer the slot borrows meanwhile. */
static int fill_cache(struct image *image, const struct image_chunk *chunk,
                      const struct chunk_key *key, struct cached_chunk *cached,
                      struct ferry_error *err)
{
    const struct image_section *section = &chunk->image->table.entries[chunk->section].section;
    struct decode_slot *slot = &image->slot;

    cached->used = 0;
    int error = make_room(image, cached, key->chunk_bytes, err);
    if (!error)
        error = image_fetch(chunk, slot, err);
    if (error)
        return error;
    uint8_t *own = slot->content;
    slot->content = cached->content;
    const char *damage = decode_now(slot);
    slot->content = own;
    if (damage)
        return image_refuse_chunk(chunk->image, section, chunk->index, damage, err);
    /* Of the section's last chunk the image below may have more, or less. */
    memset(cached->content + slot->content_bytes, 0, key->chunk_bytes - slot->content_bytes);
    cached->key = *key;
    cached->used = ++image->clock;
    return 0;
}

/* The content of a chunk, with zeroes behind up to the chunk size.  One cache serves the whole
 * chain of images, so that its memory does not grow with the chain. */
static int cached_content(struct image *image, const struct image_chunk *chunk,
                          const uint8_t **content, struct ferry_error *err)
{
    const struct image_section *section = &chunk->image->table.entries[chunk->section].section;
    struct cached_chunk *oldest = &image->chunks[0];
    struct chunk_key key = {.image = chunk->image,
                            .offset = chunk->offset,
                            .chunk_bytes = section->chunk_bytes,
                            .content_bytes = section_chunk_bytes(section, chunk->index)};

    memcpy(key.digest, chunk->digest, SHA256_BYTES);
    for (unsigned i = 0; i < CHUNK_CACHE; i++) {
        struct cached_chunk *cached = &image->chunks[i];
        if (cached->used && keys_equal(&cached->key, &key)) {
            cached->used = ++image->clock;
            *content = cached->content;
            return 0;
        }
        if (cached->used < oldest->used)
            oldest = cached;
    }
    int error = fill_cache(image, chunk, &key, oldest, err);
    *content = oldest->content;
    return error;
}

int image_pread(struct image *image, uint32_t number, uint64_t offset, void *data, size_t size,
                struct ferry_error *err)
{
    const struct image_section *section = &image->table.entries[number].section;
    const uint8_t *content = NULL;
    uint8_t *to = data;

    if (section->kind == IMAGE_STATE || offset > section->size || size > section->size - offset)
        return ferry_usage(err, image->about, "section %s has no such bytes", section->name);
    while (size) {
        uint64_t index = offset / section->chunk_bytes, within = offset % section->chunk_bytes;
        size_t part = section->chunk_bytes - within < size ? section->chunk_bytes - within : size;
        struct image_chunk chunk;
        int found = image_chunk_within(image, number, index, index + 1, &chunk, err);
        int error = found > 0 ? cached_content(image, &chunk, &content, err) : found;
        if (error)
            return error;
        if (found)
            memcpy(to, content + within, part);
        else
            memset(to, 0, part);
        to += part;
        offset += part;
        size -= part;
    }
    return 0;
}

struct walk {
    struct image *image;
    const struct image_section *section;
    struct decode decode;
    int (*place)(void *opaque, uint64_t offset, const uint8_t *data, size_t size);
    int (*chunk)(void *opaque, const struct image_section *section, uint64_t offset,
                 const uint8_t *data, size_t size, struct ferry_error *err);
    void *opaque;
};

static size_t room_of(const struct walk *w, const struct decode_slot *slot)
{
    uint32_t room = section_chunk_bytes(w->section, slot->index);

    return slot->content_bytes < room ? slot->content_bytes : room;
}

/* On a worker. */
static int walk_place(void *opaque, const struct decode_slot *slot)
{
    const struct walk *w = opaque;

    return w->place(w->opaque, slot->index * w->section->chunk_bytes, slot->content,
                    room_of(w, slot));
}

static int walk_deliver(struct walk *w, struct ferry_error *err)
{
    const struct decode_slot *slot = decode_wait(&w->decode);

    if (slot->damage)
        return image_refuse_chunk(slot->image, &slot->image->table.entries[slot->section].section,
                                  slot->index, slot->damage, err);
    if (slot->place_error)
        return ferry_fail_sys(err, slot->place_error, NULL, "cannot write what was extracted");
    return w->chunk(w->opaque, w->section, slot->index * w->section->chunk_bytes, slot->content,
                    room_of(w, slot), err);
}

static int walk_submit(struct walk *w, const struct image_chunk *chunk, struct ferry_error *err)
{
    struct decode_slot *slot;

    int error = decode_full(&w->decode) ? walk_deliver(w, err) : 0;
    if (!error && decode_slot(&w->decode, &slot))
        error = image_no_memory(w->image, err);
    if (!error)
        error = image_fetch(chunk, slot, err);
    if (error)
        return error;
    slot->place = w->place ? walk_place : NULL;
    slot->opaque = w;
    decode_submit(&w->decode, slot);
    return 0;
}

static void walk_close(struct walk *w)
{
    decode_close(&w->decode);
}

static int walk_run(struct walk *w, uint32_t number, unsigned workers, uint64_t first, uint64_t end,
                    struct ferry_error *err)
{
    struct image_chunk next = {0};
    int found = 1;

    w->section = &w->image->table.entries[number].section;
    if (w->section->kind == IMAGE_STATE)
        return ferry_usage(err, w->image->about, "section %s has no chunks", w->section->name);
    int error = decode_open(&w->decode, workers, err);
    if (error)
        return error;
    decode_begin(&w->decode, w->section->chunk_bytes);
    for (uint64_t index = first; !error && found > 0; index = next.index + 1) {
        found = image_chunk_within(w->image, number, index, end, &next, err);
        error = found < 0 ? found : found ? walk_submit(w, &next, err) : 0;
    }
    while (!error && w->decode.busy)
        error = walk_deliver(w, err);
    return error;
}

int image_walk_range(struct image *image, uint32_t number, unsigned workers, uint64_t first,
                     uint64_t end,
                     int (*chunk)(void *opaque, const struct image_section *section,
                                  uint64_t offset, const uint8_t *data, size_t size,
                                  struct ferry_error *err),
                     void *opaque, struct ferry_error *err)
{
    CLEANUP(walk_close) struct walk w = {.image = image, .chunk = chunk, .opaque = opaque};

    return walk_run(&w, number, workers, first, end, err);
}

int image_walk_placed(struct image *image, uint32_t number, unsigned workers,
                      int (*place)(void *opaque, uint64_t offset, const uint8_t *data, size_t size),
                      int (*chunk)(void *opaque, const struct image_section *section,
                                   uint64_t offset, const uint8_t *data, size_t size,
                                   struct ferry_error *err),
                      void *opaque, struct ferry_error *err)
{
    CLEANUP(walk_close)
    struct walk w = {.image = image, .place = place, .chunk = chunk, .opaque = opaque};

    return walk_run(&w, number, workers, 0, UINT64_MAX, err);
}

int image_walk(struct image *image, uint32_t number, unsigned workers,
               int (*chunk)(void *opaque, const struct image_section *section, uint64_t offset,
                            const uint8_t *data, size_t size, struct ferry_error *err),
               void *opaque, struct ferry_error *err)
{
    return image_walk_range(image, number, workers, 0, UINT64_MAX, chunk, opaque, err);
}
