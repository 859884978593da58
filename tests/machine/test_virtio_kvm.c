/*
 * virtio with KVM behind it: kicks of a running vCPU ring the doorbell without an exit (ioeventfd),
 * wherever the BAR lies, and interrupts arrive in the local APIC (irqfd).
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include "tests/support/virtio_rig.h"
#include "vmm/device/virtio_rng.h"
#include "vmm/layout.h"

#define CODE_GPA    0x8000
#define EXIT_PORT   0xf4
#define LAPIC_SPIV  0xf0
#define LAPIC_IRR   0x200
#define VECTOR      0x40 /* of queue 0: driver_enable_msix */
#define PATIENCE_MS 30000

struct bench {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    struct rig rig;
    struct device *device;
    struct driver driver;
};

static void set_lapic_u32(struct kvm_lapic_state *lapic, unsigned reg, uint32_t value)
{
    memcpy(lapic->regs + reg, &value, sizeof(value));
}

static void enable_lapic(struct bench *bench)
{
    struct kvm_lapic_state lapic;
    assert_int_equal(ioctl(bench->vcpu, KVM_GET_LAPIC, &lapic), 0);
    set_lapic_u32(&lapic, LAPIC_SPIV, 0x1ff);
    assert_int_equal(ioctl(bench->vcpu, KVM_SET_LAPIC, &lapic), 0);
}

static bool requested(struct bench *bench, unsigned vector)
{
    struct kvm_lapic_state lapic;
    uint32_t bits;
    assert_int_equal(ioctl(bench->vcpu, KVM_GET_LAPIC, &lapic), 0);
    memcpy(&bits, lapic.regs + LAPIC_IRR + (size_t)vector / 32 * 0x10, sizeof(bits));
    return bits >> (vector % 32) & 1;
}

