/* Interrupt lines and MSI routes of a machine on /dev/kvm, seen in the controllers' saved state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/box.h"
#include "vmm/irqchip_state.h"
#include "vmm/layout.h"
#include "vmm/machine_internal.h"

#define VECTOR    0x51u
#define LAPIC_IRR 0x200

/* movl $0x1ff, LAPIC spurious vector register (enables it); incl counter; cli; halt */
static const char lapic_on[] = "\xc7\x05\xf0\x00\xe0\xfe\xff\x01\x00\x00"
                               "\xff\x05\x00\x00\x20\x00\xfa\xf4\xeb\xfd";

static void *state_of(struct box *box, const char *name, const struct state_table *table)
{
    struct box_sections all;
    void *state = calloc(1, table->size);

    assert_non_null(state);
    box_save(box, &all);
    const struct machine_section *s = box_find(&all, name);
    assert_int_equal(state_load(table, s->version, s->data, s->size, NULL, state, NULL), 0);
    box_free(&all);
    return state;
}

/* Is VECTOR requested at vCPU 0? */
static bool requested(struct box *box)
{
    struct vcpu_state *vcpu = state_of(box, "vcpu0", &vcpu_table);
    uint32_t word;
    memcpy(&word, vcpu->lapic + LAPIC_IRR + (size_t)(VECTOR / 32) * 16, sizeof(word));
    free(vcpu);
    return word >> VECTOR % 32 & 1;
}

static struct box *box_with_lapic(void)
{
    struct box *box = box_create(1);
    box_boot(box, lapic_on, sizeof(lapic_on) - 1);
    box_resume(box);
    box_wait_change(box, BOX_COUNTER, 0);
    return box;
}

static void msi_reaches_the_lapic_and_moves_with_it(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box_sections all;
    struct box *box = box_with_lapic();
    struct irq *irq = box->machine->irq;
    unsigned gsi, other;
    int fd, other_fd;

    assert_int_equal(irq_msi_alloc(irq, &gsi, &fd, &err), 0);
    assert_int_equal(irq_msi_alloc(irq, &other, &other_fd, &err), 0);
    assert_true(gsi >= GSI_MSI_FIRST && other != gsi && other_fd != fd);
    /* Without a message nothing happens. */
    assert_int_equal(write(fd, &(uint64_t){1}, 8), 8);
    box_pause(box);
    assert_false(requested(box));
    assert_int_equal(irq_msi_set(irq, gsi, 0xfee00000, VECTOR, &err), 0);
    assert_int_equal(irq_msi_set(irq, gsi, 0xfee00000, VECTOR, &err), 0); /* again */
    /* What was rung before may come now or not at all; ring it for certain. */
    assert_int_equal(write(fd, &(uint64_t){1}, 8), 8);
    box_resume(box);
    box_pause(box);
    assert_true(requested(box));
    struct box *twin = box_twin(box);
    box_save(box, &all);
    box_copy_ram(twin, box);
    assert_int_equal(box_load(twin, &all, &err), 0);
    assert_true(requested(twin));
    irq_msi_free(irq, gsi);
    irq_msi_free(irq, gsi);
    assert_int_equal(irq_msi_set(irq, gsi, 0xfee00000, VECTOR, &err), -EINVAL);
    assert_int_equal(irq_msi_set(irq, 4, 0xfee00000, VECTOR, &err), -EINVAL); /* a line */
    assert_int_equal(irq_msi_alloc(irq, &other, &other_fd, &err), 0);
    assert_int_equal(other, gsi); /* the free one is taken again */
    box_free(&all);
    box_destroy(twin);
    box_destroy(box);
}

static void lines_reach_the_controllers(void **state)
{
    (void)state;
    struct box *box = box_create(1);
    for (unsigned gsi = 3; gsi < 8; gsi++) {
        irq_set_line(box->machine->irq, gsi, true);
        struct pic_state *pic = state_of(box, "pic", &pic_table);
        struct ioapic_state *ioapic = state_of(box, "ioapic", &ioapic_table);
        assert_true(pic->chips[0].last_irr & 1u << gsi);
        assert_true(ioapic->irr & 1u << gsi);
        free(pic);
        free(ioapic);
        irq_set_line(box->machine->irq, gsi, false);
        pic = state_of(box, "pic", &pic_table);
        assert_false(pic->chips[0].last_irr & 1u << gsi);
        free(pic);
    }
    irq_set_line(box->machine->irq, 20, true); /* behind the ISA lines: IOAPIC only */
    struct ioapic_state *ioapic = state_of(box, "ioapic", &ioapic_table);
    assert_true(ioapic->irr & 1u << 20);
    free(ioapic);
    box_destroy(box);
}

/* The routing table that goes with an MSI must leave the lines where they were. */
static void lines_survive_a_new_route(void **state)
{
    (void)state;
    struct ferry_error err;
    struct box *box = box_create(1);
    unsigned gsi;
    int fd;
    assert_int_equal(irq_msi_alloc(box->machine->irq, &gsi, &fd, &err), 0);
    assert_int_equal(irq_msi_set(box->machine->irq, gsi, 0xfee00000, VECTOR, &err), 0);
    for (unsigned line = 0; line < 24; line++)
        irq_set_line(box->machine->irq, line, true);
    struct pic_state *pic = state_of(box, "pic", &pic_table);
    struct ioapic_state *ioapic = state_of(box, "ioapic", &ioapic_table);
    assert_int_equal(ioapic->irr, 0xffffff);
    assert_int_equal(pic->chips[0].last_irr & 0xfb, 0xfb); /* but the cascade */
    assert_int_equal(pic->chips[1].last_irr, 0xff);
    free(pic);
    free(ioapic);
    box_destroy(box);
}

/* mov $0xd0001000, %edi; movw $7, (%edi); incl counter; cli; halt */
static void doorbells_ring_without_an_exit(void **state)
{
    (void)state;
    static const char code[] = "\xbf\x00\x10\x00\xd0\x66\xc7\x07\x07\x00"
                               "\xff\x05\x00\x00\x20\x00\xfa\xf4\xeb\xfd";
    struct ferry_error err;
    struct box *box = box_create(1);
    unsigned gsi;
    int fd;
    uint64_t rung;
    assert_int_equal(irq_msi_alloc(box->machine->irq, &gsi, &fd, &err), 0); /* any eventfd */
    assert_int_equal(irq_doorbell_add(box->machine->irq, 0xd0001000, 2, false, fd, &err), 0);
    assert_int_equal(irq_doorbell_add(box->machine->irq, 0xd0001000, 2, false, fd, &err), -EEXIST);
    box_boot(box, code, sizeof(code) - 1);
    box_resume(box);
    box_wait_change(box, BOX_COUNTER, 0);
    box_pause(box);
    assert_int_equal(read(fd, &rung, sizeof(rung)), sizeof(rung));
    assert_int_equal(rung, 1);
    irq_doorbell_remove(box->machine->irq, 0xd0001000, 2, false, fd);
    assert_int_equal(irq_doorbell_add(box->machine->irq, 0xd0001000, 2, false, fd, &err), 0);
    box_destroy(box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(msi_reaches_the_lapic_and_moves_with_it),
        cmocka_unit_test(lines_reach_the_controllers),
        cmocka_unit_test(lines_survive_a_new_route),
        cmocka_unit_test(doorbells_ring_without_an_exit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
