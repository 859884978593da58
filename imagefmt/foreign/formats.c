/* The table of formats, and which one a file is in. */
#include "imagefmt/foreign/formats.h"

#include <errno.h>
#include <string.h>

const struct disk_format *const disk_formats[] = {
    &disk_format_raw,
    &disk_format_qcow2,
    &disk_format_vmdk,
    &disk_format_vhd,
    &disk_format_vhdx,
    &disk_format_vdi,
    NULL,
};

const struct disk_format *disk_format_by_name(const char *name)
{
    for (const struct disk_format *const *f = disk_formats; *f; f++)
        if (!strcmp((*f)->name, name))
            return *f;
    return NULL;
}

const struct disk_format *disk_format_by_extension(const char *path)
{
    const char *base = strrchr(path, '/');
    const char *extension = strrchr(base ? base : path, '.');

    for (const struct disk_format *const *f = disk_formats; extension && *f; f++)
        if (!strcmp((*f)->extension, extension))
            return *f;
    return NULL;
}

/* Marks of what is no disk of a format in the table. */
static const struct {
    size_t offset;
    const char *mark;
    const char *what;
} unread[] = {
    {20, "ferryimg", "a ferry image; take the disk out with 'ferry extract'"},
    {0, "QFI\xfb", "a qcow of a version that is not read"},
    {0, "KDMV", "a VMDK of a version that is not read"},
    {0, "# Disk DescriptorFile", "a VMDK descriptor"},
    {0, "conectix", "a damaged VHD"},
    {0, "vhdxfile", "a VHDX disk"},
    {64, "\x7f\x10\xda\xbe", "a VDI disk"},
    {0, "LUKS\xba\xbe", "an encrypted disk"},
    {0, "\x1f\x8b", "a gzip file"},
    {0,
     "\xfd"
     "7zXZ",
     "an xz file"},
    {0, "BZh", "a bzip2 file"},
    {0, "\x28\xb5\x2f\xfd", "a zstd file"},
    {257, "ustar", "a tar archive"},
};

static int check_unread(const struct source *source, const uint8_t *head, size_t head_bytes,
                        struct ferry_error *err)
{
    for (size_t i = 0; i < sizeof(unread) / sizeof(*unread); i++) {
        size_t length = strlen(unread[i].mark);
        if (head_bytes >= unread[i].offset + length &&
            !memcmp(head + unread[i].offset, unread[i].mark, length))
            return ferry_refuse(err, -EOPNOTSUPP, source->about,
                                "looks like %s; if it is a raw disk, say --from raw",
                                unread[i].what);
    }
    return 0;
}

int disk_format_probe(struct source *source, const struct disk_format **out,
                      struct ferry_error *err)
{
    uint8_t head[DISK_PROBE_HEAD_BYTES], tail[DISK_PROBE_TAIL_BYTES];
    size_t head_bytes = source->size_bytes < sizeof(head) ? source->size_bytes : sizeof(head);
    size_t tail_bytes = source->size_bytes < sizeof(tail) ? source->size_bytes : sizeof(tail);

    int error = source->pread(source, 0, head, head_bytes, err);
    if (!error)
        error = source->pread(source, source->size_bytes - tail_bytes, tail, tail_bytes, err);
    if (error)
        return error;
    *out = NULL;
    for (const struct disk_format *const *f = disk_formats; *f && !*out; f++)
        if ((*f)->probe && (*f)->probe(head, head_bytes, tail, tail_bytes))
            *out = *f;
    return *out ? 0 : check_unread(source, head, head_bytes, err);
}
