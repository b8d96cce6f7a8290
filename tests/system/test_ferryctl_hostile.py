# SPDX-License-Identifier: BSD-3-Clause
"""ferryctl against a control socket that lies: one line, and an exit status that says the truth."""

import json
import threading

import pytest
from ctl import GREETING, Ctl, Liar, answering, requests
from scenes import path

INFO = {"status": "active", "direction": "outgoing", "total-time": 1}
ENDED = {**INFO, "status": "completed"}


@pytest.fixture
def ctl(lab):
    return Ctl(lab)


def saying(data):
    """Serves bytes, and then waits for the end."""
    def serve(sock):
        sock.sendall(data)
        while sock.recv(4096):
            pass

    return serve


def hanging_up(sock):
    sock.sendall(GREETING[:20])


def endless(piece):
    def serve(sock):
        while True:
            sock.sendall(piece)

    return serve


def check_one_line(ctl, status, *words):
    line = ctl.bad(ctl.lab.folder / "liar.ctl", status, "--timeout", "5s", *words)
    assert line.rstrip("\n").isprintable(), line
    assert len(line) < 400, line
    return line


# ---- before anything is asked ----

GREETINGS = {
    "silent": saying(b""),
    "no-json": saying(b"SSH-2.0-\x1b[2Jelse\r\n"),
    "no-utf-8": saying(b"\xff\xfe\x00{}\n"),
    "no-object": saying(b"[1, 2]\r\n"),
    "another-object": saying(b'{"hello": "you"}\r\n'),
    "too-deep": saying(b"[" * 200000 + b"\n"),
    "hangs-up": hanging_up,
    "a-line-without-end": endless(b"x" * 65536),
    "events-without-end": endless(b'{"event": "STOP", "data": {}}\r\n' * 100),
    "infinite": saying(b'{"QMP": 1e999}\r\n'),
    "a-number-too-long": saying(b'{"QMP": ' + b"9" * 100000 + b"}\r\n"),
}


@path("ferryctl/hostile/greeting/{how}")
@pytest.mark.parametrize("how", GREETINGS)
def test_greeting(lab, ctl, how):
    Liar(lab, GREETINGS[how])
    check_one_line(ctl, 1, "guests")


# ---- answers ----

ANSWERS = {
    "of-another-type": ["guests", {"query-guests": {"name": "g"}}],
    "without-a-member": ["guests", {"query-guests": [{"name": "g"}]}],
    "a-member-of-another-type": ["guests", {"query-guests": [
        {"name": 7, "driver": "agent", "status": "running", "ram": 1}]}],
    "neither-return-nor-error": ["guests", {"query-guests": b'{"answer": 1}\r\n'}],
    "an-error-that-is-none": ["guests", {"query-guests": b'{"error": 5}\r\n'}],
    "hung-up": ["guests", {"query-guests": None}],
    "an-event-without-a-name": ["guests", {"query-guests": b'{"event": 1}\r\n'}],
    "ram-of-text": ["status g", {"query-migrate": {**INFO, "ram": "much"}}],
    "capabilities-of-text": ["caps g", {"query-migrate-capabilities": ["all"]}],
    "rounds-of-text": ["report g", {"query-migrate-history": {"rounds": "all"}}],
    "an-error-that-drives-a-terminal": ["cancel g", {
        "migrate_cancel": b'{"error": {"class": "x", "desc": "\\u001b[2J\\n\\u202ex"}}\r\n'}],
}


@path("ferryctl/hostile/answer/{how}")
@pytest.mark.parametrize("how", ANSWERS)
def test_answer(lab, ctl, how):
    words, answers = ANSWERS[how]
    Liar(lab, answering(answers))
    check_one_line(ctl, 1, *words.split())


