/*
 * Importing: the manifest is made of the description, then disks go through the image writer as
 * they come.  The sums of a bundle may come last, so the image is finished only after them.
 */
#include "snapshot/import.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/disk_pack.h"
#include "imagefmt/pack.h"
#include "snapshot/describe.h"

struct import {
    const struct import_source *source;
    const struct snapshot_options *options;
    struct progress *progress;
    struct image_writer *writer;
    const struct manifest *manifest;
    bool seen[LIMIT_DISKS];
    bool packed[GUEST_FILE_KINDS];
};

/* ---- A bundle as a source ---- */

static int next_of_bundle(void *opaque, uint32_t *index, struct disk **disk,
                          struct ferry_error *err)
{
    struct bundle *bundle = opaque;

    return bundle->format->next_disk(bundle, index, disk, err);
}

static int finish_bundle(void *opaque, struct ferry_error *err)
{
    struct bundle *bundle = opaque;

    return bundle->format->finish(bundle, err);
}

static void file_of_bundle(void *opaque, enum guest_file_kind kind, const uint8_t **data,
                           size_t *size)
{
    const struct bundle *bundle = opaque;

    *data = bundle->files[kind].data;
    *size = bundle->files[kind].size;
}

struct import_source import_of_bundle(struct bundle *bundle)
{
    return (struct import_source){
        .guest = &bundle->guest,
        .next_disk = next_of_bundle,
        .finish = finish_bundle,
        .file = file_of_bundle,
        .has_kernel = bundle->files[GUEST_KERNEL].data || bundle->guest.files[GUEST_KERNEL][0],
        .opaque = bundle,
    };
}

/* ---- Sections ---- */

static uint32_t chunk_bytes(const struct import *i, enum image_section_kind kind, const char *name)
{
    return i->options->disk_chunk_bytes
               ? i->options->disk_chunk_bytes
               : image_chunk_bytes(i->options->base, kind, name, IMAGE_DISK_CHUNK_BYTES);
}

static int import_disk(struct import *i, uint32_t index, struct disk *disk, struct ferry_error *err)
{
    const struct machine_config *machine = &i->manifest->machine;

    if (index >= machine->disk_count || i->seen[index])
        return ferry_refuse(err, -EBADMSG, i->source->about,
                            "has a disk that it does not describe");
    i->seen[index] = true;
    const char *name = machine->disks[index].device;
    if (disk_whole_sectors(disk->size_bytes) != machine->disks[index].size_bytes)
        return ferry_refuse(err, -EBADMSG, i->source->about,
                            "disk %s has %llu bytes; the description says %llu", name,
                            (unsigned long long)disk->size_bytes,
                            (unsigned long long)i->source->guest->disks[index].size_bytes);
    return disk_pack(disk, i->writer, name, machine->disks[index].size_bytes,
                     chunk_bytes(i, IMAGE_DISK, name), i->progress, err);
}

static int import_disks(struct import *i, struct ferry_error *err)
{
    struct disk *disk = NULL;
    uint32_t index = 0;
    int more, error = 0;

    while ((more = i->source->next_disk(i->source->opaque, &index, &disk, err)) > 0) {
        error = import_disk(i, index, disk, err);
        if (error)
            return error;
    }
    for (uint32_t n = 0; !more && n < i->manifest->machine.disk_count; n++)
        if (!i->seen[n])
            return ferry_refuse(err, -EBADMSG, i->source->about, "disk %s is missing",
                                i->manifest->machine.disks[n].device);
    return more;
}

struct memory_file {
    const uint8_t *data;
    size_t size;
};

static int read_memory(void *opaque, uint64_t offset, void *data, size_t size)
{
    const struct memory_file *file = opaque;

    memcpy(data, file->data + offset, size);
    return 0;
}

static int all_is_data(void *opaque, uint64_t *start, uint64_t *end)
{
    const struct memory_file *file = opaque;

    *end = file->size;
    return *start < *end;
}

static int import_file(struct import *i, enum guest_file_kind kind, struct ferry_error *err)
{
    const char *name = guest_file_name(kind);
    struct memory_file file = {0};

    if (i->packed[kind])
        return 0;
    i->source->file(i->source->opaque, kind, &file.data, &file.size);
    if (!file.data || !file.size)
        return 0;
    i->packed[kind] = true;
    const struct pack_source source = {.read = read_memory,
                                       .next_data = all_is_data,
                                       .opaque = &file,
                                       .size_bytes = file.size,
                                       .about = name};
    return image_pack(i->writer, IMAGE_FILE, name, chunk_bytes(i, IMAGE_FILE, name), &source, err);
}

/* Those that are known by now: first those that whoever reads the image from a pipe wants first. */
static int import_files(struct import *i, struct ferry_error *err)
{
    int error = 0;

    for (enum guest_file_kind kind = 0; !error && i->source->file && kind < GUEST_FILE_KINDS;
         kind++)
        error = import_file(i, kind, err);
    return error;
}

/* ---- All of it ---- */

static int import_all(struct import *i, uint8_t root[SHA256_BYTES], struct ferry_error *err)
{
    int error = import_files(i, err);

    if (!error)
        error = import_disks(i, err);
    if (!error && i->source->finish)
        error = i->source->finish(i->source->opaque, err);
    if (!error)
        error = import_files(i, err);
    return error ? error : image_writer_finish(i->writer, root, err);
}

/* What cannot be read back must not be written. */
static int check_manifest(const char *text, const char *about, struct ferry_error *err)
{
    CLEANUP_FREE struct manifest *scratch = calloc(1, sizeof(*scratch));
    json_t *json = NULL;

    if (!scratch)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    int error = manifest_parse(text, strlen(text), about, &json, err);
    if (!error)
        error = manifest_decode(json, about, scratch, err);
    json_decref(json);
    return error;
}

int snapshot_import(int fd, const struct import_source *source,
                    const struct snapshot_options *options, struct progress *progress,
                    struct snapshot_result *result, json_t *notes, struct ferry_error *err)
{
    const struct image_writer_options how = {.level = options->level,
                                             .workers = options->workers,
                                             .secret = options->secret,
                                             .base = options->base};
    CLEANUP_FREE struct manifest *manifest = calloc(1, sizeof(*manifest));
    struct import i = {
        .source = source, .options = options, .progress = progress, .manifest = manifest};
    uint64_t start = monotonic_ns();

    *result = (struct snapshot_result){0};
    if (!manifest)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    int error =
        describe_machine(source->guest, source->has_kernel, source->about, manifest, notes, err);
    if (error)
        return error;
    CLEANUP_FREE char *text = manifest_encode(manifest);
    if (!text)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    error = check_manifest(text, source->about, err);
    if (error)
        return error;
    error = image_writer_create(fd, &how, text, strlen(text), &i.writer, err);
    if (error)
        return error;
    error = import_all(&i, result->root, err);
    result->bytes = image_writer_bytes(i.writer);
    result->content_bytes = image_writer_content_bytes(i.writer);
    result->total_ns = monotonic_ns() - start;
    image_writer_destroy(i.writer);
    return error;
}
