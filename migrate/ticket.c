/*
 * The ticket store.  Each operation opens and locks `.tickets/lock`, reads the machine's file,
 * decides, and replaces the file; the lock is a flock of an own descriptor, so that threads of one
 * process exclude each other as processes do.
 */
#include "migrate/ticket.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/hash.h"
#include "migrate/ticket_file.h"

#define ID_TEXT_BYTES (2 * TICKET_ID_BYTES + 1)

struct ticket_store {
    char dir[LIMIT_PATH_BYTES];
    uint8_t host[TICKET_ID_BYTES];
};

/* ---- lock and files ---- */

static int lock_store(const struct ticket_store *store, int *fd, struct ferry_error *err)
{
    char path[LIMIT_PATH_BYTES + 8];

    snprintf(path, sizeof(path), "%s/lock", store->dir);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd < 0)
        return ferry_fail_sys(err, -errno, path, "cannot open the lock of the tickets");
    while (flock(*fd, LOCK_EX))
        if (errno != EINTR)
            return ferry_fail_sys(err, -errno, path, "cannot lock the tickets");
    return 0;
}

static void path_of(const struct ticket_store *store, const uint8_t *vm_id, char *path, size_t size)
{
    char id[ID_TEXT_BYTES];

    snprintf(path, size, "%s/%s", store->dir, hex_encode(vm_id, TICKET_ID_BYTES, id));
}

static int load(const struct ticket_store *store, const uint8_t *vm_id, struct ticket_file *file,
                struct ferry_error *err)
{
    char path[LIMIT_PATH_BYTES + ID_TEXT_BYTES + 1];
    CLEANUP_FREE uint8_t *text = NULL;
    size_t size;

    path_of(store, vm_id, path, sizeof(path));
    *file = (struct ticket_file){.destination.role = TICKET_DESTINATION};
    memcpy(file->vm_id, vm_id, TICKET_ID_BYTES);
    memcpy(file->source.vm_id, vm_id, TICKET_ID_BYTES);
    memcpy(file->destination.vm_id, vm_id, TICKET_ID_BYTES);
    int error = file_read(path, LIMIT_TICKET_BYTES, &text, &size, err);
    if (error)
        return error == -ENOENT ? 0 : error;
    return ticket_file_parse(path, (const char *)text, size, vm_id, file, err);
}

static int save(const struct ticket_store *store, const struct ticket_file *file,
                struct ferry_error *err)
{
    char path[LIMIT_PATH_BYTES + ID_TEXT_BYTES + 1];
    CLEANUP_FREE char *text = ticket_file_print(file);

    path_of(store, file->vm_id, path, sizeof(path));
    if (!text)
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    return atomic_file_write(path, text, strlen(text), err);
}

/* ---- the process behind a record ---- */

/* Start time of a process in clock ticks; 0: there is none. */
static uint64_t start_of(pid_t pid)
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

static void claim(struct ticket_record *r)
{
    r->pid = getpid();
    r->pid_start = start_of(r->pid);
    r->realtime_ns = realtime_ns();
}

static void look_alive(struct ticket_record *r)
{
    r->process_alive =
        r->state != TICKET_NONE && r->pid > 0 && r->pid_start && start_of(r->pid) == r->pid_start;
}

/* ---- the store ---- */

static int find_host(struct ticket_store *store, struct ferry_error *err)
{
    char path[LIMIT_PATH_BYTES + 16], text[ID_TEXT_BYTES + 1];
    CLEANUP_FREE uint8_t *known = NULL;
    CLEANUP_FD int lock = -1;
    size_t size;

    int error = lock_store(store, &lock, err);
    if (error)
        return error;
    snprintf(path, sizeof(path), "%s/host-id", store->dir);
    error = file_read(path, ID_TEXT_BYTES, &known, &size, err);
    if (!error) {
        if (size)
            known[size - 1] = 0; /* the newline */
        if (hex_decode((const char *)known, store->host, TICKET_ID_BYTES))
            return ferry_refuse(err, -EBADMSG, path, "the id of this host is damaged");
        return 0;
    }
    if (error != -ENOENT)
        return error;
    if (getrandom(store->host, TICKET_ID_BYTES, 0) != TICKET_ID_BYTES)
        return ferry_fail_sys(err, -errno, path, "cannot choose an id for this host");
    hex_encode(store->host, TICKET_ID_BYTES, text);
    strcat(text, "\n");
    return atomic_file_write(path, text, ID_TEXT_BYTES, err);
}

