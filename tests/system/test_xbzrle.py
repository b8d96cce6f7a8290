# SPDX-License-Identifier: BSD-3-Clause
"""Deltas: what is sent of pages that were sent before, and that nothing is lost by it."""

import contextlib
import pathlib
import re
import socket
import threading

import pytest
from lab import CommandError
from scenes import GUEST, MIB, PAGE, check_moved, check_source_runs, eventually, path
from stream import (CAPABILITY, FAIL, HEAD_SIZE, OPEN, RAM_DELTA, RAM_PAGES, Direction, Tap, flip,
                    put, record, rewrite, split)

# Each round is to take longer than the guest needs for all of its pages, or it might find none
# written, and be the last: so many bytes of so many pages are changed over so slow a link.
HOT = 200
RATE = 20000  # pages a second
CHANGED = 2048
LIMIT = 2 * MIB  # bytes a second


def cache(scene):
    """The counters; all 0 before there are any."""
    return scene.a.info().get("xbzrle-cache", {"pages": 0, "cache-miss": 0, "overflow": 0,
                                               "cache-size": 0})


def start(scene, uri=None, tap=None, changed=CHANGED, xbzrle=True):
    """A guest that changes some bytes of some pages all the time, on its way; it never ends."""
    source, target = scene.pair(fill=HOT * PAGE)
    source.do(f"dirty 0 {HOT} {RATE} {changed}")
    scene.a.set(downtime_limit=0, max_bandwidth=LIMIT)
    scene.a.capable(xbzrle=xbzrle)
    uri = uri or scene.b.listen()
    scene.a.migrate(scene.relay(uri, tap=tap).uri if tap else uri)
    return source, target


def settle(scene, source, target):
    """The guest comes to rest, and the migration to its end; the source's record."""
    source.do("dirty-stop")
    info = scene.a.complete()
    assert info["verified"] and scene.b.complete()["verified"]
    check_moved(source, target)
    return info


class Weigh:
    """A rule for a Tap: the sizes of the records that go by."""

    def __init__(self):
        self.sizes = []

    def __call__(self, raw):
        self.sizes.append(len(raw))
        return raw


@path("xbzrle/tcp/deltas-are-sent")
def test_deltas(scene):
    """What is counted is what is on the wire."""
    deltas, pages = Weigh(), Weigh()
    tap = Tap().on("out", RAM_DELTA, deltas, nth=0).on("out", RAM_PAGES, pages, nth=0)
    source, target = start(scene, tap=tap)
    eventually(lambda: cache(scene)["pages"] > 4 * HOT, what="deltas")
    during = scene.a.info()
    assert during["status"] == "active"
    assert 0 <= during["xbzrle-cache"]["cache-miss-rate"] <= 1
    info = settle(scene, source, target)
    stats = info["xbzrle-cache"]
    assert stats["pages"] == len(deltas.sizes)
    assert stats["bytes"] == sum(deltas.sizes)
    assert stats["cache-size"] == 64 * MIB
    assert stats["cache-miss"] == HOT
    assert stats["overflow"] == 0
    assert 1.9 < stats["encoding-rate"] < 2
    assert stats["cache-miss-rate"] == 0
    assert sum(size - HEAD_SIZE - 16 for size in pages.sizes) == info["ram"]["normal-bytes"]
    assert scene.b.info()["ram"]["normal"] == info["ram"]["normal"]
    assert "xbzrle-cache" not in scene.b.info()


@path("xbzrle/off/no-deltas")
def test_off(scene):
    tap = Tap()
    source, target = start(scene, tap=tap, xbzrle=False)
    scene.a.reach("active")
    eventually(lambda: scene.a.info()["ram"]["dirty-sync-count"] > 3, what="some rounds")
    info = settle(scene, source, target)
    assert tap.count("out", RAM_DELTA) == 0
    assert "xbzrle-cache" not in info


@path("xbzrle/exec/saved-and-restored")
def test_saved(scene):
    """The file says what a reader needs."""
    file = scene.lab.folder / "saved"
    source, target = start(scene, uri=f"exec:cat >{file}")
    eventually(lambda: cache(scene)["pages"] > HOT, what="deltas")
    source.do("dirty-stop")
    scene.a.set(max_bandwidth=0)
    info = scene.a.complete()
    _, records = split(file.read_bytes())
    kinds = [kind for kind, _ in records]
    assert (CAPABILITY, b"xbzrle") in records[:kinds.index(OPEN)]
    assert kinds.count(RAM_DELTA) == info["xbzrle-cache"]["pages"]
    scene.b.listen(uri=f"exec:cat {file}")
    assert scene.b.complete()["verified"]
    check_moved(source, target)


