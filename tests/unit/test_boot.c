/*
 * The boot loader: kernels forged here, loaded into real RAM and looked at there; and what must be
 * refused.  Files are memfds, named by /proc/self/fd.
 */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "common/limits.h"
#include "tests/support/fake_platform.h"
#include "vmm/boot.h"
#include "vmm/layout.h"

#define RAM_BYTES     (64 * MIB)
#define RSDP          0xe0000
#define MAP_BYTES     UINT64_C(24) /* one entry of the memory map */
#define IMAGE_BYTES   0x8000
#define NOTES_AT      0x800
#define TEXT_AT       0x1000
#define TEXT_BYTES    0x1000
#define TEXT_GPA      0x200000
#define TEXT_MEMORY   0x3000
#define DATA_AT       0x2000
#define DATA_BYTES    0x234
#define DATA_GPA      0x400000
#define SETUP_SECTS   4
#define PAYLOAD_AT    0xa00 /* behind SETUP_SECTS sectors and the boot sector */
#define PAYLOAD_BYTES (IMAGE_BYTES - PAYLOAD_AT)
#define INIT_SIZE     0x100000
#define PREF_ADDRESS  0x1000000

struct image {
    uint8_t bytes[IMAGE_BYTES];
    size_t size;
};

static Elf64_Phdr *phdr(struct image *k, unsigned i)
{
    return (Elf64_Phdr *)(void *)(k->bytes + sizeof(Elf64_Ehdr)) + i;
}

static Elf64_Ehdr *ehdr(struct image *k)
{
    return (Elf64_Ehdr *)(void *)k->bytes;
}

static uint32_t *note(struct image *k)
{
    return (uint32_t *)(void *)(k->bytes + NOTES_AT);
}

/* Two segments with a pattern, and the note behind another one. */
static struct image *make_elf(void)
{
    static const uint32_t notes[] = {4, 3, 6,  0x006e6558, 0x00363264, /* "Xen", odd size */
                                     4, 4, 18, 0x006e6558, TEXT_GPA + 0x10, 0}; /* the entry */
    struct image *k = calloc(1, sizeof(*k));

    assert_non_null(k);
    k->size = IMAGE_BYTES;
    *ehdr(k) = (Elf64_Ehdr){.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                            .e_type = ET_EXEC,
                            .e_machine = EM_X86_64,
                            .e_phoff = sizeof(Elf64_Ehdr),
                            .e_phentsize = sizeof(Elf64_Phdr),
                            .e_phnum = 3};
    *phdr(k, 0) = (Elf64_Phdr){.p_type = PT_LOAD,
                               .p_offset = TEXT_AT,
                               .p_paddr = TEXT_GPA,
                               .p_filesz = TEXT_BYTES,
                               .p_memsz = TEXT_MEMORY};
    *phdr(k, 1) = (Elf64_Phdr){.p_type = PT_LOAD,
                               .p_offset = DATA_AT,
                               .p_paddr = DATA_GPA,
                               .p_filesz = DATA_BYTES,
                               .p_memsz = DATA_BYTES};
    *phdr(k, 2) =
        (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = NOTES_AT, .p_filesz = sizeof(notes) - 4};
    memcpy(note(k), notes, sizeof(notes));
    for (int i = TEXT_AT; i < IMAGE_BYTES; i++)
        k->bytes[i] = (uint8_t)(i * 7 + (i >> 8));
    return k;
}

static void poke(struct image *k, size_t offset, uint64_t value, size_t size)
{
    memcpy(k->bytes + offset, &value, size);
}

static struct image *make_bzimage(void)
{
    struct image *k = calloc(1, sizeof(*k));

