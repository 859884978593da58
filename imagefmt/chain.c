/*
 * Opening an image by its path, and finding what it builds on: by digest, among the files of its
 * own folder and of those that the caller names, and nowhere else.
 */
#include "imagefmt/chain.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/access.h"
#include "imagefmt/record.h"

static int open_file(const char *path, struct ferry_error *err)
{
    struct stat st;
    /* O_NONBLOCK: a FIFO given by mistake must not hang us; it means nothing to files. */
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return ferry_fail_sys(err, -errno, path, "cannot open the image");
    if (fstat(fd, &st))
        return ferry_fail_sys(err, -errno, path, "cannot look at the image");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return ferry_usage(err, path, "is neither a file nor a block device");
    return take_fd(&fd);
}

/* ---- Bases ---- */

/* A file that has been looked at in a search. */
struct looked_at {
    dev_t dev;
    ino_t ino;
    uint8_t root[SHA256_BYTES];
    bool useless; /* it is no good image, or what it builds on is not there */
};

/*
 * One search: the images from the first child to the one whose base is looked for.  What a file is
 * is found out once, however long the chain: to open a sealed image takes its time.
 */
struct search {
    const struct image_environment *env;
    struct stat members[LIMIT_CHAIN];
    const char *folders[LIMIT_CHAIN]; /* they lie in; NULL: not known */
    unsigned depth;
    struct looked_at files[LIMIT_CHAIN_FILES];
    unsigned file_count;
    struct ferry_error *near; /* what is wrong with one that would have been it; code 0: nothing */
};

static int attach(struct search *search, struct image *image, struct ferry_error *err);

static bool is_member(const struct search *search, const struct stat *st)
{
    for (unsigned i = 0; i < search->depth; i++)
        if (search->members[i].st_dev == st->st_dev && search->members[i].st_ino == st->st_ino)
            return true;
    return false;
}

/* A quick look at the end of a file, so that not every image of a folder is opened: its root, if it
 * ends with an open footer.  Sealed or signed ones, and those that are none, do not. */
static bool root_at_end(int fd, const struct stat *st, uint8_t root[SHA256_BYTES])
{
    uint8_t tail[FOOTER_RECORD_BYTES];
    uint64_t offset = (uint64_t)st->st_size - sizeof(tail);
    struct record record;

    if (st->st_size < (off_t)sizeof(tail) || pread_all(fd, tail, sizeof(tail), offset) ||
        record_check(tail, sizeof(tail), offset, NULL, &record) || record.tag != RECORD_FOOTER)
        return false;
    memcpy(root, tail + sizeof(tail) - RECORD_SUM_BYTES - SHA256_BYTES, SHA256_BYTES);
    return true;
}

/* What is known of a file; its root is found out if nothing is.  NULL: too many files. */
static struct looked_at *look_at(struct search *search, int fd, const char *about,
                                 const struct stat *st)
{
    CLEANUP(image_cleanup) struct image *image = NULL;
    struct ferry_error why = {0};

    for (unsigned i = 0; i < search->file_count; i++)
        if (search->files[i].ino == st->st_ino && search->files[i].dev == st->st_dev)
            return &search->files[i];
    if (search->file_count == LIMIT_CHAIN_FILES)
        return NULL;
    struct looked_at *file = &search->files[search->file_count++];
    *file = (struct looked_at){.dev = st->st_dev, .ino = st->st_ino};
    if (root_at_end(fd, st, file->root))
        return file;
    if (!image_open_alone(fd, about, search->env, &image, &why)) {
        memcpy(file->root, image->summary.root, SHA256_BYTES);
        return file;
    }
    file->useless = true;
    if (!search->near->code)
        *search->near = why;
    return file;
}

/* The image in this file, with its bases, if it is the one with this root; or NULL. */
static struct image *try_file(struct search *search, int folder, const char *dir, const char *name,
                              const uint8_t *root)
{
    CLEANUP_FD int fd =
        openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
    CLEANUP(image_cleanup) struct image *image = NULL;
    struct ferry_error why = {0};
    struct stat st;

    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || is_member(search, &st))
        return NULL;
    CLEANUP_FREE char *about = malloc(strlen(dir) + strlen(name) + 2);
    if (!about)
        return NULL;
    sprintf(about, "%s/%s", dir, name);
    struct looked_at *file = look_at(search, fd, about, &st);
    if (!file || file->useless || memcmp(file->root, root, SHA256_BYTES))
        return NULL;
    int error = image_open_alone(fd, about, search->env, &image, &why);
    if (!error && memcmp(image->summary.root, root, SHA256_BYTES))
        return NULL; /* it changes under our eyes */
    if (!error) {
        image->own_fd = take_fd(&fd);
        image->own_about = take_ptr(&about);
        error = attach(search, image, &why);
    }
    if (!error)
        return take_ptr(&image);
    file->useless = true;
    *search->near = why;
    return NULL;
}

static bool named_as_image(const char *name)
{
    size_t size = strlen(name);

    return size > 6 && !strcmp(name + size - 6, ".ferry");
}

