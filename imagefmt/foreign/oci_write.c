/*
 * Machines as OCI artifacts, writing: layers first, then the config, the manifest of both, and last
 * the index, which names the manifest; each is a file that is called by the digest of what is in
 * it.  Where a name can be given afterwards (a folder, an archive in a file) a disk is one layer,
 * compressed once.  Into a pipe it is pieces that are held in memory, or, if so wished, one layer
 * that is compressed twice, the first time for its digest.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "imagefmt/foreign/bundle.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/oci.h"
#include "imagefmt/foreign/oci_bundle.h"
#include "imagefmt/foreign/oci_pieces.h"
#include "imagefmt/foreign/raw_zstd.h"

#define READ_BYTES (1 * MIB)
#define NAME_BYTES 100

struct oci_writer {
    struct container *container;
    const struct bundle_content *content;
    const struct bundle_write_options *options;
    struct bundle_write_result *result;
    const char *about;
    struct guest guest; /* with the sizes that the disks have */
    json_t *layers;
    bool pieces;                    /* there are some: it is no artifact of KubeVirt's */
    uint8_t (*blobs)[SHA256_BYTES]; /* that are there */
    size_t blob_count;
    uint32_t disk; /* at hand */
};

/* ---- Blobs ---- */

static char *blob_name(const uint8_t digest[SHA256_BYTES], char name[NAME_BYTES])
{
    memcpy(name, OCI_BLOBS, sizeof(OCI_BLOBS) - 1);
    hex_encode(digest, SHA256_BYTES, name + sizeof(OCI_BLOBS) - 1);
    return name;
}

static bool has_blob(const struct oci_writer *w, const uint8_t digest[SHA256_BYTES])
{
    for (size_t i = 0; i < w->blob_count; i++)
        if (!memcmp(w->blobs[i], digest, SHA256_BYTES))
            return true;
    return false;
}

static int remember(struct oci_writer *w, const uint8_t digest[SHA256_BYTES],
                    struct ferry_error *err)
{
    if (w->blob_count == LIMIT_OCI_LAYERS)
        return ferry_refuse(err, -EFBIG, w->about,
                            "the disks would be more than %d pieces; write to a file, or whole "
                            "disks (--whole)",
                            LIMIT_OCI_LAYERS);
    if (!w->blobs && !(w->blobs = calloc(LIMIT_OCI_LAYERS, sizeof(*w->blobs))))
        return ferry_fail(err, -ENOMEM, w->about, "out of memory");
    memcpy(w->blobs[w->blob_count++], digest, SHA256_BYTES);
    return 0;
}

/* A blob that is at hand, unless it is there already. */
static int add_blob(struct oci_writer *w, const void *data, size_t size,
                    uint8_t digest[SHA256_BYTES], struct ferry_error *err)
{
    char name[NAME_BYTES];

    sha256(data, size, digest);
    if (has_blob(w, digest))
        return 0;
    int error = container_add(w->container, blob_name(digest, name), data, size, NULL, err);
    return error ? error : remember(w, digest, err);
}

static json_t *descriptor(const char *type, const uint8_t digest[SHA256_BYTES], uint64_t bytes)
{
    char text[OCI_DIGEST_BYTES];

    return json_pack("{s:s, s:s, s:I}", "mediaType", type, "digest",
                     oci_format_digest(digest, text), "size", (json_int_t)bytes);
}

/* One more layer; takes over notes, its annotations. */
static int add_layer(struct oci_writer *w, const char *type, const uint8_t digest[SHA256_BYTES],
                     uint64_t bytes, json_t *notes, struct ferry_error *err)
{
    json_t *layer = descriptor(type, digest, bytes);

    if (json_object_set_new(layer, "annotations", notes) || json_array_append_new(w->layers, layer))
        return ferry_fail(err, -ENOMEM, w->about, "out of memory");
    return 0;
}

/* ---- Disks ---- */

static int copy_disk(struct oci_writer *w, struct disk *disk, struct disk_writer *writer,
                     struct ferry_error *err)
{
    char phase[OCI_DISK_NAME_BYTES];
    const struct disk_copy_options options = {
        .workers = w->options->workers,
        .digest = true, /* it goes into the artifact */
        .phase = oci_disk_name(w->disk, phase),
        .progress = w->options->progress,
    };
    struct disk_copy_result copied;

    int error = disk_copy(disk, writer, disk->size_bytes, &options, &copied, err);
    if (error)
        return error;
    w->result->content_bytes += copied.content_bytes;
    memcpy(w->result->digest[w->disk], copied.digest, SHA256_BYTES);
    return 0;
}

static struct disk_write_options write_options(const struct oci_writer *w, const struct disk *disk)
{
    return (struct disk_write_options){.size_bytes = disk->size_bytes, .level = w->options->level};
}

