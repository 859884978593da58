/*
 * The machine as ferry has it, as JSON in an annotation of an OCI manifest: nothing is lost on the
 * way back.  It names the config that it was written with; if somebody has edited that since, the
 * config is what counts.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "imagefmt/foreign/oci.h"

#define MACHINE_VERSION 1
#define WHAT            "the annotation \"" FERRY_NOTE_MACHINE "\""

/* ---- Names ---- */

const char *oci_file_type(enum guest_file_kind kind)
{
    static const char *const types[GUEST_FILE_KINDS] = {
        [GUEST_KERNEL] = "application/vnd.ferry.kernel",
        [GUEST_INITRD] = "application/vnd.ferry.initrd",
        [GUEST_NVRAM] = "application/vnd.ferry.nvram",
    };

    return types[kind];
}

char *oci_disk_name(uint32_t index, char name[OCI_DISK_NAME_BYTES])
{
    snprintf(name, OCI_DISK_NAME_BYTES, "disk%u", index);
    return name;
}

char *oci_format_digest(const uint8_t sha256[SHA256_BYTES], char text[OCI_DIGEST_BYTES])
{
    snprintf(text, OCI_DIGEST_BYTES, "sha256:");
    hex_encode(sha256, SHA256_BYTES, text + 7);
    return text;
}

int oci_parse_digest(const char *text, uint8_t sha256[SHA256_BYTES])
{
    char again[OCI_DIGEST_BYTES];

    if (strncmp(text, "sha256:", 7) || strlen(text) != OCI_DIGEST_BYTES - 1 ||
        hex_decode(text + 7, sha256, SHA256_BYTES))
        return -EINVAL;
    return strcmp(oci_format_digest(sha256, again), text) ? -EINVAL : 0; /* lower case only */
}

/* ---- Writing ---- */

/* A string, with '?' for what JSON cannot hold. */
static json_t *text_json(const char *text)
{
    char copy[LIMIT_CMDLINE_BYTES + 1];

    if (utf8_valid(text, strlen(text)))
        return json_string(text);
    snprintf(copy, sizeof(copy), "%s", text);
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return json_string(copy);
}

static json_t *disk_json(const struct guest_disk *disk)
{
    return json_pack("{s:o, s:I, s:b, s:s}", "serial", text_json(disk->serial), "size_bytes",
                     (json_int_t)disk->size_bytes, "readonly", (int)disk->readonly, "bus",
                     guest_bus_name(disk->bus));
}

static json_t *nic_json(const struct guest_nic *nic)
{
    char mac[18] = "";

    if (nic->has_mac)
        guest_format_mac(nic->mac, mac);
    return json_pack("{s:s, s:o, s:o}", "mac", mac, "network", text_json(nic->network), "model",
                     text_json(nic->model));
}

static json_t *machine_json(const struct guest *guest, const char *config)
{
    char uuid[2 * sizeof(guest->uuid) + 1];
    json_t *disks = json_array(), *nics = json_array();
    bool failed = !disks || !nics;

    for (uint32_t i = 0; i < guest->disk_count; i++)
        failed |= json_array_append_new(disks, disk_json(&guest->disks[i])) != 0;
    for (uint32_t i = 0; i < guest->nic_count; i++)
        failed |= json_array_append_new(nics, nic_json(&guest->nics[i])) != 0;
    json_t *json = json_pack(
        "{s:i, s:s, s:s, s:o, s:s, s:I, s:I, s:o, s:s, s:b, s:o, s:o, s:o}", "version",
        MACHINE_VERSION, "config", config, "name", guest->name, "os", text_json(guest->os), "uuid",
        hex_encode(guest->uuid, sizeof(guest->uuid), uuid), "cpus", (json_int_t)guest->cpus,
        "memory_bytes", (json_int_t)guest->memory_bytes, "cpu_model", text_json(guest->cpu_model),
        "firmware", guest_firmware_name(guest->firmware), "serial_console",
        (int)guest->serial_console, "append", text_json(guest->append), "disks", disks, "nics",
        nics);
    if (failed) {
        json_decref(json);
        return NULL;
    }
    return json;
}

int oci_machine_encode(const struct guest *guest, const char *config, char **out,
                       struct ferry_error *err)
{
    CLEANUP(json_cleanup) json_t *json = machine_json(guest, config);

    *out = json ? json_dumps(json, JSON_COMPACT) : NULL;
    return *out ? 0 : ferry_fail(err, -ENOMEM, NULL, "out of memory");
}

/* ---- Reading ---- */

/* What is read from, and the first thing about it that is wrong. */
struct fields {
    const char *about;
    struct ferry_error *err;
    int error;
};

