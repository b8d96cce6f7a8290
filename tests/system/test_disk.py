# SPDX-License-Identifier: BSD-3-Clause
"""Disks that move with their guest: blk, inc, zero-blocks, and what becomes of a bad one."""

import contextlib
import os
import random
import re
import struct
import subprocess
import time

import pytest
from lab import CommandError
from scenes import GUEST, MIB, SLOW, check_moved, check_source_runs, eventually, path
from stream import DISK_DATA, DISK_END, DISK_ZERO, HEAD_SIZE, ROUND, Tap, put, record, rewrite

KIB = 1 << 10
CHUNK = 64 * KIB


class DiskTap(Tap):
    """Notes the disk records of a migration: (round, kind, bytes on the wire, bytes of disk)."""

    def __init__(self):
        super().__init__()
        self.noted = []
        self.round = 0
        for kind in (ROUND, DISK_DATA, DISK_ZERO, DISK_END):
            self.on("out", kind, self._note, nth=0)

    def _note(self, raw):
        kind, _, length = struct.unpack_from("<IIQ", raw)
        if kind == ROUND:
            self.round, = struct.unpack_from("<Q", raw, HEAD_SIZE)
            return raw
        of_disk = length - 16 if kind == DISK_DATA else 0
        if kind == DISK_ZERO:
            of_disk, = struct.unpack_from("<Q", raw, HEAD_SIZE + 16)
        self.noted.append((self.round, kind, len(raw), of_disk))
        return raw

    def wire(self):
        return sum(length for _, _, length, _ in self.noted)

    def disk(self, *kinds):
        return sum(length for _, kind, _, length in self.noted if kind in kinds)

    def rounds(self):
        """The rounds that carried bytes of disks."""
        return {number for number, _, _, length in self.noted if length}


def migrate(scene, uri, **options):
    scene.a.capable(GUEST, verify=True)
    scene.a.qmp.cmd("migrate", guest=GUEST, uri=uri, **options)


def tapped(scene, tap=None):
    """A link that is looked into; where a migration over it goes to."""
    tap = tap or DiskTap()
    relay = scene.relay(scene.b.listen(), tap=tap)
    return tap, relay


def move(scene, source, target, **options):
    """A migration with disks that must succeed; what was seen on the link, and both records."""
    tap, relay = tapped(scene)
    migrate(scene, relay.uri, **options)
    sent, got = scene.a.complete(), scene.b.complete()
    check_moved(source, target)
    check_disks(source, target)
    return tap, sent, got


def check_disks(source, target):
    assert target.do("disk-hash") == source.do("disk-hash")


def pair(scene, disks=("d:8",), there=None, **options):
    """A scripted guest with disks, and a VMM that waits for it with disks of its own."""
    source = scene.a.scripted(disks=disks, **options)
    source.do(f"fill ram 0 {MIB} random 1")
    return source, scene.b.scripted(disks=there or disks, incoming=True, **options)


def file_with(scene, name, pieces, length=8 * MIB):
    """A file of that length, holes but for the pieces: (offset, length, seed)."""
    place = scene.lab.folder / name
    with open(place, "wb") as file:
        file.truncate(length)
        for offset, size, seed in pieces:
            file.seek(offset)
            file.write(random.Random(seed).randbytes(size))
    return place


def overlays(scene, here=None, there=None, name="d"):
    """The disks of both ends: overlays over bases, which are equal unless told otherwise."""
    pieces = [(0, MIB, 1), (5 * MIB, MIB, 2)]
    bases = file_with(scene, "base.a", here or pieces), file_with(scene, "base.b", there or pieces)
    return [(f"{name}:8:{scene.lab.folder}/overlay.{end}:{base}",)
            for end, base in zip("ab", bases)]


@contextlib.contextmanager
def small_place(scene, size):
    """A folder that takes no more than that many bytes."""
    place = scene.lab.folder / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place],
                          capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mount: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


# ---- blk ----

