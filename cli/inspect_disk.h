/* ferry inspect, of a disk in a foreign format. */
#ifndef FERRY_CLI_INSPECT_DISK_H
#define FERRY_CLI_INSPECT_DISK_H

#include <stdbool.h>

#include "common/error.h"

/* Does fd, a file, bear the marks of a format of disks that is read here?  Only looks. */
bool inspect_is_disk(int fd);
/* Open it and tell what it says of itself; FERRY_REFUSED as for convert, with the name of what it
 * builds on. */
int inspect_disk(int fd, const char *about, bool as_json, struct ferry_error *err);

#endif
