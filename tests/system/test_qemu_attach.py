# SPDX-License-Identifier: BSD-3-Clause
"""Attaching to a stock QEMU by its monitor alone: what is found, and that nothing is left behind."""

import os
import threading

import pytest
from lab import DEADLINE, Qmp
from qemu import attach
from qemu_scenes import (attach_refused, attach_through, check_console, check_nothing_left, descriptors,
                         refused, second_block, settings)
from scenes import GUEST, MIB, eventually, path

pytestmark = pytest.mark.qemu


def guests(host):
    return {guest["name"]: guest for guest in host.qmp.cmd("query-guests")}


# ---- what is found ----

@path("qemu/attach/found")
def test_found(vms):
    running, target = vms.source(), vms.target(vms.a, "waits")
    found = guests(vms.a)
    assert found[GUEST] == {
        "name": GUEST, "driver": "qemu", "attached": True, "status": "running", "pid": running.pid,
        "ram": 64 * MIB, "blocks": [{"name": "mem0", "length": 64 * MIB, "gpa": 0}], "disks": [],
        "tracking": ["pagemap-scan"]}
    assert (found["waits"]["status"], found["waits"]["pid"]) == ("inmigrate", target.pid)


@path("qemu/attach/found/two-blocks")
def test_two_blocks(vms):
    vms.qemu(vms.a, **second_block(vms, "s"))
    found = guests(vms.a)[GUEST]
    assert found["ram"] == 80 * MIB
    assert sorted(block["name"] for block in found["blocks"]) == ["mem0", "mem1"]
    assert {block["name"]: block["gpa"] for block in found["blocks"]} == {
        "mem0": 0, "mem1": 4 << 30}


@path("qemu/attach/found/paused")
def test_paused(vms):
    """What others tell QEMU is seen."""
    source = vms.source()
    source.qmp.cmd("stop")
    vms.a.await_run_state("paused")
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    attach(vms.a.qmp, source)
    assert vms.a.run_state() == "paused"
    source.qmp.cmd("cont")
    vms.a.await_run_state("running")


@path("qemu/attach/stop-and-cont")
def test_stop_cont(vms):
    source = vms.source()
    vms.a.qmp.cmd("stop", guest=GUEST)
    assert (vms.a.run_state(), source.state()) == ("paused", "paused")
    vms.a.qmp.cmd("cont", guest=GUEST)
    assert (vms.a.run_state(), source.state()) == ("running", "running")
    check_console(source)


# ---- and what is left ----

@path("qemu/attach/leaves-nothing/{status}/{how}")
@pytest.mark.parametrize("how", ["detached", "daemon-ends", "daemon-killed"])
@pytest.mark.parametrize("status", ["running", "inmigrate"])
def test_leaves_nothing(vms, status, how):
    qemu = vms.qemu(incoming=status == "inmigrate")
    before, fds = settings(qemu), descriptors(qemu)
    attach(vms.a.qmp, qemu)
    assert descriptors(qemu) != fds  # the daemon's connection
    if how == "detached":
        vms.a.qmp.cmd("guest-detach", guest=GUEST)
        assert guests(vms.a) == {}
    elif how == "daemon-ends":
        assert vms.a.daemon.terminate() == 0
    else:
        vms.a.kill()
    check_nothing_left(qemu, fds)
    assert qemu.state() == status
    assert settings(qemu) == before
    free = Qmp(qemu.qmp_path)
    assert free.cmd("query-status")["status"] == status
    free.close()


@path("qemu/attach/leaves-nothing/inmigrate/detached/qemu-is-late")
def test_leaves_nothing_late(vms):
    """It is not waited for; what was set in it is put back as soon as it hears of it."""
    qemu = vms.qemu(incoming=True)
    before, fds = settings(qemu), descriptors(qemu)
    attach(vms.a.qmp, qemu)
    vms.a.set(guest_timeout=100)
    qemu.suspend()
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    qemu.wake()
    check_nothing_left(qemu, fds)
    assert settings(qemu) == before


@path("qemu/attach/again")
def test_again(vms):
    """As often as one likes; another daemon may have it, too."""
    source = vms.source(attached=False)
    fds = descriptors(source)
    for host in (vms.a, vms.b, vms.a):
        attach(host.qmp, source)
        host.qmp.cmd("guest-detach", guest=GUEST)
    check_nothing_left(source, fds)
    check_console(source)


@path("qemu/attach/qemu-ends")
def test_qemu_ends(vms):
    source = vms.source()
    source.kill()
    event = vms.a.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    assert "QMP" in event["data"]["reason"]
    assert guests(vms.a) == {}
    os.truncate(source.ram_path, 0)  # it begins with what a machine has that is turned on
    vms.source(ram_path=source.ram_path)
    assert guests(vms.a)[GUEST]["status"] == "running"


def hold_leave(vms, source):
    """A guest-detach that is under way, for QEMU does not answer; its session."""
    asked, leaving = threading.Event(), threading.Event()

    def swallow(message):
        if message["execute"] != "query-status" or not leaving.is_set():
            return message
        asked.set()
        return None

    relay = vms.relay_qmp(source, request=swallow)
    attach_through(vms.a, relay)
    eventually(lambda: relay.requests["query-status"] == 2, what="the attach's last words")
    leaving.set()
    session = vms.a.session()
    session.send({"execute": "guest-detach", "arguments": {"guest": GUEST}})
    assert asked.wait(DEADLINE)
    return session


