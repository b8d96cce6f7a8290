# SPDX-License-Identifier: BSD-3-Clause
"""ferryctl saves guests into files and restores them; whatever happens, a guest is not lost."""

import os
import pathlib
import stat
import subprocess

import pytest
from ctl import Ctl
from scenes import GUEST, MIB, Host, check_moved, check_source_runs, path


@pytest.fixture
def ctl(lab):
    return Ctl(lab)


def slowly_saved(scene, ctl):
    """A guest that is being saved until something is done about it: both VMMs, the file, and what
    waits for it."""
    source, target = scene.pair(fill=16 * MIB)
    scene.a.set(max_bandwidth=MIB)
    file = scene.lab.folder / "saved"
    running = ctl.started(scene.a, "save", GUEST, file)
    running.await_text("round 1")
    return source, target, file, running


@path("ferryctl/save-and-restore")
def test_save(scene, ctl):
    source, _ = scene.pair(fill=8 * MIB)
    file = scene.lab.folder / "saved"
    file.write_text("of before", encoding="ascii")
    assert "completed: " in ctl.good(scene.a, "save", GUEST, file)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert file.stat().st_size > 8 * MIB
    assert not pathlib.Path(f"{file}.part").exists()
    assert "completed: " in ctl.good(scene.b, "restore", GUEST, file, "--paused")
    assert scene.b.run_state() == "paused"
    assert source.do("state") == "given-away"


@path("ferryctl/save-and-restore/byte-for-byte")
def test_restore(scene, ctl):
    source, target = scene.pair(fill=8 * MIB)
    file = scene.lab.folder / "saved"
    ctl.good(scene.a, "save", "-", file)
    ctl.good(scene.b, "restore", "-", file)
    check_moved(source, target)


@path("ferryctl/save/failed")
def test_save_failed(scene, ctl):
    """What was there before is there, and nothing else."""
    source, _ = scene.pair()
    source.do("behave save=fail")
    file = scene.lab.folder / "saved"
    file.write_text("of before", encoding="ascii")
    assert ctl.run(scene.a, "save", GUEST, file).status == 3
    assert file.read_text(encoding="ascii") == "of before"
    assert not pathlib.Path(f"{file}.part").exists()
    check_source_runs(scene.a, source)
    ctl.bad(scene.a, 1, "save", "other", file)
    assert not pathlib.Path(f"{file}.part").exists()
    assert "No such file" in ctl.bad(scene.a, 1, "save", GUEST, scene.lab.folder / "no" / "file")


@path("ferryctl/{command}/not-allowed")
@pytest.mark.parametrize("command", ["save", "restore"])
def test_not_allowed(lab, ctl, command):
    """As the shipped configuration has it: what to change is said, and nothing is left over."""
    host = Host(lab, "a", options=["--allow-fd", "none"])
    host.scripted(incoming=command == "restore")
    file = lab.folder / "saved"
    file.write_text("of before", encoding="ascii")
    before = host.run_state()
    assert ctl.bad(host, 1, command, GUEST, file).count("allow-fd") == 1
    assert file.read_text(encoding="ascii") == "of before"
    assert not pathlib.Path(f"{file}.part").exists()
    assert host.run_state() == before


@path("ferryctl/save/reader-gone")
def test_save_unread(scene, ctl):
    """That nobody reads what it prints keeps no guest from being saved."""
    source, target = scene.pair(fill=8 * MIB)
    file = scene.lab.folder / "saved"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([ctl.program, "save", GUEST, file], stdout=writer, check=False,
                          env=ctl.env(scene.a))
    os.close(writer)
    assert done.returncode == 0
    ctl.good(scene.b, "restore", GUEST, file)
    check_moved(source, target)


@path("ferryctl/save/cannot-take-its-place")
def test_save_stuck(scene, ctl):
    """The guest is gone from here: it is said where it is."""
    source, target = scene.pair()
    file = scene.lab.folder / "saved"
    file.mkdir()
    assert f"{file}.part holds the guest" in ctl.bad(scene.a, 1, "save", GUEST, file)
    ctl.good(scene.b, "restore", GUEST, f"{file}.part")
    check_moved(source, target)


@path("ferryctl/save/daemon-lost")
def test_save_lost(scene, ctl):
    source, _, file, running = slowly_saved(scene, ctl)
    scene.a.kill()
    assert running.end() == 5, running.text
    assert f"is in {file}.part" in running.text and "is not known here" in running.text
    scene.a.restart(GUEST)
    check_source_runs(scene.a, source)


@path("ferryctl/save/left-running")
def test_save_left(scene, ctl):
    """The part is kept, it is said where, and no other save writes over it."""
    source, target, file, running = slowly_saved(scene, ctl)
    running.interrupt()
    assert running.end() == 6, running.text
    assert f"is in {file}.part" in running.text
    assert "exists" in ctl.bad(scene.a, 1, "save", GUEST, file)
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    ctl.good(scene.b, "restore", GUEST, f"{file}.part")
    check_moved(source, target)


@path("ferryctl/restore/refused")
def test_restore_refused(scene, ctl):
    scene.pair()
    file = scene.lab.folder / "none"
    assert "No such file" in ctl.bad(scene.b, 1, "restore", GUEST, file)
    file.write_bytes(bytes(65536))
    done = ctl.run(scene.b, "restore", GUEST, file)
    assert done.status == 3 and "failed: " in done.out, done
    assert scene.b.run_state() == "inmigrate"
