# SPDX-License-Identifier: BSD-3-Clause
"""What the unit's drop-in for QEMU gives the daemon is enough for guests of another user's QEMU."""

import os
import pathlib
import re

import pytest
from qemu import attach
from qemu_scenes import FILLED, check_nothing_left, check_stays, descriptors, hold_active
from scenes import GUEST, Host, path, started_by

pytestmark = pytest.mark.qemu

NOBODY = 65534
DROP_INS = pathlib.Path("systemd/drop-ins")


def capabilities(*drop_ins):
    """What these give together, as setpriv has it."""
    names = [name for drop_in in drop_ins
             for line in re.findall(r"^AmbientCapabilities=(.*)$", (DROP_INS / drop_in).read_text(),
                                    re.M)
             for name in line.split()]
    return ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)


CONFINED = """#!/bin/sh
exec setpriv --reuid={nobody} --regid={nobody} --clear-groups --inh-caps=-all,{kept} \\
\t--ambient-caps=-all,{kept} --bounding-set=-all,{kept} --no-new-privs {{ferryd}} "$@"
"""


@path("qemu/unit/{what}")
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("what", ["moves", "throttled", "cancelled", "exec", "sandboxed"])
def test_confined(vms, what):
    sandboxed = what == "sandboxed"
    kept = capabilities("qemu.conf", *(["qemu-sandboxed.conf"] if sandboxed else []))
    options = {"options": ["-sandbox", "on"]} if sandboxed else {}
    with started_by(vms.lab, CONFINED.format(nobody=NOBODY, kept=kept)):
        vms.a, vms.b = Host(vms.lab, "c"), Host(vms.lab, "d")
    source, target = vms.source(FILLED, attached=False, **options), vms.target(attached=False, **options)
    attach(vms.a.qmp, source)
    attach(vms.b.qmp, target)
    fds = descriptors(source)
    if what == "cancelled":
        hold_active(vms)
        vms.a.cancel()
        assert vms.a.end()["status"] == "cancelled"
        check_stays(vms.a, source)
        check_nothing_left(source, fds)
        return
    if what == "exec":
        vms.lab.folder.chmod(0o777)  # the command may no more than anybody
        vms.a.migrate(f"exec:grep Cap /proc/self/status >{vms.lab.folder}/caps; exit 3")
        vms.a.fail(GUEST)
        held = dict(line.split() for line in (vms.lab.folder / "caps").read_text().splitlines())
        assert int(held["CapEff:"], 16) == int(held["CapPrm:"], 16) == 0
        return
    if what == "throttled":
        vms.a.capable(auto_converge=True)
        vms.a.set(cpu_throttle_initial=50, throttle_trigger_threshold=1)
    vms.move(source, target)
    assert os.stat(f"/proc/{vms.a.daemon.pid}").st_uid == NOBODY
    assert vms.a.info(GUEST)["status"] == "completed"
