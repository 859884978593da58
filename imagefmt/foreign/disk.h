/*
 * Virtual disks of other formats: one small interface, one file a format.
 *
 * A format is a table of functions.  Reading is at random over a source of bytes; writing takes the
 * disk's content in ascending units and puts bytes into a sink, in order where the format allows it
 * (then a pipe will do).  Nothing here opens a file by a name that it read from a file.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_DISK_H
#define FERRY_IMAGEFMT_FOREIGN_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/limits.h"

/* ---- Where bytes come from and go to ---- */

/* Bytes at random: a file, a part of one, an HTTP server, memory.  pread may be called by several
 * threads at once; it is whole or an error (past the end: FERRY_REFUSED, -EBADMSG). */
struct source {
    int (*pread)(struct source *source, uint64_t offset, void *data, size_t size,
                 struct ferry_error *err);
    /* The next run that may hold other bytes than zero, at or after *start: 1 and [*start, *end),
     * or 0.  NULL: all may. */
    int (*next_data)(struct source *source, uint64_t *start, uint64_t *end);
    void (*close)(struct source *source); /* frees it */
    uint64_t size_bytes;
    const char *about; /* its name in messages */
};

/* Bytes in order, or at random too if it is a file. */
struct sink {
    int (*write)(struct sink *sink, const void *data, size_t size, struct ferry_error *err);
    /* NULL: in order only.  Writing behind the end leaves zeroes between. */
    int (*pwrite)(struct sink *sink, uint64_t offset, const void *data, size_t size,
                  struct ferry_error *err);
    /* At least this size, with zeroes up to there; NULL where pwrite is. */
    int (*extend)(struct sink *sink, uint64_t size, struct ferry_error *err);
    /* The same as to write so many zeroes; NULL: write them. */
    int (*zeroes)(struct sink *sink, uint64_t size, struct ferry_error *err);
    uint64_t position; /* bytes written in order so far */
    const char *about;
};

/* Bytes in order, by one thread: a pipe, a decompressor, a member of an archive. */
struct stream {
    /* Up to size bytes; *got is less only at the end, 0 there. */
    int (*read)(struct stream *stream, void *data, size_t size, size_t *got,
                struct ferry_error *err);
    void (*close)(struct stream *stream); /* frees it */
    const char *about;                    /* its name in messages */
};

/* ---- Reading ---- */

enum disk_extent_kind {
    DISK_DATA, /* read it */
    DISK_ZERO, /* reads as zeroes: stated so, or a hole */
};

struct disk_extent {
    uint64_t size_bytes; /* at least 1 */
    enum disk_extent_kind kind;
    /* Of DISK_DATA: how many bytes of it one byte of the file can hold at most, which no other
     * place of the disk shares: 1 if it is stored as it is.  0: not known. */
    uint32_t ratio;
};

struct disk;

/* What a person allows a disk to draw on; NULL members: nothing. */
struct disk_open_options {
    /* The one backing file or parent that may be used, opened by the caller; NULL: a disk that
     * needs one is refused, with its name in the message. */
    struct disk *backing;
    /* The other files of a format in several (a flat extent), opened by the caller by the name it
     * was told; NULL: refused. */
    struct source *external;
    /* open_stream: the disk's size where the format does not say it (raw), and how many bytes the
     * stream has; 0: not known. */
    uint64_t size_bytes, stream_bytes;
};

/*
 * An open disk.  read and extent may be called by several threads at once; size bytes at offset
 * must lie within the disk.  One that is in_order (a compressed stream) is used by one thread,
 * which never asks extent or read for what lies before the last extent's offset or the last read's
 * end.
 */
struct disk {
    const struct disk_format *format;
    uint64_t size_bytes; /* as the guest sees it */
    bool in_order;
    uint64_t stored_bytes; /* of the files that extents with a ratio lie in */
    uint32_t block_bytes; /* aligned reads of as much cost least; a power of two, 0: all the same */
    void *opaque;         /* the format's */
};

/* ---- Writing ---- */

#define DISK_UNIT_MAX_BYTES (2 * MIB)

struct disk_write_options {
    uint64_t size_bytes;   /* of the disk; a multiple of 512 but for raw */
    const char *subformat; /* "streamOptimized", "fixed"; NULL: the format's usual one */
    const char *codec;     /* "none", "zlib", "zstd"; NULL: the format's usual one */
    int level;             /* of the codec; 0: its usual one */
    uint64_t unit_bytes;   /* cluster, grain or block size; 0: the format's usual one */
    uint8_t identity[16];  /* for formats with a UUID: made of the content's name, never random */
};

/* One unit as it will be stored: by encode on a worker, to put on the one writing thread. */
struct disk_unit {
    uint64_t offset; /* in the disk, a multiple of the writer's unit_bytes */
    const uint8_t *content;
    uint32_t content_bytes; /* unit_bytes, the last one of the disk may be short */
    uint8_t *stored;        /* room for stored_room bytes; the pipeline's, kept between units */
    uint32_t stored_room, stored_bytes;
    bool raw; /* encode's choice: content is to be stored as it is */
};

