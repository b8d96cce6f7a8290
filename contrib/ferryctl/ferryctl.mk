# SPDX-License-Identifier: BSD-3-Clause
# The command-line client: $(BUILD)/ferryctl, which runs from the tree, and its completions.
# To be included from the top-level Makefile, which sets BUILD.

FERRYCTL_DIR     := contrib/ferryctl
FERRYCTL_MODULES := $(wildcard $(FERRYCTL_DIR)/ferryctl_lib/*.py)
COMPLETIONS      := $(BUILD)/completions/ferryctl.bash $(BUILD)/completions/_ferryctl \
	$(BUILD)/completions/ferryctl.fish

$(BUILD)/ferryctl: $(FERRYCTL_DIR)/ferryctl
	@mkdir -p $(@D)
	ln -sfn $(abspath $<) $@

$(BUILD)/completions/ferryctl.bash: SHELL_NAME := bash
$(BUILD)/completions/_ferryctl: SHELL_NAME := zsh
$(BUILD)/completions/ferryctl.fish: SHELL_NAME := fish

$(COMPLETIONS): $(FERRYCTL_DIR)/ferryctl $(FERRYCTL_MODULES)
	@mkdir -p $(@D)
	$< completion $(SHELL_NAME) >$@.tmp
	mv $@.tmp $@
