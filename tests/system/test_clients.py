# SPDX-License-Identifier: BSD-3-Clause
"""QMP clients that this project did not write: QEMU's Python library and its shell, and that of a
cluster manager.  tests/clients/fetch has them."""

import json
import os
import pathlib
import subprocess

import pytest
from lab import DEADLINE
from scenes import GUEST, MIB, address_of, check_moved, path

CLIENTS = pathlib.Path(__file__).resolve().parent.parent / "clients"
FETCH_LIMIT = 300  # seconds


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """Where they are.  One worker fetches them, the others wait for it."""
    lock = tmp_path_factory.getbasetemp().parent / "clients.lock"
    done = subprocess.run(["flock", lock, CLIENTS / "fetch"], capture_output=True, text=True,
                          timeout=FETCH_LIMIT, check=False)
    if done.returncode != 0:
        pytest.skip(f"clients can't be fetched: {done.stderr.strip()}")
    return pathlib.Path(done.stdout.strip())


# apt-get and dpkg as far as the script uses them; FAILS, a pattern, is what does not succeed.
STAND_INS = {
    "apt-get": """#!/bin/sh
. /etc/os-release
case "$*" in
    $FAILS) exit 100 ;;
    *indextargets*) echo "$VERSION_CODENAME Debian http://mirror.invalid" ;;
    *" download "*) touch "$$.deb" ;;
esac
""",
    "dpkg": """#!/bin/sh
mkdir -p "$3"
case "$(ls "$3" | wc -l)" in
    $FAILS) exit 2 ;;
esac
touch "$3/${2##*/}"
""",
}
FAILURES = {
    "first-download": "* download *qemu-qmp*", "one-download": "* download *cffi*",
    "last-download": "* download *pycurl*", "second-archive": "1",
}


def fetched(folder, fails):
    """What the script comes to, with the stand-ins."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in STAND_INS.items():
        (programs / name).write_text(text, encoding="ascii")
        (programs / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "FAILS": fails,
           "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run([CLIENTS / "fetch"], capture_output=True, text=True, timeout=DEADLINE,
                          check=False, env=env)


@path("clients/fetch/failed/{what}")
@pytest.mark.parametrize("what", FAILURES)
def test_fetch_failed(tmp_path, what):
    """Half of it is not taken for the whole, and the next time it is all there."""
    done = fetched(tmp_path, FAILURES[what])
    assert done.returncode != 0 and done.stdout == "", done
    done = fetched(tmp_path, "nothing")
    assert done.returncode == 0, done
    assert len(os.listdir(done.stdout.strip())) == 10


def program(root, *argv, **options):
    """A Python program with what is unpacked; what it prints."""
    folders = [root / "usr/lib/python3/dist-packages", root / "usr/share/ganeti/3.0"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)),
           "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(options.pop("home", "/nonexistent"))}
    done = subprocess.run(["/usr/bin/python3", *map(str, argv)], capture_output=True, text=True,
                          timeout=DEADLINE, check=False, env=env, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@path("clients/qemu-qmp/library")
def test_library(scene, unpacked):
    source, target = scene.pair(fill=MIB)
    told = json.loads(program(unpacked, CLIENTS / "with_qemu_qmp.py", scene.a.daemon.control,
                              scene.b.daemon.control))
    assert told["heard"] == ["setup", "active", "device", "completed"]
    assert told["info"] == scene.a.info()
    assert told["refused"] == "CommandNotFound"
    assert told["version"] == scene.a.qmp.cmd("query-version")
    check_moved(source, target)


@path("clients/qemu-qmp/shell")
def test_shell(scene, unpacked):
    """What is typed at its prompt, which is completed from query-commands."""
    source, target = scene.pair(fill=MIB)
    typed = ["query-status", f"migrate uri={scene.b.listen()} blk=false", "query-migrate-parameters"]
    shown = program(unpacked, unpacked / "usr/bin/qmp-shell", scene.a.daemon.control,
                    input="\n".join(typed) + "\n", home=scene.lab.folder)
    assert "Connected to QEMU 0." in shown
    assert '"status": "running"' in shown.replace("'", '"')
    assert "downtime-limit" in shown
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("clients/ganeti")
def test_ganeti(scene, unpacked):
    source, target = scene.pair(fill=4 * MIB)
    host, port = address_of(scene.b.listen())
    told = json.loads(program(unpacked, CLIENTS / "with_ganeti.py", scene.a.daemon.control, host,
                              port))
    assert told["seen"][-1] == scene.a.info(GUEST)
    assert told["seen"][-1]["status"] == "completed"
    assert told["seen"][-1]["xbzrle-cache"]["cache-size"] > 0
    assert told["parameters"]["max-bandwidth"] == 64 * MIB
    assert told["parameters"]["downtime-limit"] == 250
    check_moved(source, target)