@path("disk/blk/moves-byte-for-byte-and-keeps-holes")
def test_whole(scene):
    disks = ("d:8", f"other:8:{scene.lab.folder}/other.a")
    source, target = pair(scene, disks, ("d:8", f"other:8:{scene.lab.folder}/other.b"))
    source.do(f"disk-fill d 0 {MIB} random 7")
    source.do(f"disk-fill d {5 * MIB} {MIB + 4096} random 8")
    source.do(f"disk-fill other {3 * MIB} {MIB} random 9")
    target.do(f"disk-fill d {2 * MIB} {MIB} random 10")
    target.do(f"disk-fill other 0 {8 * MIB} random 11")
    tap, sent, got = move(scene, source, target, blk=True)
    assert tap.disk(DISK_DATA) == 3 * MIB + 4096
    for name in ("d", "other"):
        assert target.do(f"disk-allocated {name}") == source.do(f"disk-allocated {name}")
    assert sent["disk"]["total"] == got["disk"]["total"] == 16 * MIB


@path("disk/blk/not-without-being-asked")
def test_not_asked(scene):
    source, target = pair(scene)
    source.do(f"disk-fill d 0 {MIB} random 7")
    target.do(f"disk-fill d 0 {MIB} random 8")
    before = target.do("disk-hash")
    tap, relay = tapped(scene)
    migrate(scene, relay.uri)
    sent, got = scene.a.complete(), scene.b.complete()
    check_moved(source, target)
    assert target.do("disk-hash") == before
    assert "disk" not in sent and "disk" not in got
    assert not tap.noted


@path("disk/blk/later-rounds-carry-what-was-written")
def test_rounds(scene):
    source, target = pair(scene)
    source.do(f"disk-fill d 0 {4 * MIB} random 7")
    tap, relay = tapped(scene)
    scene.a.set(max_bandwidth=4 * MIB, downtime_limit=5)
    source.do("disk-dirty 0 1024 2000")
    migrate(scene, relay.uri, blk=True)
    eventually(lambda: len(tap.rounds()) >= 3, what="a third round with disks in it")
    scene.a.set(max_bandwidth=0, downtime_limit=2000)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)
    check_disks(source, target)


@path("disk/blk/writes-while-it-moves")
def test_last_writes(scene):
    """A guest that writes its disk up to the stop, faster than the link takes it."""
    source, target = pair(scene)
    source.do(f"disk-fill d 0 {8 * MIB} random 7")
    source.do("disk-dirty 0 2048 0")
    move(scene, source, target, blk=True)


@path("disk/blk/goes-before-the-ram-of-its-round")
def test_order(scene):
    """While the first round is at the disks, no page has been sent; both share what is left."""
    source, target = pair(scene)
    source.do(f"disk-fill d 0 {8 * MIB} random 7")
    scene.a.set(max_bandwidth=SLOW)
    migrate(scene, scene.b.listen(), blk=True)
    info = eventually(lambda: moving(scene), what="bytes of the disk")
    assert 0 < info["disk"]["remaining"] < 8 * MIB
    assert info["ram"]["normal"] == 0
    assert info["expected-downtime"] >= 300
    scene.a.set(max_bandwidth=0)
    scene.a.complete()


def moving(scene):
    info = scene.a.info()
    return info if info.get("disk", {}).get("transferred", 0) >= MIB else None


@path("disk/blk/shares-the-rate-limit")
def test_rate(scene):
    source, _ = pair(scene)
    source.do(f"disk-fill d 0 {8 * MIB} random 7")
    _, relay = tapped(scene)
    scene.a.set(max_bandwidth=SLOW)
    start = time.monotonic()
    migrate(scene, relay.uri, blk=True)
    eventually(lambda: relay.passed["out"] > 2 * MIB, what="2 MiB on the link")
    # Each window may overdraw by one buffer, which the next ones pay back.
    assert relay.passed["out"] <= SLOW * (time.monotonic() - start + 0.2) + MIB
    scene.a.cancel()
    scene.a.end()


@path("disk/blk/saved-and-restored")
def test_exec(scene):
    source, target = pair(scene)
    source.do(f"disk-fill d {MIB} {MIB} random 7")
    file = scene.lab.folder / "saved"
    migrate(scene, f"exec:cat >{file}", blk=True)
    scene.a.complete()
    scene.b.listen(uri=f"exec:cat {file}")
    scene.b.complete()
    check_disks(source, target)


