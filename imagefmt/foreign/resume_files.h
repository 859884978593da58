/* The two files of a conversion that can be taken up again (resume.h). */
#ifndef FERRY_IMAGEFMT_FOREIGN_RESUME_FILES_H
#define FERRY_IMAGEFMT_FOREIGN_RESUME_FILES_H

#include "imagefmt/foreign/resume_journal.h"

struct resume_files {
    char *dest, *partial, *journal_path; /* as given, and with their endings */
    int folder_fd, partial_fd, journal_fd;
    struct journal journal;
};

/* As resume_open. */
int resume_files_open(struct resume_files *f, const char *dest, json_t *what,
                      struct ferry_error *err);
int resume_files_commit(struct resume_files *f, struct ferry_error *err);
void resume_files_discard(struct resume_files *f);
void resume_files_close(struct resume_files *f);

#endif
