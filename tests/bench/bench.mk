# SPDX-License-Identifier: BSD-3-Clause
# The programs that the benches compare with: $(BUILD)/bench/NAME.

BENCH_NAMES    := plain_pair poller
BENCH_PROGRAMS := $(BENCH_NAMES:%=$(BUILD)/bench/%)

$(BENCH_PROGRAMS): $(BUILD)/bench/%: tests/bench/%.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -D_GNU_SOURCE $(CFLAGS) $(WARNINGS) -o $@ $<
