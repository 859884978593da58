/*
 * OVF packages, reading in order.  The description must come first, as DSP0243 has it; the manifest
 * may come anywhere, so that the sums of all members are kept until the end, when they are
 * compared.  Which kinds of sums are needed is known if the manifest came early; until then all are
 * taken, but of packages that ferry wrote.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/ovf_reader.h"
#include "imagefmt/foreign/stream.h"

#define ALL_DIGESTS ((1u << DIGEST_KINDS) - 1)
#define READ_BYTES  (64 * KIB)

/* ---- Members ---- */

/* The sums of the member at hand, the rest of which is read. */
static int record_member(struct ovf_reader *r, struct ferry_error *err)
{
    if (!(r->record_count & (r->record_count - 1))) {
        size_t room = r->record_count ? r->record_count * 2 : 1;
        struct ovf_record *records = reallocarray(r->records, room, sizeof(*records));
        if (!records)
            return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
        r->records = records;
    }
    struct ovf_record *record = &r->records[r->record_count];
    record->taken = r->wanted;
    int error = 0;
    for (int kind = 0; !error && kind < DIGEST_KINDS; kind++)
        if (record->taken & 1u << kind)
            error = container_stream_sum(r->stream, kind, record->sums[kind], err);
    if (!error && !(record->name = strdup(r->member_name)))
        error = ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    if (!error)
        r->record_count++;
    return error;
}

/* What sums are taken from the next member on. */
static unsigned kinds_needed(const struct ovf_reader *r)
{
    unsigned kinds = 0;

    for (size_t i = 0; i < r->manifest.count; i++)
        kinds |= 1u << r->manifest.sums[i].kind;
    return kinds;
}

/* The next member, to r->member: 1, 0 at the end. */
static int next_member(struct ovf_reader *r, struct ferry_error *err)
{
    int error = r->inside ? record_member(r, err) : 0;

    r->inside = false;
    if (error || r->ended)
        return error;
    if (r->has_manifest)
        r->wanted = kinds_needed(r);
    container_stream_want(r->stream, r->wanted);
    int more = container_stream_next(r->stream, &r->member, err);
    if (more == 1) {
        memcpy(r->member_name, r->member.name, strlen(r->member.name) + 1);
        r->member.name = r->member_name;
        r->inside = true;
    }
    r->ended = more == 0;
    return more;
}

/* All of the member at hand, malloc'd, with a NUL behind it. */
static int load_member(struct ovf_reader *r, size_t most, uint8_t **data, size_t *size,
                       struct ferry_error *err)
{
    struct stream *content = container_stream_content(r->stream);
    CLEANUP(writer_free) struct writer whole = writer_init(most + 1);
    CLEANUP_FREE uint8_t *part = malloc(READ_BYTES);
    size_t got = 1;
    int error = part ? 0 : ferry_fail(err, -ENOMEM, r->input.about, "out of memory");

    if (!error && r->member.size_bytes > most)
        error = ferry_refuse(err, -EFBIG, r->input.about, "'%.100s' has more than %zu bytes",
                             r->member_name, most);
    while (!error && got) {
        error = content->read(content, part, READ_BYTES, &got, err);
        if (!error)
            writer_copy(&whole, part, got);
    }
    if (error)
        return error;
    *size = whole.size;
    writer_u8(&whole, 0);
    if (whole.error)
        return ferry_fail(err, whole.error, r->input.about, "cannot load '%.100s'", r->member_name);
    *data = take_ptr(&whole.data);
    return 0;
}

/* ---- Disks ---- */

/* Does the next member go on with the joined file?  Else it waits. */
static int next_piece(struct ovf_joined *j, struct ferry_error *err)
{
    struct ovf_reader *r = j->reader;
    uint32_t index, piece;

    int more = next_member(r, err);
    if (more < 0)
        return more;
    if (more && ovf_reader_role(r, r->member_name, &index, &piece) == OVF_ROLE_DISK &&
        index == j->disk && piece == j->piece + 1) {
        j->piece++;
        return r->member.size_bytes <= r->package.disks[index].chunk_bytes
                   ? 0
                   : ferry_refuse(err, -EBADMSG, r->input.about, "'%.100s' has a wrong size",
                                  r->member_name);
    }
    r->pending = more == 1;
    j->ended = true;
    return 0;
}

/* A member has ended: go on with the next piece, if there may be one. */
static int end_piece(struct ovf_joined *j, struct ferry_error *err)
{
    struct ovf_reader *r = j->reader;
    const struct ovf_part *part = &r->package.disks[j->disk];
    int error = 0;

    if (!part->chunk_bytes || r->member.size_bytes < part->chunk_bytes ||
        j->total == part->size_bytes)
        j->ended = true;
    else
        error = next_piece(j, err);
    if (!error && j->ended && part->chunk_bytes && part->size_bytes != OVF_SIZE_UNKNOWN &&
        j->total != part->size_bytes)
        error = ferry_refuse(err, -ENOENT, r->input.about, "lacks a piece of '%.100s'",
                             r->bundle.guest.disks[j->disk].file);
    return error;
}

