/*
 * Containers, reading at random: an index of all members, made once, sorted by name for duplicates
 * and for finding.  (A sort's cost has a bound whatever the names are; that of a hash table has
 * not.)  Names lie in blocks of memory that do not move.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/member.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/tar_read.h"

#define NAMES_BYTES (64 * KIB)

struct names {
    struct names *next;
    size_t used;
    char text[NAMES_BYTES];
};

struct container_index {
    struct source *tar; /* NULL: a folder */
    int folder_fd;
    const char *about;
    uint64_t most;
    struct container_member *members;
    uint64_t count, room;
    const struct container_member **sorted;
    struct names *names;
};

/* ---- Members ---- */

static const char *keep_name(struct container_index *index, const char *name)
{
    size_t size = strlen(name) + 1;
    struct names *block = index->names;

    if (!block || NAMES_BYTES - block->used < size) {
        if (!(block = malloc(sizeof(*block))))
            return NULL;
        block->next = index->names;
        block->used = 0;
        index->names = block;
    }
    char *kept = memcpy(block->text + block->used, name, size);
    block->used += size;
    return kept;
}

static int add_member(struct container_index *index, const struct container_member *member,
                      struct ferry_error *err)
{
    if (index->count == index->room) {
        uint64_t room = index->room ? index->room * 2 : 64;
        struct container_member *members =
            reallocarray(index->members, room, sizeof(*index->members));
        if (!members)
            return ferry_fail(err, -ENOMEM, index->about, "out of memory");
        index->members = members;
        index->room = room;
    }
    struct container_member *new = &index->members[index->count];
    *new = *member;
    if (!(new->name = keep_name(index, member->name)))
        return ferry_fail(err, -ENOMEM, index->about, "out of memory");
    index->count++;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct container_member *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static int sort_members(struct container_index *index, struct ferry_error *err)
{
    index->sorted = calloc(index->count ? index->count : 1, sizeof(struct container_member *));
    if (!index->sorted)
        return ferry_fail(err, -ENOMEM, index->about, "out of memory");
    for (uint64_t i = 0; i < index->count; i++)
        index->sorted[i] = &index->members[i];
    qsort(index->sorted, index->count, sizeof(struct container_member *), by_name);
    for (uint64_t i = 1; i < index->count; i++)
        if (!strcmp(index->sorted[i - 1]->name, index->sorted[i]->name))
            return ferry_refuse(err, -EEXIST, index->about, "has two members named '%.200s'",
                                index->sorted[i]->name);
    return 0;
}

uint64_t container_members(const struct container_index *index)
{
    return index->count;
}

const struct container_member *container_member(const struct container_index *index, uint64_t i)
{
    return &index->members[i];
}

const struct container_member *container_find(const struct container_index *index, const char *name)
{
    const struct container_member key = {.name = name}, *wanted = &key;
    const struct container_member **found =
        bsearch(&wanted, index->sorted, index->count, sizeof(wanted), by_name);

    return found ? *found : NULL;
}

/* ---- Making one ---- */

static struct container_index *new_index(const char *about, uint64_t most, struct ferry_error *err)
{
    struct container_index *index = calloc(1, sizeof(*index));

    if (!index) {
        ferry_fail(err, -ENOMEM, about, "out of memory");
        return NULL;
    }
    index->about = about;
    index->most = most;
    index->folder_fd = -1;
    return index;
}

void container_index_close(struct container_index *index)
{
    if (!index)
        return;
    while (index->names) {
        struct names *next = index->names->next;
        free(index->names);
        index->names = next;
    }
    free(index->members);
    free(index->sorted);
    free(index);
}

static void cleanup_index(struct container_index **index)
{
    container_index_close(*index);
}

int container_index_tar(struct source *source, uint64_t most, struct container_index **out,
                        struct ferry_error *err)
{
    CLEANUP(cleanup_index) struct container_index *index = new_index(source->about, most, err);
    CLEANUP(tar_reader_close) struct tar_reader reader = {.archive = NULL};
    struct container_member member;

