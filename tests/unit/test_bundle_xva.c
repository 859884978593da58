/*
 * XVA: there and back, taken apart by a reader in Python that follows XAPI's, archives as XenServer
 * makes them (other sums, blocks that keep a connection alive), and what must be refused.
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
#include "tests/support/bundle_sample.h"
#include "tests/support/test_folder.h"

/* out/ID for each disk, with all sums compared, as XAPI's recv_all_vdi has it. */
static const char taker[] =
    "import tarfile, xxhash, hashlib, sys, os, xml.etree.ElementTree as ET\n"
    "t = tarfile.open(sys.argv[1]); m = t.getmembers(); assert m[0].name == 'ova.xml'\n"
    "def val(v):\n"
    "    s = v.find('struct'); a = v.find('array/data'); b = v.find('boolean')\n"
    "    if s is not None: return {x.find('name').text: val(x.find('value')) for x in s}\n"
    "    if a is not None: return [val(x) for x in a]\n"
    "    if b is not None: return bool(int(b.text))\n"
    "    return v.text or ''\n"
    "x = val(ET.fromstring(t.extractfile(m[0]).read()))\n"
    "o = {v['id']: v for v in x['objects']}; assert len(o) == len(x['objects'])\n"
    "vm = o['Ref:0']['snapshot']; assert vm['name_label'] == 'sample'\n"
    "assert vm['VCPUs_max'] == '3' and vm['memory_static_max'] == str(768 << 20)\n"
    "assert vm['HVM_boot_params']['firmware'] == 'uefi'\n"
    "vif = o[vm['VIFs'][0]]['snapshot']; assert vif['MAC'] == '52:54:00:01:02:03'\n"
    "vbds = [o[v]['snapshot'] for v in vm['VBDs']]\n"
    "vdis = [b['VDI'] for b in vbds]; assert sorted(vdis) == vdis\n"
    "i = 1; os.makedirs('out', exist_ok=True)\n"
    "for n, vdi in enumerate(vdis):\n"
    "    size = int(o[vdi]['snapshot']['virtual_size']); off = 0; last = -1; first = -1\n"
    "    f = open('out/%d' % n, 'wb')\n"
    "    while off < size:\n"
    "        b = m[i]; d = t.extractfile(b).read(); c = t.extractfile(m[i + 1]).read().decode()\n"
    "        assert b.name.startswith(vdi + '/') and m[i + 1].name == b.name + '.xxhash'\n"
    "        assert c == '%016X' % xxhash.xxh64(d).intdigest()\n"
    "        num = int(b.name.split('/')[1]); assert num > last\n"
    "        first = len(d) if first < 0 else first\n"
    "        off += first * (num - last - 1); f.seek(off); f.write(d); off += len(d)\n"
    "        last = num; i += 2\n"
    "    assert off == size\n"
    "assert i == len(m)\n";

static void ok(int result, const struct ferry_error *err)
{
    if (result)
        fail_msg("%d: %s: %s (%s)", result, err->about, err->message, err->cause);
}

static int write_xva(const char *name, bool in_order)
{
    const struct bundle_write_options options = {.workers = 2, .digest = true};
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    int fd = test_folder_open(name, O_CREAT | O_EXCL | O_RDWR);

    bundle_sample_open(&sample, false);
    ok(bundle_sample_write(&sample, &bundle_xva, fd, in_order, &options, &err), &err);
    bundle_sample_close(&sample);
    return fd;
}

/* In both ways; the sample's NVRAM is not kept. */
static void read_xva(int fd, const char *noted)
{
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    json_t *notes = NULL;

    bundle_sample_open(&sample, false);
    struct source *nvram = take_ptr(&sample.content.files[GUEST_NVRAM]);
    for (int way = BUNDLE_AT_RANDOM; way <= BUNDLE_IN_ORDER; way++) {
        ok(bundle_sample_read(&bundle_xva, fd, way, &sample, &notes, &err), &err);
        assert_true(noted ? bundle_sample_noted(notes, noted) : json_array_size(notes) == 0);
        json_decref(notes);
    }
    sample.content.files[GUEST_NVRAM] = nvram;
    bundle_sample_close(&sample);
}