static int read_joined(struct stream *stream, void *data, size_t size, size_t *got,
                       struct ferry_error *err)
{
    struct ovf_joined *j =
        (struct ovf_joined *)((char *)stream - offsetof(struct ovf_joined, stream));
    struct stream *content = container_stream_content(j->reader->stream);
    int error = 0;

    *got = 0;
    while (!error && !j->ended && *got < size) {
        size_t part, asked = size - *got;
        error = content->read(content, (uint8_t *)data + *got, asked, &part, err);
        if (error)
            break;
        *got += part;
        j->total += part;
        if (part < asked)
            error = end_piece(j, err);
    }
    return error;
}

/* What is left of the disk at hand, so that all of its pieces have passed. */
static int leave_disk(struct ovf_reader *r, struct ferry_error *err)
{
    uint8_t data[32 * KIB];
    size_t got = 1;
    int error = 0;

    while (!error && r->disk_below == &r->joined.stream && got && r->input.stream)
        error = read_joined(&r->joined.stream, data, sizeof(data), &got, err);
    ovf_reader_close_disk(r);
    return error;
}

/* The member at hand is a disk, or its first piece. */
static int open_disk(struct ovf_reader *r, uint32_t index, uint32_t piece, struct ferry_error *err)
{
    const struct ovf_part *part = &r->package.disks[index];

    if (piece || r->given[index])
        return ferry_refuse(err, -ENOENT, r->input.about,
                            "has '%.100s' at a wrong place: a piece before it is missing",
                            r->member_name);
    if (part->chunk_bytes && r->member.size_bytes > part->chunk_bytes)
        return ferry_refuse(err, -EBADMSG, r->input.about, "'%.100s' has a wrong size",
                            r->member_name);
    r->joined = (struct ovf_joined){
        .stream = {.read = read_joined, .about = r->bundle.guest.disks[index].file},
        .reader = r,
        .disk = index,
    };
    r->disk_below = &r->joined.stream;
    return ovf_reader_open_stream(r, index,
                                  part->chunk_bytes ? part->size_bytes : r->member.size_bytes, err);
}

/* ---- Whatever comes ---- */

static int take_manifest(struct ovf_reader *r, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *text = NULL;
    size_t size;

    if (r->has_manifest)
        return ferry_refuse(err, -EEXIST, r->input.about, "has two manifests");
    r->has_manifest = true;
    int error = load_member(r, OVF_MANIFEST_BYTES, &text, &size, err);
    return error ? error
                 : ovf_manifest_parse((const char *)text, size, r->input.about, &r->manifest, err);
}

static int take_file(struct ovf_reader *r, uint32_t kind, struct ferry_error *err)
{
    r->has_file[kind] = true;
    return load_member(r, bundle_file_most(kind), &r->bundle.files[kind].data,
                       &r->bundle.files[kind].size, err);
}

/* The member at hand: 1 if it is a disk, which is open then. */
static int take_member(struct ovf_reader *r, uint32_t *index, struct ferry_error *err)
{
    uint32_t piece;
    int error;

    switch (ovf_reader_role(r, r->member_name, index, &piece)) {
    case OVF_ROLE_MANIFEST:
        return take_manifest(r, err);
    case OVF_ROLE_FILE:
        return take_file(r, *index, err);
    case OVF_ROLE_OVF:
        return ferry_refuse(err, -EEXIST, r->input.about, "has both '%.100s' and '%.100s'",
                            r->ovf_name, r->member_name);
    case OVF_ROLE_CERTIFICATE:
        notes_add(&r->notes, "the signature in '%s' is not checked", r->member_name);
        return 0;
    case OVF_ROLE_DISK:
        error = open_disk(r, *index, piece, err);
        return error ? error : 1;
    default:
        notes_add(&r->notes, "'%s' is not kept: nothing refers to it", r->member_name);
        return 0;
    }
}

/* A disk without a file, which has no place in the order. */
static int next_blank(struct ovf_reader *r, uint32_t *index, struct ferry_error *err)
{
    for (uint32_t i = 0; i < r->bundle.guest.disk_count; i++)
        if (!*r->bundle.guest.disks[i].file && !r->given[i]) {
            *index = i;
            int error = ovf_reader_blank(r, i, err);
            return error ? error : 1;
        }
    return 0;
}

int ovf_stream_next_disk(struct ovf_reader *r, uint32_t *index, struct ferry_error *err)
{
    int found = leave_disk(r, err);

    if (!found)
        found = next_blank(r, index, err);
    while (!found) {
        int more = r->pending ? 1 : next_member(r, err);
        r->pending = false;
        if (more <= 0)
            return more;
        found = take_member(r, index, err);
    }
    return found;
}

