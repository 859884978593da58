/*
 * bzImage: the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst), version 2.06 and later.
 * The real-mode part of the file is skipped; ferry takes the setup header out of it, fills
 * boot_params ("zero page") and enters the protected-mode part directly: at its 64-bit entry, with
 * the first 4 GiB mapped one to one, or at its 32-bit one if the kernel has no other.
 */
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "vmm/boot_internal.h"
#include "vmm/layout.h"

#define SECTOR_BYTES        512
#define DEFAULT_SETUP_SECTS 4
#define BOOT_FLAG           0xaa55
#define HEADER_MAGIC        0x53726448 /* "HdrS" */
#define VERSION_CMDLINE     0x0206     /* cmdline_size */
#define VERSION_INIT_SIZE   0x020a     /* pref_address, init_size */
#define VERSION_XLOADFLAGS  0x020c
#define LOADED_HIGH         0x01
#define XLF_KERNEL_64       0x01
#define ENTRY64_OFFSET      0x200
#define LOADER_UNDEFINED    0xff /* type_of_loader: no registered id */
#define KERNEL_ALIGN_MAX    (1 * GIB)

/* Offsets in boot_params; those of the setup header are the same as in the file. */
enum {
    PARAMS_ACPI_RSDP = 0x070,
    PARAMS_E820_ENTRIES = 0x1e8,
    PARAMS_VID_MODE = 0x1fa,
    PARAMS_TYPE_OF_LOADER = 0x210,
    PARAMS_CODE32_START = 0x214,
    PARAMS_RAMDISK_IMAGE = 0x218,
    PARAMS_RAMDISK_SIZE = 0x21c,
    PARAMS_CMD_LINE_PTR = 0x228,
    PARAMS_SETUP_DATA = 0x250,
    PARAMS_E820_TABLE = 0x2d0,
    PARAMS_BYTES = 4096,
    VID_MODE_NORMAL = 0xffff,
};

struct setup {
    uint8_t setup_sects;
    uint32_t bytes; /* of the setup header */
    uint16_t version;
    uint8_t loadflags;
    uint32_t initrd_addr_max;
    uint32_t kernel_alignment;
    uint8_t relocatable;
    uint16_t xloadflags;
    uint32_t cmdline_size;
    uint64_t pref_address;
    uint32_t init_size;
};

static void put_u32(uint8_t *params, size_t offset, uint32_t value)
{
    for (size_t i = 0; i < 4; i++)
        params[offset + i] = (uint8_t)(value >> (8 * i));
}

static void put_u64(uint8_t *params, size_t offset, uint64_t value)
{
    put_u32(params, offset, (uint32_t)value);
    put_u32(params, offset + 4, (uint32_t)(value >> 32));
}

/* The setup header, in the order of the protocol; false if there is none. */
static bool read_setup(const uint8_t *head, struct setup *s)
{
    struct reader r = reader_init(head, BOOT_HEAD_BYTES);
    uint8_t jump_bytes;

    reader_take(&r, BOOT_SETUP_OFFSET);
    s->setup_sects = reader_u8(&r);
    reader_take(&r, 0x1fe - 0x1f2);
    if (reader_u16(&r) != BOOT_FLAG)
        return false;
    reader_u8(&r); /* 0x200: a short jump over the header, so its operand tells the end */
    jump_bytes = reader_u8(&r);
    s->bytes = 0x202 + jump_bytes - BOOT_SETUP_OFFSET;
    if (reader_u32(&r) != HEADER_MAGIC)
        return false;
    s->version = reader_u16(&r);
    reader_take(&r, 0x211 - 0x208);
    s->loadflags = reader_u8(&r);
    reader_take(&r, 0x22c - 0x212);
    s->initrd_addr_max = reader_u32(&r);
    s->kernel_alignment = reader_u32(&r);
    s->relocatable = reader_u8(&r);
    reader_u8(&r); /* min_alignment */
    s->xloadflags = reader_u16(&r);
    s->cmdline_size = reader_u32(&r);
    reader_take(&r, 0x258 - 0x23c);
    s->pref_address = reader_u64(&r);
    s->init_size = reader_u32(&r);
    return !r.error;
}

