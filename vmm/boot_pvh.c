/*
 * PVH: the boot protocol of Xen's HVM guests without firmware, which an uncompressed vmlinux speaks
 * (xen/include/public/arch-x86/hvm/start_info.h and elfnote.h).  The kernel is an ELF64 whose note
 * XEN_ELFNOTE_PHYS32_ENTRY names a 32-bit entry point; it is entered in flat protected mode without
 * paging, %ebx pointing to hvm_start_info.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "vmm/boot_internal.h"
#include "vmm/layout.h"

#define START_INFO_MAGIC     0x336ec578
#define START_INFO_VERSION   1
#define START_INFO_BYTES     56
#define MODULE_BYTES         32
#define NOTE_NAME            "Xen"
#define NOTE_PHYS32_ENTRY    18
#define PHDR_BYTES           56
#define INITRD_END_UNLIMITED UINT64_MAX

struct phdr {
    uint32_t type;
    uint64_t offset;
    uint64_t paddr;
    uint64_t file_bytes;
    uint64_t memory_bytes;
};

struct ehdr {
    uint64_t phoff;
    uint16_t phentsize;
    uint16_t phnum;
};

static uint32_t align4(uint32_t value)
{
    return (value + 3) & ~UINT32_C(3);
}

/* The ELF header proper; 1 if this is an ELF for us. */
static int parse_ehdr(const struct boot_file *file, const uint8_t *head, struct ehdr *out,
                      struct ferry_error *err)
{
    struct reader r = reader_init(head, sizeof(Elf64_Ehdr));
    const uint8_t *ident = reader_take(&r, EI_NIDENT);
    uint16_t type, machine;

    if (memcmp(ident, ELFMAG, SELFMAG) != 0)
        return 0;
    type = reader_u16(&r);
    machine = reader_u16(&r);
    if (ident[EI_CLASS] != ELFCLASS64 || ident[EI_DATA] != ELFDATA2LSB || machine != EM_X86_64)
        return ferry_refuse(err, -ENOEXEC, file->path, "is an ELF file, but not for 64-bit x86");
    if (type != ET_EXEC && type != ET_DYN)
        return ferry_refuse(err, -ENOEXEC, file->path, "is an ELF file, but not an executable");
    reader_u32(&r); /* e_version */
    reader_u64(&r); /* e_entry: of the 64-bit kernel, not of PVH */
    out->phoff = reader_u64(&r);
    reader_u64(&r); /* e_shoff */
    reader_u32(&r); /* e_flags */
    reader_u16(&r); /* e_ehsize */
    out->phentsize = reader_u16(&r);
    out->phnum = reader_u16(&r);
    if (out->phentsize != PHDR_BYTES || out->phnum == 0)
        return ferry_refuse(err, -EBADMSG, file->path, "damaged ELF file: no program headers");
    if (out->phnum > LIMIT_ELF_SEGMENTS)
        return ferry_refuse(err, -EBADMSG, file->path,
                            "the ELF file has %u program headers, ferry takes %u", out->phnum,
                            LIMIT_ELF_SEGMENTS);
    return 1;
}

static struct phdr parse_phdr(struct reader *r)
{
    struct phdr p;

    p.type = reader_u32(r);
    reader_u32(r); /* p_flags */
    p.offset = reader_u64(r);
    reader_u64(r); /* p_vaddr: there is no paging yet */
    p.paddr = reader_u64(r);
    p.file_bytes = reader_u64(r);
    p.memory_bytes = reader_u64(r);
    reader_u64(r); /* p_align */
    return p;
}

/* Look through one run of notes for the entry; 1 if it is there. */
static int find_entry(struct reader notes, uint64_t *entry)
{
    while (reader_left(&notes) >= 12) {
        uint32_t name_bytes = reader_u32(&notes);
        uint32_t desc_bytes = reader_u32(&notes);
        uint32_t type = reader_u32(&notes);
        const uint8_t *name;
        struct reader desc;

        if (name_bytes > LIMIT_ELF_NOTES_BYTES || desc_bytes > LIMIT_ELF_NOTES_BYTES)
            return 0;
        name = reader_take(&notes, align4(name_bytes));
        if (!name || reader_left(&notes) < desc_bytes)
            return 0;
        desc = reader_sub(&notes, desc_bytes);
        /* The padding behind the last one may be missing. */
        if (reader_left(&notes) >= align4(desc_bytes) - desc_bytes)
            reader_take(&notes, align4(desc_bytes) - desc_bytes);
        if (type != NOTE_PHYS32_ENTRY || name_bytes != sizeof(NOTE_NAME) ||
            memcmp(name, NOTE_NAME, sizeof(NOTE_NAME)) != 0)
            continue;
        *entry = desc_bytes == 8 ? reader_u64(&desc) : reader_u32(&desc);
        return !desc.error && *entry <= UINT32_MAX;
    }
    return 0;
}

static int parse_notes(const struct boot_file *file, const struct phdr *p, uint64_t *entry,
                       struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *data = NULL;
    int ret;

    if (p->file_bytes > LIMIT_ELF_NOTES_BYTES)
        return ferry_refuse(err, -EBADMSG, file->path, "the ELF file's notes are too large");
    data = malloc(p->file_bytes + 1);
    if (!data)
        return ferry_fail(err, -ENOMEM, file->path, "out of memory");
    ret = boot_file_read(file, p->offset, data, p->file_bytes, err);
    if (ret < 0)
        return ret;
    return find_entry(reader_init(data, p->file_bytes), entry);
}

