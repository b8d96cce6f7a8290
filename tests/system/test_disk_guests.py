# SPDX-License-Identifier: BSD-3-Clause
"""How a VMM introduces disks: what a daemon takes, and what it refuses."""

import os
import socket

import pytest
from scenes import MIB, PAGE, path
from wire import WELCOME, RawVmm, block, disk, hello, memfd, ready


def file_of(scene, name, size=MIB, flags=os.O_RDWR):
    place = scene.lab.folder / name
    with open(place, "wb") as file:
        file.truncate(size)
    return os.open(place, flags)


def introduce(scene, vmm, *disks, count=None):
    """Up to the disks, each a message and a descriptor (None: none)."""
    vmm.send(hello(disks=sum(1 for data, _ in disks) if count is None else count))
    vmm.send(block(), memfd())
    for data, fd in disks:
        vmm.send(data, *([] if fd is None else [fd]))


@path("disk/guest/attached")
def test_attached(scene):
    with RawVmm(scene.a.daemon.guests) as vmm:
        introduce(scene, vmm,
                  (disk(b"one"), file_of(scene, "one")),
                  (disk(b"two", length=512, has_base=1), file_of(scene, "two")),
                  (disk(b"two", length=512, part=1), file_of(scene, "base", flags=os.O_RDONLY)),
                  count=2)
        vmm.send(ready())
        assert vmm.receive()[0] == WELCOME
        assert scene.a.qmp.cmd("query-guests")[0]["disks"] == [
            {"name": "one", "length": MIB, "base": False},
            {"name": "two", "length": 512, "base": True}]


NUMBERS = {
    "empty": (disk(length=0), "disk 'disk' has 0 bytes"),
    "half-a-sector": (disk(length=700), "multiples of 512"),
    "longer-than-any": (disk(length=(1 << 46) + 512), "multiples of 512"),
    "longer-than-its-file": (disk(length=MIB + 512), f"its file only {MIB}"),
    "without-a-name": (disk(b""), "without a printable name"),
    "with-a-wild-name": (disk(b"a\nb"), "without a printable name"),
    "with-an-endless-name": (disk(b"x" * 65), "without a printable name"),
    "base-first": (disk(part=1), "part 1 of a disk where part 0"),
    "another-part": (disk(part=2), "part 2 of a disk where part 0"),
}


@path("disk/guest/refused/{what}")
@pytest.mark.parametrize("what", NUMBERS)
def test_numbers(scene, what):
    data, words = NUMBERS[what]
    with RawVmm(scene.a.daemon.guests) as vmm:
        introduce(scene, vmm, (data, file_of(scene, "disk")))
        assert words in vmm.refusal()


@path("disk/guest/refused/too-many")
def test_too_many(scene):
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.send(hello(disks=17))
        assert "17 disks" in vmm.refusal()


@path("disk/guest/refused/a-name-twice")
def test_twice(scene):
    with RawVmm(scene.a.daemon.guests) as vmm:
        introduce(scene, vmm, *[(disk(), file_of(scene, "disk")) for _ in range(2)])
        assert "two disks named 'disk'" in vmm.refusal()


@path("disk/guest/refused/fewer-than-promised")
def test_fewer(scene):
    with RawVmm(scene.a.daemon.guests) as vmm:
        introduce(scene, vmm, (disk(), file_of(scene, "disk")), count=2)
        vmm.send(ready())
        assert "where 7 was due" in vmm.refusal()


@path("disk/guest/refused/more-than-promised")
def test_more(scene):
    with RawVmm(scene.a.daemon.guests) as vmm:
        introduce(scene, vmm, *[(disk(name), file_of(scene, "disk")) for name in (b"a", b"b")],
                  count=1)
        assert "where 3 was due" in vmm.refusal()


def descriptors(scene):
    """What is no disk, by name; all stay open as long as the test."""
    return {
        "none": None,
        "pipe": os.pipe()[0],
        "socket": socket.socket().detach(),
        "folder": os.open(scene.lab.folder, os.O_RDONLY),
        "device": os.open("/dev/zero", os.O_RDWR),
        "event": os.eventfd(0),
        "read-only": file_of(scene, "read-only", flags=os.O_RDONLY),
        "write-only": file_of(scene, "write-only", flags=os.O_WRONLY),
        "path": file_of(scene, "path", flags=os.O_PATH),
    }


@path("disk/guest/refused/descriptors")
def test_descriptors(scene):
    for what, fd in descriptors(scene).items():
        with RawVmm(scene.a.daemon.guests) as vmm:
            introduce(scene, vmm, (disk(), fd))
            assert "needs the descriptor of a file or block device" in vmm.refusal(), what


@path("disk/guest/refused/descriptors-of-a-base")
def test_base_descriptors(scene):
    image = file_of(scene, "image")
    kinds = descriptors(scene)
    del kinds["read-only"]
    for what, fd in kinds.items():
        with RawVmm(scene.a.daemon.guests) as vmm:
            introduce(scene, vmm, (disk(has_base=1), image), (disk(part=1), fd), count=1)
            assert "base of disk 'disk' needs the descriptor" in vmm.refusal(), what


BASES = {
    "none": (ready(), "where 7 was due"),
    "another-disk": (disk(b"other"), "part 0 of a disk where part 1"),
    "of-another-name": (disk(b"other", part=1), "another disk's name"),
    "of-another-length": (disk(length=PAGE, part=1), "another disk's name"),
}


@path("disk/guest/refused/base-{what}")
@pytest.mark.parametrize("what", BASES)
def test_bases(scene, what):
    data, words = BASES[what]
    with RawVmm(scene.a.daemon.guests) as vmm:
        introduce(scene, vmm, (disk(has_base=1), file_of(scene, "image")),
                  (data, file_of(scene, "base")), count=1)
        assert words in vmm.refusal()
