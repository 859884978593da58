/*
 * Machines as OCI artifacts, reading: from the index to the one manifest for amd64, from it to the
 * config and the layers.  Each blob is of the size and digest that what names it says; disks are
 * compared while they are read.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "imagefmt/foreign/oci.h"
#include "imagefmt/foreign/oci_blobs.h"
#include "imagefmt/foreign/oci_bundle.h"
#include "imagefmt/foreign/raw_zstd.h"
#include "imagefmt/foreign/stream.h"

#define NESTED_INDEXES 2
#define LAYOUT_BYTES   4096

/* A disk: one layer, or several pieces. */
struct oci_disk {
    char name[256];
    size_t first, count; /* of its blobs */
    uint64_t size_bytes;
    bool sized;      /* size_bytes is known */
    uint64_t offset; /* of the last piece so far */
};

struct oci {
    struct bundle bundle;
    const char *about;
    struct container_index *index;
    struct notes notes;
    json_t *manifest, *config;
    char config_digest[OCI_DIGEST_BYTES];
    struct oci_blob *blobs; /* of disks */
    size_t blob_count;
    struct oci_disk disks[LIMIT_DISKS]; /* as in the manifest */
    uint32_t disk_count;
    uint32_t order[LIMIT_DISKS]; /* of the guest: which of disks it is */
    uint32_t next;
    struct stream *stream; /* of the disk at hand */
    struct disk *disk;
};

/* ---- From the index to the manifest ---- */

static int load_member(struct oci *o, const char *name, size_t most, json_t **out,
                       struct ferry_error *err)
{
    const struct container_member *member = container_find(o->index, name);
    CLEANUP_FREE uint8_t *data = NULL;
    size_t size;

    if (!member)
        return ferry_refuse(err, -ENOENT, o->about, "is no OCI layout: it has no '%s'", name);
    int error = container_load(o->index, member, most, &data, &size, err);
    return error ? error
                 : json_parse_object((const char *)data, size, most, o->about, name, out, err);
}

static int check_layout(struct oci *o, struct ferry_error *err)
{
    CLEANUP(json_cleanup) json_t *layout = NULL;
    char text[SHOWN_BYTES];

    int error = load_member(o, OCI_LAYOUT_FILE, LAYOUT_BYTES, &layout, err);
    if (error)
        return error;
    const char *version = json_string_value(json_object_get(layout, "imageLayoutVersion"));
    return version && !strcmp(version, "1.0.0")
               ? 0
               : ferry_refuse(err, -EOPNOTSUPP, o->about, "is an OCI layout of version '%s'",
                              shown(version ? version : "", text));
}

/* Could this entry of an index be ours?  What says nothing of a platform could. */
static bool for_us(const json_t *entry)
{
    const json_t *platform = json_object_get(entry, "platform");
    const char *architecture = json_string_value(json_object_get(platform, "architecture"));

    return !architecture || !strcmp(architecture, "amd64");
}

static int choose(const struct oci *o, const json_t *index, const json_t **out,
                  struct ferry_error *err)
{
    const json_t *manifests = json_object_get(index, "manifests");
    size_t i, found = 0;
    json_t *entry;

    json_array_foreach(manifests, i, entry)
    {
        if (!for_us(entry))
            continue;
        *out = entry;
        found++;
    }
    if (found == 1)
        return 0;
    return ferry_refuse(err, -EBADMSG, o->about,
                        found ? "has %zu machines for amd64; take the one out that you mean, for "
                                "example with 'skopeo copy'"
                              : "has no machine for amd64 among its %zu",
                        found ? found : json_array_size(manifests));
}

static int refuse_containers(const struct oci *o, struct ferry_error *err)
{
    return ferry_refuse(err, -EOPNOTSUPP, o->about,
                        "is an image of a container, not a machine; if it is a containerDisk, "
                        "unpack its layer with tar and import what lies in disk/");
}

