# SPDX-License-Identifier: BSD-3-Clause
"""A real Linux guest moves, and what it does goes on."""

import pytest
from linux_scenes import MEMORY, SLOW, SPARE
from scenes import GUEST, MIB, eventually, path

pytestmark = pytest.mark.linux

TIMES = 10  # there and back
DRIVERS = ("net", "blk", "rng", "balloon")


@path("linux/there-and-back/ten-times")
def test_there_and_back(linux):
    """RAM is the same, byte for byte, where it was compared; a download that was under way ends
    well; the network learns each time where the guest is."""
    linux.start()
    linux.tell("held")
    eventually(lambda: linux.network.state()["held"], what="a download half way")
    linux.do("kinds")
    linux.move(paused=True)
    linux.network.release()
    linux.await_lines("ok held", after=0)
    linux.check_work()
    for _ in range(2 * TIMES - 1):
        announced = linux.network.state()["announced"]
        linux.move()
        eventually(lambda: linux.network.state()["announced"] > announced, what="an announcement")
        linux.await_lines("ok memory", after=0)
    assert linux.moves == 2 * TIMES
    linux.do("fsck")
    linux.check_work()


# ---- the balloon ----

def set_balloon(linux, mib):
    linux.qemu.qmp.cmd("balloon", value=mib * MIB)


def await_balloon(linux, mib):
    eventually(lambda: linux.qemu.qmp.cmd("query-balloon")["actual"] == mib * MIB,
               what=f"{mib} MiB of the guest")


@path("linux/balloon/up-and-down")
def test_balloon(linux):
    """Filled and emptied between moves, and while one goes on."""
    linux.start()
    set_balloon(linux, 160)
    await_balloon(linux, 160)
    linux.do("kinds")
    linux.move(paused=True)
    await_balloon(linux, 160)
    set_balloon(linux, MEMORY)
    await_balloon(linux, MEMORY)
    for mib in (160, MEMORY):
        target = linux.target()
        linux.begin(target, max_bandwidth=SLOW)
        linux.here.reach("active")
        set_balloon(linux, mib)
        await_balloon(linux, mib)
        linux.here.set(max_bandwidth=0)
        linux.arrive(target)
        await_balloon(linux, mib)
        linux.check_work()


def peak_of_take(linux):
    """Has the guest write 64 MiB and free them; the most of RAM that existed meanwhile.  The guest
    reports what is free before it is asked."""
    number, peak = linux.tell("take 64"), 0

    def ended():
        nonlocal peak
        peak = max(peak, linux.qemu.ram_in_use())
        return f"reply {number} 0\n" in linux.output()

    eventually(ended, what="the end of take")
    return peak


@path("linux/balloon/free-page-reporting")
def test_reporting(linux):
    """What the guest has freed exists at neither end."""
    linux.start(balloon=",free-page-reporting=on")
    for _ in range(2):
        taken = peak_of_take(linux)
        eventually(lambda: linux.qemu.ram_in_use() < taken - 16 * MIB, what="free pages")
        linux.do("kinds")
        linux.move(paused=True)
        assert linux.qemu.ram_in_use() < taken - 16 * MIB
        linux.check_work()


# ---- a disk that comes and goes ----

@path("linux/disk/plugged-between-moves")
def test_plugged(linux):
    linux.start()
    image = linux.lab.folder / "more.raw"
    with open(image, "wb") as file:
        file.truncate(32 * MIB)
    linux.qemu.qmp.execute("blockdev-add", {"driver": "raw", "node-name": "more", "file": {
        "driver": "file", "filename": str(image)}})
    linux.qemu.qmp.cmd("device_add", driver="virtio-blk-pci", drive="more", bus=SPARE, id="more")
    linux.do("more vdb")
    options = ("-blockdev", f"raw,node-name=more,file.driver=file,file.filename={image}",
               "-device", f"virtio-blk-pci,drive=more,bus={SPARE},id=more")
    for paused in (True, False):
        linux.move(paused, options=options)
        linux.check_work()
    linux.do("unmore")
    linux.qemu.qmp.cmd("device_del", id="more")
    linux.qemu.qmp.await_event("DEVICE_DELETED", device="more")
    linux.qemu.qmp.execute("blockdev-del", {"node-name": "more"})
    linux.move()
    linux.do("fsck")
    linux.check_work()


# ---- resets ----

@path("linux/reset/{state}")
@pytest.mark.parametrize("state", ["active", "pre-switchover"])
def test_reset(linux, state):
    """It starts again where it is, or where it comes to be."""
    source = linux.start()
    target = linux.target()
    linux.begin(target, hold=state == "pre-switchover",
                max_bandwidth=SLOW if state == "active" else 0)
    linux.here.reach(state)
    after = len(source.output())
    source.qmp.cmd("system_reset")
    source.qmp.await_event("RESET")
    if state == "active":
        linux.here.set(max_bandwidth=0)
    else:
        linux.here.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    linux.arrive(target)
    linux.await_new_boot(after)
    linux.check_work()
    linux.move(paused=True)
    linux.check_work()


@path("linux/reset/after-the-move")
def test_reset_after(linux):
    linux.start()
    linux.move()
    linux.check_work()
    linux.reset()
    linux.move()
    linux.do("fsck")
    linux.check_work()


# ---- drivers ----

@path("linux/drivers/unloaded-after-the-move")
def test_unload(linux):
    """Each is loaded again where the guest is, and where it comes to be."""
    linux.start()
    linux.move()
    for driver in DRIVERS:
        linux.do(f"unload {driver}")
        linux.do(f"load {driver}")
    linux.check_work()
    for driver in DRIVERS:
        linux.do(f"unload {driver}")
    linux.move(paused=True)
    for driver in DRIVERS:
        linux.do(f"load {driver}")
    linux.check_work()
