# SPDX-License-Identifier: BSD-3-Clause
"""Disks that write into the guest's RAM by themselves, for as long as they take.

The guest reads a slow disk past the page cache all the time and checks what it has read.  A page is
reported as written when such a read begins: whoever sends it before the read has ended, and trusts
the report, sends what was there before.
"""

import re
import threading

import pytest
from lab import DEADLINE
from qemu_scenes import (FILLED, attach_through, await_number, check_stays, descriptors,
                         hold_active, pretend_version, version_of)
from scenes import GUEST, MIB, eventually, path
from slowdisk import has_slow_disks, slow_disk

pytestmark = [pytest.mark.qemu,
              pytest.mark.skipif(has_slow_disks() is not None, reason=str(has_slow_disks()))]

READER = {"guest": "direct", "args": "set=4 request=64 every=50"}
SECTORS = 4 * MIB // 512
SPEED = 1 << 20  # bytes/s: what is in flight takes a quarter of a second


@pytest.fixture(name="disk")
def fixture_disk(vms):
    return vms.lab.undo.enter_context(slow_disk(vms.lab.folder, bytes_per_second=SPEED))


def reading(vms, disk, aio):
    """A guest at work on the disk, and a QEMU that waits for it."""
    options = disk.qemu_options(aio)
    target = vms.target(options=options)
    source = vms.qemu(options=options, paused=True, **READER)
    disk.add(source)
    disk.add(target)
    source.qmp.cmd("cont")
    await_number(source, r"direct: reads (\d+)", 2)
    return source, target


def drain_of(qemu):
    """The command that drains its disks, by its version."""
    return "transaction" if version_of(qemu) <= (10, 0) else "stop"


def move(vms):
    vms.a.migrate(vms.b.listen())
    assert vms.a.complete()["verified"] is True


def move_unverified(vms):
    """`verify` would tell that a page differs: here the guest is to find it."""
    vms.a.capable(verify=False)
    vms.a.qmp.cmd("migrate", uri=vms.b.listen())
    vms.a.complete()


def counts(target):
    """What the guest's last line says: sectors that it has checked, and that were bad."""
    found = re.findall(r"direct: reads \d+ checked (\d+) bad (\d+)\n", target.output())
    return tuple(map(int, found[-1])) if found else (0, 0)


def look_again(target):
    """Bad sectors, once the guest has looked at all of its buffer at the destination."""
    eventually(lambda: counts(target)[0] > 0, what="a whole line of the guest")
    begun = counts(target)[0]
    eventually(lambda: counts(target)[0] >= begun + SECTORS, what="all sectors to be checked")
    return counts(target)[1]


@path("qemu/direct/{aio}/arrives-whole")
@pytest.mark.parametrize("aio", ["native", "threads", "io_uring"])
def test_whole(vms, disk, aio):
    source, target = reading(vms, disk, aio)
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    move(vms)
    assert relay.requests[drain_of(source)] >= 2
    assert look_again(target) == 0


@path("qemu/direct/naive-scan-loses")
def test_naive(vms, disk):
    """What the drain is for: without it pages arrive as they were before they were read."""
    source, target = reading(vms, disk, "native")
    drains = {"transaction": ["transaction"], "stop": ["stop", "cont"]}[drain_of(source)]

    def swallow(message):
        if message["execute"] not in drains:
            return message
        relay.answer(message, {})
        return None

    relay = vms.relay_qmp(source, request=swallow)
    attach_through(vms.a, relay)
    move_unverified(vms)
    assert look_again(target) > 0
    assert "BAD sector" in target.output()


@path("qemu/direct/unknown-version/arrives-whole")
def test_newer(vms, disk):
    """A QEMU of which nobody has looked up whether a transaction drains is stopped for a moment."""
    source, target = reading(vms, disk, "native")
    relay = vms.relay_qmp(source, reply=pretend_version(99))
    attach_through(vms.a, relay)
    move(vms)
    assert relay.requests["stop"] >= 2 and not relay.requests["transaction"]
    assert look_again(target) == 0
    told = [event["event"] for event in vms.a.qmp.events]
    assert told.count("RESUME") == 0, "clients were told of a moment's stop"


def hold_drained(vms, disk, lose=False, behind=None, **parameters):
    """A guest that is stopped for a moment, for as long as the test likes; what was to end it may be
    lost.  `behind`: not before QEMU was told that."""
    source, _ = reading(vms, disk, "native")
    stopped, let_go = threading.Event(), threading.Event()

    def keep_back(message):
        early = behind and not relay.requests[behind]
        if message["execute"] != "cont" or early or let_go.is_set():
            return message
        stopped.set()
        let_go.wait()
        return None if lose else message

    relay = vms.relay_qmp(source, request=keep_back, reply=pretend_version(99))
    attach_through(vms.a, relay)
    vms.a.capable(verify=False)
    vms.a.set(**parameters)
    vms.a.qmp.cmd("migrate", uri=vms.b.listen())
    assert stopped.wait(DEADLINE)
    assert source.state() == "paused"
    return source, let_go


@path("qemu/direct/stopped-for-a-moment/ferryd-ends/{how}")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_ends_in_drain(vms, disk, how):
    """What it has told QEMU last may go with it: the guardian says it once more."""
    source, let_go = hold_drained(vms, disk, lose=True)
    if how == "SIGKILL":
        vms.a.kill()
    else:
        assert vms.a.daemon.terminate() == 0
    let_go.set()
    eventually(lambda: source.state() == "running", what="a guest that runs again")


def sockets(qemu):
    return sum(name.startswith("socket:") for name in descriptors(qemu))


@path("qemu/direct/stopped-for-a-moment/ferryd-ends/prepared")
def test_ends_in_late_drain(vms, disk):
    """QEMU was given a descriptor for its state, too: it does not keep it."""
    source, let_go = hold_drained(vms, disk, lose=True, behind="getfd", max_bandwidth=MIB,
                                  downtime_limit=10000)
    count = sockets(source)
    vms.a.kill()
    let_go.set()
    eventually(lambda: source.state() == "running", what="a guest that runs again")
    eventually(lambda: sockets(source) == count - 2, what="neither it nor the monitor's")


@path("qemu/direct/stopped-for-a-moment/operator-stops-it")
def test_stopped_in_drain(vms, disk):
    """What an operator wants holds, though ferryd was about to let the guest go on."""
    source, let_go = hold_drained(vms, disk)
    vms.a.qmp.send({"execute": "stop", "arguments": {"guest": GUEST}})
    let_go.set()
    assert "return" in vms.a.qmp.answer()
    vms.a.cancel()
    vms.a.end()
    vms.a.await_run_state("paused")
    assert source.state() == "paused"


@path("qemu/direct/plugged-while-active")
def test_plugged(vms, disk):
    """A disk that comes while the guest is migrated is looked for in each round."""
    source, _ = vms.pair(FILLED)
    relay = vms.relay_qmp(source)
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    attach_through(vms.a, relay)
    hold_active(vms)
    assert not relay.requests[drain_of(source)]
    source.qmp.execute("blockdev-add", {
        "driver": "host_device", "node-name": "late", "filename": disk.device, "read-only": True,
        "cache": {"direct": True}})
    vms.a.set(max_bandwidth=4 * MIB)
    eventually(lambda: relay.requests[drain_of(source)], what="a drain")
    vms.a.cancel()
    vms.a.end()
    check_stays(vms.a, source)


@path("qemu/direct/buffered-is-not-drained")
def test_buffered(vms, disk):
    source, target = reading(vms, disk, None)
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    move(vms)
    assert not relay.requests["transaction"] and not relay.requests["stop"]
    assert look_again(target) == 0
