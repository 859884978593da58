# What runs: included by the Makefile.  Scripts take the build folder as their first argument.

# The payload guest: freestanding, no library, general registers only.
GUEST_CC     ?= gcc
GUEST_CFLAGS := -std=gnu11 -O2 $(WARNINGS) -m64 -ffreestanding -fno-pie -fno-stack-protector \
	-fcf-protection=none -mgeneral-regs-only -mno-red-zone -fno-tree-loop-distribute-patterns \
	-fno-asynchronous-unwind-tables
GUEST_SRCS   := $(wildcard tests/guest/*.c tests/guest/*.S)

$(O)/guest/payload.elf: $(GUEST_SRCS) $(wildcard tests/guest/*.h) tests/guest/payload.ld
	@mkdir -p $(@D)
	$(call quiet,GUEST,$@)$(GUEST_CC) $(GUEST_CFLAGS) -nostdlib -static -no-pie \
		-Wl,--build-id=none,-z,max-page-size=4096,-z,noexecstack,-T,tests/guest/payload.ld \
		-o $@ $(GUEST_SRCS)

guest: $(O)/guest/payload.elf

test: all tests guest
	tests/run.sh $(O)

.PHONY: test guest
