/* OCI artifacts: there and back, other tools as witnesses, what KubeVirt writes, and what is
 * refused. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zstd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/oci.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/disk_sample.h"
#include "tests/support/machine_files.h"

/* ---- There and back ---- */

static void compare_guests(const struct guest *a, const struct guest *b)
{
    assert_string_equal(a->name, b->name);
    assert_string_equal(a->os, b->os);
    assert_memory_equal(a->uuid, b->uuid, sizeof(a->uuid));
    assert_int_equal(a->cpus, b->cpus);
    assert_int_equal(a->memory_bytes, b->memory_bytes);
    assert_string_equal(a->cpu_model, b->cpu_model);
    assert_int_equal(a->firmware, b->firmware);
    assert_int_equal(a->serial_console, b->serial_console);
    assert_string_equal(a->append, b->append);
    assert_int_equal(a->nic_count, b->nic_count);
    for (uint32_t i = 0; i < a->nic_count; i++) {
        assert_int_equal(a->nics[i].has_mac, b->nics[i].has_mac);
        assert_memory_equal(a->nics[i].mac, b->nics[i].mac, 6);
        assert_string_equal(a->nics[i].network, b->nics[i].network);
        assert_string_equal(a->nics[i].model, b->nics[i].model);
    }
    for (uint32_t i = 0; i < a->disk_count; i++) {
        assert_string_equal(a->disks[i].serial, b->disks[i].serial);
        assert_int_equal(a->disks[i].bus, b->disks[i].bus);
        assert_int_equal(a->disks[i].readonly, b->disks[i].readonly);
    }
}

