/*
 * XVA, writing.  A disk's content goes through the pipeline of disks in units of one block: workers
 * take the sums, and the one thread that puts blocks into the archive adds the first and the last
 * one if they were left out as zero.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/xva.h"

#define HASH_BYTES 16 /* as text */

struct block_writer {
    struct disk_writer writer;
    struct container *container;
    uint32_t ref;
    uint64_t size_bytes, blocks;
    uint64_t next; /* block that may come next */
    const uint8_t *zeroes;
};

/* ---- A disk ---- */

static void format_hash(const void *data, size_t size, char text[HASH_BYTES + 1])
{
    snprintf(text, HASH_BYTES + 1, "%016llX", (unsigned long long)XXH64(data, size, 0));
}

static int add_member(struct container *c, const char *name, const void *data, size_t size,
                      struct ferry_error *err)
{
    struct sink *sink;

    int error = container_begin(c, name, size, &sink, err);
    if (!error)
        error = sink->write(sink, data, size, err);
    return error ? error : container_end(c, NULL, NULL, err);
}

static int add_block(struct block_writer *w, uint64_t number, const void *data, size_t size,
                     const void *hash, struct ferry_error *err)
{
    char name[64];

    snprintf(name, sizeof(name), "Ref:%u/%08llu", w->ref, (unsigned long long)number);
    int error = add_member(w->container, name, data, size, err);
    if (error)
        return error;
    snprintf(name, sizeof(name), "Ref:%u/%08llu.xxhash", w->ref, (unsigned long long)number);
    w->next = number + 1;
    return add_member(w->container, name, hash, HASH_BYTES, err);
}

static int add_zero_block(struct block_writer *w, uint64_t number, struct ferry_error *err)
{
    uint64_t left = w->size_bytes - number * XVA_BLOCK_BYTES;
    size_t size = left < XVA_BLOCK_BYTES ? (size_t)left : XVA_BLOCK_BYTES;
    char hash[HASH_BYTES + 1];

    format_hash(w->zeroes, size, hash);
    return add_block(w, number, w->zeroes, size, hash, err);
}

static int encode_block(const struct disk_writer *writer, struct disk_unit *unit,
                        struct ferry_error *err)
{
    char hash[HASH_BYTES + 1];

    (void)writer;
    (void)err;
    format_hash(unit->content, unit->content_bytes, hash);
    memcpy(unit->stored, hash, HASH_BYTES);
    unit->stored_bytes = HASH_BYTES;
    return 0;
}

static int put_block(struct disk_writer *writer, const struct disk_unit *unit,
                     struct ferry_error *err)
{
    struct block_writer *w = writer->opaque;
    uint64_t number = unit->offset / XVA_BLOCK_BYTES;
    int error = number && !w->next ? add_zero_block(w, 0, err) : 0;

    return error ? error
                 : add_block(w, number, unit->content, unit->content_bytes, unit->stored, err);
}

static int finish_blocks(struct disk_writer *writer, struct ferry_error *err)
{
    struct block_writer *w = writer->opaque;
    int error = 0;

    if (!w->next)
        error = add_zero_block(w, 0, err);
    if (!error && w->next < w->blocks)
        error = add_zero_block(w, w->blocks - 1, err);
    return error;
}

/* Not in the table of formats: it is nothing outside of an archive. */
static const struct disk_format blocks_format = {
    .name = "xva",
    .encode = encode_block,
    .put = put_block,
    .finish = finish_blocks,
};

/* ---- The machine ---- */

struct packer {
    const struct bundle_content *content;
    const struct bundle_write_options *options;
    struct bundle_write_result *result;
    const char *about;
    struct container *container;
    uint64_t sizes[LIMIT_DISKS];
    uint8_t *zeroes;
};

static void close_packer(struct packer *p)
{
    container_destroy(p->container);
    free(p->zeroes);
}

static int check_options(const struct packer *p, struct ferry_error *err)
{
    const struct bundle_write_options *o = p->options;

    if (o->disk_format && strcmp(o->disk_format, "raw") != 0)
        return ferry_usage(err, p->about, "disks in an XVA are always raw");
    if ((o->codec && strcmp(o->codec, "none") != 0) || o->level)
        return ferry_usage(err, p->about, "an XVA is not compressed in itself");
    return 0;
}

