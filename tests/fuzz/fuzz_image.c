/*
 * Fuzz target: bytes as an image, once as they are and once with the sums of all records made
 * right, without which a fuzzer would hardly get behind the first record.
 */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP_FREE uint8_t *copy = malloc(size + 1);

    if (!copy || size > 4 * MIB)
        return 0;
    memcpy(copy, data, size);
    sample_read_bytes(copy, size, NULL);
    sample_access_bytes(copy, size, NULL);
    forge_repair_all(copy, size);
    sample_read_bytes(copy, size, NULL);
    sample_access_bytes(copy, size, NULL);
    return 0;
}