static void check_file(const struct machine_files *s, int fd)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct ferry_error err = {0};
    struct bundle *bundle;

    if (machine_files_open_file(fd, &bundle_oci, &source, &bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_int_equal(json_array_size(bundle->notes), 0);
    compare_guests(&s->guest, &bundle->guest);
    if (machine_files_compare(s, bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    bundle->format->close(bundle);
}

static void check_folder(const struct machine_files *s, int fd)
{
    struct ferry_error err = {0};
    struct bundle *bundle;

    if (machine_files_open_folder(fd, &bundle_oci_folder, &bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    compare_guests(&s->guest, &bundle->guest);
    if (machine_files_compare(s, bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    bundle->format->close(bundle);
}

static bool same_files(int one, int two)
{
    char command[100];

    snprintf(command, sizeof(command), "cmp -s /proc/%d/fd/%d /proc/%d/fd/%d", getpid(), one,
             getpid(), two);
    return system(command) == 0;
}

static void test_round_trips(void **state)
{
    const struct bundle_write_options options = {.workers = 2, .digest = true};
    const struct bundle_write_options whole = {.workers = 2, .whole = true};
    char path[64];

    (void)state;
    for (int kernel = 0; kernel < 2; kernel++) {
        struct machine_files s;
        machine_files_init(&s, kernel, false);
        CLEANUP_FD int file = machine_files_to_file(&s, &bundle_oci, &options, false);
        CLEANUP_FD int again = machine_files_to_file(&s, &bundle_oci, &options, false);
        CLEANUP_FD int pipe = machine_files_to_file(&s, &bundle_oci, &options, true);
        CLEANUP_FD int twice = machine_files_to_file(&s, &bundle_oci, &whole, true);
        CLEANUP_FD int folder = machine_files_to_folder(&s, &bundle_oci_folder, &options, path);
        check_file(&s, file);
        check_file(&s, pipe);
        check_file(&s, twice);
        check_folder(&s, folder);
        assert_true(same_files(file, again));
        machine_files_remove(path);
        machine_files_free(&s);
    }
}

static int noisy_disk(uint64_t noise, uint64_t size)
{
    int fd = memfd_create("noise", MFD_CLOEXEC);
    CLEANUP_FREE uint64_t *words = malloc(MIB);
    uint64_t state = 88172645463325252u;

    assert_non_null(words);
    for (uint64_t at = 0; at < noise; at += MIB) {
        for (size_t i = 0; i < MIB / 8; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            words[i] = state ^= state << 17;
        }
        assert_int_equal(pwrite_all(fd, words, MIB, at), 0);
    }
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static void test_pieces(void **state)
{
    const struct bundle_write_options options = {.workers = 2, .level = 1};
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct container_index *index = NULL;
    struct machine_files s;

    (void)state;
    machine_files_init(&s, false, false);
    machine_files_add(&s, noisy_disk(100 * MIB, 100 * MIB + 1));
    machine_files_add(&s, noisy_disk(MIB, 1200 * GIB));
    CLEANUP_FD int fd = machine_files_to_file(&s, &bundle_oci, &options, true);
    check_file(&s, fd);
    /* layout, index, manifest, config, nvram; disks 0, 1 and 2, of which two are equal; 3 pieces
     * each of the others */
    assert_int_equal(source_of_fd(fd, "pieces", &source, NULL), 0);
    assert_int_equal(container_index_tar(source, LIMIT_OCI_MEMBERS, &index, NULL), 0);
    assert_int_equal(container_members(index), 5 + 2 + 3 + 3);
    for (uint64_t i = 0; i < container_members(index); i++)
        assert_true(container_member(index, i)->size_bytes <= 64 * MIB);
    container_index_close(index);
    machine_files_free(&s);
}

static void test_holes_cost_nothing(void **state)
{
    const struct bundle_write_options options = {.workers = 2};
    struct machine_files s;
    struct stat st;

    (void)state;
    machine_files_init(&s, false, false);
    machine_files_add(&s, noisy_disk(0, 100 * GIB));
    CLEANUP_FD int fd = machine_files_to_file(&s, &bundle_oci, &options, false);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size < (off_t)(5 * MIB));
    check_file(&s, fd);
    machine_files_free(&s);
}

/* ---- Witnesses ---- */

static void test_skopeo(void **state)
{
    const struct bundle_write_options options = {.workers = 2, .digest = true};
    const struct bundle_write_options piped = {.workers = 2};
    struct machine_files s;
    char path[64], copy[64];

    (void)state;
    machine_files_init(&s, false, false);
    close(machine_files_to_folder(&s, &bundle_oci_folder, &options, path));
    CLEANUP_FD int copied = machine_files_folder(copy);
    CLEANUP_FD int tar = machine_files_to_file(&s, &bundle_oci, &options, false);
    CLEANUP_FD int pipe = machine_files_to_file(&s, &bundle_oci, &piped, true);

    machine_files_run("cd %s/blobs/sha256 && for f in *; do echo \"$f  $f\"; done | sha256sum "
                      "--quiet -c",
                      path);
    machine_files_run("skopeo inspect --raw oci:%s | grep -q '%s'", path, KUBEVIRT_TYPE_DISK);
    machine_files_run("skopeo inspect --raw --config oci:%s | grep -q '\"masquerade\"'", path);
    machine_files_run("skopeo --insecure-policy copy -q oci:%s oci:%s/again", path, copy);
    CLEANUP_FD int again = openat(copied, "again", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    check_folder(&s, again);
    for (int i = 0; i < 2; i++) {
        int fd = i ? pipe : tar;
        machine_files_run("tar tvf /proc/%d/fd/%d > %s/list && cp /proc/%d/fd/%d %s/x.oci.tar",
                          getpid(), fd, copy, getpid(), fd, copy);
        machine_files_run("skopeo --insecure-policy copy -q oci-archive:%s/x.oci.tar dir:%s/dir%d",
                          copy, copy, i);
        machine_files_run("skopeo --insecure-policy copy -q oci-archive:%s/x.oci.tar "
                          "oci-archive:%s/y%d.tar",
                          copy, copy, i);
        char name[100];
        snprintf(name, sizeof(name), "%s/y%d.tar", copy, i);
        CLEANUP_FD int theirs = open(name, O_RDONLY | O_CLOEXEC);
        check_file(&s, theirs);
    }
    machine_files_remove(copy);
    machine_files_remove(path);
    machine_files_free(&s);
}

/* What unpacks a layer gets the disk. */
static void test_zstd(void **state)
{
    const struct bundle_write_options options = {.workers = 2};
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, true, false);
    close(machine_files_to_folder(&s, &bundle_oci_folder, &options, path));
    for (uint32_t i = 0; i < s.guest.disk_count; i++)
        machine_files_run("cd %s/blobs/sha256 && m=$(grep -l artifactType *) && "
                          "l=$(python3 -c 'import json,sys; print([l[\"digest\"][7:] for l in "
                          "json.load(open(sys.argv[1]))[\"layers\"] if l[\"annotations\"].get("
                          "\"io.kubevirt.disk.name\") == sys.argv[2]][0])' $m disk%u) && "
                          "zstd -qt < $l && zstd -qdc < $l | cmp - /proc/%d/fd/%d",
                          path, i, getpid(), s.raw[i]);
    machine_files_remove(path);
    machine_files_free(&s);
}

/* ---- What others write ---- */

#define GUEST_BYTES (64 * KIB)

#define CONFIG                                                                                    \
    "{\"apiVersion\":\"kubevirt.io/v1\",\"kind\":\"VirtualMachine\",\"metadata\":{\"name\":"      \
    "\"fedora\"},\"spec\":{\"runStrategy\":\"Halted\",\"template\":{\"spec\":{\"architecture\":"  \
    "\"amd64\",\"domain\":{\"cpu\":{\"cores\":2,\"sockets\":2},\"memory\":{\"guest\":\"512Mi\"}," \
    "\"firmware\":{\"uuid\":\"01020304-0506-0708-090a-0b0c0d0e0f10\",\"bootloader\":{\"efi\":{"   \
    "\"secureBoot\":false}}},\"devices\":{\"disks\":[{\"name\":\"root\",\"disk\":{\"bus\":"       \
    "\"sata\"},\"serial\":\"S1\"},{\"name\":\"seed\",\"disk\":{\"bus\":\"virtio\"}}],"            \
    "\"interfaces\":[{\"name\":\"a\",\"masquerade\":{},\"macAddress\":\"52:54:00:aa:bb:cc\"}],"   \
    "\"tpm\":{}}},\"networks\":[{\"name\":\"a\",\"pod\":{}}],\"volumes\":[{\"name\":\"root\","    \
    "\"persistentVolumeClaim\":{\"claimName\":\"fedora-root\"}},{\"name\":\"seed\","              \
    "\"cloudInitNoCloud\":{\"userData\":\"#cloud-config\"}}]}}}}"

/* A layout, each part of which can be another; NULL: as it should be. */
struct forged {
    const char *layout, *index, *manifest; /* the whole of it */
    const char *platform;                  /* of the manifest in the index, with a comma before */
    const char *more_manifests;            /* in the index, with a comma before */
    const char *kind, *config_type, *config;
    const char *layer_type, *layer_digest, *disk_size, *disk_name;
    const char *more_layers; /* with a comma before */
    const uint8_t *stored;   /* the layer */
    size_t stored_bytes;
    long layer_size_off;
    bool damage;  /* a byte of the layer, after its digest was taken */
    bool missing; /* the layer */
};

static void put_file(int folder, const char *name, const void *data, size_t size)
{
    CLEANUP_FD int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(pwrite_all(fd, data, size, 0), 0);
}

static const char *put_blob(int folder, const void *data, size_t size, bool missing,
                            char digest[OCI_DIGEST_BYTES])
{
    uint8_t sum[SHA256_BYTES];
    char name[100];

    sha256(data, size, sum);
    oci_format_digest(sum, digest);
    snprintf(name, sizeof(name), "blobs/sha256/%s", digest + 7);
    if (!missing)
        put_file(folder, name, data, size);
    return digest;
}

static const char * or (const char *given, const char *usual)
{
    return given ? given : usual;
}

static void forge_index(int folder, const struct forged *f, const char *manifest)
{
    char digest[OCI_DIGEST_BYTES], index[4000];

    put_blob(folder, manifest, strlen(manifest), false, digest);
    snprintf(index, sizeof(index),
             "{\"schemaVersion\":2,\"mediaType\":\"%s\",\"artifactType\":\"%s\",\"manifests\":[{"
             "\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu%s}%s]}",
             OCI_TYPE_INDEX, KUBEVIRT_TYPE_MACHINE, OCI_TYPE_MANIFEST, digest, strlen(manifest),
             or (f->platform, ",\"platform\":{\"architecture\":\"amd64\",\"os\":\"linux\"}"),
             or (f->more_manifests, ""));
    put_file(folder, "index.json", or (f->index, index), strlen(or (f->index, index)));
    put_file(folder, "oci-layout", or (f->layout, OCI_LAYOUT), strlen(or (f->layout, OCI_LAYOUT)));
}

static size_t usual_layer(uint8_t *stored, size_t room)
{
    uint8_t content[GUEST_BYTES];

    for (size_t i = 0; i < sizeof(content); i++)
        content[i] = (uint8_t)(i * i >> 7);
    size_t size = ZSTD_compress(stored, room, content, sizeof(content), 3);
    assert_false(ZSTD_isError(size));
    return size;
}

/* The folder, open. */
static int forge(const struct forged *f, char path[64])
{
    static uint8_t stored[2 * GUEST_BYTES];
    char layer[OCI_DIGEST_BYTES], config[OCI_DIGEST_BYTES], size[100] = "", manifest[8000];
    const char *machine = or (f->config, CONFIG);
    int folder = machine_files_folder(path);

    assert_int_equal(mkdirat(folder, "blobs", 0700), 0);
    assert_int_equal(mkdirat(folder, "blobs/sha256", 0700), 0);
    size_t bytes = f->stored ? f->stored_bytes : usual_layer(stored, sizeof(stored));
    const uint8_t *data = f->stored ? f->stored : stored;
    put_blob(folder, data, bytes, f->missing, layer);
    if (f->damage) {
        char name[100];
        snprintf(name, sizeof(name), "blobs/sha256/%s", layer + 7);
        stored[bytes / 2] ^= 1;
        put_file(folder, name, stored, bytes);
    }
    put_blob(folder, machine, strlen(machine), false, config);
    if (* or (f->disk_size, "64Ki"))
        snprintf(size, sizeof(size), ",\"io.kubevirt.disk.size\":\"%s\"",
                 or (f->disk_size, "64Ki"));
    snprintf(manifest, sizeof(manifest),
             "{\"schemaVersion\":2,\"mediaType\":\"%s\",\"artifactType\":\"%s\",\"config\":{"
             "\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":"
             "\"%s\",\"digest\":\"%s\",\"size\":%ld,\"annotations\":{\"io.kubevirt.disk.name\":"
             "\"%s\"%s}}%s]}",
             OCI_TYPE_MANIFEST, or (f->kind, KUBEVIRT_TYPE_MACHINE),
             or (f->config_type, KUBEVIRT_TYPE_CONFIG), config, strlen(machine),
             or (f->layer_type, KUBEVIRT_TYPE_DISK), or (f->layer_digest, layer),
             (long)bytes + f->layer_size_off, or (f->disk_name, "root"), size,
             or (f->more_layers, ""));
    forge_index(folder, f, or (f->manifest, manifest));
    return folder;
}

static int try_forged(const struct forged *f, struct bundle **bundle, struct ferry_error *err)
{
    char path[64];
    CLEANUP_FD int folder = forge(f, path);
    int error = machine_files_open_folder(folder, &bundle_oci_folder, bundle, err);

    if (!error) {
        error = machine_files_drain(*bundle, err);
        if (error)
            (*bundle)->format->close(*bundle);
    }
    machine_files_remove(path);
    return error;
}

static void test_kubevirt(void **state)
{
    static const struct forged kinds[] = {
        {0},
        {.disk_size = ""},            /* it is counted */
        {.disk_size = "65536"},       /* another way to say it */
        {.disk_name = "fedora-root"}, /* the claim's name, as KubeVirt 1.9 has it */
        {.platform = ""},             /* as other tools copy it */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        struct ferry_error err = {0};
        struct bundle *bundle;
        if (try_forged(&kinds[i], &bundle, &err))
            fail_msg("%zu: %s: %s", i, err.about, err.message);
        const struct guest *g = &bundle->guest;
        assert_string_equal(g->name, "fedora");
        assert_int_equal(g->cpus, 4);
        assert_int_equal(g->memory_bytes, 512 * MIB);
        assert_int_equal(g->firmware, GUEST_FIRMWARE_EFI);
        assert_int_equal(g->uuid[15], 16);
        assert_int_equal(g->nic_count, 1);
        assert_int_equal(g->nics[0].mac[5], 0xcc);
        assert_int_equal(g->disk_count, 1);
        assert_int_equal(g->disks[0].size_bytes, GUEST_BYTES);
        assert_int_equal(g->disks[0].bus, GUEST_BUS_SATA);
        assert_string_equal(g->disks[0].serial, "S1");
        assert_int_equal(json_array_size(bundle->notes), 2); /* the volume "seed", the TPM */
        bundle->format->close(bundle);
    }
}

static void test_edited_config_counts(void **state)
{
    const struct bundle_write_options options = {.workers = 1};
    struct ferry_error err = {0};
    struct machine_files s;
    struct bundle *bundle;
    char path[64];

    (void)state;
    machine_files_init(&s, false, false);
    CLEANUP_FD int folder = machine_files_to_folder(&s, &bundle_oci_folder, &options, path);
    machine_files_run(
        "cd %s && python3 - <<'END'\n"
        "import json, hashlib\n"
        "def load(d): return json.load(open('blobs/sha256/' + d['digest'][7:]))\n"
        "def store(v, d):\n"
        "    t = json.dumps(v).encode()\n"
        "    h = hashlib.sha256(t).hexdigest()\n"
        "    open('blobs/sha256/' + h, 'wb').write(t)\n"
        "    d['digest'] = 'sha256:' + h; d['size'] = len(t)\n"
        "i = json.load(open('index.json')); m = load(i['manifests'][0]); c = load(m['config'])\n"
        "c['spec']['template']['spec']['domain']['cpu']['cores'] = 7\n"
        "store(c, m['config']); store(m, i['manifests'][0])\n"
        "json.dump(i, open('index.json', 'w'))\n"
        "END",
        path);
    if (machine_files_open_folder(folder, &bundle_oci_folder, &bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_int_equal(bundle->guest.cpus, 7);
    assert_string_equal(bundle->guest.disks[1].serial, "DATA-1");
    assert_string_equal(bundle->guest.nics[1].network, "blue");
    assert_int_equal(bundle->guest.firmware, GUEST_FIRMWARE_EFI_SECURE);
    assert_non_null(strstr(json_string_value(json_array_get(bundle->notes, 0)), "changed"));
    if (machine_files_compare(&s, bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    bundle->format->close(bundle);
    machine_files_remove(path);
    machine_files_free(&s);
}

/* ---- What is refused ---- */

static void refuse(const struct forged *f, const char *says)
{
    struct ferry_error err = {0};
    struct bundle *bundle = NULL;

    assert_true(try_forged(f, &bundle, &err) < 0);
    if (err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("kind %d: '%s' does not say '%s'", err.kind, err.message, says);
}

#define REFUSE(says, ...) refuse(&(struct forged){__VA_ARGS__}, says)
#define ZEROES            "0000000000000000000000000000000000000000000000000000000000000000"

static void test_refused_layouts(void **state)
{
    (void)state;
    REFUSE("version '2.0.0'", .layout = "{\"imageLayoutVersion\":\"2.0.0\"}");
    REFUSE("not JSON", .layout = "{");
    REFUSE("not JSON", .index = "{\"manifests\":[],\"manifests\":[]}");
    REFUSE("no machine for amd64 among its 0", .index = "{\"manifests\":[]}");
    REFUSE("no machine for amd64 among its 1", .platform = ",\"platform\":{\"architecture\":"
                                                           "\"arm64\",\"os\":\"linux\"}");
    REFUSE("2 machines for amd64", .more_manifests = ",{\"mediaType\":\"x\"}");
    REFUSE("is no SHA-256", .index = "{\"manifests\":[{\"mediaType\":\"" OCI_TYPE_MANIFEST
                                     "\",\"digest\":\"sha256:../../etc/passwd\",\"size\":1}]}");
    REFUSE("names a 'application/x'",
           .index = "{\"manifests\":[{\"mediaType\":\"application/x\"}]}");
    REFUSE("image of a container",
           .index = "{\"manifests\":[{\"mediaType\":"
                    "\"application/vnd.docker.distribution.manifest.v2+json\"}]}");
    REFUSE("not JSON", .manifest = "[");
    REFUSE("not a JSON object", .manifest = "[]");
    REFUSE("too deep",
           .manifest = "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]"
                       "]]]]]]]]]]]]]]]]]]}");
    REFUSE("kind ''", .manifest = "{}");
    REFUSE("kind 'application/vnd.example'", .kind = "application/vnd.example");
    REFUSE("is a template", .kind = KUBEVIRT_TYPE_TEMPLATE);
}

static void test_refused_layers(void **state)
{
    (void)state;
    REFUSE("its digest is another", .damage = true);
    REFUSE("is missing", .missing = true);
    REFUSE("not what is said of it", .layer_size_off = 1);
    REFUSE("not what is said of it", .layer_size_off = -1000000);
    REFUSE("is missing", .layer_digest = "sha256:" ZEROES);
    REFUSE("is no SHA-256",
           .layer_digest = "sha256:../../../../../../../../../../../../etc/passwd");
    REFUSE("is no SHA-256", .layer_digest = "sha512:" ZEROES ZEROES);
    REFUSE("is no SHA-256", .layer_digest = "sha256:" ZEROES "/..");
    REFUSE("is no SHA-256", .layer_digest = "sha256:ABCDEF00000000000000000000000000000000000000000"
                                            "00000000000000000");
    REFUSE("not known: 'application/vnd.kubevirt.persistentstate.tar+zstd'",
           .layer_type = "application/vnd.kubevirt.persistentstate.tar+zstd");
    REFUSE("containerDisk", .layer_type = "application/vnd.oci.image.layer.v1.tar+gzip");
    REFUSE("without a proper name", .disk_name = "");
    REFUSE("of a size that makes no sense", .disk_size = "ten");
    REFUSE("of a size that makes no sense", .disk_size = "65Ti");
    REFUSE("of a size that makes no sense", .disk_size = "99999999999Ei");
    REFUSE("is cut short", .disk_size = "65Ki");
    REFUSE("holds more than", .disk_size = "63Ki");
    REFUSE("two disks 'root'", .more_layers = ",{\"mediaType\":\"" KUBEVIRT_TYPE_DISK
                                              "\",\"annotations\":{\"io.kubevirt.disk.name\":"
                                              "\"root\"}}");
    REFUSE("without its offset", .layer_type = FERRY_TYPE_PIECE);
    REFUSE("in disorder",
           .more_layers =
               ",{\"mediaType\":\"" FERRY_TYPE_PIECE
               "\",\"annotations\":{\"io.kubevirt.disk.name\":\"other\",\"" FERRY_NOTE_OFFSET
               "\":\"5\"}}");
    REFUSE("is damaged", .stored = (const uint8_t *)"not zstd at all", .stored_bytes = 15);
}

static void test_refused_machines(void **state)
{
    (void)state;
    REFUSE("its config is a 'x'", .config_type = "x");
    REFUSE("describe a VirtualMachine", .config = "{\"kind\":\"Pod\"}");
    REFUSE("describe a VirtualMachine", .config = "{\"kind\":\"VirtualMachine\",\"spec\":[]}");
#define DOMAIN(inner) \
    "{\"kind\":\"VirtualMachine\",\"spec\":{\"template\":{\"spec\":{\"domain\":{" inner "}}}}}"
    REFUSE("\"1Zi\" of memory", .config = DOMAIN("\"memory\":{\"guest\":\"1Zi\"}"));
    REFUSE("memory", .config = DOMAIN("\"memory\":{\"guest\":\"1Ki\"}"));
    REFUSE("memory", .config = DOMAIN("\"memory\":{\"guest\":\"2Ti\"}"));
    REFUSE("CPUs", .config = DOMAIN("\"cpu\":{\"cores\":65535,\"sockets\":65535}"));
    REFUSE("for arm64", .config = "{\"kind\":\"VirtualMachine\",\"spec\":{\"template\":{\"spec\":{"
                                  "\"architecture\":\"arm64\",\"domain\":{}}}}}");
}

static void test_streams_are_refused(void **state)
{
    struct stream stream = {.about = "pipe"};
    const struct bundle_input input = {.stream = &stream, .folder_fd = -1, .about = "pipe"};
    struct ferry_error err = {0};
    struct bundle *bundle;

    (void)state;
    assert_int_equal(bundle_oci.open(&input, &bundle, &err), -ESPIPE);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "put it into a file"));
}

static void test_options(void **state)
{
    const struct bundle_write_options bad[] = {
        {.disk_format = "qcow2"}, {.codec = "zlib"}, {.whole = true}};
    struct bundle_write_result result;
    struct machine_files s;

    (void)state;
    machine_files_init(&s, false, false);
    s.content.reread = false;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct sink sink = {.write = NULL, .about = "pipe"}; /* not a byte may be written */
        struct bundle_output output = {.sink = &sink, .folder_fd = -1, .about = "pipe"};
        struct ferry_error err = {0};
        assert_true(bundle_oci.write(&output, &s.content, &bad[i], &result, &err) < 0);
        assert_int_equal(err.kind, FERRY_USAGE);
    }
    machine_files_free(&s);
}

static void test_losses(void **state)
{
    struct machine_files s;
    json_t *notes = json_array();

    (void)state;
    machine_files_init(&s, true, false);
    s.guest.disks[2].bus = GUEST_BUS_NVME;
    snprintf(s.guest.cpu_model, sizeof(s.guest.cpu_model), "x86-64-v2");
    assert_int_equal(bundle_oci.losses(&s.content, notes, NULL), 0);
    /* the bus, the second network, the CPU model, direct boot, two layers */
    assert_int_equal(json_array_size(notes), 6);
    json_decref(notes);
    machine_files_free(&s);
}

static void test_quantities(void **state)
{
    static const uint64_t values[] = {0, 1, 1000, 1024, 65536, 10 * GIB, 9 * MIB + 777, 64 * TIB};
    char text[KUBEVIRT_QUANTITY_BYTES];
    uint64_t value;

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        assert_int_equal(kubevirt_parse_quantity(kubevirt_format_quantity(values[i], text), &value),
                         0);
        assert_true(value == values[i]);
    }
    assert_string_equal(kubevirt_format_quantity(10 * GIB, text), "10Gi");
    assert_int_equal(kubevirt_parse_quantity("2G", &value), 0);
    assert_true(value == 2000000000);
    assert_int_equal(kubevirt_parse_quantity("1.5Gi", &value), -EINVAL);
    assert_int_equal(kubevirt_parse_quantity("-1", &value), -EINVAL);
    assert_int_equal(kubevirt_parse_quantity("", &value), -EINVAL);
    assert_int_equal(kubevirt_parse_quantity("16Ei", &value), -EINVAL);
}

static void test_probe(void **state)
{
    const struct bundle_write_options options = {.workers = 1};
    CLEANUP(source_cleanup) struct source *source = NULL;
    const struct bundle_format *format = NULL;
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, true, false);
    CLEANUP_FD int folder = machine_files_to_folder(&s, &bundle_oci_folder, &options, path);
    CLEANUP_FD int file = machine_files_to_file(&s, &bundle_oci, &options, true);
    struct bundle_input input = {.folder_fd = folder, .about = path};
    assert_int_equal(bundle_format_probe(&input, &format, NULL), 0);
    assert_ptr_equal(format, &bundle_oci_folder);
    assert_int_equal(source_of_fd(file, "file", &source, NULL), 0);
    input = (struct bundle_input){.source = source, .folder_fd = -1, .about = "file"};
    assert_int_equal(bundle_format_probe(&input, &format, NULL), 0);
    assert_ptr_equal(format, &bundle_oci);
    assert_ptr_equal(bundle_format_by_extension("a/b.oci.tar"), &bundle_oci);
    machine_files_remove(path);
    machine_files_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_holes_cost_nothing),
        cmocka_unit_test(test_skopeo),
        cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_kubevirt),
        cmocka_unit_test(test_edited_config_counts),
        cmocka_unit_test(test_refused_layouts),
        cmocka_unit_test(test_refused_layers),
        cmocka_unit_test(test_refused_machines),
        cmocka_unit_test(test_streams_are_refused),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_quantities),
        cmocka_unit_test(test_probe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
