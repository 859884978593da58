/*
 * The address of a control socket.  sun_path holds 107 bytes only, so the socket is named through
 * its folder's descriptor in /proc/self/fd.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "vmm/control_private.h"

static int socket_address(const char *path, struct sockaddr_un *address, int *dir_fd)
{
    const char *slash = strrchr(path, '/');
    CLEANUP_FREE char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");

    if (!folder)
        return -ENOMEM;
    CLEANUP_FD int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%s", fd,
                          slash ? slash + 1 : path);
    if (length < 0 || (size_t)length >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    *dir_fd = take_fd(&fd);
    return 0;
}

int control_connect(const char *path)
{
    struct sockaddr_un address;
    CLEANUP_FD int dir_fd = -1;

    int error = socket_address(path, &address, &dir_fd);
    if (error)
        return error;
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
        return -errno;
    return take_fd(&fd);
}

int control_bind(const char *path)
{
    struct sockaddr_un address;
    CLEANUP_FD int dir_fd = -1;

    CLEANUP_FD int served = control_connect(path);
    if (served >= 0)
        return -EADDRINUSE;
    if (served == -ECONNREFUSED && unlink(path) && errno != ENOENT)
        return -errno;
    int error = socket_address(path, &address, &dir_fd);
    if (error)
        return error;
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* fchmod before bind: the socket file never exists with another mode. */
    if (fd < 0 || fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&address, sizeof(address)))
        return -errno;
    if (listen(fd, LIMIT_CONTROL_CLIENTS)) {
        error = -errno;
        unlink(path);
        return error;
    }
    return take_fd(&fd);
}
