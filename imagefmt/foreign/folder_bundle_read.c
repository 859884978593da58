/*
 * Bundles of plain files, reading: the one description in the folder, and the disks and files that
 * it names, by names without a folder, which are looked up among the plain files that lie beside
 * it.  A disk that builds on another file is refused by its format.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/describe.h"
#include "imagefmt/foreign/folder_bundle.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/source.h"

struct folder_reader {
    struct bundle bundle;
    const char *about;
    struct container_index *index;
    uint32_t next;
    struct source *source; /* of the disk at hand */
    struct source *flat;   /* where its content is, if that is another file */
    struct disk *disk;
};

/* ---- Names ---- */

/* The one file in the folder itself whose name ends like this. */
static int find_description(const struct folder_reader *r, const char *extension,
                            const struct container_member **out, struct ferry_error *err)
{
    *out = NULL;
    for (uint64_t i = 0; i < container_members(r->index); i++) {
        const struct container_member *member = container_member(r->index, i);
        const char *dot = strrchr(member->name, '.');
        if (strchr(member->name, '/') || !dot || strcmp(dot, extension) != 0)
            continue;
        if (*out)
            return ferry_refuse(err, -EBADMSG, r->about,
                                "has two descriptions: '%.100s' and '%.100s'", (*out)->name,
                                member->name);
        *out = member;
    }
    return *out ? 0 : ferry_refuse(err, -ENOENT, r->about, "has no file *%s", extension);
}

/* The file that the description names: it lies beside it, or it is none of ours. */
static const struct container_member *beside(const struct folder_reader *r, const char *name)
{
    if (!strncmp(name, "./", 2))
        name += 2;
    return strchr(name, '/') || strchr(name, '\\') ? NULL : container_find(r->index, name);
}

static int not_beside(const struct folder_reader *r, const char *name, struct ferry_error *err)
{
    char text[SHOWN_BYTES];

    return ferry_refuse(err, -ENOENT, r->about,
                        "names the file '%s', which is not beside its description; put it there, "
                        "and name it without a folder",
                        shown(name, text));
}

/* ---- Opening ---- */

static int read_description(struct folder_reader *r, const struct description_format *format,
                            struct ferry_error *err)
{
    const struct container_member *member;
    CLEANUP_FREE uint8_t *text = NULL;
    size_t size;

    int error = find_description(r, format->extension, &member, err);
    if (!error)
        error = container_load(r->index, member, LIMIT_DESCRIPTION_BYTES, &text, &size, err);
    if (!error)
        error = format->read((const char *)text, size, r->about, &r->bundle.guest, r->bundle.notes,
                             err);
    return error ? error : guest_check(&r->bundle.guest, r->about, err);
}

static int load_file(struct folder_reader *r, enum guest_file_kind kind, struct notes *notes,
                     struct ferry_error *err)
{
    char *name = r->bundle.guest.files[kind];
    const struct container_member *member = beside(r, name);

    if (member)
        return container_load(r->index, member, bundle_file_most(kind), &r->bundle.files[kind].data,
                              &r->bundle.files[kind].size, err);
    if (kind != GUEST_NVRAM)
        return not_beside(r, name, err);
    /* Hosts keep these in a folder of their own; without them a machine begins with new ones. */
    notes_add(notes,
              "the variables of the firmware (%.100s) are not beside the description, and "
              "are not kept",
              name);
    *name = 0;
    return 0;
}

static int load_files(struct folder_reader *r, struct ferry_error *err)
{
    struct notes notes = {.list = r->bundle.notes};
    int error = 0;

    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++)
        if (*r->bundle.guest.files[kind])
            error = load_file(r, (enum guest_file_kind)kind, &notes, err);
    return error ? error : notes_done(&notes, r->about, err);
}

static void close_disk(struct folder_reader *r)
{
    if (r->disk)
        r->disk->format->close(take_ptr(&r->disk));
    source_close(take_ptr(&r->source));
    source_close(take_ptr(&r->flat));
}

/*
 * NAME.vmdk may be a text that says that the content is in NAME-flat.vmdk, which is what VMware
 * calls it: that file and no other is taken, and only if it is the one that the text names.
 */