    assert_non_null(k);
    k->size = IMAGE_BYTES;
    for (int i = PAYLOAD_AT; i < IMAGE_BYTES; i++)
        k->bytes[i] = (uint8_t)(i * 5 + (i >> 8));
    k->bytes[0x1f1] = SETUP_SECTS;
    poke(k, 0x1fe, 0xaa55, 2);
    poke(k, 0x200, 0x6aeb, 2);
    poke(k, 0x202, 0x53726448, 4);
    poke(k, 0x206, 0x020f, 2);
    k->bytes[0x211] = 1;
    poke(k, 0x22c, 0x7fffffff, 4);
    poke(k, 0x230, 0x200000, 4);
    k->bytes[0x234] = 1;
    poke(k, 0x236, 1, 2);
    poke(k, 0x238, 2047, 4);
    poke(k, 0x250, 0xdeadbeef, 8); /* setup_data: not for the file to say */
    poke(k, 0x258, PREF_ADDRESS, 8);
    poke(k, 0x260, INIT_SIZE, 4);
    return k;
}

struct load {
    struct memory *memory;
    struct boot_entry entry;
    struct ferry_error err;
    int ret;
};

static int memfd_of(const void *data, size_t size, char path[32])
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write_all(fd, data, size), 0);
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

/* Load a kernel, and maybe an initrd of so many bytes of 'i', into RAM that is full of 0xee. */
static struct load load(const struct image *k, size_t initrd_bytes, const char *append,
                        uint64_t ram_bytes)
{
    struct load l = {0};
    char path[32], initrd_path[32];
    struct boot_source source = {.kernel = path, .append = append};
    int fd = memfd_of(k->bytes, k->size, path), initrd = -1;

    assert_int_equal(memory_create(ram_bytes, &l.memory, NULL), 0);
    memset((uint8_t *)memory_base(l.memory) + TEXT_GPA, 0xee, 0x10000);
    if (initrd_bytes) {
        uint8_t *data = malloc(initrd_bytes);

        assert_non_null(data);
        memset(data, 'i', initrd_bytes);
        initrd = memfd_of(data, initrd_bytes, initrd_path);
        source.initrd = initrd_path;
        free(data);
    }
    l.ret = boot_load(l.memory, &source, (struct gpa){RSDP}, &l.entry, &l.err);
    close(fd);
    if (initrd >= 0)
        close(initrd);
    return l;
}

static void read_ram(struct load *l, uint64_t gpa, void *out, size_t size)
{
    assert_int_equal(memory_read(l->memory, (struct gpa){gpa}, out, size), 0);
}

static uint64_t ram_number(struct load *l, uint64_t gpa, size_t size)
{
    uint64_t value = 0;

    read_ram(l, gpa, &value, size);
    return value;
}

static void assert_ram(struct load *l, uint64_t gpa, const void *expected, size_t size)
{
    void *seen = malloc(size);

    assert_non_null(seen);
    read_ram(l, gpa, seen, size);
    assert_memory_equal(seen, expected, size);
    free(seen);
}

static void test_pvh_segments_and_bss(void **state)
{
    static const uint8_t zero[TEXT_MEMORY - TEXT_BYTES];
    struct image *k = make_elf();
    struct load l = load(k, 0, "root=/dev/vda", RAM_BYTES);

    (void)state;
    assert_int_equal(l.ret, 0);
    assert_ram(&l, TEXT_GPA, k->bytes + TEXT_AT, TEXT_BYTES);
    assert_ram(&l, TEXT_GPA + TEXT_BYTES, zero, sizeof(zero));
    assert_int_equal(ram_number(&l, TEXT_GPA + TEXT_MEMORY, 1), 0xee); /* not a byte more */
    assert_ram(&l, DATA_GPA, k->bytes + DATA_AT, DATA_BYTES);
    assert_false(l.entry.long_mode);
    assert_int_equal(l.entry.rip, TEXT_GPA + 0x10);
    memory_destroy(l.memory);
    free(k);
}