@path("disk/blk/statistics")
def test_statistics(scene):
    source, target = pair(scene)
    source.do(f"disk-fill d 0 {3 * MIB} random 7")
    tap, relay = tapped(scene)
    migrate(scene, relay.uri, blk=True)
    sent, got = scene.a.complete(), scene.b.complete()
    for info in (sent, got):
        assert info["disk"] == {"transferred": tap.wire(), "remaining": 0, "total": 8 * MIB}
    assert tap.disk(DISK_DATA) == 3 * MIB
    out = sent["disk"]["transferred"] + sent["ram"]["transferred"]
    eventually(lambda: relay.passed["out"] == out, what="as many bytes on the link as were told")
    assert sent["ram"]["precopy-bytes"] + sent["ram"]["downtime-bytes"] == \
        sent["ram"]["transferred"]


@path("disk/blk/discarded-meanwhile")
@pytest.mark.parametrize("zero_blocks", [False, True], ids=["as-data", "as-holes"])
def test_discard(scene, zero_blocks):
    """What the guest discards after it was sent is zeroes at the destination."""
    source, target = pair(scene, ("d:4", "rest:8"))
    source.do(f"disk-fill d 0 {4 * MIB} random 7")
    source.do(f"disk-fill rest 0 {8 * MIB} random 8")
    scene.a.capable(zero_blocks=zero_blocks)
    tap, relay = tapped(scene)
    scene.a.set(max_bandwidth=8 * MIB)
    migrate(scene, relay.uri, blk=True)
    eventually(lambda: tap.disk(DISK_DATA) > 4 * MIB, what="the first disk at the destination")
    source.do(f"disk-punch d {MIB} {2 * MIB}")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_disks(source, target)
    assert tap.disk(DISK_ZERO) == (2 * MIB if zero_blocks else 0)
    assert int(target.do("disk-allocated d")) == (2 if zero_blocks else 4) * MIB


@path("disk/blk/overlays-are-flattened")
def test_flatten(scene):
    here, _ = overlays(scene)
    source, target = pair(scene, here, ("d:8",))
    source.do(f"disk-fill d {MIB // 2} {MIB} random 7")
    tap, *_ = move(scene, source, target, blk=True)
    assert tap.disk(DISK_DATA) == MIB + MIB // 2 + MIB


@path("disk/blk/onto-an-overlay-of-another-base")
@pytest.mark.parametrize("zero_blocks", [False, True], ids=["plain", "zero-blocks"])
def test_other_base(scene, zero_blocks):
    """Where the source has zeroes, the destination's base must not show."""
    _, there = overlays(scene)
    source, target = pair(scene, ("d:8",), there)
    source.do(f"disk-fill d {MIB // 2} {MIB} random 7")
    source.do(f"disk-fill d {5 * MIB} {MIB // 2} zero")
    scene.a.capable(zero_blocks=zero_blocks)
    move(scene, source, target, blk=True)


# ---- inc ----

@path("disk/inc/sends-only-the-overlay")
def test_incremental(scene):
    source, target = pair(scene, *overlays(scene))
    source.do(f"disk-fill d {MIB} {4 * CHUNK} random 7")
    source.do(f"disk-fill d {5 * MIB} 4096 random 8")
    target.do(f"disk-fill d {2 * MIB} {MIB} random 9")
    tap, sent, _ = move(scene, source, target, inc=True)
    assert tap.disk(DISK_DATA) == 4 * CHUNK + 4096
    assert sent["disk"]["transferred"] < 5 * CHUNK
    assert target.do("disk-allocated") == source.do("disk-allocated")


@path("disk/inc/discarded-meanwhile")
def test_incremental_discard(scene):
    """What the guest discards of its overlay is the base's again."""
    source, target = pair(scene, *overlays(scene))
    source.do(f"disk-fill d 0 {8 * MIB} random 7")
    tap, relay = tapped(scene)
    scene.a.set(max_bandwidth=8 * MIB)
    migrate(scene, relay.uri, inc=True)
    eventually(lambda: tap.disk(DISK_DATA) > 4 * MIB, what="half of the disk at the destination")
    source.do(f"disk-punch d {MIB // 2} {MIB}")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_disks(source, target)
    assert tap.disk(DISK_ZERO) == MIB
    assert int(target.do("disk-allocated")) == 7 * MIB


