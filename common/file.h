/*
 * Files: whole reads and writes, and files that appear complete or not at all.
 */
#ifndef FERRY_COMMON_FILE_H
#define FERRY_COMMON_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/error.h"

/* Whole transfers; EINTR is retried.  Return 0 or a negative errno; a short read is -ENODATA. */
int read_all(int fd, void *data, size_t size);
int write_all(int fd, const void *data, size_t size);
int writev_all(int fd, struct iovec *iov, int count); /* iov is used up */
int pread_all(int fd, void *data, size_t size, uint64_t offset);
int pwrite_all(int fd, const void *data, size_t size, uint64_t offset);
/*
 * A large file is being written up to byte `end`: from time to time the kernel is told to begin
 * with the disk's part of the work, so that little of it is left for the fsync at the end.  *begun:
 * how far it has been told, 0 at first.  Nothing is waited for, and nothing is an error.
 */
void file_begin_writeback(int fd, uint64_t *begun, uint64_t end);

/*
 * The whole file path into *data (malloc'd, NUL added behind it) of at most limit bytes.
 * Errors: the open's errno; -EFBIG over the limit.
 */
int file_read(const char *path, size_t limit, uint8_t **data, size_t *size,
              struct ferry_error *err);

/*
 * The folder that path lies in, open, and the last part of path, malloc'd.  -EISDIR: path ends in
 * no name of its own ("/", "..").  On an error *dir_fd is -1 and *name NULL.
 */
int open_parent(const char *path, int *dir_fd, char **name, struct ferry_error *err);
/* ".NAME.RANDOM.tmp", malloc'd; about is for messages. */
int temporary_name(const char *name, const char *about, char **out, struct ferry_error *err);

/*
 * A file that appears under its name only when complete: written without a name in the same folder,
 * then fsync, a temporary name, rename, fsync of the folder.  A file that had the name stays
 * untouched until then.  Mode 0600.  An fsync that failed is final and is never tried again.
 */
struct atomic_file {
    int fd;     /* write here */
    int dir_fd; /* of the folder */
    char *name; /* final name within the folder */
    char *temp; /* temporary name within the folder, NULL: it has none now */
    char *path; /* as given, for messages */
    bool fresh; /* set it after open: a commit replaces nothing, but fails with -EEXIST */
};

#define ATOMIC_FILE_NONE ((struct atomic_file){.fd = -1, .dir_fd = -1})

/* -EEXIST (-EISDIR): the name belongs to something that is not a regular file. */
int atomic_file_open(struct atomic_file *f, const char *path, struct ferry_error *err);
/* Make it appear.  On error the old file is what is there, and the temporary one is gone. */
int atomic_file_commit(struct atomic_file *f, struct ferry_error *err);
/* Drop an uncommitted file; nothing after a commit.  Also the cleanup function. */
void atomic_file_abandon(struct atomic_file *f);
/* All of the above for bytes at hand. */
int atomic_file_write(const char *path, const void *data, size_t size, struct ferry_error *err);

#endif