static int find_manifest(struct oci *o, struct ferry_error *err)
{
    CLEANUP(json_cleanup) json_t *index = NULL;

    int error = load_member(o, OCI_INDEX_FILE, LIMIT_DESCRIPTION_BYTES, &index, err);
    for (int depth = 0; !error && depth < NESTED_INDEXES; depth++) {
        const json_t *entry = NULL;
        char text[SHOWN_BYTES];
        json_t *below = NULL;
        error = choose(o, index, &entry, err);
        if (error)
            return error;
        const char *type = oci_descriptor_type(entry);
        if (!strcmp(type, OCI_TYPE_MANIFEST))
            return oci_blob_json(o->index, entry, o->about, "the manifest", &o->manifest, NULL,
                                 err);
        if (!strncmp(type, DOCKER_TYPE_PREFIX, strlen(DOCKER_TYPE_PREFIX)))
            return refuse_containers(o, err);
        if (strcmp(type, OCI_TYPE_INDEX))
            return ferry_refuse(err, -EOPNOTSUPP, o->about, "its index names a '%s'",
                                shown(type, text));
        error = oci_blob_json(o->index, entry, o->about, "an index", &below, NULL, err);
        json_decref(index);
        index = below;
    }
    return error ? error : ferry_refuse(err, -ELOOP, o->about, "has indexes of indexes of indexes");
}

/* ---- The manifest ---- */

static bool is_container_layer(const char *type)
{
    return !strncmp(type, OCI_TYPE_LAYER_PREFIX, strlen(OCI_TYPE_LAYER_PREFIX)) ||
           !strncmp(type, DOCKER_TYPE_PREFIX, strlen(DOCKER_TYPE_PREFIX));
}

static int check_kind(const struct oci *o, struct ferry_error *err)
{
    const char *kind = json_string_value(json_object_get(o->manifest, "artifactType"));
    const json_t *config = json_object_get(o->manifest, "config");
    const json_t *first = json_array_get(json_object_get(o->manifest, "layers"), 0);
    char text[SHOWN_BYTES];

    if (is_container_layer(oci_descriptor_type(first)))
        return refuse_containers(o, err);
    if (kind && !strcmp(kind, KUBEVIRT_TYPE_TEMPLATE))
        return ferry_refuse(err, -EOPNOTSUPP, o->about,
                            "is a template with parameters, not a machine; make a machine of it in "
                            "its cluster and export that");
    if (!kind || (strcmp(kind, KUBEVIRT_TYPE_MACHINE) && strcmp(kind, FERRY_TYPE_MACHINE)))
        return ferry_refuse(err, -EOPNOTSUPP, o->about,
                            "is an artifact of the kind '%s', which is "
                            "no machine",
                            shown(kind ? kind : "", text));
    if (strcmp(oci_descriptor_type(config), KUBEVIRT_TYPE_CONFIG))
        return ferry_refuse(err, -EOPNOTSUPP, o->about, "its config is a '%s'",
                            shown(oci_descriptor_type(config), text));
    return 0;
}

static int read_number(const char *text, uint64_t *value)
{
    return text ? describe_number(text, value) : -EINVAL;
}

static struct oci_disk *new_disk(struct oci *o, const char *name, struct ferry_error *err)
{
    char text[SHOWN_BYTES];

    if (!name || !*name || strlen(name) >= sizeof(o->disks->name)) {
        ferry_refuse(err, -EBADMSG, o->about, "has a disk without a proper name");
        return NULL;
    }
    for (uint32_t i = 0; i < o->disk_count; i++)
        if (!strcmp(o->disks[i].name, name)) {
            ferry_refuse(err, -EBADMSG, o->about, "has two disks '%s'", shown(name, text));
            return NULL;
        }
    if (o->disk_count == LIMIT_DISKS) {
        ferry_refuse(err, -EBADMSG, o->about, "has more than %d disks", LIMIT_DISKS);
        return NULL;
    }
    struct oci_disk *disk = &o->disks[o->disk_count++];
    memcpy(disk->name, name, strlen(name) + 1);
    disk->first = o->blob_count;
    return disk;
}

static int add_disk(struct oci *o, const json_t *layer, bool piece, struct ferry_error *err)
{
    const char *name = oci_descriptor_note(layer, KUBEVIRT_NOTE_NAME);
    const char *size = oci_descriptor_note(layer, KUBEVIRT_NOTE_SIZE);
    struct oci_disk *disk = o->disk_count ? &o->disks[o->disk_count - 1] : NULL;
    uint64_t offset = 0;

    if (piece && read_number(oci_descriptor_note(layer, FERRY_NOTE_OFFSET), &offset))
        return ferry_refuse(err, -EBADMSG, o->about, "has a piece of a disk without its offset");
    if (!piece || !offset)
        disk = new_disk(o, name, err);
    else if (!disk || !name || strcmp(disk->name, name) || offset <= disk->offset)
        return ferry_refuse(err, -EBADMSG, o->about, "has pieces of disks in disorder");
    if (!disk)
        return -EBADMSG;
    disk->offset = offset;
    if (size &&
        (kubevirt_parse_quantity(size, &disk->size_bytes) || disk->size_bytes > LIMIT_DISK_BYTES))
        return ferry_refuse(err, -EBADMSG, o->about, "has a disk of a size that makes no sense");
    disk->sized = size != NULL;
    disk->count++;
    return oci_blob_find(o->index, layer, o->about, &o->blobs[o->blob_count++], err);
}

