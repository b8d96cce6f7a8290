# SPDX-License-Identifier: BSD-3-Clause
# The reference VMM, $(BUILD)/ferry-vmm: only <libferry.h>, KVM's headers and libc.
# To be included from the top-level Makefile, which sets BUILD, CC, CFLAGS and WARNINGS and builds libferry.a.

VMM_DIR     := contrib/vmm
VMM_NAMES   := main options log kvm memory vcpu gate throttle halt ports serial disk console \
	state sections msrs cpuid clocks ferry
VMM_OBJECTS := $(VMM_NAMES:%=$(BUILD)/vmm/%.o)

$(VMM_OBJECTS): $(BUILD)/vmm/%.o: $(VMM_DIR)/%.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -D_GNU_SOURCE $(CFLAGS) $(WARNINGS) -MMD -MP -Iguest -I$(VMM_DIR) -c -o $@ $<

$(BUILD)/ferry-vmm: $(VMM_OBJECTS) $(BUILD)/libferry.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lpthread

-include $(VMM_OBJECTS:.o=.d)
