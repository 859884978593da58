/* Ticket files are JSON, so that an operator in trouble can read them. */
#include "migrate/ticket_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/cleanup.h"
#include "common/hash.h"

static const char *const names[] = {
    [TICKET_NONE] = "NONE",         [TICKET_HANDOVER] = "HANDOVER", [TICKET_KEPT] = "KEPT",
    [TICKET_RELEASED] = "RELEASED", [TICKET_LOST] = "LOST",         [TICKET_INCOMING] = "INCOMING",
    [TICKET_OWNED] = "OWNED",       [TICKET_ABORTED] = "ABORTED",   [TICKET_UNKNOWN] = "UNKNOWN",
};

const char *ticket_state_name(enum ticket_state state)
{
    return (unsigned)state <= TICKET_UNKNOWN ? names[state] : "?";
}

static void cleanup_json(json_t **json)
{
    json_decref(*json);
}

static json_t *print_record(const struct ticket_record *r)
{
    char host[2 * TICKET_ID_BYTES + 1];

    if (r->state == TICKET_NONE)
        return json_null();
    return json_pack("{s:I,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:b}", "epoch", (json_int_t)r->epoch,
                     "state", ticket_state_name(r->state), "name", r->name, "peer_uri", r->peer_uri,
                     "peer_host", hex_encode(r->peer_host, TICKET_ID_BYTES, host), "pid",
                     (json_int_t)r->pid, "pid_start", (json_int_t)r->pid_start, "realtime_ns",
                     (json_int_t)r->realtime_ns, "running", r->running);
}

char *ticket_file_print(const struct ticket_file *file)
{
    char id[2 * TICKET_ID_BYTES + 1];
    json_t *decided = json_array();

    for (unsigned i = 0; i < file->decided_count; i++)
        json_array_append_new(decided,
                              json_pack("{s:I,s:b}", "epoch", (json_int_t)file->decided[i].epoch,
                                        "owned", file->decided[i].owned));
    CLEANUP(cleanup_json)
    json_t *root = json_pack("{s:i,s:s,s:o,s:o,s:o}", "version", 1, "vm_id",
                             hex_encode(file->vm_id, TICKET_ID_BYTES, id), "source",
                             print_record(&file->source), "destination",
                             print_record(&file->destination), "decided", decided);
    return root ? json_dumps(root, JSON_INDENT(1)) : NULL;
}

static int copy_text(char *out, size_t size, const char *text)
{
    if (strlen(text) >= size)
        return -EINVAL;
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int parse_state(const char *name, enum ticket_role role, enum ticket_state *state)
{
    enum ticket_state first = role == TICKET_SOURCE ? TICKET_HANDOVER : TICKET_INCOMING;
    enum ticket_state last = role == TICKET_SOURCE ? TICKET_LOST : TICKET_ABORTED;

    for (*state = first; *state <= last; (*state)++)
        if (!strcmp(name, names[*state]))
            return 0;
    return -EINVAL;
}

static int parse_record(json_t *json, enum ticket_role role, struct ticket_record *r)
{
    const char *state, *name, *uri, *host;
    json_int_t epoch, pid, pid_start, realtime;
    int running;

    r->role = role;
    if (json_is_null(json))
        return 0;
    if (json_unpack(json, "{s:I,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:b}", "epoch", &epoch, "state", &state,
                    "name", &name, "peer_uri", &uri, "peer_host", &host, "pid", &pid, "pid_start",
                    &pid_start, "realtime_ns", &realtime, "running", &running))
        return -EINVAL;
    if (epoch < 0 || (uint64_t)epoch > LIMIT_EPOCH || parse_state(state, role, &r->state) ||
        copy_text(r->name, sizeof(r->name), name) ||
        copy_text(r->peer_uri, sizeof(r->peer_uri), uri) ||
        hex_decode(host, r->peer_host, TICKET_ID_BYTES))
        return -EINVAL;
    r->epoch = (uint64_t)epoch;
    r->running = running;
    r->pid = (pid_t)pid;
    r->pid_start = (uint64_t)pid_start;
    r->realtime_ns = (uint64_t)realtime;
    return 0;
}

static int parse_decided(json_t *json, struct ticket_file *file)
{
    size_t count = json_array_size(json);

    if (!json_is_array(json) || count > LIMIT_TICKET_HISTORY)
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        json_int_t epoch;
        int owned;
        if (json_unpack(json_array_get(json, i), "{s:I,s:b}", "epoch", &epoch, "owned", &owned) ||
            epoch < 0 || (uint64_t)epoch > LIMIT_EPOCH)
            return -EINVAL;
        file->decided[i] = (struct ticket_decision){(uint64_t)epoch, owned};
    }
    file->decided_count = (unsigned)count;
    return 0;
}

int ticket_file_parse(const char *path, const char *text, size_t size,
                      const uint8_t vm_id[TICKET_ID_BYTES], struct ticket_file *file,
                      struct ferry_error *err)
{
    CLEANUP(cleanup_json) json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    json_t *source, *destination, *decided;
    uint8_t id[TICKET_ID_BYTES];
    const char *id_text;
    int version;

    *file = (struct ticket_file){0};
    memcpy(file->vm_id, vm_id, TICKET_ID_BYTES);
    if (!root || json_unpack(root, "{s:i,s:s,s:o,s:o,s:o}", "version", &version, "vm_id", &id_text,
                             "source", &source, "destination", &destination, "decided", &decided))
        return ferry_refuse(err, -EBADMSG, path, "the ticket is damaged");
    if (version != 1)
        return ferry_refuse(err, -EBADMSG, path, "the ticket is of version %d, unknown here",
                            version);
    if (hex_decode(id_text, id, TICKET_ID_BYTES) || memcmp(id, vm_id, TICKET_ID_BYTES) ||
        parse_record(source, TICKET_SOURCE, &file->source) ||
        parse_record(destination, TICKET_DESTINATION, &file->destination) ||
        parse_decided(decided, file))
        return ferry_refuse(err, -EBADMSG, path, "the ticket is damaged");
    memcpy(file->source.vm_id, vm_id, TICKET_ID_BYTES);
    memcpy(file->destination.vm_id, vm_id, TICKET_ID_BYTES);
    return 0;
}
