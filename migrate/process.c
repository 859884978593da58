/* Telling a process from a later one that has its pid. */
#include "migrate/process.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"

uint64_t process_start(pid_t pid)
{
    char path[64], text[1024];
    unsigned long long start = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, text, sizeof(text) - 1);
    if (got <= 0)
        return 0;
    text[got] = 0;
    /* The second field, the name in parentheses, may hold anything: count from its end.  A zombie
     * holds no machine any more. */
    const char *rest = strrchr(text, ')');
    if (!rest || rest[1] != ' ' || rest[2] == 'Z' || rest[2] == 'X')
        return 0;
    rest += 2;
    for (int field = 3; field < 22 && rest; field++)
        rest = strchr(rest + 1, ' ');
    return rest && sscanf(rest, " %llu", &start) == 1 ? start : 0;
}
