# SPDX-License-Identifier: BSD-3-Clause
"""The scenes that tests play in: two hosts, guests on them, migrations held in each state."""

import contextlib
import socket
import time

import pytest

from lab import DEADLINE, LabError, Relay

MIB = 1 << 20
PAGE = 4096
GUEST = "g"
BLOCKS = ("ram:16",)
ENDED = ("completed", "failed", "cancelled")
SLOW = 2 * MIB  # bytes/s: what is to be seen under way takes seconds


def path(name):
    """Names a test; {parameters} are filled in."""
    return pytest.mark.path(name)


def eventually(ask, timeout=DEADLINE, what="what was awaited"):
    """Waits for what no event tells: until `ask` answers something true, which is returned."""
    end = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise LabError(f"{what} did not come within {timeout} s")
        time.sleep(0.005)  # how often is asked


class Host:
    """One daemon, with a session to drive it."""

    def __init__(self, lab, name, **options):
        self.lab = lab
        self.name = name
        self.options = options
        self.start()

    def start(self):
        self.daemon = self.lab.daemon(self.name, **self.options)
        self.qmp = self.lab.session(self.daemon)

    def kill(self):
        self.daemon.kill()

    def restart(self, *guests):
        """After kill; waits until the guests have found the new daemon."""
        self.start()
        for guest in guests:
            self.lab.await_guest(self.qmp, guest)

    def session(self):
        return self.lab.session(self.daemon)

    def scripted(self, name=GUEST, **options):
        options.setdefault("blocks", BLOCKS)
        return self.lab.scripted(name, self.daemon, self.qmp, **options)

    def vmm(self, name=GUEST, **options):
        return self.lab.vmm(name, self.daemon, self.qmp, **options)

    def info(self, guest=GUEST):
        return self.qmp.cmd("query-migrate", guest=guest)

    def status(self, guest=GUEST):
        return self.info(guest).get("status")

    def run_state(self, guest=GUEST):
        return self.qmp.cmd("query-status", guest=guest)["status"]

    def set(self, guest=GUEST, **parameters):
        self.qmp.cmd("migrate-set-parameters", guest=guest, **parameters)

    def capable(self, guest=GUEST, **states):
        self.qmp.cmd("migrate-set-capabilities", guest=guest, capabilities=[
            {"capability": name.replace("_", "-"), "state": state}
            for name, state in states.items()])

    def listen(self, guest=GUEST, uri="tcp:127.0.0.1:0"):
        """Waits for a migration; the URI where to."""
        self.qmp.cmd("migrate-incoming", guest=guest, uri=uri)
        return self.info(guest)["listening"]

    def migrate(self, uri, guest=GUEST, verify=True):
        self.capable(guest, verify=verify)
        self.qmp.cmd("migrate", guest=guest, uri=uri)

    def cancel(self, guest=GUEST):
        assert self.qmp.cmd("migrate_cancel", guest=guest) == {}

    def reach(self, *statuses, guest=GUEST):
        return self.qmp.await_status(*statuses, guest=guest)

    def end(self, guest=GUEST):
        """Waits for the end of the migration, whichever it is."""
        return self.reach(*ENDED, guest=guest)

    def complete(self, guest=GUEST):
        info = self.end(guest)
        assert info["status"] == "completed", info
        return info

    def fail(self, guest=GUEST, *words):
        """Waits for a failure whose error-desc has all of the words."""
        info = self.end(guest)
        assert info["status"] == "failed", info
        for word in words:
            assert word in info["error-desc"], info
        assert info["error-desc"].isprintable()
        return info

    def await_run_state(self, state, guest=GUEST):
        eventually(lambda: self.run_state(guest) == state,
                   what=f"run state {state} of {guest} on {self.name}")


@contextlib.contextmanager
def started_by(lab, script):
    """The daemons of this scope are started by a script, in which {ferryd} is the program."""
    build, folder = lab.build, lab.folder / lab.unique("started-by")
    folder.mkdir()
    (folder / "ferryd").write_text(script.format(ferryd=build / "ferryd"))
    (folder / "ferryd").chmod(0o755)
    lab.build = folder
    try:
        yield
    finally:
        lab.build = build


