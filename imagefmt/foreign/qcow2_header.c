/*
 * The header of qcow2: fields, the extensions behind them, the backing file's name and the list of
 * internal snapshots.  Names are shown to people and never opened; what a terminal might obey in
 * them is replaced.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/qcow2.h"

#define BACKING_NAME_BYTES   1023
#define FEATURE_BYTES        48
#define SNAPSHOT_BYTES       40
#define SNAPSHOT_EXTRA_BYTES 1024 /* QEMU's limit */

bool qcow2_probe(const uint8_t *head, size_t head_bytes, const uint8_t *tail, size_t tail_bytes)
{
    struct reader r = reader_init(head, head_bytes);

    (void)tail;
    (void)tail_bytes;
    uint32_t magic = reader_u32be(&r), version = reader_u32be(&r);
    return !r.error && magic == QCOW2_MAGIC && (version == 2 || version == 3);
}

/* A name for people: printable ASCII, the rest as '?'. */
static void make_printable(char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] < ' ' || text[i] > '~')
            text[i] = '?';
    text[size] = 0;
}

static int damaged(const struct source *source, const char *what, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, source->about, "is damaged: %s", what);
}

/* ---- Extensions ---- */

/* The data of the first extension of this type: 1, or 0. */
static int find_extension(const uint8_t *bytes, size_t size, uint32_t header_bytes, uint32_t type,
                          struct reader *data)
{
    struct reader r = reader_init(bytes, size);

    reader_take(&r, header_bytes);
    for (;;) {
        uint32_t found = reader_u32be(&r), length = reader_u32be(&r);
        if (r.error || found == QCOW2_EXTENSION_END || length > reader_left(&r))
            return 0;
        *data = reader_sub(&r, length);
        if (found == type)
            return 1;
        reader_take(&r, -length & 7u);
    }
}

static void name_feature(const uint8_t *bytes, size_t size, uint32_t header_bytes, unsigned bit,
                         char name[FEATURE_BYTES])
{
    struct reader table;

    snprintf(name, FEATURE_BYTES, "a newer one");
    if (!find_extension(bytes, size, header_bytes, QCOW2_EXTENSION_FEATURES, &table))
        return;
    while (reader_left(&table) >= FEATURE_BYTES) {
        uint8_t kind = reader_u8(&table), number = reader_u8(&table);
        const uint8_t *text = reader_take(&table, FEATURE_BYTES - 2);
        if (kind == 0 && number == bit) {
            size_t length = strnlen((const char *)text, FEATURE_BYTES - 2);
            memcpy(name, text, length);
            make_printable(name, length);
            return;
        }
    }
}

static int refuse_data_file(const struct source *source, const struct qcow2_header *h,
                            const uint8_t *bytes, size_t size, struct ferry_error *err)
{
    struct reader data;
    char name[129] = "?";

    if (find_extension(bytes, size, h->header_bytes, QCOW2_EXTENSION_DATA_FILE, &data)) {
        size_t length = reader_left(&data) < 128 ? reader_left(&data) : 128;
        reader_copy(&data, name, length);
        make_printable(name, length);
    }
    return ferry_refuse(err, -EOPNOTSUPP, source->about,
                        "keeps its content in another file, '%s', which is not read; convert it "
                        "with qemu-img where it was made",
                        name);
}

static int check_features(const struct source *source, const struct qcow2_header *h,
                          const uint8_t *bytes, size_t size, struct ferry_error *err)
{
    uint64_t unknown = h->incompatible & ~QCOW2_INCOMPATIBLE;
    char name[FEATURE_BYTES];

    if (unknown) {
        unsigned bit = (unsigned)__builtin_ctzll(unknown);
        name_feature(bytes, size, h->header_bytes, bit, name);
        return ferry_refuse(err, -EOPNOTSUPP, source->about,
                            "needs feature %u (%s), which ferry does not know", bit, name);
    }
    if (h->incompatible & QCOW2_CORRUPT)
        return ferry_refuse(err, -EBADMSG, source->about,
                            "is marked as corrupt; repair it with 'qemu-img check -r all' first");
    if (h->incompatible & QCOW2_DATA_FILE)
        return refuse_data_file(source, h, bytes, size, err);
    if (h->crypt_method)
        return ferry_refuse(err, -EOPNOTSUPP, source->about,
                            "is encrypted (%s), which is not read; decrypt it with qemu-img first",
                            h->crypt_method == 1   ? "AES"
                            : h->crypt_method == 2 ? "LUKS"
                                                   : "by an unknown method");
    return 0;
}