static int add_file(struct oci *o, const json_t *layer, enum guest_file_kind kind,
                    struct ferry_error *err)
{
    if (o->bundle.files[kind].data)
        return ferry_refuse(err, -EBADMSG, o->about, "has two layers with a %s",
                            guest_file_name(kind));
    return oci_blob_load(o->index, layer, bundle_file_most(kind), o->about,
                         &o->bundle.files[kind].data, &o->bundle.files[kind].size, err);
}

static int add_layer(struct oci *o, const json_t *layer, struct ferry_error *err)
{
    const char *type = oci_descriptor_type(layer);
    char text[SHOWN_BYTES];

    if (!strcmp(type, KUBEVIRT_TYPE_DISK) || !strcmp(type, FERRY_TYPE_PIECE))
        return add_disk(o, layer, !strcmp(type, FERRY_TYPE_PIECE), err);
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        if (!strcmp(type, oci_file_type((enum guest_file_kind)kind)))
            return add_file(o, layer, (enum guest_file_kind)kind, err);
    return ferry_refuse(err, -EOPNOTSUPP, o->about, "has a layer of a kind that is not known: '%s'",
                        shown(type, text));
}

static int read_layers(struct oci *o, struct ferry_error *err)
{
    const json_t *layers = json_object_get(o->manifest, "layers");
    size_t count = json_array_size(layers);
    int error = 0;

    if (count > LIMIT_OCI_LAYERS + GUEST_FILE_KINDS)
        return ferry_refuse(err, -EBADMSG, o->about, "has %zu layers, more than %d", count,
                            LIMIT_OCI_LAYERS);
    if (!(o->blobs = calloc(count + 1, sizeof(*o->blobs))))
        return ferry_fail(err, -ENOMEM, o->about, "out of memory");
    for (size_t i = 0; !error && i < count; i++)
        error = add_layer(o, json_array_get(layers, i), err);
    return error;
}

/* ---- The machine ---- */

static int read_config(struct oci *o, struct ferry_error *err)
{
    CLEANUP(json_cleanup) json_t *names = json_array();
    int failed = !names;

    for (uint32_t i = 0; i < o->disk_count; i++)
        failed |= json_array_append_new(names, json_string(o->disks[i].name));
    return failed ? ferry_fail(err, -ENOMEM, o->about, "out of memory")
                  : kubevirt_read(o->config, names, o->about, &o->bundle.guest, &o->notes, err);
}

static int read_machine(struct oci *o, struct ferry_error *err)
{
    const char *whole = oci_descriptor_note(o->manifest, FERRY_NOTE_MACHINE);
    struct guest *guest = &o->bundle.guest;

    int ours = whole ? oci_machine_decode(whole, o->config_digest, o->about, guest, err) : 0;
    if (ours < 0)
        return ours;
    if (!ours && whole)
        notes_add(&o->notes, "its config was changed since ferry wrote it, and is what counts");
    int error = ours ? 0 : read_config(o, err);
    for (uint32_t i = 0; ours && i < guest->disk_count; i++)
        oci_disk_name(i, guest->disks[i].file);
    return error;
}

/* Which of the disks in the manifest each disk of the guest is. */
static int match_disks(struct oci *o, struct ferry_error *err)
{
    struct guest *guest = &o->bundle.guest;

    if (guest->disk_count != o->disk_count)
        return ferry_refuse(err, -EBADMSG, o->about, "describes %u disks and has %u",
                            guest->disk_count, o->disk_count);
    for (uint32_t i = 0; i < guest->disk_count; i++) {
        uint32_t k = 0;
        while (k < o->disk_count && strcmp(o->disks[k].name, guest->disks[i].file))
            k++;
        if (k == o->disk_count)
            return ferry_refuse(err, -EBADMSG, o->about, "has no layer for its disk %u", i);
        o->order[i] = k;
        guest->disks[i].size_bytes = o->disks[k].size_bytes;
        memcpy(guest->disks[i].format, "raw", 4);
    }
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        if (o->bundle.files[kind].data)
            snprintf(guest->files[kind], sizeof(guest->files[kind]), "%s",
                     guest_file_name((enum guest_file_kind)kind));
    return 0;
}

