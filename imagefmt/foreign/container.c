/*
 * Containers, writing.  A tar is headers of 512 bytes, made by libarchive in memory, and content
 * straight into the sink.  What is not known when a member begins is put right when it ends, by
 * writing its header again at its place.  A folder is files, opened beneath it.
 *
 * The sums are taken as bytes pass; a file that was written at random is read back for its sum.
 */
#include "imagefmt/foreign/container.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/member.h"
#include "imagefmt/foreign/sink.h"

#define BLOCK_BYTES       UINT64_C(512)
#define HEADER_ROOM_BYTES 4096                      /* with GNU's record for a long name */
#define USTAR_MOST_BYTES  ((UINT64_C(1) << 33) - 1) /* eleven octal digits */
#define SHORT_NAME_BYTES  100                       /* fits into every header as it is */
#define ADDED_MAX         64
#define READ_BYTES        (256 * KIB)

/* A member that container_replace may be asked for. */
struct added {
    char *name;
    uint64_t offset; /* of its content, in a tar */
    uint64_t size;
};

struct member {
    struct sink sink; /* what the caller writes to */
    char name[LIMIT_MEMBER_NAME_BYTES + 1];
    uint64_t size; /* announced, or CONTAINER_UNKNOWN; once it has ended: what it is */
    uint64_t header_offset, content_offset;
    size_t header_bytes;
    int fd;         /* in a folder */
    bool scattered; /* written at random: the running sum is of no use */
    struct sha256 *hash;
};

struct container {
    struct sink *sink; /* NULL: a folder */
    uint64_t start;    /* of the archive in the sink */
    int folder_fd;
    const char *about;
    bool unhashed;    /* nobody wants sums */
    bool open, ended; /* is a member open; has one ended */
    struct member member;
    uint64_t bytes; /* of all files of a folder */
    struct added added[ADDED_MAX];
    size_t added_count;
};

/* ---- Headers ---- */

/* libarchive's header for a plain file; *used: its size. */
static int compose_header(const struct container *c, const char *name, uint64_t size,
                          uint8_t header[HEADER_ROOM_BYTES], size_t *used, struct ferry_error *err)
{
    struct archive *a = archive_write_new();
    struct archive_entry *entry = archive_entry_new();
    int result = ARCHIVE_FATAL;
    size_t filled = 0;

    if (a && entry) {
        archive_entry_set_pathname(entry, name);
        archive_entry_set_size(entry, (int64_t)size);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        archive_entry_set_mtime(entry, 0, 0);
        bool plain = size <= USTAR_MOST_BYTES && strlen(name) <= SHORT_NAME_BYTES;
        result = plain ? archive_write_set_format_ustar(a) : archive_write_set_format_gnutar(a);
        if (result == ARCHIVE_OK)
            result = archive_write_set_bytes_per_block(a, 0);
        if (result == ARCHIVE_OK)
            result = archive_write_open_memory(a, header, HEADER_ROOM_BYTES, &filled);
        if (result == ARCHIVE_OK)
            result = archive_write_header(a, entry);
        *used = filled;
    }
    if (result != ARCHIVE_OK)
        ferry_fail(err, a && entry ? -EIO : -ENOMEM, c->about,
                   "cannot make the header of '%.100s': %.150s", name,
                   a && archive_error_string(a) ? archive_error_string(a) : "out of memory");
    archive_entry_free(entry);
    /* No content follows; what closing it puts behind the header for that is not looked at.  (After
     * archive_write_fail it would not be closed, and not all of it freed.) */
    archive_write_free(a);
    return result == ARCHIVE_OK ? 0 : a && entry ? -EIO : -ENOMEM;
}

/* The header at its place again, with what is known by now. */
static int rewrite_header(const struct container *c, const char *name, struct ferry_error *err)
{
    const struct member *m = &c->member;
    uint8_t header[HEADER_ROOM_BYTES];
    size_t used = 0;

    int error = compose_header(c, name, m->size, header, &used, err);
    if (error)
        return error;
    if (used != m->header_bytes)
        return ferry_fail(err, -EINVAL, c->about, "the name '%.100s' does not fit into its header",
                          name);
    return c->sink->pwrite(c->sink, m->header_offset, header, used, err);
}

