/* A whole machine for tests; see box.h. */
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "tests/support/box.h"

#define DEADLINE_NS UINT64_C(20000000000)

static void on_output(void *opaque, const uint8_t *data, size_t size)
{
    struct box *box = opaque;
    LOCK_SCOPE(&box->lock);
    if (size > BOX_OUTPUT - box->output_size)
        size = BOX_OUTPUT - box->output_size;
    memcpy(box->output + box->output_size, data, size);
    box->output_size += size;
}

static void on_event(void *opaque, enum machine_event event)
{
    struct box *box = opaque;
    LOCK_SCOPE(&box->lock);
    box->events[event]++;
    pthread_cond_broadcast(&box->changed);
}

static void fail_with(const struct ferry_error *err)
{
    char text[1024];
    fail_msg("%s", ferry_error_text(err, text, sizeof(text)));
}

static struct box *create(const struct machine_config *config)
{
    struct ferry_error err;
    struct box *box = calloc(1, sizeof(*box));
    assert_non_null(box);
    box->config = *config;
    pthread_mutex_init(&box->lock, NULL);
    pthread_cond_init(&box->changed, NULL);
    const struct machine_host host = {.serial_output = on_output, .event = on_event, .opaque = box};
    if (machine_create(config, &host, &box->machine, &err))
        fail_with(&err);
    return box;
}

struct box *box_create(uint32_t cpus)
{
    struct ferry_error err;

    if (access("/dev/kvm", R_OK | W_OK)) {
        print_message("no usable /dev/kvm: skipped\n");
        skip();
    }
    struct machine_config *config = calloc(1, sizeof(*config));
    assert_non_null(config);
    snprintf(config->name, sizeof(config->name), "box");
    config->cpus = cpus;
    config->memory_bytes = BOX_MEMORY;
    if (machine_config_complete(config, &err))
        fail_with(&err);
    struct box *box = create(config);
    free(config);
    box->config = *machine_config(box->machine);
    return box;
}

struct box *box_twin(const struct box *box)
{
    return create(&box->config);
}

void box_destroy(struct box *box)
{
    machine_destroy(box->machine);
    pthread_cond_destroy(&box->changed);
    pthread_mutex_destroy(&box->lock);
    free(box);
}

/* An ELF64 with one segment and the PVH note, in a memfd that is reached through /proc. */
static int make_kernel(const void *code, size_t size)
{
    struct kernel_file {
        Elf64_Ehdr head;
        Elf64_Phdr segments[2];
        struct {
            Elf64_Nhdr head;
            char name[4];
            uint32_t entry;
        } note;
    } file = {0};

    memcpy(file.head.e_ident, ELFMAG, SELFMAG);
    file.head.e_ident[EI_CLASS] = ELFCLASS64;
    file.head.e_ident[EI_DATA] = ELFDATA2LSB;
    file.head.e_ident[EI_VERSION] = EV_CURRENT;
    file.head.e_type = ET_EXEC;
    file.head.e_machine = EM_X86_64;
    file.head.e_version = EV_CURRENT;
    file.head.e_entry = BOX_CODE;
    file.head.e_phoff = sizeof(file.head);
    file.head.e_ehsize = sizeof(file.head);
    file.head.e_phentsize = sizeof(file.segments[0]);
    file.head.e_phnum = 2;
    file.segments[0] = (Elf64_Phdr){.p_type = PT_LOAD,
                                    .p_flags = PF_R | PF_W | PF_X,
                                    .p_offset = sizeof(file),
                                    .p_vaddr = BOX_CODE,
                                    .p_paddr = BOX_CODE,
                                    .p_filesz = size,
                                    .p_memsz = size};
    file.segments[1] = (Elf64_Phdr){.p_type = PT_NOTE,
                                    .p_offset = offsetof(struct kernel_file, note),
                                    .p_filesz = sizeof(file.note),
                                    .p_memsz = sizeof(file.note),
                                    .p_align = 4};
    file.note.head = (Elf64_Nhdr){.n_namesz = 4, .n_descsz = 4, .n_type = 18};
    memcpy(file.note.name, "Xen", 4);
    file.note.entry = BOX_CODE;

    int fd = memfd_create("guest", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &file, sizeof(file)), sizeof(file));
    assert_int_equal(write(fd, code, size), size);
    return fd;
}

