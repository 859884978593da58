/*
 * A disk of an image that comes in order.  A thread reads the image; of the one section that is
 * wanted it puts the chunks, which come ascending, decoded and checked, into a ring, and the reader
 * of the disk takes them out.  Behind the section it reads on, for the sums of the whole image.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/image_section.h"

#define RING_CHUNKS 16 /* of at most 4 MiB: LIMIT_IN_FLIGHT_BYTES */

struct ring_chunk {
    uint64_t offset; /* in the disk */
    size_t size;
    uint8_t *content;
};

enum section_phase {
    SECTION_AHEAD,
    SECTION_OPEN,
    SECTION_OVER,
};

struct image_stream {
    struct disk disk;
    int fd;
    const char *about, *name;
    const struct image_environment *env;
    uint8_t *head;
    size_t head_bytes;
    pthread_t thread;
    bool running;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum section_phase section;
    bool ours;   /* the section that is being read is ours; the thread's own */
    bool closed; /* nobody waits for more */
    bool finished;
    int result; /* of the thread, when finished */
    struct ferry_error err;
    struct ring_chunk ring[RING_CHUNKS];
    unsigned oldest, busy;
};

/* ---- The thread ---- */

/* Holds the lock. */
static int open_section(struct image_stream *s, const struct image_section *section,
                        struct ferry_error *err)
{
    for (unsigned i = 0; i < RING_CHUNKS; i++)
        if (!(s->ring[i].content = malloc(section->chunk_bytes)))
            return ferry_fail(err, -ENOMEM, s->about, "out of memory");
    s->disk.size_bytes = section->size;
    s->disk.block_bytes = section->chunk_bytes;
    s->section = SECTION_OPEN;
    s->ours = true;
    pthread_cond_broadcast(&s->changed);
    return 0;
}

static int begin(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct image_stream *s = opaque;
    LOCK_SCOPE(&s->lock);

    if (s->closed)
        return ferry_fail(err, -ECANCELED, s->about, "cancelled");
    if (section->kind != IMAGE_DISK || (s->name && strcmp(section->name, s->name) != 0))
        return 0;
    if (s->section != SECTION_AHEAD)
        return ferry_usage(err, s->about, "has several disks; say which one with --disk");
    return open_section(s, section, err);
}

static int take_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                      const uint8_t *data, size_t size, struct ferry_error *err)
{
    struct image_stream *s = opaque;
    LOCK_SCOPE(&s->lock);

    (void)section;
    while (s->ours && s->busy == RING_CHUNKS && !s->closed)
        pthread_cond_wait(&s->changed, &s->lock);
    if (s->closed)
        return ferry_fail(err, -ECANCELED, s->about, "cancelled");
    if (!s->ours)
        return 0;
    struct ring_chunk *chunk = &s->ring[(s->oldest + s->busy) % RING_CHUNKS];
    memcpy(chunk->content, data, size);
    chunk->offset = offset;
    chunk->size = size;
    s->busy++;
    pthread_cond_broadcast(&s->changed);
    return 0;
}

static int end(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct image_stream *s = opaque;
    LOCK_SCOPE(&s->lock);

    (void)section;
    (void)err;
    if (s->ours)
        s->section = SECTION_OVER;
    s->ours = false;
    pthread_cond_broadcast(&s->changed);
    return 0;
}

static void *read_image(void *opaque)
{
    static const struct image_visitor visitor = {.begin = begin, .chunk = take_chunk, .end = end};
    struct image_stream *s = opaque;
    struct ferry_error err = {0};

    int error = image_read_behind(s->head, s->head_bytes, s->fd, s->about, s->env, 0, &visitor, s,
                                  NULL, &err);
    LOCK_SCOPE(&s->lock);
    s->finished = true;
    s->result = error;
    s->err = err;
    pthread_cond_broadcast(&s->changed);
    return NULL;
}

/* ---- The reader of the disk ---- */

static int result(const struct image_stream *s, struct ferry_error *err)
{
    if (s->result && err)
        *err = s->err;
    return s->result;
}

/* The oldest chunk that ends behind offset; those before are dropped.  1, 0 if there is none, or a
 * negative errno.  It is the caller's until the next call: the thread touches only free ones. */
static int front_from(struct image_stream *s, uint64_t offset, struct ring_chunk **out,
                      struct ferry_error *err)
{
    LOCK_SCOPE(&s->lock);

