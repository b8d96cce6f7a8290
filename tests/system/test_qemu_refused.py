# SPDX-License-Identifier: BSD-3-Clause
"""What can't be migrated from outside is refused when it is attached, with the reason and what to
start QEMU with."""

import contextlib
import os
import pathlib
import shutil
import socket
import struct
import sys
import threading

import pytest
from lab import Process, Qmp
from qemu import SHM, attach
from qemu_scenes import (FILLED, attach_refused, attach_through, check_console, check_nothing_left,
                         descriptors, pretend_version, second_block_in, tracer, version_of)
from scenes import GUEST, SLOW, eventually, path

pytestmark = pytest.mark.qemu

NAMED = "memory-backend-file,id=mem0,size=67108864,mem-path=/dev/shm/NAME,share=on"
BACKEND = "-machine memory-backend=mem0"


def check_attachable(vms, qemu):
    """Nothing but the reason is in the way."""
    attach(vms.a.qmp, qemu)
    assert vms.a.run_state() == "running"


# ---- RAM ----

@path("qemu/refused/ram/{kind}")
@pytest.mark.parametrize("kind", ["private", "private-file", "default"])
def test_private_ram(vms, kind):
    source = vms.qemu(ram=kind)
    words = (NAMED, BACKEND) if kind == "default" else (NAMED,)
    error = attach_refused(vms.a, source.qmp_path, GUEST, *words)
    assert error.code == "ram-private"


@path("qemu/refused/ram/no-name")
def test_unnamed_ram(vms):
    """Shared with nobody: there is no file that another process could open."""
    source = vms.qemu(ram="anonymous")
    error = attach_refused(vms.a, source.qmp_path, GUEST, "memory-backend-file", "share=on")
    assert error.code == "ram-unnamed"


@path("qemu/refused/ram/memfd")
def test_memfd(vms):
    """From 8.1 on QEMU sends a memfd's pages itself; before, it migrates like a file."""
    source = vms.source(ram="memfd", attached=False)
    if version_of(source) >= (8, 1):
        error = attach_refused(vms.a, source.qmp_path, GUEST, NAMED)
        assert error.code == "ram-unnamed"
    else:
        attach(vms.a.qmp, source)
        vms.move(source, vms.target(ram="memfd"))


@path("qemu/refused/ram/memfd-of-a-newer-version")
def test_memfd_newer(vms):
    source = vms.qemu(ram="memfd")
    relay = vms.relay_qmp(source, reply=pretend_version(8, 1))
    error = attach_refused(vms.a, relay.path, GUEST, NAMED, "8.1")
    assert error.code == "ram-unnamed"


@path("qemu/refused/ram/on-a-disk")
def test_ram_on_disk(vms):
    """A file that can be shared, but not tracked."""
    file = pathlib.Path("/var/tmp") / f"ferry-{os.getpid()}-{vms.lab.folder.name}"
    vms.lab.undo.callback(file.unlink, missing_ok=True)
    source = vms.qemu(options=second_block_in(file)["options"])
    error = attach_refused(vms.a, source.qmp_path, GUEST, "mem1", "/dev/shm")
    assert error.code == "ram-unsuitable"


@path("qemu/refused/ram/of-another-guest")
def test_ram_in_use(vms):
    """Both ends on one host, with one command line: what came in would be the other's end."""
    source = vms.source()
    other = vms.qemu(incoming=True, ram_path=source.ram_path)
    for host in (vms.a, vms.b):
        error = attach_refused(host, other.qmp_path, "other", "mem0", "mem-path of its own")
        assert error.code == "ram-in-use"
    check_console(source)
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    attach(vms.b.qmp, other, "other")


@path("qemu/refused/ram/a-second-block")
def test_second_block(vms):
    """One private block among shared ones, too."""
    source = vms.qemu(options=("-m", "64M,slots=2,maxmem=256M", "-object",
                               "memory-backend-ram,id=mem1,size=16M", "-device",
                               "pc-dimm,memdev=mem1"))
    error = attach_refused(vms.a, source.qmp_path, GUEST, "private",
                           NAMED.replace("mem0", "mem1").replace("67108864", "16777216"))
    assert error.code == "ram-private"
    assert BACKEND not in error.desc


# ---- devices ----

