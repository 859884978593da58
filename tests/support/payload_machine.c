/* A machine that runs the payload guest. */
#include "tests/support/payload_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

#define WAIT_SECONDS 60

/* BUILD/guest/payload.elf of the test BUILD/tests/KIND/test_X. */
static bool payload_path(char path[PATH_MAX])
{
    char self[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (size < 0)
        return false;
    self[size] = 0;
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(self, '/');
        if (!slash)
            return false;
        *slash = 0;
    }
    int length = snprintf(path, PATH_MAX, "%s/guest/payload.elf", self);
    return length > 0 && length < PATH_MAX && !access(path, R_OK);
}

const char *payload_impossible(void)
{
    char path[PATH_MAX];

    if (access("/dev/kvm", R_OK | W_OK))
        return "no access to /dev/kvm";
    return payload_path(path) ? NULL : "the payload is not built (make guest)";
}

void payload_init(struct payload *p, const char *name)
{
    *p = (struct payload){.event = -1};
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    snprintf(p->config.name, sizeof(p->config.name), "%s", name);
    snprintf(p->config.cpu_model, sizeof(p->config.cpu_model), "host");
    p->config.cpus = 1;
    p->config.memory_bytes = 64 * MIB;
}

static void on_output(void *opaque, const uint8_t *data, size_t size)
{
    struct payload *p = opaque;
    LOCK_SCOPE(&p->lock);
    char *text = realloc(p->text, p->size + size + 1);

    if (!text)
        return;
    p->text = text;
    memcpy(text + p->size, data, size);
    p->size += size;
    text[p->size] = 0;
    pthread_cond_broadcast(&p->changed);
}

static void on_event(void *opaque, enum machine_event event)
{
    struct payload *p = opaque;
    LOCK_SCOPE(&p->lock);

    p->event = (int)event;
    pthread_cond_broadcast(&p->changed);
}

int payload_host(struct payload *p, const struct machine_config *config, struct machine_host *host,
                 struct ferry_error *err)
{
    int error = 0;

    *host = (struct machine_host){
        .serial_output = on_output,
        .event = on_event,
        .opaque = p,
    };
    for (uint32_t i = 0; !error && i < config->disk_count; i++)
        error = raw_file_open(p->disks[i], config->disks[i].readonly, config->disks[i].size_bytes,
                              true, &host->disks[i], err);
    for (uint32_t i = 0; error && i < config->disk_count; i++)
        if (host->disks[i])
            host->disks[i]->ops->close(host->disks[i]);
    return error;
}

int payload_start(struct payload *p, const char *options, struct ferry_error *err)
{
    char kernel[PATH_MAX];
    struct machine_host host;

    if (!payload_path(kernel))
        return ferry_fail(err, -ENOENT, "payload", "is not built");
    int error = machine_config_complete(&p->config, err);
    if (!error)
        error = payload_host(p, &p->config, &host, err);
    if (!error)
        error = machine_create(&p->config, &host, &p->machine, err);
    if (!error)
        error = machine_activate_disks(p->machine, err);
    const struct boot_source source = {.kernel = kernel, .append = options};
    if (!error)
        error = machine_boot(p->machine, &source, err);
    return error ? error : machine_resume(p->machine, err);
}

static int restore_create(void *opaque, struct machine_config *config, const bool *disk_in_image,
                          struct machine **out, struct ferry_error *err)
{
    struct payload *p = opaque;
    struct machine_host host;

    memcpy(p->in_image, disk_in_image, sizeof(p->in_image));
    p->config = *config;
    for (uint32_t i = 0; i < config->disk_count; i++)
        if (!p->disks[i])
            return ferry_fail(err, -ENOENT, config->disks[i].device, "no file for it");
    int error = payload_host(p, config, &host, err);
    return error ? error : machine_create(config, &host, out, err);
}

static int restore_disk(void *opaque, uint32_t index, int *fd, struct ferry_error *err)
{
    struct payload *p = opaque;

    *fd = open(p->disks[index], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    p->disk_fds[index] = *fd;
    return *fd < 0 ? ferry_fail_sys(err, -errno, p->disks[index], "cannot create") : 0;
}

int payload_restore(struct payload *p, int fd, struct progress *progress,
                    struct restore_result *result, struct ferry_error *err)
{
    const struct snapshot_host host = {.opaque = p, .create = restore_create, .disk = restore_disk};

    for (unsigned i = 0; i < LIMIT_DISKS; i++)
        p->disk_fds[i] = -1;
    int error = snapshot_load(fd, "image", NULL, &host, progress, &p->machine, result, err);
    for (unsigned i = 0; i < LIMIT_DISKS; i++)
        if (p->disk_fds[i] >= 0)
            close(p->disk_fds[i]);
    return error;
}

bool payload_wait(struct payload *p, const char *text)
{
    struct timespec deadline;
    LOCK_SCOPE(&p->lock);

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += WAIT_SECONDS;
    while (!p->text || !strstr(p->text, text)) {
        if (p->event == MACHINE_EVENT_FAILED ||
            pthread_cond_timedwait(&p->changed, &p->lock, &deadline) == ETIMEDOUT) {
            fprintf(stderr, "no \"%s\" in:\n%s\n", text, p->text ? p->text : "");
            return false;
        }
    }
    return true;
}

char *payload_tick(struct payload *p, unsigned tick)
{
    char start[32];
    LOCK_SCOPE(&p->lock);

    snprintf(start, sizeof(start), "tick %u ", tick);
    const char *line = p->text ? strstr(p->text, start) : NULL;
    const char *end = line ? strchr(line, '|') : NULL;
    return end ? strndup(line, (size_t)(end - line)) : NULL;
}

void payload_destroy(struct payload *p)
{
    machine_destroy(p->machine);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p->text);
    *p = (struct payload){0};
}
