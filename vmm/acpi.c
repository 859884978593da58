/*
 * All tables are built in one buffer, which is then written to LAYOUT_ACPI as a whole: first the
 * RSDP, where a guest that was not told of it would search, then FACS, DSDT and those that refer to
 * them.  Addresses are known as soon as a table starts, so each is final when it is sealed with its
 * length and checksum.
 *
 * Interrupts are wired as KVM's in-kernel controllers are: GSI n is pin n of the IOAPIC, the timer
 * (IRQ 0) included, so the MADT overrides nothing but the SCI, which is level-triggered.
 */
#include "vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "vmm/acpi_dsdt.h"
#include "vmm/device/rtc_time.h"
#include "vmm/layout.h"

#define ACPI_BYTES (LAYOUT_VMGENID - LAYOUT_ACPI)

enum {
    TABLE_HEADER_BYTES = 36,
    TABLE_LENGTH_AT = 4,
    TABLE_CHECKSUM_AT = 9,
    RSDP_BYTES = 36,
    RSDP_V1_BYTES = 20,
    RSDP_CHECKSUM_AT = 8,
    RSDP_XSDT_AT = 24,
    RSDP_EXTENDED_CHECKSUM_AT = 32,
    FACS_BYTES = 64,
    FACS_ALIGN = 64,
    TABLE_ALIGN = 16,

    FADT_PROFILE_SERVER = 4,
    FADT_BOOT_LEGACY_DEVICES = 1 << 0,
    FADT_BOOT_NO_VGA = 1 << 2,
    FADT_BOOT_NO_ASPM = 1 << 4,
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_SLP_BUTTON_NOT_FIXED = 1 << 5,
    FADT_RTC_WAKE_NOT_FIXED = 1 << 6,
    FADT_TMR_VAL_EXT = 1 << 8,
    FADT_RESET_REG_SUP = 1 << 10,
    FADT_HEADLESS = 1 << 12,
    FADT_C2_NOT_SUPPORTED = 0x0fff,
    FADT_C3_NOT_SUPPORTED = 0xffff,
    RESET_VALUE = 0x06, /* of port 0xcf9: CPU reset, hard */

    GAS_BYTE = 1,
    GAS_WORD = 2,
    GAS_DWORD = 3,
    GAS_IO = 1,

    MADT_PCAT_COMPAT = 1,
    MADT_LAPIC = 0,
    MADT_IOAPIC = 1,
    MADT_OVERRIDE = 2,
    MADT_LAPIC_NMI = 4,
    MADT_LAPIC_ENABLED = 1,
    MADT_HIGH_LEVEL = 0x0d, /* polarity active high, trigger level */
    MADT_ALL_PROCESSORS = 0xff,
    IOAPIC_ID = 0,
};

static uint64_t address_of(size_t offset)
{
    return LAYOUT_ACPI + (uint64_t)offset;
}

static uint8_t checksum(const uint8_t *data, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += data[i];
    return (uint8_t)-sum;
}

static void align(struct writer *w, size_t alignment)
{
    writer_grow(w, -w->size & (alignment - 1));
}

/* Start a table; its offset goes to table_end, and stands for the table afterwards. */
static size_t table_begin(struct writer *w, const char signature[4], uint8_t revision)
{
    size_t start;

    align(w, TABLE_ALIGN);
    start = w->size;
    writer_copy(w, signature, 4);
    writer_u32(w, 0); /* length */
    writer_u8(w, revision);
    writer_u8(w, 0); /* checksum */
    writer_copy(w, "FERRY ", 6);
    writer_copy(w, "FERRYVM ", 8);
    writer_u32(w, 1); /* OEM revision */
    writer_copy(w, "FRRY", 4);
    writer_u32(w, 1); /* creator revision */
    return start;
}

static void table_end(struct writer *w, size_t start)
{
    if (w->error)
        return;
    writer_put_u32_at(w, start + TABLE_LENGTH_AT, (uint32_t)(w->size - start));
    w->data[start + TABLE_CHECKSUM_AT] = checksum(w->data + start, w->size - start);
}

/* Generic Address Structure (ACPI 6.4, 5.2.3.2) in port space; port 0: no such register. */
static void port_address(struct writer *w, uint16_t port, uint8_t bits, uint8_t access)
{
    writer_u8(w, port ? GAS_IO : 0);
    writer_u8(w, bits);
    writer_u8(w, 0); /* bit offset */
    writer_u8(w, access);
    writer_u64(w, port);
}