    for (;;) {
        *out = &s->ring[s->oldest];
        if (s->busy && (*out)->offset + (*out)->size > offset)
            return 1;
        if (s->busy) {
            s->oldest = (s->oldest + 1) % RING_CHUNKS;
            s->busy--;
            pthread_cond_broadcast(&s->changed);
        } else if (s->section == SECTION_OVER) {
            return 0;
        } else if (s->finished) {
            return result(s, err);
        } else {
            pthread_cond_wait(&s->changed, &s->lock);
        }
    }
}

static int section_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                          struct ferry_error *err)
{
    struct image_stream *s = disk->opaque;
    struct ring_chunk *chunk;

    int found = front_from(s, offset, &chunk, err);
    if (found < 0)
        return found;
    extent->kind = found && chunk->offset <= offset ? DISK_DATA : DISK_ZERO;
    uint64_t until = !found                      ? disk->size_bytes
                     : extent->kind == DISK_ZERO ? chunk->offset
                                                 : chunk->offset + chunk->size;
    extent->size_bytes = until - offset;
    return 0;
}

static int section_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                        struct ferry_error *err)
{
    struct image_stream *s = disk->opaque;
    uint8_t *to = data;

    while (size) {
        struct ring_chunk *chunk;
        int found = front_from(s, offset, &chunk, err);
        if (found < 0)
            return found;
        bool here = found && chunk->offset <= offset;
        uint64_t left = here    ? chunk->offset + chunk->size - offset
                        : found ? chunk->offset - offset
                                : size;
        size_t part = size < left ? size : (size_t)left;
        if (here)
            memcpy(to, chunk->content + (offset - chunk->offset), part);
        else
            memset(to, 0, part);
        to += part;
        offset += part;
        size -= part;
    }
    return 0;
}

/* What is left of the section, and of the image. */
static int section_drain(struct disk *disk, struct ferry_error *err)
{
    struct image_stream *s = disk->opaque;
    struct ring_chunk *chunk;

    int error = front_from(s, disk->size_bytes, &chunk, err);
    if (error)
        return error;
    LOCK_SCOPE(&s->lock);
    while (!s->finished)
        pthread_cond_wait(&s->changed, &s->lock);
    return result(s, err);
}

static void section_close(struct disk *disk)
{
    struct image_stream *s = disk->opaque;

    if (s->running) {
        pthread_mutex_lock(&s->lock);
        s->closed = true;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    for (unsigned i = 0; i < RING_CHUNKS; i++)
        free(s->ring[i].content);
    free(s->head);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void cleanup_image_stream(struct image_stream **s)
{
    if (*s)
        section_close(&(*s)->disk);
}

static const struct disk_format format_ferry_stream = {
    .name = "ferry",
    .extension = ".ferry",
    .extent = section_extent,
    .read = section_read,
    .drain = section_drain,
    .close = section_close,
};

/* ---- Opening ---- */

static int wait_for_section(struct image_stream *s, struct ferry_error *err)
{
    LOCK_SCOPE(&s->lock);
    while (s->section == SECTION_AHEAD && !s->finished)
        pthread_cond_wait(&s->changed, &s->lock);
    if (s->section != SECTION_AHEAD)
        return 0;
    if (s->result)
        return result(s, err);
    return s->name ? ferry_usage(err, s->about, "has no disk '%.64s'", s->name)
                   : ferry_usage(err, s->about, "has no disk");
}

int disk_of_image_stream(const void *head, size_t head_bytes, int fd, const char *about,
                         const struct image_environment *env, const char *name, struct disk **out,
                         struct ferry_error *err)
{
    CLEANUP(cleanup_image_stream) struct image_stream *s = calloc(1, sizeof(*s));

    if (!s)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    s->disk = (struct disk){.format = &format_ferry_stream, .in_order = true, .opaque = s};
    s->fd = fd;
    s->about = about;
    s->env = env;
    s->name = name;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    if (!(s->head = malloc(head_bytes + 1)))
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    if (head_bytes)
        memcpy(s->head, head, head_bytes);
    s->head_bytes = head_bytes;
    int error = pthread_create(&s->thread, NULL, read_image, s);
    if (error)
        return ferry_fail_sys(err, -error, about, "cannot start a thread");
    s->running = true;
    error = wait_for_section(s, err);
    if (error)
        return error;
    *out = &take_ptr(&s)->disk;
    return 0;
}
