# SPDX-License-Identifier: BSD-3-Clause
"""Configuration files: what they may say, what overrides what, and what SIGHUP changes."""

import os
import signal
import socket
import stat
import subprocess

import pytest
from lab import CommandError, Qmp
from scenes import GUEST, eventually, path


def write(folder, text, name="ferryd.conf"):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="ascii")
    return file


def check(lab, config, *options):
    return subprocess.run([lab.build / "ferryd", "--config", config, "--check-config", *options],
                          capture_output=True, text=True, timeout=60, check=False)


def lines_of(daemon):
    return daemon.errors().splitlines()


@path("config/check/fine")
def test_fine(lab):
    config = write(lab.folder, """
# All that there is to say.
control = /run/x.sock
control-mode = 0600
control-group = root
guests = /run/g.sock
guests-mode=0666
  read-only =   /run/r.sock
read-only-mode = 0666
read-only-group = 0
state-dir = /var/lib/x
log-level = debug
allow-user = root
allow-user = 12345
allow-exec = any
allow-fd = none
allow-listen = 192.0.2.0/24
allow-listen = 2001:db8::/32
allow-listen = unix:/run/ferryd/
metrics = 127.0.0.1:0
metrics-mode = 0666
metrics-group = root
""")
    shown = check(lab, config)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


@path("config/check/fault/{what}")
@pytest.mark.parametrize("what,line,word", [
    ("unknown", "contrl = /run/x", "contrl"),
    ("no-value", "control", "name = value"),
    ("flag", "help = yes", "help"),
    ("config", "config = /etc/other", "config"),
    ("mode", "control-mode = 9", "'9'"),
    ("mode-too-large", "guests-mode = 1777", "'1777'"),
    ("group", "control-group = no-such-group", "no-such-group"),
    ("level", "log-level = loud", "loud"),
    ("user", "allow-user = no-such-user", "no-such-user"),
    ("address", "allow-listen = example.org", "example.org"),
    ("bits", "allow-listen = 10.0.0.0/33", "10.0.0.0/33"),
    ("bits-none", "allow-listen = 10.0.0.0/", "10.0.0.0/"),
    ("prefix", "allow-listen = unix:", "unix:"),
    ("metrics", "metrics = 0.0.0.0:9000", "0.0.0.0:9000"),
    ("empty", "control =", "control"),
])
def test_fault(lab, what, line, word):
    config = write(lab.folder, f"# one fault\n{line}\nlog-level = info\n")
    shown = check(lab, config)
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1 and word in shown.stderr
    assert what == "empty" or f"{config}:2: " in shown.stderr


@path("config/check/all-faults-are-told")
def test_all_faults(lab):
    config = write(lab.folder, "a = 1\nb = 2\n")
    write(lab.folder, "c = 3\n", "ferryd.conf.d/10.conf")
    shown = check(lab, config, "--log-level", "loud")
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 4


@path("config/file/missing")
def test_missing(lab):
    shown = check(lab, lab.folder / "none.conf")
    assert shown.returncode == 2
    assert "none.conf: No such file" in shown.stderr


@path("config/file/not-a-file")
def test_not_a_file(lab):
    assert check(lab, lab.folder).returncode == 2
    assert check(lab, "/dev/zero").returncode == 2


@path("config/file/fifo")
def test_fifo(lab):
    """Nobody writes to it: it is not waited for."""
    os.mkfifo(lab.folder / "fifo")
    shown = check(lab, lab.folder / "fifo")
    assert shown.returncode == 2 and "fifo: " in shown.stderr


