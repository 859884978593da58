/*
 * What bundles are packed in: a tar archive or a folder, member after member, in one pass; and the
 * same read back, at random or in order.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_CONTAINER_H
#define FERRY_IMAGEFMT_FOREIGN_CONTAINER_H

#include "common/hash.h"
#include "imagefmt/foreign/disk.h"

/* ---- Writing ---- */

#define CONTAINER_UNKNOWN UINT64_MAX /* the size of a member is known when it ends */

struct container;

/* A tar into sink: ustar, members over 8 GiB with GNU's size in base 256; times and owners are 0.
 * The header of each is libarchive's. */
int container_create_tar(struct sink *sink, struct container **out, struct ferry_error *err);
/* Files in the folder, which is empty, open at folder_fd, and stays the caller's, as about does.
 * The files are not synced: the caller does that for all of them at once. */
int container_create_folder(int folder_fd, const char *about, struct container **out,
                            struct ferry_error *err);
/* May a member's size be CONTAINER_UNKNOWN, its name change, and its content be put right later?  A
 * folder: yes; a tar in a file: yes; in a pipe: no. */
bool container_can_patch(const struct container *c);
/*
 * A member begins: a plain relative name, '/' for folders within.  What is written to *out, which
 * is in order only (it has no pwrite unless the container is a folder), is its content.  In a tar
 * the name of one whose size is CONTAINER_UNKNOWN has at most 100 bytes.  Nobody looks whether a
 * tar has a member of this name already.
 */
int container_begin(struct container *c, const char *name, uint64_t size, struct sink **out,
                    struct ferry_error *err);
/* Take no SHA-256 of members (false) from the next one on, which costs time: container_end gets
 * NULL for it then. */
void container_want_sums(struct container *c, bool want);
/* It ends.  sha256: of its content, NULL if nobody asks (in a folder written with pwrite it is read
 * back for that).  bytes: its size; may be NULL.  Fewer bytes than were announced: -EINVAL. */
int container_end(struct container *c, uint8_t sha256[SHA256_BYTES], uint64_t *bytes,
                  struct ferry_error *err);
/* Give the member that ended last another name, at most as long as 100 bytes; can_patch only. */
int container_rename(struct container *c, const char *name, struct ferry_error *err);
/* A whole small member. */
int container_add(struct container *c, const char *name, const void *data, size_t size,
                  uint8_t sha256[SHA256_BYTES], struct ferry_error *err);
/* New content of the same size for a member that was added with container_add, of which a few are
 * remembered for this: formats with many members use container_begin; can_patch only. */
int container_replace(struct container *c, const char *name, const void *data, size_t size,
                      uint8_t sha256[SHA256_BYTES], struct ferry_error *err);
/* The end of the archive.  *bytes: of all. */
int container_finish(struct container *c, uint64_t *bytes, struct ferry_error *err);
void container_destroy(struct container *c); /* NULL is fine */

/* ---- Reading at random: a tar that is not compressed, or a folder ---- */

struct container_member {
    const char *name;
    uint64_t offset; /* of its content in the tar */
    uint64_t size_bytes;
};

struct container_index;

/*
 * All members of the tar in source, which outlives the index.  Refused by name: absolute names,
 * "..", names over LIMIT_MEMBER_NAME_BYTES, links, devices, sparse members, the same name twice,
 * more than `most` members (LIMIT_MEMBERS, unless a format says more), and an archive without the
 * mark of its end.  Folders are passed over, "./" before a name is dropped.  Only headers are read.
 */
int container_index_tar(struct source *source, uint64_t most, struct container_index **out,
                        struct ferry_error *err);
/* Plain files beneath the folder at folder_fd (openat2 with RESOLVE_BENEATH and no links), to a
 * depth of LIMIT_FOLDER_DEPTH; anything else in it is refused by name. */
int container_index_folder(int folder_fd, const char *about, uint64_t most,
                           struct container_index **out, struct ferry_error *err);
void container_index_close(struct container_index *index); /* NULL is fine */
uint64_t container_members(const struct container_index *index);
const struct container_member *container_member(const struct container_index *index, uint64_t i);
/* By name; NULL: there is none. */
const struct container_member *container_find(const struct container_index *index,
                                              const char *name);
/* Its content; closed before the index is. */
int container_source(struct container_index *index, const struct container_member *member,
                     struct source **out, struct ferry_error *err);
/* All of a small member, malloc'd, a NUL behind it; FERRY_REFUSED if it is larger than most. */
int container_load(struct container_index *index, const struct container_member *member,
                   size_t most, uint8_t **data, size_t *size, struct ferry_error *err);

/* ---- Reading in order: a tar from a pipe, or one that is compressed ---- */

struct container_stream;

/* The tar in stream, which outlives it.  The same things are refused. */
int container_stream_open(struct stream *stream, uint64_t most, struct container_stream **out,
                          struct ferry_error *err);
/* Which sums are taken of the members from the next one on: bits of 1 << enum digest_kind; SHA-256
 * and SHA-1 if nobody says. */
void container_stream_want(struct container_stream *s, unsigned digests);
/* The next member: 1, 0 at the end of the archive, when the stream has been read to its end.  What
 * was not read of the last one is skipped; member->name is valid until the next call. */
int container_stream_next(struct container_stream *s, struct container_member *member,
                          struct ferry_error *err);
/* The content of the member at hand, valid until the next one; nobody closes it. */
struct stream *container_stream_content(struct container_stream *s);
/* A sum, which must be wanted, of the whole content of the member at hand; what is left is read. */
int container_stream_sum(struct container_stream *s, enum digest_kind kind,
                         uint8_t sum[DIGEST_MAX_BYTES], struct ferry_error *err);
void container_stream_close(struct container_stream *s); /* NULL is fine */

#endif