/* ---- The sink of a member ---- */

static struct container *container_of_sink(struct sink *sink)
{
    return (struct container *)((char *)sink - offsetof(struct container, member.sink));
}

static int check_room(const struct container *c, size_t size, struct ferry_error *err)
{
    const struct member *m = &c->member;

    if (m->size == CONTAINER_UNKNOWN || size <= m->size - m->sink.position)
        return 0;
    return ferry_fail(err, -EINVAL, c->about, "'%.100s' gets more bytes than were announced",
                      m->name);
}

static int member_write(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    struct container *c = container_of_sink(sink);
    struct member *m = &c->member;

    int error = check_room(c, size, err);
    if (error)
        return error;
    if (c->sink) {
        error = c->sink->write(c->sink, data, size, err);
    } else {
        error = pwrite_all(m->fd, data, size, sink->position);
        if (error)
            ferry_fail_sys(err, error, c->about, "cannot write '%.100s'", m->name);
    }
    if (error)
        return error;
    if (m->hash && !m->scattered)
        sha256_update(m->hash, data, size);
    sink->position += size;
    return 0;
}

static int member_pwrite(struct sink *sink, uint64_t offset, const void *data, size_t size,
                         struct ferry_error *err)
{
    struct container *c = container_of_sink(sink);

    c->member.scattered = true;
    int error = pwrite_all(c->member.fd, data, size, offset);
    return error ? ferry_fail_sys(err, error, c->about, "cannot write '%.100s'", c->member.name)
                 : 0;
}

static int member_extend(struct sink *sink, uint64_t size, struct ferry_error *err)
{
    struct container *c = container_of_sink(sink);
    struct stat st;

    c->member.scattered = true;
    if (fstat(c->member.fd, &st) ||
        ((uint64_t)st.st_size < size && ftruncate(c->member.fd, (off_t)size)))
        return ferry_fail_sys(err, -errno, c->about, "cannot write '%.100s'", c->member.name);
    return 0;
}

/* ---- Members ---- */

bool container_can_patch(const struct container *c)
{
    return !c->sink || c->sink->pwrite;
}

static int begin_in_tar(struct container *c, struct ferry_error *err)
{
    struct member *m = &c->member;
    bool unknown = m->size == CONTAINER_UNKNOWN;
    uint8_t header[HEADER_ROOM_BYTES];

    if (unknown && (!container_can_patch(c) || strlen(m->name) > SHORT_NAME_BYTES))
        return ferry_fail(err, -EINVAL, c->about, "the size of '%.100s' must be known beforehand",
                          m->name);
    int error = compose_header(c, m->name, unknown ? 0 : m->size, header, &m->header_bytes, err);
    if (error)
        return error;
    m->header_offset = c->sink->position;
    m->content_offset = m->header_offset + m->header_bytes;
    return c->sink->write(c->sink, header, m->header_bytes, err);
}

static int begin_in_folder(struct container *c, struct ferry_error *err)
{
    struct member *m = &c->member;

    int error = member_make_folders(c->folder_fd, m->name);
    if (!error) {
        m->fd = member_open(c->folder_fd, m->name, O_RDWR | O_CREAT | O_EXCL, 0600);
        error = m->fd < 0 ? m->fd : 0;
    }
    if (error)
        return ferry_fail_sys(err, error, c->about, "cannot create '%.100s'", m->name);
    m->sink.pwrite = member_pwrite;
    m->sink.extend = member_extend;
    return 0;
}

void container_want_sums(struct container *c, bool want)
{
    c->unhashed = !want;
}

static int check_name(const struct container *c, const char *name,
                      char clean[LIMIT_MEMBER_NAME_BYTES + 1], struct ferry_error *err)
{
    int error = member_name_check(name, c->about, clean, err);

    if (!error && !clean[0])
        error = ferry_refuse(err, -EINVAL, c->about, "has a member with an empty name");
    return error;
}

