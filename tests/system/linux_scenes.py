# SPDX-License-Identifier: BSD-3-Clause
"""Linux guests in stock QEMUs that move between two hosts: made by tests/linux/run, which says in
FERRY_LINUX where the guest's kernel and initramfs are.

The guest (tests/linux/init) checks itself all the time and says so on its console: "ok ..." for
what was right, "BAD ..." for what was not. It takes commands over a virtio-serial port.
Its network is a namespace of its own with a bridge and a server (tests/linux/network.py).
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

from lab import LabError, Process, has_kvm
from qemu import SHM, Qemu, attach, qemu_binary
from qemu_scenes import QemuScene, await_state
from scenes import GUEST, MIB, eventually

HERE = pathlib.Path(__file__).resolve().parent.parent / "linux"
MEMORY = 256
MAC = "52:54:00:07:00:02"
DISK = 64 * MIB
SLOW = 20 * MIB  # bytes/s: what is to be seen under way takes seconds
PORTS = 8  # root ports; the first five have the guest's own devices
SPARE = "port6"  # of the root ports: for what is plugged
CMDLINE = "console=ttyS0 loglevel=4 mitigations=off no_console_suspend"
# What the guest says again and again.
WORK = ("ok memory", "ok clock cpu 0", "ok clock cpu 1", "ok files", "ok download", "ok rng")
BOOT = re.compile(r"^guest ready (\S+)\n", re.MULTILINE)
TROUBLE = re.compile(r"^.*(?:BAD |Kernel panic|BUG:|Oops|Call Trace|I/O error|EXT4-fs error|"
                     r"blocked for more than|soft lockup|segfault).*$", re.MULTILINE)


def has_linux():
    """None, or why no Linux guest can be moved here."""
    if not os.environ.get("FERRY_LINUX"):
        return "tests/linux/run makes the guest"
    if shutil.which(qemu_binary()) is None:
        return f"there is no {qemu_binary()}"
    return None


def made(name):
    return pathlib.Path(os.environ["FERRY_LINUX"]) / name


def accelerator():
    """KVM boots a stock Linux where the processor has what it is made for; else QEMU emulates."""
    flags = re.search(r"^flags.*\b(?:vmx|svm)\b", pathlib.Path("/proc/cpuinfo").read_text(
        encoding="ascii"), re.MULTILINE)
    return "kvm" if flags and has_kvm() is None else "tcg"


# KVM writes a guest's clock (of the kernel's, and of the firmware's) as its state is loaded.
KVM_CLOCK = re.compile(r" bytes ([12]?\d|3[0-2]) kind ")
# One thread for both vCPUs.  With a thread for each, guests hung before any move now and then, seen
# with 7.2 ("virtio_net: output.0:id 0 is not a head!", then a soft lockup), and are no faster here.
TCG = "tcg,thread=single"
# QEMU 10.0 ends so, now and then, while two emulated processors run and a third thread changes what
# is at which address: as PCI devices are set up, with ferry or without.
TCG_FAULT = "iotlb_to_section: Assertion"


class Network(Process):
    """The guests' network; it goes with its program."""

    must_live = True

    def __init__(self, lab):
        self.path = lab.folder / "network.sock"
        super().__init__("network", ["unshare", "--net", sys.executable, HERE / "network.py",
                                     self.path, lab.folder], lab.folder)
        self.await_line("network ready")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))

    def _ask(self, what):
        self.sock.sendall(json.dumps({"do": what}).encode() + b"\n")
        text, fds = b"", []
        while not text.endswith(b"\n"):
            piece, got, _, _ = socket.recv_fds(self.sock, 4096, 1)
            if not piece:
                raise LabError(f"the network has gone: {self.errors()[-2000:]}")
            text, fds = text + piece, fds + got
        return json.loads(text), fds

    def tap(self):
        """A descriptor of a tap on the bridge."""
        return self._ask("tap")[1][0]

    def state(self):
        return self._ask("state")[0]

    def watch(self):
        """The longest silence is of the time from now on."""
        self._ask("watch")

    def release(self):
        """Downloads that are held half way go on."""
        self._ask("release")

    def kill(self):
        super().kill()
        self.sock.close()


