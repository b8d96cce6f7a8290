#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Makes a disk image that boots a test guest: bootimage.py BOOT GUEST IMAGE [ARGS].

BOOT is the boot sector (contrib/guests/boot.S), GUEST a flat image (contrib/guests), ARGS what
its parameter page says ("key=value key=value").  The boot sector itself fills in what only the
machine knows.  contrib/vmm/guest_abi.h has the page's layout.

What the BIOS boots from must be a device that is cheap to emulate: SeaBIOS needs far longer for a
floppy disk where KVM is an emulator itself.
"""

import pathlib
import struct
import sys

SECTOR = 512
DISK = 1 << 20  # so large that every BIOS makes a geometry of it
PARAMS = struct.Struct("<IIQQQ3072s")  # magic, vCPUs, RAM low and high, TSC kHz, args
PARAMS_BYTES = 4096
MAGIC = 0x65727246
SECTORS_AT = 508  # in the boot sector: how many sectors the guest has
GUEST_MAX = 512 << 10
ROM_GUEST_MAX = 14 * PARAMS_BYTES  # of 16 pages, the parameters and the code have one each


def parameter_page(args, ram_low=0):
    text = args.encode("ascii")
    if len(text) >= 3072:
        raise ValueError(f"arguments of {len(text)} bytes are too long; at most 3071")
    return PARAMS.pack(MAGIC, 1, ram_low, 0, 0, text).ljust(PARAMS_BYTES, b"\0")


def make(boot, guest, image, args=""):
    """Writes the image; paths of the boot sector, the guest and the image."""
    sector = bytearray(pathlib.Path(boot).read_bytes())
    code = pathlib.Path(guest).read_bytes()
    if len(sector) != SECTOR or len(code) > GUEST_MAX:
        raise ValueError(f"{boot} is no boot sector, or {guest} is longer than {GUEST_MAX} bytes")
    struct.pack_into("<H", sector, SECTORS_AT, -(-len(code) // SECTOR))
    with open(image, "wb") as out:
        out.write(sector + parameter_page(args) + code)
        out.truncate(DISK)


def make_rom(rom, guest, image, args="", memory=64):
    """Writes firmware that starts the guest (contrib/guests/rom.S), which has `memory` MiB, less
    than 3072."""
    code = pathlib.Path(guest).read_bytes()
    if len(code) > ROM_GUEST_MAX:
        raise ValueError(f"{guest} is longer than {ROM_GUEST_MAX} bytes")
    pathlib.Path(image).write_bytes(parameter_page(args, memory << 20)
                                    + code.ljust(ROM_GUEST_MAX, b"\0")
                                    + pathlib.Path(rom).read_bytes())


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    make(*sys.argv[1:])
