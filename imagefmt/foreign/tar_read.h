/*
 * Headers and content of a tar by libarchive, from a source or a stream: what both ways to read a
 * container share.  Private to imagefmt/foreign/.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_TAR_READ_H
#define FERRY_IMAGEFMT_FOREIGN_TAR_READ_H

#include "imagefmt/foreign/container.h"

struct archive;
struct archive_entry;

#define TAR_READ_BYTES (64 * KIB)

struct tar_reader {
    struct archive *archive;
    struct archive_entry *entry;
    struct source *source; /* or */
    struct stream *stream;
    const char *about;
    uint64_t position;  /* of the source: what libarchive reads next */
    uint64_t most;      /* members */
    uint64_t seen;      /* headers so far, also of folders */
    uint64_t next;      /* where the next header must begin */
    size_t chunk_bytes; /* that libarchive is given at once */
    uint8_t *chunk;
    struct ferry_error error; /* of the source or stream, within a callback of libarchive */
    char name[LIMIT_MEMBER_NAME_BYTES + 1];
};

/* One of source and stream is given, and outlives it.  Close it also after an error. */
int tar_reader_open(struct tar_reader *r, struct source *source, struct stream *stream,
                    uint64_t most, struct ferry_error *err);
/*
 * The next plain file: 1, 0 behind the mark of the end, FERRY_REFUSED for whatever is neither a
 * plain file nor a folder, or does not lie where its header says.  member->name is r->name.
 */
int tar_reader_next(struct tar_reader *r, struct container_member *member, struct ferry_error *err);
/* Content of the member at hand, as stream->read. */
int tar_reader_read(struct tar_reader *r, void *data, size_t size, size_t *got,
                    struct ferry_error *err);
void tar_reader_close(struct tar_reader *r);

#endif
