/*
 * Fuzz target: bytes as a qcow2, with a backing file for those that name one.
 */
#include "common/cleanup.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/disk_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t below[5 * 512] = "below";
    CLEANUP(source_cleanup) struct source *source = NULL, *base = NULL;
    struct disk_open_options options = {0};

    if (source_of_memory(data, size, "fuzz", &source, NULL) ||
        source_of_memory(below, sizeof(below), "base", &base, NULL) ||
        disk_format_raw.open(base, NULL, &options.backing, NULL))
        return 0;
    disk_walk_source(source, &disk_format_qcow2, NULL);
    disk_walk_source(source, &disk_format_qcow2, &options);
    disk_format_raw.close(options.backing);
    return 0;
}