static int parse_load(const struct boot_file *file, const struct phdr *p,
                      struct boot_kernel *kernel, struct ferry_error *err)
{
    if (p->memory_bytes == 0)
        return 0;
    if (p->file_bytes > p->memory_bytes)
        return ferry_refuse(err, -EBADMSG, file->path,
                            "damaged ELF file: a segment is larger in the file than in memory");
    kernel->segments[kernel->segment_count++] = (struct boot_segment){
        .gpa = p->paddr,
        .file_offset = p->offset,
        .file_bytes = p->file_bytes,
        .memory_bytes = p->memory_bytes,
    };
    return 0;
}

static bool entry_is_loaded(const struct boot_kernel *kernel)
{
    for (uint32_t i = 0; i < kernel->segment_count; i++) {
        const struct boot_segment *s = &kernel->segments[i];

        if (kernel->entry >= s->gpa && kernel->entry - s->gpa < s->file_bytes)
            return true;
    }
    return false;
}

int boot_pvh_parse(const struct boot_file *file, const uint8_t *head, struct boot_kernel *kernel,
                   struct ferry_error *err)
{
    uint8_t table[LIMIT_ELF_SEGMENTS * PHDR_BYTES];
    struct ehdr ehdr = {0};
    struct reader r;
    bool have_entry = false;
    int ret;

    ret = parse_ehdr(file, head, &ehdr, err);
    if (ret <= 0)
        return ret;
    ret = boot_file_read(file, ehdr.phoff, table, (size_t)ehdr.phnum * PHDR_BYTES, err);
    if (ret < 0)
        return ret;

    r = reader_init(table, (size_t)ehdr.phnum * PHDR_BYTES);
    for (uint16_t i = 0; i < ehdr.phnum; i++) {
        struct phdr p = parse_phdr(&r);

        ret = 0;
        if (p.type == PT_LOAD)
            ret = parse_load(file, &p, kernel, err);
        else if (p.type == PT_NOTE && !have_entry)
            have_entry = (ret = parse_notes(file, &p, &kernel->entry, err)) > 0;
        if (ret < 0)
            return ret;
    }
    if (!have_entry)
        return ferry_refuse(err, -ENOEXEC, file->path,
                            "is an ELF file without a PVH entry note; a Linux kernel needs "
                            "CONFIG_PVH, or use its bzImage");
    if (!entry_is_loaded(kernel))
        return ferry_refuse(err, -EBADMSG, file->path,
                            "damaged ELF file: the PVH entry 0x%llx lies in no segment",
                            (unsigned long long)kernel->entry);
    kernel->format = BOOT_PVH;
    kernel->initrd_end = INITRD_END_UNLIMITED;
    kernel->cmdline_limit = LIMIT_CMDLINE_BYTES - 1;
    return 1;
}

/* struct hvm_start_info, version 1, then the module list, then the memory map. */
static void write_start_info(struct writer *w, const struct boot_layout *layout)
{
    uint64_t modules = LAYOUT_START_INFO + START_INFO_BYTES;
    uint64_t map = modules + MODULE_BYTES;
    bool initrd = layout->initrd_bytes > 0;

    writer_u32(w, START_INFO_MAGIC);
    writer_u32(w, START_INFO_VERSION);
    writer_u32(w, 0); /* flags */
    writer_u32(w, initrd ? 1 : 0);
    writer_u64(w, initrd ? modules : 0);
    writer_u64(w, LAYOUT_CMDLINE);
    writer_u64(w, layout->rsdp);
    writer_u64(w, map);
    writer_u32(w, layout->map_count);
    writer_u32(w, 0); /* reserved */

    writer_u64(w, layout->initrd_gpa); /* struct hvm_modlist_entry */
    writer_u64(w, layout->initrd_bytes);
    writer_u64(w, 0); /* its command line */
    writer_u64(w, 0); /* reserved */

    for (uint32_t i = 0; i < layout->map_count; i++) { /* struct hvm_memmap_table_entry */
        writer_u64(w, layout->map[i].gpa);
        writer_u64(w, layout->map[i].size);
        writer_u32(w, layout->map[i].type); /* XEN_HVM_MEMMAP_TYPE_*: numbered as E820 */
        writer_u32(w, 0);
    }
}

int boot_pvh_finish(struct memory *memory, const struct boot_kernel *kernel,
                    const struct boot_layout *layout, struct boot_entry *out,
                    struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(LAYOUT_ZERO_PAGE - LAYOUT_START_INFO);
    int ret;

    write_start_info(&w, layout);
    ret = w.error ? w.error : memory_write(memory, (struct gpa){LAYOUT_START_INFO}, w.data, w.size);
    if (ret < 0)
        return ferry_fail_sys(err, ret, "kernel", "cannot write the start information");
    *out = (struct boot_entry){.rip = kernel->entry, .rbx = LAYOUT_START_INFO};
    return 0;
}