class Scene:
    """Two hosts; guests move from a to b unless told otherwise."""

    def __init__(self, lab):
        self.lab = lab
        self.a = Host(lab, "a")
        self.b = Host(lab, "b")
        self.relays = []
        self.sockets = []

    def close(self):
        for thing in self.relays + self.sockets:
            thing.close()

    def relay(self, uri, **options):
        """A link in front of a destination that listens on tcp."""
        relay = Relay(address_of(uri), **options)
        self.relays.append(relay)
        return relay

    def mute(self):
        """A peer that takes connections and never says a word; its URI."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.sockets.append(listener)
        return f"tcp:127.0.0.1:{listener.getsockname()[1]}"

    def pair(self, fill=MIB, **options):
        """A scripted guest at a with some random RAM, and a VMM at b that waits for it."""
        source = self.a.scripted(**options)
        if fill:
            source.do(f"fill {first_block(options)} 0 {fill} random 1")
        return source, self.b.scripted(incoming=True, **options)

    def move(self, source, target, guest=GUEST):
        """A migration from a to b that must succeed; both ends' records."""
        return move(self.a, self.b, source, target, guest)


def first_block(options):
    return options.get("blocks", BLOCKS)[0].split(":")[0]


def address_of(uri):
    """HOST and PORT of a tcp: URI."""
    host, port = uri.removeprefix("tcp:").rsplit(":", 1)
    return host.strip("[]"), int(port)


def check_moved(source, target):
    """The scripted guest is at the destination, byte for byte, and nowhere else."""
    assert target.do("state") == "running"
    assert source.do("state") == "given-away"
    assert target.do("hash") == source.do("hash")
    assert len(source.events("released")) == 1


def move(here, there, source, target, guest=GUEST, to=None, uri="tcp:127.0.0.1:0"):
    """Migrates a scripted guest, which must succeed; both ends' records."""
    to = to or guest
    target.do("behave stop=ok resume=ok save=ok load=ok")
    source.do("behave stop=ok resume=ok save=ok load=ok")
    source.do("dirty-stop")
    here.capable(guest, pause_before_switchover=False)
    here.set(guest, max_bandwidth=0)
    here.migrate(there.listen(to, uri), guest)
    sent, got = here.complete(guest), there.complete(to)
    assert sent["job"] == got["job"]
    assert sent["verified"] is True and got["verified"] is True
    check_moved(source, target)
    return sent, got


def check_source_runs(host, source, guest=GUEST):
    """A migration ended and the guest is where it was, running."""
    host.await_run_state("running", guest)
    assert source.do("state") == "running"
    assert not source.events("released")
    source.do("dirty-stop")
    before = source.do("hash")
    source.do("dirty 0 4 1000")
    eventually(lambda: source.do("hash") != before, what="a write of the guest")
    source.do("dirty-stop")


# How a migration from a to b is held in each state; each ends with what releases it.

def hold_setup(scene, source, target):
    """The destination's daemon does not answer: it stands still."""
    relay = scene.relay(scene.b.listen())
    scene.b.daemon.suspend()
    scene.a.migrate(relay.uri)
    scene.a.reach("setup")
    eventually(lambda: relay.passed["out"] > 16, what="the source's introduction")


def hold_active(scene, source, target):
    """The link is slow, and some of RAM has gone over it."""
    source.do("fill ram 0 16777216 random 7")
    scene.a.set(max_bandwidth=SLOW)
    scene.a.migrate(scene.b.listen())
    await_pages(scene)


def await_pages(scene):
    """Waits until a migration from a to b is active, and some pages have arrived."""
    scene.a.reach("active")
    scene.b.reach("active")
    eventually(lambda: scene.b.info()["ram"]["normal"] > 16, what="pages that have arrived")
    assert scene.a.status() == "active"


def hold_pre_switchover(scene, source, target):
    scene.a.capable(pause_before_switchover=True)
    scene.a.migrate(scene.b.listen())
    scene.a.reach("pre-switchover")
    assert source.do("state") == "stopped"


def hold_device_save(scene, source, target):
    """The source's VMM does not come to an end with its device state."""
    source.do("behave save=hang")
    scene.a.migrate(scene.b.listen())
    scene.a.reach("device")
    source.await_event("save")


def hold_device_load(scene, source, target):
    """The destination's VMM does not come to an end with the device state."""
    target.do("behave load=hang")
    scene.a.migrate(scene.b.listen())
    scene.a.reach("device")
    target.await_event("load")


HOLD = {
    "setup": hold_setup,
    "active": hold_active,
    "pre-switchover": hold_pre_switchover,
    "device-save": hold_device_save,
    "device-load": hold_device_load,
}
