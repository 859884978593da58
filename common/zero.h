/* Finding zero bytes at memory speed. */
#ifndef FERRY_COMMON_ZERO_H
#define FERRY_COMMON_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* True if data[0..size) is all zero.  Any alignment and size. */
bool is_zero(const void *data, size_t size);

#endif
