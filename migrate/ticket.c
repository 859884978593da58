/*
 * The ticket store.  Each operation opens and locks `.tickets/lock`, reads the machine's file,
 * decides, and replaces the file; the lock is a flock of an own descriptor, so that threads of one
 * process exclude each other as processes do.
 */
#include "migrate/ticket.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#include "migrate/process.h"
#include "migrate/ticket_file.h"

#define ID_TEXT_BYTES (2 * TICKET_ID_BYTES + 1)

struct ticket_store {
    char dir[LIMIT_PATH_BYTES];
    uint8_t host[TICKET_ID_BYTES];
    /* A file that is durable under a temporary name and waits for its own; under the lock. */
    struct atomic_file draft;
    char *draft_text; /* NULL: there is none */
    uint64_t draft_ns;
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

static void drop_draft(struct ticket_store *store)
{
    if (store->draft_text)
        atomic_file_abandon(&store->draft);
    free(take_ptr(&store->draft_text));
}

static void save_draft(struct ticket_store *store, const struct ticket_file *file)
{
    char path[LIMIT_PATH_BYTES + ID_TEXT_BYTES + 1];
    CLEANUP_FREE char *text = ticket_file_print(file);

    path_of(store, file->vm_id, path, sizeof(path));
    if (!text || atomic_file_open(&store->draft, path, NULL))
        return;
    if (write_all(store->draft.fd, text, strlen(text)) || fsync(store->draft.fd)) {
        atomic_file_abandon(&store->draft);
        return;
    }
    store->draft_text = take_ptr(&text);
}

/* save, by way of the draft if that is what is to be saved. */
static int save_drafted(struct ticket_store *store, const struct ticket_file *file,
                        struct ferry_error *err)
{
    CLEANUP_FREE char *text = store->draft_text ? ticket_file_print(file) : NULL;

    if (!text || strcmp(text, store->draft_text))
        return save(store, file, err);
    free(take_ptr(&store->draft_text));
    return atomic_file_commit(&store->draft, err);
}

/* ---- records ---- */

static void claim(struct ticket_record *r, uint64_t now_ns)
{
    r->pid = getpid();
    r->pid_start = process_start(r->pid);
    r->realtime_ns = now_ns;
}

/* The time that goes into the log: the draft's, so that it is the same file. */
static uint64_t time_of(const struct ticket_store *store)
{
    return store->draft_text ? store->draft_ns : realtime_ns();
}

static void look_alive(struct ticket_record *r)
{
    r->process_alive = r->state != TICKET_NONE && r->pid > 0 && r->pid_start &&
                       process_start(r->pid) == r->pid_start;
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
    text[ID_TEXT_BYTES - 1] = '\n';
    return atomic_file_write(path, text, ID_TEXT_BYTES, err);
}

static int open_store(struct ticket_store *store, const char *runtime_dir, struct ferry_error *err)
{
    if (strlen(runtime_dir) + sizeof("/.tickets") > sizeof(store->dir))
        return ferry_usage(err, NULL, "the path of the runtime folder is too long");
    snprintf(store->dir, sizeof(store->dir), "%s/.tickets", runtime_dir);
    if (mkdir(store->dir, 0700) && errno != EEXIST)
        return ferry_fail_sys(err, -errno, store->dir, "cannot create the folder of the tickets");
    return find_host(store, err);
}

int ticket_store_open(const char *runtime_dir, struct ticket_store **out, struct ferry_error *err)
{
    struct ticket_store *store = calloc(1, sizeof(*store));

    if (!store)
        return ferry_fail(err, -ENOMEM, runtime_dir, "out of memory");
    int error = open_store(store, runtime_dir, err);
    if (error)
        free(store);
    else
        *out = store;
    return error;
}

void ticket_store_close(struct ticket_store *store)
{
    if (store)
        drop_draft(store);
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
    claim(d, realtime_ns());
    return save(store, &file, err);
}

static void set_owned(struct ticket_file *file, uint64_t now_ns)
{
    file->destination.state = TICKET_OWNED;
    claim(&file->destination, now_ns);
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
    set_owned(&file, time_of(store));
    error = save_drafted(store, &file, err);
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

static void set_handed_over(struct ticket_file *file, const struct ticket_record *record,
                            uint64_t now_ns)
{
    file->source = *record;
    file->source.role = TICKET_SOURCE;
    file->source.state = TICKET_HANDOVER;
    claim(&file->source, now_ns);
}

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
    set_handed_over(&file, record, time_of(store));
    return save_drafted(store, &file, err);
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

/* ---- drafts ---- */

static void draft(struct ticket_store *store, const uint8_t *vm_id,
                  const struct ticket_record *handed_over)
{
    struct ticket_file file;
    CLEANUP_FD int lock = -1;

    if (lock_store(store, &lock, NULL) || load(store, vm_id, &file, NULL))
        return;
    drop_draft(store);
    store->draft_ns = realtime_ns();
    if (handed_over)
        set_handed_over(&file, handed_over, store->draft_ns);
    else
        set_owned(&file, store->draft_ns);
    save_draft(store, &file);
}

void ticket_draft_own(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES])
{
    draft(store, vm_id, NULL);
}

void ticket_draft_hand_over(struct ticket_store *store, const struct ticket_record *record)
{
    draft(store, record->vm_id, record);
}

void ticket_draft_drop(struct ticket_store *store)
{
    CLEANUP_FD int lock = -1;

    if (!lock_store(store, &lock, NULL))
        drop_draft(store);
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
    while ((entry = readdir(dir)) && found < (size_t)LIMIT_TICKETS * 2) {
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
