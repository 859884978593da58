#include "tests/support/guest_sample.h"

#include <errno.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"

extern char **environ;

void guest_sample_plain(struct guest *guest)
{
    memset(guest, 0, sizeof(*guest));
    snprintf(guest->name, sizeof(guest->name), "plain");
    guest->cpus = 1;
    guest->memory_bytes = 64 * MIB;
}

static void add_disk(struct guest *guest, enum guest_bus bus, const char *file, const char *format,
                     const char *serial, bool readonly)
{
    struct guest_disk *disk = &guest->disks[guest->disk_count++];

    disk->bus = bus;
    disk->size_bytes = guest->disk_count * GIB + 512;
    disk->readonly = readonly;
    snprintf(disk->file, sizeof(disk->file), "%s", file);
    snprintf(disk->format, sizeof(disk->format), "%s", format);
    snprintf(disk->serial, sizeof(disk->serial), "%s", serial);
}

static void add_nic(struct guest *guest, const char *mac, const char *network, const char *model)
{
    struct guest_nic *nic = &guest->nics[guest->nic_count++];

    nic->has_mac = guest_parse_mac(mac, nic->mac) == 0;
    snprintf(nic->network, sizeof(nic->network), "%s", network);
    snprintf(nic->model, sizeof(nic->model), "%s", model);
}

void guest_sample_rich(struct guest *guest)
{
    memset(guest, 0, sizeof(*guest));
    snprintf(guest->name, sizeof(guest->name), "web-1.example_x");
    snprintf(guest->os, sizeof(guest->os), "Debian <12> & \"more\" 'é' |");
    for (unsigned i = 0; i < 16; i++)
        guest->uuid[i] = (uint8_t)(0x10 * i + 3);
    guest->cpus = 3;
    guest->memory_bytes = 1500 * MIB + 4096;
    snprintf(guest->cpu_model, sizeof(guest->cpu_model), "x86-64-v2");
    guest->firmware = GUEST_FIRMWARE_NONE;
    guest->serial_console = true;
    snprintf(guest->append, sizeof(guest->append),
             " console=ttyS0 quoted=\"a b\" <&> |22 #{x}\n\tnext\\line ");
    snprintf(guest->files[GUEST_KERNEL], 256, "/vm/vm linuz & \"co\"");
    snprintf(guest->files[GUEST_INITRD], 256, "/vm/initrd%%20.img");
    add_disk(guest, GUEST_BUS_SCSI, "/vm/web 1.vmdk", "vmdk", "S&1\"<>|", false);
    add_disk(guest, GUEST_BUS_VIRTIO, "/vm/daten-\xc3\xa9.vmdk", "vmdk", "0123456789abcdefghij",
             true);
    add_disk(guest, GUEST_BUS_IDE, "/vm/c.qcow2", "qcow2", "", false);
    add_disk(guest, GUEST_BUS_NVME, "/vm/d.vmdk", "vmdk", "", false);
    add_disk(guest, GUEST_BUS_SATA, "/vm/e,e.vmdk", "vmdk", "", false);
    add_nic(guest, "52:54:00:ab:CD:0f", "a \"net\" & <more>", "virtio");
    add_nic(guest, "", "", "e1000");
    add_nic(guest, "00:50:56:01:02:03", "default", "vmxnet3");
    add_nic(guest, "02:00:00:00:00:01", "default", "");
}

/* ---- Comparing ---- */

static void same_text(const char *is, const char *should, const char *what)
{
    if (strcmp(is, should) != 0)
        fail_msg("%s: '%s', not '%s'", what, is, should);
}

static void same_disk(const struct guest_disk *is, const struct guest_disk *should)
{
    same_text(is->serial, should->serial, "serial");
    same_text(is->file, should->file, "disk file");
    same_text(is->format, should->format, "format");
    assert_int_equal(is->size_bytes, should->size_bytes);
    assert_int_equal(is->readonly, should->readonly);
    same_text(guest_bus_name(is->bus), guest_bus_name(should->bus), "bus");
}