WAITING = {
    "hung-up": {"query-migrate": None},
    "no-json": {"query-migrate": b"oops\r\n"},
    "silent": {"query-migrate": b""},
    "of-another-type": {"query-migrate": {**INFO, "ram": []}},
    "error-of-another-type": {"query-migrate": {**INFO, "error-code": 5}},
    "refused": {"query-migrate": b'{"error": {"class": "GenericError", "desc": "no"}}\r\n'},
    "forgotten": {"query-migrate": {}},
}


@path("ferryctl/hostile/while-waiting/{how}")
@pytest.mark.parametrize("how", WAITING)
def test_waiting(lab, ctl, how):
    """The migration was begun: that it is lost from sight is another end than a refusal."""
    Liar(lab, answering(WAITING[how]))
    assert "not known here" in check_one_line(ctl, 5, "migrate", "g", "tcp:x:1", "--wait")


FAILED = {
    "without-a-reason": [{}, ""],
    "without-a-code": [{"error-desc": "no"}, ", no"],
    "without-a-text": [{"error-code": "timeout"}, ""],
    "a-code-that-drives-a-terminal": [{"error-desc": "no", "error-code": "\x1b[2J\n"},
                                      r", no (\x1b[2J\n)"],
}


@path("ferryctl/hostile/no-answer-to-migrate")
@pytest.mark.parametrize("command", ["migrate", "incoming"])
def test_begun(lab, ctl, command):
    """It may have begun."""
    Liar(lab, answering({"migrate": None, "migrate-incoming": None}))
    assert "not known here" in check_one_line(ctl, 5, command, "g", "tcp:x:1")


@path("ferryctl/hostile/failed/{how}")
@pytest.mark.parametrize("how", FAILED)
def test_failed(lab, ctl, how):
    """A daemon need not tell why."""
    told, shown = FAILED[how]
    liar = Liar(lab, answering({"query-migrate": {**INFO, "status": "failed", **told}}))
    done = ctl.run(liar.path, "migrate", "g", "tcp:x:1", "--wait")
    assert (done.status, done.out) == (3, f"failed: total time 1 ms{shown}\n"), done


@path("ferryctl/hostile/names-do-not-drive-the-terminal")
def test_names(lab, ctl):
    guest = {"name": "\x1b]0;x\x07\u202eg\n", "driver": "a\tb", "status": "\r", "ram": 1}
    failed = {**INFO, "status": "failed", "error-desc": "\x1b[31mred\nnext"}
    liar = Liar(lab, answering({"query-guests": [guest], "query-migrate": failed}))
    for words in (("guests",), ("status",)):
        lines = ctl.good(liar.path, *words).splitlines()
        assert len(lines) == (2 if words == ("guests",) else 1)
        assert all(line.isprintable() for line in lines), lines
    done = ctl.run(liar.path, "migrate", "g", "tcp:x:1", "--wait")
    assert done.status == 3 and done.out.count("\n") == 1 and "\\x1b[31mred\\nnext" in done.out


@path("ferryctl/hostile/more-events-than-are-kept")
def test_events(lab, ctl):
    """They neither fill memory nor keep an answer from being found."""
    many = b'{"event": "STOP", "data": {"guest": "other"}}\r\n' * 5000
    answered = json.dumps({"return": ENDED}).encode() + b"\r\n"
    liar = Liar(lab, answering({"query-migrate": many + answered}))
    assert ctl.run(liar.path, "migrate", "g", "tcp:x:1", "--wait").status == 0


@path("ferryctl/hostile/prompt-is-left")
def test_prompt(lab, ctl):
    """A daemon that hangs up ends a prompt that waits for a line."""
    let_go = threading.Event()

    def serve(sock):
        sock.sendall(GREETING)
        for name in requests(sock):
            sock.sendall(b'{"return": []}\r\n' if name == "query-qmp-schema" else
                         b'{"return": {}}\r\n')
            if name == "query-qmp-schema":
                let_go.wait(30)
                return

    liar = Liar(lab, serve)
    running = ctl.terminal(liar.path, "qmp")
    running.await_text("ferryd> ")
    let_go.set()
    assert running.end() == 1
    assert "ferryctl: The daemon closed the session" in running.text
