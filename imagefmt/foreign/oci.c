/* The bundle formats oci, an OCI image layout in a tar archive, and oci-folder, one as a folder. */
#include "imagefmt/foreign/oci.h"

#include <fcntl.h>
#include <unistd.h>

#include "imagefmt/foreign/oci_bundle.h"

static bool probe_tar(const struct bundle_input *input, const uint8_t *head, size_t head_bytes)
{
    (void)input;
    return bundle_tar_begins(head, head_bytes, OCI_LAYOUT_FILE) ||
           bundle_tar_begins(head, head_bytes, OCI_INDEX_FILE) ||
           bundle_tar_begins(head, head_bytes, "blobs/") ||
           bundle_tar_begins(head, head_bytes, OCI_BLOBS);
}

static bool probe_folder(const struct bundle_input *input, const uint8_t *head, size_t head_bytes)
{
    (void)head;
    (void)head_bytes;
    return input->folder_fd >= 0 && !input->source && !input->stream &&
           !faccessat(input->folder_fd, OCI_LAYOUT_FILE, F_OK, AT_SYMLINK_NOFOLLOW);
}

static int open_tar(const struct bundle_input *input, struct bundle **out, struct ferry_error *err)
{
    return oci_open(&bundle_oci, input, out, err);
}

static int open_folder(const struct bundle_input *input, struct bundle **out,
                       struct ferry_error *err)
{
    return oci_open(&bundle_oci_folder, input, out, err);
}

const struct bundle_format bundle_oci = {
    .name = "oci",
    .extension = ".oci.tar",
    .limits = "as KubeVirt exports machines; disks to 64 TiB, read from a file",
    .streams_out = true,
    .probe = probe_tar,
    .losses = oci_losses,
    .write = oci_write,
    .open = open_tar,
    .next_disk = oci_next_disk,
    .finish = oci_finish,
    .close = oci_close,
};

const struct bundle_format bundle_oci_folder = {
    .name = "oci-folder",
    .extension = ".oci",
    .limits = "an OCI image layout; disks to 64 TiB",
    .folder = true,
    .probe = probe_folder,
    .losses = oci_losses,
    .write = oci_write,
    .open = open_folder,
    .next_disk = oci_next_disk,
    .finish = oci_finish,
    .close = oci_close,
};