static size_t build_facs(struct writer *w)
{
    size_t start;

    align(w, FACS_ALIGN);
    start = w->size;
    writer_copy(w, "FACS", 4);
    writer_u32(w, FACS_BYTES);
    writer_grow(w, 24); /* hardware signature, waking vectors, global lock, flags */
    writer_u8(w, 2);    /* version */
    writer_grow(w, FACS_BYTES - 33);
    return start;
}

static size_t build_dsdt(struct writer *w, const struct acpi_params *params)
{
    size_t start = table_begin(w, "DSDT", 2);

    acpi_dsdt_body(w, params);
    table_end(w, start);
    return start;
}

/* The FADT's fields up to the flags: where ACPI 1.0 put things (5.2.9). */
static void fadt_legacy_part(struct writer *w, size_t facs, size_t dsdt)
{
    writer_u32(w, (uint32_t)address_of(facs));
    writer_u32(w, (uint32_t)address_of(dsdt));
    writer_u8(w, 0);
    writer_u8(w, FADT_PROFILE_SERVER);
    writer_u16(w, GSI_SCI);
    writer_u32(w, 0); /* SMI_CMD: always in ACPI mode */
    writer_u32(w, 0); /* ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT */
    writer_u32(w, PORT_PM_EVENT);
    writer_u32(w, 0); /* PM1b */
    writer_u32(w, PORT_PM_CONTROL);
    writer_u32(w, 0); /* PM1b */
    writer_u32(w, 0); /* PM2 */
    writer_u32(w, PORT_PM_TIMER);
    writer_u32(w, PORT_GPE0);
    writer_u32(w, 0); /* GPE1 */
    writer_u8(w, 4);  /* PM1_EVT_LEN */
    writer_u8(w, 2);  /* PM1_CNT_LEN */
    writer_u8(w, 0);  /* PM2_CNT_LEN */
    writer_u8(w, 4);  /* PM_TMR_LEN */
    writer_u8(w, 4);  /* GPE0_BLK_LEN */
    writer_u8(w, 0);  /* GPE1_BLK_LEN */
    writer_u8(w, 0);  /* GPE1_BASE */
    writer_u8(w, 0);  /* CST_CNT */
    writer_u16(w, FADT_C2_NOT_SUPPORTED);
    writer_u16(w, FADT_C3_NOT_SUPPORTED);
    writer_u16(w, 0); /* FLUSH_SIZE */
    writer_u16(w, 0); /* FLUSH_STRIDE */
    writer_u16(w, 0); /* DUTY_OFFSET, DUTY_WIDTH */
    writer_u8(w, 0);  /* DAY_ALRM: the alarm has no day */
    writer_u8(w, 0);  /* MON_ALRM */
    writer_u8(w, RTC_CENTURY);
    writer_u16(w, FADT_BOOT_LEGACY_DEVICES | FADT_BOOT_NO_VGA | FADT_BOOT_NO_ASPM); /* no 8042 */
    writer_u8(w, 0);
}

static size_t build_fadt(struct writer *w, size_t facs, size_t dsdt)
{
    size_t start = table_begin(w, "FACP", 6);

    fadt_legacy_part(w, facs, dsdt);
    writer_u32(w, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON_NOT_FIXED | FADT_RTC_WAKE_NOT_FIXED |
                      FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP | FADT_HEADLESS);
    port_address(w, PORT_RESET, 8, GAS_BYTE);
    writer_u8(w, RESET_VALUE);
    writer_u16(w, 0); /* ARM_BOOT_ARCH */
    writer_u8(w, 4);  /* of version 6.4 */
    writer_u64(w, 0); /* X_FIRMWARE_CTRL: the FACS is below 4 GiB */
    writer_u64(w, address_of(dsdt));
    port_address(w, PORT_PM_EVENT, 32, GAS_WORD);
    port_address(w, 0, 0, 0); /* PM1b */
    port_address(w, PORT_PM_CONTROL, 16, GAS_WORD);
    port_address(w, 0, 0, 0); /* PM1b */
    port_address(w, 0, 0, 0); /* PM2 */
    port_address(w, PORT_PM_TIMER, 32, GAS_DWORD);
    port_address(w, PORT_GPE0, 32, GAS_BYTE);
    port_address(w, 0, 0, 0);       /* GPE1 */
    port_address(w, 0, 0, 0);       /* SLEEP_CONTROL_REG: reduced hardware only */
    port_address(w, 0, 0, 0);       /* SLEEP_STATUS_REG */
    writer_copy(w, "FERRY\0\0", 8); /* hypervisor vendor */
    table_end(w, start);
    return start;
}

