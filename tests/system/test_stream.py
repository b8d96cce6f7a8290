# SPDX-License-Identifier: BSD-3-Clause
"""Streams that are damaged, foreign or hostile, both ways; and guests that do not fit."""

import os
import random
import socket
import struct
import threading

import pytest
from scenes import GUEST, MIB, PAGE, address_of, check_moved, check_source_runs, path
from stream import (ACCEPT, ALIVE, ANSWER, ASK, BLOCK, CAPABILITY, DONE, END, FAIL, GO, HEAD_SIZE,
                    HELLO, MACHINE, OPEN, RAM_PAGES, RAM_ZERO, READY, ROUND, RUNNING, SKIPPABLE, STATE,
                    STATE_END, STOPPED, VERIFY, Tap, flip, preamble, put, record, rewrite, split)

SIZE = 16 * MIB


def check_usable(scene, source, target):
    """Both daemons and both guests are as good as new."""
    check_source_runs(scene.a, source)
    assert target.do("state") == "incoming"
    scene.move(source, target)


def prepare(scene):
    """A guest with random pages, some that were zeroed, and many that were never touched."""
    source, target = scene.pair()
    source.do(f"fill ram {2 * MIB} 65536 zero")
    source.do("set-state-size 65536")
    return source, target


def before(kind_body):
    """A rule that puts a record in front of another."""
    return lambda raw: kind_body + raw


def behind(data):
    return lambda raw: raw + data


def instead(data):
    return lambda raw: data


def rename(name):
    """A BLOCK's name becomes another of the same length."""
    def change(body):
        body[24:24 + len(name)] = name
    return change


PAGES_FIELD = HEAD_SIZE + 16  # where a RAM_PAGES record's payload begins

