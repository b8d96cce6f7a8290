# SPDX-License-Identifier: BSD-3-Clause
# make            the programs, in build/
# make demo       a live migration, on this machine
# make demo-qemu  the same of a guest in a stock QEMU, which is installed where it is missing
# make check      all tests; check-asan and check-tsan run them under sanitizers
# make check-rdma the RDMA tests, over soft-RoCE in a virtual machine
# make check-qemu the QEMU tests with the installed one, that of the backports and that of unstable,
#                 or with QEMU=/path/to/it alone
# make check-linux moves of real Linux guests, with the same QEMUs, or with QEMU=/path/to/it alone
# make bench      speed, as ratios of pairs measured in one run
# make bench-qemu QEMU's own migration against ferryd's; QEMU=/path/to/it: another than the installed
# make soak N=50  a checking guest migrated N times in a row; WITH="xbzrle auto-converge disk"
# make lint       layers, clang-tidy, cppcheck, the generated files
# make check-package builds the Debian packages, installs them, migrates a guest with them, purges them
# make install    prefix and DESTDIR are respected
.DEFAULT_GOAL := all

# V=1 shows the commands.
ifneq ($(V),1)
.SILENT:
endif

VERSION_MAJOR := 0
VERSION_MINOR := 2
VERSION_MICRO := 0
VERSION       := $(VERSION_MAJOR).$(VERSION_MINOR).$(VERSION_MICRO)

BUILD    ?= build
SANITIZE ?=
prefix   ?= /usr/local
sbindir  ?= $(prefix)/sbin
bindir   ?= $(prefix)/bin
libdir   ?= $(prefix)/lib
datadir  ?= $(prefix)/share
mandir   ?= $(datadir)/man
unitdir  ?= $(prefix)/lib/systemd/system
zshdir   ?= $(datadir)/zsh/site-functions
# The daemon looks for its configuration in /etc.
sysconfdir ?= /etc

# The tools and libraries are looked for when something is built, not when they are installed.
BARE_GOALS := deps clean layers uninstall
# DEPS=no leaves that to whoever says so: a package's build, say.
DEPS       ?= yes
ifneq ($(and $(filter yes,$(DEPS)),$(filter-out $(BARE_GOALS),$(or $(MAKECMDGOALS),all))),)
DEPS_DONE := $(shell contrib/install-deps --quiet >&2 && echo yes)
ifneq ($(DEPS_DONE),yes)
$(error what is needed to build is missing: see above)
endif
endif

PKGS := jansson libevent_core libevent_extra libevent_pthreads libxxhash libibverbs librdmacm
# What systemd is told, and asked for; SYSTEMD=no builds a daemon that does without.
SYSTEMD ?= $(shell pkg-config --exists libsystemd && echo yes)
ifeq ($(SYSTEMD),yes)
PKGS += libsystemd
endif

CFLAGS  ?= -O2 -g
OBJCOPY ?= objcopy
ifneq ($(SANITIZE),)
CFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -O1
endif
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wundef -Wformat=2 -Wvla
FERRY_CFLAGS = -std=gnu11 -D_GNU_SOURCE $(CPPFLAGS) $(CFLAGS) $(WARNINGS) -I. -pthread \
	-DFERRY_VERSION='"$(VERSION)"' -DFERRY_VERSION_MAJOR=$(VERSION_MAJOR) \
	-DFERRY_VERSION_MINOR=$(VERSION_MINOR) -DFERRY_VERSION_MICRO=$(VERSION_MICRO) \
	$(shell pkg-config --cflags $(PKGS))
FERRY_LIBS = $(shell pkg-config --libs $(PKGS)) -lm -pthread

# ---- sources ----

LIBFERRY_SOURCES := $(wildcard guest/libferry*.c) guest/kvmlog.c guest/wire.c guest/dirtymap.c \
	common/fdpass.c