class LinuxQemu(Qemu):
    """A QEMU with the guest, or with `incoming` one that waits for it.

    `options` are added to the command line.  `numa`: RAM in two files, of a node each.  `cards`: so
    many network cards more, which are connected to nothing.  `kernel`: vmlinux, or vmlinuz, which
    starts later, and which QEMU does not write into RAM again when the guest wakes from S3.
    Without `initrd` it is another guest, with a command line of its own.
    """

    # pylint: disable-next=super-init-not-called,too-many-arguments
    def __init__(self, lab, network, disk, incoming=False, options=(), balloon="", numa=False,
                 cards=0, vga="none", cmdline="", kernel="vmlinux", initrd=True, memory=MEMORY,
                 accel=None):
        file_name = lab.unique(GUEST)
        self.guest_name = GUEST
        self.qmp_path = lab.folder / f"{file_name}.qmp"
        self.port_path = lab.folder / f"{file_name}.port"
        own_path = lab.folder / f"{file_name}.own"
        self.numa = numa
        self.ram_paths = [SHM / f"ferry-{os.getpid()}-{lab.folder.name}-{file_name}.{i}"
                          for i in range(2 if numa else 1)]
        self.ram_path = self.ram_paths[0]
        for path in self.ram_paths:
            lab.undo.callback(path.unlink, missing_ok=True)
        self.port = None
        self.accel = accel or accelerator()
        self.memory = memory
        tap = network.tap()
        argv = [qemu_binary(), "-name", f"{GUEST},debug-threads=on",
                "-machine", "q35", "-accel", TCG if self.accel == "tcg" else "kvm",
                "-cpu", "qemu64" if self.accel == "tcg" else "host",
                "-smp", "2", "-m", f"{memory}M", *self._ram(),
                "-nodefaults", "-no-user-config", "-display", "none", "-vga", vga,
                "-chardev", f"file,id=console,path={lab.folder / file_name}.out,append=on",
                "-serial", "chardev:console",
                "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
                "-qmp", f"unix:{own_path},server=on,wait=off",
                "-kernel", made(kernel), *(["-initrd", made("initrd.cpio")] if initrd else []),
                "-append", f"{CMDLINE} {cmdline}" if initrd else cmdline,
                *self._devices(disk, tap, balloon, cards),
                *(["-S", "-incoming", "defer"] if incoming else []), *options]
        try:
            Process.__init__(self, file_name, argv, lab.folder, pass_fds=(tap,))
        finally:
            os.close(tap)
        self.expected_status = None
        self.qmp = self._connect(own_path)
        lab.sessions.append(self.qmp)
        self.sessions = lab.sessions

    def _ram(self):
        size = self.memory // len(self.ram_paths)
        argv = []
        for number, path in enumerate(self.ram_paths):
            argv += ["-object", f"memory-backend-file,id=mem{number},size={size}M,"
                     f"mem-path={path},share=on"]
            if self.numa:
                argv += ["-numa", f"node,nodeid={number},memdev=mem{number},cpus={number}"]
        return argv if self.numa else [*argv, "-machine", "memory-backend=mem0"]

    def _devices(self, disk, tap, balloon, cards):
        argv = []
        for number in range(PORTS):
            argv += ["-device", f"pcie-root-port,id=port{number + 1},bus=pcie.0,addr=2.{number},"
                     f"multifunction=on,chassis={number + 1}"]
        argv += ["-drive", f"if=none,id=disk,format={disk.suffix[1:]},file={disk}",
                 "-device", "virtio-blk-pci,drive=disk,bus=port1",
                 "-netdev", f"tap,id=net,fd={tap}",
                 "-device", f"virtio-net-pci,netdev=net,mac={MAC},bus=port2",
                 "-device", "virtio-rng-pci,bus=port3",
                 "-device", f"virtio-balloon-pci,id=balloon,bus=port4{balloon}",
                 "-device", "virtio-serial-pci,bus=port5",
                 "-chardev", f"socket,id=port,path={self.port_path},server=on,wait=off",
                 "-device", "virtserialport,chardev=port,name=ferry"]
        for number in range(cards):
            argv += ["-netdev", f"hubport,id=card{number},hubid={number + 1}",
                     "-device", f"virtio-net-pci,netdev=card{number},bus=pcie.0,"
                     f"addr={number + 4:x},mac=52:54:00:08:00:{number:02x}"]
        return argv

    def send(self, line):
        """To the guest, over its virtio-serial port."""
        if self.port is None:
            self.port = socket.socket(socket.AF_UNIX)
            self.port.connect(str(self.port_path))
        self.port.sendall(line.encode() + b"\n")

    def hang_up(self):
        if self.port:
            self.port.close()
            self.port = None

    def kill(self):
        self.hang_up()
        super().kill()

    def quit(self):
        """As an operator ends a source whose guest has moved."""
        self.hang_up()
        self.meant_to_end = True
        with contextlib.suppress(LabError, OSError):  # it may hang up before it answers
            self.qmp.cmd("quit")
        self.wait()
        self.sessions.remove(self.qmp)
        self.qmp.close()
        for path in self.ram_paths:  # many moves would fill the host's memory with them
            path.unlink(missing_ok=True)
        assert self.fault() is None, self.fault()

    def hmp(self, line):
        return self.qmp.execute("human-monitor-command", {"command-line": line})

    def ram_in_use(self):
        """Bytes of its RAM files that exist."""
        return sum(path.stat().st_blocks * 512 for path in self.ram_paths)


