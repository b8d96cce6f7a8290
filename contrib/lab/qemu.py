# SPDX-License-Identifier: BSD-3-Clause
"""A stock QEMU in the lab, with one of our test guests: what the `qemu` driver attaches to.

Its RAM is a file of its own in /dev/shm, its console is its output, as with the other VMMs.  There
are two QMP sockets: one for ferryd, and one on which a test can see and say what it likes.
FERRY_QEMU names another QEMU than the distribution's.
"""

import os
import pathlib
import shutil
import time

import bootimage
from lab import DEADLINE, LabError, Process, Qmp, has_kvm

PAGE = 4096
# How QEMU 7.2 ends when it is told to just as a monitor's client hangs up.
QUITS_BADLY = "aio_ctx_finalize: BH 'monitor_accept_input' leaked, aborting..."
PIECE = 1 << 20  # bytes of RAM that are compared at a time
SHM = pathlib.Path("/dev/shm")

# What RAM can be made of; the driver takes the first alone, and the third before QEMU 8.1.
RAM_KINDS = {
    "file": "memory-backend-file,id=mem0,size={mib}M,mem-path={path},share=on",
    "private-file": "memory-backend-file,id=mem0,size={mib}M,mem-path={path},share=off",
    "memfd": "memory-backend-memfd,id=mem0,size={mib}M,share=on",
    "private": "memory-backend-ram,id=mem0,size={mib}M",
    "anonymous": "memory-backend-ram,id=mem0,size={mib}M,share=on",
    "default": None,  # -m alone
}


def qemu_binary():
    return os.environ.get("FERRY_QEMU", "qemu-system-x86_64")


def has_qemu():
    """None, or why QEMU can't run guests here."""
    if shutil.which(qemu_binary()) is None:
        return f"there is no {qemu_binary()}"
    return has_kvm()


class Qemu(Process):
    """A QEMU with a boot disk from which it starts `guest`, or with `incoming` waits for one, and
    runs it only when it is told to, unless `paused` is False.

    `ram` is one of RAM_KINDS, `memory` its MiB, `options` are added to the command line.
    `qmp_path` is ferryd's socket; `qmp` is a session on the other one.  `ram_path` is the file that
    the guest's RAM is in, one of its own unless it is given, and is gone when the lab closes.  With `rom` the guest is started by
    firmware of its own (contrib/guests/rom.S), in no time; both ends of a migration must have it,
    or neither.
    """

    # A ferryd that ends at the same moment would give it its settings back, and a QEMU that ends can
    # crash on that.
    ends_first = True

    def __init__(self, lab, name, guest="idle", args="", memory=64, incoming=False, paused=None,
                 machine="pc", ram="file", rom=False, options=(), ram_path=None):
        file_name = lab.unique(name)
        self.guest_name = name
        self.qmp_path = lab.folder / f"{file_name}.qmp"
        self.ram_path = ram_path or SHM / f"ferry-{os.getpid()}-{lab.folder.name}-{file_name}"
        lab.undo.callback(self.ram_path.unlink, missing_ok=True)
        own_path = lab.folder / f"{file_name}.own"
        image = lab.folder / f"{file_name}.img"
        guests = lab.build / "guests"
        bootimage.make(guests / "boot.bin", guests / f"{guest}.bin", image, args)
        argv = [qemu_binary(), "-name", f"{name},debug-threads=on",
                "-machine", f"{machine},accel=kvm", "-m", f"{memory}M",
                "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
                "-chardev", f"file,id=console,path={lab.folder / file_name}.out,append=on",
                "-serial", "chardev:console",
                "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
                "-qmp", f"unix:{own_path},server=on,wait=off",
                "-drive", f"if=none,id=boot,format=raw,readonly=on,file={image}",
                "-device", "virtio-blk-pci,id=bootdisk,drive=boot,bootindex=0"]
        if RAM_KINDS[ram]:
            argv += ["-machine", "memory-backend=mem0",
                     "-object", RAM_KINDS[ram].format(mib=memory, path=self.ram_path)]
        if rom:
            firmware = lab.folder / f"{file_name}.rom"
            bootimage.make_rom(guests / "rom.bin", guests / f"{guest}.bin", firmware, args, memory)
            argv += ["-bios", firmware]
        argv += ["-S"] if paused or (incoming and paused is None) else []
        argv += ["-incoming", "defer"] if incoming else []
        super().__init__(file_name, [*argv, *options], lab.folder)
        self.expected_status = None
        self.qmp = self._connect(own_path)
        lab.sessions.append(self.qmp)

    def _connect(self, path):
        """A session, as soon as QEMU listens."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                return Qmp(path)
            except (OSError, LabError) as early:  # not there yet, or it ended meanwhile
                if not self.alive() or time.monotonic() > end:
                    self.kill()
                    raise LabError(f"{self.name} did not start: {self.errors()[-2000:]}") from early
                time.sleep(0.005)  # how often is tried

    def state(self):
        """QEMU's run state."""
        return self.qmp.cmd("query-status")["status"]

    def await_end(self, status):
        """Waits until QEMU has ended by itself, with this status, which is then no fault."""
        self.expected_status = status
        got = self.wait()
        if got != status:
            raise LabError(f"{self.name} ended with status {got}, not {status}: "
                           f"{self.errors()[-2000:]}")

    def fault(self):
        if self.expected_status is not None and self.proc.poll() == self.expected_status:
            return None
        if self.meant_to_end and QUITS_BADLY in self.errors():
            return None
        return super().fault()


def fill_ram(qemu, start, length):
    """Random data in its RAM, behind its back: before anybody follows what is written."""
    with open(qemu.ram_path, "r+b") as ram:
        ram.seek(start)
        for at in range(0, length, PIECE):
            ram.write(os.urandom(min(PIECE, length - at)))


def start_qemu(lab, name, **kwargs):
    """A Qemu that ends with the lab."""
    return lab.keep(Qemu(lab, name, **kwargs))


def attach(session, qemu, name=None):
    """Has a ferryd attach to it."""
    return session.execute("guest-attach", {"name": name or qemu.guest_name, "driver": "qemu",
                                            "qmp": str(qemu.qmp_path)})


def _extents(fd):
    """What a file holds data at, as (from, to)."""
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # only a hole is left
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield at, end
        at = end


def _differing_pages(here, there, at):
    """Within the piece at `at`.  A hole reads as zeros, and stays one."""
    ours, theirs = (os.pread(fd, PIECE, at) for fd in (here, there))
    if ours == theirs:
        return []
    return [(at + i) // PAGE for i in range(0, len(ours), PAGE)
            if ours[i:i + PAGE] != theirs[i:i + PAGE]]


def ram_differences(a, b):
    """The pages of two QEMUs' RAM that differ, by number; only what holds data is read."""
    here, there = (os.open(q.ram_path, os.O_RDONLY | os.O_CLOEXEC) for q in (a, b))
    try:
        if os.fstat(here).st_size != os.fstat(there).st_size:
            raise LabError(f"the RAM of {a.name} and {b.name} differs in size")
        pieces = {piece for fd in (here, there) for start, end in _extents(fd)
                  for piece in range(start // PIECE, (end - 1) // PIECE + 1)}
        return [page for piece in sorted(pieces)
                for page in _differing_pages(here, there, piece * PIECE)]
    finally:
        os.close(here)
        os.close(there)


def ram_equal(a, b):
    return not ram_differences(a, b)
