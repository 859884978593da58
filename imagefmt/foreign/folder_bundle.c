/* The bundle formats libvirt, vmx, xl and vagrant: what is different about each. */
#include "imagefmt/foreign/folder_bundle.h"

#include "imagefmt/foreign/vagrant.h"

static const struct folder_shape libvirt, vmx, xl, vagrant;

#define WRITER(shape)                                                                     \
    static int losses_##shape(const struct bundle_content *content, json_t *notes,        \
                              struct ferry_error *err)                                    \
    {                                                                                     \
        return folder_bundle_losses(&shape, content, notes, err);                         \
    }                                                                                     \
    static int write_##shape(const struct bundle_output *output,                          \
                             const struct bundle_content *content,                        \
                             const struct bundle_write_options *options,                  \
                             struct bundle_write_result *result, struct ferry_error *err) \
    {                                                                                     \
        return folder_bundle_write(&shape, output, content, options, result, err);        \
    }

#define READER(shape)                                                                \
    static bool probe_##shape(const struct bundle_input *input, const uint8_t *head, \
                              size_t head_bytes)                                     \
    {                                                                                \
        (void)head;                                                                  \
        (void)head_bytes;                                                            \
        return input->folder_fd >= 0 && !input->source && !input->stream &&          \
               bundle_folder_has(input->folder_fd, shape.description->extension);    \
    }                                                                                \
    static int open_##shape(const struct bundle_input *input, struct bundle **out,   \
                            struct ferry_error *err)                                 \
    {                                                                                \
        return folder_bundle_open(&shape, input, out, err);                          \
    }

WRITER(libvirt)
READER(libvirt)
WRITER(vmx)
READER(vmx)
WRITER(xl)
WRITER(vagrant)

static const struct folder_shape libvirt = {
    .format = &bundle_libvirt,
    .description = &description_libvirt,
    .description_name = "domain.xml",
    .disk_stem = "disk",
    .disks = {"qcow2", "raw"},
};

static const struct folder_shape vmx = {
    .format = &bundle_vmx,
    .description = &description_vmx,
    .disks = {"vmdk"},
};

static const struct folder_shape xl = {
    .format = &bundle_xl,
    .description = &description_xl,
    .disk_stem = "disk",
    .disks = {"raw", "qcow2", "vhd"},
};

/* A box may be compressed as a whole, and mostly is; its disk is compressed instead, which makes it
 * as small, is done by all cores, and lets it be read at random. */
static const struct folder_shape vagrant = {
    .format = &bundle_vagrant,
    .description = &description_vagrant,
    .description_name = VAGRANT_METADATA,
    .disks = {"qcow2"},
    .codec = "zlib",
    .box = true,
};

const struct bundle_format bundle_libvirt = {
    .name = "libvirt",
    .extension = "",
    .limits = "a domain's XML and its disks (qcow2 or raw), which are beside it",
    .folder = true,
    .probe = probe_libvirt,
    .losses = losses_libvirt,
    .write = write_libvirt,
    .open = open_libvirt,
    .next_disk = folder_bundle_next_disk,
    .finish = folder_bundle_finish,
    .close = folder_bundle_close,
};

const struct bundle_format bundle_vmx = {
    .name = "vmx",
    .extension = ".vmwarevm",
    .limits = "a .vmx and its disks (VMDK, to 2 TiB of data), which are beside it",
    .folder = true,
    .probe = probe_vmx,
    .losses = losses_vmx,
    .write = write_vmx,
    .open = open_vmx,
    .next_disk = folder_bundle_next_disk,
    .finish = folder_bundle_finish,
    .close = folder_bundle_close,
};

const struct bundle_format bundle_xl = {
    .name = "xl",
    .extension = "",
    .limits = "written only: xl's configuration and disks (raw, qcow2, VHD)",
    .folder = true,
    .losses = losses_xl,
    .write = write_xl,
};

const struct bundle_format bundle_vagrant = {
    .name = "vagrant",
    .extension = ".box",
    .limits = "written only: for libvirt, disks in qcow2",
    .streams_out = true,
    .losses = losses_vagrant,
    .write = write_vagrant,
};