static void test_pvh_start_info(void **state)
{
    static const uint64_t map[][3] = {{0, 0x9fc00, 1},
                                      {0xe0000, 0x20000, 2},
                                      {0x100000, RAM_BYTES - 0x100000, 1},
                                      {LAYOUT_ECAM, LAYOUT_ECAM_SIZE, 2}};
    struct image *k = make_elf();
    struct load l = load(k, 5000, "root=/dev/vda", RAM_BYTES);
    uint64_t info, modules, memmap, initrd;

    (void)state;
    assert_int_equal(l.ret, 0);
    info = l.entry.rbx;
    assert_int_equal(ram_number(&l, info, 4), 0x336ec578);
    assert_int_equal(ram_number(&l, info + 4, 4), 1);  /* version */
    assert_int_equal(ram_number(&l, info + 12, 4), 1); /* modules */
    modules = ram_number(&l, info + 16, 8);
    assert_ram(&l, ram_number(&l, info + 24, 8), "root=/dev/vda", 14);
    assert_int_equal(ram_number(&l, info + 32, 8), RSDP);
    memmap = ram_number(&l, info + 40, 8);
    assert_int_equal(ram_number(&l, info + 48, 4), 4);
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(ram_number(&l, memmap + MAP_BYTES * i, 8), map[i][0]);
        assert_int_equal(ram_number(&l, memmap + MAP_BYTES * i + 8, 8), map[i][1]);
        assert_int_equal(ram_number(&l, memmap + MAP_BYTES * i + 16, 4), map[i][2]);
    }
    initrd = ram_number(&l, modules, 8);
    assert_int_equal(ram_number(&l, modules + 8, 8), 5000);
    assert_int_equal(initrd, RAM_BYTES - 8192); /* highest whole pages */
    assert_int_equal(ram_number(&l, initrd + 4999, 1), 'i');
    memory_destroy(l.memory);
    free(k);
}

/* RAM above 4 GiB is told of as well. */
static void test_high_ram_is_in_the_map(void **state)
{
    struct image *k = make_elf();
    struct load l = load(k, 0, "", 4 * GIB);
    uint64_t memmap;

    (void)state;
    assert_int_equal(l.ret, 0);
    memmap = ram_number(&l, l.entry.rbx + 40, 8);
    assert_int_equal(ram_number(&l, l.entry.rbx + 48, 4), 5);
    assert_int_equal(ram_number(&l, memmap + 2 * MAP_BYTES + 8, 8), MEMORY_LOW_END - 0x100000);
    assert_int_equal(ram_number(&l, memmap + 4 * MAP_BYTES, 8), MEMORY_HIGH_START);
    assert_int_equal(ram_number(&l, memmap + 4 * MAP_BYTES + 8, 8), GIB);
    memory_destroy(l.memory);
    free(k);
}

static void test_bzimage_params(void **state)
{
    struct image *k = make_bzimage();
    struct load l = load(k, 100, "quiet", RAM_BYTES);
    uint64_t params;

    (void)state;
    assert_int_equal(l.ret, 0);
    params = l.entry.rsi;
    assert_true(l.entry.long_mode);
    assert_int_equal(l.entry.rip, PREF_ADDRESS + 0x200);
    assert_ram(&l, PREF_ADDRESS, k->bytes + PAYLOAD_AT, PAYLOAD_BYTES);
    assert_ram(&l, params + 0x202, "HdrS", 4);
    assert_int_equal(ram_number(&l, params + 0x070, 8), RSDP);
    assert_int_equal(ram_number(&l, params + 0x210, 1), 0xff);
    assert_int_equal(ram_number(&l, params + 0x214, 4), PREF_ADDRESS);
    assert_int_equal(ram_number(&l, params + 0x218, 4), RAM_BYTES - 4096);
    assert_int_equal(ram_number(&l, params + 0x21c, 4), 100);
    assert_ram(&l, ram_number(&l, params + 0x228, 4), "quiet", 6);
    assert_int_equal(ram_number(&l, params + 0x250, 8), 0);
    assert_int_equal(ram_number(&l, params + 0x1e8, 1), 4);
    assert_int_equal(ram_number(&l, params + 0x2f8, 8), 0x100000);
    assert_int_equal(ram_number(&l, params + 0x2f8 + 16, 4), 1);
    /* one to one: entry 8 of the first directory maps 16 MiB */
    assert_int_equal(ram_number(&l, l.entry.cr3, 8), (l.entry.cr3 + 0x1000) | 3);
    assert_int_equal(ram_number(&l, l.entry.cr3 + 0x1000, 8), (l.entry.cr3 + 0x2000) | 3);
    assert_int_equal(ram_number(&l, l.entry.cr3 + 0x2040, 8), PREF_ADDRESS | 0x83);
    memory_destroy(l.memory);
    free(k);
}

