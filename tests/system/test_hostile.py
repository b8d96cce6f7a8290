# SPDX-License-Identifier: BSD-3-Clause
"""VMMs that nobody should trust: each may harm its own guest, and nothing else."""

import os
import random
import socket
import struct

import pytest
import wire
from lab import CommandError, LabError
from scenes import (GUEST, MIB, PAGE, SLOW, await_pages, check_moved, check_source_runs, eventually, hold_active,
                    hold_pre_switchover, path)
from wire import RawVmm, block, hello, memfd, message, ready


# ---- RAM that changes under the daemon's hands ----

def start_other(scene):
    """Another guest's migration, which must not notice anything; what completes it."""
    other = scene.a.scripted("other")
    target = scene.b.scripted("other", incoming=True)
    other.do(f"fill ram 0 {16 * MIB} random 3")
    scene.a.set("other", max_bandwidth=2 * MIB)
    scene.a.migrate(scene.b.listen("other"), "other")
    scene.a.reach("active", guest="other")

    def complete():
        assert scene.a.status("other") == "active"
        scene.a.set("other", max_bandwidth=0)
        scene.a.complete("other")
        scene.b.complete("other")
        check_moved(other, target)
    return complete


@path("hostile/shrink/source-{to}-in-active")
@pytest.mark.parametrize("to", [0, 4 * MIB, 16 * MIB - PAGE])
def test_shrink_active(scene, to):
    complete_other = start_other(scene)
    source, target = scene.pair()
    hold_active(scene, source, target)
    source.do(f"shrink ram {to}")
    scene.a.set(max_bandwidth=0)
    scene.a.fail(GUEST, "RAM")
    scene.b.fail()
    complete_other()
    assert target.do("state") == "incoming"
    assert source.do("state") == "running"


@path("hostile/shrink/source-in-pre-switchover")
def test_shrink_paused(scene):
    complete_other = start_other(scene)
    source, target = scene.pair()
    hold_pre_switchover(scene, source, target)
    source.do("shrink ram 0")
    scene.a.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    scene.a.fail(GUEST, "'ram'")
    scene.b.fail()
    complete_other()


@path("hostile/shrink/source-before")
def test_shrink_before(scene):
    source, _ = scene.pair()
    source.do(f"shrink ram {MIB}")
    scene.a.migrate(scene.b.listen())
    scene.a.fail(GUEST, "'ram'")
    assert source.do("state") == "running"


@path("hostile/shrink/destination-in-{state}")
@pytest.mark.parametrize("state", ["active", "pre-switchover"])
def test_shrink_destination(scene, state):
    """The destination's RAM is gone: its job fails, the source's guest runs on."""
    complete_other = start_other(scene)
    source, target = scene.pair()
    {"active": hold_active, "pre-switchover": hold_pre_switchover}[state](scene, source, target)
    target.do("shrink ram 0")
    scene.a.set(max_bandwidth=0)
    if state == "pre-switchover":
        scene.a.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    scene.b.fail()
    scene.a.fail()
    complete_other()
    check_source_runs(scene.a, source)
    target.kill()
    scene.move(source, scene.b.scripted(incoming=True))


@path("hostile/punch/told")
def test_punch_told(scene):
    """Holes that are told arrive as zeroes, also where data had been sent before."""
    source, target = scene.pair()
    hold_active(scene, source, target)
    eventually(lambda: scene.a.info()["ram"]["normal"] >= 300, what="300 pages")
    source.do(f"punch ram 0 {MIB}")
    source.do(f"punch ram {12 * MIB} {MIB}")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)
    assert int(target.do("allocated")) <= 14 * MIB


@path("hostile/punch/quietly/{how}")
@pytest.mark.parametrize("how", ["verify", "no-verify"])
def test_punch_quietly(scene, how):
    """Returned to the host after it was sent, without a report: it arrives returned."""
    source, target = scene.pair(fill=4 * MIB)
    scene.a.set(max_bandwidth=SLOW)
    scene.a.migrate(scene.b.listen(), verify=how == "verify")
    await_pages(scene)
    eventually(lambda: scene.a.info()["ram"]["normal"] >= 300, what="300 pages")
    source.do(f"punch-quietly ram 0 {MIB}")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)
    assert int(target.do("allocated")) <= 3 * MIB


