# SPDX-License-Identifier: BSD-3-Clause
# The test guests: $(BUILD)/guests/NAME.bin, flat images for ferry-vmm's --guest, and NAME.img,
# disks from which a PC with a BIOS boots them (boot.S); rom.bin is firmware that starts one (rom.S).
# To be included from the top-level Makefile, which sets BUILD.

GUEST_NAMES := idle writer random checker clock sectors sleeper direct
GUEST_DIR   := contrib/guests
GUEST_IMAGES := $(GUEST_NAMES:%=$(BUILD)/guests/%.bin) $(GUEST_NAMES:%=$(BUILD)/guests/%.img)

GUEST_CC      ?= gcc
GUEST_OBJCOPY ?= objcopy
GUEST_FLAGS := -m32 -march=i686 -std=gnu11 -O2 -g -ffreestanding -fno-pic -fno-pie \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none \
	-mno-sse -mno-mmx -mgeneral-regs-only -Wall -Wextra -Werror -Wshadow \
	-Wstrict-prototypes -Wmissing-prototypes -I$(GUEST_DIR) -Icontrib/vmm
GUEST_LINK := -m32 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack \
	-Wl,--no-warn-rwx-segments

.PHONY: guests
.SECONDARY: $(GUEST_NAMES:%=$(BUILD)/guests/%.o) $(GUEST_NAMES:%=$(BUILD)/guests/%.elf) \
	$(BUILD)/guests/lib.o $(BUILD)/guests/start.o $(BUILD)/guests/boot.o \
	$(BUILD)/guests/boot.elf $(BUILD)/guests/rom.o $(BUILD)/guests/rom.elf

guests: $(GUEST_IMAGES) $(BUILD)/guests/boot.bin $(BUILD)/guests/rom.bin

$(BUILD)/guests/%.o: $(GUEST_DIR)/%.c $(GUEST_DIR)/guest.h contrib/vmm/guest_abi.h
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_FLAGS) -c -o $@ $<

$(BUILD)/guests/%.o: $(GUEST_DIR)/%.S $(GUEST_DIR)/pit.h contrib/vmm/guest_abi.h
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_FLAGS) -c -o $@ $<

$(BUILD)/guests/%.elf: $(BUILD)/guests/start.o $(BUILD)/guests/lib.o $(BUILD)/guests/%.o \
		$(GUEST_DIR)/guest.ld
	$(GUEST_CC) $(GUEST_LINK) -T $(GUEST_DIR)/guest.ld -o $@ $(filter %.o,$^)

$(BUILD)/guests/boot.elf $(BUILD)/guests/rom.elf: $(BUILD)/guests/%.elf: $(BUILD)/guests/%.o \
		$(GUEST_DIR)/%.ld
	$(GUEST_CC) $(GUEST_LINK) -T $(GUEST_DIR)/$*.ld -o $@ $<

$(BUILD)/guests/%.bin: $(BUILD)/guests/%.elf
	$(GUEST_OBJCOPY) -O binary $< $@

$(BUILD)/guests/%.img: $(BUILD)/guests/%.bin $(BUILD)/guests/boot.bin contrib/lab/bootimage.py
	contrib/lab/bootimage.py $(BUILD)/guests/boot.bin $< $@
