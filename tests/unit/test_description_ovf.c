/* OVF: there and back, as others write it, and what must be refused. */
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
#include "imagefmt/foreign/ovf.h"
#include "tests/support/guest_sample.h"

static const struct description_format *const ovf = &description_ovf;

static char *load(const char *name)
{
    char path[128];
    uint8_t *data;
    size_t size;

    snprintf(path, sizeof(path), "tests/fuzz/corpus/ovf/%s", name);
    assert_int_equal(file_read(path, MIB, &data, &size, NULL), 0);
    char *text = strndup((const char *)data, size);
    free(data);
    return text;
}

static void test_round_trip(void **state)
{
    static const char *const xmllint[] = {"xmllint", "--noout", "--nonet", NULL};
    json_t *notes = json_array();
    struct guest guest;

    (void)state;
    guest_sample_rich(&guest);
    CLEANUP_FREE char *text = guest_sample_round_trip(ovf, &guest, notes);
    assert_true(guest_sample_witness(text, xmllint) <= 0);
    assert_non_null(strstr(text, ">VirtualSCSI<")); /* it is a Debian */
    assert_true(guest_sample_noted(notes, "no virtio disks"));
    assert_true(guest_sample_noted(notes, "started directly"));
    assert_true(guest_sample_noted(notes, "disk 3 is in the format qcow2"));
    assert_true(guest_sample_noted(notes, "network card 1 is an e1000 instead of 'virtio'"));
    assert_true(guest_sample_noted(notes, "1501 MiB"));
    assert_true(guest_sample_noted(notes, "read-only"));
    assert_false(guest_sample_noted(notes, "were replaced"));
    for (int firmware = 0; firmware <= GUEST_FIRMWARE_EFI_SECURE; firmware++) {
        guest.firmware = (enum guest_firmware)firmware;
        snprintf(guest.files[GUEST_NVRAM], 256, "x y.nvram");
        free(guest_sample_round_trip(ovf, &guest, NULL));
    }
    guest_sample_plain(&guest);
    free(guest_sample_round_trip(ovf, &guest, NULL));
    json_decref(notes);
}

/* As many disks and cards as there can be, of every kind, on controllers that are full. */
static void test_full(void **state)
{
    struct guest guest;

    (void)state;
    for (int bus = 0; bus <= GUEST_BUS_NVME; bus++) {
        guest_sample_plain(&guest);
        guest.disk_count = LIMIT_DISKS;
        guest.nic_count = LIMIT_NICS;
        for (uint32_t i = 0; i < LIMIT_DISKS; i++) {
            guest.disks[i].bus = (enum guest_bus)bus;
            guest.disks[i].size_bytes = (i + 1) * MIB;
            snprintf(guest.disks[i].file, 256, "%u.vmdk", i);
            snprintf(guest.disks[i].format, 16, "vmdk");
        }
        CLEANUP_FREE char *text = guest_sample_round_trip(ovf, &guest, NULL);
        /* On a SCSI controller that address is its own. */
        const char *seventh = strstr(text, "<rasd:AddressOnParent>7</rasd:AddressOnParent>\n"
                                           "        <rasd:ElementName>Hard disk");
        assert_int_equal(seventh == NULL, bus == GUEST_BUS_SCSI);
    }
}

/* What no XML can hold is replaced, and said; a name in an href is kept byte for byte. */
static void test_odd_text(void **state)
{
    json_t *notes = json_array();
    struct guest guest, again;
    struct ferry_error err;
    CLEANUP_FREE char *text = NULL;
    size_t size;

    (void)state;
    guest_sample_rich(&guest);
    snprintf(guest.append, sizeof(guest.append), "a\x01\xff");
    snprintf(guest.disks[0].file, 256, "\xff\x01.vmdk");
    assert_int_equal(ovf->write(&guest, notes, &text, &size, &err), 0);
    assert_true(guest_sample_noted(notes, "were replaced"));
    guest_sample_read(ovf, text, &again, NULL);
    assert_string_equal(again.append, "a\xef\xbf\xbd\xef\xbf\xbd");
    assert_string_equal(again.disks[0].file, guest.disks[0].file);
    guest.disks[1].size_bytes = 0;
    assert_int_equal(ovf->write(&guest, notes, &text, &size, &err), -EINVAL);
    json_decref(notes);
}