@path("hostile/punch/quietly-ahead")
def test_punch_ahead(scene):
    """What was not read yet is read as it is then."""
    source, target = scene.pair()
    hold_active(scene, source, target)
    source.do(f"punch-quietly ram {12 * MIB} {MIB}")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("hostile/writes-while-stopped")
def test_write_while_stopped(scene):
    """A VMM whose device writes after stop: verify sees it, or it did no harm."""
    source, target = scene.pair()
    hold_pre_switchover(scene, source, target)
    source.do(f"fill ram 4096 {8 * PAGE} random 99")
    scene.a.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    if scene.a.end()["status"] == "completed":
        check_moved(source, target)
    else:
        check_source_runs(scene.a, source)


# ---- callbacks that never end ----

WAITS = {"stop": "to stop the guest", "save": "to save the device state",
         "load": "to load the device state"}


@path("hostile/hangs/{callback}")
@pytest.mark.parametrize("callback", WAITS)
def test_callback_hangs(scene, callback):
    """A deadline that names what the VMM did not answer; then the guest is as it was."""
    source, target = scene.pair()
    scene.a.set(guest_timeout=200)
    scene.b.set(guest_timeout=200)
    vmm = target if callback == "load" else source
    vmm.do(f"behave {callback}=hang")
    scene.a.migrate(scene.b.listen())
    scene.a.fail(GUEST, WAITS[callback], "200 ms")
    scene.b.fail(GUEST, WAITS[callback])
    vmm.do(f"behave {callback}=ok")
    for host in (scene.a, scene.b):
        host.set(guest_timeout=30000)
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("hostile/hangs/operator-stop")
def test_stop_hangs(scene):
    source = scene.a.scripted()
    scene.a.set(guest_timeout=200)
    source.do("behave stop=hang")
    with pytest.raises(CommandError) as late:
        scene.a.qmp.cmd("stop", guest=GUEST)
    assert late.value.code == "guest-timeout"
    assert "to stop the guest" in late.value.desc
    source.do("behave stop=ok")
    scene.a.await_run_state("paused")
    scene.a.qmp.cmd("cont", guest=GUEST)
    check_source_runs(scene.a, source)


@path("hostile/hangs/vmm-stands-still")
def test_suspended(scene):
    """The whole VMM does not answer."""
    source, target = scene.pair()
    scene.a.set(guest_timeout=200)
    source.suspend()
    scene.a.migrate(scene.b.listen())
    scene.a.fail(GUEST, "the VMM of guest 'g'")
    source.wake()
    scene.a.set(guest_timeout=30000)
    check_source_runs(scene.a, source)
    scene.b.end()
    scene.move(source, target)


@path("hostile/state/larger-than-allowed")
def test_state_size(scene):
    """1 GiB of device state is the limit."""
    source, target = scene.pair()
    source.do(f"set-state-size {(1 << 30) + 8}")
    scene.a.migrate(scene.b.listen())
    scene.a.fail(GUEST, "device state")
    source.do("set-state-size 4096")
    check_source_runs(scene.a, source)
    scene.move(source, target)


# ---- garbage on the guests socket ----