static void wrong(struct fields *f, const char *key)
{
    if (!f->error)
        f->error =
            ferry_refuse(f->err, -EBADMSG, f->about, "\"%s\" in %s makes no sense", key, WHAT);
}

static const char *string_of(struct fields *f, const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));

    if (text)
        return text;
    wrong(f, key);
    return "";
}

static void copy_string(struct fields *f, const json_t *json, const char *key, char *out,
                        size_t room)
{
    const char *text = string_of(f, json, key);

    if (strlen(text) < room)
        memcpy(out, text, strlen(text) + 1);
    else
        wrong(f, key);
}

static uint64_t number_of(struct fields *f, const json_t *json, const char *key, uint64_t most)
{
    const json_t *value = json_object_get(json, key);

    if (json_is_integer(value) && json_integer_value(value) >= 0 &&
        (uint64_t)json_integer_value(value) <= most)
        return (uint64_t)json_integer_value(value);
    wrong(f, key);
    return 0;
}

static bool flag_of(struct fields *f, const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);

    if (!json_is_boolean(value))
        wrong(f, key);
    return json_is_true(value);
}

static void read_disk(struct fields *f, const json_t *json, struct guest_disk *disk)
{
    copy_string(f, json, "serial", disk->serial, sizeof(disk->serial));
    disk->size_bytes = number_of(f, json, "size_bytes", LIMIT_DISK_BYTES);
    disk->readonly = flag_of(f, json, "readonly");
    disk->bus = guest_bus_by_name(string_of(f, json, "bus"));
}

static void read_nic(struct fields *f, const json_t *json, struct guest_nic *nic)
{
    const char *mac = string_of(f, json, "mac");

    copy_string(f, json, "network", nic->network, sizeof(nic->network));
    copy_string(f, json, "model", nic->model, sizeof(nic->model));
    nic->has_mac = *mac != 0;
    if (nic->has_mac && guest_parse_mac(mac, nic->mac))
        wrong(f, "mac");
}

static void read_machine(struct fields *f, const json_t *json, struct guest *guest)
{
    const json_t *disks = json_object_get(json, "disks"), *nics = json_object_get(json, "nics");
    const char *uuid = string_of(f, json, "uuid");
    char name[sizeof(guest->name)] = "";

    copy_string(f, json, "name", name, sizeof(name));
    guest_set_name(guest, name);
    copy_string(f, json, "os", guest->os, sizeof(guest->os));
    if (hex_decode(uuid, guest->uuid, sizeof(guest->uuid)))
        wrong(f, "uuid");
    guest->cpus = (uint32_t)number_of(f, json, "cpus", LIMIT_VCPUS);
    guest->memory_bytes = number_of(f, json, "memory_bytes", LIMIT_MEMORY_BYTES);
    copy_string(f, json, "cpu_model", guest->cpu_model, sizeof(guest->cpu_model));
    guest->firmware = guest_firmware_by_name(string_of(f, json, "firmware"));
    guest->serial_console = flag_of(f, json, "serial_console");
    copy_string(f, json, "append", guest->append, sizeof(guest->append));
    if (!json_is_array(disks) || json_array_size(disks) > LIMIT_DISKS)
        wrong(f, "disks");
    if (!json_is_array(nics) || json_array_size(nics) > LIMIT_NICS)
        wrong(f, "nics");
    if (f->error)
        return;
    guest->disk_count = (uint32_t)json_array_size(disks);
    guest->nic_count = (uint32_t)json_array_size(nics);
    for (uint32_t i = 0; i < guest->disk_count; i++)
        read_disk(f, json_array_get(disks, i), &guest->disks[i]);
    for (uint32_t i = 0; i < guest->nic_count; i++)
        read_nic(f, json_array_get(nics, i), &guest->nics[i]);
}

int oci_machine_decode(const char *text, const char *config, const char *about, struct guest *guest,
                       struct ferry_error *err)
{
    CLEANUP(json_cleanup) json_t *json = NULL;
    struct fields f = {.about = about, .err = err};

    *guest = (struct guest){0};
    int error =
        json_parse_object(text, strlen(text), LIMIT_MANIFEST_BYTES, about, WHAT, &json, err);
    if (error)
        return error;
    if (number_of(&f, json, "version", INT32_MAX) > MACHINE_VERSION)
        return ferry_refuse(err, -ENOTSUP, about, "%s is of a newer ferry", WHAT);
    if (strcmp(string_of(&f, json, "config"), config) && !f.error)
        return 0;
    read_machine(&f, json, guest);
    error = f.error ? f.error : guest_check(guest, about, err);
    return error ? error : 1;
}
