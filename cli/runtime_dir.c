/*
 * Machines' folders.  The lock on NAME/lock (an open file description lock, which can be looked at
 * without taking it) is the truth about life; pid and vm_id are files that its holder writes. Since
 * a folder vanishes with its machine, a lock counts only if the path still leads to the file that
 * was locked.  Making and removing folders happens under BASE/.claim.
 */
#include "cli/runtime_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"
#include "vmm/config.h"

#define CLAIM_TRIES    100
#define TERM_WAIT_MS   2000 /* it may have files to remove */
#define KILL_WAIT_MS   10000
#define SMALL_FILE_MAX 256

static int make_folders(char *path)
{
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        int error = mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
        *p = '/';
        if (error && error != -EROFS && error != -EACCES)
            return error;
    }
    return mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
}

int runtime_base(char **path, struct ferry_error *err)
{
    const char *own = getenv("FERRY_RUNTIME_DIR");
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    CLEANUP_FREE char *base = NULL;
    int length;

    if (own && *own)
        length = asprintf(&base, "%s", own);
    else if (xdg && *xdg)
        length = asprintf(&base, "%s/ferry", xdg);
    else if (geteuid() == 0)
        length = asprintf(&base, "/run/ferry");
    else
        return ferry_fail(err, -ENOENT, "runtime folder",
                          "neither FERRY_RUNTIME_DIR nor XDG_RUNTIME_DIR is set");
    if (length < 0) {
        base = NULL;
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    int error = make_folders(base);
    if (error)
        return ferry_fail_sys(err, error, base, "cannot make the runtime folder");
    *path = realpath(base, NULL);
    if (*path)
        return 0;
    error = errno ? -errno : -EIO;
    ferry_fail_sys(err, error, base, "cannot use the runtime folder");
    return error;
}

int runtime_path(const char *name, const char *file, char **path, struct ferry_error *err)
{
    CLEANUP_FREE char *base = NULL;

    int error = runtime_base(&base, err);
    if (error)
        return error;
    if (asprintf(path, "%s/%s%s%s", base, name, file ? "/" : "", file ? file : "") < 0) {
        *path = NULL;
        ferry_fail(err, -ENOMEM, NULL, "out of memory");
        return -ENOMEM;
    }
    return 0;
}

/* ---- Locks ---- */

enum lock_state { LOCK_ABSENT, LOCK_FREE, LOCK_HELD };

static enum lock_state lock_state(const char *name)
{
    CLEANUP_FREE char *path = NULL;

    if (!machine_name_valid(name) || runtime_path(name, "lock", &path, NULL))
        return LOCK_ABSENT;
    CLEANUP_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return LOCK_ABSENT;
    struct flock probe = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_GETLK, &probe))
        return LOCK_ABSENT;
    return probe.l_type == F_UNLCK ? LOCK_FREE : LOCK_HELD;
}

bool machine_is_alive(const char *name)
{
    return lock_state(name) == LOCK_HELD;
}

/*
 * Open and lock a file that may vanish meanwhile; wait if somebody else holds it, or -EAGAIN.
 * Returns the fd.  The lock goes with the last descriptor of this open file, also after a fork.
 */
static int lock_file(const char *path, bool wait)
{
    for (int i = 0; i < CLAIM_TRIES; i++) {
        struct stat ours, there;
        CLEANUP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return -errno;
        struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        while (fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &whole))
            if (errno != EINTR)
                return errno == EACCES ? -EAGAIN : -errno;
        if (fstat(fd, &ours))
            return -errno;
        if (!stat(path, &there) && there.st_ino == ours.st_ino && there.st_dev == ours.st_dev)
            return take_fd(&fd);
    }
    return -ELOOP;
}

/* Short files: pid, vm_id. */
static int read_small(const char *name, const char *file, char text[SMALL_FILE_MAX])
{
    CLEANUP_FREE char *path = NULL;
    CLEANUP_FREE uint8_t *data = NULL;
    size_t size;

    if (runtime_path(name, file, &path, NULL) ||
        file_read(path, SMALL_FILE_MAX - 1, &data, &size, NULL))
        return -ENOENT;
    memcpy(text, data, size + 1);
    text[strcspn(text, "\n")] = 0;
    return 0;
}

