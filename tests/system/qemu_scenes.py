# SPDX-License-Identifier: BSD-3-Clause
"""The scenes of the `qemu` driver: guests in stock QEMUs, what can be seen of one from outside, and
a monitor that stands between one and its ferryd."""

import collections
import json
import os
import pathlib
import re
import socket
import threading
import time

import pytest
from lab import DEADLINE, CommandError
from qemu import SHM, attach, fill_ram, start_qemu
from scenes import GUEST, MIB, SLOW, Scene, await_pages, eventually
from stream import GO, READY, STATE, Tap

CHECKER = {"guest": "checker", "args": "set=2 every=20"}
FILLED = 8 * MIB  # bytes of random data in a guest that is to take a while
FILLED_AT = 48 * MIB
SPENT = "internal-error"


class QemuScene(Scene):
    """Two hosts, whose guests are QEMUs'."""

    def __init__(self, lab):
        super().__init__(lab)
        self.let_go = threading.Event()  # what a link holds back
        self.cut = False  # it does not arrive, then, and nothing behind it

    def close(self):
        self.let_go.set()
        super().close()

    def release(self, cut=False):
        """Lets go on whatever a migration is held by; a link may break there."""
        self.cut = self.cut or cut
        self.let_go.set()
        if self.b.daemon.alive():
            self.b.daemon.wake()

    def qemu(self, host=None, name=GUEST, attached=True, **options):
        """A QEMU; attached to that host's daemon, where one is named."""
        options.setdefault("rom", True)
        qemu = start_qemu(self.lab, name, **options)
        if host and attached:
            attach(host.qmp, qemu)
        return qemu

    def source(self, fill=0, host=None, name=GUEST, attached=True, **options):
        """A guest that checks itself and is at work, with some random RAM beside."""
        qemu = self.qemu(name=name, **{**CHECKER, **options})
        if not options.get("paused"):
            await_console(qemu)
        if fill:
            fill_ram(qemu, FILLED_AT, fill)
        if attached:
            attach((host or self.a).qmp, qemu)
        return qemu

    def target(self, host=None, name=GUEST, **options):
        return self.qemu(host or self.b, name, incoming=True, **options)

    def pair(self, fill=0, both=None, **options):
        """A guest at a, and a QEMU at b that waits for it; `both`: options of both."""
        return self.source(fill, **{**options, **(both or {})}), self.target(**(both or {}))

    def relay_qmp(self, qemu, **rules):
        relay = QmpRelay(self.lab, qemu, **rules)
        self.relays.append(relay)
        return relay

    def move(self, source, target, guest=GUEST):
        """A migration from a to b that must succeed; both ends' records."""
        return move_qemu(self.a, self.b, source, target, guest)


def move_qemu(here, there, source, target, guest=GUEST, uri="tcp:127.0.0.1:0"):
    here.capable(guest, pause_before_switchover=False)
    here.set(guest, max_bandwidth=0)
    here.migrate(there.listen(guest, uri), guest)
    sent, got = here.complete(guest), there.complete(guest)
    assert sent["verified"] is True and got["verified"] is True
    check_arrived(source, target)
    return sent, got


# ---- what the guest says ----

def await_console(qemu, what="checker: cpu 0 pass"):
    """Waits until the guest has printed its next line, to its end."""
    qemu.await_line("\n", after=qemu.await_line(what, after=len(qemu.output())))


def last_number(qemu, pattern):
    """What the guest's last whole line of a kind says; 0: it has printed none."""
    found = re.findall(pattern + r".*\n", qemu.output())
    return int(found[-1]) if found else 0


def await_number(qemu, pattern, least):
    """Waits until the guest prints so large a number, or a larger one: it prints not every one."""
    eventually(lambda: last_number(qemu, pattern) >= least, what=f"{least} in '{pattern}'")


def last_pass(qemu):
    return last_number(qemu, r"checker: cpu 0 pass (\d+)")


def check_console(qemu):
    """It goes on, and has not found one page that is wrong, here or where it came from."""
    await_console(qemu)
    assert "BAD" not in qemu.output(), qemu.output()[-2000:]
    assert last_number(qemu, r"checker: cpu 0 pass \d+ pages \d+ bad (\d+)") == 0


def await_state(qemu, state):
    """QEMU tells of the end of a migration before it is in the state that this leads to."""
    eventually(lambda: qemu.state() == state, what=f"the state {state}")


def check_arrived(source, target):
    """The guest goes on at the destination where it was, and stands still at the source."""
    await_state(source, "postmigrate")
    passed = last_pass(source)
    assert target.state() == "running"
    await_number(target, r"checker: cpu 0 pass (\d+)", passed + 2)  # all pages were looked at
    check_console(target)
    first = re.search(r"checker: cpu 0 pass (\d+)", target.output())
    assert int(first.group(1)) >= passed, "the guest went back in time"


def check_stays(host, source, guest=GUEST):
    """A migration has ended, and the guest is where it was, running."""
    host.await_run_state("running", guest)
    assert source.state() == "running"
    check_console(source)