def check_refused(scene, source, target, *words, **options):
    """The destination refuses before it has touched its disks; what it says comes back."""
    before = target.do("disk-hash")
    migrate(scene, scene.b.listen(), **options)
    scene.b.fail(GUEST, *words)
    scene.a.fail(GUEST, *words)
    assert target.do("disk-hash") == before
    check_source_runs(scene.a, source)


@path("disk/inc/refused/base-of-another-{what}")
@pytest.mark.parametrize("what", ["length", "content"])
def test_base_differs(scene, what):
    other = {"length": [(0, MIB, 1), (8 * MIB, 512, 2)], "content": [(0, MIB, 1), (MIB, 512, 3)]}
    source, target = pair(scene, *overlays(scene, here=[(0, MIB, 1)], there=other[what]))
    target.do("disk-fill d 0 4096 random 4")
    check_refused(scene, source, target, "base of disk 'd'", f"{what}" if what == "content"
                  else f"{8 * MIB} bytes at the source and {8 * MIB + 512}", inc=True)


@path("disk/inc/refused/no-base-at-the-source")
def test_no_base(scene):
    pair(scene)
    with pytest.raises(CommandError) as refused:
        migrate(scene, "tcp:127.0.0.1:1", inc=True)
    assert refused.value.code == "disk-no-base" and "'d'" in refused.value.desc
    assert scene.a.info() == {}


@path("disk/inc/refused/no-base-at-the-destination")
def test_no_base_there(scene):
    here, _ = overlays(scene)
    source, target = pair(scene, here, ("d:8",))
    check_refused(scene, source, target, "'d' has a base at the source and none", inc=True)


# ---- zero-blocks ----

@path("disk/zero-blocks/{state}")
@pytest.mark.parametrize("state", ["on", "off"])
def test_zero_blocks(scene, state):
    source, target = pair(scene)
    source.do(f"disk-fill d 0 {4 * MIB} zero")
    source.do(f"disk-fill d {MIB} 4096 random 7")
    target.do(f"disk-fill d 0 {8 * MIB} random 8")
    scene.a.capable(zero_blocks=state == "on")
    tap, *_ = move(scene, source, target, blk=True)
    assert tap.disk(DISK_DATA) == (4096 if state == "on" else 4 * MIB)
    assert tap.disk(DISK_ZERO) == (4 * MIB - 4096 if state == "on" else 0)
    assert int(target.do("disk-allocated")) == (4096 if state == "on" else 4 * MIB)


# ---- what is refused, and what fails ----

LAYOUTS = {
    "another-name": (("e:8",), "'d' at the source is 'e'"),
    "another-length": (("d:7",), f"{8 * MIB} bytes at the source and {7 * MIB}"),
    "none": ((), "1 at the source and 0"),
    "one-more": (("d:8", "e:8"), "1 at the source and 2"),
}


@path("disk/layout/{name}")
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(scene, name):
    disks, words = LAYOUTS[name]
    source = scene.a.scripted(disks=("d:8",))
    target = scene.b.scripted(disks=disks, incoming=True)
    migrate(scene, scene.b.listen(), blk=True)
    scene.b.fail(GUEST, "disks differ", words)
    scene.a.fail(GUEST, "disks differ", words)
    check_source_runs(scene.a, source)
    assert target.do("state") == "incoming"


@path("disk/layout/the-source's-own-file")
def test_same_file(scene):
    """Emptying it would take it away from the guest."""
    disks = (f"d:8:{scene.lab.folder}/shared",)
    source, target = pair(scene, disks)
    source.do(f"disk-fill d 0 {MIB} random 7")
    check_refused(scene, source, target, "Disk 'd' is in use", blk=True)


@path("disk/blk/back-to-the-file-that-it-left")
def test_back(scene):
    here, there = ((f"d:8:{scene.lab.folder}/{end}",) for end in "ab")
    source, target = pair(scene, here, there)
    source.do(f"disk-fill d 0 {MIB} random 7")
    move(scene, source, target, blk=True)
    target.do(f"disk-fill d {2 * MIB} {MIB} random 8")
    again = scene.a.scripted("back", disks=here, incoming=True)
    uri = scene.a.listen("back")
    scene.b.qmp.cmd("migrate", guest=GUEST, uri=uri, blk=True)
    scene.b.complete()
    check_disks(target, again)


