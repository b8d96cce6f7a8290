# SPDX-License-Identifier: BSD-3-Clause
"""migrate_cancel in each state: QEMU's guest runs on with its disk, and can be migrated anew."""

import threading

import pytest
from qemu_scenes import (FILLED, HOLD, SPENT, attach_through, check_nothing_left, check_stays,
                         descriptors, disk_options, holds_lock, is_tracked, refused, settings)
from scenes import GUEST, eventually, path

pytestmark = pytest.mark.qemu


def check_target(scene, target, state, both):
    """It still waits; once it has loaded a state it can't go back to that, and is of no more use."""
    if state != "loaded":
        assert target.state() == "inmigrate"
        return target
    scene.b.await_run_state(SPENT)
    assert target.qmp.cmd("query-status")["running"] is False
    assert refused(scene.b.qmp, "cont", guest=GUEST).code == "guest-state"
    error = refused(scene.b.qmp, "migrate-incoming", guest=GUEST, uri="tcp:127.0.0.1:0")
    assert error.code == "guest-not-incoming"
    error = refused(scene.b.qmp, "migrate", guest=GUEST, uri="tcp:127.0.0.1:1")
    assert error.code == "guest-state"
    target.kill()
    scene.b.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    return scene.target(ram_path=target.ram_path, **both)


@path("qemu/cancel/source/{state}")
@pytest.mark.parametrize("state", HOLD)
def test_source(vms, state):
    image, both = disk_options(vms)
    source, target = vms.pair(FILLED, both)
    fds, before = descriptors(source), settings(source)
    HOLD[state](vms)
    assert is_tracked(source) == (state != "setup")
    vms.a.cancel()
    assert vms.a.end()["status"] == "cancelled"
    vms.release()
    assert vms.b.end()["status"] == "failed"
    check_stays(vms.a, source)
    assert holds_lock(source, image)
    check_nothing_left(source, fds)
    eventually(lambda: settings(source) == before, what="the settings of before")
    vms.move(source, check_target(vms, target, state, both))


@path("qemu/cancel/destination/{state}")
@pytest.mark.parametrize("state", [name for name in HOLD if name != "setup"])
def test_destination(vms, state):
    image, both = disk_options(vms)
    source, target = vms.pair(FILLED, both)
    fds = descriptors(source)
    HOLD[state](vms)
    vms.b.cancel()
    assert vms.b.end()["status"] == "cancelled"
    vms.release()
    vms.a.fail(GUEST, *(() if vms.cut else ("cancelled",)))
    check_stays(vms.a, source)
    assert holds_lock(source, image)
    check_nothing_left(source, fds)
    vms.move(source, check_target(vms, target, state, both))


@path("qemu/cancel/mute-peer")
def test_mute(vms):
    source = vms.source()
    fds = descriptors(source)
    vms.a.migrate(vms.mute())
    vms.a.reach("setup")
    vms.a.cancel()
    assert vms.a.end()["status"] == "cancelled"
    check_stays(vms.a, source)
    check_nothing_left(source, fds)
    vms.move(source, vms.target())


@path("qemu/cancel/paused-guest-stays-paused/{state}")
@pytest.mark.parametrize("state", ["active", "loaded"])
def test_paused(vms, state):
    source, _ = vms.pair(FILLED)
    vms.a.qmp.cmd("stop", guest=GUEST)
    HOLD[state](vms)
    vms.a.cancel()
    assert vms.a.end()["status"] == "cancelled"
    vms.a.await_run_state("paused")
    assert source.qmp.cmd("query-status")["running"] is False
    vms.a.qmp.cmd("cont", guest=GUEST)
    check_stays(vms.a, source)


@path("qemu/cancel/paused-guest-stays-paused/{state}/qemu-is-late")
@pytest.mark.parametrize("state", ["pre-switchover", "loaded"])
def test_paused_late(vms, state):
    """The job has ended before QEMU says a word; what it left to do is done as QEMU goes on."""
    source, _ = vms.source(FILLED, attached=False), vms.target()
    before, late, let_go = settings(source), threading.Event(), threading.Event()

    def keep_back(message, _):
        if late.is_set():
            let_go.wait()
        return message

    attach_through(vms.a, vms.relay_qmp(source, reply=keep_back))
    vms.a.qmp.cmd("stop", guest=GUEST)
    HOLD[state](vms)
    late.set()
    vms.a.cancel()
    assert vms.a.end()["status"] == "cancelled"
    assert vms.a.run_state() == "finish-migrate"
    let_go.set()
    vms.a.await_run_state("paused")
    eventually(lambda: settings(source) == before, what="the settings of before")
    assert source.qmp.cmd("query-status")["running"] is False
    vms.a.qmp.cmd("cont", guest=GUEST)
    check_stays(vms.a, source)


@path("qemu/stop/link-lost-as-it-begins")
def test_link_lost_at_stop(vms):
    """QEMU has been told to stop its guest, and what was left to send can't be sent any more."""
    source, target = vms.source(FILLED, attached=False), vms.target()
    before = settings(source)
    link = vms.relay(vms.b.listen())

    def cut(message):
        if message["execute"] == "migrate":
            link.cut()
        return message

    attach_through(vms.a, vms.relay_qmp(source, request=cut))
    fds = descriptors(source)
    vms.a.migrate(link.uri)
    assert vms.a.end()["status"] == "failed"
    assert vms.b.end()["status"] == "failed"
    check_stays(vms.a, source)
    check_nothing_left(source, fds)
    eventually(lambda: settings(source) == before, what="the settings of before")
    vms.move(source, target)