/*
 * All of disk into sink.  Behind every disk but the first is a frame to skip (RFC 8878, 3.1.2) with
 * its number: no two have one digest, for which there could be only one file.
 */
static int write_whole(struct oci_writer *w, struct disk *disk, struct sink *sink,
                       struct ferry_error *err)
{
    const struct disk_write_options options = write_options(w, disk);
    const uint8_t mark[] = {0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, (uint8_t)w->disk};
    struct disk_writer *writer = NULL;

    int error = disk_format_raw_zstd.create(sink, &options, &writer, err);
    if (error)
        return error;
    error = copy_disk(w, disk, writer, err);
    disk_format_raw_zstd.destroy(writer);
    return error || !w->disk ? error : sink->write(sink, mark, sizeof(mark), err);
}

static json_t *disk_notes(const struct oci_writer *w, uint64_t size)
{
    char name[OCI_DISK_NAME_BYTES], quantity[KUBEVIRT_QUANTITY_BYTES];

    return json_pack("{s:s, s:s}", KUBEVIRT_NOTE_NAME, oci_disk_name(w->disk, name),
                     KUBEVIRT_NOTE_SIZE, kubevirt_format_quantity(size, quantity));
}

static int add_disk_layer(struct oci_writer *w, const struct disk *disk,
                          const uint8_t digest[SHA256_BYTES], uint64_t bytes,
                          struct ferry_error *err)
{
    char name[OCI_DISK_NAME_BYTES];
    json_t *notes = disk_notes(w, disk->size_bytes);

    json_object_set_new(notes, OCI_NOTE_TITLE,
                        json_sprintf("%s.raw.zst", oci_disk_name(w->disk, name)));
    return add_layer(w, KUBEVIRT_TYPE_DISK, digest, bytes, notes, err);
}

static int write_once(struct oci_writer *w, struct disk *disk, struct ferry_error *err)
{
    uint8_t digest[SHA256_BYTES];
    char name[NAME_BYTES];
    struct sink *sink;
    uint64_t bytes = 0;

    snprintf(name, sizeof(name), OCI_BLOBS "disk%u", w->disk);
    int error = container_begin(w->container, name, CONTAINER_UNKNOWN, &sink, err);
    if (!error)
        error = write_whole(w, disk, sink, err);
    if (!error)
        error = container_end(w->container, digest, &bytes, err);
    if (!error)
        error = container_rename(w->container, blob_name(digest, name), err);
    if (!error)
        error = remember(w, digest, err);
    return error ? error : add_disk_layer(w, disk, digest, bytes, err);
}

/* A sink that keeps nothing but the sum. */
struct sum_sink {
    struct sink sink;
    struct sha256 *sum;
};

static int sum_write(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    (void)err;
    sha256_update(((struct sum_sink *)sink)->sum, data, size);
    sink->position += size;
    return 0;
}

static int write_twice(struct oci_writer *w, struct disk *disk, struct ferry_error *err)
{
    struct sum_sink first = {.sink = {.write = sum_write, .about = w->about}, .sum = sha256_new()};
    uint8_t digest[SHA256_BYTES], again[SHA256_BYTES];
    uint64_t content = w->result->content_bytes;
    char name[NAME_BYTES];
    struct sink *sink;

    if (!first.sum)
        return ferry_fail(err, -ENOMEM, w->about, "out of memory");
    int error = write_whole(w, disk, &first.sink, err);
    sha256_final(first.sum, digest);
    if (!error)
        error = w->content->disk(w->content->opaque, w->disk, &disk, err);
    if (!error)
        error =
            container_begin(w->container, blob_name(digest, name), first.sink.position, &sink, err);
    w->result->content_bytes = content;
    if (!error)
        error = write_whole(w, disk, sink, err);
    if (!error)
        error = container_end(w->container, again, NULL, err);
    if (!error && memcmp(digest, again, SHA256_BYTES))
        error = ferry_fail(err, -EIO, w->about, "disk %u changed while it was written", w->disk);
    if (!error)
        error = remember(w, digest, err);
    return error ? error : add_disk_layer(w, disk, digest, first.sink.position, err);
}

struct piece_taker {
    struct oci_writer *w;
    const struct disk *disk;
};