int container_begin(struct container *c, const char *name, uint64_t size, struct sink **out,
                    struct ferry_error *err)
{
    struct member *m = &c->member;

    if (c->open)
        return ferry_fail(err, -EINVAL, c->about, "'%.100s' has not ended", m->name);
    *m = (struct member){.size = size, .fd = -1};
    m->sink = (struct sink){.write = member_write, .about = c->about};
    int error = check_name(c, name, m->name, err);
    if (!error)
        error = c->sink ? begin_in_tar(c, err) : begin_in_folder(c, err);
    if (!error && !c->unhashed && !(m->hash = sha256_new()))
        error = ferry_fail(err, -ENOMEM, c->about, "out of memory");
    if (error)
        return error;
    c->open = true;
    *out = &m->sink;
    return 0;
}

static int hash_file(const struct container *c, uint8_t sum[SHA256_BYTES], struct ferry_error *err)
{
    const struct member *m = &c->member;
    CLEANUP_FREE uint8_t *data = malloc(READ_BYTES);
    struct sha256 *hash = sha256_new();
    int error = data && hash ? 0 : -ENOMEM;

    for (uint64_t at = 0; !error && at < m->size;) {
        size_t part = m->size - at < READ_BYTES ? (size_t)(m->size - at) : READ_BYTES;
        error = pread_all(m->fd, data, part, at);
        if (!error)
            sha256_update(hash, data, part);
        at += part;
    }
    if (error) {
        sha256_free(hash);
        return ferry_fail_sys(err, error, c->about, "cannot read '%.100s' back", m->name);
    }
    sha256_final(hash, sum);
    return 0;
}

static int end_in_folder(struct container *c, uint8_t *sum, struct ferry_error *err)
{
    struct member *m = &c->member;
    struct stat st;

    if (fstat(m->fd, &st))
        return ferry_fail_sys(err, -errno, c->about, "cannot write '%.100s'", m->name);
    uint64_t size = (uint64_t)st.st_size;
    if (m->size != CONTAINER_UNKNOWN && size != m->size)
        return ferry_fail(err, -EINVAL, c->about, "'%.100s' got another size than was announced",
                          m->name);
    m->size = size;
    c->bytes += size;
    return sum && m->scattered ? hash_file(c, sum, err) : 0;
}

static int end_in_tar(struct container *c, struct ferry_error *err)
{
    struct member *m = &c->member;
    uint64_t padding = (BLOCK_BYTES - m->sink.position % BLOCK_BYTES) % BLOCK_BYTES;

    if (m->size != CONTAINER_UNKNOWN && m->sink.position != m->size)
        return ferry_fail(err, -EINVAL, c->about, "'%.100s' got fewer bytes than were announced",
                          m->name);
    bool patch = m->size == CONTAINER_UNKNOWN;
    m->size = m->sink.position;
    int error = sink_zeroes(c->sink, padding, err);
    return error || !patch ? error : rewrite_header(c, m->name, err);
}

static void drop_member(struct container *c)
{
    sha256_free(take_ptr(&c->member.hash));
    if (c->member.fd >= 0)
        close(take_fd(&c->member.fd));
    c->open = false;
}

int container_end(struct container *c, uint8_t sha256[SHA256_BYTES], uint64_t *bytes,
                  struct ferry_error *err)
{
    struct member *m = &c->member;

    if (!c->open || (sha256 && !m->hash))
        return ferry_fail(err, -EINVAL, c->about, "no member is open, or it has no sum");
    int error = c->sink ? end_in_tar(c, err) : end_in_folder(c, sha256, err);
    if (!error && sha256 && !m->scattered)
        sha256_final(take_ptr(&m->hash), sha256);
    drop_member(c);
    c->ended = !error;
    if (!error && bytes)
        *bytes = m->size;
    return error;
}