def hits(scene):
    """Pages that were found in the cache, whether their deltas were short enough or not."""
    return cache(scene)["pages"] + cache(scene)["overflow"]


@path("xbzrle/kvm/{guest}")
@pytest.mark.kvm
@pytest.mark.parametrize("guest,args", [("writer", "set=1 stride=16"),
                                        ("checker", "set=1 every=20")])
def test_kvm(scene, guest, args):
    """A real guest, held in rounds for a while; the checker finds its memory as it was."""
    source = scene.a.vmm(guest=guest, args=args, memory=32, cpus=2)
    source.await_line(f"{guest}: cpu 1")
    target = scene.b.vmm(incoming=True, memory=32, cpus=2)
    scene.a.set(downtime_limit=0, max_bandwidth=LIMIT)
    scene.a.capable(xbzrle=True)
    scene.a.migrate(scene.b.listen())
    # A guest that a busy machine leaves no time may be through before.
    eventually(lambda: hits(scene) > 500 or scene.a.status() == "completed", what="hits")
    with contextlib.suppress(CommandError):  # its VMM has ended, then
        scene.a.set(downtime_limit=2000, max_bandwidth=0)
    info = scene.a.complete()
    assert hits(scene) > 0
    assert info["verified"] and scene.b.complete()["verified"]
    at = target.await_line(f"{guest}: cpu 0")
    target.await_line(f"{guest}: cpu 0", after=at)
    assert "BAD" not in target.output()
    assert not re.search(r"bad [1-9]", target.output())
    assert source.wait() == 0


# ---- the cache ----