int ticket_store_open(const char *runtime_dir, struct ticket_store **out, struct ferry_error *err)
{
    CLEANUP_FREE struct ticket_store *store = calloc(1, sizeof(*store));

    if (!store)
        return ferry_fail(err, -ENOMEM, runtime_dir, "out of memory");
    if (strlen(runtime_dir) + sizeof("/.tickets") > sizeof(store->dir))
        return ferry_usage(err, NULL, "the path of the runtime folder is too long");
    snprintf(store->dir, sizeof(store->dir), "%s/.tickets", runtime_dir);
    if (mkdir(store->dir, 0700) && errno != EEXIST)
        return ferry_fail_sys(err, -errno, store->dir, "cannot create the folder of the tickets");
    int error = find_host(store, err);
    if (error)
        return error;
    *out = take_ptr(&store);
    return 0;
}

void ticket_store_close(struct ticket_store *store)
{
    free(store);
}

const uint8_t *ticket_store_host(const struct ticket_store *store)
{
    return store->host;
}

/* ---- the destination's word ---- */

static uint64_t latest_epoch(const struct ticket_file *file)
{
    uint64_t latest = 0;

    if (file->source.state != TICKET_NONE)
        latest = file->source.epoch + (file->source.state == TICKET_KEPT);
    if (file->destination.state != TICKET_NONE && file->destination.epoch > latest)
        latest = file->destination.epoch;
    return latest;
}

/* Make room for a new destination record; what was undecided is thereby aborted. */
static void retire_destination(struct ticket_file *file)
{
    if (file->destination.state == TICKET_NONE)
        return;
    if (file->decided_count == LIMIT_TICKET_HISTORY)
        memmove(file->decided, file->decided + 1, --file->decided_count * sizeof(file->decided[0]));
    file->decided[file->decided_count++] =
        (struct ticket_decision){file->destination.epoch, file->destination.state == TICKET_OWNED};
    file->destination = (struct ticket_record){.role = TICKET_DESTINATION};
    memcpy(file->destination.vm_id, file->vm_id, TICKET_ID_BYTES);
}

static enum ticket_state word_on(const struct ticket_file *file, uint64_t epoch)
{
    const struct ticket_record *d = &file->destination;

    if (d->state != TICKET_NONE && d->epoch == epoch)
        return d->state;
    for (unsigned i = 0; i < file->decided_count; i++)
        if (file->decided[i].epoch == epoch)
            return file->decided[i].owned ? TICKET_OWNED : TICKET_ABORTED;
    return d->state != TICKET_NONE && epoch < d->epoch ? TICKET_UNKNOWN : TICKET_NONE;
}

int ticket_reserve(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
                   const char *name, const uint8_t source_host[TICKET_ID_BYTES], uint64_t *logged,
                   struct ferry_error *err)
{
    struct ticket_file file;
    CLEANUP_FD int lock = -1;

    int error = lock_store(store, &lock, err);
    if (!error)
        error = load(store, vm_id, &file, err);
    if (error)
        return error;
    *logged = latest_epoch(&file);
    if (epoch <= *logged || epoch > LIMIT_EPOCH)
        return ferry_refuse(err, -ESTALE, name,
                            "epoch %llu of this machine is over: epoch %llu is known here",
                            (unsigned long long)epoch, (unsigned long long)*logged);
    retire_destination(&file);
    struct ticket_record *d = &file.destination;
    d->state = TICKET_INCOMING;
    d->epoch = epoch;
    snprintf(d->name, sizeof(d->name), "%s", name);
    memcpy(d->peer_host, source_host, TICKET_ID_BYTES);
    claim(d);
    return save(store, &file, err);
}

int ticket_own(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
               struct ferry_error *err)
{
    struct ticket_file file;
    CLEANUP_FD int lock = -1;

    int error = lock_store(store, &lock, err);
    if (!error)
        error = load(store, vm_id, &file, err);
    if (error)
        return error;
    if (word_on(&file, epoch) != TICKET_INCOMING)
        return ferry_refuse(err, -ESTALE, file.destination.name,
                            "epoch %llu cannot be owned any more: the log says %s",
                            (unsigned long long)epoch, ticket_state_name(word_on(&file, epoch)));
    file.destination.state = TICKET_OWNED;
    claim(&file.destination);
    error = save(store, &file, err);
    if (error) {
        /* Its name may be there and yet not be durable: nobody may read it.  Still locked. */
        file.destination.state = TICKET_ABORTED;
        save(store, &file, NULL);
    }
    return error;
}

int ticket_abort(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
                 struct ferry_error *err)
{
    struct ticket_file file;
    CLEANUP_FD int lock = -1;

