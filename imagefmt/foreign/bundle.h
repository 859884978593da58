/*
 * Bundles: a whole machine, its description and its disks, in one file or folder of another
 * hypervisor.  One table of functions a format, over a container (a tar, or a folder) and the
 * formats of disks.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_BUNDLE_H
#define FERRY_IMAGEFMT_FOREIGN_BUNDLE_H

#include "common/hash.h"
#include "common/progress.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/disk.h"
#include "imagefmt/foreign/guest.h"

/* ---- Writing ---- */

/* What goes into a bundle; everything is the caller's and outlives the call. */
struct bundle_content {
    const struct guest *guest; /* file names in it are made by the format, not taken from here */
    /* Disk i of the guest; asked for in the order of the guest, each once unless reread.  It
     * stays open until the next call or the end. */
    int (*disk)(void *opaque, uint32_t index, struct disk **disk, struct ferry_error *err);
    void *opaque;
    bool reread;                            /* disks may be asked for more than once */
    struct source *files[GUEST_FILE_KINDS]; /* NULL: there is none */
};

struct bundle_write_options {
    const char *disk_format; /* of the disks in it: a name of disk_formats; NULL: the usual one */
    const char *codec;       /* "none", "zlib", "zstd"; NULL: the usual one */
    int level;               /* of the codec; 0: its usual one */
    /* Into a pipe the size of a member must be known before its content.  false: disks go in
     * pieces, of which each is held in memory.  true: each disk is one member, and is compressed
     * twice, the first time for its size. */
    bool whole;
    unsigned workers; /* 0: one a CPU */
    bool digest;      /* hash the content of disks, too */
    struct progress *progress;
};

struct bundle_write_result {
    uint64_t bytes;                            /* of the bundle */
    uint64_t content_bytes;                    /* of disks, what is not zero */
    uint8_t digest[LIMIT_DISKS][SHA256_BYTES]; /* of the disks' content, if asked for */
};

/* Where a bundle goes: one of the two is set. */
struct bundle_output {
    struct sink *sink; /* a file (with pwrite: sizes can be filled in later) or a pipe */
    int folder_fd;     /* an empty folder; -1: none */
    const char *about;
};

/* ---- Reading ---- */

/* Where a bundle comes from: one of the three is set. */
struct bundle_input {
    struct source *source; /* at random */
    struct stream *stream; /* in order: a pipe, or what is in a gzip file */
    int folder_fd;         /* -1: none.  Names in it are opened only beneath it, and never followed
                            * through links. */
    const char *description; /* of a folder: the name of the file that describes the machine; NULL:
                              * the only one that can */
    const char *about;
};

struct bundle;

/* ---- Formats ---- */

struct bundle_format {
    const char *name;      /* "ova" */
    const char *extension; /* ".ova" */
    const char *limits;    /* a line for `ferry formats` */
    bool folder;           /* it is a folder, not a file */
    bool streams_in;       /* read from a pipe, too */
    bool streams_out;      /* written to a pipe, too */
    /* Do these first bytes of a file, or the names in a folder, say that it is this format? */
    bool (*probe)(const struct bundle_input *input, const uint8_t *head, size_t head_bytes);
    /* What it has no place for, as strings to notes, without writing anything. */
    int (*losses)(const struct bundle_content *content, json_t *notes, struct ferry_error *err);
    /* NULL: not written.  The same content gives the same bytes. */
    int (*write)(const struct bundle_output *output, const struct bundle_content *content,
                 const struct bundle_write_options *options, struct bundle_write_result *result,
                 struct ferry_error *err);
    /* NULL: not read.  The description is read here.  input and what it names outlive the bundle.
     */
    int (*open)(const struct bundle_input *input, struct bundle **out, struct ferry_error *err);
    /* The next disk in the order in which they can be read, which for a source or folder is that
     * of the guest: 1, 0 at the end, or a negative errno.  It is open until the next call. */
    int (*next_disk)(struct bundle *bundle, uint32_t *index, struct disk **disk,
                     struct ferry_error *err);
    /* What is left is read and all sums are compared: only then may what came out be used. */
    int (*finish)(struct bundle *bundle, struct ferry_error *err);
    void (*close)(struct bundle *bundle);
};

struct bundle {
    const struct bundle_format *format;
    struct guest guest; /* disks' sizes are known after open, or when next_disk has handed it out */
    json_t *notes;      /* array of strings: what was found and is not kept */
    /* The files that came along, malloc'd by the format, freed by it; known after open from a
     * source or folder, after finish from a stream. */
    struct {
        uint8_t *data;
        size_t size;
    } files[GUEST_FILE_KINDS];
    void *opaque;
};

extern const struct bundle_format *const bundle_formats[]; /* NULL-terminated */
extern const struct bundle_format bundle_ova, bundle_ovf, bundle_xva, bundle_oci, bundle_oci_folder,
    bundle_libvirt, bundle_vmx, bundle_xl, bundle_vagrant;

/* NULL: there is none. */
const struct bundle_format *bundle_format_by_name(const char *name);
const struct bundle_format *bundle_format_by_extension(const char *path);
/* By its marks, of which those of a stream are in its first bytes, that the caller read ahead
 * (stream_peek); NULL: it has none. */
const struct bundle_format *bundle_format_by_head(const struct bundle_input *input,
                                                  const uint8_t *head, size_t head_bytes);
/* The same of a source or folder; *out is NULL if it has none. */
int bundle_format_probe(const struct bundle_input *input, const struct bundle_format **out,
                        struct ferry_error *err);

/* ---- For formats ---- */

/* The most bytes that a file of this kind may have. */
size_t bundle_file_most(enum guest_file_kind kind);
/* All of source as a member of this name.  sha256: of it; NULL if nobody asks. */
struct container;
int bundle_add_source(struct container *container, const char *name, struct source *source,
                      uint8_t sha256[SHA256_BYTES], struct ferry_error *err);

/* Do these bytes begin a tar whose first member's name ends like this? */
bool bundle_tar_begins(const uint8_t *head, size_t head_bytes, const char *ending);
/* Has the folder a plain file, not deeper within, whose name ends like this? */
bool bundle_folder_has(int folder_fd, const char *ending);

#endif
