/* OVA and OVF folders: the two formats, which differ in what they are packed in. */
#include "imagefmt/foreign/ovf_bundle.h"

static bool probe_ova(const struct bundle_input *input, const uint8_t *head, size_t head_bytes)
{
    return input->folder_fd < 0 && bundle_tar_begins(head, head_bytes, ".ovf");
}

static bool probe_ovf(const struct bundle_input *input, const uint8_t *head, size_t head_bytes)
{
    (void)head;
    (void)head_bytes;
    return input->folder_fd >= 0 && bundle_folder_has(input->folder_fd, ".ovf");
}

const struct bundle_format bundle_ova = {
    .name = "ova",
    .extension = ".ova",
    .limits = "one machine; disks to 2 TiB in VMDK; kernel, initrd and NVRAM only ferry reads back",
    .streams_in = true,
    .streams_out = true,
    .probe = probe_ova,
    .losses = ovf_bundle_losses,
    .write = ovf_bundle_write,
    .open = ovf_bundle_open,
    .next_disk = ovf_bundle_next_disk,
    .finish = ovf_bundle_finish,
    .close = ovf_bundle_close,
};

const struct bundle_format bundle_ovf = {
    .name = "ovf",
    .extension = "",
    .limits = "a folder with what an ova has in it",
    .folder = true,
    .probe = probe_ovf,
    .losses = ovf_bundle_losses,
    .write = ovf_bundle_write,
    .open = ovf_bundle_open,
    .next_disk = ovf_bundle_next_disk,
    .finish = ovf_bundle_finish,
    .close = ovf_bundle_close,
};