@path("disk/destination/full")
def test_full(scene):
    with small_place(scene, MIB) as place:
        source, target = pair(scene, ("d:8",), (f"d:8:{place}/disk",))
        source.do(f"disk-fill d 0 {8 * MIB} random 7")
        migrate(scene, scene.b.listen(), blk=True)
        words = ("Disk 'd' can't be written at byte", "No space left")
        scene.b.fail(GUEST, *words)
        scene.a.fail(GUEST, *words)
        check_source_runs(scene.a, source)
        source.do(f"disk-punch d 0 {8 * MIB}")
        source.do(f"disk-fill d {MIB} {MIB // 2} random 8")
        move(scene, source, target, blk=True)


@path("disk/source/cut-short")
def test_unreadable(scene):
    source, _ = pair(scene)
    source.do(f"disk-fill d 0 {8 * MIB} random 7")
    scene.a.set(max_bandwidth=SLOW)
    migrate(scene, scene.b.listen(), blk=True)
    eventually(lambda: moving(scene), what="bytes of the disk")
    source.do(f"disk-shrink d {7 * MIB}")
    source.do(f"disk-fill d {6 * MIB} 4096 random 7")
    scene.a.set(max_bandwidth=0)
    scene.a.fail(GUEST, "Disk 'd' can't be read at byte", "became shorter")
    scene.b.fail(GUEST, "became shorter")
    check_source_runs(scene.a, source)


@path("disk/cancel/and-again")
def test_cancel(scene):
    source, target = pair(scene)
    source.do(f"disk-fill d 0 {8 * MIB} random 7")
    scene.a.set(max_bandwidth=SLOW)
    migrate(scene, scene.b.listen(), blk=True)
    eventually(lambda: moving(scene), what="bytes of the disk")
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    assert scene.b.end()["status"] == "failed"
    check_source_runs(scene.a, source)
    source.do(f"disk-punch d 0 {2 * MIB}")
    scene.a.set(max_bandwidth=0)
    move(scene, source, target, blk=True)
    assert target.do("disk-allocated") == source.do("disk-allocated")


def swallow(raw):
    return b""


HOSTILE = {
    "data-for-no-disk": (DISK_DATA, rewrite(put("<I", 0, 1)), "disk 1 of 1"),
    "data-behind-the-end": (DISK_DATA, rewrite(put("<Q", 8, 8 * MIB)), "of disk 'd'"),
    "data-that-wraps": (DISK_DATA, rewrite(put("<Q", 8, 2**64 - 4096)), "of disk 'd'"),
    "data-unaligned": (DISK_DATA, rewrite(put("<Q", 8, 512)), "of disk 'd'"),
    "zeroes-behind-the-end": (DISK_ZERO, rewrite(put("<Q", 16, 9 * MIB)), "of disk 'd'"),
    "zeroes-of-no-length": (DISK_ZERO, rewrite(put("<Q", 16, 0)), "of disk 'd'"),
    "base-where-none-was-agreed": (DISK_ZERO, rewrite(put("<I", 4, 1)), "not agreed"),
    "zeroes-of-no-kind": (DISK_ZERO, rewrite(put("<I", 4, 2)), "not agreed"),
    "end-with-other-counts": (DISK_END, rewrite(put("<Q", 0, 1)), "1 bytes of disks"),
    "end-missing": (DISK_END, swallow, "END record out of place"),
    "end-too-early": (ROUND, lambda raw: raw + record(DISK_END, bytes(16)),
                      "DISK_END record out of place"),
    "data-behind-the-end-of-disks": (DISK_END, lambda raw: raw + record(
        DISK_DATA, bytes(16 + 4096)), "DISK_DATA record out of place"),
}


@path("disk/hostile/{name}")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(scene, name):
    kind, rule, words = HOSTILE[name]
    source, target = pair(scene)
    source.do(f"disk-fill d 0 {MIB} zero")
    source.do(f"disk-fill d {MIB} {MIB} random 7")
    scene.a.capable(zero_blocks=True)
    relay = scene.relay(scene.b.listen(), tap=Tap().on("out", kind, rule))
    migrate(scene, relay.uri, blk=True)
    scene.b.fail(GUEST, words)
    scene.a.fail(GUEST)
    check_source_runs(scene.a, source)
    move(scene, source, target, blk=True)


