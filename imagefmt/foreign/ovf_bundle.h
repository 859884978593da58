/*
 * Packages of an OVF, its disks and a manifest of sums (DSP0243), as a tar (OVA) or a folder: what
 * the files of this format share.  Private to imagefmt/foreign/.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_OVF_BUNDLE_H
#define FERRY_IMAGEFMT_FOREIGN_OVF_BUNDLE_H

#include "imagefmt/foreign/bundle.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/ovf.h"

#define OVF_PIECE_BYTES  (64 * MIB) /* of a disk that goes into a pipe */
#define OVF_PIECE_DIGITS 9          /* disk.vmdk.000000000 */
#define OVF_NAME_BYTES   (LIMIT_NAME_BYTES + 32)

/* ---- Writing ---- */

/* A disk in pieces of OVF_PIECE_BYTES, each a member of its own, made when it is whole. */
struct ovf_pieces {
    struct sink sink;
    struct container *container;
    const char *name;
    uint8_t *piece;
    size_t used;
    uint32_t count;
    /* A member was written. */
    int (*written)(void *opaque, const char *name, const uint8_t sha256[SHA256_BYTES],
                   struct ferry_error *err);
    void *opaque;
};

/* The rest is set by the caller. */
int ovf_pieces_open(struct ovf_pieces *p, struct ferry_error *err);
int ovf_pieces_end(struct ovf_pieces *p, struct ferry_error *err); /* the last one */
void ovf_pieces_close(struct ovf_pieces *p);

/* bundle_format.write of both formats. */
int ovf_bundle_write(const struct bundle_output *output, const struct bundle_content *content,
                     const struct bundle_write_options *options, struct bundle_write_result *result,
                     struct ferry_error *err);
int ovf_bundle_losses(const struct bundle_content *content, json_t *notes, struct ferry_error *err);

/* ---- Manifests ---- */

struct ovf_sum {
    char *name;
    enum digest_kind kind;
    uint8_t sum[DIGEST_MAX_BYTES];
};

struct ovf_manifest {
    struct ovf_sum *sums;
    size_t count;
};

/* Hostile text; FERRY_REFUSED if a line of it is not understood. */
int ovf_manifest_parse(const char *text, size_t size, const char *about,
                       struct ovf_manifest *manifest, struct ferry_error *err);
/* Has it a sum of this file? */
bool ovf_manifest_has(const struct ovf_manifest *manifest, const char *name);
void ovf_manifest_free(struct ovf_manifest *manifest);

/* ---- Reading ---- */

int ovf_bundle_open(const struct bundle_input *input, struct bundle **out, struct ferry_error *err);
int ovf_bundle_next_disk(struct bundle *bundle, uint32_t *index, struct disk **disk,
                         struct ferry_error *err);
int ovf_bundle_finish(struct bundle *bundle, struct ferry_error *err);
void ovf_bundle_close(struct bundle *bundle);

#endif