static void test_bzimage_placement(void **state)
{
    struct image *k = make_bzimage();
    struct load l = load(k, 0, "", 16 * MIB); /* preferred address is out of RAM */

    (void)state;
    assert_int_equal(l.ret, 0);
    assert_int_equal(l.entry.rip, 0x200200); /* lowest aligned */
    memory_destroy(l.memory);

    k->bytes[0x236] = 0; /* no 64-bit entry */
    l = load(k, 0, "", RAM_BYTES);
    assert_int_equal(l.ret, 0);
    assert_false(l.entry.long_mode);
    assert_int_equal(l.entry.rip, PREF_ADDRESS);
    memory_destroy(l.memory);

    k->bytes[0x234] = 0; /* not relocatable */
    l = load(k, 0, "", RAM_BYTES);
    assert_int_equal(l.ret, 0);
    assert_int_equal(l.entry.rip, 0x100000);
    memory_destroy(l.memory);

    poke(k, 0x22c, 0x37ffff, 4); /* initrd no higher than this */
    poke(k, 0x206, 0x0206, 2);
    l = load(k, 4096, "", RAM_BYTES);
    assert_int_equal(l.ret, 0);
    assert_int_equal(ram_number(&l, l.entry.rsi + 0x218, 4), 0x37f000);
    memory_destroy(l.memory);
    free(k);
}

static void test_command_line_limits(void **state)
{
    struct image *elf = make_elf(), *bz = make_bzimage();
    char text[LIMIT_CMDLINE_BYTES + 1];
    struct load l;

    (void)state;
    memset(text, 'x', sizeof(text));
    text[LIMIT_CMDLINE_BYTES - 1] = 0;
    l = load(elf, 0, text, RAM_BYTES);
    assert_int_equal(l.ret, 0);
    assert_ram(&l, LAYOUT_CMDLINE, text, LIMIT_CMDLINE_BYTES);
    memory_destroy(l.memory);
    text[LIMIT_CMDLINE_BYTES - 1] = 'x';
    text[LIMIT_CMDLINE_BYTES] = 0;
    l = load(elf, 0, text, RAM_BYTES);
    assert_int_equal(l.ret, -E2BIG);
    memory_destroy(l.memory);
    poke(bz, 0x238, 10, 4);
    l = load(bz, 0, "0123456789", RAM_BYTES);
    assert_int_equal(l.ret, 0);
    memory_destroy(l.memory);
    l = load(bz, 0, "0123456789a", RAM_BYTES);
    assert_int_equal(l.ret, -E2BIG);
    memory_destroy(l.memory);
    free(elf);
    free(bz);
}

/* A refusal has a message, and nothing of the kernel is in RAM. */
static void assert_refused(struct image *k, size_t initrd_bytes, int code, const char *word)
{
    struct load l = load(k, initrd_bytes, "", RAM_BYTES);

    if (l.ret != code || !strstr(l.err.message, word))
        fail_msg("expected %d (%s), got %d: %s", code, word, l.ret, l.err.message);
    assert_int_equal(ram_number(&l, TEXT_GPA, 1), 0xee);
    memory_destroy(l.memory);
    free(k);
}

