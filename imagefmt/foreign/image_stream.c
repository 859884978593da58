/*
 * The thread puts the chunks of the disk at hand, which come ascending, decoded and checked, into a
 * ring, and the reader of the disk takes them out.  At the start of the next disk the thread waits
 * until it is asked for; behind the last one it reads on, for the sums of the whole image.
 */
#include "imagefmt/foreign/image_stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
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
    struct disk disk; /* the one at hand */
    char name[LIMIT_NAME_BYTES + 1];
    int fd;
    const char *about;
    const struct image_environment *env;
    struct image_stream_options options;
    uint8_t *head;
    pthread_t thread;
    bool running;
    bool given; /* a disk was handed out; the reader's own */
    bool owned; /* closing the disk closes the stream */
    char *manifest;
    size_t manifest_size;
    int file_fds[GUEST_FILE_KINDS];
    int file_fd; /* of the section that is being read, the thread's own; -1: it is none */
    bool ours;   /* that section is the disk at hand; the thread's own */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum section_phase section;
    unsigned disks; /* that were wanted and have begun */
    bool at_disk;   /* the first of them is there */
    bool asked;     /* for the next disk */
    bool no_more;   /* other disks are not wanted */
    bool closed;    /* nobody waits for more */
    bool finished;
    int result; /* of the thread, when finished */
    struct ferry_error err;
    struct ring_chunk ring[RING_CHUNKS];
    unsigned oldest, busy;
};

/* ---- The thread ---- */

static int keep_manifest(void *opaque, const char *json, size_t size, struct ferry_error *err)
{
    struct image_stream *s = opaque;

    s->manifest = malloc(size + 1);
    if (!s->manifest)
        return ferry_fail(err, -ENOMEM, s->about, "out of memory");
    memcpy(s->manifest, json, size);
    s->manifest[size] = 0;
    s->manifest_size = size;
    return 0;
}

/* Holds the lock. */
static int open_disk(struct image_stream *s, const struct image_section *section,
                     struct ferry_error *err)
{
    for (unsigned i = 0; i < RING_CHUNKS; i++) {
        free(s->ring[i].content);
        if (!(s->ring[i].content = malloc(section->chunk_bytes)))
            return ferry_fail(err, -ENOMEM, s->about, "out of memory");
    }
    s->disk.size_bytes = section->size;
    s->disk.block_bytes = section->chunk_bytes;
    memcpy(s->name, section->name, sizeof(s->name));
    s->section = SECTION_OPEN;
    s->ours = true;
    s->asked = false;
    s->disks++;
    pthread_cond_broadcast(&s->changed);
    return 0;
}

/* Holds the lock. */
static int begin_disk(struct image_stream *s, const struct image_section *section,
                      struct ferry_error *err)
{
    if (s->options.name && strcmp(section->name, s->options.name) != 0)
        return 0;
    if (s->disks && s->options.one)
        return ferry_usage(err, s->about, "has several disks; say which one with --disk");
    s->at_disk = true;
    pthread_cond_broadcast(&s->changed);
    while (!s->asked && !s->no_more && !s->closed)
        pthread_cond_wait(&s->changed, &s->lock);
    return s->no_more || s->closed ? 0 : open_disk(s, section, err);
}

static int begin_file(struct image_stream *s, const struct image_section *section,
                      struct ferry_error *err)
{
    enum guest_file_kind kind = 0;

    while (kind < GUEST_FILE_KINDS && strcmp(section->name, guest_file_name(kind)))
        kind++;
    if (kind == GUEST_FILE_KINDS || s->options.name || s->options.one)
        return 0;
    if (s->disks)
        return ferry_refuse(err, -EOPNOTSUPP, s->about,
                            "its %s comes behind its disks: write the image to a file first",
                            section->name);
    s->file_fd = memfd_create(section->name, MFD_CLOEXEC);
    if (s->file_fd < 0 || ftruncate(s->file_fd, (off_t)section->size))
        return ferry_fail_sys(err, -errno, section->name, "cannot be put into memory");
    s->file_fds[kind] = s->file_fd;
    return 0;
}

static int begin(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct image_stream *s = opaque;
    LOCK_SCOPE(&s->lock);

    s->file_fd = -1;
    if (s->closed)
        return ferry_fail(err, -ECANCELED, s->about, "cancelled");
    if (section->kind == IMAGE_FILE)
        return begin_file(s, section, err);
    return section->kind == IMAGE_DISK ? begin_disk(s, section, err) : 0;
}

static int take_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                      const uint8_t *data, size_t size, struct ferry_error *err)
{
    struct image_stream *s = opaque;

    if (s->file_fd >= 0) {
        int error = pwrite_all(s->file_fd, data, size, offset);
        return error ? ferry_fail_sys(err, error, section->name, "cannot be put into memory") : 0;
    }
    LOCK_SCOPE(&s->lock);
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
    static const struct image_visitor visitor = {
        .manifest = keep_manifest, .begin = begin, .chunk = take_chunk, .end = end};
    struct image_stream *s = opaque;
    struct ferry_error err = {0};

    int error = image_read_behind(s->head, s->options.head_bytes, s->fd, s->about, s->env, 0,
                                  &visitor, s, NULL, &err);
    LOCK_SCOPE(&s->lock);
    s->finished = true;
    s->result = error;
    s->err = err;
    pthread_cond_broadcast(&s->changed);
    return NULL;
}

