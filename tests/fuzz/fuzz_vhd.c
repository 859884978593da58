/*
 * Fuzz target: bytes as a VHD, with a parent for a child.  Sums are made right first: what a fuzzer
 * finds behind them, anybody can write.
 */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/vhd.h"
#include "tests/support/disk_walk.h"

#define FOOTER_SUM_AT 64
#define HEADER_SUM_AT 36

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *data, size_t size, uint64_t at, size_t length, size_t sum_at)
{
    if (at > size || length > size - at)
        return;
    uint32_t sum = vhd_sum(data + at, length, sum_at);
    for (unsigned i = 0; i < 4; i++)
        data[at + sum_at + i] = (uint8_t)(sum >> (24 - 8 * i));
}

static void mend_all(uint8_t *data, size_t size)
{
    if (size < VHD_FOOTER_BYTES)
        return;
    struct reader r = reader_init(data + size - VHD_FOOTER_BYTES, VHD_FOOTER_BYTES);
    reader_take(&r, 16);
    mend(data, size, reader_u64be(&r), VHD_HEADER_BYTES, HEADER_SUM_AT);
    mend(data, size, 0, VHD_FOOTER_BYTES, FOOTER_SUM_AT);
    mend(data, size, size - VHD_FOOTER_BYTES, VHD_FOOTER_BYTES, FOOTER_SUM_AT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t below[5 * 512] = "below";
    CLEANUP(source_cleanup) struct source *source = NULL, *base = NULL;
    CLEANUP_FREE uint8_t *copy = malloc(size + 1);
    struct disk_open_options options = {0};

    if (!copy)
        return 0;
    memcpy(copy, data, size);
    mend_all(copy, size);
    if (source_of_memory(copy, size, "fuzz", &source, NULL) ||
        source_of_memory(below, sizeof(below), "base", &base, NULL) ||
        disk_format_raw.open(base, NULL, &options.backing, NULL))
        return 0;
    disk_walk_source(source, &disk_format_vhd, NULL);
    disk_walk_source(source, &disk_format_vhd, &options);
    disk_format_raw.close(options.backing);
    return 0;
}
