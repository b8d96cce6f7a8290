# SPDX-License-Identifier: BSD-3-Clause
"""A guest with a network card is announced to its networks."""

import pytest
from qemu_scenes import (attach_through, await_console, check_arrived, check_stays, cut_at_go,
                         hold_loaded, settings)
from scenes import GUEST, eventually, path

pytestmark = pytest.mark.qemu

CARD = {"options": ("-netdev", "hubport,id=net,hubid=0",
                    "-device", "virtio-net-pci,id=card,netdev=net,romfile=")}


def reset(vms, qemu):
    """The guest starts anew."""
    at = len(qemu.output())
    qemu.qmp.cmd("system_reset")
    qemu.await_line("checker: start", after=at)
    await_console(qemu)


@path("qemu/network/reset/after-the-move")
def test_reset(vms):
    """Devices go back to their start also where their state was loaded (that of a driver that takes
    part: make check-linux)."""
    source, target = vms.pair(both=CARD)
    vms.move(source, target)
    reset(vms, target)


@path("qemu/network/reset/after-it-came-back")
def test_reset_back(vms):
    """The destination had loaded the state, so the source's guest is the one that goes on."""
    source, target = vms.pair(both=CARD)
    hold_loaded(vms)
    vms.a.cancel()
    vms.release(cut=True)
    vms.a.end()
    check_stays(vms.a, source)
    reset(vms, source)
    target.kill()
    vms.b.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    vms.move(source, vms.target(**CARD))


@path("qemu/network/settings")
def test_settings(vms):
    """One round, the least: none takes away a timer that QEMU's devices need."""
    target = vms.target(**CARD)
    assert settings(target)[1]["announce-rounds"] == 1


def announcements(relay):
    return relay.requests["announce-self"]


def relayed_source(vms):
    source = vms.source(attached=False, **CARD)
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    vms.target(**CARD)
    return source, relay


@path("qemu/network/announced/back-from-a-destination-that-has-loaded")
def test_announced_back(vms):
    """The destination's QEMU has announced the guest as it loaded it."""
    source, relay = relayed_source(vms)
    hold_loaded(vms)
    vms.a.cancel()
    vms.release(cut=True)
    vms.a.end()
    eventually(lambda: announcements(relay) == 1, what="the announcement")
    check_stays(vms.a, source)


@path("qemu/network/announced/back-without-its-ferryd")
def test_announced_alone(vms):
    source, relay = relayed_source(vms)
    hold_loaded(vms)
    vms.a.kill()
    eventually(lambda: announcements(relay) == 1, what="the announcement")
    eventually(lambda: source.state() == "running", what="a guest that runs again")


@path("qemu/network/not-announced/never-left")
def test_not_announced(vms):
    """No destination had the state, so none has announced the guest."""
    source, relay = relayed_source(vms)
    vms.a.capable(pause_before_switchover=True)
    vms.a.migrate(vms.b.listen())
    vms.a.reach("pre-switchover")
    vms.a.cancel()
    vms.a.end()
    check_stays(vms.a, source)
    vms.a.qmp.cmd("announce-self", guest=GUEST)  # the only one, and behind any other
    assert announcements(relay) == 1


@path("qemu/network/not-announced/gone")
def test_gone(vms):
    """Nor does a source announce a guest that it has handed over, with or without its ferryd."""
    source, target = vms.source(attached=False, **CARD), vms.target(**CARD)
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    vms.a.migrate(vms.b.listen())
    vms.a.complete()
    check_arrived(source, target)
    vms.a.kill()
    eventually(lambda: relay.ended, what="the end of ferryd's connection")
    assert announcements(relay) == 0


@path("qemu/network/announced/run-here-by-an-operators-word")
def test_resolved(vms):
    """Another ferryd than the one that has handed the guest over, which may have been announced at
    the destination, knows no more than that QEMU is in postmigrate."""
    source, target = vms.source(attached=False, **CARD), vms.target(**CARD)
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    cut_at_go(vms)
    vms.a.kill()
    target.kill()
    eventually(lambda: relay.ended, what="the end of ferryd's connection")
    vms.a.restart()
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    vms.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="source")
    eventually(lambda: announcements(relay) == 1, what="the announcement")
    check_stays(vms.a, source)
