/*
 * OVA and OVF folders, writing: the OVF first, as every reader expects, then disks, files, and at
 * the end the manifest, whose sums were taken as the bytes passed; DSP0243 allows it there.
 *
 * What the OVF says of sizes is known afterwards.  Into a file or folder it is therefore written
 * with room for them, and replaced at the end.  Into a pipe disks go in pieces, or are compressed
 * twice (bundle.h).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/ovf_bundle.h"

struct packer {
    const struct bundle_content *content;
    const struct bundle_write_options *options;
    struct bundle_write_result *result;
    const struct disk_format *format;
    const char *about;
    struct container *container;
    bool patch; /* sizes can be filled in later */
    struct guest guest;
    char name[OVF_NAME_BYTES], manifest_name[OVF_NAME_BYTES];
    char disk_names[LIMIT_DISKS][OVF_NAME_BYTES], file_names[GUEST_FILE_KINDS][OVF_NAME_BYTES];
    struct ovf_file disks[LIMIT_DISKS], files[GUEST_FILE_KINDS];
    size_t ovf_bytes;
    struct writer manifest; /* all but its first line, which is the OVF's */
};

static void close_packer(struct packer *p)
{
    container_destroy(p->container);
    writer_free(&p->manifest);
}

/* ---- Names ---- */

static void make_names(struct packer *p)
{
    static const char *const endings[GUEST_FILE_KINDS] = {
        [GUEST_KERNEL] = "-kernel", [GUEST_INITRD] = "-initrd", [GUEST_NVRAM] = ".nvram"};
    const char *base = *p->guest.name ? p->guest.name : "machine";

    snprintf(p->name, OVF_NAME_BYTES, "%s.ovf", base);
    snprintf(p->manifest_name, OVF_NAME_BYTES, "%s.mf", base);
    for (uint32_t i = 0; i < p->guest.disk_count; i++) {
        snprintf(p->disk_names[i], OVF_NAME_BYTES, "%s-disk%u%s", base, i + 1,
                 p->format->extension);
        p->disks[i] = (struct ovf_file){.href = p->disk_names[i], .size_bytes = OVF_SIZE_UNKNOWN};
    }
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        if (p->content->files[kind]) {
            snprintf(p->file_names[kind], OVF_NAME_BYTES, "%s%s", base, endings[kind]);
            p->files[kind] = (struct ovf_file){.href = p->file_names[kind],
                                               .size_bytes = p->content->files[kind]->size_bytes};
        }
}

/* The guest as it is in the package: sizes are those of the disks as they are written. */
static int prepare(struct packer *p, struct ferry_error *err)
{
    const char *name = p->options->disk_format ? p->options->disk_format : "vmdk";

    p->format = disk_format_by_name(name);
    if (!p->format || !p->format->create || !ovf_uri_of_format(name))
        return ferry_usage(err, p->about, "an OVF has no disks of the format '%s'", name);
    p->guest = *p->content->guest;
    for (uint32_t i = 0; i < p->guest.disk_count; i++) {
        struct guest_disk *disk = &p->guest.disks[i];
        if (!disk->size_bytes)
            return ferry_fail(err, -EINVAL, p->about, "the size of disk %u is not known", i + 1);
        if (p->format != &disk_format_raw)
            disk->size_bytes = disk_whole_sectors(disk->size_bytes);
        snprintf(disk->format, sizeof(disk->format), "%s", name);
    }
    make_names(p);
    p->manifest = writer_init((size_t)LIMIT_DESCRIPTION_BYTES * 4);
    return 0;
}

/* ---- The manifest ---- */

static void manifest_line(struct writer *manifest, const char *name,
                          const uint8_t sum[SHA256_BYTES])
{
    char line[OVF_NAME_BYTES + OVF_PIECE_DIGITS + 2 * SHA256_BYTES + 16];
    char hex[2 * SHA256_BYTES + 1];

    int size =
        snprintf(line, sizeof(line), "SHA256(%s)= %s\n", name, hex_encode(sum, SHA256_BYTES, hex));
    writer_copy(manifest, line, (size_t)size);
}