static int write_small(const struct machine_dir *dir, const char *file, const char *text,
                       struct ferry_error *err)
{
    char path[LIMIT_PATH_BYTES];

    snprintf(path, sizeof(path), "%s/%s", dir->path, file);
    CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int error = fd < 0 ? -errno : write_all(fd, text, strlen(text));
    return error ? ferry_fail_sys(err, error, path, "cannot write") : 0;
}

/* ---- Claiming ---- */

/* The name of a live machine other than `name` that has this vm_id; false: none. */
static bool find_twin(const char *name, const char *id, char twin[LIMIT_NAME_BYTES + 1])
{
    char **names = NULL, text[SMALL_FILE_MAX];
    bool found = false;

    int count = machine_list(&names, NULL);
    for (int i = 0; names && i < count; i++) {
        if (!found && strcmp(names[i], name) && !read_small(names[i], "vm_id", text) &&
            !strcmp(text, id)) {
            snprintf(twin, LIMIT_NAME_BYTES + 1, "%s", names[i]);
            found = true;
        }
        free(names[i]);
    }
    free(names);
    return found;
}

static int fill_folder(struct machine_dir *dir, const char *id, struct ferry_error *err)
{
    char path[LIMIT_PATH_BYTES], line[40];

    if (mkdir(dir->path, 0700) && errno != EEXIST)
        return ferry_fail_sys(err, -errno, dir->path, "cannot make the machine's folder");
    if (chmod(dir->path, 0700)) /* the umask, or a stale folder */
        return ferry_fail_sys(err, -errno, dir->path, "cannot use the machine's folder");
    snprintf(path, sizeof(path), "%s/lock", dir->path);
    int fd = lock_file(path, false);
    if (fd == -EAGAIN)
        return ferry_fail(err, -EEXIST, dir->name, "a machine of this name is running already");
    if (fd < 0)
        return ferry_fail_sys(err, fd, path, "cannot lock");
    dir->lock_fd = fd;
    unlink(dir->socket_path); /* of a killed predecessor */
    snprintf(line, sizeof(line), "%s\n", id);
    int error = write_small(dir, "vm_id", line, err);
    return error ? error : machine_dir_set_pid(dir, err);
}

int machine_dir_claim(const char *name, const uint8_t vm_id[16], bool unique,
                      struct machine_dir *out, struct ferry_error *err)
{
    CLEANUP(machine_dir_release) struct machine_dir dir = MACHINE_DIR_NONE;
    CLEANUP_FREE char *claim_path = NULL;
    char id[33], twin[LIMIT_NAME_BYTES + 1];

    if (!machine_name_valid(name))
        return ferry_usage(err, "--name",
                           "'%.80s' is not a name: up to %d letters, digits, '.', '_' and '-', "
                           "not starting with '.' or '-'",
                           name, LIMIT_NAME_BYTES);
    hex_encode(vm_id, 16, id);
    int error = runtime_path(".claim", NULL, &claim_path, err);
    if (error)
        return error;
    CLEANUP_FD int claim = lock_file(claim_path, true);
    if (claim < 0)
        return ferry_fail_sys(err, claim, claim_path, "cannot lock");
    snprintf(dir.name, sizeof(dir.name), "%s", name);
    error = runtime_path(name, NULL, &dir.path, err);
    if (!error)
        error = runtime_path(name, "control.sock", &dir.socket_path, err);
    if (error)
        return error;
    if (lock_state(name) == LOCK_HELD)
        return ferry_fail(err, -EEXIST, name, "a machine of this name is running already");
    if (unique && find_twin(name, id, twin))
        return ferry_refuse(err, -EEXIST, name,
                            "this machine is alive on this host as '%s'; end that one first, or "
                            "give --clone for a second machine with an identity of its own",
                            twin);
    error = fill_folder(&dir, id, err);
    if (error)
        return error;
    *out = dir;
    dir = MACHINE_DIR_NONE;
    return 0;
}

