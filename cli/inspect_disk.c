/*
 * ferry inspect, of a disk in a foreign format: its size, and what its format has to say beyond
 * that, key by key; the internal snapshots of a qcow2 one by one.
 */
#include "cli/inspect_disk.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/disk_file.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/units.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/source.h"

bool inspect_is_disk(int fd)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    const struct disk_format *format = NULL;

    off_t at = lseek(fd, 0, SEEK_CUR); /* an image is read from there on */
    bool found = at >= 0 && !source_of_fd(fd, "", &source, NULL) &&
                 !disk_format_probe(source, &format, NULL) && format;
    if (at >= 0)
        lseek(fd, at, SEEK_SET);
    return found;
}

static void print_snapshot(const json_t *snapshot)
{
    time_t created = (time_t)json_integer_value(json_object_get(snapshot, "created_s"));
    uint64_t memory = (uint64_t)json_integer_value(json_object_get(snapshot, "vm_state_bytes"));
    char when[32] = "", size[32];
    struct tm tm;

    if (gmtime_r(&created, &tm))
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
    output_text("  %-4s '%s', %s, %s of memory", json_string_value(json_object_get(snapshot, "id")),
                json_string_value(json_object_get(snapshot, "name")), when,
                memory ? format_size(memory, size, sizeof(size)) : "nothing");
}

static void print_value(const char *key, const json_t *value)
{
    if (json_is_string(value))
        output_text("%s: %s", key, json_string_value(value));
    else if (json_is_integer(value))
        output_text("%s: %lld", key, (long long)json_integer_value(value));
    else if (json_is_boolean(value))
        output_text("%s: %s", key, json_is_true(value) ? "yes" : "no");
    else if (json_array_size(value))
        output_text("%s:", key);
    for (size_t i = 0; i < json_array_size(value); i++)
        print_snapshot(json_array_get(value, i));
}

static void print(const struct disk *disk, const char *about, json_t *details)
{
    char size[32];

    output_text("%s: %s, disk of %s (%llu bytes)", about, disk->format->name,
                format_size(disk->size_bytes, size, sizeof(size)),
                (unsigned long long)disk->size_bytes);
    for (void *at = json_object_iter(details); at; at = json_object_iter_next(details, at))
        print_value(json_object_iter_key(at), json_object_iter_value(at));
}

int inspect_disk(int fd, const char *about, bool as_json, struct ferry_error *err)
{
    CLEANUP(disk_file_close) struct disk_file file = DISK_FILE_NONE;
    const struct disk_file_options options = {0};

    int error = disk_file_open_fd(fd, about, &options, &file, err);
    if (error)
        return error;
    const struct disk_format *format = file.disk->format;
    json_t *details = format->describe ? format->describe(file.disk) : json_object();
    if (as_json)
        return output_json(json_pack("{s:s, s:s, s:I, s:o}", "file", about, "format", format->name,
                                     "bytes", (json_int_t)file.disk->size_bytes, "details",
                                     details),
                           err);
    print(file.disk, about, details);
    json_decref(details);
    return 0;
}