static int take_piece(void *opaque, const struct oci_piece *piece, struct ferry_error *err)
{
    const struct piece_taker *taker = opaque;
    struct oci_writer *w = taker->w;
    uint8_t digest[SHA256_BYTES];
    char name[OCI_DISK_NAME_BYTES];

    int error = add_blob(w, piece->data, piece->size, digest, err);
    if (error || (!piece->number && piece->last))
        return error ? error : add_disk_layer(w, taker->disk, digest, piece->size, err);
    w->pieces = true;
    json_t *notes = disk_notes(w, taker->disk->size_bytes);
    json_object_set_new(notes, FERRY_NOTE_OFFSET,
                        json_sprintf("%llu", (unsigned long long)piece->offset));
    json_object_set_new(notes, FERRY_NOTE_PIECE, json_sprintf("%u", piece->number));
    json_object_set_new(
        notes, OCI_NOTE_TITLE,
        json_sprintf("%s.%05u.raw.zst", oci_disk_name(w->disk, name), piece->number));
    return add_layer(w, FERRY_TYPE_PIECE, digest, piece->size, notes, err);
}

static int write_pieces(struct oci_writer *w, struct disk *disk, struct ferry_error *err)
{
    const struct disk_write_options options = write_options(w, disk);
    struct piece_taker taker = {.w = w, .disk = disk};
    struct disk_writer *writer = NULL;

    int error = oci_pieces_create(&options, w->about, take_piece, &taker, &writer, err);
    if (error)
        return error;
    error = copy_disk(w, disk, writer, err);
    writer->format->destroy(writer);
    return error;
}

/* What is known of a disk when it is written, at its first layer. */
static void note_digest(struct oci_writer *w, size_t layer)
{
    json_t *notes = json_object_get(json_array_get(w->layers, layer), "annotations");
    char text[2 * SHA256_BYTES + 1];

    json_object_set_new(notes, FERRY_NOTE_DIGEST,
                        json_string(hex_encode(w->result->digest[w->disk], SHA256_BYTES, text)));
}

static int write_disks(struct oci_writer *w, struct ferry_error *err)
{
    int error = 0;

    for (w->disk = 0; !error && w->disk < w->guest.disk_count; w->disk++) {
        size_t layer = json_array_size(w->layers);
        struct disk *disk = NULL;
        error = w->content->disk(w->content->opaque, w->disk, &disk, err);
        if (error)
            return error;
        w->guest.disks[w->disk].size_bytes = disk->size_bytes;
        if (container_can_patch(w->container))
            error = write_once(w, disk, err);
        else if (w->options->whole)
            error = write_twice(w, disk, err);
        else
            error = write_pieces(w, disk, err);
        note_digest(w, layer);
    }
    return error;
}

/* ---- Files ---- */

static int sum_source(struct source *source, uint8_t digest[SHA256_BYTES], struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *buffer = malloc(READ_BYTES);
    struct sha256 *sum = sha256_new();
    int error = buffer && sum ? 0 : ferry_fail(err, -ENOMEM, source->about, "out of memory");

    for (uint64_t at = 0, part; !error && at < source->size_bytes; at += part) {
        part = source->size_bytes - at < READ_BYTES ? source->size_bytes - at : READ_BYTES;
        error = source->pread(source, at, buffer, part, err);
        if (!error)
            sha256_update(sum, buffer, part);
    }
    if (error)
        sha256_free(sum);
    else
        sha256_final(sum, digest);
    return error;
}

static int copy_file(struct oci_writer *w, struct source *source,
                     const uint8_t digest[SHA256_BYTES], struct ferry_error *err)
{
    uint8_t again[SHA256_BYTES];
    char name[NAME_BYTES];

    int error = bundle_add_source(w->container, blob_name(digest, name), source, again, err);
    if (!error && memcmp(digest, again, SHA256_BYTES))
        error = ferry_fail(err, -EIO, source->about, "changed while it was written");
    return error ? error : remember(w, digest, err);
}

static int write_file(struct oci_writer *w, enum guest_file_kind kind, struct ferry_error *err)
{
    struct source *source = w->content->files[kind];
    uint8_t digest[SHA256_BYTES];

    int error = sum_source(source, digest, err);
    if (!error && !has_blob(w, digest))
        error = copy_file(w, source, digest, err);
    return error ? error
                 : add_layer(w, oci_file_type(kind), digest, source->size_bytes,
                             json_pack("{s:s}", OCI_NOTE_TITLE, guest_file_name(kind)), err);
}

/* ---- What names the blobs ---- */

/* Takes over json. */
static int add_json(struct oci_writer *w, json_t *json, const char *type, json_t **named,
                    struct ferry_error *err)
{
    CLEANUP_FREE char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    uint8_t digest[SHA256_BYTES];

    json_decref(json);
    if (!text)
        return ferry_fail(err, -ENOMEM, w->about, "out of memory");
    int error = add_blob(w, text, strlen(text), digest, err);
    *named = error ? NULL : descriptor(type, digest, strlen(text));
    return error || *named ? error : ferry_fail(err, -ENOMEM, w->about, "out of memory");
}

static const char *artifact_type(const struct oci_writer *w)
{
    return w->pieces ? FERRY_TYPE_MACHINE : KUBEVIRT_TYPE_MACHINE;
}