static void compare_disk(const struct bundle_sample *sample, int index)
{
    CLEANUP_FD int fd = test_folder_open(index ? "out/1" : "out/0", O_RDONLY);
    char data[2][4096];

    assert_int_equal(lseek(fd, 0, SEEK_END), sample->size[index]);
    for (uint64_t at = 0; at < sample->size[index]; at += 4096) {
        size_t part = sample->size[index] - at < 4096 ? sample->size[index] - at : 4096;
        memset(data, 0, sizeof(data));
        assert_true(pread(sample->raw[index], data[0], part, (off_t)at) > 0);
        assert_int_equal(pread_all(fd, data[1], part, at), 0);
        assert_memory_equal(data[0], data[1], part);
    }
}

static void test_there_and_back(void **state)
{
    struct bundle_sample sample;

    (void)state;
    CLEANUP_FD int fd = write_xva("a.xva", false);
    CLEANUP_FD int pipe = write_xva("b.xva", true);
    assert_int_equal(shell("cmp a.xva b.xva"), 0);
    (void)pipe;
    read_xva(fd, NULL);
    CLEANUP_FD int script = test_folder_open("take.py", O_CREAT | O_WRONLY);
    assert_int_equal(write_all(script, taker, sizeof(taker) - 1), 0);
    assert_int_equal(shell("/usr/bin/python3 take.py a.xva"), 0);
    bundle_sample_open(&sample, false);
    compare_disk(&sample, 0);
    compare_disk(&sample, 1);
    bundle_sample_close(&sample);
    /* most of 70 MiB is zero, and the first and the last block are there */
    assert_int_equal(shell("tar -tf a.xva | grep -v hash > list; "
                           "grep -qx Ref:101/00000000 list && grep -qx Ref:101/00000069 list && "
                           "test $(wc -l < list) -lt 14"),
                     0);
}

/* A disk of zeroes and one whose only data is in a short last block. */
static void test_small_disks(void **state)
{
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    static const uint64_t sizes[] = {3 * MIB, 2 * MIB + 512};
    const struct disk_copy_options copy = {.workers = 1};
    struct disk_copy_result result;
    struct disk *disk;

    (void)state;
    CLEANUP_FD int fd = test_folder_open("a.xva", O_CREAT | O_RDWR);
    bundle_sample_open(&sample, false);
    struct source *nvram = take_ptr(&sample.content.files[GUEST_NVRAM]);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(ftruncate(sample.raw[i], 0), 0);
        assert_int_equal(ftruncate(sample.raw[i], (off_t)sizes[i]), 0);
        if (i)
            assert_int_equal(pwrite_all(sample.raw[i], "x", 1, 2 * MIB + 77), 0);
        sample.guest.disks[i].size_bytes = sample.size[i] = sizes[i];
        ok(sample.content.disk(&sample, i, &disk, &err), &err);
        ok(disk_digest(disk, sizes[i], &copy, &result, &err), &err);
        memcpy(sample.digest[i], result.digest, SHA256_BYTES);
    }
    ok(bundle_sample_write(&sample, &bundle_xva, fd, false, NULL, &err), &err);
    assert_int_equal(shell("tar -tf a.xva | grep -v hash | tr '\\n' ' ' | "
                           "grep -qx 'ova.xml Ref:100/00000000 Ref:100/00000002 Ref:101/00000000 "
                           "Ref:101/00000002 '"),
                     0);
    for (int way = BUNDLE_AT_RANDOM; way <= BUNDLE_IN_ORDER; way++)
        ok(bundle_sample_read(&bundle_xva, fd, way, &sample, NULL, &err), &err);
    sample.content.files[GUEST_NVRAM] = nvram;
    bundle_sample_close(&sample);
}

/* ---- As others make them, and broken ones ---- */

/* Unpack one, change it by a script, and pack what "list" names, in this order. */
static int repack(const char *script)
{
    assert_int_equal(shell("rm -rf a.xva b.xva p"), 0);
    close(write_xva("a.xva", false));
    assert_int_equal(
        shell("mkdir p && tar -C p -xf a.xva && tar -tf a.xva > p/list && cd p && { %s\n}"
              " && tar --format=ustar --hard-dereference -cf ../b.xva -T list",
              script),
        0);
    return test_folder_open("b.xva", O_RDWR);
}

