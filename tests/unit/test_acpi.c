/*
 * The ACPI tables: sums and references checked here independently of acpi.c, contents by iasl,
 * which must disassemble and recompile each table without a word.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/limits.h"
#include "vmm/acpi.h"
#include "vmm/layout.h"
#include "vmm/memory.h"

#define AREA_BYTES (LAYOUT_ACPI_END - LAYOUT_ACPI)

struct area {
    uint8_t bytes[AREA_BYTES];
};

static uint32_t get32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void assert_sum_zero(const uint8_t *p, size_t size)
{
    uint8_t sum = 0;

    while (size--)
        sum += *p++;
    assert_int_equal(sum, 0);
}

static struct area *install(uint32_t cpus)
{
    struct acpi_params params = {.cpus = cpus, .generation = {1, 2, 3, 0xff}};
    struct area *area = malloc(sizeof(*area));
    struct memory *memory;
    struct gpa rsdp;

    assert_non_null(area);
    assert_int_equal(memory_create(16 * MIB, &memory, NULL), 0);
    assert_int_equal(acpi_install(&params, memory, &rsdp, NULL), 0);
    assert_int_equal(rsdp.value, LAYOUT_ACPI);
    assert_int_equal(memory_read(memory, rsdp, area->bytes, AREA_BYTES), 0);
    memory_destroy(memory);
    return area;
}

/* The table at a guest address: inside the area, its sum right. */
static const uint8_t *table_at(const struct area *area, uint64_t address)
{
    const uint8_t *table;

    assert_in_range(address, LAYOUT_ACPI, LAYOUT_VMGENID - 36);
    table = area->bytes + (address - LAYOUT_ACPI);
    assert_in_range(get32(table + 4), 36, LAYOUT_VMGENID - address);
    if (memcmp(table, "FACS", 4) != 0)
        assert_sum_zero(table, get32(table + 4));
    return table;
}

static const uint8_t *find_table(const struct area *area, const char *signature)
{
    const uint8_t *xsdt = table_at(area, get64(area->bytes + 24));

    if (strcmp(signature, "XSDT") == 0)
        return xsdt;
    for (uint32_t at = 36; at + 8 <= get32(xsdt + 4); at += 8) {
        const uint8_t *table = table_at(area, get64(xsdt + at));

        if (memcmp(table, signature, 4) == 0)
            return table;
    }
    fail_msg("no %s", signature);
    return NULL;
}

static void test_rsdp_and_tables(void **state)
{
    struct area *area = install(2);
    const uint8_t *rsdp = area->bytes, *fadt;

    (void)state;
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(rsdp[15], 2);
    assert_int_equal(get32(rsdp + 20), 36);
    assert_sum_zero(rsdp, 20);
    assert_sum_zero(rsdp, 36);
    find_table(area, "APIC");
    find_table(area, "MCFG");
    fadt = find_table(area, "FACP");
    assert_int_equal(get32(fadt + 4), 276);
    assert_memory_equal(table_at(area, get32(fadt + 40)), "DSDT", 4);
    assert_int_equal(get64(fadt + 140), get32(fadt + 40));
    assert_memory_equal(table_at(area, get32(fadt + 36)), "FACS", 4);
    assert_int_equal(get32(fadt + 36) % 64, 0);
    /* The 32-bit and the extended address of a register agree. */
    assert_int_equal(get32(fadt + 56), get64(fadt + 148 + 4));
    assert_int_equal(get32(fadt + 64), get64(fadt + 172 + 4));
    assert_int_equal(get32(fadt + 76), get64(fadt + 208 + 4));
    assert_int_equal(get32(fadt + 80), get64(fadt + 220 + 4));
    assert_int_equal(get64(fadt + 116 + 4), PORT_RESET);
    assert_int_equal(fadt[128], 6);
    free(area);
}

static void test_generation_is_where_the_dsdt_says(void **state)
{
    static const uint8_t generation[16] = {1, 2, 3, 0xff};
    struct area *area = install(1);

    (void)state;
    assert_memory_equal(area->bytes + (LAYOUT_VMGENID - LAYOUT_ACPI), generation, 16);
    free(area);
}

