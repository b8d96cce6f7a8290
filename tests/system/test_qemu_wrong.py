# SPDX-License-Identifier: BSD-3-Clause
"""A destination that is another machine, and RAM that changes under way: the guest stays whole and
runs where it was."""

import functools
import re
import subprocess

import pytest
from qemu import attach, qemu_binary
from qemu_scenes import (FILLED, SPENT, check_nothing_left, check_stays, descriptors, disk_options,
                         hold_active, holds_lock, refused, second_block, second_file, version_of)
from scenes import GUEST, MIB, path

pytestmark = pytest.mark.qemu


def with_block(name):
    return lambda vms: second_block(vms, vms.lab.unique(name), name)


@functools.cache
def older_machine():
    """One of the versions that this QEMU still knows, the newest apart."""
    known = subprocess.run([qemu_binary(), "-machine", "help"], check=True, capture_output=True,
                           text=True).stdout
    return re.findall(r"^(pc-i440fx-\S+) (?!.*default)", known, re.MULTILINE)[0]


# What differs: the source's options, the destination's, and words of the error.
DIFFERENT = {
    "ram-size": (lambda vms: {}, lambda vms: {"memory": 96}, ("67108864", "100663296")),
    "block-name": (with_block("one"), with_block("two"), ("one",)),
    "block-missing": (with_block("one"), lambda vms: {}, ("number of RAM blocks",)),
    "machine-type": (lambda vms: {}, lambda vms: {"machine": "q35"}, ("qemu:pc-i440fx", "q35")),
    "machine-version": (lambda vms: {}, lambda vms: {"machine": older_machine()},
                        ("qemu:pc-i440fx",)),
}


@path("qemu/wrong-destination/{what}")
@pytest.mark.parametrize("what", DIFFERENT)
def test_refused(vms, what):
    """Refused before a page is sent; the destination still waits."""
    source_options, target_options, words = DIFFERENT[what]
    source = vms.source(**source_options(vms))
    target = vms.target(**target_options(vms))
    fds = descriptors(source)
    relay = vms.relay(vms.b.listen())
    vms.a.migrate(relay.uri)
    vms.a.fail(GUEST, *words)
    vms.b.fail(GUEST, *words)
    assert relay.passed["out"] < 4096
    check_stays(vms.a, source)
    check_nothing_left(source, fds)
    assert target.state() == "inmigrate"
    target.kill()
    vms.b.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    vms.move(source, vms.target(**source_options(vms)))


# What only QEMU notices, as it loads the devices.
UNLOADABLE = {
    "disk-missing": (disk_options, lambda vms: {}),
    "device-missing": (lambda vms: {"options": ("-device", "virtio-rng-pci")}, lambda vms: {}),
    "cpu-count": (lambda vms: {"options": ("-smp", "2")}, lambda vms: {}),
}


def await_unloadable(vms, target):
    """A QEMU that can't load ends by itself before 9.1; later ones are good for nothing."""
    if version_of(target) < (9, 1):
        target.await_end(1)
        vms.b.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    else:
        vms.b.await_run_state(SPENT)
        assert refused(vms.b.qmp, "cont", guest=GUEST).code == "guest-state"
        target.kill()
        vms.b.qmp.await_event("GUEST_DETACHED", guest=GUEST)


@path("qemu/wrong-destination/{what}")
@pytest.mark.parametrize("what", UNLOADABLE)
def test_unloadable(vms, what):
    source_options, target_options = UNLOADABLE[what]
    made = source_options(vms)
    image, options = made if isinstance(made, tuple) else (None, made)
    source, target = vms.source(FILLED, **options), vms.target(**target_options(vms))
    fds = descriptors(source)
    vms.a.migrate(vms.b.listen())
    vms.a.fail(GUEST, "VMM", "load the device state")
    vms.b.fail(GUEST, "VMM", "load the device state")
    check_stays(vms.a, source)
    assert image is None or holds_lock(source, image)
    check_nothing_left(source, fds)
    await_unloadable(vms, target)
    vms.move(source, vms.target(**options))


# ---- RAM that changes ----

def plug(vms, source, file):
    vms.lab.undo.callback(file.unlink, missing_ok=True)
    source.qmp.execute("object-add", {"qom-type": "memory-backend-file", "id": "late",
                                      "size": 16 * MIB, "mem-path": str(file), "share": True})
    source.qmp.execute("device_add", {"driver": "pc-dimm", "memdev": "late", "id": "dimm"})


@path("qemu/ram-plugged/{when}")
@pytest.mark.parametrize("when", ["active", "before"])
def test_plugged(vms, when):
    """Not seen when it was attached: the job fails, and says what to do."""
    options = {"options": ("-m", "64M,slots=2,maxmem=256M")}
    source, target = vms.source(FILLED, **options), vms.target(**options)
    fds = descriptors(source)
    file = second_file(vms, "late")
    if when == "active":
        hold_active(vms)
    plug(vms, source, file)
    if when == "active":
        vms.a.set(max_bandwidth=0)
    else:
        vms.a.migrate(vms.b.listen())
    vms.a.fail(GUEST, "plugged", "attach it again")
    vms.b.fail(GUEST)
    check_stays(vms.a, source)
    check_nothing_left(source, sorted([*fds, str(file)]))
    assert target.state() == "inmigrate"
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    attach(vms.a.qmp, source)
    target.kill()
    vms.b.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    vms.move(source, vms.target(**second_block(vms, "t", "late")))
