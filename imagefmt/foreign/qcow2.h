/*
 * qcow2, versions 2 and 3 (QEMU's docs/interop/qcow2): what its files share.  Private to
 * imagefmt/foreign/; all numbers of the format are big-endian.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_QCOW2_H
#define FERRY_IMAGEFMT_FOREIGN_QCOW2_H

#include <jansson.h>
#include <pthread.h>

#include "imagefmt/foreign/codec.h"
#include "imagefmt/foreign/disk.h"

#define QCOW2_MAGIC            0x514649fbu
#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21
#define QCOW2_V2_BYTES         72
#define QCOW2_V3_BYTES         104

/* Incompatible features */
#define QCOW2_DIRTY        (UINT64_C(1) << 0)
#define QCOW2_CORRUPT      (UINT64_C(1) << 1)
#define QCOW2_DATA_FILE    (UINT64_C(1) << 2)
#define QCOW2_COMPRESSION  (UINT64_C(1) << 3)
#define QCOW2_EXTENDED_L2  (UINT64_C(1) << 4)
#define QCOW2_INCOMPATIBLE ((UINT64_C(1) << 5) - 1) /* those known */

/* Table entries */
#define QCOW2_COPIED      (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED  (UINT64_C(1) << 62)
#define QCOW2_ZERO        (UINT64_C(1) << 0)
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define QCOW2_SUBCLUSTERS 32

enum qcow2_extension {
    QCOW2_EXTENSION_END = 0,
    QCOW2_EXTENSION_FEATURES = 0x6803f857,
    QCOW2_EXTENSION_DATA_FILE = 0x44415441,
    QCOW2_EXTENSION_BACKING_FORMAT = 0xe2792aca,
};

struct qcow2_header {
    uint32_t version, cluster_bits, crypt_method, l1_entries, snapshots, header_bytes;
    uint64_t size_bytes, l1_offset, snapshots_offset, incompatible;
    uint64_t backing_offset;
    uint32_t backing_bytes;
    uint8_t compression; /* 0: deflate, 1: zstd */
    char *backing;       /* the name, fit to be shown; NULL: none */
    json_t *internal;    /* snapshots, an array of objects */
};

/*
 * Read and check the header, and what it says that no table shows: the backing file's name and the
 * list of snapshots.  FERRY_REFUSED: damaged, or of a kind that is not read, with its name.  Free
 * with qcow2_header_free, also after an error.
 */
int qcow2_read_header(struct source *source, struct qcow2_header *header, struct ferry_error *err);
void qcow2_header_free(struct qcow2_header *header);
/* What it says of its backing file (disk.h). */
int qcow2_backing_format(struct source *source, char name[DISK_NAME_BYTES],
                         struct ferry_error *err);

/* A file is recognised by magic and version. */
bool qcow2_probe(const uint8_t *head, size_t head_bytes, const uint8_t *tail, size_t tail_bytes);

int qcow2_create(struct sink *sink, const struct disk_write_options *options,
                 struct disk_writer **out, struct ferry_error *err);
int qcow2_plan(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
int qcow2_encode(const struct disk_writer *writer, struct disk_unit *unit, struct ferry_error *err);
int qcow2_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
uint64_t qcow2_unwritten(const struct disk_writer *writer);
int qcow2_finish(struct disk_writer *writer, struct ferry_error *err);
void qcow2_destroy(struct disk_writer *writer);

#endif
