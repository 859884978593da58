/*
 * OVA and OVF: there and back in each way, by tar, sha256sum and qemu-img as witnesses, packages as
 * others make them, and what must be refused.
 */
#include <errno.h>
#include <fcntl.h>
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
#include "imagefmt/foreign/source.h"
#include "tests/support/bundle_sample.h"
#include "tests/support/test_folder.h"

static void ok(int result, const struct ferry_error *err)
{
    if (result)
        fail_msg("%d: %s: %s (%s)", result, err->about, err->message, err->cause);
}

static int write_ova(const char *name, bool in_order, bool whole, bool kernel)
{
    const struct bundle_write_options options = {.workers = 2, .whole = whole, .digest = true};
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    int fd = test_folder_open(name, O_CREAT | O_EXCL | O_RDWR);

    bundle_sample_open(&sample, kernel);
    ok(bundle_sample_write(&sample, &bundle_ova, fd, in_order, &options, &err), &err);
    bundle_sample_close(&sample);
    return fd;
}

static void read_ova(int fd, bool kernel)
{
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    json_t *notes = NULL;

    bundle_sample_open(&sample, kernel);
    for (int way = BUNDLE_AT_RANDOM; way <= BUNDLE_IN_ORDER; way++) {
        ok(bundle_sample_read(&bundle_ova, fd, way, &sample, &notes, &err), &err);
        assert_false(bundle_sample_noted(notes, "manifest"));
        json_decref(notes);
    }
    bundle_sample_close(&sample);
}

/* tar, sha256sum, qemu-img and xmllint agree with what was written. */
static void witness(const char *name)
{
    assert_int_equal(shell("mkdir w && tar -C w -xf %s 2> errors && ! test -s errors && cd w && "
                           "test \"$(tar -tf ../%s | head -1)\" = sample.ovf && "
                           "test \"$(tar -tf ../%s | tail -1)\" = sample.mf && "
                           "sed -E 's/^SHA256\\((.*)\\)= (.*)$/\\2  \\1/' sample.mf | sha256sum -c "
                           "--quiet && test $(wc -l < sample.mf) = $(($(ls | wc -l) - 1))",
                           name, name, name),
                     0);
    assert_int_equal(shell("cd w && for i in 1 2; do test -e sample-disk$i.vmdk || "
                           "cat sample-disk$i.vmdk.0* > sample-disk$i.vmdk || exit 1; "
                           "qemu-img convert -O raw sample-disk$i.vmdk disk$i || exit 1; done"),
                     0);
}

static void compare_disks(void)
{
    struct bundle_sample sample;
    char data[2][4096];

    bundle_sample_open(&sample, false);
    for (int i = 0; i < 2; i++) {
        CLEANUP_FD int fd = test_folder_open(i ? "w/disk2" : "w/disk1", O_RDONLY);
        assert_int_equal(lseek(fd, 0, SEEK_END), sample.size[i]);
        for (uint64_t at = 0; at < sample.size[i]; at += 4096) {
            size_t part = sample.size[i] - at < 4096 ? sample.size[i] - at : 4096;
            memset(data, 0, sizeof(data));
            assert_true(pread(sample.raw[i], data[0], part, (off_t)at) > 0);
            assert_int_equal(pread_all(fd, data[1], part, at), 0);
            assert_memory_equal(data[0], data[1], part);
        }
    }
    bundle_sample_close(&sample);
}

static void test_file(void **state)
{
    (void)state;
    CLEANUP_FD int fd = write_ova("a.ova", false, false, false);
    read_ova(fd, false);
    witness("a.ova");
    compare_disks();
    assert_int_equal(shell("cd w && for i in 1 2; do grep -q \"ovf:href=\\\"sample-disk$i.vmdk\\\" "
                           "ovf:size=\\\"$(stat -c %%s sample-disk$i.vmdk)\\\"\" sample.ovf || "
                           "{ grep -n File sample.ovf; exit 1; }; done"),
                     0);
    CLEANUP_FD int again = write_ova("b.ova", false, false, false);
    assert_int_equal(shell("cmp a.ova b.ova"), 0);
    (void)again;
}

static void test_pieces_into_a_pipe(void **state)
{
    (void)state;
    CLEANUP_FD int fd = write_ova("a.ova", true, false, true);
    read_ova(fd, true);
    witness("a.ova");
    compare_disks();
    assert_int_equal(shell("tar -tf a.ova | grep -qx sample-disk1.vmdk.000000000"), 0);
}

