# SPDX-License-Identifier: BSD-3-Clause
"""A Linux guest that sleeps, ends, or goes back to a snapshot, around its moves."""

import pytest
from lab import LabError
from linux_scenes import SLOW
from qemu_scenes import version_of
from scenes import eventually, path

pytestmark = pytest.mark.linux


# ---- S3 ----

# Once in each boot: in QEMU 7.2 to 11.1 a second sleep ends at once.  (Seen in 7.2 and 10.0 also of a
# guest that never moved.)
def suspend(linux):
    """Has the guest sleep; the number of the command, which ends when it has woken."""
    number = linux.tell("suspend")
    linux.qemu.qmp.await_event("SUSPEND")
    return number


def wake(linux, number):
    linux.qemu.qmp.cmd("system_wakeup")
    linux.await_reply(number)
    linux.check_work()


@path("linux/suspend/after-the-move")
def test_suspend_after(linux):
    linux.start(kernel="vmlinuz")
    linux.move()
    number = suspend(linux)
    wake(linux, number)
    linux.move(paused=True)
    linux.check_work()


@path("linux/suspend/moved-asleep")
def test_suspended(linux):
    """It sleeps on where it arrives, until it is woken there; QEMU before 9.0 wakes it first."""
    source = linux.start(kernel="vmlinuz")
    number = suspend(linux)
    if version_of(source) < (9, 0):
        linux.move()
        linux.await_reply(number)
    else:
        linux.move(runs="suspended")
        wake(linux, number)
    linux.check_work()


# ---- the end ----

@path("linux/power-off/active")
def test_power_off(linux):
    """It ends where it is, and runs nowhere else; its disk is as it left it."""
    source = linux.start()
    target = linux.target()
    linux.begin(target, max_bandwidth=SLOW // 5)  # the guest takes seconds for it
    linux.here.reach("active")
    linux.tell("poweroff")
    try:
        source.await_end(0)
    except LabError as late:
        raise LabError(f"{late}\n{source.hmp('info registers -a')}") from late
    linux.there.fail()
    assert target.qmp.cmd("query-status")["running"] is False
    eventually(lambda: linux.here.qmp.cmd("query-guests") == [], what="the end of the guest")
    target.quit()
    linux.check_quiet()
    linux.qemu = linux.new_qemu()
    linux.ran.append(linux.qemu)
    linux.await_boot()
    linux.do("fsck")


# ---- snapshots ----

@path("linux/snapshot/between-moves")
def test_snapshot(linux):
    """What was saved before a move is loaded after it, and has all of RAM in it."""
    linux.start(qcow2=True)
    # A download would go back to a connection that the server has ended.
    linux.do("unload net")
    linux.do("mark 1")
    assert linux.qemu.hmp("savevm early") == ""
    linux.do("mark 2")
    linux.move()
    linux.do("marked 2")
    assert linux.qemu.hmp("loadvm early") == ""
    linux.do("marked 1")
    linux.check_work("ok download")
    assert linux.qemu.hmp("savevm late") == ""
    linux.do("mark 3")
    linux.move(paused=True)
    assert linux.qemu.hmp("loadvm late") == ""
    linux.do("marked 1")
    linux.do("load net")
    linux.do("fsck")
    linux.check_work()
