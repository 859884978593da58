/*
 * Fuzz target: bytes as a VMDK that is read in order.  Extents ascend and lie within the disk, what
 * one calls zero reads as zeroes, and what the stream's end finds right, a reader at random finds
 * to be the same disk.
 */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/cleanup.h"
#include "common/hash.h"
#include "common/zero.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"

#define EXTENTS    200
#define READ_BYTES (8 * KIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct place {
    uint64_t offset, sum;
};

struct seen {
    struct place places[EXTENTS];
    int count;
};

static void look(struct disk *disk, uint64_t offset, struct disk_extent extent, struct seen *seen)
{
    static uint8_t bytes[READ_BYTES];
    uint64_t part = extent.size_bytes < READ_BYTES ? extent.size_bytes : READ_BYTES;

    if (!extent.size_bytes || extent.size_bytes > disk->size_bytes - offset)
        abort();
    memset(bytes, 0xa5, part);
    if (disk->format->read(disk, offset, bytes, part, NULL))
        return;
    if (extent.kind == DISK_ZERO && !is_zero(bytes, part))
        abort();
    seen->places[seen->count++] = (struct place){offset, xxh3(bytes, part)};
}

static int walk(struct disk *disk, struct seen *seen)
{
    struct disk_extent extent;
    uint64_t offset = 0;

    for (int i = 0; i < EXTENTS && offset < disk->size_bytes; i++) {
        if (disk->format->extent(disk, offset, &extent, NULL))
            return -1;
        look(disk, offset, extent, seen);
        offset += extent.size_bytes;
    }
    return disk->format->drain(disk, NULL);
}

/* The tables were found to agree with the grains. */
static void compare(struct source *source, const struct seen *seen)
{
    static uint8_t bytes[READ_BYTES];
    struct disk *disk;

    if (disk_format_vmdk.open(source, NULL, &disk, NULL))
        return;
    for (int i = 0; i < seen->count; i++) {
        const struct place *place = &seen->places[i];
        uint64_t next = i + 1 < seen->count ? seen->places[i + 1].offset : disk->size_bytes;
        uint64_t part = next - place->offset < READ_BYTES ? next - place->offset : READ_BYTES;
        if (i + 1 == seen->count && seen->count == EXTENTS)
            break; /* its length is not known */
        if (!disk->format->read(disk, place->offset, bytes, part, NULL) &&
            xxh3(bytes, part) != place->sum)
            abort();
    }
    disk->format->close(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    const struct disk_open_options options = {0};
    struct disk *disk = NULL;
    struct seen seen = {.count = 0};

    if (source_of_memory(data, size, "fuzz", &source, NULL) ||
        stream_of_source(source, &stream, NULL) ||
        disk_format_vmdk.open_stream(stream, &options, &disk, NULL))
        return 0;
    json_decref(disk->format->describe(disk));
    int error = walk(disk, &seen);
    disk->format->close(disk);
    if (!error)
        compare(source, &seen);
    return 0;
}