def check_nothing_left(qemu, fds):
    """No descriptor more than it had, nobody traces it, and its pages are not protected."""
    eventually(lambda: descriptors(qemu) == fds, what=f"the descriptors {fds} of before")
    assert tracer(qemu) == 0
    assert not is_tracked(qemu)


# ---- what the kernel says of a QEMU ----

def descriptors(qemu):
    """Its open files, by what they are."""
    folder = pathlib.Path(f"/proc/{qemu.pid}/fd")
    found = []
    for name in folder.iterdir():
        try:
            found.append(os.readlink(name))
        except OSError:
            pass  # closed meanwhile
    return sorted(found)


def status_field(pid, field):
    text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return re.search(rf"^{field}:\s*(.*)$", text, re.MULTILINE).group(1)


def children(pid):
    """The processes that a process has forked, and that have not ended; their names by their IDs."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if int(status_field(folder.name, "PPid")) == pid:
                found[int(folder.name)] = status_field(folder.name, "Name")
        except OSError:
            pass  # it has ended meanwhile
    return found


def tracer(qemu):
    """Who traces any of its threads; 0: nobody."""
    tracers = [0]
    for task in pathlib.Path(f"/proc/{qemu.pid}/task").iterdir():
        try:
            tracers.append(int(status_field(task.name, "TracerPid")))
        except OSError:
            pass  # it has ended meanwhile
    return max(tracers)


def is_tracked(qemu):
    """Whether a userfaultfd is registered on its memory (proc_pid_smaps(5): uw, um)."""
    flags = re.findall(r"^VmFlags: (.*)$",
                       pathlib.Path(f"/proc/{qemu.pid}/smaps").read_text(encoding="ascii"),
                       re.MULTILINE)
    return any({"uw", "um", "ui"} & set(line.split()) for line in flags)


def holds_lock(qemu, image):
    """Whether QEMU has locked an image for writing: byte 101, as its file driver does."""
    folder = pathlib.Path(f"/proc/{qemu.pid}")
    for name in (folder / "fd").iterdir():
        try:
            if os.readlink(name) != str(image):
                continue
            info = (folder / "fdinfo" / name.name).read_text(encoding="ascii")
        except OSError:
            continue
        for start, end in re.findall(r"^lock:.* (\d+) (\d+|EOF)$", info, re.MULTILINE):
            if int(start) <= 101 and (end == "EOF" or int(end) >= 101):
                return True
    return False


def disk_options(vms):
    """A disk image, and what gives it to both ends for writing."""
    image = vms.lab.folder / "data.raw"
    with open(image, "wb") as file:
        file.truncate(MIB)
    return image, {"options": ("-drive", f"if=none,id=data,format=raw,file={image}",
                               "-device", "virtio-blk-pci,drive=data")}


def pretend_version(major, minor=0):
    """A rule of a QmpRelay: QEMU says that it is of this version."""
    def rule(message, _):
        if "QMP" in message:
            message["QMP"]["version"]["qemu"] = {"major": major, "minor": minor, "micro": 0}
        return message
    return rule


def second_file(vms, which):
    return SHM / f"ferry-{os.getpid()}-{vms.lab.folder.name}-{which}"


def second_block(vms, which, name="mem1"):
    """Options of a QEMU with 16 MiB of RAM more, behind 4 GiB, in a file of their own."""
    file = second_file(vms, which)
    vms.lab.undo.callback(file.unlink, missing_ok=True)
    return second_block_in(file, name)


def second_block_in(file, name="mem1"):
    return {"options": (
        "-m", "64M,slots=2,maxmem=256M", "-device", f"pc-dimm,id=dimm,memdev={name}",
        "-object", f"memory-backend-file,id={name},size=16M,mem-path={file},share=on")}


def fill_file(file, length):
    with open(file, "r+b") as out:
        out.write(os.urandom(length))


# ---- what QEMU says ----

def version_of(qemu):
    version = qemu.qmp.greeting["QMP"]["version"]["qemu"]
    return version["major"], version["minor"]


def settings(qemu):
    """Capabilities and parameters of its own migration."""
    return (qemu.qmp.cmd("query-migrate-capabilities"), qemu.qmp.cmd("query-migrate-parameters"))


def refused(session, command, /, **arguments):
    """The error that a command answers."""
    with pytest.raises(CommandError) as failed:
        session.cmd(command, **arguments)
    assert failed.value.desc.isprintable()
    return failed.value


def attach_refused(host, qmp, name=GUEST, *words):
    """The error of an attach; the daemon lives on and knows no such guest."""
    error = refused(host.qmp, "guest-attach", name=name, driver="qemu", qmp=str(qmp))
    assert name not in [guest["name"] for guest in host.qmp.cmd("query-guests")]
    for word in words:
        assert word in error.desc, error.desc
    return error


# ---- a monitor between ferryd and QEMU ----

def attach_through(host, relay, name=GUEST):
    host.qmp.cmd("guest-attach", name=name, driver="qemu", qmp=str(relay.path))


class QmpRelay:
    """Passes on what ferryd and a QEMU say to each other, but for what a test changes.

    `request(message)` and `reply(message, command)` answer what is passed on; None swallows it.  A
    request may be answered in QEMU's place: `answer(message, value)`.  `requests` counts what came,
    by name.  `fds` are the descriptors that go with the request.
    """

    def __init__(self, lab, qemu, request=None, reply=None):
        self.path = lab.folder / f"{lab.unique('relay')}.qmp"
        self.target = str(qemu.qmp_path)
        self.request = request or (lambda message: message)
        self.reply = reply or (lambda message, command: message)
        self.requests = collections.Counter()
        self.commands = {}
        self.socks = []
        self.fds = []
        self.ended = False  # whoever was on ferryd's side has gone
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                self.near, _ = self.listener.accept()
            except OSError:
                return
            self.far = socket.socket(socket.AF_UNIX)
            self.far.connect(self.target)
            self.socks += [self.near, self.far]
            for pump in (self._requests, self._replies):
                threading.Thread(target=self._run, args=(pump, self.near, self.far),
                                 daemon=True).start()

    def _run(self, pump, near, far):
        try:
            pump(near, far)
        except OSError:
            pass
        for sock in (near, far):
            shut(sock)

    def _requests(self, near, far):
        text, fds = "", []
        while True:
            data, got, _, _ = socket.recv_fds(near, 1 << 16, 4)
            if not data:
                self.ended = True
                return
            text, fds = text + data.decode(errors="ignore"), fds + got  # without QMP's 0xff
            while (taken := take_json(text)) is not None:
                message, text = taken
                self.commands[message.get("id")] = message["execute"]
                self.requests[message["execute"]] += 1
                self.fds = fds
                message = self.request(message)
                if message is not None:
                    socket.send_fds(far, [json.dumps(message).encode() + b"\n"], fds)
                    close_all(fds)
                    fds = []

    def _replies(self, near, far):
        for line in far.makefile("rb"):
            message = json.loads(line)
            message = self.reply(message, self.commands.get(message.get("id")))
            if message is not None:
                self.say(message)

    def say(self, message):
        """To ferryd."""
        self.near.sendall(json.dumps(message).encode() + b"\r\n")

    def ask(self, message):
        """QEMU, from within `request`: before the message that it is about."""
        self.far.sendall(json.dumps(message).encode() + b"\n")

    def answer(self, message, value):
        """In QEMU's place."""
        self.say({"return": value, "id": message["id"]})

    def tell(self, event, data):
        """In QEMU's place, too."""
        now = time.time_ns() // 1000
        self.say({"event": event, "data": data,
                   "timestamp": {"seconds": now // 1000000, "microseconds": now % 1000000}})

    def close(self):
        for sock in (self.listener, *self.socks):
            shut(sock)
            sock.close()


def shut(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def close_all(fds):
    for fd in fds:
        os.close(fd)


def take_json(text):
    """The first whole object of a text, and what follows; None: there is none yet."""
    try:
        message, end = json.JSONDecoder().raw_decode(text.lstrip())
    except ValueError:
        return None
    return message, text.lstrip()[end:]


# ---- how a migration from a to b is held in each state ----

def hold_setup(scene):
    """The destination's daemon does not answer: it stands still."""
    relay = scene.relay(scene.b.listen())
    scene.b.daemon.suspend()
    scene.a.migrate(relay.uri)
    scene.a.reach("setup")
    eventually(lambda: relay.passed["out"] > 16, what="the source's introduction")


def hold_active(scene):
    """The link is slow, and some of RAM has gone over it."""
    scene.a.set(max_bandwidth=SLOW)
    scene.a.migrate(scene.b.listen())
    await_pages(scene)


def hold_pre_switchover(scene):
    scene.a.capable(pause_before_switchover=True)
    scene.a.migrate(scene.b.listen())
    scene.a.reach("pre-switchover")


def _hold_record(scene, way, kind):
    """The link keeps a record back until the scene lets it go."""
    reached = threading.Event()

    def keep_back(raw):
        reached.set()
        scene.let_go.wait()
        return None if scene.cut else raw

    relay = scene.relay(scene.b.listen(), tap=Tap().on(way, kind, keep_back))
    scene.a.migrate(relay.uri)
    scene.a.reach("device")
    assert reached.wait(DEADLINE)


def hold_device(scene):
    """The source's state is out of its QEMU and never arrives."""
    scene.cut = True
    _hold_record(scene, "out", STATE)


def hold_loaded(scene):
    """The destination's QEMU has loaded it, and the source is not told."""
    _hold_record(scene, "back", READY)


def cut_at_go(scene):
    """The guest was given away, the word for it does not arrive, and the link stays down."""
    def cut(raw):
        relay.open = False

    relay = scene.relay(scene.b.listen(), tap=Tap().on("out", GO, cut))
    scene.a.migrate(relay.uri)
    eventually(lambda: scene.a.info().get("handover") == "undecided", what="undecided")
    return relay


HOLD = {
    "setup": hold_setup,
    "active": hold_active,
    "pre-switchover": hold_pre_switchover,
    "device": hold_device,
    "loaded": hold_loaded,
}