static void test_whole_into_a_pipe(void **state)
{
    struct bundle_sample sample;
    struct ferry_error err;
    const struct bundle_write_options options = {.whole = true};

    (void)state;
    CLEANUP_FD int fd = write_ova("a.ova", true, true, false);
    read_ova(fd, false);
    witness("a.ova");
    compare_disks();
    bundle_sample_open(&sample, false);
    sample.content.reread = false;
    CLEANUP_FD int other = test_folder_open("b.ova", O_CREAT | O_RDWR);
    assert_int_equal(bundle_sample_write(&sample, &bundle_ova, other, true, &options, &err),
                     -EINVAL);
    assert_int_equal(err.kind, FERRY_USAGE);
    bundle_sample_close(&sample);
}

static void test_folder(void **state)
{
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    const struct bundle_format *format = NULL;

    (void)state;
    assert_int_equal(shell("mkdir d"), 0);
    CLEANUP_FD int fd = test_folder_open("d", O_RDONLY | O_DIRECTORY);
    bundle_sample_open(&sample, true);
    ok(bundle_sample_write(&sample, &bundle_ovf, fd, false, NULL, &err), &err);
    const struct bundle_input input = {.folder_fd = fd, .about = "folder"};
    ok(bundle_format_probe(&input, &format, &err), &err);
    assert_ptr_equal(format, &bundle_ovf);
    ok(bundle_sample_read(&bundle_ovf, fd, BUNDLE_FOLDER, &sample, NULL, &err), &err);
    /* a link in place of a disk */
    assert_int_equal(shell("cd d && mv sample-disk2.vmdk .. && ln -s ../sample-disk2.vmdk ."), 0);
    bundle_sample_refuse(&bundle_ovf, fd, BUNDLE_FOLDER, "neither a plain file");
    bundle_sample_close(&sample);
}

static void test_other_disk_formats(void **state)
{
    static const char *const names[] = {"qcow2", "raw"};
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;

    (void)state;
    bundle_sample_open(&sample, false);
    for (size_t i = 0; i < 2; i++) {
        const struct bundle_write_options options = {.disk_format = names[i]};
        assert_int_equal(shell("rm -rf d; mkdir d"), 0);
        CLEANUP_FD int fd = test_folder_open("d", O_RDONLY | O_DIRECTORY);
        sample.size[0] = i ? 5 * MIB + 100 : 5 * MIB + 512;
        if (i) {
            const struct disk_copy_options copy = {.workers = 1};
            struct disk_copy_result result;
            struct disk *disk;
            ok(sample.content.disk(&sample, 0, &disk, &err), &err);
            ok(disk_digest(disk, sample.size[0], &copy, &result, &err), &err);
            memcpy(sample.digest[0], result.digest, SHA256_BYTES);
        }
        ok(bundle_sample_write(&sample, &bundle_ovf, fd, false, &options, &err), &err);
        ok(bundle_sample_read(&bundle_ovf, fd, BUNDLE_FOLDER, &sample, NULL, &err), &err);
    }
    static const char *const none[] = {"no such", "ferry"};
    for (size_t i = 0; i < 2; i++) {
        const struct bundle_write_options options = {.disk_format = none[i]};
        assert_int_equal(bundle_sample_write(&sample, &bundle_ovf, -1, false, &options, &err),
                         -EINVAL);
    }
    bundle_sample_close(&sample);
}

static void test_recognised(void **state)
{
    uint8_t head[DISK_PROBE_HEAD_BYTES];
    const struct bundle_input input = {.folder_fd = -1, .about = "file"};

    (void)state;
    CLEANUP_FD int fd = write_ova("a.ova", false, false, false);
    assert_int_equal(pread_all(fd, head, sizeof(head), 0), 0);
    assert_ptr_equal(bundle_format_by_head(&input, head, sizeof(head)), &bundle_ova);
    head[0] = 'S';
    assert_null(bundle_format_by_head(&input, head, sizeof(head)));
    assert_ptr_equal(bundle_format_by_name("ova"), &bundle_ova);
    assert_ptr_equal(bundle_format_by_extension("a/b.ova"), &bundle_ova);
    assert_null(bundle_format_by_extension("a/ova"));
}

/* ---- Packages by others, and broken ones ---- */

/* Unpack a written one and pack it anew by the script, into b.ova. */
static int __attribute__((format(printf, 2, 3))) repack(bool pieces, const char *format, ...)
{
    char script[2048];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(script, sizeof(script), format, arguments);
    va_end(arguments);
    assert_int_equal(shell("rm -rf a.ova b.ova p"), 0);
    close(write_ova("a.ova", pieces, false, false));
    assert_int_equal(shell("mkdir p && tar -C p -xf a.ova && cd p && { %s\n}", script), 0);
    return test_folder_open("b.ova", O_RDWR);
}

