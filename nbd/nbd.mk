# The nbdkit plugin: the reading half of imagefmt/ and what it stands on, as position-independent
# code; included by the Makefile.  Without nbdkit-plugin-dev it is left out.

NBD_PLUGIN := $(O)/nbdkit-ferry-plugin.so
READ_SRCS  := $(addprefix common/,atomic_file.c bytes.c error.c file.c hash.c pool.c units.c zero.c) \
	$(addprefix imagefmt/,access.c chain.c chunk.c content.c decode.c lookup.c open.c record.c \
	seal.c secret.c sign.c table.c)
NBD_SRCS   := nbd/plugin.c
ALL_SRCS   += $(NBD_SRCS)
pic         = $(patsubst %.c,$(O)/pic/%.o,$(1))

# Nor under a sanitizer, whose runtime nbdkit does not have.
ifeq ($(shell pkg-config --exists nbdkit && echo yes)$(SAN),yes)
all: $(NBD_PLUGIN)
endif

# nbdkit's macro defines a function that its headers do not declare.
$(call pic,$(NBD_SRCS)): CFLAGS += -Wno-missing-prototypes

$(O)/pic/%.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC,$< (pic))$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

# What is missing here would be missed when nbdkit loads it: tests/cli/serve.sh does.
$(NBD_PLUGIN): $(call pic,$(READ_SRCS) $(NBD_SRCS))
	$(call quiet,LD,$@)$(CC) $(LDFLAGS) -shared -Wl,--as-needed -o $@ $^ $(FERRY_LDLIBS)

-include $(patsubst %.o,%.d,$(call pic,$(READ_SRCS) $(NBD_SRCS)))
