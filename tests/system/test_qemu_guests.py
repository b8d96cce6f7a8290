# SPDX-License-Identifier: BSD-3-Clause
"""The test guests run in a stock QEMU: what the tests of the `qemu` driver stand on."""

import pytest
from qemu import ram_differences, start_qemu
from qemu_scenes import await_console, await_number
from scenes import PAGE, path
from slowdisk import has_slow_disks, slow_disk

pytestmark = pytest.mark.qemu

HEAP = 0x1000000  # contrib/vmm/guest_abi.h

# What each prints once it is at work
AT_WORK = {
    "idle": "idle: ticks 100",
    "writer": "writer: cpu 0 pass ",
    "random": "random: cpu 0 writes ",
    "checker": "checker: cpu 0 pass ",
    "clock": "clock: max gap ",
}


@path("qemu/guests/{guest}")
@pytest.mark.parametrize("guest", AT_WORK)
def test_runs(lab, guest):
    """Started by the PC's BIOS where it is the demo's, and by firmware of our own, which is faster."""
    rom = guest != "checker"
    start_qemu(lab, "g", guest=guest, args="set=4", rom=rom).await_line(AT_WORK[guest])


@path("qemu/guests/power-off")
def test_power_off(lab):
    qemu = start_qemu(lab, "g", guest="idle", args="ticks=20")
    qemu.await_line("idle: done")
    qemu.await_end(0)


def migrate_by_qemu(lab, source, target):
    uri = f"unix:{lab.folder}/link"
    target.qmp.cmd("migrate-incoming", uri=uri)
    for qemu in (source, target):
        qemu.qmp.cmd("migrate-set-capabilities",
                     capabilities=[{"capability": "events", "state": True}])
    source.qmp.cmd("migrate", uri=uri)
    for qemu in (source, target):
        qemu.qmp.await_event("MIGRATION", status="completed")


@path("qemu/guests/ram-is-compared")
def test_ram(lab):
    """QEMU's own migration leaves the same RAM at both ends, and a page of another value shows."""
    source = start_qemu(lab, "g", guest="checker", args="set=4 every=20", rom=True)
    target = start_qemu(lab, "g", incoming=True, rom=True)
    await_console(source)
    source.qmp.cmd("stop")
    migrate_by_qemu(lab, source, target)
    assert ram_differences(source, target) == []
    with open(target.ram_path, "r+b") as ram:
        ram.seek(0x3000123)
        ram.write(b"x")
    assert ram_differences(source, target) == [0x3000]


@path("qemu/guests/direct-{aio}")
@pytest.mark.skipif(has_slow_disks() is not None, reason=str(has_slow_disks()))
@pytest.mark.parametrize("aio", ["native", "threads", "io_uring"])
def test_direct(lab, aio):
    """The guest reads a slow disk past the page cache, and would see a page that is not right."""
    disk = lab.undo.enter_context(slow_disk(lab.folder))
    qemu = start_qemu(lab, "g", guest="direct", args="every=50", rom=True, paused=True,
                      options=disk.qemu_options(aio))
    disk.add(qemu)
    qemu.qmp.cmd("cont")
    await_number(qemu, r"direct: reads (\d+)", 4)
    spoilt = HEAP + 100 * PAGE
    qemu.qmp.cmd("stop")
    with open(qemu.ram_path, "r+b") as ram:
        ram.seek(spoilt)
        ram.write(bytes(4))
    qemu.qmp.cmd("cont")
    qemu.await_line(f"BAD sector 800 at {spoilt:x} when read again: begins 0 ")