/* Forge a kernel k, damage it, and see it refused. */
#define REFUSE_ELF(change, code, word)    \
    do {                                  \
        struct image *k = make_elf();     \
        change;                           \
        assert_refused(k, 0, code, word); \
    } while (0)
#define REFUSE_BZ(change, code, word)     \
    do {                                  \
        struct image *k = make_bzimage(); \
        change;                           \
        assert_refused(k, 0, code, word); \
    } while (0)

static void test_refuses_damaged_elf(void **state)
{
    (void)state;
    REFUSE_ELF(ehdr(k)->e_machine = EM_AARCH64, -ENOEXEC, "not for 64-bit x86");
    REFUSE_ELF(ehdr(k)->e_ident[EI_CLASS] = ELFCLASS32, -ENOEXEC, "64-bit");
    REFUSE_ELF(ehdr(k)->e_type = ET_REL, -ENOEXEC, "not an executable");
    REFUSE_ELF(ehdr(k)->e_phnum = 0, -EBADMSG, "no program headers");
    REFUSE_ELF(ehdr(k)->e_phnum = 65, -EBADMSG, "65 program headers");
    REFUSE_ELF(ehdr(k)->e_phnum = 0xffff, -EBADMSG, "program headers");
    REFUSE_ELF(ehdr(k)->e_phentsize = 32, -EBADMSG, "program headers");
    REFUSE_ELF(ehdr(k)->e_phoff = UINT64_MAX, -EBADMSG, "cut short");
    REFUSE_ELF(ehdr(k)->e_phoff = IMAGE_BYTES - 8, -EBADMSG, "cut short");
    REFUSE_ELF(k->size = 100, -EBADMSG, "cut short");
    REFUSE_ELF(k->size = 20, -EBADMSG, "damaged");
    REFUSE_ELF(k->size = DATA_AT, -EBADMSG, "cut short");
    REFUSE_ELF(k->size = 0, -EBADMSG, "empty");
}

static void test_refuses_bad_segments(void **state)
{
    (void)state;
    REFUSE_ELF(phdr(k, 0)->p_filesz = TEXT_MEMORY + 1, -EBADMSG, "larger");
    REFUSE_ELF(phdr(k, 1)->p_offset = UINT64_MAX - 4, -EBADMSG, "cut short");
    REFUSE_ELF(phdr(k, 1)->p_paddr = LAYOUT_ACPI, -EBADMSG, "below 1 MiB");
    REFUSE_ELF(phdr(k, 1)->p_paddr = LAYOUT_START_INFO, -EBADMSG, "1 MiB");
    REFUSE_ELF(phdr(k, 1)->p_paddr = TEXT_GPA + TEXT_MEMORY - 1, -EBADMSG, "over each other");
    REFUSE_ELF(phdr(k, 1)->p_paddr = RAM_BYTES, -ENOSPC, "fit into RAM");
    REFUSE_ELF(phdr(k, 1)->p_paddr = UINT64_MAX - 16, -ENOSPC, "fit into RAM");
    REFUSE_ELF(phdr(k, 1)->p_memsz = UINT64_MAX, -ENOSPC, "--memory");
    REFUSE_ELF(phdr(k, 1)->p_memsz = RAM_BYTES, -ENOSPC, "64.0 MiB");
}

