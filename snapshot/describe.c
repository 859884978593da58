/* Between struct guest and the manifest.  What has no place in either is told in notes. */
#include "snapshot/describe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "imagefmt/foreign/copy.h"

/* ---- From ferry ---- */

void describe_guest(const struct manifest *manifest, bool has_kernel, struct guest *guest)
{
    const struct machine_config *machine = &manifest->machine;
    const struct machine_traits *traits = &manifest->traits;

    *guest = (struct guest){
        .cpus = machine->cpus,
        .memory_bytes = machine->memory_bytes,
        .firmware = has_kernel                                   ? GUEST_FIRMWARE_NONE
                    : traits->firmware == GUEST_FIRMWARE_UNKNOWN ? GUEST_FIRMWARE_BIOS
                                                                 : traits->firmware,
        .serial_console = !traits->known || traits->serial_console,
        .disk_count = machine->disk_count,
        .nic_count = traits->nic_count,
    };
    guest_set_name(guest, machine->name);
    snprintf(guest->os, sizeof(guest->os), "%s", traits->os);
    snprintf(guest->cpu_model, sizeof(guest->cpu_model), "%s", machine->cpu_model);
    snprintf(guest->append, sizeof(guest->append), "%s", machine->append);
    memcpy(guest->uuid, traits->uuid, sizeof(guest->uuid));
    memcpy(guest->nics, traits->nics, sizeof(guest->nics));
    for (uint32_t i = 0; i < machine->disk_count; i++) {
        struct guest_disk *disk = &guest->disks[i];
        disk->size_bytes = machine->disks[i].size_bytes;
        disk->readonly = machine->disks[i].readonly;
        disk->bus = traits->buses[i];
        snprintf(disk->serial, sizeof(disk->serial), "%s", machine->disks[i].serial);
    }
}

/* ---- To ferry ---- */

/* A manifest is UTF-8 without control characters: what is not becomes spaces, and that is told. */
static void copy_text(const char *from, char *to, size_t size, const char *what, json_t *notes)
{
    bool changed = false;

    snprintf(to, size, "%s", from);
    json_t *proper = json_string(to); /* NULL: not UTF-8 */
    for (char *c = to; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f || (!proper && (unsigned char)*c >= 0x80)) {
            *c = ' ';
            changed = true;
        }
    json_decref(proper);
    if (changed)
        json_array_append_new(
            notes, json_sprintf("characters in %s that are no text become spaces", what));
}

static void describe_disks(const struct guest *guest, struct manifest *manifest, json_t *notes)
{
    for (uint32_t i = 0; i < guest->disk_count; i++) {
        const struct guest_disk *from = &guest->disks[i];
        struct disk_config *disk = &manifest->machine.disks[i];
        snprintf(disk->device, sizeof(disk->device), "vd%c", (int)('a' + i));
        copy_text(from->serial, disk->serial, sizeof(disk->serial), "a disk's serial number",
                  notes);
        disk->size_bytes = disk_whole_sectors(from->size_bytes);
        disk->readonly = from->readonly;
        manifest->disk_in_image[i] = true;
        manifest->traits.buses[i] = from->bus;
        if (disk->size_bytes != from->size_bytes)
            json_array_append_new(notes,
                                  json_sprintf("disk %s is filled up with zeroes to %llu "
                                               "bytes, which is whole sectors",
                                               disk->device, (unsigned long long)disk->size_bytes));
        if (from->bus != GUEST_BUS_VIRTIO)
            json_array_append_new(notes, json_sprintf("disk %s was on %s: here the guest finds it "
                                                      "on virtio, for which it needs a driver",
                                                      disk->device, guest_bus_name(from->bus)));
    }
}

static void describe_traits(const struct guest *guest, struct manifest *manifest, json_t *notes)
{
    struct machine_traits *traits = &manifest->traits;

    traits->known = true;
    traits->firmware = guest->firmware;
    traits->serial_console = guest->serial_console;
    traits->nic_count = guest->nic_count;
    copy_text(guest->os, traits->os, sizeof(traits->os), "the name of the guest's system", notes);
    memcpy(traits->uuid, guest->uuid, sizeof(traits->uuid));
    memcpy(traits->nics, guest->nics, sizeof(traits->nics));
    for (uint32_t i = 0; i < guest->nic_count; i++) {
        struct guest_nic *nic = &traits->nics[i];
        copy_text(guest->nics[i].network, nic->network, sizeof(nic->network), "a network's name",
                  notes);
        copy_text(guest->nics[i].model, nic->model, sizeof(nic->model), "a network card's model",
                  notes);
    }
}

/* A model of CPU that is a name of ferry's; others have names of their own. */
static void describe_cpu_model(const struct guest *guest, struct machine_config *machine,
                               json_t *notes)
{
    static const char *const models[] = {"host", "x86-64-v2", "x86-64-v3", "x86-64-v4"};
    bool known = false;

    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++)
        known = known || !strcmp(guest->cpu_model, models[i]);
    if (!known && guest->cpu_model[0])
        json_array_append_new(notes,
                              json_sprintf("the CPU model '%s' becomes 'host'", guest->cpu_model));
    snprintf(machine->cpu_model, sizeof(machine->cpu_model), "%s",
             known ? guest->cpu_model : "host");
}

static void note_what_is_not_run(const struct guest *guest, bool has_kernel, json_t *notes)
{
    if (!has_kernel)
        json_array_append_new(notes, json_string("it boots by a firmware, which ferry has not: "
                                                 "'ferry run' needs --kernel"));
    if (guest->nic_count)
        json_array_append_new(notes, json_sprintf("%u network cards are kept in the image for "
                                                  "export; ferry does not show them to the guest",
                                                  guest->nic_count));
}

int describe_machine(const struct guest *guest, bool has_kernel, const char *about,
                     struct manifest *manifest, json_t *notes, struct ferry_error *err)
{
    struct machine_config *machine = &manifest->machine;

    int error = guest_check(guest, about, err);
    if (error)
        return error;
    *manifest = (struct manifest){.stopped = true};
    machine->epoch = 1;
    machine->cpus = guest->cpus;
    machine->memory_bytes = guest->memory_bytes;
    machine->disk_count = guest->disk_count;
    snprintf(machine->name, sizeof(machine->name), "%s", guest->name);
    copy_text(guest->append, machine->append, sizeof(machine->append), "the kernel's command line",
              notes);
    describe_cpu_model(guest, machine, notes);
    describe_traits(guest, manifest, notes);
    describe_disks(guest, manifest, notes);
    note_what_is_not_run(guest, has_kernel, notes);
    return 0;
}