static int remember(void *opaque, const char *name, const uint8_t sum[SHA256_BYTES],
                    struct ferry_error *err)
{
    struct packer *p = opaque;

    manifest_line(&p->manifest, name, sum);
    return p->manifest.error
               ? ferry_fail(err, p->manifest.error, p->about, "cannot keep the sums of all files")
               : 0;
}

static int add_manifest(struct packer *p, const uint8_t ovf_sum[SHA256_BYTES],
                        struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer whole = writer_init(SIZE_MAX);

    manifest_line(&whole, p->name, ovf_sum);
    writer_copy(&whole, p->manifest.data, p->manifest.size);
    if (whole.error)
        return ferry_fail(err, whole.error, p->about, "out of memory");
    return container_add(p->container, p->manifest_name, whole.data, whole.size, NULL, err);
}

/* ---- Disks ---- */

static int open_disk(const struct packer *p, uint32_t index, struct disk **disk,
                     struct ferry_error *err)
{
    uint64_t stated = p->content->guest->disks[index].size_bytes;

    int error = p->content->disk(p->content->opaque, index, disk, err);
    if (error)
        return error;
    if ((*disk)->size_bytes != stated)
        return ferry_fail(err, -EINVAL, p->about, "disk %u has %llu bytes and not %llu", index + 1,
                          (unsigned long long)(*disk)->size_bytes, (unsigned long long)stated);
    return 0;
}

static int copy_disk(struct packer *p, uint32_t index, struct sink *sink, bool measure,
                     struct ferry_error *err)
{
    char phase[32];
    uint8_t sum[SHA256_BYTES];
    struct disk_write_options write = {
        .size_bytes = p->guest.disks[index].size_bytes,
        .codec = p->options->codec,
        .level = p->options->level,
    };
    const struct disk_copy_options copy = {
        .workers = p->options->workers,
        .digest = p->options->digest && !measure,
        .phase = phase,
        .progress = p->options->progress,
    };
    struct disk_copy_result result;
    struct disk_writer *writer;
    struct disk *disk;

    snprintf(phase, sizeof(phase), measure ? "measure disk %u" : "disk %u", index + 1);
    sha256(p->disk_names[index], strlen(p->disk_names[index]), sum);
    memcpy(write.identity, sum, sizeof(write.identity));
    int error = open_disk(p, index, &disk, err);
    if (!error)
        error = p->format->create(sink, &write, &writer, err);
    if (error)
        return error;
    error = disk_copy(disk, writer, write.size_bytes, &copy, &result, err);
    p->format->destroy(writer);
    if (!error && !measure) {
        p->result->content_bytes += result.content_bytes;
        memcpy(p->result->digest[index], result.digest, SHA256_BYTES);
    }
    return error;
}

static int count_bytes(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    (void)data;
    (void)err;
    sink->position += size;
    return 0;
}

static int measure_disks(struct packer *p, struct ferry_error *err)
{
    int error = 0;

    if (!p->content->reread && p->guest.disk_count)
        return ferry_usage(err, p->about,
                           "disks that come in order cannot be measured first; let them go in "
                           "pieces, or into a file");
    for (uint32_t i = 0; !error && i < p->guest.disk_count; i++) {
        struct sink sink = {.write = count_bytes, .about = p->about};
        error = copy_disk(p, i, &sink, true, err);
        p->disks[i].size_bytes = sink.position;
    }
    return error;
}

static int pack_in_pieces(struct packer *p, uint32_t index, struct ferry_error *err)
{
    CLEANUP(ovf_pieces_close)
    struct ovf_pieces pieces = {
        .container = p->container,
        .name = p->disk_names[index],
        .written = remember,
        .opaque = p,
    };

    int error = ovf_pieces_open(&pieces, err);
    if (!error)
        error = copy_disk(p, index, &pieces.sink, false, err);
    return error ? error : ovf_pieces_end(&pieces, err);
}