void box_boot(struct box *box, const void *code, size_t size)
{
    struct ferry_error err;
    char path[64];
    int fd = make_kernel(code, size);

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const struct boot_source source = {.kernel = path, .append = ""};
    int rc = machine_boot(box->machine, &source, &err);
    close(fd);
    if (rc)
        fail_with(&err);
}

void box_resume(struct box *box)
{
    struct ferry_error err;
    if (machine_resume(box->machine, &err))
        fail_with(&err);
}

void box_pause(struct box *box)
{
    struct ferry_error err;
    if (machine_pause(box->machine, &err))
        fail_with(&err);
}

uint32_t box_load_u32(const struct box *box, uint64_t gpa)
{
    const uint8_t *base = memory_base(machine_memory(box->machine));
    return __atomic_load_n((const uint32_t *)(const void *)(base + gpa), __ATOMIC_SEQ_CST);
}

void box_wait_change(const struct box *box, uint64_t gpa, uint32_t from)
{
    uint64_t start = monotonic_ns();
    while (box_load_u32(box, gpa) == from) {
        if (monotonic_ns() - start > DEADLINE_NS)
            fail_msg("0x%llx is still %u", (unsigned long long)gpa, from);
        usleep(1000);
    }
}

void box_wait_event(struct box *box, enum machine_event event)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    LOCK_SCOPE(&box->lock);
    while (!box->events[event])
        if (pthread_cond_timedwait(&box->changed, &box->lock, &until))
            fail_msg("event %d does not come", event);
}

static int keep(void *opaque, const struct machine_section *section, struct ferry_error *err)
{
    struct box_sections *sections = opaque;
    size_t at = sections->count++;

    (void)err;
    assert_true(at < sizeof(sections->section) / sizeof(sections->section[0]));
    sections->data[at] = malloc(section->size + 1);
    sections->names[at] = strdup(section->name);
    assert_non_null(sections->data[at]);
    assert_non_null(sections->names[at]);
    memcpy(sections->data[at], section->data, section->size);
    sections->section[at] = *section;
    sections->section[at].data = sections->data[at];
    sections->section[at].name = sections->names[at];
    return 0;
}

void box_save(struct box *box, struct box_sections *out)
{
    struct ferry_error err;
    memset(out, 0, sizeof(*out));
    if (machine_save(box->machine, keep, out, &err))
        fail_with(&err);
}

void box_free(struct box_sections *sections)
{
    for (size_t i = 0; i < sections->count; i++) {
        free(sections->names[i]);
        free(sections->data[i]);
    }
    sections->count = 0;
}

static size_t position(const struct box_sections *sections, const char *name)
{
    for (size_t i = 0; i < sections->count; i++)
        if (strcmp(sections->names[i], name) == 0)
            return i;
    fail_msg("no section %s", name);
    return 0;
}

struct machine_section *box_find(struct box_sections *sections, const char *name)
{
    return &sections->section[position(sections, name)];
}

void box_replace(struct box_sections *sections, const char *name, uint8_t *data, size_t size)
{
    size_t at = position(sections, name);
    free(sections->data[at]);
    sections->data[at] = data;
    sections->section[at].data = data;
    sections->section[at].size = size;
}

int box_load(struct box *box, const struct box_sections *sections, struct ferry_error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < sections->count; i++)
        rc = machine_load_section(box->machine, &sections->section[i], err);
    return rc ? rc : machine_load_commit(box->machine, err);
}

void box_copy_ram(struct box *to, const struct box *from)
{
    const struct memory *source = machine_memory(from->machine);
    const uint8_t *base = memory_base(source);
    for (uint64_t start = 0, end; memory_next_data(source, &start, &end) == 1; start = end)
        assert_int_equal(memory_load(machine_memory(to->machine), start, base + start, end - start),
                         0);
}

void box_assert_equal(const struct box_sections *a, const struct box_sections *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct machine_section *x = &a->section[i], *y = &b->section[i];
        assert_string_equal(x->name, y->name);
        if (x->size != y->size || memcmp(x->data, y->data, x->size) != 0)
            fail_msg("section %s differs", x->name);
    }
}