/* ---- The bundle ---- */

static int read_artifact(struct oci *o, struct ferry_error *err)
{
    int error = check_layout(o, err);

    if (!error)
        error = find_manifest(o, err);
    if (!error)
        error = check_kind(o, err);
    if (!error)
        error = oci_blob_json(o->index, json_object_get(o->manifest, "config"), o->about,
                              "the config", &o->config, o->config_digest, err);
    if (!error)
        error = read_layers(o, err);
    if (!error)
        error = read_machine(o, err);
    if (!error)
        error = match_disks(o, err);
    return error ? error : notes_done(&o->notes, o->about, err);
}

static void close_disk(struct oci *o)
{
    if (o->disk)
        o->disk->format->close(take_ptr(&o->disk));
    stream_cleanup(&o->stream);
    o->stream = NULL;
}

void oci_close(struct bundle *bundle)
{
    struct oci *o = bundle->opaque;

    close_disk(o);
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        free(bundle->files[kind].data);
    json_decref(o->manifest);
    json_decref(o->config);
    json_decref(bundle->notes);
    free(o->blobs);
    container_index_close(o->index);
    free(o);
}

int oci_open(const struct bundle_format *format, const struct bundle_input *input,
             struct bundle **out, struct ferry_error *err)
{
    if (input->stream)
        return ferry_refuse(err, -ESPIPE, input->about,
                            "an OCI artifact cannot be read from a pipe, or from what is "
                            "compressed: what names its parts may come last; put it into a file");
    struct oci *o = calloc(1, sizeof(*o));
    json_t *notes = json_array();
    if (!o || !notes) {
        free(o);
        json_decref(notes);
        return ferry_fail(err, -ENOMEM, input->about, "out of memory");
    }
    o->bundle = (struct bundle){.format = format, .notes = notes, .opaque = o};
    o->notes.list = notes;
    o->about = input->about;
    int error =
        input->source
            ? container_index_tar(input->source, LIMIT_OCI_MEMBERS, &o->index, err)
            : container_index_folder(input->folder_fd, o->about, LIMIT_OCI_MEMBERS, &o->index, err);
    if (!error)
        error = read_artifact(o, err);
    if (error)
        oci_close(&o->bundle);
    else
        *out = &o->bundle;
    return error;
}

static int measure(struct oci *o, struct oci_disk *disk, struct ferry_error *err)
{
    CLEANUP(stream_cleanup) struct stream *stream = NULL;

    int error =
        oci_blobs_stream(o->index, o->blobs + disk->first, disk->count, o->about, &stream, err);
    if (!error)
        error = raw_zstd_measure(stream, &disk->size_bytes, err);
    disk->sized = !error;
    return error;
}

int oci_next_disk(struct bundle *bundle, uint32_t *index, struct disk **disk,
                  struct ferry_error *err)
{
    struct oci *o = bundle->opaque;

    close_disk(o);
    if (o->next == o->disk_count)
        return 0;
    struct oci_disk *d = &o->disks[o->order[o->next]];
    int error = d->sized ? 0 : measure(o, d, err);
    if (!error)
        error =
            oci_blobs_stream(o->index, o->blobs + d->first, d->count, o->about, &o->stream, err);
    if (error)
        return error;
    const struct disk_open_options options = {.size_bytes = d->size_bytes};
    error = disk_format_raw_zstd.open_stream(o->stream, &options, &o->disk, err);
    if (error)
        return error;
    bundle->guest.disks[o->next].size_bytes = d->size_bytes;
    *index = o->next++;
    *disk = o->disk;
    return 1;
}

int oci_finish(struct bundle *bundle, struct ferry_error *err)
{
    struct oci *o = bundle->opaque;
    int error = o->disk ? o->disk->format->drain(o->disk, err) : 0;

    return error ? error : oci_blobs_check(o->index, o->blobs, o->blob_count, o->about, err);
}