#define OTHERS "sample-disk1.vmdk sample-disk2.vmdk sample.nvram"

static void read_noted(int fd, bool says, const char *what)
{
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    json_t *notes;

    bundle_sample_open(&sample, false);
    for (int way = BUNDLE_AT_RANDOM; way <= BUNDLE_IN_ORDER; way++) {
        ok(bundle_sample_read(&bundle_ova, fd, way, &sample, &notes, &err), &err);
        assert_true(bundle_sample_noted(notes, what) == says);
        json_decref(notes);
    }
    bundle_sample_close(&sample);
}

static void test_packages_of_others(void **state)
{
    (void)state;
    /* the manifest second, by openssl, in each kind of sum, with an end of line of Windows */
    for (int i = 0; i < 3; i++) {
        CLEANUP_FD int fd = repack(false,
                                   "openssl dgst -%s sample.ovf " OTHERS " > sample.mf && "
                                   "grep -c '^SHA' sample.mf | grep -qx 4 && "
                                   "sed -i 's/$/\\r/; s/SHA2-/SHA/' sample.mf && "
                                   "tar --format=ustar -cf ../b.ova sample.ovf sample.mf " OTHERS,
                                   i == 0   ? "sha1"
                                   : i == 1 ? "sha256"
                                            : "sha512");
        read_noted(fd, false, "manifest");
    }
    CLEANUP_FD int none = repack(false, "tar -cf ../b.ova sample.ovf " OTHERS);
    read_noted(none, true, "no manifest");
    CLEANUP_FD int cert = repack(false, "echo x > sample.cert && tar -cf ../b.ova sample.ovf "
                                        "sample.mf sample.cert " OTHERS);
    read_noted(cert, true, "signature");
    CLEANUP_FD int more = repack(false, "echo x > readme && tar -cf ../b.ova sample.ovf readme "
                                        "sample.mf " OTHERS);
    read_noted(more, true, "'readme' is not kept");
    CLEANUP_FD int unsummed = repack(false, "sed -i /nvram/d sample.mf && "
                                            "tar -cf ../b.ova sample.ovf sample.mf " OTHERS);
    read_noted(unsummed, true, "'sample.nvram' has no sum");
    CLEANUP_FD int upside_down =
        repack(false, "tar -cf ../b.ova sample.ovf sample.nvram sample-disk2.vmdk "
                      "sample-disk1.vmdk sample.mf");
    read_noted(upside_down, false, "manifest");
}

/* Descriptions as VMware's and VirtualBox's tools make them, with disks of ours. */
static void test_descriptions_of_others(void **state)
{
    static const char *const names[] = {"ovftool", "vsphere", "virtualbox-1", "virtualbox-2"};
    char here[1024];

    (void)state;
    assert_non_null(getcwd(here, sizeof(here)));
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        struct ferry_error err = {.code = 0};
        CLEANUP_FD int fd =
            repack(false,
                   "mkdir q; cp %s/tests/fuzz/corpus/ovf/%s.ovf q/x.ovf; cd q; sed -i -E "
                   "'s/ ovf:(chunkSize|compression)=\"[^\"]*\"//; s/%%202/2/' x.ovf; "
                   "for f in $(grep -o 'href=\"[^\"]*\"' x.ovf | cut -d'\"' -f2); do case $f in "
                   "*.vmdk) cp ../sample-disk1.vmdk $f;; *) cp ../sample.nvram $f;; esac; done; "
                   "openssl dgst -sha1 * > x.mf; tar --format=ustar -cf ../../b.ova x.ovf x.mf "
                   "$(ls | grep -v '^x')",
                   here, names[i]);
        for (int way = BUNDLE_AT_RANDOM; way <= BUNDLE_IN_ORDER; way++) {
            json_t *notes = NULL;
            ok(bundle_sample_read(&bundle_ova, fd, way, NULL, &notes, &err), &err);
            assert_false(bundle_sample_noted(notes, "manifest"));
            json_decref(notes);
        }
    }
}

