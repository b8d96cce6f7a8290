# SPDX-License-Identifier: BSD-3-Clause
"""Guests in QEMU that write faster than the link takes: held back, or sent as what has changed."""

import pytest
from qemu_scenes import check_arrived, tracer
from scenes import MIB, eventually, path

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
