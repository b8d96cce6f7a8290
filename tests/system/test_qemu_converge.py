# SPDX-License-Identifier: BSD-3-Clause
"""Guests in QEMU that write faster than the link takes: held back, or sent as what has changed."""

import pytest
from qemu_scenes import attach_through, check_arrived, children, tracer
from scenes import GUEST, MIB, eventually, path

pytestmark = pytest.mark.qemu


@path("qemu/auto-converge")
def test_throttle(vms):
    """The vCPU is stopped for a part of the time; it goes on as it was, here and there."""
    source, target = vms.pair()
    vms.a.set(max_bandwidth=MIB, downtime_limit=1, cpu_throttle_initial=50)
    vms.a.capable(auto_converge=True)
    vms.a.migrate(vms.b.listen())
    eventually(lambda: vms.a.info().get("cpu-throttle-percentage", 0) >= 50, what="a throttle")
    eventually(lambda: tracer(source), what="a vCPU that is held")
    vms.a.set(max_bandwidth=0, downtime_limit=2000)
    assert vms.a.complete()["verified"] is True
    vms.b.complete()
    check_arrived(source, target)
    assert tracer(source) == 0


@path("qemu/auto-converge/held-until-it-is-stopped")
def test_throttle_until_stop(vms):
    """Let go any earlier the vCPU would write what has to be sent with the guest stopped."""
    source, target = vms.source(attached=False), vms.target()
    held = {}

    def is_throttled():
        return "ferry-vcpus" in children(vms.a.daemon.pid).values()

    def look(message):
        if message["execute"].startswith("migrate"):
            held.setdefault(message["execute"], is_throttled())  # later they are put back
        return message

    attach_through(vms.a, vms.relay_qmp(source, request=look))
    vms.a.set(max_bandwidth=MIB, downtime_limit=1, cpu_throttle_initial=50)
    vms.a.capable(auto_converge=True)
    vms.a.migrate(vms.b.listen())
    eventually(is_throttled, what="a throttle")
    vms.a.set(max_bandwidth=0, downtime_limit=2000, avail_switchover_bandwidth=512 * MIB)
    sent = vms.a.complete()
    vms.b.complete()
    check_arrived(source, target)
    assert held["migrate-set-capabilities"] and held["migrate-set-parameters"], held
    assert not held["migrate"], held
    rounds = vms.a.qmp.cmd("query-migrate-history", guest=GUEST)["rounds"]
    assert rounds[-1]["round"] == sent["ram"]["dirty-sync-count"] - 2, rounds


@path("qemu/xbzrle")
def test_deltas(vms):
    source, target = vms.pair()
    vms.a.set(max_bandwidth=MIB, downtime_limit=1)
    vms.a.capable(xbzrle=True)
    vms.a.migrate(vms.b.listen())
    eventually(lambda: vms.a.info().get("xbzrle-cache", {}).get("pages"), what="pages as deltas")
    vms.a.set(max_bandwidth=0, downtime_limit=2000)
    assert vms.a.complete()["verified"] is True
    vms.b.complete()
    check_arrived(source, target)
