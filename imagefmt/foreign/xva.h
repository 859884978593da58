/*
 * XVA (XenServer, XCP-ng; xen-api's export.ml, import.ml and stream_vdi.ml): what its files share.
 * Private to imagefmt/foreign/.
 *
 * A tar: ova.xml, which describes the machine, then of each disk its blocks in order, each a member
 * "Ref:N/00000000" with the sum of it behind: ".xxhash" (XXH64) or, before 2021, ".checksum"
 * (SHA-1), in hexadecimal.  Blocks that are zero are left out, but for the first and the last.  A
 * block's number only says how many were left out before it: an empty one, which XenServer sends to
 * keep a connection alive, counts but takes no place.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_XVA_H
#define FERRY_IMAGEFMT_FOREIGN_XVA_H

#include "imagefmt/foreign/bundle.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/describe.h"

#define XVA_BLOCK_BYTES (1 * MIB) /* as written */
#define XVA_DESCRIPTION "ova.xml"
#define XVA_REF_BYTES   64 /* of "Ref:12", with the NUL */
#define XVA_SUM_BYTES   64 /* more is no sum */
#define XVA_DISK_REF                                                            \
    100 /* of the first disk: XAPI takes disks in the order of their refs' text \
         */

/* ---- Writing ---- */

/* ova.xml.  sizes: of the disks as they are written.  notes may be NULL. */
int xva_describe(const struct guest *guest, const uint64_t *sizes, json_t *notes, char **text,
                 size_t *size, struct ferry_error *err);
int xva_write(const struct bundle_output *output, const struct bundle_content *content,
              const struct bundle_write_options *options, struct bundle_write_result *result,
              struct ferry_error *err);
int xva_losses(const struct bundle_content *content, json_t *notes, struct ferry_error *err);

/* ---- Reading ---- */

/* What is said of the disks beside the guest. */
struct xva_refs {
    char disks[LIMIT_DISKS][XVA_REF_BYTES]; /* "Ref:12": before '/' in its blocks' names */
};

/* Hostile text. */
int xva_parse(const char *text, size_t size, const char *about, struct guest *guest,
              struct xva_refs *refs, struct notes *notes, struct ferry_error *err);

/* A member's name, taken apart. */
struct xva_name {
    char ref[XVA_REF_BYTES];
    uint64_t number;
    bool is_sum;
    enum xva_sum {
        XVA_SUM_NONE,
        XVA_SUM_XXH64,
        XVA_SUM_SHA1,
    } sum;
};

/* false: it is no block and no sum of one. */
bool xva_parse_name(const char *name, struct xva_name *out);
/* Are these the two names of a block and its sum? */
bool xva_is_sum_of(const struct xva_name *sum, const struct xva_name *block);
/* Has data the sum that is stated as text?  FERRY_REFUSED: no; name: of the block. */
int xva_check_sum(enum xva_sum kind, const uint8_t *text, size_t text_bytes, const void *data,
                  size_t size, const char *name, const char *about, struct ferry_error *err);

/* Where the blocks of a disk belong, one after the other. */
struct xva_place {
    uint64_t size_bytes;  /* of the disk */
    uint64_t first_bytes; /* of its first block, which is the measure of those left out */
    uint64_t number;      /* of the next block, at least */
    uint64_t end;         /* of the content so far */
};

/* The next block: *offset of it in the disk.  FERRY_REFUSED: not in order, or outside. */
int xva_place_next(struct xva_place *place, const struct xva_name *name, uint64_t bytes,
                   uint64_t *offset, const char *about, struct ferry_error *err);
/* Are all there?  FERRY_REFUSED: the last one is missing. */
int xva_place_end(const struct xva_place *place, const char *ref, const char *about,
                  struct ferry_error *err);

struct xva_reader {
    struct bundle bundle;
    struct bundle_input input;
    struct notes notes;
    struct xva_refs refs;
    bool given[LIMIT_DISKS];
    bool noted_sums;               /* that some are missing */
    char noted_ref[XVA_REF_BYTES]; /* the last one that nothing is known of */
    struct disk *disk;             /* at hand */
    struct xva_random *random;
    struct xva_stream *stream;
};

/* The disk of this ref, or LIMIT_DISKS. */
uint32_t xva_disk_of(const struct xva_reader *r, const char *ref);
/* A block has no sum; a block is of no disk of the machine: said once, and once a ref. */
void xva_note_sum(struct xva_reader *r);
void xva_note_ref(struct xva_reader *r, const char *ref);

int xva_random_open(struct xva_reader *r, struct ferry_error *err);
int xva_random_next_disk(struct xva_reader *r, uint32_t *index, struct ferry_error *err);
int xva_random_finish(struct xva_reader *r, struct ferry_error *err);
void xva_random_close(struct xva_random *random); /* NULL is fine */

int xva_stream_open(struct xva_reader *r, struct ferry_error *err);
int xva_stream_next_disk(struct xva_reader *r, uint32_t *index, struct ferry_error *err);
int xva_stream_finish(struct xva_reader *r, struct ferry_error *err);
void xva_stream_close(struct xva_stream *stream); /* NULL is fine */

#endif
