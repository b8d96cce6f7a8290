# SPDX-License-Identifier: BSD-3-Clause
"""Other machines that Linux guests have, and other guests than Linux."""

import pytest
from scenes import path

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
    linux.reset()
    linux.do("nodes 2")
    linux.check_work()


@path("linux/network-cards/twelve")
def test_cards(linux):
    """More device state than a socket's buffer takes; a reset after each move."""
    linux.start(cards=12)
    for _ in range(2):
        linux.move()
        linux.check_work()
        linux.reset()
    linux.move(paused=True)
    linux.check_work()
