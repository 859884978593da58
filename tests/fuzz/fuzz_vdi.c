/* Fuzz target: bytes as a VDI. */
#include "common/cleanup.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/disk_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(source_cleanup) struct source *source = NULL;

    if (!source_of_memory(data, size, "fuzz", &source, NULL))
        disk_walk_source(source, &disk_format_vdi, NULL);
    return 0;
}
