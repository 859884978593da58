/*
 * VMware's .vmx, read: first all lines as keys and values, keys in any case, the last of equal ones
 * counts; then what is asked for.  Devices are found by their keys: "scsi0:1.fileName".
 */
#include "imagefmt/foreign/vmx.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "common/hash.h"
#include "imagefmt/foreign/describe.h"

#define CONTROLLERS 4  /* of a kind */
#define UNITS       64 /* on one of them; NVMe has as many */

struct line {
    const char *key;
    const char *value;
};

struct vmx {
    const char *about;
    char *text; /* a copy, cut into keys and values */
    struct line *lines;
    size_t count;
    struct guest *guest;
    struct notes notes;
    uint64_t disks; /* all that were found */
};

static void free_vmx(struct vmx *v)
{
    free(v->text);
    free(v->lines);
}

/* ---- Lines ---- */

/* Workstation on Windows writes in the encoding of that machine.  NULL: out of memory. */
static char *of_latin1(const char *text, size_t size)
{
    char *utf8 = malloc(2 * size + 1), *out = utf8;

    for (size_t i = 0; utf8 && i < size; i++) {
        uint8_t byte = (uint8_t)text[i];
        if (byte >= 0x80)
            *out++ = (char)(0xc0 | byte >> 6);
        *out++ = (char)(byte < 0x80 ? byte : 0x80 | (byte & 0x3f));
    }
    if (utf8)
        *out = 0;
    return utf8;
}

/* |22 and the like in place; zero bytes and what is no such thing stay as they are. */
static void decode(char *value)
{
    char *out = value;

    for (; *value; value++) {
        const char pair[] = {value[0] == '|' ? value[1] : 0,
                             value[0] == '|' && value[1] ? value[2] : 0, 0};
        uint8_t byte = 0;
        if (!hex_decode(pair, &byte, 1) && byte)
            value += 2;
        else
            byte = (uint8_t)*value;
        *out++ = (char)byte;
    }
    *out = 0;
}

/* key = "value", the quotes may be missing; false: neither that, nor empty, nor a comment. */
static bool parse_line(char *text, struct line *line)
{
    text += strspn(text, " \t");
    *line = (struct line){0};
    if (!*text || *text == '#')
        return true;
    char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return false;
    char *end = equals;
    while (end > text && isspace((unsigned char)end[-1]))
        end--;
    char *value = equals + 1 + strspn(equals + 1, " \t");
    *end = 0;
    if (*value == '"') {
        value++;
        char *close = strchr(value, '"');
        if (!close)
            return false;
        *close = 0;
    } else {
        size_t length = strlen(value);
        while (length && isspace((unsigned char)value[length - 1]))
            value[--length] = 0;
    }
    decode(value);
    *line = (struct line){.key = text, .value = value};
    return *text;
}

static int parse_lines(struct vmx *v, struct ferry_error *err)
{
    char *rest = NULL, cut[SHOWN_BYTES];
    struct line line;

    for (char *text = strtok_r(v->text, "\r\n", &rest); text;
         text = strtok_r(NULL, "\r\n", &rest)) {
        if (!parse_line(text, &line))
            return ferry_refuse(err, -EBADMSG, v->about, "is not a .vmx: it has the line '%s'",
                                shown(text, cut));
        if (!line.key)
            continue;
        if (v->count == LIMIT_DESCRIPTION_KEYS)
            return ferry_refuse(err, -EBADMSG, v->about,
                                "has more than %d lines, which no .vmx has",
                                LIMIT_DESCRIPTION_KEYS);
        v->lines[v->count++] = line;
    }
    return 0;
}

/* NULL: there is none. */
static const char *find(const struct vmx *v, const char *key)
{
    for (size_t i = v->count; i--;)
        if (!strcasecmp(v->lines[i].key, key))
            return v->lines[i].value;
    return NULL;
}

/* "" if there is none. */
static const char *get(const struct vmx *v, const char *key)
{
    const char *value = find(v, key);

    return value ? value : "";
}

static const char *get_sub(const struct vmx *v, const char *device, const char *name)
{
    char key[96];

    snprintf(key, sizeof(key), "%s.%s", device, name);
    return get(v, key);
}

static const char *get_own(const struct vmx *v, const char *device, const char *name)
{
    char key[96];

    snprintf(key, sizeof(key), "ferry.%s.%s", device, name);
    return get(v, key);
}

/* ---- The machine ---- */

