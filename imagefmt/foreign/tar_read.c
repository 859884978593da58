/*
 * Reading a tar.  libarchive understands the headers (ustar, GNU's, pax) and is given bytes by
 * callbacks: of a source it skips what is content, so that only headers are read.
 *
 * The content of a member begins where libarchive stands when it has read the header.  That its
 * content lies there, as a whole and as it is, is checked: the next header must begin exactly
 * behind it.  So a member that is stored in another way (sparse) cannot pass for a plain one.
 */
#include "imagefmt/foreign/tar_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <archive.h>
#include <archive_entry.h>

#include "imagefmt/foreign/member.h"

#define BLOCK_BYTES  512
#define HEADER_BYTES (8 * KIB) /* read at once where content is skipped */

/* ---- What libarchive is given ---- */

static la_ssize_t read_source(struct archive *a, void *opaque, const void **data)
{
    struct tar_reader *r = opaque;
    uint64_t left = r->source->size_bytes - r->position;
    size_t part = left < r->chunk_bytes ? (size_t)left : r->chunk_bytes;

    if (r->source->pread(r->source, r->position, r->chunk, part, &r->error)) {
        archive_set_error(a, EIO, "%s", "cannot read");
        return -1;
    }
    r->position += part;
    *data = r->chunk;
    return (la_ssize_t)part;
}

static la_int64_t skip_source(struct archive *a, void *opaque, la_int64_t request)
{
    struct tar_reader *r = opaque;
    uint64_t left = r->source->size_bytes - r->position;
    la_int64_t skipped = (uint64_t)request < left ? request : (la_int64_t)left;

    (void)a;
    r->position += (uint64_t)skipped;
    return skipped;
}

static la_ssize_t read_stream(struct archive *a, void *opaque, const void **data)
{
    struct tar_reader *r = opaque;
    size_t got = 0;

    if (r->stream->read(r->stream, r->chunk, r->chunk_bytes, &got, &r->error)) {
        archive_set_error(a, EIO, "%s", "cannot read");
        return -1;
    }
    *data = r->chunk;
    return (la_ssize_t)got;
}

/* What libarchive, or a callback below it, says about it. */
static int failure(const struct tar_reader *r, struct ferry_error *err)
{
    const char *text = archive_error_string(r->archive);

    if (r->error.code) {
        if (err)
            *err = r->error;
        return r->error.code;
    }
    if (archive_errno(r->archive) == ENOMEM)
        return ferry_fail(err, -ENOMEM, r->about, "out of memory");
    return ferry_refuse(err, -EBADMSG, r->about, "is not a sound tar archive: %.200s",
                        text ? text : "it cannot be read");
}

int tar_reader_open(struct tar_reader *r, struct source *source, struct stream *stream,
                    uint64_t most, struct ferry_error *err)
{
    *r = (struct tar_reader){
        .source = source,
        .stream = stream,
        .about = source ? source->about : stream->about,
        .most = most,
        .chunk_bytes = source ? HEADER_BYTES : TAR_READ_BYTES,
    };
    r->chunk = malloc(r->chunk_bytes);
    r->archive = archive_read_new();
    r->entry = archive_entry_new();
    if (!r->chunk || !r->archive || !r->entry)
        return ferry_fail(err, -ENOMEM, r->about, "out of memory");
    if (archive_read_support_format_tar(r->archive) != ARCHIVE_OK ||
        archive_read_set_callback_data(r->archive, r) != ARCHIVE_OK ||
        archive_read_set_read_callback(r->archive, source ? read_source : read_stream) !=
            ARCHIVE_OK ||
        (source && archive_read_set_skip_callback(r->archive, skip_source) != ARCHIVE_OK) ||
        archive_read_open1(r->archive) != ARCHIVE_OK)
        return failure(r, err);
    return 0;
}

void tar_reader_close(struct tar_reader *r)
{
    archive_entry_free(r->entry);
    archive_read_free(r->archive); /* NULL is fine for both */
    free(r->chunk);
    *r = (struct tar_reader){.archive = NULL};
}

/* ---- Headers ---- */