static struct image *look_in(struct search *search, const char *dir, const uint8_t *root)
{
    DIR *folder = opendir(dir);
    struct image *found = NULL;
    const struct dirent *entry;

    while (folder && !found && (entry = readdir(folder)))
        if (named_as_image(entry->d_name))
            found = try_file(search, dirfd(folder), dir, entry->d_name, root);
    if (folder)
        closedir(folder);
    return found;
}

/* The folder that the image lies in, if about is its path; NULL: it is not known (a pipe). */
static char *own_folder(const struct image *image)
{
    struct stat named, open;

    if (stat(image->about, &named) || fstat(image->fd, &open) || named.st_dev != open.st_dev ||
        named.st_ino != open.st_ino)
        return NULL;
    const char *slash = strrchr(image->about, '/');
    if (!slash)
        return strdup(".");
    return slash == image->about ? strdup("/")
                                 : strndup(image->about, (size_t)(slash - image->about));
}

/* In the image's own folder, in those of the images that build on it, and where the caller says. */
static struct image *find_root(struct search *search, const uint8_t *root)
{
    const struct image_environment *env = search->env;
    struct image *found = NULL;

    for (unsigned i = search->depth; !found && i--;)
        if (search->folders[i] && (i + 1 == search->depth || !search->folders[i + 1] ||
                                   strcmp(search->folders[i], search->folders[i + 1]) != 0))
            found = look_in(search, search->folders[i], root);
    for (size_t i = 0; !found && env && i < env->search_count; i++)
        found = look_in(search, env->search[i], root);
    return found;
}

static int not_found(const char *about, const uint8_t *root, const struct ferry_error *near,
                     struct ferry_error *err)
{
    char hex[2 * SHA256_BYTES + 1], text[200];

    hex_encode(root, SHA256_BYTES, hex);
    if (near->code == -ENOENT || near->code == -ELOOP) { /* further down: said of that image */
        if (err)
            *err = *near;
        return near->code;
    }
    if (near->code) {
        ferry_error_text(near, text, sizeof(text));
        return ferry_refuse(err, -ENOENT, about, "builds on image %s, and that one is no good: %s",
                            hex, text);
    }
    return ferry_refuse(err, -ENOENT, about,
                        "builds on image %s, which is neither beside it nor in --search-path "
                        "(*.ferry)",
                        hex);
}

static int attach(struct search *search, struct image *image, struct ferry_error *err)
{
    struct ferry_error near = {0}, *before = search->near;

    if (!image->summary.child)
        return 0;
    if (search->depth == LIMIT_CHAIN)
        return ferry_refuse(err, -ELOOP, image->about, "is the last of too many images");
    if (fstat(image->fd, &search->members[search->depth]))
        return ferry_fail_sys(err, -errno, image->about, "cannot look at the image");
    CLEANUP_FREE char *own = own_folder(image);
    search->folders[search->depth++] = own;
    search->near = &near;
    image->base = find_root(search, image->summary.base);
    search->near = before;
    search->depth--;
    return image->base ? 0 : not_found(image->about, image->summary.base, &near, err);
}

/* Without its base a child can still be looked at: what is wrong is said when it is needed. */
int image_attach_base(struct image *image, const struct image_environment *env,
                      struct ferry_error *err)
{
    struct search *search = calloc(1, sizeof(*search));

    if (!search)
        return ferry_fail(err, -ENOMEM, image->about, "out of memory");
    search->env = env;
    (void)attach(search, image, &image->base_problem);
    free(search);
    return 0;
}

int image_base(struct image *image, struct image **base, struct ferry_error *err)
{
    *base = image->base;
    if (!image->summary.child || image->base)
        return 0;
    if (err)
        *err = image->base_problem;
    return image->base_problem.code;
}

int64_t image_base_section(const struct image *base, const struct image_section *section)
{
    int64_t found = image_find(base, section->kind, section->name);

    if (found < 0 || image_section(base, (uint32_t)found)->chunk_bytes != section->chunk_bytes)
        return -1;
    return found;
}

int image_find_base(int fd, const char *about, const uint8_t root[SHA256_BYTES],
                    const struct image_environment *env, struct image **out,
                    struct ferry_error *err)
{
    struct image child = {.fd = fd, .about = about, .summary = {.child = true}};

    memcpy(child.summary.base, root, SHA256_BYTES);
    int error = image_attach_base(&child, env, err);
    return error ? error : image_base(&child, out, err);
}

/* ---- Paths ---- */

int image_open_path(const char *path, const struct image_environment *env, struct image **out,
                    struct ferry_error *err)
{
    CLEANUP_FD int fd = open_file(path, err);
    struct image *image = NULL;

    if (fd < 0)
        return fd;
    CLEANUP_FREE char *about = strdup(path);
    if (!about)
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    int error = image_open(fd, about, env, &image, err);
    if (error)
        return error;
    image->own_fd = take_fd(&fd);
    image->own_about = take_ptr(&about);
    *out = image;
    return 0;
}
