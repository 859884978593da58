/* Names of members of a container, and files beneath a folder.  Private to imagefmt/foreign/. */
#ifndef FERRY_IMAGEFMT_FOREIGN_MEMBER_H
#define FERRY_IMAGEFMT_FOREIGN_MEMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/limits.h"

/*
 * name as it is used, into clean: without "./" before it and, of a folder, '/' behind it; "" is the
 * folder itself.  FERRY_REFUSED: absolute, with a part that is empty, "." or "..", too long, or
 * with characters that are not fit to be shown.  about: the container.
 */
int member_name_check(const char *name, const char *about, char clean[LIMIT_MEMBER_NAME_BYTES + 1],
                      struct ferry_error *err);
/* A name that was checked, beneath the folder and never through a link: a descriptor or a negative
 * errno. */
int member_open(int folder_fd, const char *name, int flags, mode_t mode);
/* Make the folders that a checked name lies in. */
int member_make_folders(int folder_fd, const char *name);

#endif
