# SPDX-License-Identifier: BSD-3-Clause
# Unit tests: each tests/unit/test_NAME.c is a program, $(BUILD)/tests/unit/test_NAME.

UNIT_SOURCES := $(wildcard tests/unit/test_*.c)
UNIT_TESTS   := $(UNIT_SOURCES:tests/unit/%.c=$(BUILD)/tests/unit/%)
UNIT_COMMON  := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(UNIT_SOURCES),$(wildcard tests/unit/*.c)))

$(UNIT_TESTS): $(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(UNIT_COMMON) $(ENGINE) \
		$(BUILD)/libferry.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(UNIT_COMMON) $(ENGINE) $(BUILD)/libferry.a \
		$(shell pkg-config --libs check) $(FERRY_LIBS)