class LinuxScene(QemuScene):
    """Two hosts, a network, a disk image that both see, and one guest.

    `qemu` is where the guest is, at the host `here`; it moves to the host `there`.
    """

    def __init__(self, lab):
        super().__init__(lab)
        self.network = lab.keep(Network(lab))
        self.here, self.there = self.a, self.b
        self.disk = lab.folder / "disk.raw"
        self.both = {}  # options of each QEMU
        self.ran = []  # all of the QEMUs that the guest has been in
        self.number = 0  # of the last command to the guest
        self.moves = 0

    # ---- a guest, and what it says ----

    def power_on(self, qcow2=False, **both):
        """Starts the guest at the host a."""
        self.both = both
        if qcow2:
            self.disk = self.lab.folder / "disk.qcow2"
            make_qcow2(self.lab, self.disk)
        else:
            with open(self.disk, "wb") as file:
                file.truncate(DISK)
        self.qemu = self.new_qemu()
        self.ran.append(self.qemu)
        return self.qemu

    def start(self, **both):
        """Boots the guest at the host a, and waits until it is at work."""
        self.power_on(**both)
        try:
            self.boot_id = self.await_boot()
        except LabError:
            if TCG_FAULT not in self.qemu.errors():
                raise
            self.qemu.expected_status = -signal.SIGABRT
            self.ran = [self.new_qemu()]
            self.qemu = self.ran[0]
            self.boot_id = self.await_boot()
        attach(self.here.qmp, self.qemu)
        self.check_work()
        return self.qemu

    def new_qemu(self, **options):
        return self.lab.keep(LinuxQemu(self.lab, self.network, self.disk,
                                       **{**self.both, **options}))

    def output(self):
        return self.qemu.output()

    def await_boot(self, after=0):
        """Waits until the guest has started; the ID of this boot."""
        def booted():
            if not self.qemu.alive():
                raise LabError(f"{self.qemu.name} ended: {self.qemu.errors()[-2000:]}")
            return BOOT.search(self.whole_output(), after)

        return eventually(booted, what="the guest's start").group(1)

    def whole_output(self):
        """All that the guest has said, wherever it was."""
        return "".join(qemu.output() for qemu in self.ran)

    def await_lines(self, *lines, after=None):
        """Waits until the guest says all of these, from now on or from a position on."""
        after = len(self.output()) if after is None else after
        before = self.network.state()
        try:
            for line in lines:
                self.qemu.await_line("\n", self.qemu.await_line(line, after))
        except LabError as late:
            raise LabError(f"{late}\nnetwork: {before}, now {self.network.state()}") from late

    def check_quiet(self):
        """Nothing was wrong, wherever the guest has been."""
        for qemu in self.ran:
            trouble = TROUBLE.search(qemu.output())
            assert trouble is None, f"{qemu.name}: {trouble.group()}\n{qemu.output()[-3000:]}"

    def check_work(self, *but):
        """All that the guest does goes on, and nothing was wrong."""
        try:
            self.await_lines(*(line for line in WORK if line not in but))
        finally:
            self.check_quiet()

    def tell(self, command):
        """Has the guest do something that does not end at once."""
        self.number += 1
        self.qemu.send(f"{self.number} {command}")
        return self.number

    def do(self, command, status=0):
        """Has the guest do something, and waits for its end."""
        self.await_reply(self.tell(command), status)

    def await_reply(self, number, status=0):
        """Waits until a command has ended, here or on the way here."""
        found = eventually(lambda: re.search(rf"^reply {number} (\d+)\n", self.whole_output(),
                                             re.MULTILINE), what=f"the reply to command {number}")
        assert int(found.group(1)) == status, (number, self.output()[-1000:])
        self.check_quiet()

    def await_new_boot(self, after):
        """The guest has started again, and not merely gone on; its output was so long before."""
        before, self.boot_id = self.boot_id, self.await_boot(after)
        assert self.boot_id != before

    def reset(self):
        after = len(self.whole_output())
        self.qemu.qmp.cmd("system_reset")
        self.await_new_boot(after)

    # ---- moves ----

    def target(self, **options):
        """A QEMU at the host there, that waits for the guest."""
        target = self.new_qemu(incoming=True, **options)
        attach(self.there.qmp, target)
        return target

    def begin(self, target, paused=False, **settings):
        """Starts the guest's way from here to there."""
        self.here.capable(pause_before_switchover=settings.pop("hold", False))
        self.here.set(**{"max_bandwidth": 0, **settings})
        self.there.qmp.cmd("migrate-incoming", guest=GUEST, uri="tcp:127.0.0.1:0",
                           autostart=not paused)
        self.here.migrate(self.there.info()["listening"])
        return target

    def arrive(self, target, paused=False, runs="running", quits=True):
        """Waits until the guest has moved.  Here and there change places; the old QEMU ends."""
        sent, got = self.here.complete(), self.there.complete()
        assert (sent["verified"], got["verified"]) == (True, True)
        source = self.qemu
        await_state(source, "postmigrate")
        if paused:
            assert target.qmp.cmd("query-status")["running"] is False
            differ = [run for run in ram_differences(source, target, self.kinds())
                      if not (source.accel == "kvm" and KVM_CLOCK.search(run))]
            assert differ == [], "\n".join(differ)
            self.there.qmp.cmd("cont", guest=GUEST)
        await_state(target, runs)
        self.here.qmp.cmd("guest-detach", guest=GUEST)
        self.here, self.there = self.there, self.here
        self.qemu = target
        self.ran.append(target)
        self.moves += 1
        if quits:
            source.quit()
        return sent, got

    def move(self, paused=False, runs="running", quits=True, **options):
        """The guest moves and goes on; with `paused` its RAM is compared between."""
        return self.arrive(self.begin(self.target(**options), paused), paused, runs, quits)

    def kinds(self):
        """What the guest said of its pages last, if it did."""
        path = self.lab.folder / "kinds"
        return path if path.exists() else None