void guest_sample_same(const struct guest *is, const struct guest *should)
{
    same_text(is->name, should->name, "name");
    same_text(is->os, should->os, "os");
    assert_memory_equal(is->uuid, should->uuid, sizeof(is->uuid));
    assert_int_equal(is->cpus, should->cpus);
    assert_int_equal(is->memory_bytes, should->memory_bytes);
    same_text(is->cpu_model, should->cpu_model, "cpu_model");
    same_text(guest_firmware_name(is->firmware), guest_firmware_name(should->firmware), "firmware");
    assert_int_equal(is->serial_console, should->serial_console);
    same_text(is->append, should->append, "append");
    for (int i = 0; i < GUEST_FILE_KINDS; i++)
        same_text(is->files[i], should->files[i], "file");
    assert_int_equal(is->disk_count, should->disk_count);
    for (uint32_t i = 0; i < is->disk_count; i++)
        same_disk(&is->disks[i], &should->disks[i]);
    assert_int_equal(is->nic_count, should->nic_count);
    for (uint32_t i = 0; i < is->nic_count; i++) {
        same_text(is->nics[i].network, should->nics[i].network, "network");
        same_text(is->nics[i].model, should->nics[i].model, "model");
        assert_int_equal(is->nics[i].has_mac, should->nics[i].has_mac);
        assert_memory_equal(is->nics[i].mac, should->nics[i].mac, 6);
    }
}

/* ---- Writing and reading ---- */

static void check(int error, const struct ferry_error *err)
{
    char text[512];

    if (error)
        fail_msg("%s", ferry_error_text(err, text, sizeof(text)));
}

char *guest_sample_round_trip(const struct description_format *format, const struct guest *guest,
                              json_t *notes)
{
    struct ferry_error err = {0};
    CLEANUP_FREE struct guest *again = malloc(sizeof(*again));
    CLEANUP_FREE char *second = NULL;
    char *text = NULL;
    size_t size, second_size;

    check(format->write(guest, notes, &text, &size, &err), &err);
    assert_int_equal(size, strlen(text));
    assert_true(format->probe(text, size));
    guest_sample_read(format, text, again, NULL);
    guest_sample_same(again, guest);
    check(format->write(again, NULL, &second, &second_size, &err), &err);
    assert_string_equal(text, second);
    return text;
}

void guest_sample_read(const struct description_format *format, const char *text,
                       struct guest *guest, json_t *notes)
{
    struct ferry_error err = {0};

    check(format->read(text, strlen(text), "sample", guest, notes, &err), &err);
}

void guest_sample_refuse(const struct description_format *format, const char *text,
                         const char *says)
{
    CLEANUP_FREE struct guest *guest = malloc(sizeof(*guest));
    struct ferry_error err = {0};
    char message[768];

    int error = format->read(text, strlen(text), "sample", guest, NULL, &err);
    ferry_error_text(&err, message, sizeof(message));
    if (error >= 0 || err.kind != FERRY_REFUSED || !strstr(message, says))
        fail_msg("%d, kind %d: '%s' does not say '%s'", error, err.kind, message, says);
}

char *guest_sample_replace(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char *out = NULL;

    if (!at)
        fail_msg("there is no '%s'", from);
    if (asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) < 0)
        fail_msg("out of memory");
    return out;
}

void guest_sample_refuse_change(const struct description_format *format, const char *text,
                                const char *from, const char *to, const char *says)
{
    CLEANUP_FREE char *changed = guest_sample_replace(text, from, to);

    guest_sample_refuse(format, changed, says);
}

bool guest_sample_noted(const json_t *notes, const char *words)
{
    for (size_t i = 0; i < json_array_size(notes); i++)
        if (strstr(json_string_value(json_array_get(notes, i)), words))
            return true;
    return false;
}