    if (!index)
        return -ENOMEM;
    index->tar = source;
    int error = tar_reader_open(&reader, source, NULL, most, err);
    while (!error) {
        int more = tar_reader_next(&reader, &member, err);
        if (more <= 0) {
            error = more;
            break;
        }
        error = add_member(index, &member, err);
    }
    if (!error)
        error = sort_members(index, err);
    if (!error)
        *out = take_ptr(&index);
    return error;
}

/* ---- Folders ---- */

static int walk(struct container_index *index, const char *folder, unsigned depth,
                struct ferry_error *err);

/* One name in the folder at fd. */
static int take_entry(struct container_index *index, int fd, const char *folder, const char *entry,
                      unsigned depth, struct ferry_error *err)
{
    char name[LIMIT_MEMBER_NAME_BYTES + 1], clean[LIMIT_MEMBER_NAME_BYTES + 1];
    struct stat st;

    int length = snprintf(name, sizeof(name), "%s%s%s", folder, *folder ? "/" : "", entry);
    if (length < 0 || (size_t)length >= sizeof(name))
        return ferry_refuse(err, -ENAMETOOLONG, index->about,
                            "has a file whose name is longer than %d bytes",
                            LIMIT_MEMBER_NAME_BYTES);
    int error = member_name_check(name, index->about, clean, err);
    if (error)
        return error;
    if (fstatat(fd, entry, &st, AT_SYMLINK_NOFOLLOW))
        return ferry_fail_sys(err, -errno, index->about, "cannot look at '%.200s'", name);
    if (S_ISDIR(st.st_mode))
        return walk(index, name, depth + 1, err);
    if (!S_ISREG(st.st_mode))
        return ferry_refuse(err, -EOPNOTSUPP, index->about,
                            "has something that is neither a plain file nor a folder: '%.200s'",
                            name);
    if (index->count == index->most)
        return ferry_refuse(err, -E2BIG, index->about, "has more than %llu files",
                            (unsigned long long)index->most);
    const struct container_member member = {.name = name, .size_bytes = (uint64_t)st.st_size};
    return add_member(index, &member, err);
}

static void cleanup_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static int walk(struct container_index *index, const char *folder, unsigned depth,
                struct ferry_error *err)
{
    if (depth > LIMIT_FOLDER_DEPTH)
        return ferry_refuse(err, -ELOOP, index->about, "has folders deeper than %d: '%.200s'",
                            LIMIT_FOLDER_DEPTH, folder);
    CLEANUP_FD int fd =
        member_open(index->folder_fd, *folder ? folder : ".", O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return ferry_fail_sys(err, fd, index->about, "cannot open '%.200s'", folder);
    CLEANUP(cleanup_dir) DIR *dir = fdopendir(fd);
    if (!dir)
        return ferry_fail_sys(err, -errno, index->about, "cannot read '%.200s'", folder);
    int own = take_fd(&fd), error = 0;
    for (errno = 0; !error; errno = 0) {
        const struct dirent *entry = readdir(dir);
        if (!entry)
            return errno ? ferry_fail_sys(err, -errno, index->about, "cannot read '%.200s'", folder)
                         : 0;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            error = take_entry(index, own, folder, entry->d_name, depth, err);
    }
    return error;
}

int container_index_folder(int folder_fd, const char *about, uint64_t most,
                           struct container_index **out, struct ferry_error *err)
{
    CLEANUP(cleanup_index) struct container_index *index = new_index(about, most, err);

    if (!index)
        return -ENOMEM;
    index->folder_fd = folder_fd;
    int error = walk(index, "", 0, err);
    if (!error)
        error = sort_members(index, err);
    if (!error)
        *out = take_ptr(&index);
    return error;
}

/* ---- Content ---- */

/* A source that owns its file. */
struct file_source {
    struct source source;
    struct source *file;
    int fd;
};

static int pread_file(struct source *source, uint64_t offset, void *data, size_t size,
                      struct ferry_error *err)
{
    struct source *file = ((struct file_source *)source)->file;

    return file->pread(file, offset, data, size, err);
}

static int next_data_file(struct source *source, uint64_t *start, uint64_t *end)
{
    struct source *file = ((struct file_source *)source)->file;

    return file->next_data(file, start, end);
}

static void close_file(struct source *source)
{
    struct file_source *f = (struct file_source *)source;

    source_close(f->file);
    if (f->fd >= 0)
        close(f->fd);
    free(f);
}

static int open_in_folder(const struct container_index *index,
                          const struct container_member *member, struct source **out,
                          struct ferry_error *err)
{
    struct file_source *f = calloc(1, sizeof(*f));

    if (!f)
        return ferry_fail(err, -ENOMEM, index->about, "out of memory");
    f->source.close = close_file;
    f->fd = member_open(index->folder_fd, member->name, O_RDONLY | O_NONBLOCK, 0);
    int error = f->fd < 0
                    ? ferry_fail_sys(err, f->fd, index->about, "cannot open '%.200s'", member->name)
                    : source_of_fd(f->fd, member->name, &f->file, err);
    if (!error && f->file->size_bytes != member->size_bytes)
        error = ferry_fail(err, -EAGAIN, index->about, "'%.200s' changes while it is read",
                           member->name);
    if (error) {
        close_file(&f->source);
        return error;
    }
    f->source.pread = pread_file;
    f->source.next_data = next_data_file;
    f->source.size_bytes = f->file->size_bytes;
    f->source.about = f->file->about;
    *out = &f->source;
    return 0;
}

int container_source(struct container_index *index, const struct container_member *member,
                     struct source **out, struct ferry_error *err)
{
    return index->tar ? source_of_part(index->tar, member->offset, member->size_bytes, out, err)
                      : open_in_folder(index, member, out, err);
}

int container_load(struct container_index *index, const struct container_member *member,
                   size_t most, uint8_t **data, size_t *size, struct ferry_error *err)
{
    CLEANUP(source_cleanup) struct source *source = NULL;

    if (member->size_bytes > most)
        return ferry_refuse(err, -EFBIG, index->about, "'%.200s' has more than %zu bytes",
                            member->name, most);
    int error = container_source(index, member, &source, err);
    if (error)
        return error;
    CLEANUP_FREE uint8_t *bytes = malloc((size_t)member->size_bytes + 1);
    if (!bytes)
        return ferry_fail(err, -ENOMEM, index->about, "out of memory");
    error = source->pread(source, 0, bytes, (size_t)member->size_bytes, err);
    if (error)
        return error;
    bytes[member->size_bytes] = 0;
    *size = (size_t)member->size_bytes;
    *data = take_ptr(&bytes);
    return 0;
}
