/* Fuzz target: bytes as the manifest of an image, to JSON and to a machine's configuration. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "snapshot/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP_FREE struct manifest *manifest = malloc(sizeof(*manifest));
    struct ferry_error err;
    json_t *json;

    if (!manifest || manifest_parse((const char *)data, size, "fuzz", &json, &err))
        return 0;
    if (!manifest_decode(json, "fuzz", manifest, &err)) {
        CLEANUP_FREE char *again = manifest_encode(manifest);
        if (!again)
            abort(); /* what was accepted can be written down again */
    }
    json_decref(json);
    return 0;
}