class VhostUserBackend:
    """As much of a vhost-user back-end as QEMU needs to start with it: it answers what features it
    has (vhost-user specification, "Front-end message types")."""

    GET_FEATURES = 1
    FEATURES = 1 << 32  # VIRTIO_F_VERSION_1
    HEAD = struct.Struct("<III")

    def __init__(self, file):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(file))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            self.peer, _ = self.listener.accept()
            while head := self.peer.recv(self.HEAD.size, socket.MSG_WAITALL):
                kind, _, size = self.HEAD.unpack(head)
                self.peer.recv(size, socket.MSG_WAITALL)
                if kind == self.GET_FEATURES:
                    self.peer.sendall(self.HEAD.pack(kind, 5, 8) + struct.pack("<Q", self.FEATURES))

    def close(self):
        self.listener.close()


@path("qemu/refused/device/vhost-user-network")
def test_vhost_user(vms):
    file = vms.lab.folder / "vhost"
    vms.sockets.append(VhostUserBackend(file))
    source = vms.qemu(options=("-chardev", f"socket,id=vhost,path={file}", "-netdev",
                               "vhost-user,id=net,chardev=vhost", "-device",
                               "virtio-net-pci,netdev=net"))
    error = attach_refused(vms.a, source.qmp_path, GUEST, "vhost-user", "without it")
    assert error.code == "device-unseen"


@path("qemu/refused/device/ivshmem")
def test_ivshmem(vms):
    file = SHM / f"ferry-{os.getpid()}-{vms.lab.folder.name}-shared"
    vms.lab.undo.callback(file.unlink, missing_ok=True)
    source = vms.qemu(options=("-object",
                               f"memory-backend-file,id=shared,size=1M,mem-path={file},share=on",
                               "-device", "ivshmem-plain,memdev=shared"))
    error = attach_refused(vms.a, source.qmp_path, GUEST, "ivshmem-plain", "without it")
    assert error.code == "device-unseen"


# No machine of ours has these: the monitor is made to tell of one.
CLAIMED = ["vfio-pci", "vfio-pci-nohotplug", "vhost-user-blk-pci", "vhost-user-fs-pci",
           "vhost-vdpa-device-pci"]


@path("qemu/refused/device/{kind}")
@pytest.mark.parametrize("kind", CLAIMED)
def test_device(vms, kind):
    def claim(message, command):
        if command == "qom-list" and isinstance(message.get("return"), list):
            message["return"].append({"name": "claimed", "type": f"child<{kind}>"})
        return message

    source = vms.qemu()
    relay = vms.relay_qmp(source, reply=claim)
    error = attach_refused(vms.a, relay.path, GUEST, kind, "without it")
    assert error.code == "device-unseen"
    check_attachable(vms, source)


@path("qemu/refused/device/vdpa-network")
def test_vdpa(vms):
    def claim(message, command):
        if command == "human-monitor-command" and "return" in message:
            message["return"] += "net0: index=0,type=vhost-vdpa,vhostdev=/dev/vhost-vdpa-0\r\n"
        return message

    source = vms.qemu()
    relay = vms.relay_qmp(source, reply=claim)
    error = attach_refused(vms.a, relay.path, GUEST, "vDPA")
    assert error.code == "device-unseen"


@path("qemu/refused/device/plugged-later")
def test_plugged_later(vms):
    """A device that came after the attach is seen when the migration begins, and while it lasts."""
    plugged = []

    def claim(message, command):
        if command == "qom-list" and isinstance(message.get("return"), list):
            message["return"] += plugged
        return message

    source, target = vms.source(FILLED, attached=False), vms.target()
    attach_through(vms.a, vms.relay_qmp(source, reply=claim))
    plugged.append({"name": "later", "type": "child<vfio-pci>"})
    vms.a.migrate(vms.b.listen())
    vms.a.fail(GUEST, "vfio-pci")
    vms.b.fail()
    check_console(source)
    plugged.clear()
    vms.b.qmp.cmd("migrate-incoming", guest=GUEST, uri="tcp:127.0.0.1:0")
    vms.a.set(max_bandwidth=SLOW)
    vms.a.migrate(vms.b.info()["listening"])
    vms.a.reach("active")
    plugged.append({"name": "late", "type": "child<vhost-user-blk-pci>"})
    vms.a.fail(GUEST, "vhost-user-blk-pci")
    vms.b.fail()
    check_console(source)
    plugged.clear()
    vms.move(source, target)


