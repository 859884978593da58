/* An OVF package being read: what its two ways of being read share.  Private to its files. */
#ifndef FERRY_IMAGEFMT_FOREIGN_OVF_READER_H
#define FERRY_IMAGEFMT_FOREIGN_OVF_READER_H

#include <stdatomic.h>

#include "common/pool.h"
#include "imagefmt/foreign/describe.h"
#include "imagefmt/foreign/member.h"
#include "imagefmt/foreign/ovf_bundle.h"

#define OVF_MANIFEST_BYTES (16 * MIB)

/* What a member of the package is. */
enum ovf_role {
    OVF_ROLE_OVF,
    OVF_ROLE_MANIFEST,
    OVF_ROLE_CERTIFICATE,
    OVF_ROLE_DISK,
    OVF_ROLE_FILE,
    OVF_ROLE_OTHER,
};

struct ovf_reader;

/* A file of the package in order, its pieces joined. */
struct ovf_joined {
    struct stream stream;
    struct ovf_reader *reader;
    uint32_t disk, piece;
    uint64_t total;
    bool ended;
};

/* The sums of a member that came in order. */
struct ovf_record {
    char *name;
    unsigned taken; /* bits of 1 << enum digest_kind */
    uint8_t sums[DIGEST_KINDS][DIGEST_MAX_BYTES];
};

struct ovf_reader {
    struct bundle bundle;
    struct bundle_input input;
    struct notes notes; /* into bundle.notes */
    char ovf_name[LIMIT_MEMBER_NAME_BYTES + 1];
    struct ovf_package package;
    struct ovf_manifest manifest;
    bool has_manifest;
    bool given[LIMIT_DISKS];         /* disks that were handed out, or passed over */
    bool has_file[GUEST_FILE_KINDS]; /* files that were loaded */

    /* The disk at hand, and what it is read from */
    struct disk *disk;
    struct source *disk_source;
    struct stream *disk_stream, *disk_below;

    /* At random */
    struct container_index *index;
    uint32_t next;
    struct pool *pool;
    struct ovf_sum_task *tasks;
    atomic_bool stop;
    pthread_mutex_t lock; /* of sum_error */
    struct ferry_error sum_error;

    /* In order */
    struct container_stream *stream;
    struct container_member member; /* at hand, or to come next */
    char member_name[LIMIT_MEMBER_NAME_BYTES + 1];
    bool inside;  /* a member is at hand, whose sums were not taken */
    bool pending; /* member was read, but nobody has dealt with it */
    bool ended;
    unsigned wanted;
    struct ovf_joined joined;
    struct ovf_record *records;
    size_t record_count;
};

/* ---- Of both (ovf_bundle_read.c) ---- */

/* The description: guest, package, and whether all names in it are those of members. */
int ovf_reader_parse(struct ovf_reader *r, const void *text, size_t size, struct ferry_error *err);
/* What a member is; *index: of the disk or kind of file, *piece: of a disk in pieces. */
enum ovf_role ovf_reader_role(const struct ovf_reader *r, const char *name, uint32_t *index,
                              uint32_t *piece);
/* The format that the description states, or, by marks, that of source, which may be NULL. */
int ovf_reader_format(const struct ovf_reader *r, uint32_t index, struct source *source,
                      const struct disk_format **out, struct ferry_error *err);
/* A disk that has no file: all zeroes. */
int ovf_reader_blank(struct ovf_reader *r, uint32_t index, struct ferry_error *err);
/* From a stream that r->disk_below is, unpacked if its file was gzipped.  file_bytes: of the file,
 * or OVF_SIZE_UNKNOWN. */
int ovf_reader_open_stream(struct ovf_reader *r, uint32_t index, uint64_t file_bytes,
                           struct ferry_error *err);
/* r->disk is open: compare its size with what was stated. */
void ovf_reader_opened(struct ovf_reader *r, uint32_t index);
void ovf_reader_close_disk(struct ovf_reader *r);

/* ---- The two ways ---- */

int ovf_random_open(struct ovf_reader *r, struct ferry_error *err);
int ovf_random_next_disk(struct ovf_reader *r, uint32_t *index, struct ferry_error *err);
int ovf_random_finish(struct ovf_reader *r, struct ferry_error *err);
void ovf_random_close(struct ovf_reader *r);

int ovf_stream_open(struct ovf_reader *r, struct ferry_error *err);
int ovf_stream_next_disk(struct ovf_reader *r, uint32_t *index, struct ferry_error *err);
int ovf_stream_finish(struct ovf_reader *r, struct ferry_error *err);
void ovf_stream_close(struct ovf_reader *r);

#endif
