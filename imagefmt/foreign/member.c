/*
 * Names of members.  Whoever takes one from outside has it checked here, and files are only opened
 * by the kernel's own rule that the way to them must stay beneath the folder.
 */
#include "imagefmt/foreign/member.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"

static bool fit_to_be_shown(const char *name)
{
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == 0x7f)
            return false;
    return true;
}

/* Is there no empty part, no "." and no ".."? */
static bool parts_are_plain(const char *name)
{
    for (;;) {
        size_t part = strcspn(name, "/");
        if (!part || (part == 1 && name[0] == '.') || (part == 2 && !memcmp(name, "..", 2)))
            return false;
        if (!name[part])
            return true;
        name += part + 1;
    }
}

int member_name_check(const char *name, const char *about, char clean[LIMIT_MEMBER_NAME_BYTES + 1],
                      struct ferry_error *err)
{
    size_t length = strlen(name);

    if (length > LIMIT_MEMBER_NAME_BYTES)
        return ferry_refuse(err, -ENAMETOOLONG, about, "has a member whose name has %zu bytes",
                            length);
    if (!length || !fit_to_be_shown(name))
        return ferry_refuse(err, -EINVAL, about, "has a member with %s",
                            length ? "control characters in its name" : "an empty name");
    if (name[0] == '/')
        return ferry_refuse(err, -EINVAL, about, "has a member with an absolute name: '%.200s'",
                            name);
    while (name[0] == '.' && name[1] == '/')
        name += 2;
    memcpy(clean, name, strlen(name) + 1);
    length = strlen(clean);
    if (length && clean[length - 1] == '/')
        clean[length - 1] = 0;
    if (!strcmp(clean, "."))
        clean[0] = 0;
    if (clean[0] && !parts_are_plain(clean))
        return ferry_refuse(err, -EINVAL, about,
                            "has a member whose name leads elsewhere: '%.200s'", name);
    return 0;
}

int member_open(int folder_fd, const char *name, int flags, mode_t mode)
{
    const struct open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC),
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, folder_fd, name, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

int member_make_folders(int folder_fd, const char *name)
{
    char path[LIMIT_MEMBER_NAME_BYTES + 1];

    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        const char *last;
        memcpy(path, name, (size_t)(slash - name));
        path[slash - name] = 0;
        char *cut = strrchr(path, '/');
        last = cut ? cut + 1 : path;
        if (cut)
            *cut = 0;
        CLEANUP_FD int above = member_open(folder_fd, cut ? path : ".", O_DIRECTORY | O_RDONLY, 0);
        if (above < 0)
            return above;
        if (mkdirat(above, last, 0700) && errno != EEXIST)
            return -errno;
    }
    return 0;
}
