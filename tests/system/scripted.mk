# SPDX-License-Identifier: BSD-3-Clause
# The VMM without KVM that system tests script: $(BUILD)/tests/scripted-vmm.
# To be included from the top-level Makefile, which sets BUILD, CC, CFLAGS and WARNINGS and builds libferry.a.

SCRIPTED_DIR     := tests/system
SCRIPTED_NAMES   := scripted_vmm scripted_commands scripted_guest scripted_ram scripted_state
SCRIPTED_OBJECTS := $(SCRIPTED_NAMES:%=$(BUILD)/tests/%.o)

$(SCRIPTED_OBJECTS): $(BUILD)/tests/%.o: $(SCRIPTED_DIR)/%.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -D_GNU_SOURCE $(CFLAGS) $(WARNINGS) -MMD -MP -Iguest -I$(SCRIPTED_DIR) -c -o $@ $<

$(BUILD)/tests/scripted-vmm: $(SCRIPTED_OBJECTS) $(BUILD)/libferry.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lpthread

-include $(SCRIPTED_OBJECTS:.o=.d)