/* Sizes that come later, in a text of the same length. */
static void test_sizes_later(void **state)
{
    struct guest guest;
    CLEANUP_FREE struct ovf_package *package = malloc(sizeof(*package));
    CLEANUP_FREE char *before = NULL, *after = NULL;
    struct ovf_file disks[LIMIT_DISKS] = {{0}}, files[GUEST_FILE_KINDS] = {{0}};
    struct ferry_error err = {0};
    size_t room, size;

    (void)state;
    guest_sample_rich(&guest);
    for (uint32_t i = 0; i < guest.disk_count; i++)
        disks[i] = (struct ovf_file){.href = "disk.vmdk", .size_bytes = OVF_SIZE_UNKNOWN};
    disks[0].href = "first.vmdk";
    disks[0].chunk_bytes = 64 * MIB;
    disks[2].href = "c";
    disks[3].href = NULL; /* blank */
    disks[4].href = "e";
    files[GUEST_KERNEL] = (struct ovf_file){.href = "vmlinuz", .size_bytes = 17};
    assert_int_equal(ovf_room(&guest, disks, files, &room, &err), 0);
    assert_int_equal(ovf_write(&guest, disks, files, room, NULL, &before, &size, &err), 0);
    assert_int_equal(size, room);
    assert_null(strstr(before, "18446744073709551614"));
    disks[0].size_bytes = UINT64_MAX - 1;
    disks[4].size_bytes = 123456789012345;
    assert_int_equal(ovf_write(&guest, disks, files, room, NULL, &after, &size, &err), 0);
    assert_int_equal(size, room);
    assert_int_equal(ovf_read(after, size, "sample", &guest, package, NULL, &err), 0);
    assert_true(package->disks[0].size_bytes == UINT64_MAX - 1);
    assert_int_equal(package->disks[0].chunk_bytes, 64 * MIB);
    assert_string_equal(package->disks[0].href, "first.vmdk");
    assert_true(package->disks[1].size_bytes == OVF_SIZE_UNKNOWN);
    assert_string_equal(package->disks[3].href, "");
    assert_int_equal(package->disks[3].capacity_bytes, 4 * GIB + 512);
    assert_int_equal(package->disks[4].size_bytes, 123456789012345);
    assert_int_equal(package->files[GUEST_KERNEL].size_bytes, 17);
    assert_string_equal(package->files[GUEST_INITRD].href, "");
    free(after);
    after = NULL;
    assert_int_equal(ovf_write(&guest, disks, files, 100, NULL, &after, &size, &err), -ENOSPC);
}

static void test_vsphere(void **state)
{
    CLEANUP_FREE char *text = load("vsphere.ovf");
    CLEANUP_FREE struct ovf_package *package = malloc(sizeof(*package));
    json_t *notes = json_array();
    struct guest guest;
    char mac[18];

    (void)state;
    assert_int_equal(ovf_read(text, strlen(text), "sample", &guest, package, notes, NULL), 0);
    assert_string_equal(guest.name, "DB-server--old-");
    assert_string_equal(guest.os, "Red Hat Enterprise Linux 9 (64-bit)");
    assert_int_equal(guest.cpus, 4);
    assert_int_equal(guest.memory_bytes, 8 * GIB);
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_EFI_SECURE);
    assert_string_equal(guest.files[GUEST_NVRAM], "db.nvram");
    assert_int_equal(package->files[GUEST_NVRAM].size_bytes, 270840);
    assert_int_equal(guest.disk_count, 3); /* the one of the boot order, then by address */
    assert_string_equal(guest.disks[0].file, "");
    assert_int_equal(guest.disks[0].bus, GUEST_BUS_NVME);
    assert_int_equal(guest.disks[0].size_bytes, GIB);
    assert_string_equal(guest.disks[1].file, "db-1.vmdk");
    assert_int_equal(guest.disks[1].bus, GUEST_BUS_SCSI);
    assert_int_equal(guest.disks[1].size_bytes, 16 * GIB);
    assert_string_equal(guest.disks[1].format, "vmdk");
    assert_string_equal(guest.disks[2].file, "db 2.vmdk");
    assert_string_equal(package->disks[2].href, "db%202.vmdk");
    assert_int_equal(guest.disks[2].size_bytes, 500 * MIB);
    assert_int_equal(package->disks[2].chunk_bytes, 2 * GIB);
    assert_int_equal(guest.nic_count, 1);
    assert_string_equal(guest_format_mac(guest.nics[0].mac, mac), "00:50:56:9a:01:02");
    assert_string_equal(guest.nics[0].network, "VM Network");
    assert_string_equal(guest.nics[0].model, "vmxnet3");
    assert_true(guest_sample_noted(notes, "CD/DVD Drive 1"));
    assert_true(guest_sample_noted(notes, "Virtual TPM"));
    assert_true(guest_sample_noted(notes, "blank"));
    assert_int_equal(json_array_size(notes), 4);
    json_decref(notes);
}

