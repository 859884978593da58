# What runs: included by the Makefile.  Scripts take the build folder as their first argument.
#
# `make test` first installs what is missing and then begins anew, because a Makefile that was read
# before its packages were there knows nothing of them.  It runs all tests on a plain build, those
# that need no Linux guest once more under ASAN and UBSAN (built by clang, so that both compilers
# see every file), and the threaded ones under TSAN.

# The payload guest: freestanding, no library, general registers only.
GUEST_CC     ?= gcc
GUEST_CFLAGS := -I. -std=gnu11 -O2 $(WARNINGS) -m64 -ffreestanding -fno-pie -fno-stack-protector \
	-fcf-protection=none -mgeneral-regs-only -mno-red-zone -fno-tree-loop-distribute-patterns \
	-fno-asynchronous-unwind-tables
GUEST_SRCS   := $(wildcard tests/guest/*.c tests/guest/*.S)

$(O)/guest/payload.elf: $(GUEST_SRCS) $(wildcard tests/guest/*.h) tests/guest/payload.ld
	@mkdir -p $(@D)
	$(call quiet,GUEST,$@)$(GUEST_CC) $(GUEST_CFLAGS) -nostdlib -static -no-pie \
		-Wl,--build-id=none,-z,max-page-size=4096,-z,noexecstack,-T,tests/guest/payload.ld \
		-o $@ $(GUEST_SRCS)

guest: $(O)/guest/payload.elf
ALL_SRCS += $(filter %.c,$(GUEST_SRCS)) tests/linux/guest-probe.c

# Tests of what is not in the library.
$(O)/tests/unit/test_options: $(call obj,cli/options.c)

# Calls that this one counts, fails and writes down.
$(O)/tests/unit/test_image_crash: LDFLAGS += \
	-Wl,--wrap=write,--wrap=writev,--wrap=copy_file_range,--wrap=fsync,--wrap=linkat,--wrap=renameat

$(O)/tests/unit/test_resume: LDFLAGS += \
	-Wl,--wrap=pwrite64,--wrap=ftruncate64,--wrap=fsync,--wrap=fdatasync,--wrap=rename,--wrap=unlink

-include tests/fuzz/fuzz.mk

test:
	@tools/install-packages build test
	@$(MAKE) --no-print-directory check

check: all tests guest
	@$(MAKE) --no-print-directory O=$(O)/san CC=clang SAN=address,undefined all tests guest
	@$(MAKE) --no-print-directory O=$(O)/tsan CC=clang SAN=thread tests
	@tests/run.sh $(O) $(O)/san:unit,model,machine,cli,fuzz $(O)/tsan:unit

.PHONY: guest test check

# The Linux guest: a stock Debian kernel, and the tools' disk that level 1 mounts.
LINUX  := $(O)/linux
LEVEL1_MODULES := kvm-amd virtio_pci virtio_blk virtio_net
LEVEL2_MODULES := virtio_pci virtio_blk virtio-rng evdev button

$(LINUX)/version: tests/linux/fetch-kernel tests/linux/extract-vmlinux
	$(call quiet,FETCH,Debian kernel)tests/linux/fetch-kernel $(LINUX)

$(LINUX)/guest-probe: tests/linux/guest-probe.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)$(GUEST_CC) -std=gnu11 -D_GNU_SOURCE -O2 $(WARNINGS) -static -pthread -o $@ $<

$(LINUX)/level1.cpio: $(LINUX)/version tests/linux/level1-init tests/linux/make-initramfs
	$(call quiet,CPIO,$@)tests/linux/make-initramfs $(LINUX) $@ "$(LEVEL1_MODULES)" \
		tests/linux/level1-init

$(LINUX)/level2.cpio: $(LINUX)/version tests/linux/level2-init tests/linux/make-initramfs \
		$(LINUX)/guest-probe
	$(call quiet,CPIO,$@)tests/linux/make-initramfs $(LINUX) $@ "$(LEVEL2_MODULES)" \
		tests/linux/level2-init $(LINUX)/guest-probe

$(LINUX)/tools.img: $(O)/ferry $(LINUX)/guest-probe $(LINUX)/level2.cpio $(LINUX)/level1.cpio \
		tests/linux/make-tools-disk
	$(call quiet,DISK,$@)tests/linux/make-tools-disk $@ $(LINUX)/tools $(O)/ferry \
		$(LINUX)/guest-probe $(LINUX)/level2.cpio $(LINUX)/vmlinux $(LINUX)/vmlinuz

# What is exported: a disk that boots by itself, and an initrd that says what it finds.
$(LINUX)/export.cpio.xz: $(LINUX)/version tests/linux/export-init tests/linux/make-initramfs
	$(call quiet,CPIO,$@)tests/linux/make-initramfs $(LINUX) $(LINUX)/export.cpio \
		"virtio_pci virtio_blk" tests/linux/export-init
	@xz -f --check=crc32 $(LINUX)/export.cpio

$(LINUX)/boot.raw: $(LINUX)/export.cpio.xz tests/linux/make-boot-disk
	$(call quiet,DISK,$@)tests/linux/make-boot-disk $(LINUX)/vmlinuz $< $@

linux-tools: $(LINUX)/tools.img
linux-export: $(LINUX)/boot.raw

.PHONY: linux-tools linux-export

# A tour with the Linux guest.
demo:
	@tools/install-packages demo
	@$(MAKE) --no-print-directory demo-run

demo-run: all linux-tools
	@tests/linux/demo $(O)

# Figures beside Debian's QEMU; RUNS=N, BENCH=move,boot,memory choose.
bench:
	@tools/install-packages bench
	@$(MAKE) --no-print-directory bench-run

bench-run: all guest
	@tests/bench/bench.py $(O)

# The image format beside qemu-img, zstd and nbdcopy, on one real disk; RUNS=N.
$(O)/tests/bench/read_at: $(O)/obj/tests/bench/read_at.o $(O)/libferry.a
	@mkdir -p $(@D)
	$(call quiet,LD,$@)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

ALL_SRCS += tests/bench/read_at.c

bench-image:
	@tools/install-packages bench
	@$(MAKE) --no-print-directory bench-image-run

bench-image-run: all $(O)/tests/bench/read_at
	@tests/bench/bench_image.py $(O)

# Disks in other formats, and back, beside qemu-img; RUNS=N.
bench-convert:
	@tools/install-packages bench
	@$(MAKE) --no-print-directory bench-convert-run

bench-convert-run: all
	@tests/bench/bench_convert.py $(O)

# Each reader of the image and of foreign disks under libFuzzer for a minute.
FUZZ_SMOKE := image index manifest chain qcow2 vmdk vmdk_stream vhd vhdx vdi ova xva oci ovf libvirt vmx
fuzz-smoke:
	@for target in $(FUZZ_SMOKE); do \
		$(MAKE) --no-print-directory fuzz-$$target SECONDS=60 || exit 1; \
	done

# Lines of the image's parsers that the tests reach.
coverage:
	@tools/install-packages build test
	@$(MAKE) --no-print-directory O=$(O)/cov COV=1 all tests guest
	@tools/coverage $(O)/cov

.PHONY: bench-convert bench-convert-run bench-image bench-image-run fuzz-smoke coverage

# All pairs of kinds of disks, all that can be broken in them, and moves to and fro for SOAK seconds.
SOAK ?= 1000
soak:
	@tools/install-packages bench
	@$(MAKE) --no-print-directory soak-run

soak-run: all guest
	@tests/cli/matrix.sh $(O) all
	@tests/cli/broken.sh $(O) all
	@PINGPONG_SECONDS=$(SOAK) tests/guest/pingpong.sh $(O)

.PHONY: demo demo-run bench bench-run soak soak-run
