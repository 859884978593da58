/*
 * The two texts of a Vagrant box for libvirt.  metadata.json has the disks as a list, and beside it
 * what versions that know one disk only want: format and virtual_size, in GiB.
 */
#include "imagefmt/foreign/vagrant.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/describe.h"

/* ---- metadata.json ---- */

/* A JSON string of what may be no UTF-8. */
static json_t *string_of(const char *value, struct text *scratch)
{
    writer_reset(&scratch->out);
    text_utf8(scratch, value);
    writer_u8(&scratch->out, 0);
    return scratch->out.error ? NULL : json_string((const char *)scratch->out.data);
}

static uint64_t gib(uint64_t bytes)
{
    return bytes / GIB + (bytes % GIB != 0);
}

static json_t *metadata(const struct guest *guest, struct text *scratch)
{
    json_t *disks = json_array();
    json_t *root =
        json_pack("{s:s, s:s, s:I, s:o}", "provider", "libvirt", "format", "qcow2", "virtual_size",
                  (json_int_t)gib(guest->disks[0].size_bytes), "disks", disks);

    for (uint32_t i = 0; root && i < guest->disk_count; i++) {
        json_t *path = string_of(guest->disks[i].file, scratch);
        json_t *disk = path ? json_pack("{s:o, s:I}", "path", path, "virtual_size",
                                        (json_int_t)gib(guest->disks[i].size_bytes))
                            : NULL;
        if (json_array_append_new(disks, disk)) {
            json_decref(root);
            return NULL;
        }
    }
    return root;
}

static void note_metadata(const struct guest *guest, struct notes *notes)
{
    for (uint32_t i = 0; i < guest->disk_count; i++) {
        const struct guest_disk *disk = &guest->disks[i];
        if (*disk->format && strcmp(disk->format, "qcow2") != 0)
            notes_add(notes, "disk %u is in the format %s, and a box has qcow2", i + 1,
                      disk->format);
        if (!*disk->file)
            notes_add(notes, "disk %u has no file yet", i + 1);
        if (*disk->serial || disk->readonly)
            notes_add(notes, "disk %u has no serial number there, and is not read-only", i + 1);
    }
    if (guest->nic_count)
        notes_add(notes, "Vagrant gives its machines network cards of its own");
    if (memcmp(guest->uuid, (uint8_t[16]){0}, 16) != 0)
        notes_add(notes, "each machine made of a box has a UUID of its own");
    if (*guest->os)
        notes_add(notes, "there is no place for the guest operating system: %s", guest->os);
}

static int write_metadata(const struct guest *guest, json_t *notes, char **text, size_t *size,
                          struct ferry_error *err)
{
    CLEANUP(text_free) struct text scratch = text_init();
    CLEANUP(text_free) struct text t = text_init();
    struct notes list = {.list = notes};

    if (!guest->disk_count || !guest->disks[0].size_bytes)
        return ferry_fail(err, -EINVAL, NULL, "a Vagrant box has a disk whose size is known");
    json_t *root = metadata(guest, &scratch);
    CLEANUP_FREE char *json = root ? json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(root);
    if (!json)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    text_add(&t, json);
    text_add(&t, "\n");
    t.replaced = scratch.replaced;
    note_metadata(guest, &list);
    return text_done(&t, &list, text, size, err);
}

/* ---- Vagrantfile ---- */

/* A Ruby string: '"', '\', '#' and control characters with a backslash. */
static void add_ruby(struct text *t, const char *value)
{
    size_t left = strlen(value);

    text_add(t, "\"");
    while (left) {
        uint32_t code = 0;
        size_t length = utf8_next(value, left, &code);
        if (!length) {
            text_add(t, "\xef\xbf\xbd");
            t->replaced = true;
            length = 1;
        } else if (code == '"' || code == '\\' || code == '#') {
            text_printf(t, "\\%c", (char)code);
        } else if (code < 0x20 || code == 0x7f) {
            text_printf(t, "\\x%02X", (unsigned)code);
        } else {
            writer_copy(&t->out, value, length);
        }
        value += length;
        left -= length;
    }
    text_add(t, "\"");
}

static void set(struct text *t, const char *name, const char *value)
{
    text_printf(t, "    libvirt.%s = ", name);
    add_ruby(t, value);
    text_add(t, "\n");
}

static void set_file(struct text *t, const char *name, const char *file)
{
    if (!*file)
        return;
    text_printf(t, "    libvirt.%s = File.expand_path(", name);
    add_ruby(t, file);
    text_add(t, ", __dir__)\n");
}

static void compose_cpu(struct text *t, const struct guest *guest, struct notes *notes)
{
    if (!strcmp(guest->cpu_model, "host"))
        set(t, "cpu_mode", "host-passthrough");
    else if (*guest->cpu_model)
        notes_add(notes, "the CPU model (%s) is one that libvirt chooses", guest->cpu_model);
}

static void compose_firmware(struct text *t, const struct guest *guest, struct notes *notes)
{
    set_file(t, "kernel", guest->files[GUEST_KERNEL]);
    set_file(t, "initrd", guest->files[GUEST_INITRD]);
    if (*guest->append)
        set(t, "cmd_line", guest->append);
    if (guest->firmware == GUEST_FIRMWARE_EFI || guest->firmware == GUEST_FIRMWARE_EFI_SECURE)
        notes_add(notes, "the machine needs EFI: set libvirt.loader to the firmware of the host "
                         "in your Vagrantfile");
    if (*guest->files[GUEST_NVRAM])
        notes_add(notes, "variables of the firmware are not used: set libvirt.nvram to them");
}

int vagrant_write_file(const struct guest *guest, json_t *notes, char **text, size_t *size,
                       struct ferry_error *err)
{
    CLEANUP(text_free) struct text t = text_init();
    struct notes list = {.list = notes};
    enum guest_bus bus = guest->disk_count ? guest->disks[0].bus : GUEST_BUS_VIRTIO;

    text_add(&t, "# What the machine in this box wants; a project's own Vagrantfile comes after.\n"
                 "Vagrant.configure(\"2\") do |config|\n"
                 "  config.vm.provider :libvirt do |libvirt|\n"
                 "    libvirt.driver = \"kvm\"\n"
                 "    libvirt.machine_type = \"q35\"\n");
    text_printf(&t, "    libvirt.cpus = %" PRIu32 "\n    libvirt.memory = %" PRIu64 "\n",
                guest->cpus, (guest->memory_bytes + MIB - 1) / MIB);
    compose_cpu(&t, guest, &list);
    set(&t, "disk_bus",
        guest_bus_name(bus == GUEST_BUS_IDE    ? GUEST_BUS_SATA
                       : bus == GUEST_BUS_NVME ? GUEST_BUS_VIRTIO
                                               : bus));
    if (guest->nic_count && *guest->nics[0].model)
        set(&t, "nic_model_type", guest->nics[0].model);
    compose_firmware(&t, guest, &list);
    text_add(&t, "  end\nend\n");
    return text_done(&t, &list, text, size, err);
}

const struct description_format description_vagrant = {
    .name = "vagrant",
    .extension = ".json",
    .write = write_metadata,
};
