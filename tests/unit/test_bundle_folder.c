/* Bundles of plain files: there and back, other tools as witnesses, and what is refused. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/machine_files.h"

static void read_back(const struct machine_files *s, const struct bundle_format *format, int folder)
{
    struct ferry_error err = {0};
    struct bundle *bundle;

    if (machine_files_open_folder(folder, format, &bundle, &err))
        fail_msg("%s: %s: %s", format->name, err.about, err.message);
    assert_string_equal(bundle->guest.name, s->guest.name);
    assert_int_equal(bundle->guest.cpus, s->guest.cpus);
    assert_int_equal(bundle->guest.memory_bytes, s->guest.memory_bytes);
    assert_int_equal(bundle->guest.firmware, s->guest.firmware);
    assert_int_equal(bundle->guest.nic_count, s->guest.nic_count);
    assert_memory_equal(bundle->guest.nics[0].mac, s->guest.nics[0].mac, 6);
    assert_string_equal(bundle->guest.disks[1].serial, "DATA-1");
    if (machine_files_compare(s, bundle, &err))
        fail_msg("%s: %s: %s", format->name, err.about, err.message);
    bundle->format->close(bundle);
}

static void test_round_trips(void **state)
{
    static const struct {
        const struct bundle_format *format;
        struct bundle_write_options options;
    } kinds[] = {
        {&bundle_libvirt, {.workers = 2}},
        {&bundle_libvirt, {.workers = 2, .disk_format = "raw"}},
        {&bundle_libvirt, {.workers = 2, .codec = "zstd"}},
        {&bundle_vmx, {.workers = 2}},
        {&bundle_vmx, {.workers = 2, .codec = "zlib"}},
    };
    char path[64];

    (void)state;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        for (int kernel = 0; kernel < 2; kernel++) {
            struct machine_files s;
            machine_files_init(&s, kernel, true);
            CLEANUP_FD int folder =
                machine_files_to_folder(&s, kinds[i].format, &kinds[i].options, path);
            read_back(&s, kinds[i].format, folder);
            machine_files_remove(path);
            machine_files_free(&s);
        }
}

/* A raw disk keeps its odd size. */
static void test_odd_size(void **state)
{
    const struct bundle_write_options raw = {.workers = 2, .disk_format = "raw"};
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, false, false);
    CLEANUP_FD int folder = machine_files_to_folder(&s, &bundle_libvirt, &raw, path);
    read_back(&s, &bundle_libvirt, folder);
    machine_files_remove(path);
    machine_files_free(&s);
}

/* ---- Witnesses ---- */

static void compare_by_qemu(const struct machine_files *s, const char *path, const char *stem,
                            const char *ending, const char *format)
{
    for (uint32_t i = 0; i < s->guest.disk_count; i++) {
        char file[100];
        snprintf(file, sizeof(file), "%s%u%s", stem, i, ending);
        machine_files_run("qemu-img compare -q -f raw -F %s /proc/%d/fd/%d '%s/%s'", format,
                          getpid(), s->raw[i], path, file);
    }
}

static void test_qemu(void **state)
{
    const struct bundle_write_options options = {.workers = 2};
    const struct bundle_write_options packed = {.workers = 2, .codec = "zlib"};
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, true, true);
    close(machine_files_to_folder(&s, &bundle_libvirt, &options, path));
    compare_by_qemu(&s, path, "disk", ".qcow2", "qcow2");
    machine_files_run("cd %s && [ \"$(echo *)\" = 'disk0.qcow2 disk1.qcow2 disk2.qcow2 domain.xml "
                      "initrd kernel' ] && xmllint --noout domain.xml",
                      path);
    machine_files_remove(path);

    close(machine_files_to_folder(&s, &bundle_vmx, &options, path));
    compare_by_qemu(&s, path, "Web-1-", ".vmdk", "vmdk");
    machine_files_run("grep -q 'fileName = \"Web-1-0.vmdk\"' %s/Web-1.vmx && "
                      "qemu-img info %s/Web-1-0.vmdk | grep -q monolithicSparse",
                      path, path);
    machine_files_remove(path);
    close(machine_files_to_folder(&s, &bundle_vmx, &packed, path));
    compare_by_qemu(&s, path, "Web-1-", ".vmdk", "vmdk");
    machine_files_run("qemu-img info %s/Web-1-0.vmdk | grep -q streamOptimized", path);
    machine_files_remove(path);

    close(machine_files_to_folder(&s, &bundle_xl, &options, path));
    compare_by_qemu(&s, path, "disk", ".raw", "raw");
    machine_files_run("cd %s && grep -q disk2.raw Web-1.cfg && grep -q '^kernel' Web-1.cfg && "
                      "[ $(du -k disk1.raw | cut -f1) -lt 1000 ] && "
                      "python3 -c \"exec(open('Web-1.cfg').read()); assert vcpus == 3\"",
                      path);
    machine_files_remove(path);
    machine_files_free(&s);
}