/* ---- The reader of a disk ---- */

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

/* What is left of the section; of the image, if this is the only disk that is wanted. */
static int section_drain(struct disk *disk, struct ferry_error *err)
{
    struct image_stream *s = disk->opaque;
    struct ring_chunk *chunk;

    int error = front_from(s, disk->size_bytes, &chunk, err);
    return error || !s->owned ? error : image_stream_finish(s, err);
}

static void section_close(struct disk *disk)
{
    struct image_stream *s = disk->opaque;

    if (s->owned)
        image_stream_close(s);
}

static const struct disk_format format_ferry_stream = {
    .name = "ferry",
    .extension = ".ferry",
    .extent = section_extent,
    .read = section_read,
    .drain = section_drain,
    .close = section_close,
};

/* ---- The stream ---- */

const char *image_stream_manifest(const struct image_stream *s, size_t *size)
{
    *size = s->manifest_size;
    return s->manifest;
}

int image_stream_file(const struct image_stream *s, enum guest_file_kind kind)
{
    return s->file_fds[kind];
}

/* Until a disk has begun, or there will be none: 1, 0 or a negative errno.  Holds the lock. */
static int wait_for_disk(struct image_stream *s, struct ferry_error *err)
{
    while (s->section != SECTION_OPEN && !s->finished && s->section != SECTION_OVER)
        pthread_cond_wait(&s->changed, &s->lock);
    return s->section == SECTION_AHEAD ? result(s, err) : 1;
}

int image_stream_next(struct image_stream *s, const char **name, struct disk **disk,
                      struct ferry_error *err)
{
    struct ring_chunk *chunk;

    if (s->given) {
        int error = front_from(s, s->disk.size_bytes, &chunk, err);
        if (error)
            return error;
    }
    LOCK_SCOPE(&s->lock);
    s->section = SECTION_AHEAD;
    s->asked = true;
    pthread_cond_broadcast(&s->changed);
    int found = wait_for_disk(s, err);
    s->given = true;
    *name = found > 0 ? s->name : NULL;
    *disk = found > 0 ? &s->disk : NULL;
    return found;
}

int image_stream_finish(struct image_stream *s, struct ferry_error *err)
{
    LOCK_SCOPE(&s->lock);

    s->no_more = true;
    pthread_cond_broadcast(&s->changed);
    while (!s->finished)
        pthread_cond_wait(&s->changed, &s->lock);
    return result(s, err);
}

void image_stream_close(struct image_stream *s)
{
    if (!s)
        return;
    if (s->running) {
        pthread_mutex_lock(&s->lock);
        s->closed = true;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    for (unsigned i = 0; i < RING_CHUNKS; i++)
        free(s->ring[i].content);
    for (unsigned i = 0; i < GUEST_FILE_KINDS; i++)
        cleanup_fd_fn(&s->file_fds[i]);
    free(s->manifest);
    free(s->head);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void cleanup_image_stream(struct image_stream **s)
{
    image_stream_close(*s);
}

static struct image_stream *new_stream(int fd, const char *about,
                                       const struct image_environment *env,
                                       const struct image_stream_options *options)
{
    struct image_stream *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->disk = (struct disk){.format = &format_ferry_stream, .in_order = true, .opaque = s};
    s->fd = fd;
    s->file_fd = -1;
    s->about = about;
    s->env = env;
    s->options = *options;
    for (unsigned i = 0; i < GUEST_FILE_KINDS; i++)
        s->file_fds[i] = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->head = malloc(options->head_bytes + 1);
    if (s->head && options->head_bytes)
        memcpy(s->head, options->head, options->head_bytes);
    return s;
}

/* Everything up to the first disk that is wanted, or to the end. */
static int wait_for_manifest(struct image_stream *s, struct ferry_error *err)
{
    LOCK_SCOPE(&s->lock);
    while (!s->at_disk && !s->finished)
        pthread_cond_wait(&s->changed, &s->lock);
    return s->at_disk ? 0 : result(s, err);
}

int image_stream_open(int fd, const char *about, const struct image_environment *env,
                      const struct image_stream_options *options, struct image_stream **out,
                      struct ferry_error *err)
{
    CLEANUP(cleanup_image_stream)
    struct image_stream *s = new_stream(fd, about, env, options);

    if (!s || !s->head)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    int error = pthread_create(&s->thread, NULL, read_image, s);
    if (error)
        return ferry_fail_sys(err, -error, about, "cannot start a thread");
    s->running = true;
    error = wait_for_manifest(s, err);
    if (error)
        return error;
    *out = take_ptr(&s);
    return 0;
}

int disk_of_image_stream(const void *head, size_t head_bytes, int fd, const char *about,
                         const struct image_environment *env, const char *name, struct disk **out,
                         struct ferry_error *err)
{
    const struct image_stream_options options = {
        .head = head, .head_bytes = head_bytes, .name = name, .one = !name};
    CLEANUP(cleanup_image_stream) struct image_stream *s = NULL;
    const char *found_name;

    int error = image_stream_open(fd, about, env, &options, &s, err);
    if (error)
        return error;
    int found = image_stream_next(s, &found_name, out, err);
    if (found < 0)
        return found;
    if (!found)
        return name ? ferry_usage(err, about, "has no disk '%.64s'", name)
                    : ferry_usage(err, about, "has no disk");
    take_ptr(&s)->owned = true;
    return 0;
}