def ram_differences(source, target, kinds=None):
    """Lines of tests/linux/ramdiff, one for each run of pages; none: there is no difference."""
    lines, start = [], 0
    for here, there in zip(source.ram_paths, target.ram_paths):
        argv = [HERE / "ramdiff", "--at", hex(start), *(["--kinds", kinds] if kinds else []),
                here, there]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        if done.returncode == 1:
            lines += done.stdout.splitlines()[:-1]
        start += here.stat().st_size
    return lines


def make_qcow2(lab, path):
    """An image, made by the QEMU that is to use it."""
    own = lab.folder / f"{lab.unique('maker')}.qmp"
    argv = [qemu_binary(), "-machine", "none", "-nodefaults", "-display", "none",
            "-qmp", f"unix:{own},server=on,wait=off"]
    maker = lab.keep(Process("maker", argv, lab.folder))
    qmp = Qemu._connect(maker, own)  # pylint: disable=protected-access
    lab.sessions.append(qmp)

    def finish(job):
        eventually(lambda: any(found["id"] == job and found["status"] == "concluded"
                               for found in qmp.cmd("query-jobs")), what=f"the job {job}")
        failed = [found.get("error") for found in qmp.cmd("query-jobs") if found["id"] == job]
        assert failed == [None], failed
        qmp.cmd("job-dismiss", id=job)

    path.touch()
    qmp.execute("blockdev-add", {"driver": "file", "node-name": "image", "filename": str(path)})
    qmp.execute("blockdev-create", {"job-id": "qcow2", "options": {
        "driver": "qcow2", "file": "image", "size": DISK}})
    finish("qcow2")
    maker.meant_to_end = True
    qmp.cmd("quit")
    maker.wait()
