# SPDX-License-Identifier: BSD-3-Clause
"""What the demos have in common: how they tell what happens, and how they begin and end."""

import argparse
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lab"))
# pylint: disable=wrong-import-position
from lab import Lab, LabError

POLL = 0.25  # seconds between two looks


def say(text):
    print(text, flush=True)


def show_console(vmm, where, lines, after=0):
    """Prints the console's next lines, as they come, from a place on; where the last one ends."""
    for _ in range(lines):
        end = vmm.await_line("\n", after=after)
        say(f"  {where} | {vmm.output()[after:end].rstrip()}")
        after = end
    return after


def show_progress(info):
    ram = info.get("ram")
    if not ram:
        return
    say(f"  {info['status']:>9}  round {ram['dirty-sync-count']:2}"
        f"  remaining {ram['remaining'] / 2**20:6.1f} MiB"
        f"  sent {ram['transferred'] / 2**20:6.1f} MiB"
        f"  {ram['mbps'] / 8.388608:6.1f} MiB/s"
        f"  expected downtime {info.get('expected-downtime', 0)} ms")


def watch(session, guest):
    """Polls until the migration has ended, as an orchestrator does; its last record."""
    while True:
        info = session.cmd("query-migrate", guest=guest)
        if info["status"] in ("completed", "failed", "cancelled"):
            return info
        show_progress(info)
        time.sleep(POLL)


def migrate(sessions, guest, uri):
    """Starts the migration and follows it to its end; the source's record."""
    source, target = sessions
    source.cmd("migrate", guest=guest, uri=uri)
    info = watch(source, guest)
    if info["status"] != "completed":
        raise LabError(f"the migration {info['status']}: {info.get('error-desc')}")
    target.await_status("completed", guest=guest)
    return info


def say_completed(info):
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in info["downtime-parts"].items())
    say(f"Completed in {info['total-time']} ms; the guest stood still for {info['downtime']} ms"
        f" ({parts}); verified: {str(info['verified']).lower()}.")


def check(vmm):
    bad = [line for line in vmm.output().splitlines() if line.startswith("BAD")]
    if bad:
        raise LabError(f"the guest found bad pages: {bad[0]}")


def main(doc, what_is_missing, run):
    """A demo's whole program; its logs are kept when it fails."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--build", default="build")
    build = pathlib.Path(parser.parse_args().build).resolve()
    why = what_is_missing()
    if why:
        say(f"The demo can't run here: {why}")
        return 1
    logs = build / "demo-logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    try:
        with Lab(build, folder=logs) as lab:
            run(lab)
    except (LabError, OSError) as fault:
        say(f"The demo failed: {fault}\nThe logs are in {logs}")
        return 1
    return 0