static int write_manifest(struct oci_writer *w, json_t **named, struct ferry_error *err)
{
    struct notes unread = {0};
    json_t *machine = NULL, *config = NULL;
    CLEANUP_FREE char *note = NULL;

    int error = kubevirt_write(&w->guest, &unread, &machine, err);
    if (!error)
        error = add_json(w, machine, KUBEVIRT_TYPE_CONFIG, &config, err);
    if (!error)
        error = oci_machine_encode(&w->guest, json_string_value(json_object_get(config, "digest")),
                                   &note, err);
    if (error) {
        json_decref(config);
        return error;
    }
    return add_json(w,
                    json_pack("{s:i, s:s, s:s, s:o, s:O, s:{s:s, s:s}}", "schemaVersion", 2,
                              "mediaType", OCI_TYPE_MANIFEST, "artifactType", artifact_type(w),
                              "config", config, "layers", w->layers, "annotations", OCI_NOTE_TITLE,
                              w->guest.name, FERRY_NOTE_MACHINE, note),
                    OCI_TYPE_MANIFEST, named, err);
}

static int write_index(struct oci_writer *w, json_t *manifest, struct ferry_error *err)
{
    int failed = json_object_set_new(
        manifest, "platform", json_pack("{s:s, s:s}", "architecture", "amd64", "os", "linux"));
    CLEANUP(json_cleanup)
    json_t *index =
        json_pack("{s:i, s:s, s:s, s:[o]}", "schemaVersion", 2, "mediaType", OCI_TYPE_INDEX,
                  "artifactType", artifact_type(w), "manifests", manifest);
    CLEANUP_FREE char *text = index && !failed ? json_dumps(index, JSON_COMPACT) : NULL;

    if (!text)
        return ferry_fail(err, -ENOMEM, w->about, "out of memory");
    return container_add(w->container, OCI_INDEX_FILE, text, strlen(text), NULL, err);
}

/* ---- The whole ---- */

static int check_options(const struct bundle_content *content,
                         const struct bundle_write_options *options, bool patch,
                         struct ferry_error *err)
{
    if (options->disk_format && strcmp(options->disk_format, "raw"))
        return ferry_usage(err, "oci", "disks are raw in zstd, not %s", options->disk_format);
    if (options->codec && strcmp(options->codec, "zstd"))
        return ferry_usage(err, "oci", "disks are in zstd, not in %s", options->codec);
    if (options->whole && !patch && !content->reread)
        return ferry_usage(err, "oci",
                           "whole disks into a pipe must be read twice, and these cannot be");
    return 0;
}

static int write_all_of_it(struct oci_writer *w, struct ferry_error *err)
{
    json_t *manifest = NULL;

    int error =
        container_add(w->container, OCI_LAYOUT_FILE, OCI_LAYOUT, strlen(OCI_LAYOUT), NULL, err);
    if (!error)
        error = write_disks(w, err);
    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++)
        if (w->content->files[kind])
            error = write_file(w, (enum guest_file_kind)kind, err);
    if (!error)
        error = write_manifest(w, &manifest, err);
    if (!error)
        error = write_index(w, manifest, err);
    return error ? error : container_finish(w->container, &w->result->bytes, err);
}

static void close_writer(struct oci_writer *w)
{
    container_destroy(w->container);
    json_decref(w->layers);
    free(w->blobs);
}

int oci_write(const struct bundle_output *output, const struct bundle_content *content,
              const struct bundle_write_options *options, struct bundle_write_result *result,
              struct ferry_error *err)
{
    CLEANUP(close_writer)
    struct oci_writer w = {
        .content = content,
        .options = options,
        .result = result,
        .about = output->about,
        .guest = *content->guest,
        .layers = json_array(),
    };

    *result = (struct bundle_write_result){0};
    if (!w.layers)
        return ferry_fail(err, -ENOMEM, w.about, "out of memory");
    int error = output->sink
                    ? container_create_tar(output->sink, &w.container, err)
                    : container_create_folder(output->folder_fd, w.about, &w.container, err);
    if (!error)
        error = check_options(content, options, container_can_patch(w.container), err);
    return error ? error : write_all_of_it(&w, err);
}

int oci_losses(const struct bundle_content *content, json_t *notes, struct ferry_error *err)
{
    struct notes n = {.list = notes};
    json_t *unused = NULL;

    int error = kubevirt_write(content->guest, &n, &unused, err);
    json_decref(unused);
    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++)
        if (content->files[kind])
            notes_add(&n, "KubeVirt does not know the layer with the %s, and may refuse it",
                      guest_file_name((enum guest_file_kind)kind));
    return error ? error : notes_done(&n, NULL, err);
}