static int parse_machine(struct vmx *v, struct ferry_error *err)
{
    struct guest *guest = v->guest;
    const char *cpus = get(v, "numvcpus"), *name = get(v, "displayName");
    char cut[SHOWN_BYTES];
    uint64_t value = 1, own;

    if (*get(v, "encryption.keySafe") || *get(v, "encryption.data"))
        return ferry_refuse(err, -EOPNOTSUPP, v->about, "is encrypted");
    if (*cpus && describe_number(cpus, &value))
        return ferry_refuse(err, -EBADMSG, v->about, "has a number of CPUs that is none: '%s'",
                            shown(cpus, cut));
    guest->cpus = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    if (describe_number(get(v, "memsize"), &value))
        return ferry_refuse(err, -EBADMSG, v->about,
                            "does not say how much memory the machine has: '%s'",
                            shown(get(v, "memsize"), cut));
    guest->memory_bytes = describe_multiply(value, MIB);
    if (!describe_number(get(v, "ferry.memoryBytes"), &own) && own <= LIMIT_MEMORY_BYTES &&
        (own + MIB - 1) / MIB == value)
        guest->memory_bytes = own;
    guest_set_name(guest, name);
    if (strcmp(guest->name, name) != 0)
        notes_add(&v->notes, "the machine is called '%.60s', and '%s' here", name, guest->name);
    const char *os = find(v, "ferry.os");
    describe_cut(os ? os : get(v, "guestOS"), guest->os, sizeof(guest->os),
                 "the name of the guest operating system", &v->notes);
    describe_parse_uuid(get(v, "uuid.bios"), guest->uuid);
    return describe_copy(get(v, "ferry.cpuModel"), guest->cpu_model, sizeof(guest->cpu_model),
                         "a CPU model", v->about, err);
}

static int parse_firmware(struct vmx *v, struct ferry_error *err)
{
    static const char *const keys[GUEST_FILE_KINDS] = {"ferry.kernel", "ferry.initrd", "nvram"};
    struct guest *guest = v->guest;
    int error = 0;

    if (!strcasecmp(get(v, "firmware"), "efi"))
        guest->firmware = describe_yes(get(v, "uefi.secureBoot.enabled"))
                              ? GUEST_FIRMWARE_EFI_SECURE
                              : GUEST_FIRMWARE_EFI;
    else if (!strcasecmp(get(v, "firmware"), "bios"))
        guest->firmware = GUEST_FIRMWARE_BIOS;
    else if (!strcmp(get(v, "ferry.firmware"), "none"))
        guest->firmware = GUEST_FIRMWARE_NONE;
    else if (!*get(v, "ferry.firmware"))
        guest->firmware = GUEST_FIRMWARE_BIOS; /* VMware's own when it says nothing */
    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++)
        error = describe_copy(get(v, keys[kind]), guest->files[kind], sizeof(guest->files[kind]),
                              "the name of a file", v->about, err);
    return error ? error
                 : describe_copy(get(v, "ferry.append"), guest->append, sizeof(guest->append),
                                 "a kernel command line", v->about, err);
}

/* ---- Disks ---- */

/* 1: a disk, 0: no disk that is there. */
static int check_disk(struct vmx *v, const char *device, struct ferry_error *err)
{
    static const char *const disks[] = {"", "disk", "scsi-hardDisk", "ata-hardDisk"};
    const char *type = get_sub(v, device, "deviceType");

    if (!describe_yes(get_sub(v, device, "present")))
        return 0;
    for (size_t i = 0; i < sizeof(disks) / sizeof(*disks); i++)
        if (!strcasecmp(type, disks[i]))
            return 1;
    if (strcasestr(type, "rawDisk"))
        return ferry_refuse(err, -EOPNOTSUPP, v->about,
                            "has a disk (%s) that is one of the host's: copy it to a file first",
                            device);
    notes_add(&v->notes, "the device %s (%.40s) is not kept", device, type);
    return 0;
}

static int take_disk(struct vmx *v, enum guest_bus bus, const char *device, struct ferry_error *err)
{
    if (v->disks++ >= LIMIT_DISKS)
        return 0;
    struct guest_disk *disk = &v->guest->disks[v->guest->disk_count++];
    const char *file = get_sub(v, device, "fileName"), *mode = get_sub(v, device, "mode");
    const char *own_bus = get_own(v, device, "bus"), *format = get_own(v, device, "format");
    const char *dot = strrchr(file, '.');
    uint64_t size;

    disk->bus = bus == GUEST_BUS_SATA && *own_bus ? guest_bus_by_name(own_bus) : bus;
    disk->readonly = describe_yes(get_own(v, device, "readonly"));
    if (!describe_number(get_own(v, device, "sizeBytes"), &size))
        disk->size_bytes = size;
    snprintf(disk->format, sizeof(disk->format), "%.15s",
             *format                            ? format
             : dot && !strcasecmp(dot, ".vmdk") ? "vmdk"
                                                : "");
    if (!*file)
        notes_add(&v->notes, "the disk %s has no file", device);
    if (strcasestr(mode, "nonpersistent"))
        notes_add(&v->notes, "the disk %s forgets what is written to it; here it does not", device);
    int error = describe_copy(get_own(v, device, "serial"), disk->serial, sizeof(disk->serial),
                              "the serial number of a disk", v->about, err);
    return error ? error
                 : describe_copy(file, disk->file, sizeof(disk->file), "the name of a disk",
                                 v->about, err);
}

