/* Fuzz target: bytes as libvirt's domain XML. */
#include "tests/support/guest_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return guest_sample_fuzz(&description_libvirt, data, size);
}