static void test_refuses_bad_notes(void **state)
{
    (void)state;
    REFUSE_ELF(phdr(k, 2)->p_type = PT_NULL, -ENOEXEC, "without a PVH entry");
    REFUSE_ELF(phdr(k, 2)->p_filesz = 64 * KIB + 1, -EBADMSG, "notes");
    REFUSE_ELF(phdr(k, 2)->p_offset = IMAGE_BYTES - 2, -EBADMSG, "cut short");
    REFUSE_ELF(phdr(k, 2)->p_filesz = 39, -ENOEXEC, "without a PVH entry");
    REFUSE_ELF(note(k)[0] = UINT32_MAX, -ENOEXEC, "without a PVH entry");
    REFUSE_ELF(note(k)[1] = UINT32_MAX - 2, -ENOEXEC, "without a PVH entry");
    REFUSE_ELF(note(k)[7] = 17, -ENOEXEC, "without a PVH entry");
    REFUSE_ELF(note(k)[8] = 0x006e6559, -ENOEXEC, "without a PVH entry");
    REFUSE_ELF(note(k)[9] = 0x1000, -EBADMSG, "lies in no segment");
    REFUSE_ELF(note(k)[9] = TEXT_GPA + TEXT_BYTES, -EBADMSG, "no segment");
}

static void test_refuses_damaged_bzimage(void **state)
{
    (void)state;
    REFUSE_BZ(poke(k, 0x1fe, 0, 2), -ENOEXEC, "no kernel");
    REFUSE_BZ(poke(k, 0x202, 0, 4), -ENOEXEC, "no kernel");
    REFUSE_BZ(poke(k, 0x206, 0x0205, 2), -ENOEXEC, "2.05");
    REFUSE_BZ(k->bytes[0x211] = 0, -ENOEXEC, "zImage");
    REFUSE_BZ(poke(k, 0x230, 0x3000, 4), -EBADMSG, "alignment");
    REFUSE_BZ(poke(k, 0x230, 0, 4), -EBADMSG, "alignment");
    REFUSE_BZ(poke(k, 0x230, 0x80000000, 4), -EBADMSG, "alignment");
    REFUSE_BZ(poke(k, 0x258, UINT64_MAX - 1, 8), -EBADMSG, "below 3 GiB");
    REFUSE_BZ(poke(k, 0x260, 0xffffffff, 4), -ENOSPC, "fit into RAM");
    REFUSE_BZ(poke(k, 0x238, 0, 4), -EBADMSG, "command line");
    REFUSE_BZ(poke(k, 0x22c, 0xfffff, 4), -EBADMSG, "initrd");
    REFUSE_BZ(k->bytes[0x1f1] = 0xff, -EBADMSG, "cut short");
    REFUSE_BZ(k->size = PAYLOAD_AT + 0x200, -EBADMSG, "cut short");
    REFUSE_BZ(k->size = 0x210, -ENOEXEC, "");
}

static void test_refuses_too_large_initrd(void **state)
{
    struct image *low_only = make_bzimage();

    (void)state;
    assert_refused(make_elf(), RAM_BYTES, -ENOSPC, "does not fit beside the kernel");
    assert_refused(make_elf(), RAM_BYTES - DATA_GPA, -ENOSPC, "--memory");
    /* Fits to the byte, but it starts on a page that the kernel still uses. */
    assert_refused(make_elf(), RAM_BYTES - DATA_GPA - DATA_BYTES, -ENOSPC, "does not fit");
    poke(low_only, 0x22c, PREF_ADDRESS, 4);
    assert_refused(low_only, 1, -ENOSPC, "does not fit");
}

static void test_refuses_other_files(void **state)
{
    struct boot_source missing = {.kernel = "/nonexistent/vmlinux", .append = ""};
    struct boot_source folder = {.kernel = "/tmp", .append = ""};
    struct boot_source device = {.kernel = "/dev/zero", .append = ""};
    struct boot_entry entry;
    struct ferry_error err;
    struct memory *memory;

    (void)state;
    assert_int_equal(memory_create(RAM_BYTES, &memory, NULL), 0);
    assert_int_equal(boot_load(memory, &missing, (struct gpa){0}, &entry, &err), -ENOENT);
    assert_string_equal(err.about, "/nonexistent/vmlinux");
    assert_int_equal(boot_load(memory, &folder, (struct gpa){0}, &entry, &err), -EINVAL);
    assert_int_equal(boot_load(memory, &device, (struct gpa){0}, &entry, &err), -EINVAL);
    memory_destroy(memory);
}