static void test_vagrant(void **state)
{
    const struct bundle_write_options options = {.workers = 2};
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, false, true);
    CLEANUP_FD int file = machine_files_to_file(&s, &bundle_vagrant, &options, false);
    CLEANUP_FD int pipe = machine_files_to_file(&s, &bundle_vagrant, &options, true);
    machine_files_run("cmp /proc/%d/fd/%d /proc/%d/fd/%d", getpid(), file, getpid(), pipe);
    close(machine_files_folder(path));
    machine_files_run("tar xf /proc/%d/fd/%d -C %s", getpid(), pipe, path);
    machine_files_run("cd %s && ln -s box.img box_0.img && grep -q 'libvirt.cpus = 3' Vagrantfile "
                      "&& python3 -c \"import json; m = json.load(open('metadata.json')); "
                      "assert m['provider'] == 'libvirt' and m['format'] == 'qcow2' and "
                      "[d['path'] for d in m['disks']] == ['box.img', 'box_1.img', 'box_2.img']\"",
                      path);
    compare_by_qemu(&s, path, "box_", ".img", "qcow2");
    machine_files_remove(path);
    machine_files_free(&s);
}

static void test_usage(void **state)
{
    static const struct {
        const struct bundle_format *format;
        struct bundle_write_options options;
    } bad[] = {
        {&bundle_libvirt, {.disk_format = "vmdk"}},
        {&bundle_vmx, {.disk_format = "raw"}},
        {&bundle_vagrant, {.disk_format = "raw"}},
        {&bundle_vagrant, {.whole = true}}, /* into a pipe, and not to be read again */
    };
    struct sink sink = {.write = NULL, .about = "pipe"}; /* not a byte may be written */
    struct bundle_write_result result;
    struct machine_files s;

    (void)state;
    machine_files_init(&s, false, true);
    s.content.reread = false;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct bundle_output output = {.sink = &sink, .folder_fd = -1, .about = "pipe"};
        struct ferry_error err = {0};
        assert_true(bad[i].format->write(&output, &s.content, &bad[i].options, &result, &err) < 0);
        assert_int_equal(err.kind, FERRY_USAGE);
    }
    machine_files_free(&s);
}

static void test_losses(void **state)
{
    static const struct bundle_format *const formats[] = {&bundle_libvirt, &bundle_vmx, &bundle_xl,
                                                          &bundle_vagrant};
    struct machine_files s;

    (void)state;
    machine_files_init(&s, true, true);
    snprintf(s.guest.cpu_model, sizeof(s.guest.cpu_model), "x86-64-v2");
    for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
        json_t *notes = json_array();
        assert_int_equal(formats[i]->losses(&s.content, notes, NULL), 0);
        assert_true(i == 0 || json_array_size(notes) > 0);
        json_decref(notes);
    }
    machine_files_free(&s);
}

static void test_probe(void **state)
{
    const struct bundle_write_options options = {.workers = 1};
    static const struct bundle_format *const formats[] = {&bundle_libvirt, &bundle_vmx};
    const struct bundle_format *format;
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, true, true);
    for (size_t i = 0; i < 2; i++) {
        CLEANUP_FD int folder = machine_files_to_folder(&s, formats[i], &options, path);
        const struct bundle_input input = {.folder_fd = folder, .about = path};
        assert_int_equal(bundle_format_probe(&input, &format, NULL), 0);
        assert_ptr_equal(format, formats[i]);
        machine_files_remove(path);
    }
    machine_files_free(&s);
}

/* ---- What is refused ---- */

