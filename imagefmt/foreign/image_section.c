/*
 * A disk of an image.  A handle of an image is for one thread at a time, so there is a list of free
 * ones: a call takes one, opens another if there is none, and puts it back.
 */
#include "imagefmt/foreign/image_section.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define MAGIC        "ferryimg"
#define MAGIC_OFFSET 20

struct handle {
    struct handle *next;
    struct image *image;
};

struct image_section_disk {
    struct disk disk;
    const char *path;
    const struct image_environment *env;
    uint32_t section, chunk_bytes;
    pthread_mutex_t lock;
    struct handle *free;
};

static const struct disk_format format_ferry;

bool disk_image_probe(const uint8_t *head, size_t head_bytes)
{
    return head_bytes >= MAGIC_OFFSET + strlen(MAGIC) &&
           !memcmp(head + MAGIC_OFFSET, MAGIC, strlen(MAGIC));
}

/* ---- Handles ---- */

static int take_handle(struct image_section_disk *d, struct handle **out, struct ferry_error *err)
{
    {
        LOCK_SCOPE(&d->lock);
        if ((*out = d->free)) {
            d->free = (*out)->next;
            return 0;
        }
    }
    struct handle *handle = calloc(1, sizeof(*handle));
    if (!handle)
        return ferry_fail(err, -ENOMEM, d->path, "out of memory");
    int error = image_open_path(d->path, d->env, &handle->image, err);
    if (error)
        free(handle);
    else
        *out = handle;
    return error;
}

static void put_handle(struct image_section_disk *d, struct handle *handle)
{
    LOCK_SCOPE(&d->lock);
    handle->next = d->free;
    d->free = handle;
}

/* ---- Reading ---- */

static int section_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                          struct ferry_error *err)
{
    struct image_section_disk *d = disk->opaque;
    uint64_t index = offset / d->chunk_bytes, end = disk->size_bytes;
    struct handle *handle = NULL;
    struct image_chunk chunk;

    int error = take_handle(d, &handle, err);
    if (error)
        return error;
    int found = image_next_chunk(handle->image, d->section, index, &chunk, err);
    put_handle(d, handle);
    if (found < 0)
        return found;
    bool here = found && chunk.index == index;
    if (found && !here)
        end = chunk.index * d->chunk_bytes;
    else if (here && (index + 1) * d->chunk_bytes < end)
        end = (index + 1) * d->chunk_bytes;
    *extent =
        (struct disk_extent){.size_bytes = end - offset, .kind = here ? DISK_DATA : DISK_ZERO};
    return 0;
}

static int section_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                        struct ferry_error *err)
{
    struct image_section_disk *d = disk->opaque;
    struct handle *handle = NULL;

    int error = take_handle(d, &handle, err);
    if (error)
        return error;
    error = image_pread(handle->image, d->section, offset, data, size, err);
    put_handle(d, handle);
    return error;
}

static void section_close(struct disk *disk)
{
    struct image_section_disk *d = disk->opaque;

    while (d->free) {
        struct handle *handle = d->free;
        d->free = handle->next;
        image_close(handle->image);
        free(handle);
    }
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static const struct disk_format format_ferry = {
    .name = "ferry",
    .extension = ".ferry",
    .extent = section_extent,
    .read = section_read,
    .close = section_close,
};

/* ---- Opening ---- */

/* The number of the disk of this name, or of the only one. */
static int find_disk(const struct image *image, const char *path, const char *name,
                     uint32_t *number, struct ferry_error *err)
{
    unsigned disks = 0;

    for (uint32_t i = 0; i < image_sections(image); i++) {
        const struct image_section *section = image_section(image, i);
        if (section->kind != IMAGE_DISK || (name && strcmp(section->name, name)))
            continue;
        *number = i;
        disks++;
    }
    if (disks == 1)
        return 0;
    if (disks)
        return ferry_usage(err, path, "has %u disks; say which one with --disk", disks);
    return name ? ferry_usage(err, path, "has no disk '%.64s'", name)
                : ferry_usage(err, path, "has no disk");
}

static int prepare(struct image_section_disk *d, const char *name, struct ferry_error *err)
{
    struct handle *handle = NULL;

    int error = take_handle(d, &handle, err);
    if (error)
        return error;
    error = find_disk(handle->image, d->path, name, &d->section, err);
    if (!error)
        error = image_check_pages(handle->image, d->section, err);
    if (!error) {
        const struct image_section *section = image_section(handle->image, d->section);
        d->chunk_bytes = section->chunk_bytes;
        d->disk.size_bytes = section->size;
        d->disk.block_bytes = section->chunk_bytes;
    }
    put_handle(d, handle);
    return error;
}

int disk_of_image(const char *path, const struct image_environment *env, const char *name,
                  struct disk **out, struct ferry_error *err)
{
    struct image_section_disk *d = calloc(1, sizeof(*d));

    if (!d)
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    pthread_mutex_init(&d->lock, NULL);
    d->path = path;
    d->env = env;
    d->disk = (struct disk){.format = &format_ferry, .opaque = d};
    int error = prepare(d, name, err);
    if (error)
        section_close(&d->disk);
    else
        *out = &d->disk;
    return error;
}
