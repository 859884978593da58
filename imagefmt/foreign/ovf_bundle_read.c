/*
 * OVF packages, reading: what both ways share.  The description says which files there are; each
 * must be a member of this package, by a plain name.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/ovf_reader.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/wrap.h"

/* ---- The description ---- */

static int check_file_name(const struct ovf_reader *r, char name[256], struct ferry_error *err)
{
    char clean[LIMIT_MEMBER_NAME_BYTES + 1];

    if (!*name)
        return 0;
    int error = member_name_check(name, r->input.about, clean, err);
    if (!error && (!*clean || strstr(clean, "://")))
        error = ferry_refuse(err, -EINVAL, r->input.about,
                             "has a file that is not in the package: '%.100s'", name);
    if (!error)
        memcpy(name, clean, strlen(clean) + 1);
    return error;
}

int ovf_reader_parse(struct ovf_reader *r, const void *text, size_t size, struct ferry_error *err)
{
    struct guest *guest = &r->bundle.guest;

    int error = ovf_read(text, size, r->input.about, guest, &r->package, r->notes.list, err);
    for (uint32_t i = 0; !error && i < guest->disk_count; i++)
        error = check_file_name(r, guest->disks[i].file, err);
    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++) {
        error = check_file_name(r, guest->files[kind], err);
        if (!error && *guest->files[kind] &&
            (r->package.files[kind].gzip || r->package.files[kind].chunk_bytes))
            error = ferry_refuse(err, -EOPNOTSUPP, r->input.about,
                                 "'%.100s' is gzipped or in pieces, which only disks may be",
                                 guest->files[kind]);
    }
    return error;
}

/* ".000000012" behind the name of a disk in pieces. */
static bool piece_of(const char *rest, uint32_t *piece)
{
    if (*rest++ != '.' || strlen(rest) != OVF_PIECE_DIGITS ||
        strspn(rest, "0123456789") != OVF_PIECE_DIGITS)
        return false;
    *piece = (uint32_t)strtoul(rest, NULL, 10);
    return true;
}

static bool has_ending(const char *name, const char *ending)
{
    size_t length = strlen(name), size = strlen(ending);

    return length > size && !strcmp(name + length - size, ending);
}

enum ovf_role ovf_reader_role(const struct ovf_reader *r, const char *name, uint32_t *index,
                              uint32_t *piece)
{
    const struct guest *guest = &r->bundle.guest;

    *piece = 0;
    for (*index = 0; *index < guest->disk_count; ++*index) {
        const char *file = guest->disks[*index].file;
        size_t length = strlen(file);
        if (!length || strncmp(name, file, length) != 0)
            continue;
        if (r->package.disks[*index].chunk_bytes ? piece_of(name + length, piece) : !name[length])
            return OVF_ROLE_DISK;
    }
    for (*index = 0; *index < GUEST_FILE_KINDS; ++*index)
        if (*guest->files[*index] && !strcmp(name, guest->files[*index]))
            return OVF_ROLE_FILE;
    if (!strcmp(name, r->ovf_name))
        return OVF_ROLE_OVF;
    if (strchr(name, '/'))
        return OVF_ROLE_OTHER;
    return has_ending(name, ".ovf")    ? OVF_ROLE_OVF
           : has_ending(name, ".mf")   ? OVF_ROLE_MANIFEST
           : has_ending(name, ".cert") ? OVF_ROLE_CERTIFICATE
                                       : OVF_ROLE_OTHER;
}

/* ---- Disks ---- */

int ovf_reader_format(const struct ovf_reader *r, uint32_t index, struct source *source,
                      const struct disk_format **out, struct ferry_error *err)
{
    const struct guest_disk *disk = &r->bundle.guest.disks[index];

    *out = NULL;
    if (*disk->format)
        *out = disk_format_by_name(disk->format);
    else if (source) {
        int error = disk_format_probe(source, out, err);
        if (error)
            return error;
    } else
        *out = &disk_format_vmdk; /* the usual one, which is known by its marks */
    if (!*out)
        return ferry_refuse(err, -EOPNOTSUPP, r->input.about,
                            "does not say of which format '%.100s' is", disk->file);
    return 0;
}

static int pread_zeroes(struct source *source, uint64_t offset, void *data, size_t size,
                        struct ferry_error *err)
{
    if (offset > source->size_bytes || size > source->size_bytes - offset)
        return ferry_refuse(err, -EBADMSG, source->about, "is cut short");
    memset(data, 0, size);
    return 0;
}

static int no_data(struct source *source, uint64_t *start, uint64_t *end)
{
    (void)source;
    (void)start;
    (void)end;
    return 0;
}

static void free_zeroes(struct source *source)
{
    free(source);
}