/* "scsi0:1.fileName" and no other key of it: which disk; false: none. */
static bool disk_of_key(const char *key, enum guest_bus *bus, unsigned *controller, unsigned *unit)
{
    static const enum guest_bus buses[] = {GUEST_BUS_SCSI, GUEST_BUS_NVME, GUEST_BUS_SATA,
                                           GUEST_BUS_IDE};

    for (size_t i = 0; i < sizeof(buses) / sizeof(*buses); i++) {
        size_t length = strlen(guest_bus_name(buses[i]));
        char *end;
        if (strncasecmp(key, guest_bus_name(buses[i]), length) != 0)
            continue;
        key += length;
        *bus = buses[i];
        if (!isdigit((unsigned char)key[0]) || key[1] != ':' || !isdigit((unsigned char)key[2]))
            return false;
        *controller = (unsigned)(key[0] - '0');
        unsigned long number = strtoul(key + 2, &end, 10);
        *unit = (unsigned)number;
        return *controller < CONTROLLERS && number < UNITS && !strcasecmp(end, ".fileName");
    }
    return false;
}

struct found {
    bool there[GUEST_BUS_NVME + 1][CONTROLLERS][UNITS];
};

static int take_found(struct vmx *v, struct found *found, enum guest_bus bus, unsigned controller,
                      unsigned unit, struct ferry_error *err)
{
    char device[32];

    if (!found->there[bus][controller][unit])
        return 0;
    found->there[bus][controller][unit] = false; /* once */
    snprintf(device, sizeof(device), "%s%u:%u", guest_bus_name(bus), controller, unit);
    int is_disk = check_disk(v, device, err);
    return is_disk > 0 ? take_disk(v, bus, device, err) : is_disk;
}

/* What the order of booting names first. */
static int parse_boot_order(struct vmx *v, struct found *found, struct ferry_error *err)
{
    CLEANUP_FREE char *order = strdup(get(v, "bios.hddOrder"));
    char key[64], *rest = NULL;
    enum guest_bus bus;
    unsigned controller, unit;
    int error = 0;

    if (!order)
        return ferry_fail(err, -ENOMEM, v->about, "out of memory");
    for (char *one = strtok_r(order, ", ", &rest); one && !error;
         one = strtok_r(NULL, ", ", &rest)) {
        snprintf(key, sizeof(key), "%s.fileName", one);
        if (disk_of_key(key, &bus, &controller, &unit))
            error = take_found(v, found, bus, controller, unit, err);
    }
    return error;
}

static int parse_disks(struct vmx *v, struct ferry_error *err)
{
    static const enum guest_bus order[] = {GUEST_BUS_SCSI, GUEST_BUS_NVME, GUEST_BUS_SATA,
                                           GUEST_BUS_IDE};
    struct found found = {0};
    enum guest_bus bus;
    unsigned controller, unit;

    for (size_t i = 0; i < v->count; i++)
        if (disk_of_key(v->lines[i].key, &bus, &controller, &unit))
            found.there[bus][controller][unit] = true;
    int error = parse_boot_order(v, &found, err);
    for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++)
        for (controller = 0; controller < CONTROLLERS; controller++)
            for (unit = 0; unit < UNITS && !error; unit++)
                error = take_found(v, &found, order[i], controller, unit, err);
    if (!error && v->disks > LIMIT_DISKS)
        return ferry_refuse(err, -EBADMSG, v->about,
                            "has %" PRIu64 " disks; at most %d are possible", v->disks,
                            LIMIT_DISKS);
    return error;
}

/* ---- Other devices ---- */