int container_rename(struct container *c, const char *name, struct ferry_error *err)
{
    struct member *m = &c->member;
    char clean[LIMIT_MEMBER_NAME_BYTES + 1];

    int error = check_name(c, name, clean, err);
    if (error)
        return error;
    if (!container_can_patch(c) || c->open || !c->ended || strlen(clean) > SHORT_NAME_BYTES)
        return ferry_fail(err, -EINVAL, c->about, "cannot rename a member to '%.100s'", name);
    if (c->sink) {
        error = rewrite_header(c, clean, err);
    } else {
        error = member_make_folders(c->folder_fd, clean);
        if (!error && renameat2(c->folder_fd, m->name, c->folder_fd, clean, RENAME_NOREPLACE))
            error = -errno;
        if (error)
            ferry_fail_sys(err, error, c->about, "cannot rename '%.100s' to '%.100s'", m->name,
                           clean);
    }
    if (!error)
        memcpy(m->name, clean, sizeof(clean));
    return error;
}

/* ---- Whole members ---- */

static int remember(struct container *c, struct ferry_error *err)
{
    struct added *a = &c->added[c->added_count];

    if (c->added_count == ADDED_MAX)
        return 0;
    if (!(a->name = strdup(c->member.name)))
        return ferry_fail(err, -ENOMEM, c->about, "out of memory");
    a->offset = c->member.content_offset;
    a->size = c->member.size;
    c->added_count++;
    return 0;
}

int container_add(struct container *c, const char *name, const void *data, size_t size,
                  uint8_t sha256[SHA256_BYTES], struct ferry_error *err)
{
    struct sink *sink;

    int error = container_begin(c, name, size, &sink, err);
    if (!error && size)
        error = sink->write(sink, data, size, err);
    if (!error)
        error = container_end(c, sha256, NULL, err);
    return error ? error : remember(c, err);
}

static int replace_in_folder(const struct container *c, const char *name, const void *data,
                             size_t size, struct ferry_error *err)
{
    CLEANUP_FD int fd = member_open(c->folder_fd, name, O_WRONLY, 0);
    int error = fd < 0 ? fd : pwrite_all(fd, data, size, 0);

    return error ? ferry_fail_sys(err, error, c->about, "cannot write '%.100s'", name) : 0;
}

int container_replace(struct container *c, const char *name, const void *data, size_t size,
                      uint8_t sha256_out[SHA256_BYTES], struct ferry_error *err)
{
    const struct added *a = NULL;

    for (size_t i = 0; !a && i < c->added_count; i++)
        if (!strcmp(c->added[i].name, name))
            a = &c->added[i];
    if (!a || a->size != size || !container_can_patch(c))
        return ferry_fail(err, -EINVAL, c->about, "cannot replace '%.100s'", name);
    int error = c->sink ? c->sink->pwrite(c->sink, a->offset, data, size, err)
                        : replace_in_folder(c, name, data, size, err);
    if (!error && sha256_out)
        sha256(data, size, sha256_out);
    return error;
}

/* ---- The whole ---- */

static int create(struct container **out, const char *about, struct ferry_error *err)
{
    if (!(*out = calloc(1, sizeof(**out))))
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    (*out)->about = about;
    (*out)->folder_fd = (*out)->member.fd = -1;
    return 0;
}

int container_create_tar(struct sink *sink, struct container **out, struct ferry_error *err)
{
    int error = create(out, sink->about, err);

    if (error)
        return error;
    (*out)->sink = sink;
    (*out)->start = sink->position;
    return 0;
}

int container_create_folder(int folder_fd, const char *about, struct container **out,
                            struct ferry_error *err)
{
    int error = create(out, about, err);

    if (!error)
        (*out)->folder_fd = folder_fd;
    return error;
}

int container_finish(struct container *c, uint64_t *bytes, struct ferry_error *err)
{
    int error = 0;

    if (c->open)
        return ferry_fail(err, -EINVAL, c->about, "'%.100s' has not ended", c->member.name);
    if (c->sink)
        error = sink_zeroes(c->sink, 2 * BLOCK_BYTES, err);
    if (!error && bytes)
        *bytes = c->sink ? c->sink->position - c->start : c->bytes;
    return error;
}

void container_destroy(struct container *c)
{
    if (!c)
        return;
    drop_member(c);
    for (size_t i = 0; i < c->added_count; i++)
        free(c->added[i].name);
    free(c);
}