/* ---- Fields ---- */

static void read_fields(struct reader *r, struct qcow2_header *h)
{
    reader_u32be(r); /* magic */
    h->version = reader_u32be(r);
    h->backing_offset = reader_u64be(r);
    h->backing_bytes = reader_u32be(r);
    h->cluster_bits = reader_u32be(r);
    h->size_bytes = reader_u64be(r);
    h->crypt_method = reader_u32be(r);
    h->l1_entries = reader_u32be(r);
    h->l1_offset = reader_u64be(r);
    reader_u64be(r); /* refcount table, which reading does not need */
    reader_u32be(r);
    h->snapshots = reader_u32be(r);
    h->snapshots_offset = reader_u64be(r);
    h->header_bytes = QCOW2_V2_BYTES;
    if (h->version == 2)
        return;
    h->incompatible = reader_u64be(r);
    reader_u64be(r); /* compatible */
    reader_u64be(r); /* autoclear */
    reader_u32be(r); /* refcount order */
    h->header_bytes = reader_u32be(r);
    if (h->header_bytes > QCOW2_V3_BYTES)
        h->compression = reader_u8(r);
}

static int check_fields(const struct source *source, const struct qcow2_header *h,
                        struct ferry_error *err)
{
    if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return damaged(source, "its cluster size is not 512 bytes to 2 MiB", err);
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;
    if (h->version == 3 && (h->header_bytes < QCOW2_V3_BYTES || h->header_bytes % 8))
        return damaged(source, "its header has a wrong length", err);
    if (h->header_bytes > cluster)
        return damaged(source, "its header is longer than a cluster", err);
    if (!!(h->incompatible & QCOW2_COMPRESSION) != !!h->compression || h->compression > 1)
        return ferry_refuse(err, -EOPNOTSUPP, source->about,
                            "has compression type %u, which ferry does not know", h->compression);
    if ((h->incompatible & QCOW2_EXTENDED_L2) && h->cluster_bits < 14)
        return damaged(source, "its clusters are too small for subclusters", err);
    if (h->size_bytes > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EFBIG, source->about, "is larger than a disk may be");
    uint64_t entries = cluster >> (h->incompatible & QCOW2_EXTENDED_L2 ? 4 : 3);
    uint64_t needed = (h->size_bytes + cluster * entries - 1) / (cluster * entries);
    if (h->l1_entries < needed)
        return damaged(source, "its L1 table is too short for its size", err);
    if (h->l1_entries > LIMIT_QCOW2_L1_BYTES / 8)
        return damaged(source, "its L1 table is longer than 32 MiB", err);
    if (h->l1_offset % cluster || h->l1_offset > source->size_bytes ||
        h->l1_entries * UINT64_C(8) > source->size_bytes - h->l1_offset)
        return damaged(source, "its L1 table lies past its end or between clusters", err);
    if (h->l1_entries && !h->l1_offset)
        return damaged(source, "its L1 table lies on its header", err);
    return 0;
}

static int read_backing(struct source *source, struct qcow2_header *h, struct ferry_error *err)
{
    if (!h->backing_offset || !h->backing_bytes)
        return 0;
    if (h->backing_bytes > BACKING_NAME_BYTES)
        return damaged(source, "the name of its backing file is too long", err);
    if (!(h->backing = malloc(h->backing_bytes + 1)))
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    h->backing[0] = 0;
    int error = source->pread(source, h->backing_offset, h->backing, h->backing_bytes, err);
    if (!error)
        make_printable(h->backing, h->backing_bytes);
    return error;
}

/* ---- Snapshots ---- */

static int read_text(struct source *source, uint64_t *at, uint16_t size, json_t *object,
                     const char *key, struct ferry_error *err)
{
    CLEANUP_FREE char *text = malloc(size + 1u);

    if (!text)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    int error = source->pread(source, *at, text, size, err);
    if (error)
        return error;
    make_printable(text, size);
    *at += size;
    return json_object_set_new(object, key, json_string(text))
               ? ferry_fail(err, -ENOMEM, source->about, "out of memory")
               : 0;
}

