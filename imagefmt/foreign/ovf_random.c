/*
 * OVF packages, reading at random.  All that the manifest has sums of is read by a pool of threads
 * while the caller takes the disks, and finish waits for them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/ovf_reader.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"

#define READ_BYTES  (256 * KIB)
#define SUM_WORKERS 4

/* ---- Sums ---- */

struct ovf_sum_task {
    struct pool_task task;
    struct ovf_reader *reader;
    const struct ovf_sum *sum;
};

static int wrong_sum(const struct ovf_reader *r, const struct ovf_sum *sum, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, r->input.about,
                        "'%.100s' is damaged: its %s is not that of the manifest", sum->name,
                        digest_name(sum->kind));
}

static int compare_sum(struct ovf_reader *r, const struct ovf_sum *sum, struct source *source,
                       struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *data = malloc(READ_BYTES);
    struct digest *digest = digest_new(sum->kind);
    uint8_t is[DIGEST_MAX_BYTES];
    int error = data && digest ? 0 : ferry_fail(err, -ENOMEM, r->input.about, "out of memory");

    for (uint64_t at = 0; !error && at < source->size_bytes && !atomic_load(&r->stop);) {
        uint64_t left = source->size_bytes - at;
        size_t part = left < READ_BYTES ? (size_t)left : READ_BYTES;
        error = source->pread(source, at, data, part, err);
        if (!error)
            digest_update(digest, data, part);
        at += part;
    }
    if (error) {
        digest_free(digest);
        return error;
    }
    digest_final(digest, is);
    return memcmp(is, sum->sum, digest_bytes(sum->kind)) ? wrong_sum(r, sum, err) : 0;
}

static void run_sum(struct pool_task *task)
{
    struct ovf_sum_task *t = (struct ovf_sum_task *)task;
    struct ovf_reader *r = t->reader;
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct ferry_error err = {.code = 0};

    if (atomic_load(&r->stop))
        return;
    int error = container_source(r->index, container_find(r->index, t->sum->name), &source, &err);
    if (!error)
        error = compare_sum(r, t->sum, source, &err);
    if (error) {
        LOCK_SCOPE(&r->lock);
        if (!r->sum_error.code)
            r->sum_error = err;
    }
}

static int start_sums(struct ovf_reader *r, struct ferry_error *err)
{
    size_t count = r->manifest.count;

    if (!count)
        return 0;
    if (!(r->tasks = calloc(count, sizeof(*r->tasks))))
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    int error = pool_create(count < SUM_WORKERS ? (unsigned)count : SUM_WORKERS, &r->pool, err);
    if (error)
        return error;
    for (size_t i = 0; i < count; i++) {
        r->tasks[i] =
            (struct ovf_sum_task){.task.run = run_sum, .reader = r, .sum = &r->manifest.sums[i]};
        pool_submit(r->pool, &r->tasks[i].task);
    }
    return 0;
}

int ovf_random_finish(struct ovf_reader *r, struct ferry_error *err)
{
    if (r->pool)
        pool_wait_all(r->pool);
    if (r->sum_error.code && err)
        *err = r->sum_error;
    return r->sum_error.code;
}

void ovf_random_close(struct ovf_reader *r)
{
    atomic_store(&r->stop, true);
    pool_destroy(r->pool);
    free(r->tasks);
    container_index_close(r->index);
}

/* ---- The members ---- */

static bool ends_with(const char *name, const char *ending)
{
    size_t length = strlen(name), size = strlen(ending);

    return length > size && !strcmp(name + length - size, ending) && !strchr(name, '/');
}

/* The one member at the top that ends like this; NULL: none. */
static int find_one(const struct ovf_reader *r, const char *ending,
                    const struct container_member **out, struct ferry_error *err)
{
    *out = NULL;
    for (uint64_t i = 0; i < container_members(r->index); i++) {
        const struct container_member *member = container_member(r->index, i);
        if (!ends_with(member->name, ending))
            continue;
        if (*out)
            return ferry_refuse(err, -EEXIST, r->input.about, "has both '%.100s' and '%.100s'",
                                (*out)->name, member->name);
        *out = member;
    }
    return 0;
}

