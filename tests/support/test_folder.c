#include "tests/support/test_folder.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char folder[64];

int test_folder_make(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/ferry-test.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

int shell(const char *format, ...)
{
    char script[4096], command[4400];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(script, sizeof(script), format, arguments);
    va_end(arguments);
    snprintf(command, sizeof(command), "cd %s && { %s\n}", folder, script);
    return system(command); /* NOLINT(cert-env33-c): the tests' own words */
}

int test_folder_remove(void **state)
{
    (void)state;
    return shell("rm -rf %s", folder);
}

int test_folder_open(const char *name, int flags)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, flags | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}