static int check_setup(const struct boot_file *file, struct setup *s, struct ferry_error *err)
{
    if (s->version < VERSION_CMDLINE)
        return ferry_refuse(err, -ENOEXEC, file->path,
                            "speaks Linux boot protocol %u.%02u; ferry needs 2.06 or later",
                            s->version >> 8, s->version & 0xff);
    if (!(s->loadflags & LOADED_HIGH))
        return ferry_refuse(err, -ENOEXEC, file->path, "is a zImage; ferry boots bzImages only");
    if (s->version < VERSION_INIT_SIZE) {
        s->pref_address = LAYOUT_KERNEL;
        s->init_size = 0;
        s->relocatable = 0;
    }
    if (s->version < VERSION_XLOADFLAGS)
        s->xloadflags = 0;
    if (s->setup_sects == 0)
        s->setup_sects = DEFAULT_SETUP_SECTS;
    if (s->bytes > BOOT_SETUP_BYTES)
        s->bytes = BOOT_SETUP_BYTES;
    if (s->relocatable &&
        (s->kernel_alignment < MEMORY_PAGE_BYTES || s->kernel_alignment > KERNEL_ALIGN_MAX ||
         (s->kernel_alignment & (s->kernel_alignment - 1)) != 0))
        return ferry_refuse(err, -EBADMSG, file->path,
                            "damaged bzImage: kernel alignment 0x%x makes no sense",
                            s->kernel_alignment);
    if (s->pref_address > MEMORY_LOW_END)
        return ferry_refuse(err, -EBADMSG, file->path,
                            "damaged bzImage: it prefers address 0x%llx, which is not below 3 GiB",
                            (unsigned long long)s->pref_address);
    if (s->cmdline_size == 0 || s->initrd_addr_max < LAYOUT_KERNEL)
        return ferry_refuse(err, -EBADMSG, file->path,
                            "damaged bzImage: its limits for command line or initrd make no sense");
    return 0;
}

/*
 * Where the protected-mode part goes: to the address it prefers, where it need not move itself; a
 * relocatable one goes lower if RAM ends before that.
 */
static uint64_t load_address(const struct setup *s, const struct memory *memory, uint64_t bytes)
{
    uint64_t low;

    if (!s->relocatable)
        return LAYOUT_KERNEL;
    if (s->pref_address >= LAYOUT_KERNEL &&
        memory_contains(memory, (struct gpa){s->pref_address}, bytes))
        return s->pref_address;
    low = (uint64_t)LAYOUT_KERNEL + s->kernel_alignment - 1;
    return low & ~((uint64_t)s->kernel_alignment - 1);
}

int boot_bzimage_parse(const struct boot_file *file, const uint8_t *head,
                       const struct memory *memory, struct boot_kernel *kernel,
                       struct ferry_error *err)
{
    struct boot_segment *segment = &kernel->segments[0];
    struct setup s = {0};
    uint64_t start, bytes, address;
    int ret;

    if (!read_setup(head, &s))
        return 0;
    ret = check_setup(file, &s, err);
    if (ret < 0)
        return ret;
    start = ((uint64_t)s.setup_sects + 1) * SECTOR_BYTES;
    if (start + ENTRY64_OFFSET >= file->size)
        return ferry_refuse(err, -EBADMSG, file->path, "damaged bzImage: cut short");
    bytes = file->size - start;
    address = load_address(&s, memory, bytes > s.init_size ? bytes : s.init_size);
    *segment = (struct boot_segment){.gpa = address,
                                     .file_offset = start,
                                     .file_bytes = bytes,
                                     .memory_bytes = bytes > s.init_size ? bytes : s.init_size};
    /* A kernel that is not relocatable unpacks itself to its preferred address. */
    if (!s.relocatable && s.pref_address > address)
        segment->memory_bytes += s.pref_address - address;
    kernel->segment_count = 1;
    kernel->format = BOOT_BZIMAGE;
    kernel->long_mode = s.xloadflags & XLF_KERNEL_64;
    kernel->entry = address + (kernel->long_mode ? ENTRY64_OFFSET : 0);
    kernel->initrd_end = (uint64_t)s.initrd_addr_max + 1;
    kernel->cmdline_limit =
        s.cmdline_size < LIMIT_CMDLINE_BYTES - 1 ? s.cmdline_size : LIMIT_CMDLINE_BYTES - 1;
    kernel->setup_bytes = s.bytes;
    memcpy(kernel->setup, head + BOOT_SETUP_OFFSET, s.bytes);
    return 1;
}

