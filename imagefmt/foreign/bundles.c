/* The table of bundles, and which one a file or folder is. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/bundle.h"

const struct bundle_format *const bundle_formats[] = {
    &bundle_ova,     &bundle_ovf, &bundle_xva, &bundle_oci,     &bundle_oci_folder,
    &bundle_libvirt, &bundle_vmx, &bundle_xl,  &bundle_vagrant, NULL,
};

const struct bundle_format *bundle_format_by_name(const char *name)
{
    for (const struct bundle_format *const *f = bundle_formats; *f; f++)
        if (!strcmp((*f)->name, name))
            return *f;
    return NULL;
}

static bool ends_with(const char *text, const char *ending)
{
    size_t length = strlen(text), size = strlen(ending);

    return length >= size && !strcmp(text + length - size, ending);
}

const struct bundle_format *bundle_format_by_extension(const char *path)
{
    for (const struct bundle_format *const *f = bundle_formats; *f; f++)
        if ((*f)->extension && *(*f)->extension && ends_with(path, (*f)->extension))
            return *f;
    return NULL;
}

const struct bundle_format *bundle_format_by_head(const struct bundle_input *input,
                                                  const uint8_t *head, size_t head_bytes)
{
    for (const struct bundle_format *const *f = bundle_formats; *f; f++)
        if ((*f)->probe && (*f)->probe(input, head, head_bytes))
            return *f;
    return NULL;
}

int bundle_format_probe(const struct bundle_input *input, const struct bundle_format **out,
                        struct ferry_error *err)
{
    uint8_t head[DISK_PROBE_HEAD_BYTES];
    size_t head_bytes = 0;

    if (input->stream)
        return ferry_fail(err, -EINVAL, input->about, "a stream is not read to recognise it");
    if (input->source) {
        head_bytes = input->source->size_bytes < sizeof(head) ? (size_t)input->source->size_bytes
                                                              : sizeof(head);
        int error = input->source->pread(input->source, 0, head, head_bytes, err);
        if (error)
            return error;
    }
    *out = bundle_format_by_head(input, head, head_bytes);
    return 0;
}

/* ---- For formats ---- */

#define TAR_HEADER_BYTES 512
#define TAR_NAME_BYTES   100
#define TAR_SUM_OFFSET   148
#define TAR_SUM_BYTES    8

/* The sum of a header is of its bytes, with the sum itself as spaces; it is in octal. */
static bool tar_sum_fits(const uint8_t *header)
{
    unsigned sum = 0, stated = 0;
    size_t i = TAR_SUM_OFFSET;

    while (i < TAR_SUM_OFFSET + TAR_SUM_BYTES && header[i] == ' ')
        i++;
    for (; i < TAR_SUM_OFFSET + TAR_SUM_BYTES && header[i] >= '0' && header[i] <= '7'; i++)
        stated = stated * 8 + (header[i] - '0');
    for (i = 0; i < TAR_HEADER_BYTES; i++)
        sum += i >= TAR_SUM_OFFSET && i < TAR_SUM_OFFSET + TAR_SUM_BYTES ? ' ' : header[i];
    return sum == stated;
}

bool bundle_tar_begins(const uint8_t *head, size_t head_bytes, const char *ending)
{
    char name[TAR_NAME_BYTES + 1] = {0};

    if (head_bytes < TAR_HEADER_BYTES || !head[0] || !tar_sum_fits(head))
        return false;
    memcpy(name, head, TAR_NAME_BYTES);
    return ends_with(name, ending);
}

static void cleanup_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

bool bundle_folder_has(int folder_fd, const char *ending)
{
    CLEANUP_FD int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP(cleanup_dir) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    struct stat st;

    if (!dir)
        return false;
    (void)take_fd(&fd); /* the dir's now */
    while ((entry = readdir(dir)))
        if (ends_with(entry->d_name, ending) &&
            !fstatat(folder_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode))
            return true;
    return false;
}