static const char *kind_of(struct archive_entry *entry)
{
    if (archive_entry_hardlink(entry))
        return "a hard link";
    switch (archive_entry_filetype(entry)) {
    case AE_IFLNK:
        return "a symbolic link";
    case AE_IFCHR:
    case AE_IFBLK:
        return "a device";
    case AE_IFIFO:
        return "a fifo";
    case AE_IFSOCK:
        return "a socket";
    default:
        return archive_entry_sparse_count(entry) ? "a sparse file" : "of no known kind";
    }
}

static int check_place(const struct tar_reader *r, uint64_t offset, struct ferry_error *err)
{
    if (offset == r->next || !r->seen)
        return 0;
    return ferry_refuse(err, -EBADMSG, r->about,
                        "has a member that is not stored plainly: '%.200s' ends at byte %llu, "
                        "not %llu",
                        r->name, (unsigned long long)offset, (unsigned long long)r->next);
}

/* The mark is there if libarchive went over a block of zeroes. */
static int check_end(const struct tar_reader *r, uint64_t header, struct ferry_error *err)
{
    int error = check_place(r, header, err);

    if (!error && (uint64_t)archive_filter_bytes(r->archive, 0) <= header)
        error = ferry_refuse(err, -EBADMSG, r->about,
                             "ends without the mark of an archive's end: it is cut short");
    return error;
}

/* Is it a plain file?  0: no, but a folder, which is passed over. */
static int check_kind(struct tar_reader *r, struct ferry_error *err)
{
    bool plain = archive_entry_filetype(r->entry) == AE_IFREG;

    if ((!plain && archive_entry_filetype(r->entry) != AE_IFDIR) ||
        archive_entry_hardlink(r->entry) || archive_entry_sparse_count(r->entry))
        return ferry_refuse(err, -EOPNOTSUPP, r->about, "has a member that is %s: '%.200s'",
                            kind_of(r->entry), r->name);
    if (plain && !r->name[0])
        return ferry_refuse(err, -EINVAL, r->about, "has a member with an empty name");
    return plain;
}

static int take_header(struct tar_reader *r, struct container_member *member,
                       struct ferry_error *err)
{
    const char *name = archive_entry_pathname(r->entry);
    int64_t size = archive_entry_size_is_set(r->entry) ? archive_entry_size(r->entry) : 0;
    uint64_t offset = (uint64_t)archive_filter_bytes(r->archive, 0);

    if (r->seen++ == r->most)
        return ferry_refuse(err, -E2BIG, r->about, "has more than %llu members",
                            (unsigned long long)r->most);
    int error = member_name_check(name ? name : "", r->about, r->name, err);
    if (error)
        return error;
    int plain = check_kind(r, err);
    if (plain < 0)
        return plain;
    if (size < 0 || size > INT64_MAX - (int64_t)offset - BLOCK_BYTES ||
        (r->source && offset + (uint64_t)size > r->source->size_bytes))
        return ferry_refuse(err, -EBADMSG, r->about,
                            "is cut short: '%.200s' would end behind its end", r->name);
    uint64_t blocks = ((uint64_t)size + BLOCK_BYTES - 1) / BLOCK_BYTES;
    r->next = offset + (plain ? blocks * BLOCK_BYTES : 0);
    *member =
        (struct container_member){.name = r->name, .offset = offset, .size_bytes = (uint64_t)size};
    return plain;
}

int tar_reader_next(struct tar_reader *r, struct container_member *member, struct ferry_error *err)
{
    for (;;) {
        int result = archive_read_next_header2(r->archive, r->entry);
        uint64_t header = (uint64_t)archive_read_header_position(r->archive);

        if (result == ARCHIVE_EOF)
            return check_end(r, header, err);
        /* A warning is about what is not looked at here: owners, attributes. */
        if (result != ARCHIVE_OK && result != ARCHIVE_WARN)
            return failure(r, err);
        int error = check_place(r, header, err);
        if (error)
            return error;
        int plain = take_header(r, member, err);
        if (plain)
            return plain;
    }
}

int tar_reader_read(struct tar_reader *r, void *data, size_t size, size_t *got,
                    struct ferry_error *err)
{
    uint8_t *at = data;

    for (*got = 0; *got < size;) {
        la_ssize_t part = archive_read_data(r->archive, at + *got, size - *got);
        if (part < 0)
            return failure(r, err);
        if (!part)
            break;
        *got += (size_t)part;
    }
    return 0;
}