INTRODUCTIONS = {
    "nothing": ([], None),
    "empty": ([b""], None),
    "one-byte": ([b"x"], "message"),
    "random": ([random.Random(1).randbytes(100)], "message"),
    "too-long": ([bytes(5000)], "message"),
    "zeroes": ([bytes(16)], "message"),
    "length-lies": ([message(1, bytes(116), length=5)], "message"),
    "short-hello": ([message(1, bytes(10))], "message"),
    "magic": ([hello(magic=1)], "protocol"),
    "too-old": ([hello(version=0, version_min=0)], "version"),
    "too-new": ([hello(version=9, version_min=9)], "version"),
    "no-name": ([hello(b"")], "name"),
    "name-of-65": ([hello(b"x" * 65)], "name"),
    "name-space": ([hello(b"a b")], "name"),
    "name-quote": ([hello(b'a"b')], "name"),
    "name-newline": ([hello(b"a\nb")], "name"),
    "name-latin-1": ([hello(b"\xe4")], "name"),
    "page-size": ([hello(page=65536)], "pages of 65536"),
    "no-blocks": ([hello(blocks=0)], "0 RAM blocks"),
    "too-many-blocks": ([hello(blocks=65)], "65 RAM blocks"),
    "billions-of-blocks": ([hello(blocks=2**32 - 1)], "RAM blocks"),
    "state": ([hello(state=5)], ""),
    "state-wild": ([hello(state=2**31)], ""),
    "hello-twice": ([hello(), hello()], "where 2 was due"),
    "ready-first": ([ready()], "where 1 was due"),
    "ready-early": ([hello(), ready()], "where 2 was due"),
    "reply-first": ([wire.reply(1)], "where 1 was due"),
    "welcome": ([message(64, bytes(4))], "where 1 was due"),
    "block-without-descriptor": ([hello(), block()], "descriptor"),
}


def check_daemon(scene):
    """It answers, knows no guest that is none, and takes a good one."""
    assert [g["name"] for g in scene.a.qmp.cmd("query-guests")] == []
    good = scene.a.scripted("good")
    assert good.do("state") == "running"
    assert scene.a.run_state("good") == "running"


@path("hostile/introduction/{what}")
@pytest.mark.parametrize("what", INTRODUCTIONS)
def test_introduction(scene, what):
    messages, words = INTRODUCTIONS[what]
    with RawVmm(scene.a.daemon.guests) as vmm:
        for data in messages:
            vmm.send(data)
        if words is None:
            vmm.sock.shutdown(socket.SHUT_WR)
            assert vmm.receive() is None
        else:
            text = vmm.refusal()
            assert text is None or words in text
    check_daemon(scene)


BLOCKS = {
    "empty": (block(length=0), "empty"),
    "unaligned-length": (block(length=5000), "aligned"),
    "unaligned-address": (block(gpa=1), "aligned"),
    "unaligned-offset": (block(offset=512), "aligned"),
    "longer-than-its-file": (block(length=2 * MIB), "ends at byte"),
    "offset-behind-its-file": (block(offset=MIB), "ends at byte"),
    "huge": (block(length=2**63), "past"),
    "all-bits": (block(length=2**64 - PAGE), "past"),
    "wraps-offset": (block(offset=2**64 - PAGE), "past"),
    "wraps-address": (block(gpa=2**64 - PAGE), "past"),
    "no-name": (block(name=b""), "name"),
    "long-name": (block(name=b"x" * 65), "name"),
    "bad-name": (block(name=b"\x1b[2J"), "name"),
}


@path("hostile/block/{what}")
@pytest.mark.parametrize("what", BLOCKS)
def test_block(scene, what):
    data, words = BLOCKS[what]
    fd = memfd()
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.send(hello())
        vmm.send(data, fd)
        assert words in vmm.refusal()
    os.close(fd)
    check_daemon(scene)


def bad_descriptors():
    pipe = os.pipe()
    sock = socket.socketpair()
    return {
        "pipe": pipe[0],
        "socket": sock[0].detach(),
        "null-device": os.open("/dev/null", os.O_RDWR),
        "folder": os.open("/", os.O_RDONLY),
        "read-only": os.open(f"/proc/self/fd/{memfd()}", os.O_RDONLY),
        "eventfd": os.eventfd(0),
        "pidfd": os.pidfd_open(os.getpid()),
    }


