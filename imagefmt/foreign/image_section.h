/* A disk of a ferry image, as the pipeline of foreign disks reads it. */
#ifndef FERRY_IMAGEFMT_FOREIGN_IMAGE_SECTION_H
#define FERRY_IMAGEFMT_FOREIGN_IMAGE_SECTION_H

#include "imagefmt/chain.h"
#include "imagefmt/foreign/disk.h"

/* Does a file that begins like this claim to be an image? */
bool disk_image_probe(const uint8_t *head, size_t head_bytes);

/*
 * The disk of this name in the image at path; name NULL: its only one.  The section's pages are
 * checked up to the image's root here, each chunk when it is read.  path and env outlive the disk.
 * The disk's format is called "ferry" and is not in disk_formats: an image is more than a disk.
 * Errors: FERRY_USAGE (no such disk), FERRY_REFUSED (damaged).
 */
int disk_of_image(const char *path, const struct image_environment *env, const char *name,
                  struct disk **out, struct ferry_error *err);

/*
 * The same of an image that is read in order from fd, after the head_bytes (at most
 * IMAGE_HEAD_MAX_BYTES) at head, which are copied: an in_order disk.  Returns when the disk's
 * section has begun.  Its chunks are checked before they are handed out, but that the image is
 * complete is known only when drain has returned 0.  fd stays the caller's; about, env and name
 * outlive the disk.  A thread reads; closing the disk before its end waits until the pipe has
 * brought another chunk, or ended.
 */
int disk_of_image_stream(const void *head, size_t head_bytes, int fd, const char *about,
                         const struct image_environment *env, const char *name, struct disk **out,
                         struct ferry_error *err);

#endif
