# SPDX-License-Identifier: BSD-3-Clause
"""A guest in a stock QEMU moves to another QEMU, and nobody but ferryd has to do anything."""

import contextlib
import mmap
import os
import pathlib
import socket
import subprocess
import threading

import pytest
from lab import DEADLINE, CommandError
from qemu import attach, fill_ram, ram_differences
from qemu_scenes import (FILLED, FILLED_AT, SPENT, attach_through, await_number, await_state,
                         check_arrived, check_console, check_nothing_left, check_stays,
                         descriptors, disk_options, fill_file, hold_active, hold_loaded, hold_pre_switchover, holds_lock,
                         last_pass, refused, second_block, second_file, settings)
from scenes import GUEST, MIB, PAGE, address_of, check_moved, eventually, path

pytestmark = pytest.mark.qemu


@path("qemu/tcp/{guest}")
@pytest.mark.parametrize("guest,args,says", [
    ("checker", "set=2 every=20", "checker: cpu 0 pass"),
    ("idle", "hz=1000", "idle: ticks"),
    ("writer", "set=8", "writer: cpu 0 pass"),
])
def test_tcp(vms, guest, args, says):
    source, target = vms.qemu(vms.a, guest=guest, args=args), vms.target()
    source.await_line(says)
    vms.a.migrate(vms.b.listen())
    sent, got = vms.a.complete(), vms.b.complete()
    assert (sent["verified"], got["verified"]) == (True, True)
    await_state(source, "postmigrate")
    assert target.state() == "running"
    target.await_line(says)


def rounds_of_writer(vms, bandwidth):
    """Moves a guest that keeps writing 8 MiB, all of it in each round, when that bandwidth is expected
    of the last one; its rounds, and how many synchronisations there were."""
    source, target = vms.qemu(vms.a, guest="writer", args="set=8"), vms.target()
    source.await_line("writer: cpu 0 pass")
    vms.a.set(max_bandwidth=32 * MIB, avail_switchover_bandwidth=bandwidth)
    vms.a.migrate(vms.b.listen())
    sent = vms.a.complete()
    vms.b.complete()
    target.await_line("writer: cpu 0 pass")
    rounds = vms.a.qmp.cmd("query-migrate-history", guest=GUEST)["rounds"]
    assert rounds[-1]["pages"] > 0, rounds
    return rounds, sent["ram"]["dirty-sync-count"]


@path("qemu/stop/round-meanwhile")
def test_round_meanwhile(vms):
    """What little a guest at work has left goes while its QEMU gets ready to stop it: behind that
    round there is but the synchronisation with the guest stopped."""
    rounds, syncs = rounds_of_writer(vms, 512 * MIB)
    assert rounds[-1]["round"] == syncs - 1, rounds


@path("qemu/stop/no-round-meanwhile/slow-link")
def test_no_round_meanwhile(vms):
    """Else the guest would stand still while what it has written again is sent once more."""
    rounds, syncs = rounds_of_writer(vms, 64 * MIB)
    assert rounds[-1]["round"] == syncs - 2, rounds


@path("qemu/unix")
def test_unix(vms):
    source, target = vms.pair(FILLED)
    vms.a.migrate(listen_paused(vms.b, f"unix:{vms.lab.folder}/link"))
    check_same(vms.a, vms.b, source, target)


@path("qemu/fd")
def test_fd(vms):
    source, target = vms.pair(FILLED)
    host, port = address_of(vms.b.listen())
    with socket.create_connection((host, port)) as link:
        vms.a.qmp.cmd("getfd", fds=[link.fileno()], fdname="link")
    vms.a.migrate("fd:link")
    vms.a.complete()
    vms.b.complete()
    check_arrived(source, target)


@path("qemu/exec/save-and-restore")
def test_exec(vms):
    """Saved to a file; restored from it when the source has long gone."""
    source = vms.source(FILLED)
    file = vms.lab.folder / "saved"
    vms.a.migrate(f"exec:cat >{file}")
    vms.a.complete()
    await_state(source, "postmigrate")
    assert FILLED < file.stat().st_size < 4 * FILLED
    source.kill()
    target = vms.target()
    vms.b.qmp.cmd("migrate-incoming", guest=GUEST, uri=f"exec:cat {file}", autostart=False)
    vms.b.complete()
    assert ram_differences(source, target) == []
    vms.b.qmp.cmd("cont", guest=GUEST)
    await_number(target, r"checker: cpu 0 pass (\d+)", last_pass(source) + 2)
    check_console(target)