@path("hostile/block/descriptors-of-other-kinds")
def test_block_descriptors(scene):
    for what, fd in bad_descriptors().items():
        with RawVmm(scene.a.daemon.guests) as vmm:
            vmm.send(hello())
            vmm.send(block(length=PAGE), fd)
            assert "descriptor of a memory file" in vmm.refusal(), what
        os.close(fd)
    check_daemon(scene)


@path("hostile/block/{what}-of-two")
@pytest.mark.parametrize("what,second,words", [
    ("overlap", block(b"b", gpa=MIB - PAGE), "overlap"),
    ("inside", block(b"b", gpa=PAGE, length=PAGE), "overlap"),
    ("same-name", block(b"ram", gpa=4 * MIB), "two RAM blocks"),
])
def test_two_blocks(scene, what, second, words):
    fd = memfd()
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.send(hello(blocks=2))
        vmm.send(block(b"ram"), fd)
        vmm.send(second, fd)
        assert words in vmm.refusal()
    os.close(fd)
    check_daemon(scene)


@path("hostile/block/one-more-than-said")
def test_block_too_many(scene):
    fd = memfd()
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.send(hello())
        vmm.send(block(), fd)
        vmm.send(block(b"more", gpa=4 * MIB), fd)
        assert "where 3 was due" in vmm.refusal()
    os.close(fd)
    check_daemon(scene)


@path("hostile/descriptors/do-not-leak")
def test_descriptors(scene):
    """Each kind of refusal gives back what it took."""
    count = lambda: len(os.listdir(f"/proc/{scene.a.daemon.pid}/fd"))
    fd = memfd()
    before = count()
    for _ in range(40):
        with RawVmm(scene.a.daemon.guests) as vmm:
            vmm.send(hello(), fd, fd)
            vmm.send(block(), fd)
            vmm.send(message(3), fd)
        with RawVmm(scene.a.daemon.guests) as vmm:
            vmm.send(hello(blocks=3))
            vmm.send(block(), fd, fd, fd)
            vmm.send(block(length=0), fd)
    os.close(fd)
    eventually(lambda: count() <= before, timeout=10, what="the descriptors' end")
    check_daemon(scene)


@path("hostile/attached/{what}")
@pytest.mark.parametrize("what,data", [
    ("hello-again", hello()),
    ("block-again", block(b"more", gpa=4 * MIB)),
    ("ready-again", ready()),
    ("unknown", message(999)),
    ("random", random.Random(5).randbytes(300)),
    ("daemon's-word", message(70, bytes(4))),
    ("short-reply", message(4, bytes(4))),
])
def test_attached_garbage(scene, what, data):
    """It is detached, with an event that says why."""
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce()
        scene.a.qmp.await_event("GUEST_ATTACHED", guest=GUEST)
        vmm.send(data)
        gone = scene.a.qmp.await_event("GUEST_DETACHED", guest=GUEST)
        assert gone["data"]["reason"]
        assert vmm.receive() is None
    check_daemon(scene)


@path("hostile/attached/lies-about-its-state")
def test_wild_state(scene):
    """States that are none, replies that nobody asked for: no harm."""
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce()
        scene.a.qmp.await_event("GUEST_ATTACHED", guest=GUEST)
        vmm.send(message(wire.STATE, struct.pack("<I", 77)))
        vmm.send(wire.reply(123456, state=99, text=b"\xff" * 256))
        vmm.send(message(wire.STATE, struct.pack("<I", wire.PAUSED)))
        scene.a.qmp.await_event("STOP", guest=GUEST)
        assert scene.a.run_state() == "paused"


@path("hostile/attached/fails-each-request")
def test_fails_requests(scene):
    """Its words reach the operator, made printable."""
    target = scene.b.scripted(incoming=True, blocks=("ram:1",))
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce()
        scene.a.qmp.await_event("GUEST_ATTACHED", guest=GUEST)
        scene.a.migrate(scene.b.listen())
        _, seq, _ = vmm.request()
        vmm.send(wire.reply(seq, status=-5, text=b"bad\x1b[31m \xff\xfe day"))
        info = scene.a.end()
        assert info["status"] == "failed"
        assert "bad?[31m ?? day" in info["error-desc"]
        scene.a.qmp.send({"execute": "stop", "arguments": {"guest": GUEST}})
        while (got := vmm.request())[0] != wire.STOP:
            pass
        vmm.send(wire.reply(got[1], status=-5, text=b"\xff\xfe"))
        assert "??" in scene.a.qmp.answer()["error"]["desc"]
    assert target.do("state") == "incoming"


