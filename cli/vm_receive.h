/* Arriving: a vm that becomes the machine which comes over a stream. */
#ifndef FERRY_CLI_VM_RECEIVE_H
#define FERRY_CLI_VM_RECEIVE_H

#include "cli/disks.h"
#include "cli/vm.h"
#include "migrate/migrate.h"
#include "transport/stream.h"

/* What the receiving host decides. */
struct receive_choice {
    const char *name; /* NULL: the machine's own */
    const char *serial;
    const char *kernel; /* for a reset (vm_set_boot) */
    const char *initrd;
    const char *disk_dir; /* NULL: only what disks names */
    struct disk_places disks;
};

/* How it went, on the loop's thread: error 0 and the machine runs, or why not. */
typedef void (*receive_done)(void *opaque, int error, const struct ferry_error *err,
                             const struct receive_result *result);

/*
 * Take the machine that comes over stream, which is taken over, in a job of the vm; choice stays
 * the caller's.  After a failure the vm is as before and may try again.  answered_only: there was
 * only a question, the vm is as before.
 */
int vm_receive_start(struct vm *vm, const struct receive_choice *choice, struct stream *stream,
                     receive_done tell, void *opaque, struct ferry_error *err);
/*
 * Answer questions that come to the listener, whose vm has its machine or is just getting it, until
 * the source has let go.  Takes the listener over.
 */
int vm_answer_start(struct vm *vm, struct listener *listener, struct ferry_error *err);
/* The source has let go: nobody will ask.  Closes the listener; nothing if there is none. */
void vm_answer_stop(struct vm *vm);
/* The same, and at once: at the end of the vm. */
void vm_answer_destroy(struct vm *vm);

#endif