/* ---- The end ---- */

static int compare_records(const void *a, const void *b)
{
    return strcmp(((const struct ovf_record *)a)->name, ((const struct ovf_record *)b)->name);
}

static int compare_sum(const struct ovf_reader *r, const struct ovf_sum *sum,
                       struct ferry_error *err)
{
    const struct ovf_record key = {.name = sum->name};
    const struct ovf_record *record =
        bsearch(&key, r->records, r->record_count, sizeof(*r->records), compare_records);

    if (!record)
        return ferry_refuse(err, -ENOENT, r->input.about,
                            "lacks '%.100s', of which its manifest has a sum", sum->name);
    if (!(record->taken & 1u << sum->kind))
        return ferry_refuse(err, -EOPNOTSUPP, r->input.about,
                            "has the %s of '%.100s' too late to be compared in a pipe; give a file",
                            digest_name(sum->kind), sum->name);
    if (memcmp(record->sums[sum->kind], sum->sum, digest_bytes(sum->kind)) != 0)
        return ferry_refuse(err, -EBADMSG, r->input.about,
                            "'%.100s' is damaged: its %s is not that of the manifest", sum->name,
                            digest_name(sum->kind));
    return 0;
}

static int compare_sums(struct ovf_reader *r, struct ferry_error *err)
{
    uint32_t index, piece;
    int error = 0;

    qsort(r->records, r->record_count, sizeof(*r->records), compare_records);
    for (size_t i = 0; !error && i < r->manifest.count; i++)
        error = compare_sum(r, &r->manifest.sums[i], err);
    if (!r->has_manifest)
        notes_add(&r->notes, "there is no manifest: nothing tells whether the files are whole");
    for (size_t i = 0; !error && r->has_manifest && i < r->record_count; i++) {
        const char *name = r->records[i].name;
        enum ovf_role role = ovf_reader_role(r, name, &index, &piece);
        if (role != OVF_ROLE_MANIFEST && role != OVF_ROLE_CERTIFICATE &&
            !ovf_manifest_has(&r->manifest, name))
            notes_add(&r->notes, "'%s' has no sum in the manifest", name);
    }
    return error;
}

static int check_all_came(const struct ovf_reader *r, struct ferry_error *err)
{
    const struct guest *guest = &r->bundle.guest;

    for (uint32_t i = 0; i < guest->disk_count; i++)
        if (*guest->disks[i].file && !r->given[i])
            return ferry_refuse(err, -ENOENT, r->input.about, "lacks its disk '%.100s'",
                                guest->disks[i].file);
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        if (*guest->files[kind] && !r->has_file[kind])
            return ferry_refuse(err, -ENOENT, r->input.about, "lacks its file '%.100s'",
                                guest->files[kind]);
    return 0;
}

int ovf_stream_finish(struct ovf_reader *r, struct ferry_error *err)
{
    uint32_t index = 0;
    int more;

    while ((more = ovf_stream_next_disk(r, &index, err)) == 1)
        r->given[index] = true;
    if (more)
        return more;
    int error = check_all_came(r, err);
    return error ? error : compare_sums(r, err);
}

/* ---- The start ---- */

static bool is_own(const uint8_t *text, size_t size)
{
    return memmem(text, size, OVF_NS_OWN, strlen(OVF_NS_OWN)) != NULL;
}

int ovf_stream_open(struct ovf_reader *r, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *text = NULL;
    size_t size;

    r->wanted = ALL_DIGESTS;
    int error = container_stream_open(r->input.stream, LIMIT_OVA_MEMBERS, &r->stream, err);
    if (error)
        return error;
    int more = next_member(r, err);
    if (more < 0)
        return more;
    size_t length = strlen(r->member_name);
    if (!more || length < 5 || strcmp(r->member_name + length - 4, ".ovf") != 0 ||
        strchr(r->member_name, '/'))
        return ferry_refuse(
            err, -ENOENT, r->input.about,
            "does not begin with its .ovf: it is not read in order, but from a file");
    memcpy(r->ovf_name, r->member_name, length + 1);
    error = load_member(r, LIMIT_DESCRIPTION_BYTES, &text, &size, err);
    if (!error)
        error = ovf_reader_parse(r, text, size, err);
    if (!error)
        error = record_member(r, err);
    r->inside = false;
    if (!error && is_own(text, size))
        r->wanted = 1u << DIGEST_SHA256;
    return error;
}

void ovf_stream_close(struct ovf_reader *r)
{
    for (size_t i = 0; i < r->record_count; i++)
        free(r->records[i].name);
    free(r->records);
    container_stream_close(r->stream);
}