#define RENUMBER                                                                            \
    "python3 - << 'END'\n"                                                                  \
    "import os\n" /* an empty block before number 1 of Ref:101; those behind it count on */ \
    "l = open('list').read().split(); out = []\n"                                           \
    "for n in l:\n"                                                                         \
    "    d, s, rest = n.partition('/')\n"                                                   \
    "    if d != 'Ref:101' or rest.startswith('00000000'): out.append(n); continue\n"       \
    "    num = int(rest[:8]) + 1; new = 'Ref:101/k%08d%s' % (num, rest[8:])\n"              \
    "    os.rename(n, new); out.append(new)\n"                                              \
    "res = []\n"                                                                            \
    "for n in out:\n"                                                                       \
    "    m = n.replace('/k', '/'); n != m and os.rename(n, m); res.append(m)\n"             \
    "i = max(k for k, n in enumerate(res) if n.startswith('Ref:101/00000000')) + 1\n"       \
    "open('Ref:101/00000001', 'w'); open('Ref:101/00000001.xxhash', 'w').write("            \
    "'EF46DB3751D8E999')\n"                                                                 \
    "res[i:i] = ['Ref:101/00000001', 'Ref:101/00000001.xxhash']\n"                          \
    "open('list', 'w').write('\\n'.join(res) + '\\n')\n"                                    \
    "END\n"

static void test_archives_of_xenserver(void **state)
{
    (void)state;
    CLEANUP_FD int sha1 =
        repack("for f in Ref:*/*.xxhash; do b=${f%.xxhash}; sha1sum < $b | head -c 40 > "
               "$b.checksum; done; sed -i s/xxhash/checksum/ list");
    read_xva(sha1, NULL);
    CLEANUP_FD int alive = repack(RENUMBER);
    read_xva(alive, NULL);
    CLEANUP_FD int bare = repack("grep -v xxhash list > l; mv l list");
    read_xva(bare, "have no sums");
    CLEANUP_FD int more = repack("echo x > readme; mkdir Ref:7; echo x > Ref:7/00000000; "
                                 "printf 'readme\\nRef:7/00000000\\n' >> list");
    read_xva(more, "'readme' is not kept");
    read_xva(more, "'Ref:7' is not kept");
    CLEANUP_FD int upside_down =
        repack("grep -v Ref:100 list > l; grep Ref:100 list >> l; mv l list");
    read_xva(upside_down, NULL);
    CLEANUP_FD int nvram = repack(
        "sed -i 's,<member><name>HVM_boot_policy,<member><name>NVRAM</name><value><struct><member>"
        "<name>EFI-variables</name><value>VkFSUw==</value></member></struct></value></"
        "member>\\n&,' "
        "ova.xml");
    read_xva(nvram, "own form");
}

static void refuse(const char *says, const char *script)
{
    CLEANUP_FD int fd = repack(script);

    bundle_sample_refuse(&bundle_xva, fd, BUNDLE_AT_RANDOM, says);
    bundle_sample_refuse(&bundle_xva, fd, BUNDLE_IN_ORDER, says);
}

static void test_refused_blocks(void **state)
{
    (void)state;
    refuse("is damaged",
           "printf X | dd of=Ref:101/00000001 bs=1 seek=1000 conv=notrunc status=none");
    refuse("is damaged", "printf 0123456789ABCDEF > Ref:101/00000069.xxhash");
    refuse("that is none", "printf 0123456789ABCDEG > Ref:101/00000069.xxhash");
    refuse("that is none", "printf 0123 > Ref:101/00000069.xxhash");
    refuse("is no sum", "head -c 65 /dev/zero > Ref:101/00000069.xxhash");
    refuse("not behind its block", "sed -i /Ref:101.00000069$/d list");
    refuse("cut short", "sed -i /Ref:101.00000069/d list");
    refuse("wrong place", "sed -i /Ref:101.00000000/d list");
    refuse("wrong place", "grep -v 00000001 list > l; grep Ref:101/00000001 list >> l; mv l list");
    refuse("behind the end", "mv Ref:101/00000069 Ref:101/00000070; "
                             "mv Ref:101/00000069.xxhash Ref:101/00000070.xxhash; "
                             "sed -i s,101/00000069,101/00000070, list");
    refuse("behind the end", "mv Ref:101/00000069 Ref:101/999999999999999999; "
                             "mv Ref:101/00000069.xxhash Ref:101/999999999999999999.xxhash; "
                             "sed -i s,101/00000069,101/999999999999999999, list");
    refuse("17825792 bytes", "truncate -s 17M Ref:101/00000000");
    refuse("two members", "echo Ref:101/00000069 >> list; true");
}

