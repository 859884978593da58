/* Fuzz target: bytes as an OVF, with what it says about its files. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/ovf.h"
#include "tests/support/guest_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP_FREE struct ovf_package *package = malloc(sizeof(*package));
    CLEANUP_FREE struct guest *guest = malloc(sizeof(*guest));

    if (package && guest &&
        !ovf_read((const char *)data, size, "fuzz", guest, package, NULL, NULL)) {
        for (uint32_t i = 0; i < guest->disk_count; i++)
            if (!*package->disks[i].href && !package->disks[i].capacity_bytes)
                abort(); /* a blank disk has a size */
    }
    return guest_sample_fuzz(&description_ovf, data, size);
}