@path("xbzrle/cache/live-resize-keeps-what-fits")
def test_resize(scene):
    """Nothing that is in it misses when it grows; what no longer fits does when it shrinks."""
    source, target = start(scene)
    eventually(lambda: cache(scene)["cache-miss"] == HOT, what="all pages in the cache")
    for size in (MIB, 16 * MIB, 2 * MIB):
        before = cache(scene)["pages"]
        scene.a.qmp.cmd("migrate-set-cache-size", guest=GUEST, value=size)
        eventually(lambda: cache(scene)["cache-size"] == size, what="the new size")
        eventually(lambda: cache(scene)["pages"] > before + 2 * HOT, what="more deltas")
        assert cache(scene)["cache-miss"] == HOT
    scene.a.qmp.cmd("migrate-set-cache-size", guest=GUEST, value=MIB // 2)
    eventually(lambda: cache(scene)["cache-miss"] > 2 * HOT, what="misses of what does not fit")
    before = cache(scene)["pages"]
    eventually(lambda: cache(scene)["pages"] > before + HOT, what="hits of what does")
    assert scene.a.qmp.cmd("query-migrate-cache-size", guest=GUEST) == MIB // 2
    settle(scene, source, target)


@path("xbzrle/cache/too-large-for-the-machine")
def test_no_memory(scene):
    """The migration fails with what to change, and the guest runs on."""
    if pathlib.Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == "1":
        pytest.skip("this machine gives out memory that it does not have")
    memory = re.search(r"MemTotal: +(\d+) kB", pathlib.Path("/proc/meminfo").read_text("ascii"))
    size = 1 << (int(memory[1]) * 2048).bit_length()  # more than twice as much, and holes all of it
    source, target = scene.pair(blocks=(f"ram:{size // MIB}",))
    scene.a.qmp.cmd("migrate-set-cache-size", guest=GUEST, value=size)
    scene.a.capable(xbzrle=True)
    scene.a.migrate(scene.b.listen())
    scene.a.fail(GUEST, "xbzrle-cache-size", str(size))
    scene.a.qmp.cmd("migrate-set-cache-size", guest=GUEST, value=MIB)
    assert target.do("state") == "incoming"
    check_source_runs(scene.a, source)


@path("xbzrle/cache/overflow")
def test_overflow(scene):
    """Pages that become others go whole: nothing is ever sent that is larger than its page."""
    deltas, pages = Weigh(), Weigh()
    tap = Tap().on("out", RAM_DELTA, deltas, nth=0).on("out", RAM_PAGES, pages, nth=0)
    source, target = start(scene, tap=tap, changed=PAGE)
    eventually(lambda: cache(scene)["overflow"] > 2 * HOT, what="overflows")
    scene.a.set(max_bandwidth=0)
    info = settle(scene, source, target)
    heads = len(pages.sizes) * (HEAD_SIZE + 16)
    assert sum(pages.sizes) == info["ram"]["normal-bytes"] + heads
    assert all(size < PAGE for size in deltas.sizes)


# ---- what it is for ----

@path("xbzrle/convergence/writes-faster-than-the-link")
def test_converges(scene):
    """40 MiB/s of pages over a link of 10, within a downtime in which the pages do not fit."""
    source, target = scene.pair(fill=8 * MIB)
    source.do("dirty 0 2000 10000")
    scene.a.set(max_bandwidth=10 * MIB, downtime_limit=300)
    scene.a.capable(xbzrle=True)
    scene.a.migrate(scene.b.listen())
    info = scene.a.complete()
    assert scene.b.complete()["verified"]
    assert info["xbzrle-cache"]["pages"] > 0
    assert info["xbzrle-cache"]["encoding-rate"] > 50
    check_moved(source, target)


# ---- endings ----

@path("xbzrle/cancelled-and-again")
def test_cancelled(scene):
    source, target = start(scene)
    eventually(lambda: cache(scene)["pages"] > HOT, what="deltas")
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    assert scene.a.info()["xbzrle-cache"]["pages"] > HOT
    scene.b.end()
    check_source_runs(scene.a, source)
    info, _ = scene.move(source, target)
    assert info["xbzrle-cache"]["pages"] <= 1


class Peer:
    """A destination that has some capabilities, and refuses a source that uses another one."""

    def __init__(self, scene, known):
        self.known = known
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        scene.sockets.append(self.listener)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        sock, _ = self.listener.accept()
        cutter = Direction(lambda kind, raw: self.judge(sock, kind, raw), True)
        with sock:
            while data := sock.recv(65536):
                cutter.feed(data)

    def judge(self, sock, kind, raw):
        name = raw[HEAD_SIZE:].rstrip(b"\0")
        if kind == CAPABILITY and name not in self.known:
            sock.sendall(record(FAIL, b"no capability '" + name + b"' here"))
        return raw


@path("xbzrle/refused/by-a-destination-without-it")
def test_refused(scene):
    source = scene.a.scripted()
    scene.a.capable(xbzrle=True)
    scene.a.migrate(Peer(scene, [b"verify"]).uri)
    scene.a.fail(GUEST, "'xbzrle'")
    assert not source.events("stop")
    check_source_runs(scene.a, source)


@path("xbzrle/refused/a-source-with-another")
def test_other(scene):
    """The other way round: a source of a later version."""
    source, target = scene.pair()
    scene.a.capable(xbzrle=True)

    def later(raw):
        return record(CAPABILITY, b"xbzrl9") if b"xbzrle" in raw else raw

    tap = Tap().on("out", CAPABILITY, later, nth=0)
    scene.a.migrate(scene.relay(scene.b.listen(), tap=tap).uri)
    scene.b.fail(GUEST, "'xbzrl9'")
    scene.a.fail(GUEST, "'xbzrl9'")
    check_source_runs(scene.a, source)
    scene.move(source, target)


def unannounced(raw):
    return b"" if b"xbzrle" in raw else raw


def leave_page(body):
    return body[:16] + bytes([0xff, 0x1f, 2, 1, 2])


DAMAGE = {
    "not-announced": (CAPABILITY, unannounced, 0, "RAM_DELTA record out of place"),
    "check": (RAM_DELTA, flip(HEAD_SIZE + 17), 1, "checksum"),
    "too-long": (RAM_DELTA, rewrite(lambda body: body[:16] + bytes(PAGE)), 1, "RAM_DELTA record"),
    "behind-the-end": (RAM_DELTA, rewrite(put("<Q", 8, 16 * MIB)), 1, "RAM block 'ram'"),
    "leaves-the-page": (RAM_DELTA, rewrite(leave_page), 1, "leaves the page"),
    "lost": (RAM_DELTA, lambda raw: b"", 1, "arrived"),
    "twice": (RAM_DELTA, lambda raw: raw + raw, 1, "arrived"),
}


@path("xbzrle/damaged/{what}")
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged(scene, what):
    kind, rule, nth, words = DAMAGE[what]
    source, target = start(scene, tap=Tap().on("out", kind, rule, nth=nth))
    if what in ("lost", "twice"):
        eventually(lambda: cache(scene)["pages"] > HOT, what="deltas")
        source.do("dirty-stop")
    scene.b.fail(GUEST, words)
    scene.a.fail(GUEST, words)
    check_source_runs(scene.a, source)
    scene.move(source, target)