static size_t build_madt(struct writer *w, const struct acpi_params *params)
{
    size_t start = table_begin(w, "APIC", 5);

    writer_u32(w, LAYOUT_LAPIC);
    writer_u32(w, MADT_PCAT_COMPAT); /* there are 8259s too */
    for (uint32_t i = 0; i < params->cpus; i++) {
        writer_u8(w, MADT_LAPIC);
        writer_u8(w, 8);
        writer_u8(w, (uint8_t)i); /* processor UID */
        writer_u8(w, (uint8_t)i); /* APIC id */
        writer_u32(w, MADT_LAPIC_ENABLED);
    }
    writer_u8(w, MADT_IOAPIC);
    writer_u8(w, 12);
    writer_u8(w, IOAPIC_ID);
    writer_u8(w, 0);
    writer_u32(w, LAYOUT_IOAPIC);
    writer_u32(w, 0); /* first GSI */

    writer_u8(w, MADT_OVERRIDE);
    writer_u8(w, 10);
    writer_u8(w, 0); /* ISA */
    writer_u8(w, GSI_SCI);
    writer_u32(w, GSI_SCI);
    writer_u16(w, MADT_HIGH_LEVEL);

    writer_u8(w, MADT_LAPIC_NMI);
    writer_u8(w, 6);
    writer_u8(w, MADT_ALL_PROCESSORS);
    writer_u16(w, 0); /* polarity and trigger as on the bus */
    writer_u8(w, 1);  /* LINT1 */
    table_end(w, start);
    return start;
}

static size_t build_mcfg(struct writer *w)
{
    size_t start = table_begin(w, "MCFG", 1);

    writer_u64(w, 0);
    writer_u64(w, LAYOUT_ECAM);
    writer_u16(w, 0);                           /* segment group */
    writer_u8(w, 0);                            /* first bus */
    writer_u8(w, (LAYOUT_ECAM_SIZE >> 20) - 1); /* last bus, 1 MiB each */
    writer_u32(w, 0);
    table_end(w, start);
    return start;
}

static size_t build_xsdt(struct writer *w, const size_t *tables, unsigned count)
{
    size_t start = table_begin(w, "XSDT", 1);

    for (unsigned i = 0; i < count; i++)
        writer_u64(w, address_of(tables[i]));
    table_end(w, start);
    return start;
}

/* The RSDP is the first thing in the buffer, and the last to be known. */
static void fill_rsdp(struct writer *w, size_t xsdt)
{
    static const uint8_t start[16] = "RSD PTR \0FERRY \2"; /* signature, sum, OEM, revision */
    uint8_t *rsdp = w->data;

    if (w->error)
        return;
    memcpy(rsdp, start, sizeof(start));
    writer_put_u32_at(w, 20, RSDP_BYTES);
    writer_put_u32_at(w, RSDP_XSDT_AT, (uint32_t)address_of(xsdt));
    rsdp[RSDP_CHECKSUM_AT] = checksum(rsdp, RSDP_V1_BYTES);
    rsdp[RSDP_EXTENDED_CHECKSUM_AT] = checksum(rsdp, RSDP_BYTES);
}

int acpi_install(const struct acpi_params *params, struct memory *memory, struct gpa *rsdp,
                 struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(ACPI_BYTES);
    size_t facs, dsdt, tables[3];
    int ret;

    if (params->cpus < 1 || params->cpus > LIMIT_VCPUS)
        return ferry_fail(err, -EINVAL, "acpi", "cannot describe %u CPUs", params->cpus);
    writer_grow(&w, RSDP_BYTES);
    facs = build_facs(&w);
    dsdt = build_dsdt(&w, params);
    tables[0] = build_fadt(&w, facs, dsdt);
    tables[1] = build_madt(&w, params);
    tables[2] = build_mcfg(&w);
    fill_rsdp(&w, build_xsdt(&w, tables, 3));

    ret = w.error ? w.error : memory_write(memory, (struct gpa){LAYOUT_ACPI}, w.data, w.size);
    if (ret == 0)
        ret = memory_write(memory, (struct gpa){LAYOUT_VMGENID}, params->generation,
                           sizeof(params->generation));
    if (ret < 0)
        return ferry_fail_sys(err, ret, "acpi", "cannot write the tables");
    rsdp->value = LAYOUT_ACPI;
    return 0;
}