int machine_dir_set_pid(const struct machine_dir *dir, struct ferry_error *err)
{
    char line[24];

    snprintf(line, sizeof(line), "%ld\n", (long)getpid());
    return write_small(dir, "pid", line, err);
}

/* All that a machine's folder can hold; what else lies there keeps the folder. */
static void remove_folder(const char *path)
{
    static const char *const files[] = {"control.sock", "pid", "vm_id", "lock"};
    char file[LIMIT_PATH_BYTES];

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(file, sizeof(file), "%s/%s", path, files[i]);
        unlink(file);
    }
    rmdir(path);
}

void machine_dir_release(struct machine_dir *dir)
{
    if (dir->path && dir->lock_fd >= 0) {
        CLEANUP_FREE char *claim_path = NULL;
        CLEANUP_FD int claim =
            runtime_path(".claim", NULL, &claim_path, NULL) ? -1 : lock_file(claim_path, true);
        (void)claim;              /* held to the end of this block */
        remove_folder(dir->path); /* `lock` goes while it is held: nobody is cheated */
    }
    if (dir->lock_fd >= 0)
        close(dir->lock_fd);
    free(dir->path);
    free(dir->socket_path);
    *dir = MACHINE_DIR_NONE;
}

/* ---- Looking ---- */

pid_t machine_pid(const char *name)
{
    char text[SMALL_FILE_MAX];

    if (lock_state(name) != LOCK_HELD || read_small(name, "pid", text))
        return 0;
    long pid = strtol(text, NULL, 10);
    return pid > 1 ? (pid_t)pid : 0;
}

/* -ETIMEDOUT: it has not ended. */
static int signal_and_wait(int pidfd, int number, int wait_ms)
{
    struct pollfd wait = {.fd = pidfd, .events = POLLIN};

    if (syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0))
        return errno == ESRCH ? 0 : -errno;
    return poll(&wait, 1, wait_ms) == 1 ? 0 : -ETIMEDOUT;
}

int machine_force_kill(const char *name, struct ferry_error *err)
{
    pid_t pid = machine_pid(name);

    if (!pid)
        return machine_missing(name, err);
    CLEANUP_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    /* The pid may have been of a process that died before the pidfd was there: look again. */
    if (pidfd < 0 || machine_pid(name) != pid)
        return machine_missing(name, err);
    int error = signal_and_wait(pidfd, SIGTERM, TERM_WAIT_MS);
    if (error == -ETIMEDOUT)
        error = signal_and_wait(pidfd, SIGKILL, KILL_WAIT_MS);
    if (error)
        return ferry_fail_sys(err, error, name, "cannot kill process %ld", (long)pid);
    const uint8_t nobody[16] = {0};
    CLEANUP(machine_dir_release) struct machine_dir dir = MACHINE_DIR_NONE;
    (void)machine_dir_claim(name, nobody, false, &dir, NULL); /* take over, then remove */
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void close_folder(DIR **folder)
{
    if (*folder)
        closedir(*folder);
}

int machine_list(char ***names, struct ferry_error *err)
{
    CLEANUP_FREE char *base = NULL;
    struct dirent *entry;
    char **list = NULL;
    size_t count = 0;

    *names = NULL;
    int error = runtime_base(&base, err);
    if (error)
        return error;
    CLEANUP(close_folder) DIR *folder = opendir(base);
    if (!folder)
        return ferry_fail_sys(err, -errno, base, "cannot read the runtime folder");
    while ((entry = readdir(folder))) {
        if (!machine_is_alive(entry->d_name))
            continue;
        char **grown = reallocarray(list, count + 1, sizeof(*list));
        char *name = strdup(entry->d_name);
        if (grown)
            list = grown;
        if (!grown || !name) {
            free(name);
            break;
        }
        list[count++] = name;
    }
    if (count)
        qsort(list, count, sizeof(*list), by_name);
    *names = list;
    return (int)count;
}

int machine_missing(const char *name, struct ferry_error *err)
{
    if (!machine_name_valid(name))
        return ferry_usage(err, NULL, "'%.80s' is not the name of a machine", name);
    return ferry_fail(err, -ENOENT, NULL,
                      "no machine '%s' is running; 'ferry ps' lists those that are", name);
}