static void parse_nic(struct vmx *v, const char *device)
{
    if (v->guest->nic_count++ >= LIMIT_NICS)
        return; /* guest_check tells how many there are */
    struct guest_nic *nic = &v->guest->nics[v->guest->nic_count - 1];
    const char *address = get_sub(v, device, "address");
    const char *network = get_sub(v, device, "networkName");
    char key[64];

    if (!strcasecmp(get_sub(v, device, "addressType"), "generated") || !*address)
        address = get_sub(v, device, "generatedAddress");
    describe_mac(address, nic, &v->notes);
    if (!*network)
        network = get_sub(v, device, "connectionType"); /* Workstation: "nat", "bridged" ... */
    describe_cut(network, nic->network, sizeof(nic->network), "the name of a network", &v->notes);
    snprintf(key, sizeof(key), "ferry.%s.model", device);
    const char *own = find(v, key), *card = get_sub(v, device, "virtualDev");
    describe_cut(own ? own : card, nic->model, sizeof(nic->model), "the model of a network card",
                 &v->notes);
    for (char *c = nic->model; *c && !own; c++)
        *c = (char)tolower((unsigned char)*c);
}

static void parse_nics(struct vmx *v)
{
    char device[32];

    for (unsigned i = 0; i < UNITS; i++) {
        snprintf(device, sizeof(device), "ethernet%u", i);
        if (describe_yes(get_sub(v, device, "present")))
            parse_nic(v, device);
    }
}

static void parse_others(struct vmx *v)
{
    char device[32];

    for (unsigned i = 0; i < CONTROLLERS; i++) {
        snprintf(device, sizeof(device), "serial%u", i);
        if (describe_yes(get_sub(v, device, "present")) &&
            strcasecmp(get_sub(v, device, "fileType"), "thinprint") != 0)
            v->guest->serial_console = true;
        snprintf(device, sizeof(device), "pciPassthru%u", i);
        if (describe_yes(get_sub(v, device, "present")))
            notes_add(&v->notes, "a device of the host (%s) is not kept", device);
    }
    for (size_t i = 0; i < v->count; i++)
        if (!strncasecmp(v->lines[i].key, "guestinfo.", 10)) {
            notes_add(&v->notes, "what the guest is told (%.40s ...) is not kept", v->lines[i].key);
            break;
        }
    if (describe_yes(get(v, "vtpm.present")))
        notes_add(&v->notes, "the TPM of the machine is not kept");
    if (!strcasecmp(get(v, "floppy0.fileType"), "file") && *get(v, "floppy0.fileName"))
        notes_add(&v->notes, "the floppy in the machine is not kept");
}

/* ---- The whole ---- */

int vmx_read(const char *text, size_t size, const char *about, struct guest *guest, json_t *notes,
             struct ferry_error *err)
{
    CLEANUP(free_vmx) struct vmx v = {.about = about, .guest = guest, .notes = {.list = notes}};

    memset(guest, 0, sizeof(*guest));
    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) {
        text += 3;
        size -= 3;
    }
    bool western =
        size <= LIMIT_DESCRIPTION_BYTES && !memchr(text, 0, size) && !utf8_valid(text, size);
    int error = western ? 0 : describe_check_text(text, size, about, err);
    if (error)
        return error;
    if (western)
        notes_add(&v.notes, "its encoding is not UTF-8, and is taken as Western European");
    v.text = western ? of_latin1(text, size) : strndup(text, size);
    v.lines = calloc(LIMIT_DESCRIPTION_KEYS, sizeof(*v.lines));
    if (!v.text || !v.lines)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    error = parse_lines(&v, err);
    if (!error)
        error = parse_machine(&v, err);
    if (!error)
        error = parse_firmware(&v, err);
    if (!error)
        error = parse_disks(&v, err);
    if (error)
        return error;
    parse_nics(&v);
    parse_others(&v);
    error = guest_check(guest, about, err);
    return error ? error : notes_done(&v.notes, about, err);
}

/* Every .vmx has this key, in any case and among the first. */
static bool probe(const char *text, size_t size)
{
    static const char *const keys[] = {"config.version", "virtualHW.version"};

    for (size_t at = 0; at < size;) {
        const char *line = text + at, *end = memchr(line, '\n', size - at);
        size_t length = end ? (size_t)(end - line) : size - at;
        for (size_t i = 0; i < 2; i++)
            if (length > strlen(keys[i]) && !strncasecmp(line, keys[i], strlen(keys[i])))
                return true;
        if (length && !memchr(line, '=', length) && *line != '#' && *line != '\r')
            return false; /* not even lines of this kind */
        at += length + 1;
    }
    return false;
}

const struct description_format description_vmx = {
    .name = "vmx",
    .extension = ".vmx",
    .probe = probe,
    .write = vmx_write,
    .read = vmx_read,
};