/*
 * Some formats have their tables before the data.  With a pipe for a sink their writer must know
 * what will come before the first put, and says how much of it: then plan is called for all units
 * that will be put, and then put for the same ones in the same order.
 */
enum disk_plan {
    DISK_PLAN_NONE,
    DISK_PLAN_PLACES, /* which units there are: known by the extents of the source, not read */
    DISK_PLAN_SIZES,  /* and how many bytes encode makes of each: the content is read twice */
};

struct disk_writer {
    const struct disk_format *format;
    /* A power of two, 512 to DISK_UNIT_MAX_BYTES.  It need not be the format's block: one with
     * larger blocks takes parts of them. */
    uint32_t unit_bytes;
    uint32_t stored_room; /* what encode may need for a unit; 0 without encode */
    /* Without encode: how many bytes of adjoining units may come in one put, for fewer calls; a
     * multiple of unit_bytes, 0: one unit each. */
    uint32_t run_bytes;
    enum disk_plan plan;
    void *opaque;
};

/* ---- Formats ---- */

#define DISK_PROBE_HEAD_BYTES 4096 /* of a file, at most, are looked at to recognise it */
#define DISK_PROBE_TAIL_BYTES 1024
#define DISK_NAME_BYTES       16 /* of a format */

struct disk_format {
    const char *name;      /* "qcow2" */
    const char *extension; /* ".qcow2" */
    const char *limits;    /* a line for `ferry formats` */
    bool streams;          /* the writer needs no pwrite */
    /* Do these first and last bytes of a file say that it is this format?  Never by guess. */
    bool (*probe)(const uint8_t *head, size_t head_bytes, const uint8_t *tail, size_t tail_bytes);
    /* The format of the other file that source draws on, in so far as source says it: else name
     * stays "".  To be believed in any case: nothing is opened by it, and a raw file whose guest
     * wrote the marks of another format to it is not what they say.  NULL: none is drawn on. */
    int (*external_format)(struct source *source, char name[DISK_NAME_BYTES],
                           struct ferry_error *err);
    /* source stays the caller's and outlives the disk.  Hostile: everything is checked. */
    int (*open)(struct source *source, const struct disk_open_options *options, struct disk **out,
                struct ferry_error *err);
    /* The same of a stream, giving an in_order disk; the stream stays the caller's and outlives it.
     * NULL: not in order. */
    int (*open_stream)(struct stream *stream, const struct disk_open_options *options,
                       struct disk **out, struct ferry_error *err);
    /* Of an in_order disk, when enough was read: read and check what is left of the stream.  Only
     * then may what was read be used. */
    int (*drain)(struct disk *disk, struct ferry_error *err);
    /* What lies at offset (< size_bytes), and for how long. */
    int (*extent)(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                  struct ferry_error *err);
    int (*read)(struct disk *disk, uint64_t offset, void *data, size_t size,
                struct ferry_error *err);
    /* What else people should know ("internal snapshots: 2"), as JSON for `inspect`; NULL: none.
     * A new reference. */
    void *(*describe)(const struct disk *disk);
    void (*close)(struct disk *disk);

    /* NULL: not written here.  sink stays the caller's. */
    int (*create)(struct sink *sink, const struct disk_write_options *options,
                  struct disk_writer **out, struct ferry_error *err);
    /* NULL: no writer of this format ever asks for a plan.  Ascending, one thread, all before the
     * first put.  DISK_PLAN_PLACES: only offset and content_bytes of unit are there;
     * DISK_PLAN_SIZES: stored_bytes and raw, too. */
    int (*plan)(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
    /* NULL: units are stored as they are.  By several threads at once; equal content at an equal
     * place gives equal bytes. */
    int (*encode)(const struct disk_writer *writer, struct disk_unit *unit,
                  struct ferry_error *err);
    /* Ascending, one thread; what is left out is zero.  Of what was planned nothing is left out,
     * but content may be zero. */
    int (*put)(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
    /*
     * Into a file, put goes by offsets and sizes alone, and its content is only passed on: so the
     * same units put again, whatever bytes they have, make the same places (resume.h).  Where the
     * first byte of the disk lies that put has kept back so far; UINT64_MAX: nowhere.  NULL: put
     * keeps nothing back.
     */
    uint64_t (*unwritten)(const struct disk_writer *writer);
    int (*finish)(struct disk_writer *writer, struct ferry_error *err);
    void (*destroy)(struct disk_writer *writer); /* after finish or instead of it */
};

/* All formats, NULL-terminated, in the order of `ferry formats`. */
extern const struct disk_format *const disk_formats[];

extern const struct disk_format disk_format_raw, disk_format_qcow2, disk_format_vmdk,
    disk_format_vhd, disk_format_vhdx, disk_format_vdi;

#endif
