# SPDX-License-Identifier: BSD-3-Clause
# The test guests: $(BUILD)/guests/NAME.bin, flat images for ferry-vmm's --guest.
# To be included from the top-level Makefile, which sets BUILD.

GUEST_NAMES := idle writer random checker clock sectors sleeper
GUEST_DIR   := contrib/guests
GUEST_IMAGES := $(GUEST_NAMES:%=$(BUILD)/guests/%.bin)

GUEST_CC      ?= gcc
GUEST_OBJCOPY ?= objcopy
GUEST_FLAGS := -m32 -march=i686 -std=gnu11 -O2 -g -ffreestanding -fno-pic -fno-pie \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none \
	-mno-sse -mno-mmx -mgeneral-regs-only -Wall -Wextra -Werror -Wshadow \
	-Wstrict-prototypes -Wmissing-prototypes -I$(GUEST_DIR) -Icontrib/vmm
GUEST_LINK := -m32 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack \
	-Wl,--no-warn-rwx-segments -T $(GUEST_DIR)/guest.ld

.PHONY: guests
.SECONDARY: $(GUEST_NAMES:%=$(BUILD)/guests/%.o) $(GUEST_NAMES:%=$(BUILD)/guests/%.elf) \
	$(BUILD)/guests/lib.o $(BUILD)/guests/start.o

guests: $(GUEST_IMAGES)

$(BUILD)/guests/%.o: $(GUEST_DIR)/%.c $(GUEST_DIR)/guest.h contrib/vmm/guest_abi.h
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_FLAGS) -c -o $@ $<

$(BUILD)/guests/start.o: $(GUEST_DIR)/start.S
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_FLAGS) -c -o $@ $<

$(BUILD)/guests/%.elf: $(BUILD)/guests/start.o $(BUILD)/guests/lib.o $(BUILD)/guests/%.o \
		$(GUEST_DIR)/guest.ld
	$(GUEST_CC) $(GUEST_LINK) -o $@ $(filter %.o,$^)

$(BUILD)/guests/%.bin: $(BUILD)/guests/%.elf
	$(GUEST_OBJCOPY) -O binary $< $@
