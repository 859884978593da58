/*
 * Fuzz target: bytes as a VMDK, and as the descriptor of one whose flat extent was named.
 */
#include "common/cleanup.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/disk_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t flat[9 * 512] = "flat";
    CLEANUP(source_cleanup) struct source *source = NULL, *external = NULL;

    if (source_of_memory(data, size, "fuzz", &source, NULL) ||
        source_of_memory(flat, sizeof(flat), "flat", &external, NULL))
        return 0;
    const struct disk_open_options options = {.external = external};
    disk_walk_source(source, &disk_format_vmdk, NULL);
    disk_walk_source(source, &disk_format_vmdk, &options);
    return 0;
}