/* Each in pieces of 16 KiB, and gzipped as a whole. */
static void test_small_pieces_and_gzip(void **state)
{
    static const char script[] =
        "for i in 1 2; do f=sample-disk$i.vmdk; test %d = 0 || { gzip -n < $f > z && mv z $f; }; "
        "s=$(stat -c %%s $f); "
        "sed -i -E \"s/(href=\\\"$f\\\") ovf:size=\\\"[0-9]*\\\"/\\1 ovf:size=\\\"$s\\\" "
        "ovf:chunkSize=\\\"16384\\\" %s/\" sample.ovf; "
        "split -b 16384 -d -a 9 $f $f.; rm $f; done; "
        "openssl dgst -sha1 sample.ovf *.vmdk.0* > sample.mf; "
        "tar -cf ../b.ova sample.ovf sample.mf sample-disk1.vmdk.0* sample.nvram "
        "sample-disk2.vmdk.0*";

    (void)state;
    CLEANUP_FD int pieces = repack(false, script, 0, "");
    read_noted(pieces, false, "not kept");
    CLEANUP_FD int gzipped = repack(false, script, 1, "ovf:compression=\\\"gzip\\\"");
    read_noted(gzipped, false, "not kept");
}

static void refuse(const char *says, bool pieces, const char *script)
{
    CLEANUP_FD int fd = repack(pieces, "%s", script);

    bundle_sample_refuse(&bundle_ova, fd, BUNDLE_AT_RANDOM, says);
    bundle_sample_refuse(&bundle_ova, fd, BUNDLE_IN_ORDER, says);
}

#define PACK "tar -P -cf ../b.ova sample.ovf sample.mf " OTHERS
#define SUMS \
    "openssl dgst -sha256 sample.ovf " OTHERS " > sample.mf; sed -i s/SHA2-/SHA/ sample.mf; "
#define FLIP(file, at) "printf X | dd of=" file " bs=1 seek=" at " conv=notrunc status=none; "

static void test_refused_sums(void **state)
{
    (void)state;
    refuse("'sample.nvram' is damaged", false, FLIP("sample.nvram", "100") PACK);
    refuse("'sample.ovf' is damaged", false, "sed -i 's/sample</simple</' sample.ovf; " PACK);
    /* padding behind a grain, which nothing but the sum covers */
    refuse("is damaged", false, FLIP("sample-disk1.vmdk", "65000") PACK);
    refuse("'sample.nvram' is damaged", false,
           FLIP("sample.nvram", "100") "tar -cf ../b.ova sample.ovf " OTHERS " sample.mf");
    refuse("no sum of a known kind", false, "sed -i 's/SHA256/MD5/' sample.mf; " PACK);
    refuse("no sum of a known kind", false, "sed -i '2s/.$//' sample.mf; " PACK);
    refuse("leads elsewhere", false, "sed -i '2s,(,(../,' sample.mf; " PACK);
    refuse("lacks 'other'", false, "sed -i '2s,(.*),(other),' sample.mf; " PACK);
}

static void test_refused_members(void **state)
{
    (void)state;
    refuse("lacks its disk 'sample-disk2.vmdk'", false,
           "sed -i /disk2/d sample.mf; tar -cf ../b.ova sample.ovf sample.mf sample-disk1.vmdk "
           "sample.nvram");
    refuse("lacks its file 'sample.nvram'", false,
           "sed -i /nvram/d sample.mf; tar -cf ../b.ova sample.ovf sample.mf sample-disk1.vmdk "
           "sample-disk2.vmdk");
    refuse("lacks 'sample.nvram'", false,
           "sed -i 's/sample.nvram/x.nvram/' sample.ovf; cp sample.nvram x.nvram; " SUMS
           "tar -cf ../b.ova sample.ovf sample.mf sample-disk1.vmdk sample-disk2.vmdk x.nvram");
    refuse("two members", false,
           "tar --hard-dereference -cf ../b.ova sample.ovf sample.mf " OTHERS " sample.nvram");
    refuse("has both", false,
           "cp sample.ovf z.ovf; tar -cf ../b.ova sample.ovf sample.mf z.ovf " OTHERS);
    refuse("symbolic link", false, "rm sample.nvram; ln -s /etc/passwd sample.nvram; " PACK);
    refuse("cut short", false,
           PACK "; python3 -c 'f = open(\"../b.ova\", \"r+b\"); d = f.read().rstrip(b\"\\0\"); "
                "f.truncate((len(d) + 511) // 512 * 512)'");
}

static void test_refused_names(void **state)
{
    static const char *const hrefs[] = {"http://host/d.vmdk", "file:///etc/passwd", "/etc/passwd",
                                        "../d.vmdk", "a/../../d.vmdk"};
    static const char *const says[] = {"not in the package", "not in the package", "absolute",
                                       "leads elsewhere", "leads elsewhere"};

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        char script[400];
        snprintf(script, sizeof(script),
                 "sed -i 's,\"sample-disk2.vmdk\",\"%s\",' sample.ovf; " SUMS PACK, hrefs[i]);
        refuse(says[i], false, script);
    }
}

