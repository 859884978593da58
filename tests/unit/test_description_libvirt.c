/* libvirt's domain XML: there and back, libvirt's own schema as the witness, what others write, and
 * what must be refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "tests/support/guest_sample.h"

#define SCHEMA "/usr/share/libvirt/schemas/domain.rng"

static const struct description_format *const libvirt = &description_libvirt;

static char *load(const char *name)
{
    char path[128];
    uint8_t *data;
    size_t size;

    snprintf(path, sizeof(path), "tests/fuzz/corpus/libvirt/%s", name);
    assert_int_equal(file_read(path, MIB, &data, &size, NULL), 0);
    char *text = strndup((const char *)data, size);
    free(data);
    return text;
}

/* Of the schema or, where that is not installed, of XML. */
static void check_valid(const char *text)
{
    static const char *const schema[] = {"xmllint",   "--noout", "--nonet",
                                         "--relaxng", SCHEMA,    NULL};
    static const char *const plain[] = {"xmllint", "--noout", "--nonet", NULL};

    int status = guest_sample_witness(text, access(SCHEMA, R_OK) ? plain : schema);
    if (status > 0)
        fail_msg("xmllint: %d for\n%s", status, text);
}

static void test_round_trip(void **state)
{
    json_t *notes = json_array();
    struct guest guest;

    (void)state;
    guest_sample_rich(&guest);
    for (int firmware = 0; firmware <= GUEST_FIRMWARE_EFI_SECURE; firmware++) {
        guest.firmware = (enum guest_firmware)firmware;
        bool efi = firmware >= GUEST_FIRMWARE_EFI;
        snprintf(guest.files[GUEST_NVRAM], 256, "%s", efi ? "/vm/vars & co.fd" : "");
        if (firmware == GUEST_FIRMWARE_BIOS)
            guest.files[GUEST_KERNEL][0] = guest.files[GUEST_INITRD][0] = guest.append[0] = 0;
        CLEANUP_FREE char *text = guest_sample_round_trip(libvirt, &guest, notes);
        check_valid(text);
    }
    assert_true(guest_sample_noted(notes, "x86-64-v2 is Nehalem"));
    assert_true(guest_sample_noted(notes, "is on sata, not ide"));
    assert_true(guest_sample_noted(notes, "serial number of sda"));
    static const char *const models[] = {"", "host", "EPYC", "x86-64-v3"};
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++) {
        snprintf(guest.cpu_model, sizeof(guest.cpu_model), "%s", models[i]);
        free(guest_sample_round_trip(libvirt, &guest, NULL));
    }
    guest_sample_plain(&guest);
    CLEANUP_FREE char *plain = guest_sample_round_trip(libvirt, &guest, NULL);
    check_valid(plain);
    guest.disk_count = LIMIT_DISKS;
    guest.nic_count = LIMIT_NICS;
    for (uint32_t i = 0; i < LIMIT_DISKS; i++) {
        guest.disks[i].bus = (enum guest_bus)(i % (GUEST_BUS_NVME + 1));
        snprintf(guest.disks[i].file, 256, "/%u.raw", i);
        snprintf(guest.disks[i].format, 16, "raw");
    }
    CLEANUP_FREE char *full = guest_sample_round_trip(libvirt, &guest, NULL);
    check_valid(full);
    json_decref(notes);
}

static void test_virt_manager(void **state)
{
    CLEANUP_FREE char *text = load("virt-manager.xml");
    json_t *notes = json_array();
    struct guest guest;
    char mac[18];

    (void)state;
    guest_sample_read(libvirt, text, &guest, notes);
    assert_string_equal(guest.name, "fedora--39-");
    assert_string_equal(guest.os, "http://fedoraproject.org/fedora/39");
    assert_int_equal(guest.uuid[15], 0x6e);
    assert_int_equal(guest.memory_bytes, 4 * GIB);
    assert_int_equal(guest.cpus, 4);
    assert_string_equal(guest.cpu_model, "host");
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_EFI_SECURE);
    assert_string_equal(guest.files[GUEST_NVRAM], "/var/lib/libvirt/qemu/nvram/fedora_VARS.fd");
    assert_int_equal(guest.disk_count, 3);
    assert_string_equal(guest.disks[0].file, "/var/lib/libvirt/images/root.img");
    assert_int_equal(guest.disks[0].bus, GUEST_BUS_SCSI);
    assert_true(guest.disks[0].readonly);
    assert_string_equal(guest.disks[0].format, "raw");
    assert_string_equal(guest.disks[1].file, "/var/lib/libvirt/images/data & more.qcow2");
    assert_int_equal(guest.disks[1].bus, GUEST_BUS_VIRTIO);
    assert_string_equal(guest.disks[1].format, "qcow2");
    assert_string_equal(guest.disks[1].serial, "a serial that is lon");
    assert_string_equal(guest.disks[2].file, "old.vhd");
    assert_int_equal(guest.disks[2].bus, GUEST_BUS_IDE);
    assert_string_equal(guest.disks[2].format, "vhd");
    assert_int_equal(guest.nic_count, 3);
    assert_string_equal(guest_format_mac(guest.nics[0].mac, mac), "52:54:00:12:34:56");
    assert_string_equal(guest.nics[0].network, "default");
    assert_string_equal(guest.nics[1].network, "br0");
    assert_string_equal(guest.nics[1].model, "e1000e");
    assert_false(guest.nics[2].has_mac);
    assert_true(guest.serial_console);
    static const char *const told[] = {"cdrom sda",    "floppy fda",       "bridge 'br0'",
                                       "tpm",          "card of the host", "builds on",
                                       "cut",          "started with 2",   "other machines",
                                       "command line", "'nonsense'"};
    for (size_t i = 0; i < sizeof(told) / sizeof(*told); i++)
        if (!guest_sample_noted(notes, told[i]))
            fail_msg("no note has '%s'", told[i]);
    json_decref(notes);
}