@path("hostile/attached/answers-never")
def test_never_answers(scene):
    scene.b.scripted(incoming=True, blocks=("ram:1",))
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce()
        scene.a.qmp.await_event("GUEST_ATTACHED", guest=GUEST)
        scene.a.set(guest_timeout=100)
        scene.a.migrate(scene.b.listen())
        scene.a.fail(GUEST, "to start dirty logging")


@path("hostile/attached/reads-never")
def test_never_reads(scene):
    """Many requests to a VMM that takes none: the daemon does not wait for it."""
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce()
        scene.a.qmp.await_event("GUEST_ATTACHED", guest=GUEST)
        scene.a.set(guest_timeout=1)
        sessions = [scene.a.session() for _ in range(40)]
        for session in sessions:
            for _ in range(10):
                session.send({"execute": "stop", "arguments": {"guest": GUEST}})
        for session in sessions:
            codes = {session.answer()["error"]["code"] for _ in range(10)}
            assert codes == {"guest-timeout"}
        assert scene.a.run_state() == "running"


@path("hostile/duplicate-name")
def test_duplicate(scene):
    """The second guest of a name is refused, and gets its turn when the first has gone."""
    first = scene.a.scripted()
    with RawVmm(scene.a.daemon.guests) as vmm:
        fd = memfd()
        vmm.send(hello())
        vmm.send(block(), fd)
        vmm.send(ready())
        assert "attached already" in vmm.refusal()
        os.close(fd)
    second = scene.lab.scripted(GUEST, scene.a.daemon, blocks=("ram:4",))
    second.await_event("detached")
    assert "attached already" in second.events("detached")[0]
    assert scene.a.qmp.cmd("query-guests")[0]["pid"] == first.pid
    first.kill()
    eventually(lambda: [g["pid"] for g in scene.a.qmp.cmd("query-guests")] == [second.pid],
               what="the second guest")


@path("hostile/strangers/many")
def test_strangers(scene):
    """Connections that say nothing do not keep guests out for good."""
    strangers = [RawVmm(scene.a.daemon.guests) for _ in range(100)]
    assert scene.a.qmp.cmd("query-guests") == []
    for stranger in strangers:
        stranger.sock.close()
    check_daemon(scene)


@path("hostile/strangers/leave-in-the-middle")
def test_leave(scene):
    fd = memfd()
    for messages in ([hello()], [hello(), block()], [hello(blocks=2), block()]):
        with RawVmm(scene.a.daemon.guests) as vmm:
            for data in messages:
                vmm.send(data, *([fd] if data[0] == wire.BLOCK else []))
    os.close(fd)
    check_daemon(scene)


@path("hostile/claims-another's-handover")
def test_false_orphan(scene):
    """A VMM may say that its guest was given away: it is shown as such, and can be resolved."""
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce(state=wire.GIVEN_AWAY, job=bytes(range(16)))
        scene.a.qmp.await_event("GUEST_ATTACHED", guest=GUEST)
        info = scene.a.info()
        assert info["job"] == "00010203-0405-0607-0809-0a0b0c0d0e0f"
        assert info["handover"] == "undecided"
        scene.a.qmp.send({"execute": "migrate-resolve",
                          "arguments": {"guest": GUEST, "outcome": "source"}})
        assert vmm.receive()[0] == 76  # TAKE_BACK
        vmm.sock.close()
        assert scene.a.qmp.answer()["error"]["code"] == "guest-lost"
    with pytest.raises((CommandError, LabError)):
        scene.a.info()
