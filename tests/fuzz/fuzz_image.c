/*
 * Fuzz target: bytes as an image, once as they are and once with the sums of all records made
 * right, without which a fuzzer would hardly get behind the first record.
 */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/chain.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct image_secret key = {.kind = SECRET_KEY_FILE, .size = 32};
    static const struct image_environment keyed = {.secret = &key}, scrub = {.scrub = true};
    CLEANUP_FREE uint8_t *copy = malloc(size + 1);

    if (!copy || size > 4 * MIB)
        return 0;
    memcpy(copy, data, size);
    sample_read_with(copy, size, &keyed, NULL);
    sample_read_with(copy, size, &scrub, NULL);
    sample_read_bytes(copy, size, NULL);
    sample_access_bytes(copy, size, NULL);
    forge_repair_all(copy, size);
    sample_read_with(copy, size, &keyed, NULL);
    sample_access_with(copy, size, &keyed, NULL);
    sample_read_with(copy, size, &scrub, NULL);
    sample_read_bytes(copy, size, NULL);
    sample_access_bytes(copy, size, NULL);
    return 0;
}