static int open_flat(struct folder_reader *r, const char *name, struct ferry_error *err)
{
    char flat[LIMIT_MEMBER_NAME_BYTES + 16];
    size_t stem = strlen(name) - strlen(disk_format_vmdk.extension);

    snprintf(flat, sizeof(flat), "%.*s-flat.vmdk", (int)stem, name);
    const struct container_member *member = container_find(r->index, flat);
    int error = member ? container_source(r->index, member, &r->flat, err)
                       : ferry_refuse(err, -ENOENT, r->about,
                                      "the content of the disk '%.100s' is in another file; only "
                                      "'%.100s' is looked for, and is not beside it",
                                      name, flat);
    const struct disk_open_options options = {.external = r->flat};
    if (!error)
        error = disk_format_vmdk.open(r->source, &options, &r->disk, err);
    if (error)
        return error;
    CLEANUP(json_cleanup) json_t *said = disk_format_vmdk.describe(r->disk);
    const char *external = json_string_value(json_object_get(said, "external"));
    return external && !strcmp(external, flat)
               ? 0
               : ferry_refuse(err, -ENOENT, r->about,
                              "the content of the disk '%.100s' is in another file than '%.100s'",
                              name, flat);
}

static bool is_flat(const struct disk_format *format, const char *name, int error)
{
    size_t length = strlen(name), size = strlen(disk_format_vmdk.extension);

    return error == -EPERM && format == &disk_format_vmdk && length > size &&
           !strcmp(name + length - size, disk_format_vmdk.extension);
}

static int open_disk(struct folder_reader *r, uint32_t index, struct ferry_error *err)
{
    const struct guest_disk *disk = &r->bundle.guest.disks[index];
    const struct container_member *member = beside(r, disk->file);
    const struct disk_format *format = disk_format_by_name(disk->format);
    const struct disk_open_options none = {0};
    struct ferry_error first = {0};

    if (!member)
        return not_beside(r, disk->file, err);
    int error = container_source(r->index, member, &r->source, err);
    if (!error && !*disk->format)
        error = disk_format_probe(r->source, &format, err);
    if (error)
        return error;
    if (!format)
        return ferry_refuse(err, -EOPNOTSUPP, r->about,
                            "does not say what format the disk '%.100s' has, and it bears the "
                            "marks of none; a raw disk must be called one",
                            member->name);
    error = format->open(r->source, &none, &r->disk, &first);
    if (is_flat(format, member->name, error))
        return open_flat(r, member->name, err);
    if (error && err)
        *err = first;
    return error;
}

/* Their sizes are known at once, and what cannot be read is told before anything is. */
static int look_at_disks(struct folder_reader *r, struct ferry_error *err)
{
    struct guest *guest = &r->bundle.guest;

    for (uint32_t i = 0; i < guest->disk_count; i++) {
        int error = open_disk(r, i, err);
        if (!error)
            guest->disks[i].size_bytes = r->disk->size_bytes;
        close_disk(r);
        if (error)
            return error;
    }
    return 0;
}

void folder_bundle_close(struct bundle *bundle)
{
    struct folder_reader *r = bundle->opaque;

    close_disk(r);
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        free(bundle->files[kind].data);
    json_decref(bundle->notes);
    container_index_close(r->index);
    free(r);
}

int folder_bundle_open(const struct folder_shape *shape, const struct bundle_input *input,
                       struct bundle **out, struct ferry_error *err)
{
    struct folder_reader *r = calloc(1, sizeof(*r));
    json_t *notes = json_array();

    if (!r || !notes) {
        free(r);
        json_decref(notes);
        return ferry_fail(err, -ENOMEM, input->about, "out of memory");
    }
    r->bundle = (struct bundle){.format = shape->format, .notes = notes, .opaque = r};
    r->about = input->about;
    int error =
        container_index_folder(input->folder_fd, r->about, (uint64_t)LIMIT_MEMBERS, &r->index, err);
    if (!error)
        error = read_description(r, shape->description, err);
    if (!error)
        error = load_files(r, err);
    if (!error)
        error = look_at_disks(r, err);
    if (error)
        folder_bundle_close(&r->bundle);
    else
        *out = &r->bundle;
    return error;
}

/* ---- Disks ---- */

int folder_bundle_next_disk(struct bundle *bundle, uint32_t *index, struct disk **disk,
                            struct ferry_error *err)
{
    struct folder_reader *r = bundle->opaque;

    close_disk(r);
    if (r->next == bundle->guest.disk_count)
        return 0;
    int error = open_disk(r, r->next, err);
    if (error)
        return error;
    bundle->guest.disks[r->next].size_bytes = r->disk->size_bytes;
    *index = r->next++;
    *disk = r->disk;
    return 1;
}

/* Nothing is left, and there are no sums. */
int folder_bundle_finish(struct bundle *bundle, struct ferry_error *err)
{
    (void)bundle;
    (void)err;
    return 0;
}