static int read_snapshot(struct source *source, uint64_t *at, json_t *list, struct ferry_error *err)
{
    uint8_t bytes[SNAPSHOT_BYTES], large[8] = {0};

    int error = source->pread(source, *at, bytes, sizeof(bytes), err);
    if (error)
        return error;
    struct reader r = reader_init(bytes, sizeof(bytes));
    reader_take(&r, 12); /* its L1 table */
    uint16_t id_bytes = reader_u16be(&r), name_bytes = reader_u16be(&r);
    uint32_t seconds = reader_u32be(&r);
    reader_take(&r, 12);
    uint64_t vm_state = reader_u32be(&r);
    uint32_t extra_bytes = reader_u32be(&r);
    if (extra_bytes > SNAPSHOT_EXTRA_BYTES)
        return damaged(source, "its table of snapshots makes no sense", err);
    *at += sizeof(bytes);
    if (extra_bytes >= sizeof(large) &&
        (error = source->pread(source, *at, large, sizeof(large), err)))
        return error;
    r = reader_init(large, sizeof(large));
    vm_state = extra_bytes >= sizeof(large) ? reader_u64be(&r) : vm_state;
    *at += extra_bytes;
    json_t *object = json_pack("{s:I, s:I}", "created_s", (json_int_t)seconds, "vm_state_bytes",
                               (json_int_t)(vm_state & INT64_MAX));
    if (json_array_append_new(list, object))
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    error = read_text(source, at, id_bytes, object, "id", err);
    if (!error)
        error = read_text(source, at, name_bytes, object, "name", err);
    *at = (*at + 7) & ~UINT64_C(7);
    return error;
}

static int read_snapshots(struct source *source, struct qcow2_header *h, struct ferry_error *err)
{
    uint64_t at = h->snapshots_offset;
    int error = 0;

    if (h->snapshots > LIMIT_QCOW2_SNAPSHOTS)
        return damaged(source, "it has more snapshots than QEMU allows", err);
    if (h->snapshots && (at & ((UINT64_C(1) << h->cluster_bits) - 1) || !at))
        return damaged(source, "its table of snapshots lies between clusters", err);
    if (!(h->internal = json_array()))
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    for (uint32_t i = 0; !error && i < h->snapshots; i++) {
        if (at - h->snapshots_offset > LIMIT_QCOW2_SNAPSHOTS_BYTES)
            return damaged(source, "its table of snapshots is larger than QEMU allows", err);
        error = read_snapshot(source, &at, h->internal, err);
    }
    return error;
}

/* The start of the file, to be freed, and the header's fields, unchecked. */
static int load(struct source *source, struct qcow2_header *h, uint8_t **bytes, size_t *size,
                struct ferry_error *err)
{
    *size = source->size_bytes < LIMIT_QCOW2_HEADER_BYTES ? (size_t)source->size_bytes
                                                          : LIMIT_QCOW2_HEADER_BYTES;
    *h = (struct qcow2_header){0};
    if (!(*bytes = malloc(*size + 1)))
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    int error = source->pread(source, 0, *bytes, *size, err);
    if (error)
        return error;
    if (!qcow2_probe(*bytes, *size, NULL, 0))
        return ferry_refuse(err, -EBADMSG, source->about, "is not a qcow2 of version 2 or 3");
    struct reader r = reader_init(*bytes, *size);
    read_fields(&r, h);
    return r.error ? damaged(source, "its header is cut short", err) : 0;
}

int qcow2_backing_format(struct source *source, char name[DISK_NAME_BYTES], struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *bytes = NULL;
    struct qcow2_header h;
    struct reader data;
    size_t size;

    int error = load(source, &h, &bytes, &size, err);
    if (error)
        return error;
    if (find_extension(bytes, size, h.header_bytes, QCOW2_EXTENSION_BACKING_FORMAT, &data)) {
        size_t length = reader_left(&data);
        length = length < DISK_NAME_BYTES ? length : DISK_NAME_BYTES - 1;
        reader_copy(&data, name, length);
        name[length] = 0;
    }
    return 0;
}

int qcow2_read_header(struct source *source, struct qcow2_header *h, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *bytes = NULL;
    size_t size;

    int error = load(source, h, &bytes, &size, err);
    if (!error)
        error = check_features(source, h, bytes, size, err);
    if (!error)
        error = check_fields(source, h, err);
    if (!error)
        error = read_backing(source, h, err);
    return error ? error : read_snapshots(source, h, err);
}

void qcow2_header_free(struct qcow2_header *h)
{
    free(h->backing);
    json_decref(h->internal);
    *h = (struct qcow2_header){0};
}