static void test_refused_disks(void **state)
{
    CLEANUP_FD int fd = repack("grep -v Ref:101 list > l; mv l list");

    (void)state;
    bundle_sample_refuse(&bundle_xva, fd, BUNDLE_AT_RANDOM, "cut short");
    bundle_sample_refuse(&bundle_xva, fd, BUNDLE_IN_ORDER, "lacks its disk 'Ref:101'");
    CLEANUP_FD int between = repack("cp -r Ref:100 x; f=Ref:100/00000005; grep -v $f list > l; "
                                    "grep $f list >> l; mv l list");
    bundle_sample_refuse(&bundle_xva, between, BUNDLE_IN_ORDER, "cut short");
}

static void test_refused_descriptions(void **state)
{
    static const struct {
        const char *says, *script;
    } cases[] = {
        {"ova.xml", "grep -v ova.xml list > l; mv l list"},
        {"CPUs", "sed -i 's,>3<,>3000<,' ova.xml"},
        {"memory", "sed -i 's,>805306368<,>17<,' ova.xml"},
        {"no objects", "sed -i 's,objects,object,' ova.xml"},
        {"does not describe", "sed -i 's,<value>VDI</value>,<value>XDI</value>,' ova.xml"},
        {"twice",
         "sed -i 's,<name>VDI</name><value>Ref:101,<name>VDI</name><value>Ref:100,' ova.xml"},
        {"has 2 machines", "sed -i 's,<value>SR</value>,<value>VM</value>,' ova.xml"},
        {"has 0 machines", "sed -i 's,<value>VM</value>,<value>WM</value>,' ova.xml"},
        {"of 0 bytes", "sed -i 's,virtual_size</name><value>[0-9]*,&x,' ova.xml"},
        {"", "sed -i '2i<!DOCTYPE value [<!ENTITY x SYSTEM \"/etc/passwd\">]>' ova.xml"},
        {"", "head -c 3000 ova.xml > x; mv x ova.xml"},
        {"", "truncate -s 5M ova.xml"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        refuse(cases[i].says, cases[i].script);
}

static void test_losses(void **state)
{
    const struct bundle_write_options options = {.disk_format = "vmdk"};
    struct ferry_error err = {.code = 0};
    struct bundle_sample sample;
    json_t *notes = json_array();

    (void)state;
    bundle_sample_open(&sample, true);
    ok(bundle_xva.losses(&sample.content, notes, &err), &err);
    assert_true(bundle_sample_noted(notes, "kernel"));
    assert_true(bundle_sample_noted(notes, "variables"));
    json_decref(notes);
    CLEANUP_FD int fd = test_folder_open("a.xva", O_CREAT | O_RDWR);
    assert_int_equal(bundle_sample_write(&sample, &bundle_xva, fd, false, &options, &err), -EINVAL);
    bundle_sample_close(&sample);
}

static void test_recognised(void **state)
{
    uint8_t head[DISK_PROBE_HEAD_BYTES];
    const struct bundle_input input = {.folder_fd = -1, .about = "file"};

    (void)state;
    CLEANUP_FD int fd = write_xva("a.xva", false);
    assert_int_equal(pread_all(fd, head, sizeof(head), 0), 0);
    assert_ptr_equal(bundle_format_by_head(&input, head, sizeof(head)), &bundle_xva);
    assert_ptr_equal(bundle_format_by_extension("x.xva"), &bundle_xva);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_IN_FOLDER(test_there_and_back),
        TEST_IN_FOLDER(test_small_disks),
        TEST_IN_FOLDER(test_archives_of_xenserver),
        TEST_IN_FOLDER(test_refused_blocks),
        TEST_IN_FOLDER(test_refused_disks),
        TEST_IN_FOLDER(test_refused_descriptions),
        TEST_IN_FOLDER(test_losses),
        TEST_IN_FOLDER(test_recognised),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