@path("qemu/attach/left/qemu-ends")
def test_ends_as_it_is_left(vms):
    source = vms.source(attached=False)
    session = hold_leave(vms, source)
    source.kill()
    vms.a.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    assert session.answer()["return"] == {}
    assert guests(vms.a) == {}


@path("qemu/attach/left/is-not-attached-again")
def test_attached_as_it_is_left(vms):
    """By its name alone a libferry comes back; a QEMU's connection is about to end."""
    source = vms.source(attached=False)
    session = hold_leave(vms, source)
    error = refused(vms.a.qmp, "guest-attach", name=GUEST, driver="agent")
    assert error.code == "guest-exists"
    source.kill()
    assert session.answer()["return"] == {}


@path("qemu/attach/given-up")
def test_given_up(vms):
    """ferryd ends in the midst of it: what was set for a guest to come is put back."""
    target = vms.target(attached=False)
    before, reached = settings(target), threading.Event()

    def swallow(message, command):
        if command != "migrate-set-parameters" or reached.is_set():
            return message
        reached.set()
        return None

    relay = vms.relay_qmp(target, reply=swallow)
    vms.a.session().send({"execute": "guest-attach", "arguments": {
        "name": GUEST, "driver": "qemu", "qmp": str(relay.path)}})
    assert reached.wait(DEADLINE)
    assert settings(target) != before
    assert vms.a.daemon.terminate() == 0
    eventually(lambda: settings(target) == before, what="the settings of before")


@path("qemu/attach/through-a-relay")
def test_relay(vms):
    """The socket is another process's: QEMU's is found by its vCPU."""
    source = vms.source(attached=False)
    attach_through(vms.a, vms.relay_qmp(source))
    assert guests(vms.a)[GUEST]["pid"] == source.pid
    vms.move(source, vms.target())


# ---- who is refused ----

@path("qemu/attach/twice")
def test_twice(vms):
    source = vms.source()
    error = refused(vms.a.qmp, "guest-attach", name=GUEST, driver="qemu", qmp=str(source.qmp_path))
    assert error.code == "guest-exists"
    assert guests(vms.a)[GUEST]["pid"] == source.pid
    check_console(source)


@path("qemu/attach/name-of-another-kind-of-guest")
def test_name_taken(vms):
    vms.a.scripted()
    other = vms.qemu()
    error = refused(vms.a.qmp, "guest-attach", name=GUEST, driver="qemu", qmp=str(other.qmp_path))
    assert error.code == "guest-exists"
    assert guests(vms.a)[GUEST]["driver"] == "agent"
    attach(vms.a.qmp, other, "another")
    assert sorted(guests(vms.a)) == ["another", GUEST]


@path("qemu/attach/name-taken-meanwhile")
def test_name_race(vms):
    """Two clients attach two guests of one name at once: one of them is told."""
    both = [vms.qemu(name=name, incoming=True) for name in ("first", "second")]
    before = [settings(qemu) for qemu in both]
    sessions = [vms.a.session(), vms.a.session()]
    for session, qemu in zip(sessions, both):
        session.send({"execute": "guest-attach", "arguments": {
            "name": GUEST, "driver": "qemu", "qmp": str(qemu.qmp_path)}})
    answers = [session.answer() for session in sessions]
    assert sorted("error" in answer for answer in answers) == [False, True], answers
    loser = next(i for i, answer in enumerate(answers) if "error" in answer)
    assert answers[loser]["error"]["code"] == "guest-exists"
    assert len(guests(vms.a)) == 1
    eventually(lambda: settings(both[loser]) == before[loser], what="the settings of before")


@path("qemu/attach/socket-taken")
def test_socket_taken(vms):
    """QEMU serves one client: who comes second hears nothing, and is told why."""
    source = vms.qemu()
    other = Qmp(source.qmp_path)
    vms.sockets.append(other)
    error = attach_refused(vms.a, source.qmp_path, GUEST, "one client")
    assert error.code == "guest-timeout"
    other.close()
    eventually(lambda: not guests(vms.a))
    attach(vms.a.qmp, source)


@path("qemu/attach/socket/{what}")
@pytest.mark.parametrize("what", ["missing", "a-file", "a-folder", "too-long", "relative-nowhere"])
def test_no_socket(vms, what):
    file = vms.lab.folder / "file"
    file.write_text("")
    paths = {"missing": "/nowhere/vm.qmp", "a-file": file, "a-folder": vms.lab.folder,
             "too-long": "/" + 200 * "x", "relative-nowhere": "vm.qmp"}
    error = attach_refused(vms.a, paths[what])
    assert error.code in ("guest-unknown", "guest-invalid")


@path("qemu/attach/arguments/{what}")
@pytest.mark.parametrize("what,arguments,words", [
    ("qemu-without-qmp", {"driver": "qemu"}, "needs 'qmp'"),
    ("qemu-with-fd", {"driver": "qemu", "qmp": "/x", "fd": "x"}, "'fd' is for driver agent"),
    ("agent-with-qmp", {"driver": "agent", "qmp": "/x"}, "'qmp' is for driver qemu"),
    ("default-with-qmp", {"qmp": "/x"}, "'qmp' is for driver qemu"),
    ("unknown-driver", {"driver": "xen", "qmp": "/x"}, "driver"),
    ("bad-name", {"name": "a b", "driver": "qemu", "qmp": "/x"}, "name"),
])
def test_arguments(vms, what, arguments, words):
    error = refused(vms.a.qmp, "guest-attach", **{"name": GUEST, **arguments})
    assert words in error.desc
    assert guests(vms.a) == {}
