/* .vmx: there and back, as VMware writes it, and what must be refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "tests/support/guest_sample.h"

static const struct description_format *const vmx = &description_vmx;

static char *load(const char *name)
{
    char path[128];
    uint8_t *data;
    size_t size;

    snprintf(path, sizeof(path), "tests/fuzz/corpus/vmx/%s", name);
    assert_int_equal(file_read(path, MIB, &data, &size, NULL), 0);
    char *text = strndup((const char *)data, size);
    free(data);
    return text;
}

static void test_round_trip(void **state)
{
    json_t *notes = json_array();
    struct guest guest;

    (void)state;
    guest_sample_rich(&guest);
    for (int firmware = 0; firmware <= GUEST_FIRMWARE_EFI_SECURE; firmware++) {
        guest.firmware = (enum guest_firmware)firmware;
        snprintf(guest.files[GUEST_NVRAM], 256, "x \"y\".nvram");
        CLEANUP_FREE char *text = guest_sample_round_trip(vmx, &guest, notes);
        assert_non_null(strstr(text, "ethernet0.networkName = \"a |22net|22 & <more>\"\n"));
        assert_non_null(strstr(text, "uuid.bios = \"03 13 23 33 43 53 63 73-83 93 a3 b3 c3 d3 e3 "
                                     "f3\"\n"));
    }
    assert_true(guest_sample_noted(notes, "no virtio disks"));
    assert_true(guest_sample_noted(notes, "disk 3 is in the format qcow2"));
    assert_true(guest_sample_noted(notes, "serial0.txt"));
    snprintf(guest.os, sizeof(guest.os), "Microsoft Windows Server 2019 (64-bit)");
    CLEANUP_FREE char *windows = guest_sample_round_trip(vmx, &guest, NULL);
    assert_non_null(strstr(windows, "guestOS = \"windows2019srv-64\"\n"));
    assert_non_null(strstr(windows, "scsi0.virtualDev = \"lsisas1068\"\n"));
    guest_sample_plain(&guest);
    free(guest_sample_round_trip(vmx, &guest, NULL));
    for (int bus = 0; bus <= GUEST_BUS_NVME; bus++) {
        guest.disk_count = LIMIT_DISKS;
        guest.nic_count = LIMIT_NICS;
        for (uint32_t i = 0; i < LIMIT_DISKS; i++) {
            guest.disks[i].bus = (enum guest_bus)bus;
            snprintf(guest.disks[i].file, 256, "%u.vmdk", i);
            snprintf(guest.disks[i].format, 16, "vmdk");
        }
        CLEANUP_FREE char *text = guest_sample_round_trip(vmx, &guest, notes);
        assert_int_equal(strstr(text, "scsi0:7.") != NULL, 0);
    }
    assert_true(guest_sample_noted(notes, "more than 10 network cards"));
    json_decref(notes);
}

static void test_workstation(void **state)
{
    CLEANUP_FREE char *text = load("workstation.vmx");
    json_t *notes = json_array();
    struct guest guest;
    char mac[18];

    (void)state;
    assert_true(vmx->probe(text, strlen(text)));
    guest_sample_read(vmx, text, &guest, notes);
    assert_string_equal(guest.name, "B--ro--neu-");
    assert_string_equal(guest.os, "windows2019srv-64");
    assert_int_equal(guest.cpus, 4);
    assert_int_equal(guest.memory_bytes, 6 * GIB);
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_EFI_SECURE);
    assert_string_equal(guest.files[GUEST_NVRAM], "buero.nvram");
    assert_int_equal(guest.uuid[0], 0x56);
    assert_int_equal(guest.uuid[15], 0x88);
    static const struct {
        const char *file;
        enum guest_bus bus;
    } disks[] = {
        {"data.vmdk", GUEST_BUS_SATA},  {"fast.vmdk", GUEST_BUS_NVME},
        {"buero.vmdk", GUEST_BUS_SCSI}, {"scratch.vmdk", GUEST_BUS_SCSI},
        {"legacy.vmdk", GUEST_BUS_IDE},
    };
    assert_int_equal(guest.disk_count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(guest.disks[i].file, disks[i].file);
        assert_string_equal(guest.disks[i].format, "vmdk");
        assert_int_equal(guest.disks[i].bus, disks[i].bus);
    }
    assert_int_equal(guest.nic_count, 2);
    assert_string_equal(guest_format_mac(guest.nics[0].mac, mac), "00:0c:29:ab:cd:ef");
    assert_string_equal(guest.nics[0].network, "nat");
    assert_string_equal(guest.nics[0].model, "vmxnet3");
    assert_string_equal(guest_format_mac(guest.nics[1].mac, mac), "00:50:56:01:02:03");
    assert_string_equal(guest.nics[1].network, "VM | Network");
    assert_string_equal(guest.nics[1].model, "e1000e");
    assert_true(guest.serial_console);
    static const char *const told[] = {"sata0:1 (cdrom-image)", "forgets", "TPM", "floppy",
                                       "guestinfo.userdata"};
    for (size_t i = 0; i < sizeof(told) / sizeof(*told); i++)
        if (!guest_sample_noted(notes, told[i]))
            fail_msg("no note has '%s'", told[i]);
    json_decref(notes);
}

static void test_esx(void **state)
{
    CLEANUP_FREE char *text = load("esx.vmx");
    json_t *notes = json_array();
    struct guest guest;
    char mac[18];

    (void)state;
    guest_sample_read(vmx, text, &guest, notes);
    assert_int_equal(guest.cpus, 1);
    assert_int_equal(guest.memory_bytes, GIB);
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_BIOS);
    assert_string_equal(guest_format_mac(guest.nics[0].mac, mac), "00:50:56:aa:bb:cc");
    assert_int_equal(json_array_size(notes), 0);
    CLEANUP_FREE char *western = guest_sample_replace(text, "old.vmdk", "B\xfcro|zz.vmdk");
    guest_sample_read(vmx, western, &guest, notes);
    assert_string_equal(guest.disks[0].file, "B\xc3\xbcro|zz.vmdk");
    assert_true(guest_sample_noted(notes, "Western European"));
    CLEANUP_FREE char *bare = guest_sample_replace(text, "memSize = \"1024\"", "memsize=64\r");
    guest_sample_read(vmx, bare, &guest, notes);
    assert_int_equal(guest.memory_bytes, 64 * MIB);
    json_decref(notes);
}

static void test_refused(void **state)
{
    CLEANUP_FREE char *text = load("workstation.vmx");
    static const char *const changes[][3] = {
        {"memsize = \"6144\"", "memsize = \"lots\"", "'lots'"},
        {"memsize = \"6144\"", "", "memory"},
        {"memsize = \"6144\"", "memsize = \"4\"", "memory"},
        {"memsize = \"6144\"", "memsize = \"18446744073709551615\"", "memory"},
        {"numvcpus = \"4\"", "numvcpus = \"0\"", "0 CPUs"},
        {"numvcpus = \"4\"", "numvcpus = \"4294967297\"", "CPUs"},
        {"numvcpus = \"4\"", "numvcpus = \"two\"", "'two'"},
        {"# a comment", "encryption.keySafe = \"vmware:key/list\"", "encrypted"},
        {"sata0:0.deviceType = \"disk\"", "sata0:0.deviceType = \"rawDisk\"", "one of the host's"},
        {"# a comment", "a line of text", "'a line of text'"},
        {"# a comment", "open = \"quote", "not a .vmx"},
        {"# a comment", "= \"value\"", "not a .vmx"},
    };
    char name[400];

    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++)
        guest_sample_refuse_change(vmx, text, changes[i][0], changes[i][1], changes[i][2]);
    memset(name, 'x', sizeof(name));
    name[399] = 0;
    guest_sample_refuse_change(vmx, text, "buero.vmdk", name, "too long");
    guest_sample_sweep(vmx, text);
}

static void test_limits(void **state)
{
    static const char around[] = "config.version = 8\nmemsize = 64\n@";
    static const char disk[] = "sata0:%u.present = TRUE\nsata0:%u.fileName = %u.vmdk\n";

    (void)state;
    CLEANUP_FREE char *disks = guest_sample_repeat(around, disk, 30);
    guest_sample_refuse(vmx, disks, "has 30 disks");
    CLEANUP_FREE char *nics = guest_sample_repeat(around, "ethernet%u.present = TRUE\n", 17);
    guest_sample_refuse(vmx, nics, "has 17 network cards");
    CLEANUP_FREE char *lines = guest_sample_repeat(around, "a%u = b\n", 5000);
    guest_sample_refuse(vmx, lines, "more than 4096 lines");
    CLEANUP_FREE char *large = guest_sample_repeat(around, "#               ", 300000);
    guest_sample_refuse(vmx, large, "larger than 4 MiB");
    static const char zero[] = "memsize = 64\n\0x";
    struct ferry_error err = {0};
    struct guest guest;
    assert_int_equal(vmx->read(zero, sizeof(zero), "sample", &guest, NULL, &err), -EBADMSG);
}

static void test_probe(void **state)
{
    static const struct {
        const char *text;
        const struct description_format *format; /* NULL: of none */
    } texts[] = {
        {".encoding = \"UTF-8\"\nCONFIG.VERSION = \"8\"\n", &description_vmx},
        {"memsize = 1\n", NULL},
        {"config.version", NULL},
        {"text\nconfig.version = \"8\"\n", NULL},
        {"<?xml version='1.0'?><!-- > --><domain type='kvm'>", &description_libvirt},
        {"\xef\xbb\xbf<domain>", &description_libvirt},
        {"<domains>", NULL},
        {"<domain", NULL},
        {"\n<?xml?>\n<ovf:Envelope xmlns:ovf='x'>", &description_ovf},
        {"<Envelope/>", &description_ovf},
        {"<!DOCTYPE Envelope><Envelope/>", NULL},
        {"<!-- Envelope", NULL},
        {"", NULL},
    };
    const struct description_format *const formats[] = {&description_ovf, &description_libvirt,
                                                        &description_vmx};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        for (size_t j = 0; j < 3; j++)
            if (formats[j]->probe(texts[i].text, strlen(texts[i].text)) !=
                (formats[j] == texts[i].format))
                fail_msg("%s of '%s'", formats[j]->name, texts[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_workstation),
        cmocka_unit_test(test_esx),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_probe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