static void fill_params(uint8_t *params, const struct boot_kernel *kernel,
                        const struct boot_layout *layout)
{
    uint8_t *entry = params + PARAMS_E820_TABLE;

    memcpy(params + BOOT_SETUP_OFFSET, kernel->setup, kernel->setup_bytes);
    put_u64(params, PARAMS_ACPI_RSDP, layout->rsdp);
    params[PARAMS_VID_MODE] = VID_MODE_NORMAL & 0xff;
    params[PARAMS_VID_MODE + 1] = VID_MODE_NORMAL >> 8;
    params[PARAMS_TYPE_OF_LOADER] = LOADER_UNDEFINED;
    put_u32(params, PARAMS_CODE32_START, (uint32_t)kernel->segments[0].gpa);
    put_u32(params, PARAMS_RAMDISK_IMAGE, (uint32_t)layout->initrd_gpa);
    put_u32(params, PARAMS_RAMDISK_SIZE, (uint32_t)layout->initrd_bytes);
    put_u32(params, PARAMS_CMD_LINE_PTR, LAYOUT_CMDLINE);
    put_u64(params, PARAMS_SETUP_DATA, 0);

    params[PARAMS_E820_ENTRIES] = (uint8_t)layout->map_count;
    for (uint32_t i = 0; i < layout->map_count; i++, entry += 20) { /* struct boot_e820_entry */
        put_u64(entry, 0, layout->map[i].gpa);
        put_u64(entry, 8, layout->map[i].size);
        put_u32(entry, 16, layout->map[i].type);
    }
}

/* PML4, PDPT and four page directories: 4 GiB one to one, in pages of 2 MiB. */
static int write_page_tables(struct memory *memory)
{
    enum { PRESENT_WRITABLE = 3, LARGE = 0x80, TABLE_BYTES = 4096, ALL_BYTES = 6 * TABLE_BYTES };
    CLEANUP(writer_free) struct writer w = writer_init(ALL_BYTES);

    writer_u64(&w, (LAYOUT_PAGE_TABLE + TABLE_BYTES) | PRESENT_WRITABLE);
    writer_grow(&w, TABLE_BYTES - 8);
    for (uint64_t i = 0; i < 4; i++)
        writer_u64(&w, (LAYOUT_PAGE_TABLE + (2 + i) * TABLE_BYTES) | PRESENT_WRITABLE);
    writer_grow(&w, TABLE_BYTES - 4 * 8);
    for (uint64_t i = 0; i < 4 * UINT64_C(512); i++)
        writer_u64(&w, i << 21 | LARGE | PRESENT_WRITABLE);
    if (w.error)
        return w.error;
    return memory_write(memory, (struct gpa){LAYOUT_PAGE_TABLE}, w.data, w.size);
}

int boot_bzimage_finish(struct memory *memory, const struct boot_kernel *kernel,
                        const struct boot_layout *layout, struct boot_entry *out,
                        struct ferry_error *err)
{
    uint8_t params[PARAMS_BYTES] = {0};
    int ret;

    fill_params(params, kernel, layout);
    ret = memory_write(memory, (struct gpa){LAYOUT_ZERO_PAGE}, params, sizeof(params));
    if (ret == 0 && kernel->long_mode)
        ret = write_page_tables(memory);
    if (ret < 0)
        return ferry_fail_sys(err, ret, "kernel", "cannot write the boot parameters");
    *out = (struct boot_entry){.long_mode = kernel->long_mode,
                               .rip = kernel->entry,
                               .rsi = LAYOUT_ZERO_PAGE,
                               .cr3 = kernel->long_mode ? LAYOUT_PAGE_TABLE : 0};
    return 0;
}
