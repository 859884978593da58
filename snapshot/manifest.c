/* The manifest of an image, from and to JSON. */
#include "snapshot/manifest.h"

#include <errno.h>
#include <string.h>

#include "common/json.h"

#define FORMAT_NAME "ferry machine"

/* Steals value, also on failure. */
static int set(json_t *object, const char *key, json_t *value)
{
    return value && !json_object_set_new(object, key, value) ? 0 : -ENOMEM;
}

static json_t *encode_saved(const struct manifest *manifest)
{
    json_t *saved = json_object();

    if (saved && set(saved, "realtime_ns", json_integer((json_int_t)manifest->realtime_ns))) {
        json_decref(saved);
        return NULL;
    }
    return saved;
}

static json_t *encode_disks(const struct manifest *manifest)
{
    json_t *disks = json_array();

    for (uint32_t i = 0; disks && i < manifest->machine.disk_count; i++) {
        json_t *disk = json_pack("{s:s, s:b}", "device", manifest->machine.disks[i].device,
                                 "in_image", (int)manifest->disk_in_image[i]);
        if (!disk || json_array_append_new(disks, disk)) {
            json_decref(disks);
            return NULL;
        }
    }
    return disks;
}

char *manifest_encode(const struct manifest *manifest)
{
    json_t *json = json_object();
    char *text = NULL;

    if (json && !set(json, "format", json_string(FORMAT_NAME)) &&
        !set(json, "version", json_integer(MANIFEST_VERSION)) &&
        !set(json, "machine", machine_config_to_json(&manifest->machine)) &&
        !(manifest->stopped ? set(json, "stopped", json_true())
                            : set(json, "saved", encode_saved(manifest))) &&
        !set(json, "disks", encode_disks(manifest)) &&
        !(manifest->traits.known
              ? set(json, "guest",
                    machine_traits_to_json(&manifest->traits, manifest->machine.disk_count))
              : 0))
        text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

int manifest_parse(const char *text, size_t size, const char *about, json_t **out,
                   struct ferry_error *err)
{
    return json_parse_object(text, size, LIMIT_MANIFEST_BYTES, about, "the manifest", out, err);
}

static int check_format(const json_t *json, const char *about, struct ferry_error *err)
{
    const char *format = json_string_value(json_object_get(json, "format"));
    const json_t *version = json_object_get(json, "version");

    if (!format || strcmp(format, FORMAT_NAME))
        return ferry_refuse(err, -EBADMSG, about, "does not hold a machine");
    if (!json_is_integer(version) || json_integer_value(version) < 1)
        return ferry_refuse(err, -EBADMSG, about, "the manifest has no valid \"version\"");
    if (json_integer_value(version) > MANIFEST_VERSION)
        return ferry_refuse(err, -ENOTSUP, about,
                            "manifest version %lld is newer than this ferry (reads up to %d)",
                            (long long)json_integer_value(version), MANIFEST_VERSION);
    return 0;
}

static int decode_disks(const json_t *disks, const char *about, struct manifest *manifest,
                        struct ferry_error *err)
{
    if (!json_is_array(disks) || json_array_size(disks) != manifest->machine.disk_count)
        return ferry_refuse(err, -EBADMSG, about,
                            "\"disks\" of the manifest do not match its machine");
    for (uint32_t i = 0; i < manifest->machine.disk_count; i++) {
        const json_t *disk = json_array_get(disks, i);
        const char *device = json_string_value(json_object_get(disk, "device"));
        const json_t *in_image = json_object_get(disk, "in_image");
        if (!device || strcmp(device, manifest->machine.disks[i].device) ||
            !json_is_boolean(in_image))
            return ferry_refuse(err, -EBADMSG, about,
                                "\"disks\" of the manifest do not match its machine");
        manifest->disk_in_image[i] = json_is_true(in_image);
    }
    return 0;
}

int manifest_decode(const json_t *json, const char *about, struct manifest *manifest,
                    struct ferry_error *err)
{
    const json_t *realtime = json_object_get(json_object_get(json, "saved"), "realtime_ns");

    *manifest = (struct manifest){0};
    int error = check_format(json, about, err);
    if (!error)
        error = machine_config_from_json(json_object_get(json, "machine"), &manifest->machine, err);
    if (!error)
        error =
            machine_traits_from_json(json_object_get(json, "guest"), about, &manifest->traits, err);
    if (error)
        return error;
    manifest->stopped = json_is_true(json_object_get(json, "stopped"));
    if (!manifest->stopped && !manifest->machine.cpuid_count)
        return ferry_refuse(err, -EBADMSG, about, "the manifest does not say what CPU it has");
    if (manifest->stopped)
        return decode_disks(json_object_get(json, "disks"), about, manifest, err);
    if (!json_is_integer(realtime) || json_integer_value(realtime) < 0)
        return ferry_refuse(err, -EBADMSG, about,
                            "the manifest does not say when it was saved (\"realtime_ns\")");
    manifest->realtime_ns = (uint64_t)json_integer_value(realtime);
    return decode_disks(json_object_get(json, "disks"), about, manifest, err);
}