static int read_sizes(struct packer *p, struct ferry_error *err)
{
    const struct guest *guest = p->content->guest;

    for (uint32_t i = 0; i < guest->disk_count; i++) {
        p->sizes[i] = disk_whole_sectors(guest->disks[i].size_bytes);
        if (!p->sizes[i])
            return ferry_fail(err, -EINVAL, p->about, "the size of disk %u is not known", i + 1);
    }
    return 0;
}

static int pack_disk(struct packer *p, uint32_t index, struct ferry_error *err)
{
    char phase[32];
    struct block_writer w = {
        .writer = {.format = &blocks_format,
                   .unit_bytes = XVA_BLOCK_BYTES,
                   .stored_room = HASH_BYTES},
        .container = p->container,
        .ref = XVA_DISK_REF + index,
        .size_bytes = p->sizes[index],
        .blocks = (p->sizes[index] + XVA_BLOCK_BYTES - 1) / XVA_BLOCK_BYTES,
        .zeroes = p->zeroes,
    };
    const struct disk_copy_options copy = {
        .workers = p->options->workers,
        .digest = p->options->digest,
        .phase = phase,
        .progress = p->options->progress,
    };
    struct disk_copy_result result;
    struct disk *disk;

    w.writer.opaque = &w;
    snprintf(phase, sizeof(phase), "disk %u", index + 1);
    int error = p->content->disk(p->content->opaque, index, &disk, err);
    if (error)
        return error;
    if (disk_whole_sectors(disk->size_bytes) != p->sizes[index])
        return ferry_fail(err, -EINVAL, p->about, "disk %u has another size than was said",
                          index + 1);
    error = disk_copy(disk, &w.writer, p->sizes[index], &copy, &result, err);
    if (error)
        return error;
    p->result->content_bytes += result.content_bytes;
    memcpy(p->result->digest[index], result.digest, SHA256_BYTES);
    return 0;
}

static int pack(struct packer *p, struct ferry_error *err)
{
    const struct guest *guest = p->content->guest;
    CLEANUP_FREE char *text = NULL;
    size_t size;

    if (!(p->zeroes = calloc(1, XVA_BLOCK_BYTES)))
        return ferry_fail(err, -ENOMEM, p->about, "out of memory");
    int error = xva_describe(guest, p->sizes, NULL, &text, &size, err);
    container_want_sums(p->container, false);
    if (!error)
        error = add_member(p->container, XVA_DESCRIPTION, text, size, err);
    for (uint32_t i = 0; !error && i < guest->disk_count; i++)
        error = pack_disk(p, i, err);
    return error ? error : container_finish(p->container, &p->result->bytes, err);
}

int xva_write(const struct bundle_output *output, const struct bundle_content *content,
              const struct bundle_write_options *options, struct bundle_write_result *result,
              struct ferry_error *err)
{
    CLEANUP(close_packer)
    struct packer p = {
        .content = content, .options = options, .result = result, .about = output->about};

    *result = (struct bundle_write_result){.bytes = 0};
    int error = check_options(&p, err);
    if (!error)
        error = read_sizes(&p, err);
    if (!error)
        error = container_create_tar(output->sink, &p.container, err);
    return error ? error : pack(&p, err);
}

int xva_losses(const struct bundle_content *content, json_t *notes, struct ferry_error *err)
{
    uint64_t sizes[LIMIT_DISKS] = {0};
    struct notes more = {.list = notes};
    CLEANUP_FREE char *text = NULL;
    size_t size;

    int error = xva_describe(content->guest, sizes, notes, &text, &size, err);
    if (error)
        return error;
    if (content->files[GUEST_NVRAM])
        notes_add(&more, "the firmware's variables are not kept: XenServer has them in another "
                         "form");
    if (*content->guest->cpu_model)
        notes_add(&more, "the CPU model '%s' is not kept", content->guest->cpu_model);
    return notes_done(&more, "xva", err);
}
