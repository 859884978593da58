/*
 * Blobs of an OCI layout, reading: files that a descriptor names by digest and size.  Private to
 * the reader of OCI artifacts.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_OCI_BLOBS_H
#define FERRY_IMAGEFMT_FOREIGN_OCI_BLOBS_H

#include "common/hash.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/oci.h"

struct oci_blob {
    const struct container_member *member;
    uint8_t digest[SHA256_BYTES];
    char text[OCI_DIGEST_BYTES]; /* of it */
    bool checked;                /* the whole of it was read, and has this digest */
};

/* The descriptor's mediaType; "": it has none. */
const char *oci_descriptor_type(const json_t *descriptor);
/* An annotation of it; NULL: there is none. */
const char *oci_descriptor_note(const json_t *descriptor, const char *key);

/* What descriptor names must be there, of the size it says; the digest is not compared yet.  No
 * name is made of anything but 64 hexadecimal digits. */
int oci_blob_find(const struct container_index *index, const json_t *descriptor, const char *about,
                  struct oci_blob *blob, struct ferry_error *err);
/* All of a small one, as container_load, of the digest it must have. */
int oci_blob_load(struct container_index *index, const json_t *descriptor, size_t most,
                  const char *about, uint8_t **data, size_t *size, struct ferry_error *err);
/* The same, as JSON: a new reference.  text: its digest, NULL if nobody asks. */
int oci_blob_json(struct container_index *index, const json_t *descriptor, const char *about,
                  const char *what, json_t **out, char text[OCI_DIGEST_BYTES],
                  struct ferry_error *err);
/* count blobs one behind the other, in order; each is compared when its end is reached.  They and
 * index outlive the stream. */
int oci_blobs_stream(struct container_index *index, struct oci_blob *blobs, size_t count,
                     const char *about, struct stream **out, struct ferry_error *err);
/* Read what was not compared yet, and compare it. */
int oci_blobs_check(struct container_index *index, struct oci_blob *blobs, size_t count,
                    const char *about, struct ferry_error *err);

#endif