static void test_virtualbox(void **state)
{
    CLEANUP_FREE char *one = load("virtualbox-1.ovf"), *two = load("virtualbox-2.ovf");
    CLEANUP_FREE struct ovf_package *package = malloc(sizeof(*package));
    json_t *notes = json_array();
    struct guest guest;
    char mac[18];

    (void)state;
    guest_sample_read(ovf, one, &guest, notes);
    assert_string_equal(guest.name, "lab");
    assert_int_equal(guest.uuid[0], 0x56);
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_EFI);
    assert_string_equal(guest.files[GUEST_NVRAM], "lab.nvram");
    assert_int_equal(guest.memory_bytes, 2 * GIB);
    assert_int_equal(guest.disks[0].bus, GUEST_BUS_SATA);
    assert_int_equal(guest.disks[0].size_bytes, 10 * GIB);
    assert_string_equal(guest_format_mac(guest.nics[0].mac, mac), "08:00:27:f0:f5:1d");
    assert_string_equal(guest.nics[0].model, "virtio");
    assert_true(guest.serial_console);
    assert_true(guest_sample_noted(notes, "1 properties"));
    assert_int_equal(json_array_size(notes), 1);
    json_array_clear(notes);

    assert_int_equal(ovf_read(two, strlen(two), "sample", &guest, package, notes, NULL), 0);
    assert_string_equal(guest.os, "Ubuntu_64");
    assert_int_equal(guest.firmware, GUEST_FIRMWARE_UNKNOWN);
    assert_int_equal(guest.disk_count, 2);
    assert_string_equal(guest.disks[0].file, "two-disk001.vmdk");
    assert_int_equal(guest.disks[0].size_bytes, 4 * GIB);
    assert_int_equal(guest.disks[1].size_bytes, 8 * GIB);
    assert_int_equal(guest.disks[1].bus, GUEST_BUS_IDE);
    assert_false(package->disks[0].gzip);
    assert_true(package->disks[1].gzip);
    assert_string_equal(guest_format_mac(guest.nics[0].mac, mac), "08:00:27:00:0a:0b");
    assert_string_equal(guest.nics[0].network, "HostOnly");
    assert_string_equal(guest.nics[0].model, "pcnet32");
    assert_true(guest_sample_noted(notes, "'left' is in the package"));
    assert_int_equal(json_array_size(notes), 1);
    json_decref(notes);
}

static void test_ovftool(void **state)
{
    CLEANUP_FREE char *text = load("ovftool.ovf");
    json_t *notes = json_array();
    struct guest guest;

    (void)state;
    guest_sample_read(ovf, text, &guest, notes);
    assert_string_equal(guest.name, "router");
    assert_int_equal(guest.cpus, 8);
    assert_int_equal(guest.memory_bytes, 4 * GIB);
    assert_int_equal(guest.disk_count, 1);
    assert_string_equal(guest.disks[0].file, "router.vmdk");
    assert_string_equal(guest.disks[0].format, "");
    assert_true(guest.serial_console);
    assert_true(guest_sample_noted(notes, "'large' is taken"));
    assert_true(guest_sample_noted(notes, "'Licence' is not known"));
    json_decref(notes);
}

