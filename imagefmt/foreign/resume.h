/*
 * Conversions into a file that can be interrupted at any instant and taken up again.
 *
 * DEST.partial is the file to be, DEST.resume the journal of what is in it.  What was put becomes
 * durable, and then is written down, every 64 MiB or 5 seconds.  To go on, a new writer is given
 * the units of the journal, without their content, into a sink that ignores what it is given: so
 * the writer comes to the same places and tables as before.  The content that it had kept back and
 * not written is read from the source again.  From there on all is as in a conversion made in one
 * go, and so is the file that it makes, to the byte.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_RESUME_H
#define FERRY_IMAGEFMT_FOREIGN_RESUME_H

#include <jansson.h>

#include "imagefmt/foreign/copy.h"

struct resume;

/*
 * Take up what lies at dest, or begin.  Both files are locked for other users of these functions.
 * what: a flat object of strings and numbers that decide the bytes: the identity of the source and
 * all options; where one differs from what it was at the beginning, this is refused (-ESTALE), and
 * the message tells which.  Errors: -EEXIST, dest or what should be the two files is something
 * else; -EBUSY, another process is at work; FERRY_REFUSED, the journal is damaged.
 */
int resume_open(const char *dest, json_t *what, struct resume **out, struct ferry_error *err);
/* Is there something to go on from, and how much? */
bool resume_goes_on(const struct resume *r, uint64_t *done_bytes);
/* How much content may have to be put again, roughly; 64 MiB if not set. */
void resume_every(struct resume *r, uint64_t bytes);
/*
 * disk_copy, from where it ended.  After an error other than of the disk's content, what was put
 * so far is kept.  -ESTALE, FERRY_REFUSED: the disk reads otherwise than it did.
 */
int resume_copy(struct resume *r, struct disk *disk, const struct disk_format *to,
                const struct disk_write_options *write, const struct disk_copy_options *copy,
                struct disk_copy_result *result, struct ferry_error *err);
int resume_fd(const struct resume *r); /* of the file, to read it back */
/* The file gets its name, durably, and the journal goes. */
int resume_commit(struct resume *r, struct ferry_error *err);
/* Would another run go on from something? */
bool resume_is_kept(const struct resume *r);
/* What was made is of no use: both are removed when it is closed. */
void resume_discard(struct resume *r);
void resume_close(struct resume *r);    /* what is of use stays; NULL is fine */
void resume_cleanup(struct resume **r); /* CLEANUP(resume_cleanup) */

#endif
