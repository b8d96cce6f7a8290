# SPDX-License-Identifier: BSD-3-Clause
"""A slow disk that is read past the page cache, for the guest contrib/guests/direct.c.

A loop device over a file of numbered sectors, and a cgroup in which reads of it are throttled: the
kernel pins the pages that a direct read goes to, and writes them when the throttle lets it.
"""

import array
import contextlib
import itertools
import os
import pathlib
import shutil
import subprocess
import time

SECTOR = 512
WORDS = SECTOR // 4
SEAL = 0x9e3779b1  # contrib/guests/direct.c
BLKIO = pathlib.Path("/sys/fs/cgroup/blkio")
DEADLINE = 10.0  # seconds for a cgroup to become empty

_numbers = itertools.count()


def has_slow_disks():
    """None, or why there can be none here."""
    if not (BLKIO / "cgroup.procs").exists():
        return f"there is no {BLKIO} to throttle reads with"
    if shutil.which("losetup") is None or not pathlib.Path("/dev/loop-control").exists():
        return "there are no loop devices"
    if os.geteuid() != 0:
        return "a loop device and a cgroup need root"
    return None


def write_pattern(path, mib):
    """Each sector begins with its number and ends with that number times SEAL."""
    with open(path, "wb") as out:
        for start in range(0, (mib << 20) // SECTOR, 2048):
            words = array.array("I", bytes(2048 * SECTOR))
            words[0::WORDS] = array.array("I", range(start, start + 2048))
            words[WORDS - 1::WORDS] = array.array("I", ((start + i) * SEAL & 0xffffffff
                                                        for i in range(2048)))
            out.write(words.tobytes())


class SlowDisk:
    """`device` is its path; reads by the processes added are throttled."""

    def __init__(self, device, group):
        self.device = device
        self.group = group
        status = os.stat(device)
        self.number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"

    def limit(self, bytes_per_second):
        """From now on; 0: none."""
        (self.group / "blkio.throttle.read_bps_device").write_text(
            f"{self.number} {bytes_per_second}", encoding="ascii")

    def add(self, process):
        """A Process of the lab, with all its threads."""
        (self.group / "cgroup.procs").write_text(str(process.pid), encoding="ascii")

    def qemu_options(self, aio="native"):
        """A virtio-blk device over it that our guest can drive; aio None: through the page cache."""
        cache = f"cache=none,aio={aio}" if aio else "cache=writeback"
        return ("-drive", f"if=none,id=slow,format=raw,readonly=on,file={self.device},{cache}",
                "-device", "virtio-blk-pci,id=slowdisk,disable-modern=on,drive=slow")


@contextlib.contextmanager
def loop_device(path):
    device = subprocess.run(["losetup", "--find", "--show", "--read-only", path], check=True,
                            capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def throttling_group():
    group = BLKIO / f"ferry-{os.getpid()}-{next(_numbers)}"
    group.mkdir()
    try:
        yield group
    finally:
        remove_group(group)


def remove_group(group):
    """A process that has just ended may still be in it; what runs goes back to the root."""
    end = time.monotonic() + DEADLINE
    while True:
        for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                (BLKIO / "cgroup.procs").write_text(pid, encoding="ascii")
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)  # how often is tried


@contextlib.contextmanager
def slow_disk(folder, mib=64, bytes_per_second=4 << 20):
    """A SlowDisk over a file in `folder`; what it needs is gone behind it."""
    path = pathlib.Path(folder) / f"slow-{next(_numbers)}.disk"
    write_pattern(path, mib)
    with loop_device(path) as device, throttling_group() as group:
        disk = SlowDisk(device, group)
        disk.limit(bytes_per_second)
        yield disk
