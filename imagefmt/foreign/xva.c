/* XVA: the names of blocks, their sums, and where they belong. */
#include "imagefmt/foreign/xva.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/cleanup.h"

#define NUMBER_DIGITS 18

/* ---- Names ---- */

bool xva_parse_name(const char *name, struct xva_name *out)
{
    const char *slash = strchr(name, '/');

    *out = (struct xva_name){.is_sum = false};
    if (!slash || slash == name || (size_t)(slash - name) >= sizeof(out->ref))
        return false;
    memcpy(out->ref, name, (size_t)(slash - name));
    size_t digits = strspn(slash + 1, "0123456789");
    if (!digits || digits > NUMBER_DIGITS)
        return false;
    out->number = strtoull(slash + 1, NULL, 10);
    const char *rest = slash + 1 + digits;
    out->sum = !strcmp(rest, ".xxhash")     ? XVA_SUM_XXH64
               : !strcmp(rest, ".checksum") ? XVA_SUM_SHA1
                                            : XVA_SUM_NONE;
    out->is_sum = out->sum != XVA_SUM_NONE;
    return out->is_sum || !*rest;
}

bool xva_is_sum_of(const struct xva_name *sum, const struct xva_name *block)
{
    return sum->is_sum && !block->is_sum && sum->number == block->number &&
           !strcmp(sum->ref, block->ref);
}

uint32_t xva_disk_of(const struct xva_reader *r, const char *ref)
{
    uint32_t i = 0;

    while (i < r->bundle.guest.disk_count && strcmp(r->refs.disks[i], ref) != 0)
        i++;
    return i < r->bundle.guest.disk_count ? i : LIMIT_DISKS;
}

void xva_note_sum(struct xva_reader *r)
{
    if (!r->noted_sums)
        notes_add(&r->notes, "blocks have no sums: nothing tells whether they are whole");
    r->noted_sums = true;
}

void xva_note_ref(struct xva_reader *r, const char *ref)
{
    if (!strcmp(r->noted_ref, ref))
        return;
    memcpy(r->noted_ref, ref, strlen(ref) + 1);
    notes_add(&r->notes, "'%s' is not kept: it is no disk of the machine", ref);
}

/* ---- Sums ---- */

int xva_check_sum(enum xva_sum kind, const uint8_t *text, size_t text_bytes, const void *data,
                  size_t size, const char *name, const char *about, struct ferry_error *err)
{
    uint8_t is[DIGEST_MAX_BYTES], stated[DIGEST_MAX_BYTES];
    size_t bytes = kind == XVA_SUM_XXH64 ? 8 : digest_bytes(DIGEST_SHA1);
    char hex[2 * DIGEST_MAX_BYTES + 1];

    while (text_bytes && strchr(" \t\r\n", text[text_bytes - 1]))
        text_bytes--;
    if (text_bytes == 2 * bytes) {
        memcpy(hex, text, text_bytes);
        hex[text_bytes] = 0;
    }
    if (text_bytes != 2 * bytes || hex_decode(hex, stated, bytes))
        return ferry_refuse(err, -EBADMSG, about, "has a sum of '%.100s' that is none", name);
    if (kind == XVA_SUM_XXH64) {
        XXH64_canonicalFromHash((XXH64_canonical_t *)is, XXH64(data, size, 0));
    } else {
        struct digest *digest = digest_new(DIGEST_SHA1);
        if (!digest)
            return ferry_fail(err, -ENOMEM, about, "out of memory");
        digest_update(digest, data, size);
        digest_final(digest, is);
    }
    if (memcmp(is, stated, bytes) != 0)
        return ferry_refuse(err, -EBADMSG, about, "'%.100s' is damaged: its sum is another", name);
    return 0;
}

/* ---- Places ---- */

