/* OCI artifacts that ferry did not write: KubeVirt's, and what is refused. */
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
#include <zstd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/oci.h"
#include "tests/support/machine_files.h"

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
    bool damage; /* a byte of the layer, after its digest was taken */
    bool damage_config;
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

/* One bit of it is another. */
static void damage_blob(int folder, const char *digest, const void *data, size_t size)
{
    CLEANUP_FREE uint8_t *bytes = malloc(size);
    char name[100];

    assert_non_null(bytes);
    memcpy(bytes, data, size);
    bytes[size / 2] ^= 1;
    snprintf(name, sizeof(name), "blobs/sha256/%s", digest + 7);
    put_file(folder, name, bytes, size);
}

static const char *given_or(const char *given, const char *usual)
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
             given_or(f->platform, ",\"platform\":{\"architecture\":\"amd64\",\"os\":\"linux\"}"),
             given_or(f->more_manifests, ""));
    put_file(folder, "index.json", given_or(f->index, index), strlen(given_or(f->index, index)));
    put_file(folder, "oci-layout", given_or(f->layout, OCI_LAYOUT),
             strlen(given_or(f->layout, OCI_LAYOUT)));
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
    const char *machine = given_or(f->config, CONFIG);
    int folder = machine_files_folder(path);

    assert_int_equal(mkdirat(folder, "blobs", 0700), 0);
    assert_int_equal(mkdirat(folder, "blobs/sha256", 0700), 0);
    size_t bytes = f->stored ? f->stored_bytes : usual_layer(stored, sizeof(stored));
    const uint8_t *data = f->stored ? f->stored : stored;
    put_blob(folder, data, bytes, f->missing, layer);
    if (f->damage)
        damage_blob(folder, layer, data, bytes);
    put_blob(folder, machine, strlen(machine), false, config);
    if (f->damage_config)
        damage_blob(folder, config, machine, strlen(machine));
    if (*given_or(f->disk_size, "64Ki"))
        snprintf(size, sizeof(size), ",\"io.kubevirt.disk.size\":\"%s\"",
                 given_or(f->disk_size, "64Ki"));
    snprintf(manifest, sizeof(manifest),
             "{\"schemaVersion\":2,\"mediaType\":\"%s\",\"artifactType\":\"%s\",\"config\":{"
             "\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":"
             "\"%s\",\"digest\":\"%s\",\"size\":%ld,\"annotations\":{\"io.kubevirt.disk.name\":"
             "\"%s\"%s}}%s]}",
             OCI_TYPE_MANIFEST, given_or(f->kind, KUBEVIRT_TYPE_MACHINE),
             given_or(f->config_type, KUBEVIRT_TYPE_CONFIG), config, strlen(machine),
             given_or(f->layer_type, KUBEVIRT_TYPE_DISK), given_or(f->layer_digest, layer),
             (long)bytes + f->layer_size_off, given_or(f->disk_name, "root"), size,
             given_or(f->more_layers, ""));
    forge_index(folder, f, given_or(f->manifest, manifest));
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

/* An index that names an index, as tools make it that copy all platforms of something. */
static void test_nested_index(void **state)
{
    const struct forged usual = {0};
    struct ferry_error err = {0};
    struct bundle *bundle;
    char path[64];

    (void)state;
    CLEANUP_FD int folder = forge(&usual, path);
    for (int depth = 1; depth <= 2; depth++) {
        machine_files_run("cd %s && h=$(sha256sum < index.json | cut -d' ' -f1) && "
                          "n=$(stat -c %%s index.json) && mv index.json blobs/sha256/$h && "
                          "printf '{\"manifests\":[{\"mediaType\":\"" OCI_TYPE_INDEX
                          "\",\"digest\":\"sha256:%%s\",\"size\":%%s}]}' $h $n > index.json",
                          path);
        int error = machine_files_open_folder(folder, &bundle_oci_folder, &bundle, &err);
        assert_int_equal(error, depth == 1 ? 0 : -ELOOP);
        if (error)
            continue;
        assert_string_equal(bundle->guest.name, "fedora");
        assert_int_equal(machine_files_drain(bundle, &err), 0);
        bundle->format->close(bundle);
    }
    machine_files_remove(path);
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
    REFUSE("its digest is another", .damage_config = true);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kubevirt),
        cmocka_unit_test(test_nested_index),
        cmocka_unit_test(test_edited_config_counts),
        cmocka_unit_test(test_refused_layouts),
        cmocka_unit_test(test_refused_layers),
        cmocka_unit_test(test_refused_machines),
        cmocka_unit_test(test_streams_are_refused),
        cmocka_unit_test(test_quantities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