static void test_refused_pieces(void **state)
{
#define SPLIT                                                                                  \
    "f=sample-disk2.vmdk; sed -i -E \"s/(href=\\\"$f\\\")/\\1 ovf:chunkSize=\\\"16384\\\"/\" " \
    "sample.ovf; split -b 16384 -d -a 9 $f $f.; rm $f; "
#define PACK_SPLIT "tar -cf ../b.ova sample.ovf sample-disk1.vmdk sample.nvram sample-disk2.vmdk.0*"
    (void)state;
    refuse("piece", false, SPLIT "rm $f.000000001; " PACK_SPLIT);
    refuse("piece", false, SPLIT "rm $f.000000000; " PACK_SPLIT);
    refuse("lacks a piece", false, SPLIT "rm $(ls $f.* | tail -1); " PACK_SPLIT);
    CLEANUP_FD int unsized = repack(false, "%s",
                                    SPLIT "sed -i -E 's/ ovf:size=\"[0-9]*\"//' "
                                          "sample.ovf; rm $f.000000001; " PACK_SPLIT);
    bundle_sample_refuse(&bundle_ova, unsized, BUNDLE_AT_RANDOM, "lacks a piece");
    bundle_sample_refuse(&bundle_ova, unsized, BUNDLE_IN_ORDER, "");
    refuse("wrong size", false, SPLIT "truncate -s 16385 $f.000000000; " PACK_SPLIT);
}

/* What is only possible in order, or only at random. */
static void test_order(void **state)
{
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;

    (void)state;
    CLEANUP_FD int fd = repack(false, "tar -cf ../b.ova " OTHERS " sample.ovf sample.mf");
    bundle_sample_open(&sample, false);
    ok(bundle_sample_read(&bundle_ova, fd, BUNDLE_AT_RANDOM, &sample, NULL, &err), &err);
    bundle_sample_refuse(&bundle_ova, fd, BUNDLE_IN_ORDER, "does not begin with its .ovf");
    CLEANUP_FD int sparse = repack(
        false, "mv sample-disk2.vmdk x && qemu-img convert -O vmdk x sample-disk2.vmdk && rm x && "
               "tar -cf ../b.ova sample.ovf " OTHERS);
    ok(bundle_sample_read(&bundle_ova, sparse, BUNDLE_AT_RANDOM, &sample, NULL, &err), &err);
    bundle_sample_refuse(&bundle_ova, sparse, BUNDLE_IN_ORDER, "");
    bundle_sample_close(&sample);
}

/* A raw disk in pieces, of which only the description says how large it is. */
static void test_raw_pieces(void **state)
{
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    const struct bundle_write_options options = {.disk_format = "raw"};

    (void)state;
    CLEANUP_FD int fd = test_folder_open("a.ova", O_CREAT | O_RDWR);
    bundle_sample_open(&sample, false);
    ok(bundle_sample_write(&sample, &bundle_ova, fd, true, &options, &err), &err);
    for (int way = BUNDLE_AT_RANDOM; way <= BUNDLE_IN_ORDER; way++)
        ok(bundle_sample_read(&bundle_ova, fd, way, NULL, NULL, &err), &err);
    assert_int_equal(shell("tar -tf a.ova | grep -qx sample-disk2.raw.000000001"), 0);
    bundle_sample_close(&sample);
}

static void test_losses(void **state)
{
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    json_t *notes = json_array();

    (void)state;
    bundle_sample_open(&sample, false);
    sample.guest.disks[1].readonly = true;
    ok(bundle_ova.losses(&sample.content, notes, &err), &err);
    assert_true(bundle_sample_noted(notes, "read-only"));
    json_decref(notes);
    bundle_sample_close(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_IN_FOLDER(test_file),
        TEST_IN_FOLDER(test_pieces_into_a_pipe),
        TEST_IN_FOLDER(test_whole_into_a_pipe),
        TEST_IN_FOLDER(test_folder),
        TEST_IN_FOLDER(test_other_disk_formats),
        TEST_IN_FOLDER(test_recognised),
        TEST_IN_FOLDER(test_packages_of_others),
        TEST_IN_FOLDER(test_descriptions_of_others),
        TEST_IN_FOLDER(test_small_pieces_and_gzip),
        TEST_IN_FOLDER(test_refused_sums),
        TEST_IN_FOLDER(test_refused_members),
        TEST_IN_FOLDER(test_refused_names),
        TEST_IN_FOLDER(test_refused_pieces),
        TEST_IN_FOLDER(test_order),
        TEST_IN_FOLDER(test_raw_pieces),
        TEST_IN_FOLDER(test_losses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
