/*
 * Fuzz target: bytes as a qcow2.  Whatever opens must answer for every place that is asked for,
 * with extents that lie within the disk, and what an extent calls zero must read as zeroes.
 */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/cleanup.h"
#include "common/zero.h"
#include "imagefmt/foreign/source.h"

#define EXTENTS    300
#define READ_BYTES (8 * KIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_extent(struct disk *disk, uint64_t offset, const struct disk_extent *extent)
{
    static uint8_t bytes[READ_BYTES];
    uint64_t part = extent->size_bytes < READ_BYTES ? extent->size_bytes : READ_BYTES;

    if (!extent->size_bytes || extent->size_bytes > disk->size_bytes - offset)
        abort();
    memset(bytes, 0xa5, part);
    if (disk->format->read(disk, offset, bytes, part, NULL) == 0 && extent->kind == DISK_ZERO &&
        !is_zero(bytes, part))
        abort();
}

static void walk(struct disk *disk)
{
    struct disk_extent extent;
    uint64_t offset = 0;

    for (int i = 0; i < EXTENTS && offset < disk->size_bytes; i++) {
        if (disk->format->extent(disk, offset, &extent, NULL)) {
            offset += READ_BYTES;
            continue;
        }
        check_extent(disk, offset, &extent);
        check_extent(disk, offset + extent.size_bytes - 1,
                     &(struct disk_extent){.size_bytes = 1, .kind = extent.kind});
        offset += extent.size_bytes;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct disk *disk = NULL;

    if (source_of_memory(data, size, "fuzz", &source, NULL) ||
        disk_format_qcow2.open(source, NULL, &disk, NULL))
        return 0;
    json_decref(disk->format->describe(disk));
    walk(disk);
    disk->format->close(disk);
    return 0;
}
