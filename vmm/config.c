/*
 * The machine description as JSON and back.
 *
 * Reading trusts nothing: each member is fetched by one of a few typed readers that check presence,
 * type and limit and name the key in their refusal; afterwards machine_config_check sees the whole.
 * The reader carries the error along, so that a run of reads is checked once.
 */
#include "vmm/config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/hash.h"

#define ABOUT "machine description"

/* ---- to JSON ---- */

/* A path or an argument of the command line may be any bytes; JSON is UTF-8. */
static json_t *text_to_json(const char *text)
{
    char plain[LIMIT_CMDLINE_BYTES + 1];
    json_t *json = json_string(text);

    if (json)
        return json;
    snprintf(plain, sizeof(plain), "%s", text);
    for (char *c = plain; *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return json_string(plain);
}

static json_t *hex_to_json(const uint8_t *bytes, size_t size)
{
    char text[2 * 16 + 1];
    for (size_t i = 0; i < size && i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    return json_string(text);
}

static json_t *cpuid_to_json(const struct machine_config *config)
{
    json_t *list = json_array();
    for (uint32_t i = 0; list && i < config->cpuid_count; i++) {
        const struct kvm_cpuid_entry2 *e = &config->cpuid[i];
        const uint32_t row[] = {e->function, e->index, e->flags, e->eax, e->ebx, e->ecx, e->edx};
        json_t *numbers = json_array();
        for (size_t n = 0; n < sizeof(row) / sizeof(row[0]); n++)
            json_array_append_new(numbers, json_integer(row[n]));
        json_array_append_new(list, numbers);
    }
    return list;
}

static json_t *disks_to_json(const struct machine_config *config)
{
    json_t *list = json_array();
    for (uint32_t i = 0; list && i < config->disk_count; i++) {
        const struct disk_config *d = &config->disks[i];
        json_array_append_new(list, json_pack("{s:s, s:o, s:I, s:b, s:o}", "device", d->device,
                                              "serial", text_to_json(d->serial), "size_bytes",
                                              (json_int_t)d->size_bytes, "readonly", d->readonly,
                                              "file_name", text_to_json(d->file_name)));
    }
    return list;
}

json_t *machine_config_to_json(const struct machine_config *config)
{
    return json_pack(
        "{s:s, s:o, s:I, s:o, s:i, s:I, s:s, s:i, s:o, s:o, s:o}", "name", config->name, "vm_id",
        hex_to_json(config->vm_id, sizeof(config->vm_id)), "epoch", (json_int_t)config->epoch,
        "generation", hex_to_json(config->generation, sizeof(config->generation)), "cpus",
        (int)config->cpus, "memory_bytes", (json_int_t)config->memory_bytes, "cpu_model",
        config->cpu_model, "tsc_khz", (int)config->tsc_khz, "cpuid", cpuid_to_json(config), "disks",
        disks_to_json(config), "append", text_to_json(config->append));
}

/* ---- from JSON ---- */

struct json_reader {
    const json_t *object;
    const char *prefix; /* of keys in messages */
    struct ferry_error *err;
    int rc;
};

static void refuse(struct json_reader *r, const char *key, const char *what)
{
    if (!r->rc)
        r->rc = ferry_refuse(r->err, -EBADMSG, ABOUT, "\"%s%s\" %s", r->prefix, key, what);
}

static const json_t *member(struct json_reader *r, const char *key)
{
    const json_t *value = r->rc ? NULL : json_object_get(r->object, key);
    if (!value)
        refuse(r, key, "is missing");
    return value;
}

static uint64_t read_number(struct json_reader *r, const char *key, uint64_t least, uint64_t most)
{
    const json_t *value = member(r, key);
    char what[96];

    if (!value)
        return least;
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value))
        refuse(r, key, "is not a whole number");
    else if (number < 0 || (uint64_t)number < least || (uint64_t)number > most) {
        snprintf(what, sizeof(what), "is outside of %" PRIu64 "..%" PRIu64, least, most);
        refuse(r, key, what);
    } else
        return (uint64_t)number;
    return least;
}