static int load_manifest(struct ovf_reader *r, struct ferry_error *err)
{
    const struct container_member *member;
    CLEANUP_FREE uint8_t *text = NULL;
    size_t size;

    int error = find_one(r, ".mf", &member, err);
    if (error || !member)
        return error;
    r->has_manifest = true;
    error = container_load(r->index, member, OVF_MANIFEST_BYTES, &text, &size, err);
    if (!error)
        error = ovf_manifest_parse((const char *)text, size, r->input.about, &r->manifest, err);
    for (size_t i = 0; !error && i < r->manifest.count; i++)
        if (!container_find(r->index, r->manifest.sums[i].name))
            error = ferry_refuse(err, -ENOENT, r->input.about,
                                 "lacks '%.100s', of which its manifest has a sum",
                                 r->manifest.sums[i].name);
    return error;
}

static int load_ovf(struct ovf_reader *r, struct ferry_error *err)
{
    const struct container_member *member;
    CLEANUP(source_cleanup) struct source *memory = NULL;
    CLEANUP_FREE uint8_t *text = NULL;
    size_t size;

    int error = find_one(r, ".ovf", &member, err);
    if (!error && !member)
        error = ferry_refuse(err, -ENOENT, r->input.about, "has no .ovf");
    if (!error)
        error = container_load(r->index, member, LIMIT_DESCRIPTION_BYTES, &text, &size, err);
    if (!error)
        error = source_of_memory(text, size, r->input.about, &memory, err);
    if (error)
        return error;
    memcpy(r->ovf_name, member->name, strlen(member->name) + 1);
    for (size_t i = 0; !error && i < r->manifest.count; i++)
        if (!strcmp(r->manifest.sums[i].name, r->ovf_name))
            error = compare_sum(r, &r->manifest.sums[i], memory, err);
    return error ? error : ovf_reader_parse(r, text, size, err);
}

static int load_files(struct ovf_reader *r, struct ferry_error *err)
{
    int error = 0;

    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++) {
        const char *name = r->bundle.guest.files[kind];
        if (!*name)
            continue;
        const struct container_member *member = container_find(r->index, name);
        if (!member)
            return ferry_refuse(err, -ENOENT, r->input.about, "lacks its file '%.100s'", name);
        error = container_load(r->index, member, bundle_file_most(kind),
                               &r->bundle.files[kind].data, &r->bundle.files[kind].size, err);
    }
    return error;
}

static void note_members(struct ovf_reader *r)
{
    uint32_t index, piece;

    if (!r->has_manifest)
        notes_add(&r->notes, "there is no manifest: nothing tells whether the files are whole");
    for (uint64_t i = 0; i < container_members(r->index); i++) {
        const char *name = container_member(r->index, i)->name;
        enum ovf_role role = ovf_reader_role(r, name, &index, &piece);
        if (role == OVF_ROLE_OTHER)
            notes_add(&r->notes, "'%s' is not kept: nothing refers to it", name);
        if (role == OVF_ROLE_CERTIFICATE)
            notes_add(&r->notes, "the signature in '%s' is not checked", name);
        else if (role != OVF_ROLE_MANIFEST && r->has_manifest &&
                 !ovf_manifest_has(&r->manifest, name))
            notes_add(&r->notes, "'%s' has no sum in the manifest", name);
    }
}

/* ---- Disks in pieces ---- */

struct pieces_source {
    struct source source;
    struct container_index *index;
    uint64_t piece_bytes;
    const struct container_member **pieces;
};

static int pread_pieces(struct source *source, uint64_t offset, void *data, size_t size,
                        struct ferry_error *err)
{
    const struct pieces_source *p = (const struct pieces_source *)source;
    uint8_t *at = data;
    int error = 0;

    if (offset > source->size_bytes || size > source->size_bytes - offset)
        return ferry_refuse(err, -EBADMSG, source->about, "is cut short");
    while (!error && size) {
        CLEANUP(source_cleanup) struct source *piece = NULL;
        uint64_t within = offset % p->piece_bytes;
        size_t part = size < p->piece_bytes - within ? size : (size_t)(p->piece_bytes - within);
        error = container_source(p->index, p->pieces[offset / p->piece_bytes], &piece, err);
        if (!error)
            error = piece->pread(piece, within, at, part, err);
        offset += part;
        at += part;
        size -= part;
    }
    return error;
}

static void close_pieces(struct source *source)
{
    free(((struct pieces_source *)source)->pieces);
    free(source);
}

/* Piece `number` of a disk; all but the last have piece_bytes. */
static const struct container_member *find_piece(const struct ovf_reader *r, uint32_t index,
                                                 uint64_t number)
{
    char name[256 + OVF_PIECE_DIGITS + 24];

    snprintf(name, sizeof(name), "%s.%0*llu", r->bundle.guest.disks[index].file, OVF_PIECE_DIGITS,
             (unsigned long long)number);
    return container_find(r->index, name);
}

