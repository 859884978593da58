#ifndef FERRY_MIGRATE_PROCESS_H
#define FERRY_MIGRATE_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

/* Start time of a process in clock ticks since boot (proc(5), stat, field 22); 0: there is none, or
 * it is a zombie. */
uint64_t process_start(pid_t pid);

#endif