@path("qemu/exec/command-fails")
def test_exec_fails(vms):
    """The guest was given away to a command that says it did not take it: it comes back."""
    image, both = disk_options(vms)
    source = vms.source(FILLED, **both)
    fds = descriptors(source)
    vms.a.migrate("exec:cat >/dev/null; exit 3")
    vms.a.fail(GUEST, "status 3")
    check_stays(vms.a, source)
    assert holds_lock(source, image)
    check_nothing_left(source, fds)
    vms.move(source, vms.target(**both))


@path("qemu/exec/command-fails/qemu-is-late/{how}")
@pytest.mark.parametrize("how", ["for-a-moment", "for-long"])
def test_exec_fails_late(vms, how):
    """A QEMU that is not through with its migration refuses to run the guest; the end of the job is
    told all the same."""
    source = vms.source(FILLED, attached=False)
    let_go = threading.Event()

    def refuse(message):
        if message["execute"] != "cont" or let_go.is_set():
            return message
        if how == "for-a-moment":
            let_go.set()
        relay.say({"id": message["id"], "error": {
            "class": "GenericError", "desc": "Migration is not finalized yet"}})
        return None

    relay = vms.relay_qmp(source, request=refuse)
    attach_through(vms.a, relay)
    vms.a.migrate("exec:cat >/dev/null; exit 3")
    vms.a.fail(GUEST, "status 3")
    assert vms.a.run_state() == ("running" if how == "for-a-moment" else "postmigrate")
    let_go.set()
    check_stays(vms.a, source)


@path("qemu/there-and-back/five-times")
def test_there_and_back(vms):
    """Each way needs a QEMU that waits; the guest checks itself all the time."""
    here, there, source = vms.a, vms.b, vms.source()
    for _ in range(10):
        target = vms.target(there)
        here.migrate(listen_paused(there))
        check_same(here, there, source, target)
        here.qmp.cmd("guest-detach", guest=GUEST)
        source.kill()
        here, there, source = there, here, target
    check_console(source)


# ---- RAM, byte for byte ----

def listen_paused(there, uri="tcp:127.0.0.1:0"):
    """For a guest that shall not run where it arrives: both ends stand still in the end."""
    there.qmp.cmd("migrate-incoming", guest=GUEST, uri=uri, autostart=False)
    return there.info()["listening"]


def check_same(here, there, source, target):
    """Both stand still and have the same RAM; then the guest goes on."""
    here.complete()
    there.complete()
    assert there.run_state() == "paused"
    await_state(source, "postmigrate")
    assert target.qmp.cmd("query-status")["running"] is False
    assert ram_differences(source, target) == []
    there.qmp.cmd("cont", guest=GUEST)
    assert there.run_state() == "running"
    check_arrived(source, target)


@path("qemu/ram/{how}")
@pytest.mark.parametrize("how", ["running", "xbzrle", "paused"])
def test_ram(vms, how):
    source, target = vms.pair(FILLED, args="set=4 every=20")
    if how == "paused":
        vms.a.qmp.cmd("stop", guest=GUEST)
    for host in (vms.a, vms.b):
        host.capable(xbzrle=how == "xbzrle")
    if how == "xbzrle":
        vms.a.set(downtime_limit=1)
    vms.a.migrate(vms.b.listen() if how == "paused" else listen_paused(vms.b), verify=False)
    if how == "xbzrle":
        eventually(lambda: vms.a.info().get("xbzrle-cache", {}).get("pages"), what="deltas")
        vms.a.set(downtime_limit=1000)
    check_same(vms.a, vms.b, source, target)