/* One enabled local APIC a CPU, in order, and one IOAPIC. */
static void test_madt_lists_every_cpu(void **state)
{
    static const uint32_t counts[] = {1, 2, 16, LIMIT_VCPUS};

    (void)state;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct area *area = install(counts[i]);
        const uint8_t *madt = find_table(area, "APIC");
        uint32_t cpus = 0, ioapics = 0;

        for (uint32_t at = 44; at < get32(madt + 4); at += madt[at + 1]) {
            assert_true(madt[at + 1] >= 2);
            if (madt[at] == 0) {
                assert_int_equal(madt[at + 3], cpus);
                assert_int_equal(get32(madt + at + 4), 1);
                cpus++;
            }
            ioapics += madt[at] == 1;
        }
        assert_int_equal(cpus, counts[i]);
        assert_int_equal(ioapics, 1);
        free(area);
    }
}

static void test_same_parameters_same_bytes(void **state)
{
    struct area *a = install(16), *b = install(16);

    (void)state;
    assert_memory_equal(a->bytes, b->bytes, AREA_BYTES);
    free(a);
    free(b);
}

static void test_refuses_impossible_cpu_counts(void **state)
{
    struct acpi_params none = {.cpus = 0}, many = {.cpus = LIMIT_VCPUS + 1};
    struct ferry_error err;
    struct memory *memory;
    struct gpa rsdp;

    (void)state;
    assert_int_equal(memory_create(16 * MIB, &memory, NULL), 0);
    assert_int_equal(acpi_install(&none, memory, &rsdp, &err), -EINVAL);
    assert_int_equal(acpi_install(&many, memory, &rsdp, &err), -EINVAL);
    memory_destroy(memory);
}

static void write_file(const char *folder, const char *name, const void *data, size_t size)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* Disassemble, then compile with warnings as errors. */
static void check_with_iasl(const char *folder, const char *name)
{
    char command[512];

    snprintf(
        command, sizeof(command),
        "cd %s && iasl -p %s -d %s.dat >%s.log 2>&1 && iasl -we -p %s-new %s.dsl >>%s.log 2>&1 "
        "&& grep -q '0 Errors, 0 Warnings' %s.log || { cat %s.log; exit 1; }",
        folder, name, name, name, name, name, name, name, name);
    if (system(command) != 0)
        fail_msg("iasl does not like table %s", name);
}

static void test_iasl_accepts_every_table(void **state)
{
    static const char *const names[] = {"FACP", "APIC", "MCFG", "XSDT", "DSDT", "FACS"};
    char folder[] = "/tmp/ferry-acpi-XXXXXX", command[64];
    const uint8_t *fadt;
    struct area *area;

    (void)state;
    if (system("command -v iasl >/dev/null") != 0) {
        print_message("skipped: iasl (package acpica-tools) is missing\n");
        skip();
    }
    assert_non_null(mkdtemp(folder));
    area = install(LIMIT_VCPUS);
    fadt = find_table(area, "FACP");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const uint8_t *table = strcmp(names[i], "DSDT") == 0   ? table_at(area, get32(fadt + 40))
                               : strcmp(names[i], "FACS") == 0 ? table_at(area, get32(fadt + 36))
                                                               : find_table(area, names[i]);
        char file[16];

        snprintf(file, sizeof(file), "%s.dat", names[i]);
        write_file(folder, file, table, get32(table + 4));
        check_with_iasl(folder, names[i]);
    }
    free(area);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rsdp_and_tables),
        cmocka_unit_test(test_generation_is_where_the_dsdt_says),
        cmocka_unit_test(test_madt_lists_every_cpu),
        cmocka_unit_test(test_same_parameters_same_bytes),
        cmocka_unit_test(test_refuses_impossible_cpu_counts),
        cmocka_unit_test(test_iasl_accepts_every_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
