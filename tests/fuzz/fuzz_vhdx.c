/*
 * Fuzz target: runs of bytes (disk_sample_runs: a VHDX has its parts at multiples of 1 MiB) as a
 * VHDX.  Sums are made right on the way: those of headers and region tables where they are read,
 * and those of entries of a log.
 */
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/vhdx.h"
#include "tests/support/disk_sample.h"
#include "tests/support/disk_walk.h"

#define LOG_SUMS_BYTES (128 * KIB) /* of a log, at most, are summed */

struct mended {
    struct source source;
    struct source *below;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *data, size_t size)
{
    uint32_t sum = vhdx_sum(data, size);

    for (unsigned i = 0; i < 4; i++)
        data[4 + i] = (uint8_t)(sum >> (8 * i));
}

static void mend_log(uint8_t *data, size_t size)
{
    size_t left = LOG_SUMS_BYTES;

    for (size_t at = 0; at < size; at += VHDX_LOG_SECTOR) {
        size_t length = data[at + 8] | (size_t)data[at + 9] << 8 | (size_t)data[at + 10] << 16;
        if (memcmp(data + at, "loge", 4) != 0 || length < VHDX_LOG_SECTOR || length > left ||
            length > size - at)
            continue;
        left -= length;
        mend(data + at, length);
    }
}

static int pread_mended(struct source *source, uint64_t offset, void *data, size_t size,
                        struct ferry_error *err)
{
    struct source *below = ((struct mended *)source)->below;
    int error = below->pread(below, offset, data, size, err);

    if (error)
        return error;
    if ((offset == VHDX_HEADER_OFFSET || offset == 2 * VHDX_HEADER_OFFSET) &&
        size == VHDX_HEADER_BYTES)
        mend(data, size);
    if ((offset == VHDX_REGIONS_OFFSET || offset == VHDX_REGIONS_OFFSET + VHDX_REGIONS_BYTES) &&
        size == VHDX_REGIONS_BYTES)
        mend(data, size);
    if (size && size % MIB == 0 && size <= VHDX_LOG_MAX_BYTES)
        mend_log(data, size);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(source_cleanup) struct source *runs = NULL;

    if (disk_sample_runs(data, size, &runs))
        return 0;
    struct mended mended = {
        .source = {.pread = pread_mended, .size_bytes = runs->size_bytes, .about = "fuzz"},
        .below = runs,
    };
    disk_walk_source(&mended.source, &disk_format_vhdx, NULL);
    return 0;
}