static int find_pieces(const struct ovf_reader *r, uint32_t index, struct pieces_source *p,
                       struct ferry_error *err)
{
    const struct guest_disk *disk = &r->bundle.guest.disks[index];
    const struct ovf_part *part = &r->package.disks[index];
    uint64_t there = 0, count = 0, total = 0;
    uint32_t of, piece;

    for (uint64_t i = 0; i < container_members(r->index); i++)
        there +=
            ovf_reader_role(r, container_member(r->index, i)->name, &of, &piece) == OVF_ROLE_DISK &&
            of == index;
    if (!(p->pieces = calloc(there + 1, sizeof(*p->pieces))))
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    while (count < there && (p->pieces[count] = find_piece(r, index, count)))
        total += p->pieces[count++]->size_bytes;
    for (uint64_t i = 0; i < count; i++)
        if (i + 1 < count ? p->pieces[i]->size_bytes != part->chunk_bytes
                          : p->pieces[i]->size_bytes > part->chunk_bytes)
            return ferry_refuse(err, -EBADMSG, r->input.about, "'%.100s' has a wrong size",
                                p->pieces[i]->name);
    if (count < there || !count ||
        (part->size_bytes != OVF_SIZE_UNKNOWN && total != part->size_bytes))
        return ferry_refuse(err, -ENOENT, r->input.about, "lacks a piece of '%.100s'", disk->file);
    p->source.size_bytes = total;
    return 0;
}

static int open_pieces(struct ovf_reader *r, uint32_t index, struct ferry_error *err)
{
    struct pieces_source *p = calloc(1, sizeof(*p));

    if (!p)
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    p->source = (struct source){
        .pread = pread_pieces, .close = close_pieces, .about = r->bundle.guest.disks[index].file};
    p->index = r->index;
    p->piece_bytes = r->package.disks[index].chunk_bytes;
    r->disk_source = &p->source;
    return find_pieces(r, index, p, err);
}

/* ---- Disks ---- */

/* The file of a disk, into r->disk_source. */
static int open_file(struct ovf_reader *r, uint32_t index, struct ferry_error *err)
{
    const char *name = r->bundle.guest.disks[index].file;

    if (r->package.disks[index].chunk_bytes)
        return open_pieces(r, index, err);
    const struct container_member *member = container_find(r->index, name);
    if (!member)
        return ferry_refuse(err, -ENOENT, r->input.about, "lacks its disk '%.100s'", name);
    return container_source(r->index, member, &r->disk_source, err);
}

static int open_disk(struct ovf_reader *r, uint32_t index, struct ferry_error *err)
{
    const struct disk_format *format;

    if (!*r->bundle.guest.disks[index].file)
        return ovf_reader_blank(r, index, err);
    int error = open_file(r, index, err);
    if (error)
        return error;
    if (r->package.disks[index].gzip) {
        error = stream_of_source(r->disk_source, &r->disk_below, err);
        return error ? error : ovf_reader_open_stream(r, index, r->disk_source->size_bytes, err);
    }
    error = ovf_reader_format(r, index, r->disk_source, &format, err);
    return error ? error : format->open(r->disk_source, NULL, &r->disk, err);
}

int ovf_random_next_disk(struct ovf_reader *r, uint32_t *index, struct ferry_error *err)
{
    ovf_reader_close_disk(r);
    if (r->next == r->bundle.guest.disk_count)
        return 0;
    *index = r->next++;
    int error = open_disk(r, *index, err);
    return error ? error : 1;
}

/* What a disk's file must be is known before any is read. */
static int check_disks(struct ovf_reader *r, struct ferry_error *err)
{
    int error = 0;

    for (uint32_t i = 0; !error && i < r->bundle.guest.disk_count; i++) {
        error = open_disk(r, i, err);
        if (!error)
            ovf_reader_opened(r, i);
        ovf_reader_close_disk(r);
    }
    return error;
}

int ovf_random_open(struct ovf_reader *r, struct ferry_error *err)
{
    int error = r->input.source
                    ? container_index_tar(r->input.source, LIMIT_OVA_MEMBERS, &r->index, err)
                    : container_index_folder(r->input.folder_fd, r->input.about, LIMIT_OVA_MEMBERS,
                                             &r->index, err);
    if (!error)
        error = load_manifest(r, err);
    if (!error)
        error = load_ovf(r, err);
    if (!error)
        error = load_files(r, err);
    if (!error)
        error = check_disks(r, err);
    if (error)
        return error;
    note_members(r);
    return start_sums(r, err);
}
