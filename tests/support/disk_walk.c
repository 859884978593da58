#include "tests/support/disk_walk.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/zero.h"

#define EXTENTS    300
#define READ_BYTES (8 * KIB)

/* Reads at the start, or just before the end of an extent. */
static void read_within(struct disk *disk, uint64_t offset, uint64_t size,
                        enum disk_extent_kind kind)
{
    static uint8_t bytes[READ_BYTES];
    size_t part = size < READ_BYTES ? (size_t)size : READ_BYTES;

    memset(bytes, 0xa5, part);
    if (disk->format->read(disk, offset, bytes, part, NULL) == 0 && kind == DISK_ZERO &&
        !is_zero(bytes, part))
        abort();
}

static void walk(struct disk *disk)
{
    uint64_t offset = 0;

    for (int i = 0; i < EXTENTS && offset < disk->size_bytes; i++) {
        struct disk_extent extent = {0};
        if (disk->format->extent(disk, offset, &extent, NULL)) {
            offset += READ_BYTES;
            continue;
        }
        if (!extent.size_bytes || extent.size_bytes > disk->size_bytes - offset)
            abort();
        read_within(disk, offset, extent.size_bytes, extent.kind);
        uint64_t back = extent.size_bytes < 1000 ? extent.size_bytes : 1000;
        offset += extent.size_bytes;
        read_within(disk, offset - back, back, extent.kind);
    }
}

/* Across the bounds of extents, and what lies at the end of a large disk. */
static void read_large(struct disk *disk)
{
    static uint8_t bytes[64 * KIB];
    size_t size = disk->size_bytes < sizeof(bytes) ? (size_t)disk->size_bytes : sizeof(bytes);

    disk->format->read(disk, 0, bytes, size, NULL);
    disk->format->read(disk, disk->size_bytes - size, bytes, size, NULL);
}

void disk_walk_source(struct source *source, const struct disk_format *format,
                      const struct disk_open_options *options)
{
    struct disk *disk = NULL;

    if (format->open(source, options, &disk, NULL))
        return;
    if (format->describe)
        json_decref(format->describe(disk));
    walk(disk);
    read_large(disk);
    format->close(disk);
}