DAMAGE = {
    "preamble/magic": (None, flip(0), "magic"),
    "preamble/version": (None, flip(8, 1), "version"),
    "hello/type": (HELLO, flip(0, 6), "type"),
    "hello/check": (HELLO, flip(5), "checksum"),
    "hello/body": (HELLO, flip(HEAD_SIZE + 3), "checksum"),
    "hello/huge": (HELLO, flip(14, 6), "HELLO record of"),
    "hello/feature": (HELLO, rewrite(put("<Q", 16, 1 << 40)), "features"),
    "hello/page-size": (HELLO, rewrite(put("<I", 32, 65536)), "page size"),
    "hello/block-count": (HELLO, rewrite(put("<I", 36, 2)), "number of RAM blocks"),
    "hello/no-blocks": (HELLO, rewrite(put("<I", 36, 0)), "number of RAM blocks"),
    "hello/ram-bytes": (HELLO, rewrite(put("<Q", 24, SIZE * 2)), "RAM"),
    "hello/name-length": (HELLO, rewrite(put("<I", 40, 65)), "guest"),
    "hello/name-unprintable": (HELLO, rewrite(put("<B", 48, 7)), "guest"),
    "hello/twice": (HELLO, lambda raw: raw + raw, "BLOCK was due"),
    "block/name": (BLOCK, rewrite(rename(b"rom")), "'rom' at the source is 'ram'"),
    "block/address": (BLOCK, rewrite(put("<Q", 0, PAGE)), "address of block 'ram'"),
    "block/length": (BLOCK, rewrite(put("<Q", 8, SIZE // 2)), "length of block 'ram'"),
    "block/missing": (BLOCK, instead(b""), "where BLOCK was due"),
    "block/twice": (BLOCK, lambda raw: raw + raw, "in the introduction"),
    "capability/unknown": (CAPABILITY, rewrite(lambda body: b"levitate"), "'levitate'"),
    "capability/unprintable": (CAPABILITY, rewrite(lambda body: b"a\nb"), "name"),
    "open/check": (OPEN, flip(7), "checksum"),
    "open/body": (OPEN, instead(record(OPEN, bytes(8))), "OPEN record of 8"),
    "round/head": (ROUND, flip(1), "type"),
    "round/body": (ROUND, flip(HEAD_SIZE), "checksum"),
    "pages/type": (RAM_PAGES, flip(0), "RAM_ZERO record of"),
    "pages/length": (RAM_PAGES, flip(9, 4), "RAM_PAGES record of"),
    "pages/block": (RAM_PAGES, rewrite(put("<I", 0, 1)), "RAM block 1 of 1"),
    "pages/behind-the-end": (RAM_PAGES, rewrite(put("<Q", 8, SIZE)), "RAM block 'ram'"),
    "pages/wrapping": (RAM_PAGES, rewrite(put("<Q", 8, 2**64 - PAGE)), "RAM block 'ram'"),
    "pages/unaligned": (RAM_PAGES, rewrite(put("<Q", 8, 512)), "RAM block 'ram'"),
    "pages/part-of-a-page": (RAM_PAGES, rewrite(lambda body: body[:16 + 100]), "RAM block 'ram'"),
    "pages/empty": (RAM_PAGES, rewrite(lambda body: body[:16]), "RAM block 'ram'"),
    "pages/payload": (RAM_PAGES, flip(PAGES_FIELD + 5 * PAGE + 77), "'ram' differs"),
    "pages/elsewhere": (RAM_PAGES, rewrite(put("<Q", 8, 8 * MIB)), "'ram' differs"),
    "pages/twice": (RAM_PAGES, lambda raw: raw + raw, "arrived"),
    "pages/lost": (RAM_PAGES, instead(b""), "'ram' differs"),
    "zero/behind-the-end": (RAM_ZERO, rewrite(put("<Q", 16, 2 * SIZE)), "RAM block 'ram'"),
    "zero/wrapping": (RAM_ZERO, rewrite(put("<Q", 16, 2**64 - 2 * MIB)), "RAM block 'ram'"),
    "zero/elsewhere": (RAM_ZERO, rewrite(put("<Q", 8, 0)), "'ram' differs"),
    "stopped/twice": (STOPPED, lambda raw: raw + raw, "STOPPED record out of place"),
    "stopped/missing": (STOPPED, instead(b""), "out of place"),
    "state/payload": (STATE, flip(HEAD_SIZE + 16 + 4000), "device state arrived damaged"),
    "state/offset": (STATE, rewrite(put("<Q", 0, 4096)), "STATE record out of place"),
    "state/lost": (STATE, instead(b""), "device state arrived damaged"),
    "state/before-the-stop": (ROUND, before(record(STATE, bytes(24))), "STATE record out of"),
    "state-end/size": (STATE_END, rewrite(put("<Q", 0, 1)), "device state arrived damaged"),
    "state-end/twice": (STATE_END, lambda raw: raw + raw, "STATE_END record out of place"),
    "verify/hash": (VERIFY, rewrite(put("<Q", 24, 1)), "'ram' differs"),
    "verify/count": (VERIFY, rewrite(put("<Q", 16, 2**61)), "VERIFY record outside"),
    "verify/block": (VERIFY, rewrite(put("<I", 0, 5)), "VERIFY record outside"),
    "verify/twice": (VERIFY, lambda raw: raw + raw, "VERIFY record outside"),
    "verify/lost": (VERIFY, instead(b""), "'ram' differs"),
    "end/normal": (END, rewrite(put("<Q", 0, 1)), "arrived"),
    "end/zero": (END, rewrite(put("<Q", 8, 2**64 - 1)), "arrived"),
    "end/missing": (END, instead(record(ALIVE) + record(GO)), "GO record out of place"),
    "order/go-early": (ROUND, before(record(GO)), "GO record out of place"),
    "order/hello-again": (ROUND, before(record(HELLO, bytes(64))), "HELLO record out of place"),
    "order/round-far-ahead": (ROUND, rewrite(put("<Q", 0, 4)), "ROUND record out of place"),
    "order/round-huge": (ROUND, rewrite(put("<Q", 0, 2**64 - 1)), "ROUND record out of place"),
    "order/answer": (ROUND, before(record(READY, bytes(8))), "READY record out of place"),
    "order/done": (ROUND, before(record(DONE)), "DONE record out of place"),
    "unknown/type": (ROUND, before(record(999)), "unknown type 999"),
    "unknown/type-0": (ROUND, before(record(0)), "unknown type 0"),
    "unknown/skippable-but-endless": (ROUND, before(record(SKIPPABLE | 7, length=2**60)),
                                      "unknown record"),
    "source-fails": (STOPPED, instead(record(FAIL, b"no \x1b[31mmore\n")),
                     "The peer gave up: no ?[31mmore?"),
}


@path("stream/damaged/{what}")
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged(scene, what):
    kind, rule, words = DAMAGE[what]
    source, target = prepare(scene)
    tap = Tap().on("out", kind, rule)
    scene.a.migrate(scene.relay(scene.b.listen(), tap=tap).uri)
    assert words in scene.b.fail()["error-desc"]
    reason = scene.a.fail()["error-desc"]
    assert words in reason or what == "source-fails"
    assert tap.count("out", kind) > 0
    check_usable(scene, source, target)


HAS_MACHINE = rewrite(put("<Q", 16, 2))  # HELLO's features
PC = record(MACHINE, b"qemu:pc-i440fx-7.2")

MACHINES = {
    "differs": (HAS_MACHINE, PC, "is qemu:pc-i440fx-7.2 at the source and a VMM that links libferry"),
    "not-announced": (None, PC, "MACHINE record in the introduction"),
    "missing": (HAS_MACHINE, b"", "where MACHINE was due"),
    "twice": (HAS_MACHINE, PC + PC, "MACHINE record in the introduction"),
    "unprintable": (HAS_MACHINE, record(MACHINE, b"qemu:\n"), "MACHINE record has no name"),
    "empty": (HAS_MACHINE, record(MACHINE), "MACHINE record of 0"),
    "long": (HAS_MACHINE, record(MACHINE, b"x" * 65), "MACHINE record of 65"),
    "check": (HAS_MACHINE, flip(HEAD_SIZE)(PC), "checksum"),
}


@path("stream/handshake/machine-{what}")
@pytest.mark.parametrize("what", MACHINES)
def test_machine(scene, what):
    """A guest of another kind of VMM, or none at all, is refused before anything is sent."""
    hello, machine, words = MACHINES[what]
    source, target = prepare(scene)
    tap = Tap().on("out", HELLO, hello or (lambda raw: raw)).on("out", BLOCK, behind(machine))
    scene.a.migrate(scene.relay(scene.b.listen(), tap=tap).uri)
    assert words in scene.b.fail()["error-desc"]
    assert words in scene.a.fail()["error-desc"]
    assert tap.count("out", ROUND) == 0
    check_usable(scene, source, target)


@path("stream/verify/names-block-and-page")
def test_verify_names_the_page(scene):
    source, target = scene.pair(blocks=("low:8", "high:8:0x100000000"), fill=MIB)
    source.do(f"fill high {3 * PAGE} {64 * PAGE} random 5")

    def second_block(raw):
        wrong = struct.unpack_from("<I", raw, HEAD_SIZE)[0] == 1
        return flip(PAGES_FIELD + 9 * PAGE + 1234)(raw) if wrong else raw

    tap = Tap().on("out", RAM_PAGES, second_block, nth=0)
    scene.a.migrate(scene.relay(scene.b.listen(), tap=tap).uri)
    words = ("'high'", "page 12 ", "0x10000c000")
    scene.b.fail(GUEST, *words)
    assert scene.a.fail(GUEST, *words)["verified"] is False
    check_usable(scene, source, target)


@path("stream/verify/off-lets-a-payload-pass")
def test_without_verify(scene):
    """What the capability is for: without it nobody looks at the pages."""
    source, target = scene.pair()
    tap = Tap().on("out", RAM_PAGES, flip(PAGES_FIELD + 5))
    uri = scene.relay(scene.b.listen(), tap=tap).uri
    scene.a.migrate(uri, verify=False)
    assert scene.a.complete().get("verified") is not True
    scene.b.complete()
    assert target.do("hash") != source.do("hash")


@path("stream/skippable/{where}")
@pytest.mark.parametrize("where,kind", [("introduction", OPEN), ("rounds", ROUND), ("end", END)])
def test_skippable(scene, where, kind):
    """Records of a later version that may be skipped are skipped, whatever is in them."""
    source, target = prepare(scene)
    extra = b"".join(record(SKIPPABLE | 77, os.urandom(size), check=1) for size in (0, 5, 100000))
    tap = Tap().on("out", kind, before(extra))
    scene.a.migrate(scene.relay(scene.b.listen(), tap=tap).uri)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


ANSWERS = {
    "accept/check": (ACCEPT, flip(4), "checksum"),
    "accept/is-ready": (ACCEPT, instead(record(READY, bytes(8))), "where ACCEPT was due"),
    "accept/is-running": (ACCEPT, instead(record(RUNNING, bytes(8))), "where ACCEPT was due"),
    "accept/fail": (ACCEPT, instead(record(FAIL, b"go \x07away")), "gave up: go ?away"),
    "accept/fail-empty": (ACCEPT, instead(record(FAIL)), "gave up"),
    "accept/fail-huge": (ACCEPT, instead(record(FAIL, b"x" * 5000)), "FAIL record of 5000"),
    "accept/html": (ACCEPT, instead(b"HTTP/1.1 400 Bad Request\r\n\r\n<html>no</html>"), ""),
    "accept/unknown": (ACCEPT, instead(record(1234)), "unknown type 1234"),
    "accept/none": (ACCEPT, lambda raw: None, ""),
    "accept/twice": (ACCEPT, lambda raw: raw + raw, ""),
    "ready/early": (ACCEPT, behind(record(READY, bytes(8))), ""),
    "ready/check": (READY, flip(HEAD_SIZE), "checksum"),
    "ready/is-running": (READY, instead(record(RUNNING, bytes(8))), "where READY was due"),
    "ready/is-fail": (READY, instead(record(FAIL, b"changed my mind")), "changed my mind"),
    "ready/none": (READY, lambda raw: None, ""),
}


@path("stream/answers/{what}")
@pytest.mark.parametrize("what", ANSWERS)
def test_damaged_answers(scene, what):
    """The source has not given the guest away: whatever it hears, the guest runs on."""
    kind, rule, words = ANSWERS[what]
    source, target = prepare(scene)
    scene.b.set(peer_timeout=300, guest_timeout=1000)
    tap = Tap().on("back", kind, rule)
    scene.a.migrate(scene.relay(scene.b.listen(), tap=tap).uri)
    assert words in scene.a.fail()["error-desc"]
    scene.b.fail()
    check_usable(scene, source, target)


class FakeDestination:
    """Takes one connection, says what it is told to, and reads on until the source is gone."""

    def __init__(self, scene, *words, close=False):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        self.words, self.close_it = words, close
        scene.sockets.append(self.listener)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        sock, _ = self.listener.accept()
        with sock:
            try:
                sock.recv(PAGE)
                for word in self.words:
                    sock.sendall(word)
                while not self.close_it and sock.recv(65536):
                    pass
            except OSError:
                pass


@path("stream/fake-destination/{what}/closes-{closes}")
@pytest.mark.parametrize("what,words", [
    ("random", [random.Random(1).randbytes(4096)]),
    ("zeroes", [bytes(65536)]),
    ("endless", [bytes(1 << 24)]),
    ("preamble", [preamble()]),
    ("accept-and-random", [record(ACCEPT, bytes(8)), random.Random(2).randbytes(512)]),
    ("accept-and-running", [record(ACCEPT, bytes(8)), record(RUNNING, bytes(8))]),
    ("half-a-record", [record(ACCEPT, bytes(8))[:10]]),
    ("nothing", []),
])
@pytest.mark.parametrize("closes", [True, False])
def test_fake_destination(scene, what, words, closes):
    source, target = scene.pair()
    scene.a.set(peer_timeout=200, guest_timeout=200)
    scene.a.migrate(FakeDestination(scene, *words, close=closes).uri)
    scene.a.fail()
    scene.a.set(peer_timeout=30000, guest_timeout=30000)
    check_usable(scene, source, target)


@path("stream/fake-destination/accepts-and-is-silent")
def test_silent_destination(scene):
    """It takes everything and never says READY: a deadline that names it."""
    source, target = scene.pair()
    scene.a.set(peer_timeout=200, guest_timeout=200)
    scene.a.migrate(FakeDestination(scene, record(ACCEPT, bytes(8))).uri)
    scene.a.fail(GUEST, "No answer from the destination")
    assert len(source.events("save")) == 1
    scene.a.set(peer_timeout=30000, guest_timeout=30000)
    check_usable(scene, source, target)


@path("stream/fake-destination/mute-in-setup")
def test_mute_destination(scene):
    source = scene.a.scripted()
    scene.a.set(peer_timeout=200, guest_timeout=200)
    scene.a.migrate(scene.mute())
    scene.a.fail(GUEST, "No answer from the destination")
    check_source_runs(scene.a, source)


@path("stream/fake-source/{what}")
@pytest.mark.parametrize("what,data", [
    ("nothing", b""),
    ("random", random.Random(3).randbytes(100000)),
    ("zeroes", bytes(100000)),
    ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("half-a-preamble", preamble()[:9]),
    ("preamble", preamble()),
    ("preamble-and-random", preamble() + random.Random(4).randbytes(100000)),
    ("all-ones", preamble() + b"\xff" * 4096),
    ("empty-hello", preamble() + record(HELLO)),
    ("zero-hello", preamble() + record(HELLO, bytes(64))),
    ("pages-first", preamble() + record(RAM_PAGES, bytes(16 + PAGE))),
    ("fail", preamble() + record(FAIL, b"no")),
    ("old-version", preamble(version=0) + record(HELLO, bytes(64))),
    ("new-version", preamble(version=2) + record(HELLO, bytes(64))),
    ("unknown-flags", preamble(flags=0xffffffff) + record(HELLO, bytes(64))),
])
def test_fake_source(scene, what, data):
    source, target = scene.pair()
    with socket.create_connection(address_of(scene.b.listen())) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        scene.b.fail()
    check_usable(scene, source, target)


@path("stream/fake-source/asks-about-another-job")
def test_question(scene):
    """It is told that nobody knows, and the guest still waits for its source."""
    source, target = scene.pair()
    uri = scene.b.listen()
    with socket.create_connection(address_of(uri)) as sock:
        sock.sendall(preamble() + record(ASK, bytes(16)))
        assert sock.recv(100) == record(ANSWER, b"\4" + bytes(7))
    assert scene.b.status() == "setup"
    scene.a.migrate(uri)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("stream/fake-source/stays-silent")
def test_silent_source(scene):
    source, target = scene.pair()
    scene.b.set(peer_timeout=200, guest_timeout=200)
    with socket.create_connection(address_of(scene.b.listen())) as sock:
        sock.sendall(preamble())
        scene.b.fail(GUEST, "No answer from the source")
    check_usable(scene, source, target)


def saved(scene, source):
    """The guest as a file; the source has given it away."""
    file = scene.lab.folder / "saved"
    scene.a.migrate(f"exec:cat >{file}")
    scene.a.complete()
    return file.read_bytes()


@path("stream/bit-flips/random")
def test_random_bit_flips(scene):
    """Anywhere at all: refused, or (in what nobody reads) without effect."""
    source, target = scene.pair(blocks=("ram:1",), fill=16 * PAGE)
    whole = saved(scene, source)
    changed = scene.lab.folder / "changed"
    dice = random.Random(20)
    for _ in range(120):
        place = dice.choice((dice.randrange(len(whole)), dice.randrange(300),
                             len(whole) - 1 - dice.randrange(6000)))
        data = bytearray(whole)
        data[place] ^= 1 << dice.randrange(8)
        changed.write_bytes(data)
        scene.b.qmp.cmd("migrate-incoming", guest=GUEST, uri=f"exec:cat {changed}")
        if scene.b.end()["status"] == "completed":
            assert target.do("hash") == source.do("hash"), f"byte {place}"
            target.do("quit")
            target.wait()
            target = scene.b.scripted(incoming=True, blocks=("ram:1",))
        assert target.do("state") == "incoming"
        assert int(target.do("allocated")) == 0


@path("stream/one-way/over-a-socket")
def test_one_way_over_tcp(scene):
    """A saved stream may come over a link that could answer; one that wants answers may not."""
    source, target = scene.pair()
    whole = saved(scene, source)
    with socket.create_connection(address_of(scene.b.listen())) as sock:
        sock.sendall(whole)
        sock.shutdown(socket.SHUT_WR)
        scene.b.complete()
    check_moved(source, target)


@path("stream/one-way/that-wants-answers")
def test_two_way_through_a_pipe(scene):
    source, target = scene.pair()
    whole = saved(scene, source)
    file = scene.lab.folder / "two-way"
    file.write_bytes(preamble() + whole[16:])
    scene.b.qmp.cmd("migrate-incoming", guest=GUEST, uri=f"exec:cat {file}")
    scene.b.fail(GUEST, "one way")
    assert target.do("state") == "incoming"


@path("stream/saved-guest-is-as-sent")
def test_records_in_order(scene):
    """What a stream is made of, in which order."""
    source, _ = prepare(scene)
    head, records = split(saved(scene, source))
    assert head == preamble(flags=0)
    kinds = [kind for kind, _ in records]
    assert kinds[:4] == [HELLO, BLOCK, CAPABILITY, OPEN]
    assert kinds.index(ROUND) < kinds.index(RAM_PAGES) < kinds.index(STOPPED)
    assert kinds.index(STOPPED) < kinds.index(STATE) < kinds.index(STATE_END)
    assert kinds.index(STATE_END) < kinds.index(VERIFY) < kinds.index(END)
    assert kinds[kinds.index(END):] in ([END], [END, GO])
    payload = sum(len(body) - 16 for kind, body in records if kind == RAM_PAGES)
    assert payload == MIB


LAYOUTS = {
    "name": (("ram:16",), ("mem:16",), "'ram' at the source is 'mem'"),
    "larger": (("ram:16",), ("ram:32",), "amount of RAM"),
    "smaller": (("ram:16",), ("ram:8",), "amount of RAM"),
    "one-more": (("ram:16",), ("ram:16", "more:1"), "number of RAM blocks"),
    "one-less": (("ram:16", "more:1"), ("ram:16",), "number of RAM blocks"),
    "address": (("ram:16",), ("ram:16:0x100000",), "address of block 'ram'"),
    "order": (("x:8:0", "y:8:0x800000"), ("y:8:0", "x:8:0x800000"), "'x' at the source is 'y'"),
    "shares": (("x:4:0", "y:12:0x1000000"), ("x:12:0", "y:4:0x1000000"), "length of block 'x'"),
}


@path("stream/layout/{what}")
@pytest.mark.parametrize("what", LAYOUTS)
def test_layout_differs(scene, what):
    """Refused before a page is sent, with what differs; the destination's RAM is not touched."""
    here, there, words = LAYOUTS[what]
    source = scene.a.scripted(blocks=here)
    target = scene.b.scripted(blocks=there, incoming=True)
    scene.a.migrate(scene.b.listen())
    scene.b.fail(GUEST, "RAM layout differs", words)
    info = scene.a.fail(GUEST, "RAM layout differs", words)
    assert "ram" not in info or info["ram"]["normal"] == 0
    scene.a.await_run_state("running")
    assert source.do("state") == "running" and not source.events("stop")
    assert target.do("state") == "incoming"
    fitting = scene.b.scripted("fitting", blocks=here, incoming=True)
    scene.a.migrate(scene.b.listen("fitting"))
    scene.a.complete()
    scene.b.complete("fitting")
    check_moved(source, fitting)