@path("qemu/refused/blocked-by-qemu")
def test_blocked(vms):
    """A device that QEMU itself does not migrate: in its own words."""
    file = SHM / f"ferry-{os.getpid()}-{vms.lab.folder.name}-shared"
    vms.lab.undo.callback(file.unlink, missing_ok=True)
    source, target = vms.pair()
    source.qmp.execute("object-add", {"qom-type": "memory-backend-file", "id": "shared",
                                      "size": 1 << 20, "mem-path": str(file), "share": True})
    source.qmp.execute("device_add", {"driver": "ivshmem-plain", "memdev": "shared",
                                      "id": "later"})
    reasons = source.qmp.cmd("query-migrate")["blocked-reasons"]
    vms.a.migrate(vms.b.listen())
    vms.a.fail(GUEST, *reasons)
    vms.b.fail()
    check_console(source)
    assert target.state() == "inmigrate"


# ---- how QEMU was started, and what it is at ----

@path("qemu/refused/incoming-tcp")
def test_incoming(vms):
    source = vms.qemu(options=("-incoming", "tcp:127.0.0.1:0"))
    error = attach_refused(vms.a, source.qmp_path, GUEST, "-incoming defer")
    assert error.code == "guest-unsuitable"


@path("qemu/refused/no-description")
def test_suppressed(vms):
    source = vms.qemu(options=("-machine", "suppress-vmdesc=on"))
    error = attach_refused(vms.a, source.qmp_path, GUEST, "-machine suppress-vmdesc=off")
    assert error.code == "guest-unsuitable"


@path("qemu/refused/migrated-by-qemu")
def test_migrating(vms):
    """A migration of QEMU's own that gets nowhere is in the way until it has ended."""
    source = vms.source(attached=False)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(vms.lab.folder / "stuck"))
        stuck.listen()
        source.qmp.execute("migrate-set-parameters", {"max-bandwidth": 4096})
        source.qmp.cmd("migrate", uri=f"unix:{vms.lab.folder / 'stuck'}")
        eventually(lambda: source.qmp.cmd("query-migrate")["status"] == "active")
        error = attach_refused(vms.a, source.qmp_path, GUEST, "active", "migrate_cancel")
        assert error.code == "migration-active"
        assert source.qmp.cmd("query-migrate")["status"] == "active"
        source.qmp.cmd("migrate_cancel")
        eventually(lambda: source.qmp.cmd("query-migrate")["status"] == "cancelled")
    check_attachable(vms, source)
    vms.move(source, vms.target())


# ---- permission ----

NOBODY = 65534


def unprivileged_daemon(vms):
    """A ferryd of another user's, which may use its own sockets and QEMU's, and nothing more."""
    folder = vms.lab.folder / "nobody"
    folder.mkdir()
    program = folder / "ferryd"
    shutil.copy(vms.lab.build / "ferryd", program)
    os.chown(folder, NOBODY, NOBODY)
    vms.lab.folder.chmod(0o755)
    daemon = vms.lab.keep(Process("nobody", [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", program,
        "--control", folder / "ctl", "--guests", folder / "gst", "--state-dir", folder / "state"],
        vms.lab.folder))
    daemon.await_line("listens on", errors=True)
    session = Qmp(folder / "ctl")
    vms.lab.sessions.append(session)
    return session


class Asker:
    """A host as far as attach_refused needs one."""

    def __init__(self, qmp):
        self.qmp = qmp


@path("qemu/refused/no-permission/another-user")
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_no_permission(vms):
    source = vms.source(attached=False)
    source.qmp_path.chmod(0o666)
    asker = Asker(unprivileged_daemon(vms))
    fds = descriptors(source)
    error = attach_refused(asker, source.qmp_path, GUEST, str(source.pid), "CAP_SYS_PTRACE")
    assert error.code == "no-permission"
    check_nothing_left(source, fds)
    check_attachable(vms, source)


# Traces all threads of a process, which run on; they are let go when it ends.
TRACER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
for tid in os.listdir(f"/proc/{sys.argv[1]}/task"):
    if libc.ptrace(0x4206, int(tid), None, None) != 0:  # PTRACE_SEIZE
        sys.exit(os.strerror(ctypes.get_errno()))
print("traces", flush=True)
time.sleep(1000)
"""


@path("qemu/refused/no-permission/traced")
def test_traced(vms):
    """A debugger has it: no migration, but with the debugger gone it goes."""
    source, target = vms.pair()
    debugger = vms.lab.keep(Process("tracer", [sys.executable, "-c", TRACER, source.pid],
                                    vms.lab.folder))
    debugger.await_line("traces")
    assert tracer(source) == debugger.pid
    vms.a.migrate(vms.b.listen())
    vms.a.fail(GUEST, "traced", str(debugger.pid))
    vms.b.fail()
    debugger.kill()
    assert tracer(source) == 0
    check_console(source)
    vms.move(source, target)
