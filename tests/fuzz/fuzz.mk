# Fuzz targets, tests/fuzz/fuzz_X.c: replayed over tests/fuzz/corpus/X by every `make test`, and
# `make fuzz-X [SECONDS=60]` looks for new inputs with clang's libFuzzer.

FUZZ_SRCS := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_OBJS := $(call obj,$(FUZZ_SRCS) tests/fuzz/replay.c)
REPLAYS   := $(patsubst tests/fuzz/%.c,$(O)/tests/fuzz/test_%,$(FUZZ_SRCS))
ALL_SRCS  += $(FUZZ_SRCS) tests/fuzz/replay.c
SECONDS   ?= 60

$(REPLAYS): $(O)/tests/fuzz/test_%: $(O)/obj/tests/fuzz/%.o $(O)/obj/tests/fuzz/replay.o \
		$(HELP_OBJS) $(O)/libferry.a
	@mkdir -p $(@D)
	$(call quiet,LD,$@)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

tests: $(REPLAYS)

$(O)/fuzz_%: $(O)/obj/tests/fuzz/fuzz_%.o $(HELP_OBJS) $(O)/libferry.a
	$(call quiet,LD,$@)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS) -lcmocka

# New inputs are kept in build/fuzz-corpus; what is worth keeping goes to tests/fuzz/corpus by hand.
# tests/fuzz/X.dict, if it is there, has the words of the format.
fuzz-%:
	@$(MAKE) --no-print-directory O=$(O)/fuzz CC=clang SAN=address,undefined,fuzzer-no-link \
		$(O)/fuzz/fuzz_$*
	@mkdir -p $(O)/fuzz-corpus/$*
	$(O)/fuzz/fuzz_$* -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=1024 -max_len=65536 \
		-print_final_stats=1 -artifact_prefix=$(O)/fuzz-corpus/ \
		$(patsubst %,-dict=%,$(wildcard tests/fuzz/$*.dict)) \
		$(O)/fuzz-corpus/$* tests/fuzz/corpus/$*

-include $(patsubst %.o,%.d,$(FUZZ_OBJS))
