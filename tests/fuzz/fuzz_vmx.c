/* Fuzz target: bytes as a .vmx. */
#include "tests/support/guest_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return guest_sample_fuzz(&description_vmx, data, size);
}