/* A folder as it should be, then changed by a command, must be refused so. */
static void refuse(const struct bundle_format *format, const char *change, const char *says)
{
    const struct bundle_write_options options = {.workers = 1};
    struct ferry_error err = {0};
    struct machine_files s;
    struct bundle *bundle;
    char path[64];

    machine_files_init(&s, true, true);
    CLEANUP_FD int folder = machine_files_to_folder(&s, format, &options, path);
    machine_files_run("cd %s && %s", path, change);
    int error = machine_files_open_folder(folder, format, &bundle, &err);
    machine_files_remove(path);
    machine_files_free(&s);
    assert_true(error < 0);
    if (err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("%s: kind %d: '%s' does not say '%s'", change, err.kind, err.message, says);
}

/* A disk whose content is in another file, of 100 sectors. */
#define FLAT(external, disk)                                                     \
    "printf '%s\\n' '# Disk DescriptorFile' version=1 CID=1 parentCID=ffffffff " \
    "'createType=\"monolithicFlat\"' 'RW 100 FLAT \"" external "\" 0' > " disk

static void test_refused(void **state)
{
    (void)state;
    refuse(&bundle_libvirt, "rm domain.xml", "no file *.xml");
    refuse(&bundle_libvirt, "cp domain.xml other.xml", "two descriptions");
    refuse(&bundle_libvirt, "rm disk1.qcow2", "'disk1.qcow2', which is not beside");
    refuse(&bundle_libvirt, "rm kernel", "'kernel', which is not beside");
    refuse(&bundle_libvirt, "sed -i 's,disk0.qcow2,/etc/passwd,' domain.xml", "'/etc/passwd'");
    refuse(&bundle_libvirt, "sed -i 's,disk0.qcow2,../disk0.qcow2,' domain.xml", "not beside");
    refuse(&bundle_libvirt, "sed -i \"s,disk0.qcow2,$PWD/disk0.qcow2,\" domain.xml", "not beside");
    refuse(&bundle_libvirt, "sed -i 's,disk0.qcow2,.//disk0.qcow2,' domain.xml", "not beside");
    refuse(&bundle_libvirt, "mkdir d && mv disk0.qcow2 d && sed -i 's,disk0,d/disk0,' domain.xml",
           "not beside");
    refuse(&bundle_libvirt, "rm disk0.qcow2 && ln -s /etc/passwd disk0.qcow2", "disk0.qcow2");
    refuse(&bundle_libvirt, "rm kernel && ln -s /etc/passwd kernel", "kernel");
    refuse(&bundle_libvirt, "mkfifo pipe", "pipe");
    refuse(&bundle_libvirt, "qemu-img rebase -u -F raw -b /etc/passwd disk0.qcow2", "/etc/passwd");
    refuse(&bundle_libvirt, "cp kernel disk0.qcow2", "is not a qcow2");
    refuse(&bundle_libvirt,
           "sed -i \"s,\\\\(type\\\\|format\\\\)=.qcow2., ,\" domain.xml && cp kernel disk0.qcow2",
           "a raw disk must be called one");
    refuse(&bundle_libvirt, "head -c 5000000 /dev/zero > domain.xml", "more than 4194304 bytes");
    refuse(&bundle_libvirt, "truncate -s 1025M kernel", "has more than");
    refuse(&bundle_vmx, "sed -i 's,Web-1-0.vmdk,/etc/passwd,' Web-1.vmx", "'/etc/passwd'");
    refuse(&bundle_vmx, "sed -i 's,Web-1-0.vmdk,..\\\\\\\\Web-1-0.vmdk,' Web-1.vmx", "not beside");
    refuse(&bundle_vmx, "cp Web-1.vmx b.vmx", "two descriptions");
    refuse(&bundle_vmx, FLAT("/etc/passwd", "Web-1-0.vmdk"), "'Web-1-0-flat.vmdk' is looked for");
    refuse(&bundle_vmx,
           FLAT("/etc/passwd", "Web-1-0.vmdk") " && cp kernel Web-1-0-flat.vmdk && "
                                               "truncate -s 1M Web-1-0-flat.vmdk",
           "in another file than 'Web-1-0-flat.vmdk'");
    refuse(&bundle_vmx, FLAT("Web-1-0-flat.vmdk", "Web-1-0.vmdk") " && cp kernel Web-1-0-flat.vmdk",
           "shorter");
    refuse(&bundle_vmx,
           FLAT("Web-1-0-flat.vmdk", "Web-1-0.vmdk") " && ln -s /etc/passwd Web-1-0-flat.vmdk",
           "Web-1-0-flat.vmdk");
}

static void test_flat(void **state)
{
    const struct bundle_write_options options = {.workers = 2};
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, true, true);
    CLEANUP_FD int folder = machine_files_to_folder(&s, &bundle_vmx, &options, path);
    machine_files_run("cd %s && rm Web-1-1.vmdk && qemu-img convert -f raw -O vmdk -o "
                      "subformat=monolithicFlat /proc/%d/fd/%d Web-1-1.vmdk && "
                      "[ -e Web-1-1-flat.vmdk ]",
                      path, getpid(), s.raw[1]);
    read_back(&s, &bundle_vmx, folder);
    machine_files_remove(path);
    machine_files_free(&s);
}

/* Variables that a host keeps elsewhere are no reason to refuse a machine. */
static void test_nvram_elsewhere(void **state)
{
    const struct bundle_write_options options = {.workers = 1};
    struct ferry_error err = {0};
    struct machine_files s;
    struct bundle *bundle;
    char path[64];

    (void)state;
    machine_files_init(&s, false, true);
    CLEANUP_FD int folder = machine_files_to_folder(&s, &bundle_libvirt, &options, path);
    machine_files_run("cd %s && sed -i 's,nvram.fd,/var/lib/vars.fd,' domain.xml", path);
    if (machine_files_open_folder(folder, &bundle_libvirt, &bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_null(bundle->files[GUEST_NVRAM].data);
    assert_string_equal(bundle->guest.files[GUEST_NVRAM], "");
    assert_non_null(
        strstr(json_string_value(json_array_get(bundle->notes, json_array_size(bundle->notes) - 1)),
               "/var/lib/vars.fd"));
    bundle->format->close(bundle);
    machine_files_remove(path);
    machine_files_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_odd_size),
        cmocka_unit_test(test_qemu),        cmocka_unit_test(test_vagrant),
        cmocka_unit_test(test_usage),       cmocka_unit_test(test_losses),
        cmocka_unit_test(test_probe),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_flat),        cmocka_unit_test(test_nvram_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
