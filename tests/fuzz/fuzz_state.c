/*
 * Fuzz target: a section's name, a zero byte, and the rest as its state, through the table of its
 * device to JSON.
 */
#include <string.h>

#include "common/limits.h"
#include "vmm/machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, 0, size < LIMIT_NAME_BYTES ? size : LIMIT_NAME_BYTES);
    json_t *json = NULL;

    if (!end)
        return 0;
    const struct machine_section section = {
        .name = (const char *)data,
        .version = 1,
        .data = end + 1,
        .size = size - (size_t)(end + 1 - data),
    };
    if (!machine_section_to_json(&section, &json, NULL))
        json_decref(json);
    return 0;
}
