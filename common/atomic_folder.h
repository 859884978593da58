/* A folder that appears under its name only when everything in it is complete. */
#ifndef FERRY_COMMON_ATOMIC_FOLDER_H
#define FERRY_COMMON_ATOMIC_FOLDER_H

#include "common/error.h"

/* Made beside the final name under a temporary one, mode 0700; a killed process leaves that behind.
 */
struct atomic_folder {
    int fd;     /* write in here */
    int dir_fd; /* of the folder it lies in */
    char *name; /* final name within that */
    char *temp; /* temporary name; NULL: it has none now */
    char *path; /* as given, for messages */
};

#define ATOMIC_FOLDER_NONE ((struct atomic_folder){.fd = -1, .dir_fd = -1})

/* -EEXIST (FERRY_FAILED): something has the name already; a folder is never replaced. */
int atomic_folder_open(struct atomic_folder *f, const char *path, struct ferry_error *err);
/* Make all of it durable, then give it its name.  On an error nothing of it is left. */
int atomic_folder_commit(struct atomic_folder *f, struct ferry_error *err);
/* Remove it with what is in it, down to ATOMIC_FOLDER_DEPTH; nothing after a commit.  Also the
 * cleanup function. */
void atomic_folder_abandon(struct atomic_folder *f);

#define ATOMIC_FOLDER_DEPTH 4

#endif