    int error = lock_store(store, &lock, err);
    if (!error)
        error = load(store, vm_id, &file, err);
    if (error)
        return error;
    enum ticket_state word = word_on(&file, epoch);
    if (word == TICKET_ABORTED)
        return 0;
    if (word == TICKET_OWNED || word == TICKET_UNKNOWN || epoch > LIMIT_EPOCH)
        return ferry_refuse(err, -ESTALE, file.destination.name,
                            "epoch %llu cannot be aborted: the log says %s",
                            (unsigned long long)epoch, ticket_state_name(word));
    if (word == TICKET_NONE) {
        retire_destination(&file);
        file.destination.epoch = epoch;
    }
    file.destination.state = TICKET_ABORTED;
    file.destination.realtime_ns = realtime_ns();
    return save(store, &file, err);
}

int ticket_look(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
                enum ticket_state *state, struct ferry_error *err)
{
    struct ticket_file file;
    CLEANUP_FD int lock = -1;

    int error = lock_store(store, &lock, err);
    if (!error)
        error = load(store, vm_id, &file, err);
    if (!error)
        *state = word_on(&file, epoch);
    return error;
}

/* ---- the source's word ---- */

int ticket_hand_over(struct ticket_store *store, const struct ticket_record *record,
                     struct ferry_error *err)
{
    struct ticket_file file;
    CLEANUP_FD int lock = -1;

    int error = lock_store(store, &lock, err);
    if (!error)
        error = load(store, record->vm_id, &file, err);
    if (error)
        return error;
    if (file.source.state != TICKET_NONE && file.source.epoch >= record->epoch)
        return ferry_refuse(err, -ESTALE, record->name, "epoch %llu was handed over before",
                            (unsigned long long)record->epoch);
    file.source = *record;
    file.source.role = TICKET_SOURCE;
    file.source.state = TICKET_HANDOVER;
    claim(&file.source);
    return save(store, &file, err);
}

int ticket_settle(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
                  enum ticket_state state, struct ferry_error *err)
{
    struct ticket_file file;
    CLEANUP_FD int lock = -1;

    int error = lock_store(store, &lock, err);
    if (!error)
        error = load(store, vm_id, &file, err);
    if (error)
        return error;
    if (file.source.epoch == epoch && file.source.state == state)
        return 0;
    if (file.source.epoch != epoch || file.source.state != TICKET_HANDOVER)
        return ferry_refuse(err, -ESTALE, file.source.name,
                            "epoch %llu cannot become %s: the log says %s of epoch %llu",
                            (unsigned long long)epoch, ticket_state_name(state),
                            ticket_state_name(file.source.state),
                            (unsigned long long)file.source.epoch);
    file.source.state = state;
    file.source.realtime_ns = realtime_ns();
    return save(store, &file, err);
}

/* ---- looking around ---- */

int ticket_find(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES],
                enum ticket_role role, struct ticket_record *record, struct ferry_error *err)
{
    struct ticket_file file;
    CLEANUP_FD int lock = -1;

    int error = lock_store(store, &lock, err);
    if (!error)
        error = load(store, vm_id, &file, err);
    if (error)
        return error;
    *record = role == TICKET_SOURCE ? file.source : file.destination;
    if (record->state == TICKET_NONE)
        return ferry_fail(err, -ENOENT, NULL, "there is no ticket of this machine here");
    look_alive(record);
    return 0;
}

static int append(struct ticket_record **records, size_t *count, const struct ticket_record *r)
{
    if (r->state == TICKET_NONE)
        return 0;
    struct ticket_record *more = realloc(*records, (*count + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    *records = more;
    more[*count] = *r;
    look_alive(&more[(*count)++]);
    return 0;
}

static void cleanup_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

int ticket_list(struct ticket_store *store, struct ticket_record **records, size_t *count,
                struct ferry_error *err)
{
    CLEANUP(cleanup_dir) DIR *dir = NULL;
    CLEANUP_FREE struct ticket_record *list = NULL;
    CLEANUP_FD int lock = -1;
    size_t found = 0;
    struct dirent *entry;

    int error = lock_store(store, &lock, err);
    if (error)
        return error;
    dir = opendir(store->dir);
    if (!dir)
        return ferry_fail_sys(err, -errno, store->dir, "cannot read the folder of the tickets");
    while ((entry = readdir(dir)) && found < 2 * LIMIT_TICKETS) {
        struct ticket_file file;
        uint8_t vm_id[TICKET_ID_BYTES];
        if (hex_decode(entry->d_name, vm_id, TICKET_ID_BYTES))
            continue;
        error = load(store, vm_id, &file, err);
        if (error)
            return error;
        if (append(&list, &found, &file.source) || append(&list, &found, &file.destination))
            return ferry_fail(err, -ENOMEM, store->dir, "out of memory");
    }
    *count = found;
    *records = take_ptr(&list);
    return 0;
}