# What acts on a foreign process from outside; elsewhere each of its entry points says so.
FOREIGN_ARCH    ?= $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
FOREIGN_x86_64  := guest/tracee.c $(wildcard guest/borrow*.c guest/wptrack*.c guest/vcpus*.c)
FOREIGN_SOURCES := guest/maps.c guest/helper.c guest/process.c $(or $(FOREIGN_$(FOREIGN_ARCH)),guest/foreign_none.c)
DAEMON_SOURCES := $(wildcard common/*.c transports/*.c ram/*.c disk/*.c protocol/*.c daemon/*.c) \
	$(wildcard guest/agent*.c qemu/*.c) guest/guest.c guest/wire.c guest/dirtymap.c $(FOREIGN_SOURCES)
OTHER_SERVICE  := $(if $(filter yes,$(SYSTEMD)),daemon/service_none.c,daemon/service_systemd.c)
ENGINE_SOURCES := $(filter-out daemon/main.c $(OTHER_SERVICE),$(DAEMON_SOURCES))

objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(FERRY_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/pic/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(FERRY_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

# ---- the schema, compiled in ----

$(BUILD)/gen/control_schema.c: schema/control.json schema/generate
	@mkdir -p $(@D)
	schema/generate --c $@

$(BUILD)/obj/control_schema.o: $(BUILD)/gen/control_schema.c
	@mkdir -p $(@D)
	$(CC) $(FERRY_CFLAGS) -c -o $@ $<

docs/control.md: schema/control.json schema/generate
	schema/generate --markdown $@

# ---- programs and libraries ----

ENGINE := $(BUILD)/engine.a

$(ENGINE): $(call objects,$(ENGINE_SOURCES)) $(BUILD)/obj/control_schema.o
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/ferryd: $(call objects,daemon/main.c) $(ENGINE)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(FERRY_LIBS)

# One object with only the public names left: a VMM's own names can't collide with ours.
$(BUILD)/pic/libferry.o: $(patsubst %.c,$(BUILD)/pic/%.o,$(LIBFERRY_SOURCES))
	$(LD) -r -o $@ $^
	$(OBJCOPY) --localize-hidden $@

$(BUILD)/libferry.a: $(BUILD)/pic/libferry.o
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libferry.so.0: $(patsubst %.c,$(BUILD)/pic/%.o,$(LIBFERRY_SOURCES))
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,libferry.so.0 -o $@ $^ -pthread
	ln -sf libferry.so.0 $(BUILD)/libferry.so

# ---- units: for one daemon, and with @ for several ----

UNIT_NAMES := ferryd.service ferryd.socket ferryd-guests.socket ferryd-read-only.socket
UNITS      := $(foreach unit,$(UNIT_NAMES),$(unit) $(subst .,@.,$(unit)))

UNIT_ONE     := -e s,@title@,, -e s,@condition@,, -e s,@arguments@,, -e s,@instance@,,g \
	-e s,@service@,ferryd.service, -e 's,@sockets@,ferryd.socket ferryd-guests.socket,'
UNIT_SEVERAL := -e 's|@title@|, daemon %i|' -e s,@condition@,ConditionPathExists=/etc/ferryd-%i.conf, \
	-e 's,@arguments@, --config /etc/ferryd-%i.conf --control /run/ferryd-%i/control.sock \\\n\t--guests /run/ferryd-%i/guests.sock --state-dir /var/lib/ferryd-%i,' \
	-e s,@instance@,-%i,g -e s,@service@,ferryd@%i.service, \
	-e 's,@sockets@,ferryd@%i.socket ferryd-guests@%i.socket,'

# Made anew where other folders are named than the last time.
$(BUILD)/paths: FORCE
	@mkdir -p $(@D)
	echo '$(prefix) $(sbindir) $(libdir)' | cmp -s - $@ || echo '$(prefix) $(sbindir) $(libdir)' >$@

define unit_rules
$(BUILD)/systemd/$(1): systemd/$(1).in Makefile $(BUILD)/paths
	@mkdir -p $$(@D)
	sed -e 's,@sbindir@,$(sbindir),' $(UNIT_ONE) $$< >$$@

$(BUILD)/systemd/$(subst .,@.,$(1)): systemd/$(1).in Makefile $(BUILD)/paths
	@mkdir -p $$(@D)
	sed -e 's,@sbindir@,$(sbindir),' $(UNIT_SEVERAL) $$< >$$@

endef
$(eval $(foreach unit,$(UNIT_NAMES),$(call unit_rules,$(unit))))

# ---- the manual ----

MAN_SOURCES := daemon/ferryd.8.scd contrib/ferryctl/ferryctl.1.scd guest/libferry.3.scd schema/ferry-stream.7.scd
MAN_PAGES   := $(addprefix $(BUILD)/man/,$(notdir $(MAN_SOURCES:.scd=)) ferry-qmp.7)

$(BUILD)/gen/ferry-qmp.7.scd: schema/control.json schema/generate schema/ferry-qmp.7.scd.in
	@mkdir -p $(@D)
	schema/generate --man $@

$(BUILD)/man/ferry-qmp.7: $(BUILD)/gen/ferry-qmp.7.scd
	@mkdir -p $(@D)
	scdoc <$< >$@

define man_rule
$(BUILD)/man/$(notdir $(1:.scd=)): $(1)
	@mkdir -p $$(@D)
	scdoc <$$< >$$@

endef
$(eval $(foreach page,$(MAN_SOURCES),$(call man_rule,$(page))))

$(BUILD)/libferry.pc: guest/libferry.pc.in Makefile $(BUILD)/paths
	@mkdir -p $(@D)
	sed -e 's,@prefix@,$(prefix),' -e 's,@libdir@,$(libdir),' -e 's,@version@,$(VERSION),' $< >$@

include contrib/vmm/vmm.mk contrib/guests/guests.mk contrib/ferryctl/ferryctl.mk
include tests/system/scripted.mk
include tests/unit/unit.mk tests/bench/bench.mk tests/rdma/rdma.mk

INSTALLABLE := $(BUILD)/ferryd $(BUILD)/libferry.a $(BUILD)/libferry.so.0 \
	$(BUILD)/libferry.pc $(addprefix $(BUILD)/systemd/,$(UNITS)) $(MAN_PAGES) \
	$(BUILD)/ferryctl $(COMPLETIONS)
PROGRAMS    := $(INSTALLABLE) $(BUILD)/ferry-vmm

.PHONY: all installable deps demo demo-qemu check check-run check-asan check-tsan check-rdma check-qemu check-linux check-package bench bench-qemu soak lint layers tidy cppcheck \
	elsewhere generated manual fuzz install uninstall clean FORCE

all: $(PROGRAMS) guests

# What install needs, without what only the tests and the demo do.
installable: $(INSTALLABLE)

deps:
	contrib/install-deps

# ---- tests ----

TEST_PROGRAMS = $(UNIT_TESTS) $(BUILD)/tests/scripted-vmm

check: all $(TEST_PROGRAMS)
	contrib/install-deps --quiet --qemu
	tests/run --build $(BUILD) unit system

check-asan:
	contrib/install-deps --quiet --qemu
	$(MAKE) BUILD=build/asan SANITIZE=address,undefined check-run SUITES="unit system"

# Guests of the reference VMM are left out: a thread sanitizer can't see what a vCPU writes.
check-tsan:
	contrib/install-deps --quiet --qemu
	$(MAKE) BUILD=build/tsan SANITIZE=thread check-run SUITES="unit scripted qemu"

check-rdma: all $(BUILD)/tests/scripted-vmm $(BUILD)/tests/rdma-peer
	tests/rdma/run --build $(BUILD)

check-qemu: all $(BUILD)/tests/scripted-vmm
	contrib/install-deps --quiet --qemu
	tests/qemu/run $(BUILD) $(QEMU)

check-linux: all
	contrib/install-deps --quiet --qemu
	tests/linux/run $(BUILD) $(QEMU)

check-package: all
	contrib/install-deps --quiet --package
	tests/package/run --build $(BUILD)

check-run: all $(TEST_PROGRAMS)
	tests/run --build $(BUILD) $(SUITES)

soak: all
	contrib/demo/soak --build $(BUILD) --count $(or $(N),50) $(if $(WITH),--with $(WITH))

demo: all
	contrib/demo/demo --build $(BUILD)

demo-qemu: all
	contrib/install-deps --quiet --qemu
	contrib/demo/demo-qemu --build $(BUILD)

bench: all $(BENCH_PROGRAMS) $(BUILD)/tests/scripted-vmm
	tests/bench/run --build $(BUILD)

bench-qemu: all $(BENCH_PROGRAMS)
	contrib/install-deps --quiet --qemu
	$(if $(QEMU),FERRY_QEMU=$(QEMU)) tests/bench/run-qemu --build $(BUILD)

fuzz:
	tests/fuzz/run --build build/fuzz

# ---- lint ----

lint: layers generated manual tidy cppcheck elsewhere

layers:
	tests/layers

generated:
	schema/generate --check docs/control.md
	schema/generate --check-codes $(wildcard common/*.c transports/*.c ram/*.c disk/*.c guest/*.c \
		qemu/*.c protocol/*.c daemon/*.c)

# Each page renders without a warning.
manual:
	tests/manual

tidy: $(BUILD)/gen/control_schema.c
	printf '%s\n' $(sort $(DAEMON_SOURCES) $(LIBFERRY_SOURCES)) | \
		xargs -P "$$(nproc)" -I {} clang-tidy --quiet {} -- $(FERRY_CFLAGS)

# missingIncludeSystem: cppcheck needs no system headers.  uninitvar: it does not see that
# TAILQ_FOREACH sets its variable; the compiler and clang-tidy look for the same.
cppcheck:
	cppcheck --quiet -j "$$(nproc)" --error-exitcode=1 --inline-suppr --std=c11 -I. \
		--enable=warning,performance,portability \
		--suppress=missingIncludeSystem --suppress=uninitvar $(sort $(DAEMON_SOURCES) $(LIBFERRY_SOURCES))

# That it can be built for a processor that nothing is known of, and without systemd; and runs.
elsewhere:
	$(MAKE) BUILD=build/elsewhere FOREIGN_ARCH=elsewhere SYSTEMD=no build/elsewhere/ferryd
	build/elsewhere/ferryd --config "" --check-config

# ---- install ----

# What install puts where, as FROM:TO:MODE; then there are links, and the configuration.
INSTALLED = $(BUILD)/ferryd:$(sbindir)/ferryd:755 \
	guest/libferry.h:$(prefix)/include/libferry.h:644 \
	$(BUILD)/libferry.a:$(libdir)/libferry.a:644 \
	$(BUILD)/libferry.so.0:$(libdir)/libferry.so.0:755 \
	$(BUILD)/libferry.pc:$(libdir)/pkgconfig/libferry.pc:644 \
	systemd/ferry.sysusers:$(prefix)/lib/sysusers.d/ferry.conf:644 \
	systemd/ferry.tmpfiles:$(prefix)/lib/tmpfiles.d/ferry.conf:644 \
	$(foreach unit,$(UNITS),$(BUILD)/systemd/$(unit):$(unitdir)/$(unit):644) \
	$(foreach one,$(wildcard systemd/drop-ins/*),$(one):$(datadir)/ferry/drop-ins/$(notdir $(one)):644) \
	$(FERRYCTL_DIR)/ferryctl:$(datadir)/ferry/ferryctl:755 \
	$(foreach one,$(FERRYCTL_MODULES),$(one):$(datadir)/ferry/ferryctl_lib/$(notdir $(one)):644) \
	$(BUILD)/completions/ferryctl.bash:$(datadir)/bash-completion/completions/ferryctl:644 \
	$(BUILD)/completions/_ferryctl:$(zshdir)/_ferryctl:644 \
	$(BUILD)/completions/ferryctl.fish:$(datadir)/fish/vendor_completions.d/ferryctl.fish:644 \
	$(foreach page,$(MAN_PAGES),$(page):$(mandir)/man$(subst .,,$(suffix $(page)))/$(notdir $(page)):644)
LINKS = $(libdir)/libferry.so $(bindir)/ferryctl

# A line of its own for each: the shell ends at the first that fails.
define install_one
install -D -m $(word 3,$(1)) $(word 1,$(1)) $(DESTDIR)$(word 2,$(1))

endef

# A configuration that is there already is somebody's.
install: $(INSTALLABLE)
	$(foreach one,$(INSTALLED),$(call install_one,$(subst :, ,$(one))))
	ln -sf libferry.so.0 $(DESTDIR)$(libdir)/libferry.so
	install -d $(DESTDIR)$(bindir)
	ln -sfr $(DESTDIR)$(datadir)/ferry/ferryctl $(DESTDIR)$(bindir)/ferryctl
	test -e $(DESTDIR)$(sysconfdir)/ferryd.conf || \
		install -D -m 644 systemd/ferryd.conf $(DESTDIR)$(sysconfdir)/ferryd.conf

# The configuration stays; of the folders, those go that are nobody else's.
uninstall:
	rm -f $(addprefix $(DESTDIR),$(LINKS) $(foreach one,$(INSTALLED),$(word 2,$(subst :, ,$(one)))))
	rm -rf $(DESTDIR)$(datadir)/ferry

clean:
	rm -rf build

-include $(shell find $(BUILD) -type f -name '*.d' 2>/dev/null)
