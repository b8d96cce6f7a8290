# SPDX-License-Identifier: BSD-3-Clause
"""A guest that is paused where it arrives is moved on, if QEMU can: before 10.0 it aborts when the
images have not been activated there, by a `cont`."""

import pytest
from qemu import attach
from qemu_scenes import FILLED, check_arrived, check_console, disk_options, holds_lock, version_of
from scenes import GUEST, MIB, path

pytestmark = pytest.mark.qemu


def arrive_paused(vms, both):
    """A guest that has come to b paused; its QEMU there."""
    source, target = vms.pair(FILLED, both)
    vms.a.qmp.cmd("stop", guest=GUEST)
    vms.a.migrate(vms.b.listen())
    vms.a.complete()
    vms.b.complete()
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    source.kill()
    assert vms.b.run_state() == "paused"
    return target


def attach_anew(host, qemu, how):
    if how == "attached-again":
        host.qmp.cmd("guest-detach", guest=GUEST)
    else:
        host.daemon.terminate()
        host.restart()
    attach(host.qmp, qemu)


def move_on(vms, last):
    """Back to a, where it runs again."""
    vms.b.migrate(vms.a.listen())
    vms.b.complete()
    vms.a.complete()
    if vms.a.run_state() == "paused":
        vms.a.qmp.cmd("cont", guest=GUEST)
    assert vms.a.run_state() == last.state() == "running"


def refuse_before_cont(vms, target):
    """The guest stays, and can be moved once it has run."""
    vms.b.migrate(vms.a.listen())
    vms.b.fail(GUEST, "'cont'")
    vms.a.fail(GUEST)
    assert vms.b.run_state() == target.state() == "paused"
    vms.b.qmp.cmd("cont", guest=GUEST)
    check_console(target)


@path("qemu/paused/moves-on/{how}")
@pytest.mark.parametrize("how", ["attached", "attached-again", "another-ferryd"])
def test_paused_on(vms, how):
    image, both = disk_options(vms)
    target = arrive_paused(vms, both)
    if how != "attached":
        attach_anew(vms.b, target, how)
    last = vms.target(vms.a, **both)
    if version_of(target) < (10, 0):
        refuse_before_cont(vms, target)
    move_on(vms, last)
    check_arrived(target, last)
    assert holds_lock(last, image)


@path("qemu/paused/moves-on/has-run-here/{disk}")
@pytest.mark.parametrize("disk", ["read-only", "writable"])
def test_paused_has_run(vms, disk):
    """One that has run where it came to, and was paused there, moves on with every QEMU."""
    both = disk_options(vms)[1] if disk == "writable" else {}
    source, target = vms.pair(FILLED, both)
    vms.move(source, target)
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    source.kill()
    vms.b.qmp.cmd("stop", guest=GUEST)
    attach_anew(vms.b, target, "attached-again")
    last = vms.target(vms.a, **both)
    move_on(vms, last)
    check_arrived(target, last)


@path("qemu/paused/moves-on/one-image-added")
def test_paused_on_added(vms):
    """An image that was added to a guest that came paused is active, and the others are not."""
    _, both = disk_options(vms)
    target = arrive_paused(vms, both)
    file = vms.lab.folder / "added.raw"
    file.write_bytes(bytes(MIB))
    target.qmp.execute("blockdev-add", {"driver": "raw", "node-name": "added", "file": {
        "driver": "file", "filename": str(file)}})
    target.qmp.cmd("device_add", driver="virtio-blk-pci", drive="added", id="late")
    assert holds_lock(target, file)
    attach_anew(vms.b, target, "attached-again")
    vms.target(vms.a, **both)
    if version_of(target) < (10, 0):
        refuse_before_cont(vms, target)
    else:
        vms.b.migrate(vms.a.listen())
        vms.b.fail(GUEST, "device state")  # there is no such device at the destination
