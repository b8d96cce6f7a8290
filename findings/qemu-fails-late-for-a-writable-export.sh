#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# A writable block export of a node that the guest does not use makes a migration of QEMU fail, and
# only at its end: `migrate` accepts it, all of RAM is sent, the guest is stopped, then QEMU can't
# inactivate that node.  The guest goes on at the source.  Nothing tells before: query-migrate has
# no blocked-reasons, and query-block-exports does not say which exports are writable.
#
# Seen: QEMU 7.2.22, 10.0.2 and 11.1.3 of Debian.  This script tries 10.0.2:
#   before: {} [{'node-name': 'scratch', 'shutting-down': False, 'type': 'nbd', 'id': 'export'}]
#   MIGRATION events: setup active device failed
#   bytes sent: 17392970  query-status: running      (16 MiB of the guest's RAM hold data)
# Exits 0 if it is so, 1 if it is not any more, 77 if it can't be tried.
set -euo pipefail
what=finding
version=1:10.0.2+ds-2+deb13u1~bpo12+1
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT

# shellcheck source=tests/fetch.sh
. "$(dirname "$0")/../tests/fetch.sh"

skip()
{
	echo "$what: can't be tried: $*" >&2
	exit 77
}

# shellcheck disable=SC2154 # fetch.sh sets release
download()
{
	use_suites "$release" "$release-backports" && : >"$cache/status" &&
		apt -o Dir::State::status="$cache/status" -y --download-only --no-install-recommends \
			-t "$release-backports" install "qemu-system-x86=$version" >/dev/null
}

(download) || skip "QEMU $version can't be downloaded"
unpack

python3 - "$cache" <<'END'
import json, os, pathlib, socket, subprocess, sys, time

folder = pathlib.Path(sys.argv[1])
root = folder / "root"
loader = next(root.rglob("x86_64-linux-gnu/ld-linux-x86-64.so.2"))
libs = ":".join(str(root / part) for part in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
(folder / "data").write_bytes(os.urandom(16 << 20))
qemu = subprocess.Popen([
    loader, "--library-path", libs, root / "usr/bin/qemu-system-x86_64",
    "-L", root / "usr/share/qemu", "-L", root / "usr/share/seabios",
    "-device", f"loader,file={folder}/data,addr=0x100000,force-raw=on",
    "-machine", "pc,accel=tcg", "-m", "32", "-nodefaults", "-display", "none",
    "-qmp", f"unix:{folder}/qmp,server=on,wait=off"])
try:
    end = time.monotonic() + 30
    while True:
        try:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(f"{folder}/qmp")
            break
        except OSError:
            if qemu.poll() is not None or time.monotonic() > end:
                sys.exit(77)
            time.sleep(0.05)
    sock.settimeout(60)
    lines = sock.makefile("rw")
    statuses = []

    def receive():
        message = json.loads(lines.readline())
        if message.get("event") == "MIGRATION":
            statuses.append(message["data"]["status"])
        return message

    def command(name, **arguments):
        lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        lines.flush()
        while True:
            message = receive()
            if "return" in message:
                return message["return"]
            if "error" in message:
                print(name, message["error"])
                sys.exit(1)

    receive()
    command("qmp_capabilities")
    (folder / "scratch").write_bytes(bytes(1 << 20))
    command("blockdev-add", driver="raw", **{"node-name": "scratch", "file": {
        "driver": "file", "filename": f"{folder}/scratch"}})
    command("nbd-server-start", addr={"type": "unix", "data": {"path": f"{folder}/nbd"}})
    command("block-export-add", type="nbd", id="export", writable=True,
            **{"node-name": "scratch"})
    before = command("query-migrate")
    exports = command("query-block-exports")
    command("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    command("migrate", uri=f"exec:cat >{folder}/stream; touch {folder}/done")
    while not statuses or statuses[-1] not in ("completed", "failed"):
        receive()
    while not (folder / "done").exists() and time.monotonic() < end + 60:
        time.sleep(0.05)
    sent = (folder / "stream").stat().st_size
    time.sleep(0.5)  # QEMU tells of the failure before its guest runs again
    state = command("query-status")["status"]
    print("before:", before, exports)
    print("MIGRATION events:", *statuses)
    print("bytes sent:", sent, " query-status:", state)
    seen = (statuses[-1] == "failed" and "active" in statuses and state == "running"
            and sent > 16 << 20 and "blocked-reasons" not in before and "writable" not in exports[0])
    sys.exit(0 if seen else 1)
finally:
    qemu.kill()
    qemu.wait()
END