static bool read_bool(struct json_reader *r, const char *key)
{
    const json_t *value = member(r, key);
    if (value && !json_is_boolean(value))
        refuse(r, key, "is not true or false");
    return json_is_true(value);
}

/* Text without control characters, into out[size]. */
static void read_text(struct json_reader *r, const char *key, char *out, size_t size)
{
    const json_t *value = member(r, key);
    if (!value)
        return;
    if (!json_is_string(value)) {
        refuse(r, key, "is not a string");
        return;
    }
    const char *text = json_string_value(value);
    size_t length = json_string_length(value);
    if (length >= size) {
        refuse(r, key, "is too long");
        return;
    }
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            refuse(r, key, "has a control character in it");
            return;
        }
    memcpy(out, text, length);
    out[length] = '\0';
}

static void read_hex(struct json_reader *r, const char *key, uint8_t out[16])
{
    char text[2 * 16 + 1] = "";
    read_text(r, key, text, sizeof(text));
    if (r->rc)
        return;
    if (hex_decode(text, out, 16))
        refuse(r, key, "is not 32 hexadecimal digits");
}

static const json_t *read_list(struct json_reader *r, const char *key, size_t most)
{
    const json_t *value = member(r, key);
    char what[64];

    if (value && !json_is_array(value))
        refuse(r, key, "is not a list");
    else if (value && json_array_size(value) > most) {
        snprintf(what, sizeof(what), "has more than %zu elements", most);
        refuse(r, key, what);
    }
    return r->rc ? NULL : value;
}

static void read_cpuid_row(struct json_reader *r, const json_t *row, struct kvm_cpuid_entry2 *e)
{
    uint32_t *const columns[] = {&e->function, &e->index, &e->flags, &e->eax,
                                 &e->ebx,      &e->ecx,   &e->edx};
    const size_t count = sizeof(columns) / sizeof(columns[0]);

    memset(e, 0, sizeof(*e));
    if (!json_is_array(row) || json_array_size(row) != count) {
        refuse(r, "cpuid", "has an element that is not seven numbers");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_array_get(row, i);
        json_int_t value = json_integer_value(number);
        if (!json_is_integer(number) || value < 0 || value > UINT32_MAX) {
            refuse(r, "cpuid", "has a number that does not fit 32 bits");
            return;
        }
        *columns[i] = (uint32_t)value;
    }
}

static void read_cpuid(struct json_reader *r, struct machine_config *config)
{
    const json_t *list = read_list(r, "cpuid", LIMIT_CPUID_ENTRIES);
    for (size_t i = 0; !r->rc && i < json_array_size(list); i++)
        read_cpuid_row(r, json_array_get(list, i), &config->cpuid[i]);
    config->cpuid_count = r->rc ? 0 : (uint32_t)json_array_size(list);
}

static void read_disk(struct json_reader *r, const json_t *object, struct disk_config *disk)
{
    struct json_reader d = {.object = object, .prefix = "disks: ", .err = r->err};
    if (!json_is_object(object)) {
        refuse(r, "disks", "has an element that is not an object");
        return;
    }
    read_text(&d, "device", disk->device, sizeof(disk->device));
    read_text(&d, "serial", disk->serial, sizeof(disk->serial));
    disk->size_bytes = read_number(&d, "size_bytes", 512, LIMIT_DISK_BYTES);
    disk->readonly = read_bool(&d, "readonly");
    read_text(&d, "file_name", disk->file_name, sizeof(disk->file_name));
    r->rc = d.rc;
}

static void read_disks(struct json_reader *r, struct machine_config *config)
{
    const json_t *list = read_list(r, "disks", LIMIT_DISKS);
    for (size_t i = 0; !r->rc && i < json_array_size(list); i++)
        read_disk(r, json_array_get(list, i), &config->disks[i]);
    config->disk_count = r->rc ? 0 : (uint32_t)json_array_size(list);
}

static int check_but_cpuid(const struct machine_config *config, struct ferry_error *err);

int machine_config_from_json(const json_t *json, struct machine_config *config,
                             struct ferry_error *err)
{
    struct json_reader r = {.object = json, .prefix = "", .err = err};