@path("config/drop-ins/unreadable")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become one who may not read")
def test_unreadable(lab):
    """What they forbid would be allowed without a word."""
    config = write(lab.folder, "log-level = info\n")
    write(lab.folder, "allow-user = none\n", "ferryd.conf.d/10.conf")
    os.chmod(lab.folder, 0o755)
    os.chmod(lab.folder / "ferryd.conf.d", 0o700)
    shown = subprocess.run([lab.build / "ferryd", "--config", config, "--check-config"], user=65534,
                           capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 2
    assert "ferryd.conf.d: Permission denied" in shown.stderr


@path("config/socket/taken/{what}")
@pytest.mark.parametrize("what", ["other-type", "no-permission"])
def test_taken(lab, what):
    """Somebody listens there, though a connection to him fails: his socket stays."""
    kind = socket.SOCK_SEQPACKET if what == "other-type" else socket.SOCK_STREAM
    where = lab.folder / "taken"
    other = socket.socket(socket.AF_UNIX, kind)
    other.bind(str(where))
    other.listen()
    options = {}
    if what == "no-permission":
        os.chmod(lab.folder, 0o777)
        os.chmod(where, 0)
        options = {"user": 65534}
    shown = subprocess.run([lab.build / "ferryd", "--config", "", "--control", where, "--guests",
                            lab.folder / "g", "--state-dir", lab.folder / "s"], timeout=60,
                           capture_output=True, text=True, check=False, **options)
    assert shown.returncode == 1
    assert f"{where}: another daemon listens there" in shown.stderr
    assert where.exists()


@path("config/file/starts-nothing-with-a-fault")
def test_start(lab):
    config = write(lab.folder, "metrics = 0.0.0.0:9000\n")
    shown = subprocess.run([lab.build / "ferryd", "--config", config, "--control",
                            lab.folder / "c", "--guests", lab.folder / "g", "--state-dir",
                            lab.folder / "s"], capture_output=True, text=True, timeout=60,
                           check=False)
    assert shown.returncode == 2
    assert "0.0.0.0:9000" in shown.stderr
    assert not (lab.folder / "c").exists() and not (lab.folder / "g").exists()


@path("config/order/drop-ins-then-command-line")
def test_order(lab):
    """Each layer sets a mode; the last to say something has it."""
    config = write(lab.folder, "control-mode = 0600\nguests-mode = 0600\nread-only-mode = 0600\n"
                   f"read-only = {lab.folder}/ro\n")
    write(lab.folder, "guests-mode = 0640\nread-only-mode = 0640\n", "ferryd.conf.d/10-a.conf")
    write(lab.folder, "guests-mode = 0644\n", "ferryd.conf.d/20-b.conf")
    write(lab.folder, "guests-mode = 0777\n", "ferryd.conf.d/30-not-a-conf")
    daemon = lab.daemon("a", config=config, options=["--read-only-mode", "0666"])
    modes = [stat.S_IMODE(os.stat(where).st_mode)
             for where in (daemon.control, daemon.guests, lab.folder / "ro")]
    assert [oct(mode) for mode in modes] == ["0o600", "0o644", "0o666"]


@path("config/order/a-list-on-the-command-line-replaces")
def test_list(lab):
    config = write(lab.folder, "allow-listen = 10.0.0.0/8\n")
    daemon = lab.daemon("a", config=config, options=["--allow-listen", "unix:/nowhere"])
    session = lab.session(daemon)
    lab.scripted(GUEST, daemon, session, blocks=["ram:1M"], incoming=True)
    with pytest.raises(CommandError) as refused:
        session.cmd("migrate-incoming", uri="tcp:127.0.0.1:0")
    assert "unix:/nowhere" in refused.value.desc and "10.0.0.0" not in refused.value.desc


@path("config/socket/group")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a socket to another group")
def test_group(lab):
    daemon = lab.daemon("a", options=["--control-group", "12345", "--guests-group", "54321"])
    assert os.stat(daemon.control).st_gid == 12345
    assert os.stat(daemon.guests).st_gid == 54321


# ---- SIGHUP ----

def reload(daemon, word="was read again"):
    after = len(daemon.errors())
    daemon.proc.send_signal(signal.SIGHUP)
    daemon.await_line(word, after=after, errors=True)
    return daemon.errors()[after:]


@path("config/reload/log-level")
def test_reload_level(lab):
    config = write(lab.folder, "log-level = info\n")
    daemon = lab.daemon("a", config=config)
    write(lab.folder, "log-level = warning\n")
    daemon.proc.send_signal(signal.SIGHUP)
    eventually(lambda: quiet(lab, daemon), what="a log without infos")
    write(lab.folder, "log-level = info\n")
    reload(daemon)


def quiet(lab, daemon):
    """Whether a guest comes and goes and the log says nothing of it."""
    before = len(daemon.errors())
    session = lab.session(daemon)
    lab.scripted(GUEST, daemon, session, blocks=["ram:1M"]).terminate()
    eventually(lambda: session.cmd("query-guests") == [], what="the guest's end")
    return "detached" not in daemon.errors()[before:]


@path("config/reload/kept-is-told")
def test_reload_kept(lab):
    config = write(lab.folder, "control-mode = 0660\n")
    daemon = lab.daemon("a", config=config)
    write(lab.folder, f"control-mode = 0600\nmetrics = unix:{lab.folder}/m\n")
    told = reload(daemon)
    assert "changes control-mode" in told and "changes metrics" in told
    assert "changes guests" not in told
    assert stat.S_IMODE(os.stat(daemon.control).st_mode) == 0o660


@path("config/reload/faults-change-nothing")
def test_reload_fault(lab):
    config = write(lab.folder, "allow-listen = 127.0.0.1\n")
    daemon = lab.daemon("a", config=config)
    write(lab.folder, "allow-listen = 192.0.2.1\nnonsense = 1\n")
    told = reload(daemon, "nothing of it is changed")
    assert f"{config}:2: " in told
    session = lab.session(daemon)
    lab.scripted(GUEST, daemon, session, blocks=["ram:1M"], incoming=True)
    session.cmd("migrate-incoming", uri="tcp:127.0.0.1:0")


@path("config/reload/migration-runs-on")
def test_reload_during(scene):
    """A job that listens already stays where it is; the next one has the new list."""
    source, target = scene.pair()
    uri = scene.b.listen()
    scene.b.daemon.proc.send_signal(signal.SIGHUP)
    scene.b.daemon.await_line("was read again", errors=True)
    scene.a.migrate(uri)
    scene.a.complete()
    scene.b.complete()


@path("config/end/sockets-are-taken-away")
def test_end(lab):
    extra = ["--read-only", lab.folder / "ro", "--metrics", f"unix:{lab.folder}/metrics"]
    daemon = lab.daemon("a", options=extra)
    paths = [daemon.control, daemon.guests, lab.folder / "ro", lab.folder / "metrics"]
    assert all(stat.S_ISSOCK(os.stat(where).st_mode) for where in paths)
    assert Qmp(lab.folder / "ro").cmd("query-version")
    assert daemon.terminate() == 0
    assert not any(where.exists() for where in paths)