static void test_direct(void **state)
{
    CLEANUP_FREE char *text = load("direct.xml");
    json_t *notes = json_array();
    struct guest guest;

    (void)state;
    /* 10^9 bytes are no whole pages. */
    guest_sample_refuse(libvirt, text, "1000000000 bytes");
    CLEANUP_FREE char *whole = guest_sample_replace(text, "'GB'>1<", "'M'>1000<");
    guest_sample_read(libvirt, whole, &guest, notes);
    assert_int_equal(guest.memory_bytes, 1000 * MIB);
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_NONE);
    assert_string_equal(guest.files[GUEST_KERNEL], "/boot/vmlinuz");
    assert_string_equal(guest.append, "console=ttyS0 root=/dev/vda");
    assert_string_equal(guest.cpu_model, "Skylake-Client");
    assert_int_equal(guest.cpus, 1);
    assert_true(guest.serial_console);
    assert_true(guest_sample_noted(notes, "single features"));
    CLEANUP_FREE char *bios = guest_sample_replace(whole, "<kernel>/boot/vmlinuz</kernel>", "");
    guest_sample_read(libvirt, bios, &guest, notes);
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_BIOS);
    CLEANUP_FREE char *efi = guest_sample_replace(
        whole, "<type>hvm</type>", "<type>hvm</type><loader type='rom'>/x/OVMF.fd</loader>");
    guest_sample_read(libvirt, efi, &guest, notes);
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_EFI);
    json_decref(notes);
}

static void test_refused(void **state)
{
    CLEANUP_FREE char *text = load("virt-manager.xml");
    static const char *const changes[][3] = {
        {"arch='x86_64'", "arch='aarch64'", "'aarch64'"},
        {">hvm<", ">exe<", "'exe'"},
        {"<memory unit='KiB'>4194304", "<memory unit='KiB'>4095", "memory"},
        {"<memory unit='KiB'>4194304", "<memory unit='parsec'>4194304", "memory"},
        {"<memory unit='KiB'>4194304", "<memory unit='TiB'>4194304000", "memory"},
        {"<memory unit='KiB'>4194304", "<memory>much", "'much'"},
        {">4</vcpu>", ">400</vcpu>", "400 CPUs"},
        {">4</vcpu>", ">0</vcpu>", "0 CPUs"},
        {">4</vcpu>", ">four</vcpu>", "CPUs"},
        {"type='volume' device='disk'", "type='block' device='disk'", "'block'"},
        {"type='volume' device='disk'", "type='network' device='disk'", "'network'"},
        {"type='volume' device='disk'", "type='file' device='lun'", "device of the host"},
        {"volume='old.vhd'/>", "volume='o'><encryption format='luks'/></source><source/>",
         "encrypted"},
        {"volume='old.vhd'/>", "volume='o'><slices/></source><source/>", "part of its file"},
        {"<domain ", "<domain xmlns='urn:x' ", "not a libvirt domain"},
        {"<domain ", "<!DOCTYPE domain><domain ", "DOCTYPE"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++)
        guest_sample_refuse_change(libvirt, text, changes[i][0], changes[i][1], changes[i][2]);
    guest_sample_sweep(libvirt, text);
}

static void test_limits(void **state)
{
    static const char around[] = "<domain><name>x</name><memory>65536</memory><os><type>hvm</type>"
                                 "</os><devices>@</devices></domain>";
    struct guest guest;

    (void)state;
    CLEANUP_FREE char *disks = guest_sample_repeat(around, "<disk><source file='%u'/></disk>", 17);
    guest_sample_refuse(libvirt, disks, "has 17 disks");
    CLEANUP_FREE char *nics = guest_sample_repeat(around, "<interface/>", 30);
    guest_sample_refuse(libvirt, nics, "has 30 network cards");
    CLEANUP_FREE char *both = guest_sample_repeat(
        around, "<interface/><disk><target dev='sd\x1b[m'/><boot order='%u'/></disk>", 1);
    guest_sample_refuse(libvirt, both, "well-formed"); /* an escape for a terminal */
    CLEANUP_FREE char *order = guest_sample_repeat(
        around,
        "<disk><source file='a%u'/></disk><disk><source file='b%u'/><boot order='%u'/></disk>", 3);
    guest_sample_read(libvirt, order, &guest, NULL);
    static const char *const files[] = {"b0", "b1", "b2", "a0", "a1", "a2"};
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(guest.disks[i].file, files[i]);
    char name[400];
    memset(name, 'x', sizeof(name));
    memcpy(name, "a1", 2);
    name[399] = 0;
    guest_sample_refuse_change(libvirt, order, "a1", name, "too long");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_virt_manager),
        cmocka_unit_test(test_direct),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
