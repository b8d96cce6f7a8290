# SPDX-License-Identifier: BSD-3-Clause
"""A migration as Ganeti, a cluster manager, drives it, with its own client: SOURCE-SOCKET HOST PORT.
Prints JSON."""

import json
import sys
import time

from ganeti.hypervisor.hv_kvm.monitor import QmpConnection


def main(source, host, port):
    seen = []
    monitor = QmpConnection(source)  # each call has a session of its own
    monitor.SetMigrationParameters(64 << 20, 250)
    monitor.SetMigrationCapabilities(["xbzrle"], True)
    monitor.StartMigration(host, port)
    while not seen or seen[-1]["status"] not in ("completed", "failed", "cancelled"):
        time.sleep(0.01)  # a poller
        seen.append(monitor.GetMigrationStatus())
    with monitor:
        parameters = monitor.Execute("query-migrate-parameters")
    print(json.dumps({"seen": seen, "parameters": parameters}))


main(*sys.argv[1:])