@path("qemu/ram/returned/{how}")
@pytest.mark.parametrize("how", ["verify", "no-verify"])
def test_returned(vms, how):
    """A balloon, free page reporting and a virtio-mem have QEMU punch holes, which are not reported:
    what was sent before is freed again at the destination."""
    source, target = vms.pair(FILLED)
    vms.a.set(max_bandwidth=8 * MIB)
    vms.a.migrate(listen_paused(vms.b), verify=how == "verify")
    vms.a.reach("active")
    eventually(lambda: allocated_bytes(target) >= FILLED // 2, what="4 MiB")
    subprocess.run(["fallocate", "--punch-hole", "--offset", str(FILLED_AT), "--length",
                    str(MIB), source.ram_path], check=True)
    vms.a.set(max_bandwidth=0)
    check_same(vms.a, vms.b, source, target)
    assert allocated_bytes(target) <= allocated_bytes(source) + MIB // 2


def allocated_bytes(qemu):
    return qemu.ram_path.stat().st_blocks * 512


@path("qemu/ram/behind-the-pci-hole")
def test_pci_hole(vms):
    """One file, seen by the guest in two places: 1 GiB of it lies behind 4 GiB."""
    large = {"memory": 4096, "rom": False}
    source = vms.source(attached=False, **large)
    target = vms.target(**large)
    fill_ram(source, 3500 * MIB, FILLED)
    attach(vms.a.qmp, source)
    vms.a.migrate(listen_paused(vms.b))
    check_same(vms.a, vms.b, source, target)


HUGE_PAGE = 2 * MIB
HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")


@pytest.fixture(name="hugetlbfs")
def fixture_hugetlbfs(vms):
    """A folder whose files are of huge pages, enough for two guests."""
    before, wanted = int(HUGE_PAGES.read_text()), 2 * 64 * MIB // HUGE_PAGE
    folder = vms.lab.folder / "huge"
    folder.mkdir()
    with contextlib.ExitStack() as undo:
        undo.callback(HUGE_PAGES.write_text, str(before))
        HUGE_PAGES.write_text(str(before + wanted))
        if int(HUGE_PAGES.read_text()) < before + wanted:
            pytest.skip("there are no huge pages left")
        subprocess.run(["mount", "-t", "hugetlbfs", "none", folder], check=True)
        undo.callback(subprocess.run, ["umount", folder], check=True)
        vms.lab.undo.push(undo.pop_all())
    return folder


@path("qemu/ram/hugetlbfs")
@pytest.mark.skipif(os.geteuid() != 0, reason="huge pages and a mount need root")
def test_hugetlbfs(vms, hugetlbfs):
    files = [hugetlbfs / "source", hugetlbfs / "target"]
    for file in files:
        vms.lab.undo.callback(file.unlink, missing_ok=True)
    source = vms.source(ram_path=files[0], args="set=4 every=20")
    target = vms.target(ram_path=files[1])
    vms.a.migrate(listen_paused(vms.b))
    vms.a.complete()
    vms.b.complete()
    assert vms.a.info()["ram"]["dirty-sync-count"] >= 2
    assert same_bytes(*files)
    vms.b.qmp.cmd("cont", guest=GUEST)
    check_arrived(source, target)


@path("qemu/ram/returned/hugetlbfs")
@pytest.mark.skipif(os.geteuid() != 0, reason="huge pages and a mount need root")
def test_hugetlbfs_returned(vms, hugetlbfs):
    """As a balloon returns them: huge pages as a whole."""
    files = [hugetlbfs / "source", hugetlbfs / "target"]
    for file in files:
        vms.lab.undo.callback(file.unlink, missing_ok=True)
    source = vms.source(ram_path=files[0], attached=False)
    with open(files[0], "r+b") as file, mmap.mmap(file.fileno(), 0) as ram:
        ram[FILLED_AT:FILLED_AT + FILLED] = os.urandom(FILLED)
    attach(vms.a.qmp, source)
    target = vms.target(ram_path=files[1])
    vms.a.set(max_bandwidth=16 * MIB, downtime_limit=0)
    vms.a.migrate(listen_paused(vms.b))
    vms.a.reach("active")
    eventually(lambda: vms.a.info()["ram"]["dirty-sync-count"] >= 2, what="the second round")
    before = allocated_bytes(source)
    subprocess.run(["fallocate", "--punch-hole", "--offset", str(FILLED_AT), "--length",
                    str(2 * HUGE_PAGE), files[0]], check=True)
    assert allocated_bytes(source) == before - 2 * HUGE_PAGE
    vms.a.set(max_bandwidth=0, downtime_limit=300)
    vms.a.complete()
    vms.b.complete()
    assert same_bytes(*files)
    vms.b.qmp.cmd("cont", guest=GUEST)
    check_arrived(source, target)


def same_bytes(*files):
    """What both have, read as a whole: these files don't tell what is a hole."""
    first, second = (file.read_bytes() for file in files)
    return first == second


@path("qemu/ram/two-blocks")
def test_two_blocks(vms):
    """RAM behind 4 GiB moves as well."""
    source = vms.source(attached=False, **second_block(vms, "s"))
    target = vms.target(**second_block(vms, "t"))
    fill_file(second_file(vms, "s"), FILLED)
    attach(vms.a.qmp, source)
    vms.a.migrate(listen_paused(vms.b))
    check_same(vms.a, vms.b, source, target)
    assert second_file(vms, "s").read_bytes() == second_file(vms, "t").read_bytes()


@path("qemu/stop/while-active")
def test_stop_while_active(vms):
    source, target = vms.pair(FILLED)
    hold_active(vms)
    vms.a.qmp.cmd("stop", guest=GUEST)
    assert vms.a.run_state() == "paused"
    vms.a.set(max_bandwidth=0)
    check_same(vms.a, vms.b, source, target)


@path("qemu/stop/sleeping")
def test_stop_sleeping(vms):
    """An older QEMU accepts the command and leaves a guest in S3 as it is: an error says so."""
    def sleep(message, command):
        if command == "query-status" and asleep:
            message["return"] = {"status": "suspended", "running": False}
        return message

    def ignore(message):
        if message["execute"] != "stop" or not asleep:
            return message
        relay.answer(message, {})
        return None

    asleep = []
    source = vms.source(attached=False)
    relay = vms.relay_qmp(source, request=ignore, reply=sleep)
    attach_through(vms.a, relay)
    asleep.append(True)
    error = refused(vms.a.qmp, "stop", guest=GUEST)
    assert error.code == "guest-state" and "system_wakeup" in error.desc
    assert vms.a.run_state() == "running"
    asleep.clear()
    vms.a.qmp.cmd("stop", guest=GUEST)
    assert vms.a.run_state() == source.state() == "paused"


@path("qemu/stop/as-ferryd-is-about-to")
def test_stop_before(vms):
    """Another of QEMU's clients stops the guest when ferryd has just been told that it runs."""
    source, target = vms.source(FILLED, attached=False), vms.target()
    late = []

    def stop_first(message, command):
        if command == "query-status" and relay.requests["getfd"] and not late:
            late.append(message)
            source.qmp.cmd("stop")
            return None
        if message.get("event") == "STOP" and late:
            relay.say(message)
            return late[0]
        return message

    relay = vms.relay_qmp(source, reply=stop_first)
    attach_through(vms.a, relay)
    vms.a.migrate(vms.b.listen())
    check_same(vms.a, vms.b, source, target)


@path("qemu/stop/as-ferryd-does/{end}")
@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_stop_meanwhile(vms, end):
    """What an operator has asked for before the guest is seen to stand still holds."""
    source, target = vms.source(FILLED, attached=False), vms.target()
    held, reached = [], threading.Event()

    def keep_back(message):
        if message["execute"] == "migrate":
            held.append(message)
            reached.set()
            return None
        if message["execute"] == "stop" and end != "cancelled":
            relay.ask(held[0] if end == "completed" else {**held[0], "arguments": {"uri": "x"}})
        return message

    relay = vms.relay_qmp(source, request=keep_back)
    attach_through(vms.a, relay)
    vms.a.migrate(vms.b.listen())
    assert reached.wait(DEADLINE)
    vms.a.qmp.cmd("stop", guest=GUEST)
    if end == "completed":
        check_same(vms.a, vms.b, source, target)
        return
    if end == "cancelled":
        vms.a.cancel()
    assert vms.a.end()["status"] == end
    assert (vms.a.run_state(), source.state()) == ("paused", "paused")


@path("qemu/stop/continued-as-ferryd-stops-it/{end}")
@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_cont_meanwhile(vms, end):
    """So does that a paused guest is to run."""
    source, target = vms.source(FILLED, attached=False), vms.target()
    held, reached = [], threading.Event()

    def keep_back(message):
        if message["execute"] != "migrate":
            return message
        held.append(message)
        reached.set()
        return None

    relay = vms.relay_qmp(source, request=keep_back)
    attach_through(vms.a, relay)
    vms.a.qmp.cmd("stop", guest=GUEST)
    vms.a.migrate(vms.b.listen())
    assert reached.wait(DEADLINE)
    vms.a.qmp.cmd("cont", guest=GUEST)
    if end == "completed":
        relay.ask(held[0])
        vms.a.complete()
        vms.b.complete()
        check_arrived(source, target)
    else:
        vms.a.cancel()
        assert vms.a.end()["status"] == end
        check_stays(vms.a, source)


@path("qemu/stop/as-ferryd-does/qemu-is-late")
def test_stop_late(vms):
    """QEMU, which had stopped its guest for ferryd when an operator wanted that, would run it again
    as its migration is cancelled; it tells of all of it when the job has long ended."""
    source, _ = vms.source(FILLED, attached=False), vms.target()
    late, let_go = threading.Event(), threading.Event()

    def keep_back(message, command):
        if message.get("event") == "STOP":
            late.set()
        if late.is_set():
            let_go.wait()
        return message

    attach_through(vms.a, vms.relay_qmp(source, reply=keep_back))
    vms.a.set(guest_timeout=1000)
    vms.a.migrate(vms.b.listen())
    assert late.wait(DEADLINE)
    vms.a.qmp.send({"execute": "stop", "arguments": {"guest": GUEST}})
    assert "error" in vms.a.qmp.answer()  # no answer in time: it may have been done
    assert vms.a.end()["status"] == "failed"
    let_go.set()
    vms.a.await_run_state("paused")
    eventually(lambda: source.state() == "paused", what="a guest that stands still")


@path("qemu/state/read-while-asked")
def test_read_while_asked(vms):
    """QEMU writes its state with its lock held, and answers when all of it was taken: ferryd, which
    waits for the answer, takes it."""
    source, target = vms.source(attached=False), vms.target()
    order = []

    def small_buffer(message):
        if message["execute"] == "getfd":
            with socket.socket(fileno=os.dup(relay.fds[0])) as stream:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return message

    def answer_late(message, command):
        if command == "migrate-continue":
            source.qmp.await_event("MIGRATION", status="device")
            source.qmp.cmd("query-status")
            order.append("written")
        return message

    source.qmp.execute("migrate-set-capabilities", {"capabilities": [
        {"capability": "events", "state": True}]})
    relay = vms.relay_qmp(source, request=small_buffer, reply=answer_late)
    attach_through(vms.a, relay)
    vms.a.migrate(vms.b.listen())
    vms.a.complete()
    assert order == ["written"]
    check_arrived(source, target)


@path("qemu/pre-switchover/continued")
def test_continued(vms):
    source, target = vms.pair(FILLED)
    hold_pre_switchover(vms)
    assert source.qmp.cmd("query-status")["running"] is False
    vms.a.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    vms.a.complete()
    vms.b.complete()
    check_arrived(source, target)


@path("qemu/told-cont-elsewhere/waiting")
def test_cont_elsewhere(vms):
    """Whoever tells the destination's QEMU to run: before GO the guest does not run there."""
    source, target = vms.pair(FILLED)
    target.qmp.cmd("cont")
    hold_loaded(vms)
    assert target.qmp.cmd("query-status")["running"] is False
    vms.release()
    vms.a.complete()
    vms.b.complete()
    check_arrived(source, target)


@path("qemu/told-cont-elsewhere/loaded/{end}")
@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_cont_loaded(vms, end):
    """It is stopped at once, and runs in one place in the end."""
    source, target = vms.pair(FILLED)
    hold_loaded(vms)
    target.qmp.cmd("cont")
    target.qmp.await_event("STOP")
    if end == "completed":
        vms.release()
        vms.a.complete()
        vms.b.complete()
        check_arrived(source, target)
        return
    vms.a.cancel()
    assert vms.a.end()["status"] == end
    vms.release()
    assert vms.b.end()["status"] == "failed"
    vms.b.await_run_state(SPENT)
    assert target.qmp.cmd("query-status")["running"] is False
    check_stays(vms.a, source)


@path("qemu/no-disks/{flag}")
@pytest.mark.parametrize("flag", ["blk", "inc"])
def test_no_disks(vms, flag):
    """QEMU's disks are not ferryd's to move."""
    source, target = vms.pair()
    error = refused(vms.a.qmp, "migrate", guest=GUEST, uri=vms.b.listen(), **{flag: True})
    assert error.code == "no-disks"
    assert (source.state(), target.state()) == ("running", "inmigrate")


# ---- its disk ----

@path("qemu/disk/lock")
def test_lock(vms):
    """One of both may write to the image, at any time: whoever has the guest."""
    image, both = disk_options(vms)
    source, target = vms.pair(FILLED, both)
    assert (holds_lock(source, image), holds_lock(target, image)) == (True, False)
    vms.move(source, target)
    assert (holds_lock(source, image), holds_lock(target, image)) == (False, True)
    with pytest.raises(CommandError) as locked:
        source.qmp.cmd("cont")
    assert "lock" in locked.value.desc
    check_console(target)


@path("qemu/disk/lock-while-paused-at-the-destination")
def test_lock_paused(vms):
    """A guest that waits to be told to run takes its disk when it is."""
    image, both = disk_options(vms)
    source, target = vms.pair(0, both)
    vms.a.migrate(listen_paused(vms.b))
    vms.a.complete()
    vms.b.complete()
    assert not holds_lock(source, image)
    vms.b.qmp.cmd("cont", guest=GUEST)
    assert holds_lock(target, image)
    check_arrived(source, target)


# ---- QEMU is left as it was ----

@path("qemu/settings/kept/{end}")
@pytest.mark.parametrize("end", ["completed", "failed"])
def test_settings(vms, end):
    """What others have set in QEMU for its own migration is theirs again, at both ends."""
    source, target = vms.source(attached=False), vms.target(attached=False)
    for qemu in (source, target):
        qemu.qmp.cmd("migrate-set-parameters", max_bandwidth=12345678, downtime_limit=777)
        qemu.qmp.cmd("migrate-set-capabilities", capabilities=[
            {"capability": "auto-converge", "state": True}])
    before = [settings(source), settings(target)]
    attach(vms.a.qmp, source)
    attach(vms.b.qmp, target)
    if end == "completed":
        vms.move(source, target)
    else:
        vms.a.migrate("exec:cat >/dev/null; exit 3")
        vms.a.fail(GUEST)
        vms.b.qmp.cmd("guest-detach", guest=GUEST)
    assert settings(source) == before[0]
    if end == "completed":
        assert settings(target) == before[1]
    eventually(lambda: settings(target) == before[1], what="the destination's settings of before")


@path("qemu/settings/back-before-the-end-is-told/{end}")
@pytest.mark.parametrize("end", ["source", "destination"])
def test_settings_back(vms, end):
    """Whoever sees that the migration is completed may end its QEMUs, which can crash where they are
    given settings as they do."""
    asked, let_go = threading.Event(), threading.Event()

    def keep_back(message, command):
        if command == "migrate-set-capabilities" and relay.requests[command] == 2:
            asked.set()
            let_go.wait()
        return message

    source, target = vms.source(attached=False), vms.target(attached=False)
    relay = vms.relay_qmp(source if end == "source" else target, reply=keep_back)
    for name, host, qemu in (("source", vms.a, source), ("destination", vms.b, target)):
        if name == end:
            attach_through(host, relay)
        else:
            attach(host.qmp, qemu)
    vms.a.migrate(vms.b.listen())
    assert asked.wait(DEADLINE)
    host = vms.a if end == "source" else vms.b
    status = host.info()["status"]
    let_go.set()
    assert status == "device"
    vms.a.complete()
    vms.b.complete()
    check_arrived(source, target)


@path("qemu/settings/spent")
def test_settings_spent(vms):
    """A QEMU that has nothing before it but its end is given none before it is let go: it may be
    ending."""
    vms.source(FILLED)
    target = vms.target(attached=False)
    before = settings(target)
    relay = vms.relay_qmp(target)
    attach_through(vms.b, relay)
    hold_loaded(vms)
    vms.a.cancel()
    vms.b.await_run_state(SPENT)
    assert relay.requests["migrate-set-capabilities"] == 1
    vms.b.qmp.cmd("guest-detach", guest=GUEST)
    assert settings(target) == before


@path("qemu/settings/ending")
def test_settings_ending(vms):
    """Nor is one that says that it ends, which it is here made to say."""
    source = vms.source(FILLED, attached=False)
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    vms.target()
    hold_loaded(vms)
    relay.tell("SHUTDOWN", {"guest": False, "reason": "host-signal"})
    vms.a.qmp.await_event("SHUTDOWN", name=GUEST)
    vms.a.cancel()
    assert vms.a.end()["status"] == "cancelled"
    check_stays(vms.a, source)
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    assert relay.requests["migrate-set-capabilities"] == 1


@path("qemu/leaves-nothing/after-the-move")
def test_leaves_nothing(vms):
    source, target = vms.source(FILLED, attached=False), vms.target(attached=False)
    fds = [descriptors(source), descriptors(target)]
    attach(vms.a.qmp, source)
    attach(vms.b.qmp, target)
    vms.move(source, target)
    for host, qemu, before in ((vms.a, source, fds[0]), (vms.b, target, fds[1])):
        host.qmp.cmd("guest-detach", guest=GUEST)
        check_nothing_left(qemu, before)


@path("qemu/fails-twice-then-moves")
def test_twice(vms):
    source, target = vms.pair(FILLED)
    for _ in range(2):
        vms.a.migrate("exec:cat >/dev/null; exit 3")
        vms.a.fail(GUEST, "status 3")
        check_stays(vms.a, source)
    vms.move(source, target)


# ---- what is told of it ----

@path("qemu/fields")
def test_fields(vms):
    source, target = vms.pair(FILLED)
    sent, got = vms.move(source, target)
    ram = sent["ram"]
    assert ram["total"] == 64 * MIB
    assert ram["remaining"] == 0
    assert FILLED // PAGE <= ram["normal"] <= 4 * FILLED // PAGE
    assert ram["transferred"] > ram["normal-bytes"] == ram["normal"] * PAGE
    assert ram["dirty-sync-count"] >= 2
    assert sent["downtime"] <= sent["total-time"]
    assert sum(sent["downtime-parts"].values()) <= sent["downtime"] + 5
    assert got["status"] == "completed"


@path("qemu/announce")
def test_announce(vms):
    """QEMU is told to announce the guest: at its arrival, and when it is asked."""
    source, target = vms.source(), vms.target(attached=False)
    relay = vms.relay_qmp(target)
    attach_through(vms.b, relay)
    vms.move(source, target)
    eventually(lambda: relay.requests["announce-self"] == 1, what="the announcement")
    vms.b.qmp.cmd("announce-self", guest=GUEST)
    assert relay.requests["announce-self"] == 2


# ---- two kinds of guest ----

@path("qemu/beside-libferry/both-move")
def test_both_kinds(vms):
    """One daemon has one of each, and both migrate at the same time."""
    source, target = vms.pair(FILLED)
    other, other_target = vms.a.scripted("other"), vms.b.scripted("other", incoming=True)
    other.do("fill ram 0 16777216 random 7")
    vms.a.set("other", max_bandwidth=MIB)
    vms.a.migrate(vms.b.listen("other"), "other")
    vms.a.reach("active", guest="other")
    hold_active(vms)
    assert (vms.a.status(), vms.a.status("other")) == ("active", "active")
    for name in (GUEST, "other"):
        vms.a.set(name, max_bandwidth=0)
    for host in (vms.a, vms.b):
        host.complete()
        host.complete("other")
    check_arrived(source, target)
    check_moved(other, other_target)


@path("qemu/beside-libferry/{way}")
@pytest.mark.parametrize("way", ["from-libferry", "to-libferry"])
def test_other_kind(vms, way):
    """They don't understand each other's state: refused before a page is sent."""
    blocks = ("mem0:64",)
    if way == "to-libferry":
        source, target = vms.source(FILLED), vms.b.scripted(incoming=True, blocks=blocks)
    else:
        source, target = vms.a.scripted(blocks=blocks), vms.target()
        source.do("fill mem0 0 1048576 random 1")
    relay = vms.relay(vms.b.listen())
    vms.a.migrate(relay.uri)
    vms.a.fail(GUEST, "qemu:pc")
    vms.b.fail(GUEST, "qemu:pc")
    assert relay.passed["out"] < 4096
    assert vms.a.run_state() == "running"
    assert vms.b.run_state() == "inmigrate"
    if way == "to-libferry":
        check_stays(vms.a, source)
    else:
        assert (source.do("state"), target.state()) == ("running", "inmigrate")
