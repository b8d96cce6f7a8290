# SPDX-License-Identifier: BSD-3-Clause
"""Who may do what: users, the read-only socket, exec: and fd:, where migrations may come in."""

import contextlib
import os

import pytest
from lab import CommandError, LabError, Qmp
from scenes import GUEST, eventually, path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
STRANGER = 54321


@contextlib.contextmanager
def as_user(uid):
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def session_of(uid, where):
    """The kernel tells who it is when the connection is made."""
    with as_user(uid):
        return Qmp(where, negotiate=False)


def daemon_for_all(lab, *options):
    """Its sockets' modes keep nobody out."""
    os.chmod(lab.folder, 0o711)
    return lab.daemon("a", options=["--control-mode", "0666", "--read-only-mode", "0666",
                                    "--read-only", lab.folder / "ro", *options])


def refused(session, command, /, **arguments):
    with pytest.raises(CommandError) as error:
        session.cmd(command, **arguments)
    return error.value


@path("access/user/the-mode-decides")
@needs_root
def test_mode(lab):
    os.chmod(lab.folder, 0o711)
    daemon = lab.daemon("a")
    with pytest.raises(PermissionError):
        session_of(STRANGER, daemon.control)


@path("access/user/anybody-without-a-list")
@needs_root
def test_any(lab):
    daemon = daemon_for_all(lab)
    session = session_of(STRANGER, daemon.control)
    assert session.cmd("qmp_capabilities") == {}


@path("access/user/named")
@needs_root
def test_named(lab):
    daemon = daemon_for_all(lab, "--allow-user", STRANGER)
    assert session_of(STRANGER, daemon.control).cmd("qmp_capabilities") == {}


@path("access/user/not-named")
@needs_root
def test_not_named(lab):
    daemon = daemon_for_all(lab, "--allow-user", STRANGER + 1)
    session = session_of(STRANGER, daemon.control)
    assert session.greeting["error"]["code"] == "session-forbidden"
    with pytest.raises((LabError, ConnectionError)):
        session.receive()
    assert lab.session(daemon).cmd("query-version")  # root is never shut out


@path("access/user/reload")
@needs_root
def test_reload(lab):
    config = lab.folder / "conf"
    config.write_text("allow-user = none\n")
    os.chmod(lab.folder, 0o711)
    daemon = lab.daemon("a", config=config, options=["--control-mode", "0666"])
    assert "error" in session_of(STRANGER, daemon.control).greeting
    config.write_text(f"allow-user = {STRANGER}\n")
    daemon.proc.send_signal(1)
    daemon.await_line("was read again", errors=True)
    assert session_of(STRANGER, daemon.control).cmd("qmp_capabilities") == {}


# ---- the read-only socket ----

@path("access/read-only/answers-what-changes-nothing")
def test_read_only(lab):
    daemon = lab.daemon("a", options=["--read-only", lab.folder / "ro"])
    lab.scripted(GUEST, daemon, lab.session(daemon), blocks=["ram:1M"])
    poller = Qmp(lab.folder / "ro")
    names = {command["name"] for command in poller.cmd("query-commands")}
    answered, kept = set(), set()
    for name in names - {"qmp_capabilities"}:
        try:
            poller.cmd(name)
            answered.add(name)
        except CommandError as error:
            assert error.code == "read-only"
            kept.add(name)
    assert answered == {name for name in names if name.startswith("query-")}
    assert {"migrate", "migrate_cancel", "stop", "quit", "set_speed"} <= kept


@path("access/read-only/hears-events")
def test_read_only_events(lab):
    daemon = lab.daemon("a", options=["--read-only", lab.folder / "ro"])
    poller = Qmp(lab.folder / "ro")
    lab.scripted(GUEST, daemon, lab.session(daemon), blocks=["ram:1M"])
    poller.await_event("GUEST_ATTACHED", guest=GUEST)


@path("access/read-only/oob-too")
def test_read_only_oob(lab):
    lab.daemon("a", options=["--read-only", lab.folder / "ro"])
    poller = Qmp(lab.folder / "ro", negotiate=False)
    poller.cmd("qmp_capabilities", enable=["oob"])
    poller.send({"exec-oob": "migrate_cancel"})
    assert poller.answer()["error"]["code"] == "read-only"


@path("access/read-only/keeps-nobody-out")
def test_read_only_many(lab):
    """Pollers that take all the sessions there are leave those of the control socket."""
    daemon = lab.daemon("a", options=["--read-only", lab.folder / "ro"])
    pollers = [Qmp(lab.folder / "ro", negotiate=False) for _ in range(256)]
    late = Qmp(lab.folder / "ro", negotiate=False)
    assert late.greeting["error"]["code"] == "sessions-too-many"
    assert lab.session(daemon).cmd("query-version")
    pollers.pop().close()
    eventually(lambda: "QMP" in Qmp(lab.folder / "ro", negotiate=False).greeting,
               what="room for a poller")


