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
    {257, "ustar", "a tar archive, of which 'ferry import' takes the machine"},
};

static int check_unread(const struct disk_marks *marks, const char *about, struct ferry_error *err)
{
    enum wrap_kind wrap = wrap_by_magic(marks->head, marks->head_bytes);

    if (wrap)
        return ferry_refuse(err, -EOPNOTSUPP, about,
                            "looks like a %s file where none is taken; if it is a raw disk, say "
                            "--from raw",
                            wrap_name(wrap));
    for (size_t i = 0; i < sizeof(unread) / sizeof(*unread); i++) {
        size_t length = strlen(unread[i].mark);
        if (marks->head_bytes >= unread[i].offset + length &&
            !memcmp(marks->head + unread[i].offset, unread[i].mark, length))
            return ferry_refuse(err, -EOPNOTSUPP, about,
                                "looks like %s; if it is a raw disk, say --from raw",
                                unread[i].what);
    }
    return 0;
}

int disk_marks_read(struct source *source, struct disk_marks *marks, struct ferry_error *err)
{
    uint64_t size = source->size_bytes;

    marks->head_bytes = size < sizeof(marks->head) ? size : sizeof(marks->head);
    marks->tail_bytes = size < sizeof(marks->tail) ? size : sizeof(marks->tail);
    int error = source->pread(source, 0, marks->head, marks->head_bytes, err);
    return error ? error
                 : source->pread(source, size - marks->tail_bytes, marks->tail, marks->tail_bytes,
                                 err);
}

int disk_format_of(const struct disk_marks *marks, const char *about, enum wrap_kind *wrap,
                   const struct disk_format **out, struct ferry_error *err)
{
    *out = NULL;
    for (const struct disk_format *const *f = disk_formats; *f && !*out; f++)
        if ((*f)->probe &&
            (*f)->probe(marks->head, marks->head_bytes, marks->tail, marks->tail_bytes))
            *out = *f;
    if (wrap)
        *wrap = *out ? WRAP_NONE : wrap_by_magic(marks->head, marks->head_bytes);
    return *out || (wrap && *wrap) ? 0 : check_unread(marks, about, err);
}

int disk_format_probe(struct source *source, const struct disk_format **out,
                      struct ferry_error *err)
{
    struct disk_marks marks;
    int error = disk_marks_read(source, &marks, err);

    return error ? error : disk_format_of(&marks, source->about, NULL, out, err);
}
