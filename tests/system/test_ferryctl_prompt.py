# SPDX-License-Identifier: BSD-3-Clause
"""ferryctl's prompt, on a terminal and in a pipe."""

import json
import os
import subprocess

import pytest
from ctl import Ctl
from scenes import GUEST, eventually, path

PROMPT = "ferryd> "
TAB = "\t"
ARROW_UP = "\x1b[A"


@pytest.fixture
def ctl(lab):
    return Ctl(lab)


def prompt(ctl, host):
    running = ctl.terminal(host, "qmp")
    return running, running.await_text(PROMPT)


# ---- the prompt ----

@path("ferryctl/prompt/commands-and-json")
def test_prompt(scene, ctl):
    scene.a.scripted()
    running, at = prompt(ctl, scene.a)
    running.type(f"query-status guest={GUEST}\n")
    at = running.await_text(PROMPT, running.await_text('"status": "running"', at))
    running.type('{"execute": "query-version"}\n')
    at = running.await_text(PROMPT, running.await_text('"package": "ferryd ', at))
    running.type("sail away=yes\n")
    at = running.await_text(PROMPT, running.await_text("has not been found", at))
    running.type("query-status nonsense\n")
    at = running.await_text(PROMPT, running.await_text("ferryctl: 'nonsense' is no argument", at))
    running.type("\x04")
    assert running.end() == 0, running.text


@path("ferryctl/prompt/completion")
def test_completion(scene, ctl):
    scene.a.scripted()
    running, at = prompt(ctl, scene.a)
    running.type("query-migrate-par" + TAB)
    at = running.await_text("query-migrate-parameters ", at)
    running.type("gue" + TAB)
    at = running.await_text("guest=", at)
    running.type(f"{GUEST}\n")
    at = running.await_text(PROMPT, running.await_text('"downtime-limit": 300', at))
    running.type("guest-attach driver=q" + TAB)
    at = running.await_text("driver=qemu ", at)
    running.type("na" + TAB)
    running.await_text("name=", at)


@path("ferryctl/prompt/history-is-kept")
def test_history(scene, ctl):
    running, at = prompt(ctl, scene.a)
    running.type("query-version\n")
    running.await_text(PROMPT, running.await_text('"package"', at))
    running.type("\x04")
    assert running.end() == 0
    kept = scene.lab.folder / "xdg" / "ferryctl" / "history"
    assert "query-version\n" in kept.read_text(encoding="utf-8")
    running, at = prompt(ctl, scene.a)
    running.type(ARROW_UP)
    at = running.await_text("query-version", at)
    running.type("\n")
    running.await_text('"package"', at)


@path("ferryctl/prompt/events-come-while-a-line-is-edited")
def test_events(scene, ctl):
    """They stand above the line, which stays as it was."""
    scene.a.scripted()
    running, at = prompt(ctl, scene.a)
    running.type("query-ver")
    at = running.await_text("query-ver", at)
    scene.a.qmp.cmd("stop", guest=GUEST)
    at = running.await_text(f"STOP guest={GUEST}", at)
    at = running.await_text(f"{PROMPT}query-ver", at)
    running.type("sion\n")
    running.await_text('"package"', at)


@path("ferryctl/prompt/ctrl-c-drops-the-line")
def test_ctrl_c(scene, ctl):
    running, at = prompt(ctl, scene.a)
    running.type("quit")
    at = running.await_text("quit", at)
    eventually(running.sleeps, what="waiting for a key")
    running.type("\x03")
    at = running.await_text(PROMPT, at)
    running.type("query-version\n")
    running.await_text('"package"', at)
    assert scene.a.daemon.alive()


@path("ferryctl/prompt/daemon-ends")
def test_daemon_ends(scene, ctl):
    running, _ = prompt(ctl, scene.a)
    scene.a.kill()
    assert running.end() == 1
    assert running.text.endswith("ferryctl: The daemon closed the session\r\n")


@path("ferryctl/prompt/piped")
def test_piped(scene, ctl):
    """A command a line; one that is refused does not keep the others from being sent."""
    scene.a.scripted()
    lines = f'query-status guest={GUEST}\n\n{{"execute": "query-version"}}\nstop guest={GUEST}\n'
    got = [json.loads(line) for line in ctl.good(scene.a, "qmp", stdin=lines).splitlines()]
    answers = [line for line in got if "event" not in line]
    assert [set(answer) for answer in answers] == [{"return"}] * 3
    done = ctl.run(scene.a, "qmp", stdin="sail\nsail x\nquery-version\n")
    assert done.status == 1
    first, last = [json.loads(line) for line in done.out.splitlines()]
    assert first["error"]["code"] == "command-unknown" and "package" in last["return"]
    assert done.err == "ferryctl: 'x' is no argument: say NAME=VALUE\n"


@path("ferryctl/prompt/nobody-reads")
def test_unread(scene, ctl):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([ctl.program, "qmp"], input=b"query-version\n" * 3, stdout=writer,
                          stderr=subprocess.PIPE, env=ctl.env(scene.a), check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