static int pack_disk(struct packer *p, uint32_t index, struct ferry_error *err)
{
    struct ovf_file *file = &p->disks[index];
    uint8_t sum[SHA256_BYTES];
    struct sink *sink;

    if (file->chunk_bytes)
        return pack_in_pieces(p, index, err);
    int error = container_begin(p->container, file->href,
                                p->patch ? CONTAINER_UNKNOWN : file->size_bytes, &sink, err);
    if (!error)
        error = copy_disk(p, index, sink, false, err);
    if (!error)
        error = container_end(p->container, sum, &file->size_bytes, err);
    return error ? error : remember(p, file->href, sum, err);
}

/* ---- The other files ---- */

static int pack_file(struct packer *p, enum guest_file_kind kind, struct ferry_error *err)
{
    uint8_t sum[SHA256_BYTES];
    int error =
        bundle_add_source(p->container, p->file_names[kind], p->content->files[kind], sum, err);

    return error ? error : remember(p, p->file_names[kind], sum, err);
}

/* ---- The whole ---- */

static int write_ovf(struct packer *p, bool again, uint8_t sum[SHA256_BYTES],
                     struct ferry_error *err)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;

    int error = ovf_write(&p->guest, p->disks, p->files, p->ovf_bytes, NULL, &text, &size, err);
    if (error)
        return error;
    return again ? container_replace(p->container, p->name, text, size, sum, err)
                 : container_add(p->container, p->name, text, size, sum, err);
}

static int pack(struct packer *p, struct ferry_error *err)
{
    uint8_t ovf_sum[SHA256_BYTES];
    int error = 0;

    if (p->patch)
        error = ovf_room(&p->guest, p->disks, p->files, &p->ovf_bytes, err);
    else if (p->options->whole)
        error = measure_disks(p, err);
    else
        for (uint32_t i = 0; i < p->guest.disk_count; i++)
            p->disks[i].chunk_bytes = OVF_PIECE_BYTES;
    if (!error)
        error = write_ovf(p, false, ovf_sum, err);
    for (uint32_t i = 0; !error && i < p->guest.disk_count; i++)
        error = pack_disk(p, i, err);
    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++)
        if (p->content->files[kind])
            error = pack_file(p, (enum guest_file_kind)kind, err);
    if (!error && p->patch)
        error = write_ovf(p, true, ovf_sum, err);
    if (!error)
        error = add_manifest(p, ovf_sum, err);
    return error ? error : container_finish(p->container, &p->result->bytes, err);
}

int ovf_bundle_write(const struct bundle_output *output, const struct bundle_content *content,
                     const struct bundle_write_options *options, struct bundle_write_result *result,
                     struct ferry_error *err)
{
    CLEANUP(close_packer)
    struct packer p = {
        .content = content, .options = options, .result = result, .about = output->about};

    *result = (struct bundle_write_result){.bytes = 0};
    int error = prepare(&p, err);
    if (!error)
        error = output->sink
                    ? container_create_tar(output->sink, &p.container, err)
                    : container_create_folder(output->folder_fd, output->about, &p.container, err);
    if (error)
        return error;
    p.patch = container_can_patch(p.container);
    return pack(&p, err);
}

int ovf_bundle_losses(const struct bundle_content *content, json_t *notes, struct ferry_error *err)
{
    static const struct bundle_write_options options = {.disk_format = "vmdk"};
    CLEANUP(close_packer)
    struct packer p = {.content = content, .options = &options, .about = "ovf"};
    CLEANUP_FREE char *text = NULL;
    size_t size;

    int error = prepare(&p, err);
    return error ? error : ovf_write(&p.guest, p.disks, p.files, 0, notes, &text, &size, err);
}
