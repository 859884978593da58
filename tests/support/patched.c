/* Patches: so that a fuzzer's mutations reach what lies behind the sums. */
#include "tests/support/patched.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/image_forge.h"

uint8_t *patched_image(const uint8_t *image, size_t size, const uint8_t *patches, size_t count)
{
    uint8_t *copy = malloc(size);

    if (!copy)
        return NULL;
    memcpy(copy, image, size);
    for (; count >= 4; patches += 4, count -= 4) {
        size_t back = patches[0] | (size_t)patches[1] << 8 | (size_t)patches[2] << 16;
        copy[size - 1 - back % size] ^= patches[3];
    }
    forge_repair_all(copy, size);
    return copy;
}
