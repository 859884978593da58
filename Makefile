# ferry: one Makefile, not recursive.
#
#   make            build/ferry          make test     everything a change must pass
#   make demo       a tour on this host  make bench    figures beside Debian's QEMU
#   make lint       layout, tidy, arrows make install  PREFIX=/usr/local
#
# V=1 shows commands, O=dir builds elsewhere, SAN=address,undefined or SAN=thread instruments,
# CC=clang builds with clang, COV=1 counts lines.

O      ?= build
PREFIX ?= /usr/local
CC     ?= cc
ifeq ($(origin CC),default)
CC := gcc
endif

ifneq ($(V),1)
quiet = @printf '  %-7s %s\n' "$(1)" "$(2)";
endif

PACKAGES := jansson libzstd libxxhash libcrypto libdeflate zlib liblzma
# Loaded when they are first used, as they take longer to load than a machine takes to start.
LAZY_PACKAGES := libarchive libxml-2.0 libcurl
LAZY     := archive xml2 curl
INCLUDES := $(patsubst -I%,-isystem %,$(shell pkg-config --cflags-only-I $(PACKAGES) $(LAZY_PACKAGES)))
WARNINGS := -Wall -Wextra -Wshadow -Wpointer-arith -Wcast-qual -Wwrite-strings -Wvla -Wundef \
	-Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wformat=2 -Werror
ifneq ($(findstring clang,$(CC)),)
WARNINGS += -Wno-gnu-variable-sized-type-not-at-end # KVM's counted lists, with their entries
endif
CFLAGS   ?= -O2 -g
CPPFLAGS += -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 $(INCLUDES)
CFLAGS   += -std=gnu11 $(WARNINGS) -pthread -fno-common -fstack-protector-strong
LDFLAGS  += -pthread
FERRY_LDLIBS = $(shell pkg-config --libs $(PACKAGES)) -lbz2
LDLIBS    = $(FERRY_LDLIBS) $(addprefix -l,$(LAZY))
ifdef SAN
CFLAGS   += -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
LDFLAGS  += -fsanitize=$(SAN)
endif
ifdef COV
CFLAGS   += --coverage
LDFLAGS  += --coverage
endif

LIB_DIRS  := common vmm vmm/device vmm/backend imagefmt imagefmt/foreign snapshot transport migrate
LIB_SRCS  := $(wildcard $(addsuffix /*.c,$(LIB_DIRS)))
CLI_SRCS  := $(wildcard cli/*.c)
TEST_SRCS := $(wildcard tests/unit/test_*.c tests/model/test_*.c tests/machine/test_*.c)
HELP_SRCS := $(wildcard tests/support/*.c)
ALL_SRCS  := $(LIB_SRCS) $(CLI_SRCS) $(TEST_SRCS) $(HELP_SRCS)
ALL_HDRS  := $(wildcard $(addsuffix /*.h,$(LIB_DIRS) cli tests/*))

obj        = $(patsubst %.c,$(O)/obj/%.o,$(1))
LIB_OBJS  := $(call obj,$(LIB_SRCS))
CLI_OBJS  := $(call obj,$(CLI_SRCS))
HELP_OBJS := $(call obj,$(HELP_SRCS))
TESTS     := $(patsubst %.c,$(O)/%,$(TEST_SRCS))

all: $(O)/ferry

$(O)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(O)/libferry.a: $(LIB_OBJS)
	$(call quiet,AR,$@)rm -f $@ && ar rcs $@ $^

$(O)/lazy.S: $(O)/libferry.a tools/lazy-stubs
	$(call quiet,GEN,$@)CC="$(CC)" tools/lazy-stubs $< $(LAZY) > $@.new && mv $@.new $@

$(O)/obj/lazy.o: $(O)/lazy.S
	$(call quiet,AS,$@)$(CC) -c -o $@ $<

$(O)/ferry: $(CLI_OBJS) $(O)/libferry.a $(O)/obj/lazy.o
	$(call quiet,LD,$@)$(CC) $(LDFLAGS) -o $@ $^ $(FERRY_LDLIBS)

$(TESTS): $(O)/tests/%: $(O)/obj/tests/%.o $(HELP_OBJS) $(O)/libferry.a
	@mkdir -p $(@D)
	$(call quiet,LD,$@)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

tests: $(TESTS)

-include $(patsubst %.o,%.d,$(LIB_OBJS) $(CLI_OBJS) $(HELP_OBJS) $(call obj,$(TEST_SRCS)))
include tests/tests.mk
include nbd/nbd.mk

compile_commands.json: Makefile tools/compile-commands
	$(call quiet,GEN,$@)tools/compile-commands "$(CC) $(CPPFLAGS) $(CFLAGS)" $(ALL_SRCS) > $@

format:
	clang-format -i $(ALL_SRCS) $(ALL_HDRS)

lint: compile_commands.json
	@tools/lint $(ALL_SRCS) $(ALL_HDRS)

install: all
	install -D -m 755 $(O)/ferry $(DESTDIR)$(PREFIX)/bin/ferry
	$(if $(wildcard $(NBD_PLUGIN)),install -D -m 755 $(NBD_PLUGIN) $(DESTDIR)$(PREFIX)/lib/ferry/$(notdir $(NBD_PLUGIN)))
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 doc/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 644 cli/ferry.bash-completion \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/ferry

clean:
	rm -rf $(O) compile_commands.json

.PHONY: all tests format lint install clean
.SECONDARY:
