# SPDX-License-Identifier: BSD-3-Clause
"""rdma: over real verbs.  Runs where tests/rdma has made two devices that reach each other."""

import contextlib
import struct
import subprocess

import pytest
from lab import CommandError, LabError
from rdma_peer import (ASK, DATA, FINISH, KEYS, RdmaPeer, SHARED, ask, hello, keys, message,
                       region, share)
from scenes import (GUEST, MIB, PAGE, Host, check_moved, check_source_runs, eventually, move, path,
                    started_by)
from stream import END, RAM_ZERO, STATE_END, STOPPED, record

NEAR = "10.8.0.1"
FAR = "10.8.0.2"
URI = f"rdma:{FAR}:0"
BLOCKS = ("ram:32",)
SLOW = 4 * MIB  # bytes/s
RAM_PLACED = 18
NOTHING = 0x2d06800538d394c2  # XXH3 of no bytes


def pair(scene, fill=16 * MIB, blocks=BLOCKS, **options):
    return scene.pair(fill=fill, blocks=blocks, **options)


def pinned(host):
    """Bytes that a daemon has pinned."""
    with open(f"/proc/{host.daemon.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmPin:"))


def await_unpinned(*hosts):
    for host in hosts:
        eventually(lambda host=host: pinned(host) == 0, what=f"unpinned memory of {host.name}")


def hold_active(scene, source, speed=SLOW, **listen):
    """A slow migration of which something has been placed."""
    scene.a.set(max_bandwidth=speed)
    scene.a.migrate(scene.b.listen(uri=URI, **listen))
    eventually(lambda: scene.a.info().get("ram", {}).get("placed-bytes", 0) > 0,
               what="pages that were placed")
    assert scene.a.status() == "active"


def finish(scene, source, target):
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("rdma/{device}/plain")
def test_plain(scene, device):
    """The RAM goes by RDMA WRITE, all of it, and nothing else is in the stream but records."""
    source, target = pair(scene)
    scene.a.migrate(scene.b.listen(uri=URI))
    sent, got = scene.a.complete(), scene.b.complete()
    check_moved(source, target)
    for info in (sent, got):
        ram = info["ram"]
        assert ram["placed-bytes"] == ram["normal-bytes"] >= 16 * MIB
        assert ram["transferred"] - ram["placed-bytes"] < MIB
    await_unpinned(scene.a, scene.b)


@path("rdma/{device}/pin-all")
def test_pin_all(scene, device):
    """What exists is pinned at the source, and everything at the destination, before the rounds."""
    source, target = pair(scene)
    scene.a.capable(rdma_pin_all=True)
    hold_active(scene, source)
    assert pinned(scene.a) >= 16 * MIB
    assert pinned(scene.b) >= 32 * MIB
    finish(scene, source, target)
    await_unpinned(scene.a, scene.b)


@path("rdma/{device}/dirtying-writer")
def test_dirtying(scene, device):
    source, target = pair(scene)
    source.do("dirty 1024 512 300")
    hold_active(scene, source, speed=8 * MIB)
    scene.a.set(max_bandwidth=0)
    eventually(lambda: scene.a.info()["ram"]["dirty-sync-count"] > 2 or
               scene.a.status() == "completed", what="another round")
    scene.a.complete()
    assert scene.b.complete()["verified"] is True
    source.do("dirty-stop")
    check_moved(source, target)


@path("rdma/{device}/cancel-in-active")
def test_cancel(scene, device):
    source, target = pair(scene)
    hold_active(scene, source)
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    scene.b.fail()
    await_unpinned(scene.a, scene.b)
    assert int(target.do("allocated")) == 0
    check_source_runs(scene.a, source)
    move(scene.a, scene.b, source, target, uri=URI)


@path("rdma/{device}/cancel-in-setup")
def test_cancel_in_setup(scene, device):
    """Nobody accepts: the destination's daemon stands still."""
    source, target = pair(scene)
    uri = scene.b.listen(uri=URI)
    scene.b.daemon.suspend()
    scene.a.migrate(uri)
    scene.a.reach("setup")
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    scene.b.daemon.wake()
    check_source_runs(scene.a, source)


@path("rdma/{device}/destination-cancels")
def test_destination_cancels(scene, device):
    source, target = pair(scene)
    hold_active(scene, source)
    scene.b.cancel()
    assert scene.b.end()["status"] == "cancelled"
    scene.a.fail(GUEST, "cancelled")
    await_unpinned(scene.a, scene.b)
    check_source_runs(scene.a, source)


@path("rdma/{device}/peer-killed")
def test_peer_killed(scene, device):
    source, target = pair(scene)
    hold_active(scene, source)
    scene.b.kill()
    scene.a.fail()
    await_unpinned(scene.a)
    check_source_runs(scene.a, source)
    scene.b.restart(GUEST)
    move(scene.a, scene.b, source, target, uri=URI)


@path("rdma/{device}/source-killed")
def test_source_killed(scene, device):
    source, target = pair(scene)
    hold_active(scene, source)
    scene.a.kill()
    scene.b.fail(GUEST)
    assert int(target.do("allocated")) == 0
    assert source.do("state") == "running"


@path("rdma/{device}/destination-vmm-killed")
def test_destination_vmm_killed(scene, device):
    source, target = pair(scene)
    hold_active(scene, source)
    target.kill()
    scene.b.end()
    scene.a.fail()
    await_unpinned(scene.a, scene.b)
    check_source_runs(scene.a, source)


@contextlib.contextmanager
def cut_link():
    """Nothing that is sent arrives any more, and nothing tells of it."""
    def tc(*words):
        for end in ("va", "vb"):
            subprocess.run(["/sbin/tc", "qdisc", words[0], "dev", end, "root", *words[1:]],
                           check=True)
    tc("add", "netem", "loss", "100%")
    try:
        yield
    finally:
        tc("del")


@path("rdma/{device}/link-cut")
def test_link_cut(scene, device):
    """Both ends notice, though neither is told."""
    source, target = pair(scene)
    hold_active(scene, source)
    with cut_link():
        info = scene.a.qmp.await_status("failed", guest=GUEST)
        assert "does not answer" in info["error-desc"], info
        scene.b.fail()
    await_unpinned(scene.a, scene.b)
    check_source_runs(scene.a, source)
    move(scene.a, scene.b, source, target, uri=URI)


@path("rdma/{device}/link-cut-in-handover")
def test_link_cut_in_handover(scene, device):
    """GO is out, RUNNING is not back: the source asks on a fresh connection."""
    source, target = pair(scene, fill=MIB)
    target.do("behave resume=hang")
    scene.a.migrate(scene.b.listen(uri=URI))
    target.await_event("resume")
    with cut_link():
        eventually(lambda: scene.a.info().get("handover") == "undecided",
                   what="an undecided handover")
        target.do("behave resume=ok")
        assert scene.b.complete()["handover"] == "destination"
    assert scene.a.complete()["handover"] == "destination"
    check_moved(source, target)


@path("rdma/{device}/state-refused")
def test_state_refused(scene, device):
    """The destination's reason arrives, though it closes right behind it."""
    source, target = pair(scene, fill=MIB)
    target.do("behave load=fail")
    scene.a.migrate(scene.b.listen(uri=URI))
    scene.a.fail(GUEST, "The peer gave up")
    scene.b.fail()
    check_source_runs(scene.a, source)


LIMITED = """#!/usr/bin/python3
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_IPC_LOCK
resource.setrlimit(resource.RLIMIT_MEMLOCK, (16 << 20, 16 << 20))
os.execv("{ferryd}", sys.argv)
"""


def limited_host(scene, name):
    """A host whose ferryd may lock 16 MiB and no more."""
    with started_by(scene.lab, LIMITED):
        return Host(scene.lab, name)


@path("rdma/{device}/memlock-refused/{side}")
@pytest.mark.parametrize("side", ["source", "destination"])
def test_memlock(scene, device, side):
    """Both figures are named, at both ends; without rdma-pin-all it goes."""
    if side == "source":
        scene.a = limited_host(scene, "c")
    else:
        scene.b = limited_host(scene, "c")
    source, target = pair(scene, fill=MIB)
    scene.a.capable(rdma_pin_all=True)
    scene.a.migrate(scene.b.listen(uri=URI))
    for host in (scene.a, scene.b):
        host.fail(GUEST, str(32 * MIB), str(16 * MIB), "RLIMIT_MEMLOCK")
    check_source_runs(scene.a, source)
    scene.a.capable(rdma_pin_all=False)
    move(scene.a, scene.b, source, target, uri=URI)


@path("rdma/{device}/memlock-reached")
def test_memlock_reached(scene, device):
    """A registration on the way that the limit does not allow."""
    scene.b = limited_host(scene, "c")
    source, target = pair(scene, fill=32 * MIB)
    scene.a.migrate(scene.b.listen(uri=URI))
    scene.b.fail(GUEST, "RLIMIT_MEMLOCK", str(16 * MIB))
    scene.a.fail(GUEST, "RLIMIT_MEMLOCK")
    check_source_runs(scene.a, source)


@path("rdma/{device}/chunk-size")
def test_chunk_size(scene, device):
    """How much is registered for the first pages is the parameter's to say."""
    source, target = pair(scene, fill=32 * MIB)
    scene.a.set(rdma_chunk_size=64 << 10)
    hold_active(scene, source, speed=MIB)
    assert pinned(scene.b) < 10 * MIB
    scene.a.cancel()
    scene.a.end()
    scene.b.end()
    scene.a.set(rdma_chunk_size=16 * MIB)
    hold_active(scene, source, speed=MIB)
    assert pinned(scene.a) >= 16 * MIB
    assert pinned(scene.b) >= 16 * MIB
    finish(scene, source, target)


@path("rdma/{device}/pin-all-elsewhere")
def test_pin_all_elsewhere(scene, device):
    """With tcp: it is without effect."""
    source, target = pair(scene, fill=MIB)
    scene.a.capable(rdma_pin_all=True)
    move(scene.a, scene.b, source, target)
    assert "placed-bytes" not in scene.a.info()["ram"]


@path("rdma/{device}/holes-stay-holes")
def test_holes(scene, device):
    """Neither end has more memory afterwards than the guest had."""
    source, target = pair(scene, fill=0)
    for at in range(0, 32 * MIB, 3 * MIB):
        source.do(f"fill ram {at} {5 * PAGE} random {at + 1}")
    source.do(f"fill ram {8 * MIB} {MIB // 2} random 1")
    before = int(source.do("allocated"))
    scene.a.migrate(scene.b.listen(uri=URI))
    sent = scene.a.complete()
    scene.b.complete()
    check_moved(source, target)
    assert sent["ram"]["placed-bytes"] == before
    assert int(source.do("allocated")) == before
    assert int(target.do("allocated")) == before


@path("rdma/{device}/zero-after-data")
def test_zero_after_data(scene, device):
    """Pages that were placed, then zeroed, then written again: the device's pages are still the
    guest's."""
    source, target = pair(scene)
    hold_active(scene, source, speed=16 * MIB)
    eventually(lambda: scene.a.info()["ram"]["placed-bytes"] >= 4 * MIB, what="4 MiB placed")
    source.do(f"fill ram 0 {2 * MIB} zero")
    eventually(lambda: scene.a.info()["ram"]["dirty-sync-count"] > 2 or
               scene.a.status() == "completed", what="another round")
    finish(scene, source, target)


@path("rdma/{device}/punched-and-written-again")
def test_punched(scene, device):
    """A balloon takes pages that are registered, and gives others in their place."""
    source, target = pair(scene)
    scene.a.capable(pause_before_switchover=True)
    hold_active(scene, source, speed=16 * MIB)
    eventually(lambda: scene.a.info()["ram"]["placed-bytes"] >= 4 * MIB, what="4 MiB placed")
    source.do(f"punch ram 0 {MIB}")
    source.do(f"fill ram 0 {MIB // 2} random 99")
    source.do(f"punch ram {2 * MIB} {MIB}")
    scene.a.set(max_bandwidth=0)
    scene.a.reach("pre-switchover")
    scene.a.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("rdma/{device}/there-and-back")
def test_there_and_back(scene, device):
    source, target = pair(scene)
    move(scene.a, scene.b, source, target, uri=URI)
    source.kill()
    eventually(lambda: not scene.a.qmp.cmd("query-guests"), what="the old VMM's end")
    again = scene.a.scripted(incoming=True, blocks=BLOCKS)
    scene.b.migrate(scene.a.listen(uri=f"rdma:{NEAR}:0"))
    scene.b.complete()
    scene.a.complete()
    check_moved(target, again)


@path("rdma/{device}/several-blocks")
def test_blocks(scene, device):
    source, target = pair(scene, fill=MIB, blocks=("low:4", "high:12:0x100000000"))
    source.do(f"fill high {3 * MIB} {4 * MIB} random 5")
    move(scene.a, scene.b, source, target, uri=URI)
    assert scene.a.info()["ram"]["placed-bytes"] == 5 * MIB


@path("rdma/{device}/reject")
def test_reject(scene, device):
    """Nobody listens there."""
    source, target = pair(scene, fill=MIB)
    uri = scene.b.listen(uri=URI)
    scene.b.cancel()
    scene.b.end()
    scene.a.migrate(uri)
    scene.a.fail(GUEST, uri)
    check_source_runs(scene.a, source)


@path("rdma/{device}/unreachable")
def test_unreachable(scene, device):
    """No host has the address."""
    source = scene.a.scripted()
    scene.a.migrate("rdma:10.8.0.77:4444")
    scene.a.fail(GUEST, "10.8.0.77")
    check_source_runs(scene.a, source)


# ---- hostile peers ----

@pytest.fixture
def peer(lab):
    return lab.keep(RdmaPeer(lab))


@path("rdma/{device}/hostile-hello/{what}")
@pytest.mark.parametrize("what,greeting", [
    ("none", b"x"), ("magic", hello(magic=b"FERRYMIG")), ("version", hello(version=2)),
    ("no-credits", hello(credits_given=0)), ("no-buffer", hello(buffer=8)),
])
def test_hostile_hello(scene, peer, device, what, greeting):
    """A caller who is no ferryd is turned away; the destination goes on waiting."""
    source, target = pair(scene, fill=MIB)
    uri = scene.b.listen(uri=URI)
    with pytest.raises(LabError, match="REJECTED"):
        peer.call(uri, greeting)
    assert scene.b.status() == "setup"
    scene.a.migrate(uri)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


def after_share(raw):
    def attack(peer, uri):
        peer.share_memory(uri)
        peer.send(raw)
    return attack


def instead_of_share(raw):
    def attack(peer, uri):
        peer.introduce(uri)
        peer.send(raw)
    return attack


def attack_asks_twice(peer, uri):
    peer.share_memory(uri)
    peer.key(3)
    peer.send(ask(3))


def attack_write_outside(peer, uri):
    base = peer.share_memory(uri)
    rkey = peer.key(1)
    with pytest.raises(LabError, match="remote access error"):
        peer.do(f"write {base} {rkey} 4096")


def pages(kind, offset, length, block=0):
    return record(kind, struct.pack("<IIQQ", block, 0, offset, length))


SOURCES = {
    "ask-region": after_share(ask(0, number=7)),
    "ask-unit": after_share(ask(32)),
    "ask-unit-huge": after_share(ask(2**63)),
    "ask-twice": attack_asks_twice,
    "ask-cut": after_share(message(ASK, b"12345")),
    "ask-before-share": instead_of_share(ask(0)),
    "share-twice": after_share(share()),
    "share-chunk-small": instead_of_share(share(chunk=4096)),
    "share-chunk-huge": instead_of_share(share(chunk=1 << 40)),
    "share-chunk-odd": instead_of_share(share(chunk=3 * MIB)),
    "share-regions": instead_of_share(share(regions=2)),
    "share-pin-all": instead_of_share(share(pin_all=1)),
    "keys": after_share(keys(0)),
    "region": after_share(region()),
    "type-unknown": after_share(message(99)),
    "type-none": after_share(message(0)),
    "length": after_share(message(DATA, b"abc", length=4)),
    "head-cut": after_share(b"\1\0\0"),
    "credits": after_share(message(DATA, b"", credits_given=60000)),
    "placed-outside": after_share(message(DATA, pages(RAM_PLACED, 32 * MIB, PAGE))),
    "placed-block": after_share(message(DATA, pages(RAM_PLACED, 0, PAGE, block=1))),
    "placed-nothing": after_share(message(DATA, pages(RAM_PLACED, 0, 0))),
    "zero-over-placed": after_share(message(DATA, pages(RAM_PLACED, 0, PAGE) +
                                            pages(RAM_ZERO, 0, PAGE))),
    "write-outside": attack_write_outside,
}


@path("rdma/{device}/hostile-source/{what}")
@pytest.mark.parametrize("what", SOURCES)
def test_hostile_source(scene, peer, device, what):
    """Its job fails; the memory is free again, and the VMM waits for another migration."""
    target = scene.b.scripted(incoming=True, blocks=BLOCKS)
    SOURCES[what](peer, scene.b.listen(uri=URI))
    scene.b.fail()
    assert target.do("state") == "incoming"
    assert int(target.do("allocated")) == 0
    await_unpinned(scene.b)
    assert scene.b.listen(uri=URI)


@path("rdma/{device}/hostile-source/ask-before-all-is-offered")
def test_early_ask(scene, peer, device):
    """A key of the second block, while the first is still being pinned."""
    scene.b.scripted(incoming=True, blocks=("ram:16", "high:16:4294967296"))
    peer.introduce(scene.b.listen(uri=URI), b"rdma-pin-all",
                   blocks=((b"ram", 0, 16 * MIB), (b"high", 1 << 32, 16 * MIB)))
    peer.send(share(pin_all=1, regions=2))
    peer.send(ask(0, number=1))
    scene.b.fail(GUEST, "a key was asked for")
    await_unpinned(scene.b)


@path("rdma/{device}/hostile-source/write-after-end")
def test_write_after_end(scene, peer, device):
    """Once END was read nothing can be written, though the connection is up."""
    target = scene.b.scripted(incoming=True, blocks=BLOCKS)
    target.do("behave load=hang")
    base = peer.share_memory(scene.b.listen(uri=URI))
    rkey = peer.key(0)
    peer.do(f"write {base} {rkey} 4096")
    peer.send(message(DATA, pages(RAM_PLACED, 0, PAGE) + record(STOPPED, bytes(8)) +
                      record(STATE_END, struct.pack("<QQ", 0, NOTHING)) +
                      record(END, struct.pack("<QQQ", 1, 0, 0))))
    target.await_event("load")
    before = target.do("hash")
    with pytest.raises(LabError, match="remote access error"):
        peer.do(f"write {base + 8} {rkey} 4096")
    assert target.do("hash") == before
    target.do("behave load=ok")
    scene.b.fail()


DESTINATIONS = {
    "region-length": [region(length=64 * MIB)],
    "region-unit-odd": [region(unit=3 * MIB)],
    "region-unit-small": [region(unit=4096)],
    "region-unit-zero": [region(unit=0)],
    "region-base": [region(base=2**64 - 4096)],
    "region-number": [region(number=1)],
    "region-too-many": [region(), region(number=1)],
    "shared-without-regions": [message(SHARED)],
    "keys-unasked": [region(), message(SHARED), keys(31)],
    "keys-region": [region(), message(SHARED), keys(0, number=9)],
    "keys-unit": [region(), message(SHARED), keys(2**60)],
    "keys-before-regions": [keys(0)],
    "keys-cut": [region(), message(SHARED), message(KEYS, b"123")],
    "asks": [region(), message(SHARED), ask(0)],
    "wrong-key": [region(), message(SHARED), keys(0, rkey=0xdead00)],
    "ends": [message(FINISH)],
}


@path("rdma/{device}/hostile-destination/{what}")
@pytest.mark.parametrize("what", DESTINATIONS)
def test_hostile_destination(scene, peer, device, what):
    source = scene.a.scripted(blocks=BLOCKS)
    source.do(f"fill ram 0 {MIB} random 1")
    chunk, pin_all, regions = peer.be_destination(FAR, scene.a.migrate)
    assert (chunk, pin_all, regions) == (MIB, 0, 1)
    for raw in DESTINATIONS[what]:
        peer.send(raw)
    scene.a.fail()
    await_unpinned(scene.a)
    check_source_runs(scene.a, source)


# ---- the device goes away; last, for it is not there afterwards ----

@path("rdma/{device}/device-removed")
def test_device_removed(scene, device):
    """The network device goes, and with it the RDMA device on it."""
    source, target = pair(scene)
    hold_active(scene, source, speed=MIB)
    remover = subprocess.Popen(["/sbin/ip", "link", "del", "va"])
    try:
        scene.a.fail(GUEST, "rdma:")
        scene.b.fail()
        await_unpinned(scene.a, scene.b)
        check_source_runs(scene.a, source)
    finally:
        remover.kill()  # the kernel may take its time with what is left of the device
    with pytest.raises(CommandError):
        scene.b.listen(uri=URI)
    scene.b.listen()