@path("disk/hostile/data-without-disks")
def test_hostile_without(scene):
    source, target = pair(scene)
    data = record(DISK_DATA, bytes(16 + 4096))
    before = target.do("disk-hash")
    relay = scene.relay(scene.b.listen(), tap=Tap().on("out", ROUND, lambda raw: raw + data))
    migrate(scene, relay.uri)
    scene.b.fail(GUEST, "DISK_DATA record out of place")
    scene.a.fail(GUEST)
    assert target.do("disk-hash") == before
    check_source_runs(scene.a, source)


# ---- real guests ----

SECTORS = "blocks=64 every=20"
SKEW = 3  # sectors, of a guest that writes parts of pieces
LINE = re.compile(r"sectors: pass (\d+) blocks (\d+) bad (\d+)\n")


def lines(vmm):
    """What the guest has printed in whole lines: (pass, blocks, bad)."""
    return [tuple(map(int, found)) for found in LINE.findall(vmm.output())]


def check_sectors(vmm):
    """The guest checks on, for more than a pass, and finds nothing bad."""
    start = len(lines(vmm))
    eventually(lambda: len(lines(vmm)) > start and lines(vmm)[-1][0] > lines(vmm)[start][0] + 1,
               what="a whole pass over the disk")
    assert "BAD" not in vmm.output()
    assert all(bad == 0 for *_, bad in lines(vmm))


def check_neighbours(disk, base):
    """The sectors before the guest's first, in the same piece, are still the base's."""
    with open(disk, "rb") as mine, open(base, "rb") as theirs:
        assert mine.read(SKEW * 512) == theirs.read(SKEW * 512)


def move_sectors(scene, hosts, vmm, disk, base, **options):
    """Moves the guest to the other host, where a disk full of something else waits."""
    size = os.stat(disk).st_size
    there = file_with(scene, scene.lab.unique("disk"), [(0, size // 2, 5)], size)
    target = hosts[1].vmm(incoming=True, memory=32, disk=there, disk_base=base)
    hosts[0].capable(GUEST, verify=True)
    hosts[0].qmp.cmd("migrate", guest=GUEST, uri=hosts[1].listen(), **options)
    sent = hosts[0].complete()
    hosts[1].complete()
    assert sent["verified"] and sent["disk"]["transferred"] >= MIB // 4
    assert vmm.wait() == 0
    check_sectors(target)
    assert lines(target)[0][1] >= lines(vmm)[-1][1]
    return target, there


@pytest.mark.kvm
@path("disk/kvm/{kind}/there-and-back")
@pytest.mark.parametrize("kind", ["blk", "inc"])
def test_sectors(scene, kind):
    """With inc the guest writes across the pieces that an overlay is made of."""
    hosts = [scene.a, scene.b]
    base = file_with(scene, "base", [(0, MIB, 1)]) if kind == "inc" else None
    disk = file_with(scene, "disk.0", [])
    args = SECTORS + (f" skew={SKEW}" if base else "")
    vmm = scene.a.vmm(guest="sectors", args=args, memory=32, disk=disk, disk_base=base)
    check_sectors(vmm)
    for _ in range(4):
        vmm, disk = move_sectors(scene, hosts, vmm, disk, base, **{kind: True})
        hosts.reverse()
    if base:
        check_neighbours(disk, base)


@pytest.mark.kvm
@path("disk/kvm/written-in-each-round")
def test_sectors_in_rounds(scene):
    disk = file_with(scene, "disk.a", [(0, 6 * MIB, 5)])
    vmm = scene.a.vmm(guest="sectors", args=SECTORS, memory=32, disk=disk)
    check_sectors(vmm)
    target = scene.b.vmm(incoming=True, memory=32, disk=file_with(scene, "disk.b", []))
    tap, relay = tapped(scene)
    scene.a.set(max_bandwidth=4 * MIB, downtime_limit=10)
    migrate(scene, relay.uri, blk=True)
    eventually(lambda: len(tap.rounds()) >= 3, what="a third round with disks in it")
    scene.a.set(max_bandwidth=0, downtime_limit=1000)
    assert scene.a.complete()["verified"]
    assert vmm.wait() == 0
    check_sectors(target)