@path("access/read-only/stranger")
@needs_root
def test_read_only_stranger(lab):
    daemon_for_all(lab, "--allow-user", "none")
    poller = session_of(STRANGER, lab.folder / "ro")
    poller.cmd("qmp_capabilities")
    assert poller.cmd("query-guests") == []


# ---- exec: and fd: ----

def guest_and_session(lab, daemon, uid):
    lab.scripted(GUEST, daemon, lab.session(daemon), blocks=["ram:1M"])
    session = session_of(uid, daemon.control) if uid else Qmp(daemon.control, negotiate=False)
    session.cmd("qmp_capabilities")
    return session


@path("access/{scheme}/stranger")
@needs_root
@pytest.mark.parametrize("scheme", ["exec", "fd"])
def test_uri_stranger(lab, scheme):
    """Alone the user that ferryd runs as may have it when nothing is said."""
    session = guest_and_session(lab, daemon_for_all(lab), STRANGER)
    mark = lab.folder / "mark"
    error = refused(session, "migrate", uri=f"{scheme}:touch {mark}")
    assert error.code == "uri-forbidden" and f"allow-{scheme}" in error.desc
    assert session.cmd("query-migrate") == {}
    assert not mark.exists()


@path("access/{scheme}/none")
@pytest.mark.parametrize("scheme", ["exec", "fd"])
def test_uri_none(lab, scheme):
    daemon = lab.daemon("a", options=[f"--allow-{scheme}", "none"])
    session = guest_and_session(lab, daemon, 0)
    assert refused(session, "migrate", uri=f"{scheme}:3").code == "uri-forbidden"


@path("access/exec/named")
@needs_root
def test_exec_named(lab):
    daemon = daemon_for_all(lab, "--allow-exec", STRANGER)
    session = guest_and_session(lab, daemon, STRANGER)
    session.cmd("migrate", uri="exec:cat >/dev/null")
    assert session.await_status("completed", "failed", guest=GUEST)["status"] == "completed"
    own = Qmp(daemon.control)
    assert refused(own, "migrate", uri="exec:cat").code in ("uri-forbidden", "guest-given-away")


@path("access/incoming/exec")
def test_incoming_exec(lab):
    daemon = lab.daemon("a", options=["--allow-exec", "none"])
    session = lab.session(daemon)
    lab.scripted(GUEST, daemon, session, blocks=["ram:1M"], incoming=True)
    assert refused(session, "migrate-incoming", uri="exec:cat x").code == "uri-forbidden"


# ---- where to listen ----

@path("access/listen/{what}")
@pytest.mark.parametrize("what,allowed,uri,ok", [
    ("in-network", ["127.0.0.0/8"], "tcp:127.0.0.1:0", True),
    ("alone", ["127.0.0.1"], "tcp:127.0.0.1:0", True),
    ("second-entry", ["192.0.2.0/24", "127.0.0.1"], "tcp:127.0.0.1:0", True),
    ("odd-bits", ["127.0.0.0/9"], "tcp:127.0.0.1:0", True),
    ("outside-odd-bits", ["127.128.0.0/9"], "tcp:127.0.0.1:0", False),
    ("elsewhere", ["192.0.2.0/24"], "tcp:127.0.0.1:0", False),
    ("everywhere", ["0.0.0.0/0"], "tcp:0.0.0.0:0", True),
    ("wildcard", ["127.0.0.1"], "tcp:0.0.0.0:0", False),
    ("wildcard-by-network", ["0.0.0.0/1"], "tcp:0.0.0.0:0", False),
    ("no-host", ["127.0.0.1"], "tcp::0", False),
    ("v6", ["::1"], "tcp:[::1]:0", True),
    ("v6-elsewhere", ["2001:db8::/32"], "tcp:[::1]:0", False),
    ("v4-for-v6", ["::/0"], "tcp:127.0.0.1:0", False),
    ("unix", ["unix:{folder}/"], "unix:{folder}/in", True),
    ("unix-elsewhere", ["unix:/run/"], "unix:{folder}/in", False),
    ("unix-climbs", ["unix:{folder}/x"], "unix:{folder}/x/../in", False),
    ("unix-abstract", ["unix:@ferry-"], "unix:@ferry-{folder}", True),
    ("unix-for-tcp", ["unix:/"], "tcp:127.0.0.1:0", False),
])
def test_listen(lab, what, allowed, uri, ok):
    options = [word for entry in allowed
               for word in ("--allow-listen", entry.format(folder=lab.folder))]
    daemon = lab.daemon("a", options=options)
    session = lab.session(daemon)
    lab.scripted(GUEST, daemon, session, blocks=["ram:1M"], incoming=True)
    uri = uri.format(folder=lab.folder)
    if ok:
        session.cmd("migrate-incoming", uri=uri)
        assert session.cmd("query-migrate")["listening"]
    else:
        error = refused(session, "migrate-incoming", uri=uri)
        assert error.code == "listen-forbidden"
        assert uri in error.desc and "allow-listen" in error.desc