char *guest_sample_repeat(const char *text, const char *piece, unsigned count)
{
    const char *at = strchr(text, '@');
    char *out = NULL;
    size_t size;

    FILE *stream = open_memstream(&out, &size);
    assert_non_null(stream);
    fprintf(stream, "%.*s", (int)(at - text), text);
    for (unsigned i = 0; i < count; i++) {
        const char *rest = piece;
        for (const char *mark; (mark = strstr(rest, "%u")); rest = mark + 2)
            fprintf(stream, "%.*s%u", (int)(mark - rest), rest, i);
        fputs(rest, stream);
    }
    fputs(at + 1, stream);
    fclose(stream);
    return out;
}

void guest_sample_sweep(const struct description_format *format, const char *text)
{
    static const char bytes[] = "<\"&\xff=|9\n";
    CLEANUP_FREE struct guest *guest = malloc(sizeof(*guest));
    CLEANUP_FREE char *copy = strdup(text);
    size_t size = strlen(text);

    for (size_t at = 0; at < size; at += 3)
        format->read(text, at, "sample", guest, NULL, NULL);
    for (size_t at = 0; at < size; at++) {
        copy[at] = bytes[at % (sizeof(bytes) - 1)];
        json_t *notes = json_array();
        struct ferry_error err;
        if (!format->read(copy, size, "sample", guest, notes, &err))
            assert_int_equal(guest_check(guest, "sample", NULL), 0);
        json_decref(notes);
        copy[at] = text[at];
    }
}

/* Written, read and written: the second text is the first. */
static void fuzz_again(const struct description_format *format, struct guest *guest)
{
    CLEANUP_FREE char *first = NULL, *second = NULL;
    size_t size, second_size;

    for (uint32_t i = 0; i < guest->disk_count; i++)
        if (!guest->disks[i].size_bytes)
            guest->disks[i].size_bytes = MIB; /* as is known when a disk is open */
    for (const struct description_format *const *f = description_formats; *f; f++) {
        CLEANUP_FREE char *text = NULL;
        struct ferry_error err = {0};
        int error = (*f)->write(guest, NULL, &text, &size, &err);
        if (error && (*f != &description_vagrant || guest->disk_count))
            abort();
        if (!error && *f == format)
            first = take_ptr(&text);
    }
    struct ferry_error err;
    if (!first || format->read(first, strlen(first), "again", guest, NULL, &err))
        abort();
    for (uint32_t i = 0; i < guest->disk_count; i++)
        if (!guest->disks[i].size_bytes)
            abort();
    if (format->write(guest, NULL, &second, &second_size, NULL) || strcmp(first, second) != 0)
        abort();
}

int guest_sample_fuzz(const struct description_format *format, const uint8_t *data, size_t size)
{
    CLEANUP_FREE struct guest *guest = malloc(sizeof(*guest));
    json_t *notes = json_array();
    struct ferry_error err = {0};

    format->probe((const char *)data, size);
    int error = format->read((const char *)data, size, "fuzz", guest, notes, &err);
    if (error && err.code != error)
        abort();
    if (!error && (guest_check(guest, "fuzz", NULL) || json_array_size(notes) > LIMIT_NOTES + 1))
        abort();
    if (!error)
        fuzz_again(format, guest);
    json_decref(notes);
    return 0;
}

/* ---- Witnesses ---- */

int guest_sample_witness(const char *text, const char *const *arguments)
{
    char path[] = "/tmp/ferry-description.XXXXXX";
    char *argv[16] = {NULL};
    int count = 0, status;
    pid_t pid;

    for (; count < 14 && arguments[count]; count++)
        memcpy(&argv[count], &arguments[count], sizeof(argv[count])); /* they stay as they are */
    argv[count] = path;
    CLEANUP_FD int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write_all(fd, text, strlen(text)), 0);
    int error = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
    if (!error && waitpid(pid, &status, 0) != pid)
        error = errno;
    unlink(path);
    if (error)
        print_message("%s is not there: one check less\n", argv[0]);
    return error ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
