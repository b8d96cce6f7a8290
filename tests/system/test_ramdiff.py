# SPDX-License-Identifier: BSD-3-Clause
"""tests/linux/ramdiff says where RAM differs, and what is there."""

import pathlib
import subprocess

import pytest
from scenes import MIB, PAGE, path

RAMDIFF = pathlib.Path(__file__).resolve().parent.parent / "linux" / "ramdiff"


def ramdiff(*arguments):
    return subprocess.run([RAMDIFF, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(name="ends")
def fixture_ends(tmp_path):
    """Two files with the same page of data, and holes beside."""
    files = [tmp_path / "here", tmp_path / "there"]
    for file in files:
        with open(file, "wb") as out:
            out.truncate(4 * MIB)
            out.seek(2 * MIB)
            out.write(b"x" * PAGE)
    return files


def write(file, at, data):
    with open(file, "r+b") as out:
        out.seek(at)
        out.write(data)


@path("ramdiff/equal")
def test_equal(ends):
    """A hole is zeroes."""
    write(ends[0], 3 * MIB, bytes(PAGE))
    done = ramdiff(*ends)
    assert (done.returncode, done.stdout) == (0, "0 pages differ\n")


@path("ramdiff/differences")
def test_differences(ends, tmp_path):
    kinds = tmp_path / "kinds"
    kinds.write_text("0 200 400\n200 1 80\n201 1ff 400\n", encoding="ascii")
    write(ends[0], 0xF0000, b"r")
    write(ends[0], 2 * MIB + 5, b"yy")
    write(ends[1], 3 * MIB, b"z" * (2 * PAGE))
    done = ramdiff("--kinds", kinds, *ends)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "offset 0xf0000 address 0xf0000 pages 1 here data there hole bytes 1 "
        "kind shadow of the BIOS 0xf0000:72/00",
        "offset 0x200000 address 0x200000 pages 1 here data there data bytes 2 "
        "kind slab 0x200005:79/78 0x200006:79/78",
        "offset 0x300000 address 0x300000 pages 2 here hole there data bytes 8192 kind free"
        + "".join(f" {0x300000 + at:#x}:00/7a" for at in range(8)),
        "4 pages differ"]


@path("ramdiff/sizes-differ")
def test_sizes(ends):
    write(ends[1], 4 * MIB, b"m")
    done = ramdiff(*ends)
    assert done.returncode == 2 and "sizes differ" in done.stderr