    memset(config, 0, sizeof(*config));
    if (!json_is_object(json))
        return ferry_refuse(err, -EBADMSG, ABOUT, "is not a JSON object");
    read_text(&r, "name", config->name, sizeof(config->name));
    read_hex(&r, "vm_id", config->vm_id);
    config->epoch = read_number(&r, "epoch", 1, INT64_MAX);
    read_hex(&r, "generation", config->generation);
    config->cpus = (uint32_t)read_number(&r, "cpus", 1, LIMIT_VCPUS);
    config->memory_bytes =
        read_number(&r, "memory_bytes", LIMIT_MEMORY_MIN_BYTES, LIMIT_MEMORY_BYTES);
    read_text(&r, "cpu_model", config->cpu_model, sizeof(config->cpu_model));
    config->tsc_khz = (uint32_t)read_number(&r, "tsc_khz", 0, INT32_MAX);
    read_cpuid(&r, config);
    read_disks(&r, config);
    read_text(&r, "append", config->append, sizeof(config->append));
    if (r.rc)
        return r.rc;
    struct ferry_error why;
    if (check_but_cpuid(config, &why))
        return ferry_refuse(err, -EBADMSG, ABOUT, "%s: %s", why.about, why.message);
    return 0;
}

/* ---- what holds for both ---- */

bool machine_name_valid(const char *name)
{
    size_t length = strlen(name);
    if (length < 1 || length > LIMIT_NAME_BYTES || name[0] == '.' || name[0] == '-')
        return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
           length;
}

static int check_disk(const struct machine_config *config, uint32_t index, struct ferry_error *err)
{
    const struct disk_config *disk = &config->disks[index];
    const char device[] = {'v', 'd', (char)('a' + index), '\0'};

    if (strcmp(disk->device, device) != 0)
        return ferry_usage(err, "disks", "disk %u is named \"%s\", not \"%s\"", index, disk->device,
                           device);
    if (disk->size_bytes < 512 || disk->size_bytes > LIMIT_DISK_BYTES || disk->size_bytes % 512)
        return ferry_usage(err, device,
                           "a disk's size is a multiple of 512 bytes, up to 64 TiB; not %" PRIu64,
                           disk->size_bytes);
    if (strchr(disk->file_name, '/') || strcmp(disk->file_name, "..") == 0 ||
        strcmp(disk->file_name, ".") == 0)
        return ferry_usage(err, device, "file_name is not the name of a file within a folder");
    return 0;
}

static int check_but_cpuid(const struct machine_config *config, struct ferry_error *err)
{
    if (!machine_name_valid(config->name))
        return ferry_usage(err, "name",
                           "\"%s\" is not a machine name: 1 to %d of A-Z a-z 0-9 . _ -, not "
                           "starting with . or -",
                           config->name, LIMIT_NAME_BYTES);
    if (!config->epoch)
        return ferry_usage(err, "epoch", "it starts at 1");
    if (!config->cpus || config->cpus > LIMIT_VCPUS)
        return ferry_usage(err, "cpus", "%u vCPUs: from 1 to %d", config->cpus, LIMIT_VCPUS);
    if (config->memory_bytes < LIMIT_MEMORY_MIN_BYTES ||
        config->memory_bytes > LIMIT_MEMORY_BYTES || config->memory_bytes % 4096)
        return ferry_usage(err, "memory_bytes",
                           "%" PRIu64 ": from 8 MiB to 1 TiB, in whole 4 KiB pages",
                           config->memory_bytes);
    if (config->disk_count > LIMIT_DISKS)
        return ferry_usage(err, "disks", "%u disks: at most %d", config->disk_count, LIMIT_DISKS);
    for (uint32_t i = 0; i < config->disk_count; i++) {
        int rc = check_disk(config, i, err);
        if (rc)
            return rc;
    }
    return 0;
}

int machine_config_check(const struct machine_config *config, struct ferry_error *err)
{
    if (!config->cpuid_count || config->cpuid_count > LIMIT_CPUID_ENTRIES)
        return ferry_usage(err, "cpuid", "%u entries: from 1 to %d", config->cpuid_count,
                           LIMIT_CPUID_ENTRIES);
    return check_but_cpuid(config, err);
}
