/* Fuzz target: bytes as the members of an OVA, or as its tar, read at random and in order. */
#include "common/cleanup.h"
#include "tests/support/member_list.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP_FREE uint8_t *tar = NULL;
    size_t bytes;

    if (member_list_tar(data, size, &tar, &bytes))
        return 0;
    member_list_try(&bundle_ova, tar, bytes, false);
    member_list_try(&bundle_ova, tar, bytes, true);
    return 0;
}
