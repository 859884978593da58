/* An image named on the command line: a file, or '-' for stdin. */
#ifndef FERRY_CLI_IMAGE_FILE_H
#define FERRY_CLI_IMAGE_FILE_H

#include "common/error.h"

/* Returns a descriptor to read from (a new one, also for stdin); a terminal is FERRY_USAGE. */
int image_file_open(const char *command, const char *file, struct ferry_error *err);
/* What messages call it. */
const char *image_file_about(const char *file);

#endif
