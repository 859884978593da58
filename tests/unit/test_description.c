/* Descriptions of machines: what all of them share, and those that are only written. */
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
#include "imagefmt/foreign/describe.h"
#include "imagefmt/foreign/ovf.h"
#include "imagefmt/foreign/vagrant.h"
#include "tests/support/guest_sample.h"

static void test_names(void **state)
{
    static const char *const names[][2] = {
        {"web", "web"},  {"a b/c", "a-b-c"},           {"..x", "x"},       {"--", "machine"},
        {"", "machine"}, {"\xc3\xa9t\xc3\xa9", "t--"}, {"a\n\"b", "a--b"},
    };
    struct guest guest;
    char longest[200];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        guest_set_name(&guest, names[i][0]);
        assert_string_equal(guest.name, names[i][1]);
    }
    memset(longest, 'x', sizeof(longest));
    longest[199] = 0;
    guest_set_name(&guest, longest);
    assert_int_equal(strlen(guest.name), LIMIT_NAME_BYTES);
}

static void test_parts(void **state)
{
    uint8_t mac[6], uuid[16];
    char text[40];

    (void)state;
    assert_int_equal(guest_parse_mac("52:54:00:aB:Cd:0f", mac), 0);
    assert_string_equal(guest_format_mac(mac, text), "52:54:00:ab:cd:0f");
    static const char *const wrong[] = {"",
                                        "52:54:00:ab:cd",
                                        "52:54:00:ab:cd:0g",
                                        "52-54-00-ab-cd-0f",
                                        "52:54:00:ab:cd:0f:",
                                        "5254:00:ab:cd:0f:0"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_int_equal(guest_parse_mac(wrong[i], mac), -EINVAL);
    for (int i = 0; i < GUEST_FIRMWARE_EFI_SECURE; i++)
        assert_int_equal(guest_firmware_by_name(guest_firmware_name((enum guest_firmware)i)), i);
    assert_int_equal(guest_firmware_by_name("coreboot"), GUEST_FIRMWARE_UNKNOWN);
    assert_int_equal(guest_bus_by_name("nvme"), GUEST_BUS_NVME);
    assert_int_equal(guest_bus_by_name("usb"), GUEST_BUS_VIRTIO);
    assert_string_equal(guest_file_name(GUEST_NVRAM), "nvram");
    assert_int_equal(describe_parse_uuid("{5640F7CC-2fd9-4f0a-b5be-1d2a3b4c5d6e}", uuid), 0);
    assert_string_equal(describe_format_uuid(uuid, text), "5640f7cc-2fd9-4f0a-b5be-1d2a3b4c5d6e");
    assert_int_equal(describe_parse_uuid("5640f7cc-2fd9-4f0a-b5be-1d2a3b4c5d6e7f", uuid), -EINVAL);
    assert_int_equal(describe_parse_uuid("5640f7cc", uuid), -EINVAL);
    for (const struct description_format *const *f = description_formats; *f; f++)
        assert_ptr_equal(description_format_by_name((*f)->name), *f);
    assert_null(description_format_by_name("parallels"));
}

static void test_numbers(void **state)
{
    uint64_t value;

    (void)state;
    assert_int_equal(describe_number(" 18446744073709551615\n", &value), 0);
    assert_true(value == UINT64_MAX);
    assert_int_equal(describe_number("18446744073709551616", &value), -ERANGE);
    static const char *const wrong[] = {"", " ", "-1", "+1", "0x10", "1 2", "1.5", "12k"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_int_equal(describe_number(wrong[i], &value), -EINVAL);
    assert_true(describe_multiply(UINT64_MAX, 2) == UINT64_MAX);
    static const struct {
        const char *unit;
        uint64_t bytes;
    } units[] = {
        {"byte", 1},
        {"byte * 2^20", MIB},
        {"byte*2^30", GIB},
        {" Byte * 2 ^ 10 ", KIB},
        {"byte * 10^6", 1000000},
        {"byte * 1024", KIB},
        {"bytes", 1},
        {"MegaBytes", MIB},
        {"MB", MIB},
        {"KB", KIB},
        {"KiloBytes", KIB},
        {"GigaBytes", GIB},
        {"", 0},
        {"byte * 2^64", 0},
        {"byte * 10^60", 0},
        {"byte * ", 0},
        {"byte * 2^", 0},
        {"byte * 2^20 x", 0},
        {"MB * 2", 0},
        {"hertz", 0},
        {"megabytesmegabytes", 0},
    };
    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
        assert_int_equal(ovf_unit_bytes(units[i].unit), units[i].bytes);
}

static void test_utf8(void **state)
{
    static const char *const wrong[] = {
        "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82",
        "\xff",     "\x80",         "\xf8\x88\x80\x80",
    };
    CLEANUP(text_free) struct text t = text_init();

    (void)state;
    assert_true(utf8_valid("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_false(utf8_valid(wrong[i], strlen(wrong[i])));
    text_xml(&t, "<&>\"'\n\xc3\xa9\x01\xff\xef\xbf\xbf");
    writer_u8(&t.out, 0);
    assert_string_equal((char *)t.out.data,
                        "&lt;&amp;&gt;&quot;&#39;&#10;\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd"
                        "\xef\xbf\xbd");
    assert_true(t.replaced);
}

static void test_notes(void **state)
{
    json_t *list = json_array();
    struct notes notes = {.list = list};

    (void)state;
    notes_add(&notes, "a\x1b[31m%s", "\xff\xc2\x9b\n");
    assert_string_equal(json_string_value(json_array_get(list, 0)), "a?[31m???");
    for (int i = 0; i < 1000; i++)
        notes_add(&notes, "%d", i);
    assert_int_equal(json_array_size(list), LIMIT_NOTES + 1);
    assert_false(notes.failed);
    json_decref(list);
}

static void refuse_guest(const struct guest *guest, const char *says)
{
    struct ferry_error err = {0};

    assert_true(guest_check(guest, "sample", &err) < 0);
    assert_int_equal(err.kind, FERRY_REFUSED);
    if (!strstr(err.message, says))
        fail_msg("'%s' does not say '%s'", err.message, says);
}

#define REFUSE_WITH(member, value, says) \
    do {                                 \
        struct guest changed_ = guest;   \
        changed_.member = (value);       \
        refuse_guest(&changed_, says);   \
    } while (0)

static void test_check(void **state)
{
    struct guest guest;

    (void)state;
    guest_sample_rich(&guest);
    assert_int_equal(guest_check(&guest, "sample", NULL), 0);
    REFUSE_WITH(cpus, 0, "0 CPUs");
    REFUSE_WITH(cpus, LIMIT_VCPUS + 1, "65 CPUs");
    REFUSE_WITH(memory_bytes, 0, "memory");
    REFUSE_WITH(memory_bytes, LIMIT_MEMORY_BYTES + 4096, "memory");
    REFUSE_WITH(memory_bytes, 64 * MIB + 1, "memory");
    REFUSE_WITH(disk_count, LIMIT_DISKS + 1, "17 disks");
    REFUSE_WITH(nic_count, LIMIT_NICS + 1, "17 network cards");
    REFUSE_WITH(disks[2].size_bytes, LIMIT_DISK_BYTES + 1, "64 TiB");
    REFUSE_WITH(name[0], 0, "name");
    REFUSE_WITH(name[0], '-', "name");
    REFUSE_WITH(name[1], '\n', "name");
}

/* ---- Those that are only written ---- */

static char *write_text(const struct description_format *format, const struct guest *guest,
                        json_t *notes)
{
    struct ferry_error err = {0};
    char *text = NULL;
    size_t size;

    assert_null(format->read);
    if (format->write(guest, notes, &text, &size, &err))
        fail_msg("%s", err.message);
    assert_int_equal(strlen(text), size);
    return text;
}

static void has(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("there is no '%s' in:\n%s", line, text);
}

static void test_xl(void **state)
{
    struct guest guest;
    json_t *notes = json_array();

    (void)state;
    guest_sample_rich(&guest);
    CLEANUP_FREE char *direct = write_text(&description_xl, &guest, notes);
    has(direct, "type = \"pvh\"\n");
    has(direct, "kernel = \"/vm/vm linuz & \\\"co\\\"\"\n");
    has(direct,
        "cmdline = \" console=ttyS0 quoted=\\\"a b\\\" <&> |22 #{x}\\012\\011next\\\\line \"\n");
    has(direct, "uuid = \"03132333-4353-6373-8393-a3b3c3d3e3f3\"\n");
    has(direct, "memory = 1501\n");
    has(direct, "    \"format=vmdk, vdev=xvdb, access=ro, target=/vm/daten-\xc3\xa9.vmdk\",\n");
    has(direct, "    \"mac=52:54:00:ab:cd:0f, bridge=a \\\"net\\\" & <more>\",\n");
    assert_true(guest_sample_noted(notes, "format vmdk"));
    assert_true(guest_sample_noted(notes, "hvc0"));
    assert_true(guest_sample_noted(notes, "serial number"));
    guest.firmware = GUEST_FIRMWARE_EFI_SECURE;
    snprintf(guest.nics[0].network, sizeof(guest.nics[0].network), "a,b");
    CLEANUP_FREE char *efi = write_text(&description_xl, &guest, notes);
    has(efi, "type = \"hvm\"\nfirmware = \"ovmf\"\n");
    has(efi, "bridge=a-b\"");
    has(efi, "vdev=sda,");
    has(efi, "model=vmxnet3");
    has(efi, "serial = \"pty\"\n");
    assert_true(guest_sample_noted(notes, "Secure Boot"));
    assert_true(guest_sample_noted(notes, "were replaced"));
    json_decref(notes);
}

static void test_vagrant(void **state)
{
    struct guest guest;
    json_t *notes = json_array();
    struct ferry_error err = {0};
    CLEANUP_FREE char *file = NULL;
    char *none = NULL;
    size_t size;

    (void)state;
    guest_sample_rich(&guest);
    snprintf(guest.disks[1].file, sizeof(guest.disks[1].file), "b\xff\n\".img");
    CLEANUP_FREE char *text = write_text(&description_vagrant, &guest, notes);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const char *provider, *format, *first, *second;
    int virtual_size;
    assert_int_equal(json_unpack(root, "{s:s, s:s, s:i, s:[{s:s}, {s:s}]}", "provider", &provider,
                                 "format", &format, "virtual_size", &virtual_size, "disks", "path",
                                 &first, "path", &second),
                     0);
    assert_string_equal(provider, "libvirt");
    assert_string_equal(format, "qcow2");
    assert_int_equal(virtual_size, 2); /* 1 GiB and a sector */
    assert_string_equal(first, "/vm/web 1.vmdk");
    assert_string_equal(second, "b\xef\xbf\xbd\n\".img");
    assert_int_equal(json_array_size(json_object_get(root, "disks")), 5);
    assert_true(guest_sample_noted(notes, "format vmdk"));
    assert_true(guest_sample_noted(notes, "were replaced"));
    json_decref(root);
    assert_int_equal(vagrant_write_file(&guest, notes, &file, &size, &err), 0);
    has(file, "libvirt.memory = 1501\n");
    has(file, "libvirt.kernel = File.expand_path(\"/vm/vm linuz & \\\"co\\\"\", __dir__)\n");
    has(file, "libvirt.cmd_line = \" console=ttyS0 quoted=\\\"a b\\\" <&> |22 "
              "\\#{x}\\x0A\\x09next\\\\line \"");
    guest.disk_count = 0;
    assert_int_equal(description_vagrant.write(&guest, notes, &none, &size, &err), -EINVAL);
    json_decref(notes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),   cmocka_unit_test(test_parts),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_notes),   cmocka_unit_test(test_check),
        cmocka_unit_test(test_xl),      cmocka_unit_test(test_vagrant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
