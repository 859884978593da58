/*
 * The folder in which the machines of this user on this host are found:
 *
 *     BASE/NAME/          0700, one a machine: control.sock, lock, pid, vm_id
 *     BASE/.tickets/      who owns which machine (migrate/ticket.h)
 *     BASE/.claim         lock around the making of a machine's folder
 *
 * BASE is $FERRY_RUNTIME_DIR, $XDG_RUNTIME_DIR/ferry, or /run/ferry for root.  A machine lives as
 * long as its process holds the lock on NAME/lock; a folder without a holder is left over from a
 * process that was killed, and whoever wants the name takes it over.
 */
#ifndef FERRY_CLI_RUNTIME_DIR_H
#define FERRY_CLI_RUNTIME_DIR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/limits.h"

/* The base folder, made if it is not there (0700).  *path is malloc'd. */
int runtime_base(char **path, struct ferry_error *err);
/* A path below the base: BASE/name or BASE/name/file.  *path is malloc'd; nothing is made. */
int runtime_path(const char *name, const char *file, char **path, struct ferry_error *err);

struct machine_dir {
    char name[LIMIT_NAME_BYTES + 1];
    char *path; /* of the folder; NULL: none claimed */
    char *socket_path;
    int lock_fd;
};

#define MACHINE_DIR_NONE ((struct machine_dir){.lock_fd = -1})

/*
 * Make the folder of a machine and hold its lock.  -EEXIST, FERRY_FAILED: a machine of this name is
 * alive.  unique: also refuse (FERRY_REFUSED) if another live machine has the same vm_id.
 */
int machine_dir_claim(const char *name, const uint8_t vm_id[16], bool unique,
                      struct machine_dir *out, struct ferry_error *err);
/* After a fork: note the pid of the process that holds it now. */
int machine_dir_set_pid(const struct machine_dir *dir, struct ferry_error *err);
/* Remove the folder and let the lock go.  Nothing for MACHINE_DIR_NONE.  A cleanup function. */
void machine_dir_release(struct machine_dir *dir);

/* Is a process alive that holds the folder of this machine? */
bool machine_is_alive(const char *name);
/* Its pid, 0 if there is none. */
pid_t machine_pid(const char *name);
/*
 * End the process that holds the folder, by SIGTERM and, if that does not help soon, SIGKILL, and
 * clear up behind it.  -ENOENT: there is none.  Returns when it is gone.
 */
int machine_force_kill(const char *name, struct ferry_error *err);
/* The names of all live machines, sorted; free each and the array.  Returns their number. */
int machine_list(char ***names, struct ferry_error *err);
/* "no machine 'x' is running", with a hint. */
int machine_missing(const char *name, struct ferry_error *err);

#endif