int xva_place_next(struct xva_place *place, const struct xva_name *name, uint64_t bytes,
                   uint64_t *offset, const char *about, struct ferry_error *err)
{
    if (name->number < place->number || (name->number > place->number && !place->first_bytes))
        return ferry_refuse(err, -EBADMSG, about,
                            "has block %llu of '%s' at a wrong place: number %llu or a later one "
                            "belongs there",
                            (unsigned long long)name->number, name->ref,
                            (unsigned long long)place->number);
    uint64_t skipped = name->number - place->number;
    if (bytes > LIMIT_XVA_BLOCK_BYTES)
        return ferry_refuse(err, -EFBIG, about, "has a block of %llu bytes",
                            (unsigned long long)bytes);
    if (skipped && skipped > LIMIT_DISK_BYTES / place->first_bytes)
        return ferry_refuse(err, -EBADMSG, about, "has a block behind the end of its disk '%s'",
                            name->ref);
    *offset = place->end + skipped * place->first_bytes;
    if (*offset > place->size_bytes || (bytes && *offset == place->size_bytes))
        return ferry_refuse(err, -EBADMSG, about, "has a block behind the end of its disk '%s'",
                            name->ref);
    if (!place->first_bytes)
        place->first_bytes = bytes;
    place->end = *offset + bytes;
    place->number = name->number + 1;
    return 0;
}

int xva_place_end(const struct xva_place *place, const char *ref, const char *about,
                  struct ferry_error *err)
{
    if (place->end >= place->size_bytes)
        return 0;
    return ferry_refuse(err, -EBADMSG, about,
                        "is cut short: the disk '%s' ends at byte %llu and not %llu", ref,
                        (unsigned long long)place->end, (unsigned long long)place->size_bytes);
}

/* ---- The format ---- */

static bool probe(const struct bundle_input *input, const uint8_t *head, size_t head_bytes)
{
    return input->folder_fd < 0 && bundle_tar_begins(head, head_bytes, XVA_DESCRIPTION);
}

static void close_bundle(struct bundle *bundle)
{
    struct xva_reader *r = bundle->opaque;

    if (r->disk)
        r->disk->format->close(r->disk);
    xva_random_close(r->random);
    xva_stream_close(r->stream);
    json_decref(bundle->notes);
    free(r);
}

static void cleanup_reader(struct xva_reader **r)
{
    if (*r)
        close_bundle(&(*r)->bundle);
}

static int open_bundle(const struct bundle_input *input, struct bundle **out,
                       struct ferry_error *err)
{
    CLEANUP(cleanup_reader) struct xva_reader *r = calloc(1, sizeof(*r));

    if (!r)
        return ferry_fail(err, -ENOMEM, input->about, "out of memory");
    r->input = *input;
    r->bundle.format = &bundle_xva;
    r->bundle.opaque = r;
    r->notes.list = r->bundle.notes = json_array();
    if (!r->notes.list)
        return ferry_fail(err, -ENOMEM, input->about, "out of memory");
    int error = input->source ? xva_random_open(r, err) : xva_stream_open(r, err);
    if (!error)
        *out = &take_ptr(&r)->bundle;
    return error;
}

static int next_disk(struct bundle *bundle, uint32_t *index, struct disk **disk,
                     struct ferry_error *err)
{
    struct xva_reader *r = bundle->opaque;

    int more =
        r->random ? xva_random_next_disk(r, index, err) : xva_stream_next_disk(r, index, err);
    if (more == 1)
        *disk = r->disk;
    return more;
}

static int finish(struct bundle *bundle, struct ferry_error *err)
{
    struct xva_reader *r = bundle->opaque;
    int error = r->random ? xva_random_finish(r, err) : xva_stream_finish(r, err);

    return error ? error : notes_done(&r->notes, r->input.about, err);
}

const struct bundle_format bundle_xva = {
    .name = "xva",
    .extension = ".xva",
    .limits = "one machine that boots from its disks; raw disks, with sums of each MiB",
    .streams_in = true,
    .streams_out = true,
    .probe = probe,
    .losses = xva_losses,
    .write = xva_write,
    .open = open_bundle,
    .next_disk = next_disk,
    .finish = finish,
    .close = close_bundle,
};