/* Random damage to headers: whatever is accepted leaves the area of ferry's own tables alone. */
static void mutate(struct image *(*make)(void), size_t header_bytes, uint64_t seed, int rounds)
{
    struct memory *memory;

    assert_int_equal(memory_create(RAM_BYTES, &memory, NULL), 0);
    for (int i = 0; i < rounds; i++) {
        struct image *k = make();
        char path[32];
        struct boot_source source = {.kernel = path, .append = "x"};
        struct boot_entry entry;
        struct ferry_error err = {0};
        uint64_t acpi;
        int fd, ret;

        for (uint64_t n = 1 + fake_random(&seed) % 4; n > 0; n--)
            k->bytes[fake_random(&seed) % header_bytes] = (uint8_t)fake_random(&seed);
        fd = memfd_of(k->bytes, fake_random(&seed) % 4 ? k->size : fake_random(&seed) % k->size,
                      path);
        ret = boot_load(memory, &source, (struct gpa){RSDP}, &entry, &err);
        assert_true(ret == 0 || (ret < 0 && err.code == ret && err.message[0]));
        assert_int_equal(memory_read(memory, (struct gpa){LAYOUT_ACPI}, &acpi, 8), 0);
        assert_int_equal(acpi, 0);
        close(fd);
        free(k);
    }
    memory_destroy(memory);
}

static void test_mutated_headers(void **state)
{
    (void)state;
    mutate(make_elf, sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr), 1, 3000);
    mutate(make_elf, NOTES_AT + 48, 2, 1000);
    mutate(make_bzimage, 0x270, 3, 3000);
}

static void test_entry_state(void **state)
{
    struct boot_entry pvh = {.rip = 0x1000850, .rbx = LAYOUT_START_INFO};
    struct boot_entry bz = {.long_mode = true, .rip = 0x1000200, .rsi = 0x7000, .cr3 = 0x9000};
    struct kvm_sregs s = {.apic_base = 0xfee00900, .cr4 = 0x1234};
    struct kvm_regs r = {.rax = 5};

    (void)state;
    boot_apply_sregs(&pvh, &s, &r);
    assert_int_equal(s.cr0, 0x11);
    assert_int_equal(s.cr4 | s.efer | s.cr3, 0);
    assert_true(s.cs.db && !s.cs.l && s.cs.g && s.cs.present);
    assert_int_equal(s.apic_base, 0xfee00900);
    assert_int_equal(r.rip, 0x1000850);
    assert_int_equal(r.rbx, LAYOUT_START_INFO);
    assert_int_equal(r.rax, 0);
    assert_int_equal(r.rflags, 2);
    boot_apply_sregs(&bz, &s, &r);
    assert_int_equal(s.cr0, 0x80000011);
    assert_int_equal(s.cr4, 0x20);
    assert_int_equal(s.efer, 0x500);
    assert_int_equal(s.cr3, 0x9000);
    assert_true(s.cs.l && !s.cs.db);
    assert_int_equal(s.cs.selector, 0x10);
    assert_int_equal(s.ds.selector, 0x18);
    assert_int_equal(r.rsi, 0x7000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pvh_segments_and_bss),
        cmocka_unit_test(test_pvh_start_info),
        cmocka_unit_test(test_high_ram_is_in_the_map),
        cmocka_unit_test(test_bzimage_params),
        cmocka_unit_test(test_bzimage_placement),
        cmocka_unit_test(test_command_line_limits),
        cmocka_unit_test(test_refuses_damaged_elf),
        cmocka_unit_test(test_refuses_bad_segments),
        cmocka_unit_test(test_refuses_bad_notes),
        cmocka_unit_test(test_refuses_damaged_bzimage),
        cmocka_unit_test(test_refuses_too_large_initrd),
        cmocka_unit_test(test_refuses_other_files),
        cmocka_unit_test(test_mutated_headers),
        cmocka_unit_test(test_entry_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