int ovf_reader_blank(struct ovf_reader *r, uint32_t index, struct ferry_error *err)
{
    struct source *zeroes;

    if (!r->bundle.guest.disks[index].size_bytes)
        return ferry_refuse(err, -EINVAL, r->input.about, "has a disk without file and size");
    zeroes = calloc(1, sizeof(*zeroes));
    if (!zeroes)
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    *zeroes = (struct source){
        .pread = pread_zeroes,
        .next_data = no_data,
        .close = free_zeroes,
        .size_bytes = r->bundle.guest.disks[index].size_bytes,
        .about = r->input.about,
    };
    r->disk_source = zeroes;
    return disk_format_raw.open(zeroes, NULL, &r->disk, err);
}

int ovf_reader_open_stream(struct ovf_reader *r, uint32_t index, uint64_t file_bytes,
                           struct ferry_error *err)
{
    const struct ovf_part *part = &r->package.disks[index];
    const struct disk_format *format;
    bool told = file_bytes != OVF_SIZE_UNKNOWN && !part->gzip;
    struct disk_open_options options = {.size_bytes = told ? 0 : part->capacity_bytes,
                                        .stream_bytes = told ? file_bytes : 0};

    int error = ovf_reader_format(r, index, NULL, &format, err);
    if (!error && !format->open_stream)
        error = ferry_refuse(err, -EOPNOTSUPP, r->input.about,
                             "'%.100s' is a %s disk, which is not read in order: unpack it first",
                             r->bundle.guest.disks[index].file, format->name);
    if (!error && part->gzip)
        error = stream_unwrap(r->disk_below, WRAP_GZIP, &r->disk_stream, err);
    if (error)
        return error;
    return format->open_stream(r->disk_stream ? r->disk_stream : r->disk_below, &options, &r->disk,
                               err);
}

void ovf_reader_opened(struct ovf_reader *r, uint32_t index)
{
    struct guest_disk *disk = &r->bundle.guest.disks[index];
    uint64_t capacity = r->package.disks[index].capacity_bytes;

    if (!r->given[index] && capacity && r->disk->size_bytes != capacity)
        notes_add(&r->notes, "disk %u has %llu bytes, where its description says %llu", index + 1,
                  (unsigned long long)r->disk->size_bytes, (unsigned long long)capacity);
    disk->size_bytes = r->disk->size_bytes;
    r->given[index] = true;
}

void ovf_reader_close_disk(struct ovf_reader *r)
{
    if (r->disk)
        r->disk->format->close(take_ptr(&r->disk));
    stream_close(take_ptr(&r->disk_stream));
    if (r->disk_below && r->disk_below != &r->joined.stream)
        stream_close(r->disk_below);
    r->disk_below = NULL;
    source_close(take_ptr(&r->disk_source));
}

/* ---- The bundle ---- */

void ovf_bundle_close(struct bundle *bundle)
{
    struct ovf_reader *r = bundle->opaque;

    ovf_reader_close_disk(r);
    ovf_random_close(r);
    ovf_stream_close(r);
    ovf_manifest_free(&r->manifest);
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        free(bundle->files[kind].data);
    json_decref(bundle->notes);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static void cleanup_reader(struct ovf_reader **r)
{
    if (*r)
        ovf_bundle_close(&(*r)->bundle);
}

int ovf_bundle_open(const struct bundle_input *input, struct bundle **out, struct ferry_error *err)
{
    CLEANUP(cleanup_reader) struct ovf_reader *r = calloc(1, sizeof(*r));

    if (!r)
        return ferry_fail(err, -ENOMEM, input->about, "out of memory");
    pthread_mutex_init(&r->lock, NULL);
    r->input = *input;
    r->bundle.format = input->folder_fd >= 0 ? &bundle_ovf : &bundle_ova;
    r->bundle.opaque = r;
    r->notes.list = r->bundle.notes = json_array();
    if (!r->notes.list)
        return ferry_fail(err, -ENOMEM, input->about, "out of memory");
    int error = input->stream ? ovf_stream_open(r, err) : ovf_random_open(r, err);
    if (!error)
        *out = &take_ptr(&r)->bundle;
    return error;
}

int ovf_bundle_next_disk(struct bundle *bundle, uint32_t *index, struct disk **disk,
                         struct ferry_error *err)
{
    struct ovf_reader *r = bundle->opaque;

    int more =
        r->stream ? ovf_stream_next_disk(r, index, err) : ovf_random_next_disk(r, index, err);
    if (more == 1) {
        ovf_reader_opened(r, *index);
        *disk = r->disk;
    }
    return more;
}

int ovf_bundle_finish(struct bundle *bundle, struct ferry_error *err)
{
    struct ovf_reader *r = bundle->opaque;

    int error = r->stream ? ovf_stream_finish(r, err) : ovf_random_finish(r, err);
    return error ? error : notes_done(&r->notes, r->input.about, err);
}
