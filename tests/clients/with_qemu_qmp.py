# SPDX-License-Identifier: BSD-3-Clause
"""A migration driven with QEMU's Python library: SOURCE-SOCKET TARGET-SOCKET.  Prints JSON."""

import asyncio
import json
import sys

from qemu.qmp import ExecuteError, QMPClient

ENDS = ("completed", "failed", "cancelled")


async def main(source, target):
    here, there = QMPClient("source"), QMPClient("target")
    await here.connect(source)
    await there.connect(target)
    heard = []
    with here.listener("MIGRATION") as listener:
        await there.execute("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
        uri = (await there.execute("query-migrate"))["listening"]
        await here.execute("migrate", {"uri": uri})
        async for event in listener:
            heard.append(event["data"]["status"])
            if heard[-1] in ENDS:
                break
    try:
        await here.execute("no-such-command")
    except ExecuteError as error:
        refused = error.error_class
    print(json.dumps({"heard": heard, "refused": refused, "version": here.greeting.QMP.version,
                      "info": await here.execute("query-migrate")}))
    await here.disconnect()
    await there.disconnect()


asyncio.run(main(*sys.argv[1:]))
