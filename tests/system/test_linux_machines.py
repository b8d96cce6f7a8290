# SPDX-License-Identifier: BSD-3-Clause
"""Other machines that Linux guests have, and other guests than Linux."""

import re

import pytest
from lab import has_kvm
from linux_scenes import MEMORY, ram_differences
from qemu import attach
from scenes import eventually, path

pytestmark = pytest.mark.linux

VGA = "0000:00:01.0"


@path("linux/vga-std")
def test_vga(linux):
    """A display's memory, which goes with the device state, is checked by the guest as well."""
    linux.start(vga="std", cmdline=f"display={VGA}")
    linux.await_lines("ok video")
    for paused in (True, False):
        linux.move(paused)
        linux.await_lines("ok video")
        linux.check_work()


@path("linux/numa/two-files")
def test_numa(linux):
    linux.start(numa=True)
    linux.do("nodes 2")
    linux.do("kinds")
    for paused in (True, False):
        linux.move(paused)
        assert all(path.stat().st_blocks for path in linux.qemu.ram_paths)
        linux.check_work()


@path("linux/network-cards/twelve")
def test_cards(linux):
    """More device state than a socket's buffer takes, and a reset after it has moved."""
    linux.start(cards=12)
    linux.move(paused=True)
    linux.reset()
    linux.move()
    linux.check_work()


# ---- other guests ----

@path("linux/kvm/first-boot-phase")
@pytest.mark.skipif(has_kvm() is not None, reason=str(has_kvm()))
def test_kvm(linux):
    """The kernel's start, as far as this machine's KVM takes it: it goes on where it arrives."""
    linux.power_on(accel="kvm", initrd=False,
                   cmdline="earlyprintk=serial,ttyS0,115200 console=ttyS0")
    linux.qemu.await_line("Linux version")
    attach(linux.here.qmp, linux.qemu)
    for _ in range(2):
        source = linux.qemu
        linux.move(paused=True, quits=False)
        eventually(lambda: ram_differences(source, linux.qemu), what="a write of the guest")
        source.quit()


def screen(qemu):
    """What stands on a text screen."""
    file = qemu.out_path.with_suffix(".screen")
    qemu.qmp.cmd("pmemsave", val=0xB8000, size=80 * 25 * 2, filename=str(file))
    text = file.read_bytes()[::2].decode("cp437")
    return "\n".join(text[at:at + 80] for at in range(0, len(text), 80))


def seconds_of(qemu):
    """For how long memtest86+ has been at work."""
    found = re.search(r"Time:\s*(\d+):(\d+):(\d+)", screen(qemu))
    return found and sum(int(part) * 60 ** i for i, part in enumerate(reversed(found.groups())))


@path("linux/memtest86+")
def test_memtest(linux):
    """It tests memory that moves under it, and finds no error."""
    linux.power_on(kernel="memtest.bin", initrd=False, vga="std", memory=MEMORY // 4)
    eventually(lambda: seconds_of(linux.qemu), what="the start of the test")
    attach(linux.here.qmp, linux.qemu)
    for paused in (True, False, False, False):
        linux.move(paused)
        before = seconds_of(linux.qemu)
        eventually(lambda: seconds_of(linux.qemu) > before + 1, what="a test that goes on")
        assert re.search(r"Errors:\s+0\s", screen(linux.qemu)), screen(linux.qemu)