static void open_vm(struct bench *bench)
{
    bench->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (bench->kvm < 0) {
        print_message("no /dev/kvm: skipped\n");
        skip();
    }
    bench->vm = ioctl(bench->kvm, KVM_CREATE_VM, 0);
    assert_true(bench->vm >= 0);
    uint64_t identity = LAYOUT_IDENTITY_MAP;
    assert_int_equal(ioctl(bench->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity), 0);
    assert_int_equal(ioctl(bench->vm, KVM_SET_TSS_ADDR, LAYOUT_TSS), 0);
    assert_int_equal(ioctl(bench->vm, KVM_CREATE_IRQCHIP, 0), 0);
    bench->vcpu = ioctl(bench->vm, KVM_CREATE_VCPU, 0);
    assert_true(bench->vcpu >= 0);
    bench->run_size = (size_t)ioctl(bench->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    bench->run = mmap(NULL, bench->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, bench->vcpu, 0);
    assert_true(bench->run != MAP_FAILED);
}

static void bench_open(struct bench *bench)
{
    open_vm(bench);
    rig_create(&bench->rig, bench->vm);
    struct kvm_userspace_memory_region region = {
        .memory_size = RIG_RAM_BYTES,
        .userspace_addr = (uintptr_t)memory_base(bench->rig.platform.memory)};
    assert_int_equal(ioctl(bench->vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
    enable_lapic(bench);
    assert_int_equal(virtio_rng_create(&bench->rig.platform, bench->rig.pci, &bench->device, NULL),
                     0);
    assert_int_equal(bench->device->ops->resume(bench->device, NULL), 0);
    driver_probe(&bench->driver, &bench->rig, rig_find(&bench->rig, 0x1044, 0));
    assert_true(driver_negotiate(&bench->driver, driver_offered(&bench->driver)));
    driver_enable_msix(&bench->driver);
    driver_setup_queue(&bench->driver, 8);
    driver_ready(&bench->driver);
}

static void bench_close(struct bench *bench)
{
    bench->device->ops->destroy(bench->device);
    rig_destroy(&bench->rig);
    munmap(bench->run, bench->run_size);
    close(bench->vcpu);
    close(bench->vm);
    close(bench->kvm);
}

/* Run "movw $0, address; outb %al, $EXIT_PORT" in flat protected mode: the first exit. */
static uint32_t guest_kicks(struct bench *bench, uint32_t address)
{
    uint8_t code[] = {0x66, 0xc7, 0x05, 0, 0, 0, 0, 0, 0, 0xe6, EXIT_PORT};
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2};
    memcpy(code + 3, &address, sizeof(address));
    memcpy(rig_ram(&bench->rig, CODE_GPA), code, sizeof(code));
    assert_int_equal(ioctl(bench->vcpu, KVM_GET_SREGS, &sregs), 0);
    struct kvm_segment flat = {
        .limit = UINT32_MAX, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat;
    flat.type = 11;
    flat.selector = 8;
    sregs.cs = flat;
    sregs.cr0 |= 1;
    assert_int_equal(ioctl(bench->vcpu, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(ioctl(bench->vcpu, KVM_SET_REGS, &regs), 0);
    assert_int_equal(ioctl(bench->vcpu, KVM_RUN, 0), 0);
    return bench->run->exit_reason;
}

static void offer_buffer(struct bench *bench)
{
    driver_chain(&bench->driver, 0, &(struct driver_buffer){DRIVER_DATA_GPA, 16, true}, 1);
    driver_publish(&bench->driver, 0);
}

static void test_kick_and_interrupt(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    offer_buffer(&bench);
    assert_false(requested(&bench, VECTOR));
    assert_int_equal(guest_kicks(&bench, (uint32_t)bench.driver.notify), KVM_EXIT_IO);
    driver_wait(&bench.driver, NULL);
    unsigned waited = 0;
    while (!requested(&bench, VECTOR) && waited++ < PATIENCE_MS)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_true(requested(&bench, VECTOR));
    bench_close(&bench);
}

static void test_doorbell_follows_the_bar(void **state)
{
    struct bench bench;
    const uint32_t place = 0xd0000000;
    (void)state;
    bench_open(&bench);
    uint32_t notify = (uint32_t)bench.driver.notify;
    uint32_t offset = notify - (uint32_t)bench.driver.common;
    rig_config_write(&bench.rig, bench.driver.slot, PCI_BASE_ADDRESS_0, 4, place);
    assert_int_equal(guest_kicks(&bench, notify), KVM_EXIT_MMIO); /* nobody there any more */
    offer_buffer(&bench);
    assert_int_equal(guest_kicks(&bench, place + offset), KVM_EXIT_IO);
    driver_wait(&bench.driver, NULL);
    rig_config_write(&bench.rig, bench.driver.slot, PCI_COMMAND, 2, 0);
    assert_int_equal(guest_kicks(&bench, place + offset), KVM_EXIT_MMIO);
    bench_close(&bench);
}

static void test_doorbell_goes_with_the_queue(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    rig_mmio_write(&bench.rig, bench.driver.common + VIRTIO_PCI_COMMON_STATUS, 1, 0);
    assert_int_equal(guest_kicks(&bench, (uint32_t)bench.driver.notify), KVM_EXIT_MMIO);
    bench_close(&bench);
}

/* A machine loaded from elsewhere has doorbells, routes and the interrupt that may be missing. */
static void test_loaded_device_is_wired(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct device *device = bench.device;
    device->ops->quiesce(device, NULL);
    struct writer saved = rig_save(device);
    device->ops->reset(device);
    assert_int_equal(guest_kicks(&bench, (uint32_t)bench.driver.notify), KVM_EXIT_MMIO);
    assert_int_equal(rig_load(&bench.rig, device, saved.data, saved.size, NULL), 0);
    offer_buffer(&bench);
    assert_int_equal(guest_kicks(&bench, (uint32_t)bench.driver.notify), KVM_EXIT_IO);
    assert_false(driver_has_used(&bench.driver)); /* still quiesced */
    assert_int_equal(device->ops->resume(device, NULL), 0);
    driver_wait(&bench.driver, NULL);
    unsigned waited = 0;
    while (!requested(&bench, VECTOR) && waited++ < PATIENCE_MS)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_true(requested(&bench, VECTOR));
    writer_free(&saved);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kick_and_interrupt),
        cmocka_unit_test(test_doorbell_follows_the_bar),
        cmocka_unit_test(test_doorbell_goes_with_the_queue),
        cmocka_unit_test(test_loaded_device_is_wired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