static void test_refused(void **state)
{
    CLEANUP_FREE char *text = load("vsphere.ovf");
    static const char *const changes[][3] = {
        {"envelope/1\" xmlns:cim", "envelope/3\" xmlns:cim", "not an OVF of version"},
        {"<VirtualSystem ovf:id=\"vm\">", "<VirtualSystem ovf:id=\"x\"/><VirtualSystem>",
         "2 machines"},
        {"ovf:fileRef=\"file1\"", "ovf:fileRef=\"file1\" ovf:parentRef=\"base\"", "builds on"},
        {"ovf:fileRef=\"file1\"", "ovf:fileRef=\"file9\"", "no file 'file9'"},
        {"ovf:fileRef=\"file1\"", "ovf:fileRef=\"file2\"", "same one"},
        {"/disk/vmdisk1", "/disk/vmdisk9", "no disk 'vmdisk9'"},
        {"/disk/vmdisk1", "/disk/vmdisk2", "same one"},
        {"ovf:/disk/vmdisk1", "/dev/sda", "neither in it"},
        {"ovf:capacity=\"16\"", "ovf:capacity=\"${size}\"", "'${size}'"},
        {"ovf:capacity=\"16\"", "ovf:capacity=\"65537\"", "64 TiB"},
        {"ovf:capacity=\"16\"", "ovf:capacity=\"18446744073709551615\"", "64 TiB"},
        {"ovf:capacity=\"16\"", "ovf:capacity=\"18446744073709551616\"", "capacity"},
        {"byte * 2^30", "cubit * 2^30", "unit"},
        {"ovf:capacity=\"1073741824\"", "", "without a size"},
        {"db-1.vmdk", "http://x.example/db.vmdk", "not in the package"},
        {"db-1.vmdk", "", "not in the package"},
        {"ovf:size=\"734003200\"", "ovf:size=\"many\"", "'many'"},
        {"ovf:size=\"734003200\"", "ovf:compression=\"bzip2\"", "'bzip2'"},
        {">4</rasd:VirtualQuantity>", ">65</rasd:VirtualQuantity>", "65 CPUs"},
        {">8192</rasd:VirtualQuantity>", ">4</rasd:VirtualQuantity>", "memory"},
        {">8192</rasd:VirtualQuantity>", ">99999999</rasd:VirtualQuantity>", "memory"},
        {"byte * 2^20</rasd", "pages</rasd", "'pages'"},
        {"<References>", "<References><x:EncryptedData xmlns:x=\"urn:x\"/>", "encrypted"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++)
        guest_sample_refuse_change(ovf, text, changes[i][0], changes[i][1], changes[i][2]);
    guest_sample_refuse(ovf, "<Envelope xmlns=\"" OVF_NS_1 "\"/>", "no machine");
    guest_sample_refuse(ovf, "<Envelope xmlns=\"" OVF_NS_1 "\"><VirtualSystem/></Envelope>",
                        "hardware");
    guest_sample_refuse(ovf, "<Envelope/>", "not an OVF");
}

#define SMALL_HEAD \
    "<Envelope xmlns='" OVF_NS_1 "' xmlns:o='" OVF_NS_1 "' xmlns:r='" OVF_NS_RASD "'>"
#define SMALL_HARDWARE                                                 \
    "<VirtualHardwareSection><Item><r:ResourceType>4</r:ResourceType>" \
    "<r:VirtualQuantity>64</r:VirtualQuantity></Item>"
#define SMALL_TAIL "</VirtualHardwareSection></VirtualSystem></Envelope>"

static void test_limits(void **state)
{
    static const char disk[] =
        "<Item><r:ResourceType>17</r:ResourceType><r:HostResource>ovf:/disk/d%u"
        "</r:HostResource></Item>";
    static const char nic[] = "<Item><r:ResourceType>10</r:ResourceType></Item>";
    static const char around[] = SMALL_HEAD "<VirtualSystem>" SMALL_HARDWARE "@" SMALL_TAIL;
    struct guest guest;
    json_t *notes = json_array();

    (void)state;
    CLEANUP_FREE char *disks = guest_sample_repeat(around, disk, 17);
    guest_sample_refuse(ovf, disks, "has 17 disks");
    CLEANUP_FREE char *nics = guest_sample_repeat(around, nic, 1000);
    guest_sample_refuse(ovf, nics, "has 1000 network cards");
    CLEANUP_FREE char *enough = guest_sample_repeat(around, nic, 16);
    guest_sample_read(ovf, enough, &guest, notes);
    assert_int_equal(guest.nic_count, 16);
    assert_int_equal(guest.cpus, 1);
    assert_true(guest_sample_noted(notes, "number of CPUs is not said"));
    json_array_clear(notes);
    CLEANUP_FREE char *strange =
        guest_sample_repeat(around, "<Item><r:ResourceType>99</r:ResourceType></Item>", 2000);
    guest_sample_read(ovf, strange, &guest, notes);
    assert_int_equal(json_array_size(notes), LIMIT_NOTES + 1);
    json_decref(notes);
}

static void test_hostile_xml(void **state)
{
    static const char empty[] = SMALL_HEAD "@</Envelope>";
    CLEANUP_FREE char *vsphere = load("vsphere.ovf");

    (void)state;
    guest_sample_refuse(ovf, "<!DOCTYPE Envelope><Envelope xmlns='" OVF_NS_1 "'/>", "DOCTYPE");
    guest_sample_refuse(ovf,
                        "<!DOCTYPE e [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>"
                        "<Envelope xmlns='" OVF_NS_1 "'>&a;</Envelope>",
                        "DOCTYPE");
    guest_sample_refuse(ovf, "<!DOCTYPE e SYSTEM 'http://127.0.0.1:1/x.dtd'><Envelope/>",
                        "DOCTYPE");
    guest_sample_refuse(ovf, SMALL_HEAD "&a;</Envelope>", "well-formed");
    CLEANUP_FREE char *deep = guest_sample_repeat(empty, "<a>", 100);
    guest_sample_refuse(ovf, deep, "nested");
    CLEANUP_FREE char *many = guest_sample_repeat(empty, "<a/>", 70000);
    guest_sample_refuse(ovf, many, "more elements");
    CLEANUP_FREE char *pairs = guest_sample_repeat(empty, "<a b='' c='' d='' e=''/>", 20000);
    guest_sample_refuse(ovf, pairs, "more elements");
    CLEANUP_FREE char *large = guest_sample_repeat(empty, "                ", 300000);
    guest_sample_refuse(ovf, large, "larger than 4 MiB");
    guest_sample_refuse(ovf, "", "well-formed");
    guest_sample_refuse(ovf, "<Envelope xmlns='" OVF_NS_1 "'>", "well-formed");
    guest_sample_refuse(ovf, "<a>\xff</a>", "UTF-8");
    /* The declaration does not choose a converter. */
    guest_sample_refuse(ovf, "<?xml version='1.0' encoding='ISO-2022-CN-EXT'?><a/>", "not an OVF");
    guest_sample_sweep(ovf, vsphere);
}

/* What ferry added must agree with the rest, and may not be too long. */
static void test_own(void **state)
{
    struct guest guest, again;
    CLEANUP_FREE char *text = NULL, *longest = malloc(4096);
    struct ferry_error err;
    size_t size;

    (void)state;
    guest_sample_rich(&guest);
    assert_int_equal(ovf->write(&guest, NULL, &text, &size, &err), 0);
    CLEANUP_FREE char *more =
        guest_sample_replace(text, ">1501</rasd:VirtualQuantity>", ">2048</rasd:VirtualQuantity>");
    guest_sample_read(ovf, more, &again, NULL);
    assert_int_equal(again.memory_bytes, 2 * GIB);
    CLEANUP_FREE char *scsi = guest_sample_replace(text, "bus=\"scsi\"", "bus=\"virtio\"");
    guest_sample_read(ovf, scsi, &again, NULL);
    assert_int_equal(again.disks[0].bus, GUEST_BUS_SCSI);
    guest_sample_refuse_change(ovf, text, "serial=\"", "serial=\"0123456789abcdefghij", "serial");
    memset(longest, 'x', 4095);
    memcpy(longest, "append=\"", 8);
    longest[4095] = 0;
    guest_sample_refuse_change(ovf, text, "append=\"", longest, "append");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_full),
        cmocka_unit_test(test_odd_text),   cmocka_unit_test(test_sizes_later),
        cmocka_unit_test(test_vsphere),    cmocka_unit_test(test_virtualbox),
        cmocka_unit_test(test_ovftool),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_hostile_xml),
        cmocka_unit_test(test_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
