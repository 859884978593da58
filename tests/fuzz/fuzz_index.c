/* Fuzz target: the tables of a good image (index, pages, section table, footer) with bytes of them
 * changed and their sums right, read at random. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "imagefmt/image.h"
#include "tests/support/image_sample.h"
#include "tests/support/patched.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sample sample = {0};
    size_t bytes = 0;

    sample_small(&sample);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &bytes);
    sample_free(&sample);
    CLEANUP_FREE uint8_t *changed = image ? patched_image(image, bytes, data, size) : NULL;
    if (!changed)
        return 0;
    sample_access_bytes(changed, bytes, NULL);
    sample_read_bytes(changed, bytes, NULL);
    return 0;
}
