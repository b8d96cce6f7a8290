# SPDX-License-Identifier: BSD-3-Clause
"""What ferryd and a service manager say to each other, with real processes: systemd's own tools where
they work without systemd, and sockets of the test's in the manager's place."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from lab import DEADLINE, CommandError, Process, Qmp
from scenes import GUEST, MIB, Host, eventually, move, path, started_by


class Datagrams:
    """A socket like the manager's or the journal's; what comes is kept."""

    def __init__(self, where):
        self.where = str(where)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.where)
        os.chmod(self.where, 0o666)
        self.got = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            self.got.append(self.sock.recv(65536).decode(errors="replace"))

    def wait(self, word, count=1):
        """Until so many messages have the word; they."""
        eventually(lambda: len(self.having(word)) >= count, what=f"{count} of {word}")
        return self.having(word)

    def having(self, word):
        return [text for text in self.got if word in text]


# ---- notify, watchdog ----

@path("service/notify/ready-reload-stop")
def test_notify(lab):
    manager = Datagrams(lab.folder / "notify")
    daemon = lab.daemon("a", env={**os.environ, "NOTIFY_SOCKET": manager.where})
    manager.wait("READY=1")
    assert lab.session(daemon).cmd("query-version")  # ready means that it serves
    daemon.proc.send_signal(signal.SIGHUP)
    reloading = manager.wait("RELOADING=1")
    assert re.search(r"MONOTONIC_USEC=\d+", reloading[0])
    manager.wait("READY=1", 2)
    assert daemon.terminate() == 0
    assert manager.wait("STOPPING=1")
    assert not manager.having("WATCHDOG=1")


@path("service/notify/not-before-it-serves")
def test_notify_failed(lab):
    manager = Datagrams(lab.folder / "notify")
    shown = subprocess.run(
        [lab.build / "ferryd", "--config", "", "--control", lab.folder / "none" / "c", "--guests",
         lab.folder / "g", "--state-dir", lab.folder / "s"], capture_output=True, check=False,
        timeout=DEADLINE, env={**os.environ, "NOTIFY_SOCKET": manager.where})
    assert shown.returncode == 1
    assert not manager.having("READY=1")


@path("service/watchdog/fed-by-the-loop")
def test_watchdog(lab):
    """Signs of life come while the loop runs, and none while it does not."""
    manager = Datagrams(lab.folder / "notify")
    daemon = lab.daemon("a", env={**os.environ, "NOTIFY_SOCKET": manager.where,
                                  "WATCHDOG_USEC": "150000"})
    manager.wait("WATCHDOG=1", 3)
    daemon.suspend()
    daemon.wake()
    manager.wait("WATCHDOG=1", len(manager.having("WATCHDOG=1")) + 2)


# ---- socket activation ----

@path("service/sockets/systemd-socket-activate")
def test_activate(lab):
    """The daemon is started by the first client, who is served."""
    control = lab.folder / "control"
    process = lab.keep(Process(
        "activate", ["systemd-socket-activate", "-l", control, "--fdname=control",
                     lab.build / "ferryd", "--config", "", "--guests", lab.folder / "g",
                     "--control", lab.folder / "other", "--state-dir", lab.folder / "s"],
        lab.folder))
    process.await_line("Listening on", errors=True)
    assert not (lab.folder / "g").exists()  # nobody has started it yet
    client = Qmp(control)
    assert client.cmd("query-version")["package"].startswith("ferryd")
    assert not (lab.folder / "other").exists()
    lab.scripted(GUEST, process_with(process, lab.folder / "g"), client, blocks=["ram:1M"])
    assert process.terminate() == 0
    assert control.exists() and not (lab.folder / "g").exists()  # the first is systemd's


def process_with(process, guests):
    process.guests = guests
    return process


def listening(where, kind):
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(where))
    sock.listen()
    return sock


# Becomes a program that has these descriptors from 3 on, and knows that they are for it.
PASS = """
import fcntl, os, sys
passed, argv = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2:]
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in passed]
for fd in passed:
    os.close(fd)
for number, fd in enumerate(copies):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.execve(argv[0], argv, {**os.environ, "LISTEN_PID": str(os.getpid())})
"""


def activated(lab, name, sockets, *options):
    """A ferryd that is passed these sockets, {name: socket}, as systemd does."""
    fds = [sock.fileno() for sock in sockets.values()]
    argv = [sys.executable, "-c", PASS, ",".join(map(str, fds)), lab.build / "ferryd", "--config",
            "", "--state-dir", lab.folder / "s", *options]
    env = {**os.environ, "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(sockets)}
    return lab.keep(Process(name, argv, lab.folder, pass_fds=fds, env=env))


@path("service/sockets/all-three")
def test_all_sockets(lab):
    kinds = {"control": socket.SOCK_STREAM, "guests": socket.SOCK_SEQPACKET,
             "read-only": socket.SOCK_STREAM}
    sockets = {name: listening(lab.folder / name, kind) for name, kind in kinds.items()}
    daemon = activated(lab, "a", sockets, "--read-only", lab.folder / "ro")
    client = Qmp(lab.folder / "control")
    lab.scripted(GUEST, process_with(daemon, lab.folder / "guests"), client, blocks=["ram:1M"])
    assert [g["name"] for g in Qmp(lab.folder / "read-only").cmd("query-guests")] == [GUEST]
    assert daemon.terminate() == 0


@path("service/sockets/read-only-alone")
def test_read_only_socket(lab):
    """It is served though no option names one."""
    sockets = {"read-only": listening(lab.folder / "ro", socket.SOCK_STREAM)}
    activated(lab, "a", sockets, "--control", lab.folder / "c", "--guests", lab.folder / "g")
    with pytest.raises(CommandError) as error:
        Qmp(lab.folder / "ro").cmd("quit")
    assert error.value.code == "read-only"


@path("service/sockets/guests-outlive-a-restart")
def test_restart(lab):
    """Who connects while no daemon runs waits for the next; a guest comes back to it."""
    sockets = {"control": listening(lab.folder / "control", socket.SOCK_STREAM),
               "guests": listening(lab.folder / "guests", socket.SOCK_SEQPACKET)}
    first = activated(lab, "a", sockets)
    client = Qmp(lab.folder / "control")
    vmm = lab.scripted(GUEST, process_with(first, lab.folder / "guests"), client, blocks=["ram:1M"])
    first.kill()
    early = socket.socket(socket.AF_UNIX)
    early.connect(str(lab.folder / "control"))
    activated(lab, "b", sockets)
    early.settimeout(DEADLINE)
    assert b'"QMP"' in early.recv(4096)
    client = Qmp(lab.folder / "control")
    eventually(lambda: [g["name"] for g in client.cmd("query-guests")] == [GUEST],
               what="the guest's return")
    assert vmm.alive()


@path("service/sockets/wrong/{what}")
@pytest.mark.parametrize("what,name,kind,listens", [
    ("control-type", "control", socket.SOCK_SEQPACKET, True),
    ("guests-type", "guests", socket.SOCK_STREAM, True),
    ("not-listening", "control", socket.SOCK_STREAM, False),
])
def test_wrong_socket(lab, what, name, kind, listens):
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(lab.folder / what))
    if listens:
        sock.listen()
    daemon = activated(lab, "a", {name: sock}, "--control", lab.folder / "c", "--guests",
                       lab.folder / "g")
    daemon.meant_to_end = True
    assert daemon.wait() == 1
    daemon.proc.returncode = 0  # as it should
    assert f"passed as '{name}'" in daemon.errors()


@path("service/sockets/not-inherited-by-commands")
def test_not_inherited(lab):
    """What exec: runs gets neither the sockets nor the manager's variables for them."""
    sockets = {"control": listening(lab.folder / "control", socket.SOCK_STREAM)}
    daemon = activated(lab, "a", sockets, "--guests", lab.folder / "g")
    client = Qmp(lab.folder / "control")
    lab.scripted(GUEST, process_with(daemon, lab.folder / "g"), client, blocks=["ram:1M"])
    client.cmd("migrate", uri=f"exec:env >{lab.folder}/env; ls /proc/self/fd >{lab.folder}/fds; "
               "cat >/dev/null")
    client.await_status("completed", guest=GUEST)
    assert "LISTEN_FDS" not in (lab.folder / "env").read_text()
    assert (lab.folder / "fds").read_text().split() == ["0", "1", "2", "3"]  # 3: the folder itself


# ---- the journal ----

IN_NAMESPACE = ('mount -t tmpfs none /run/systemd && mkdir /run/systemd/journal && '
                'mount --bind "$0" /run/systemd/journal && '
                'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec "$@"')


def fields_of(message):
    return dict(line.split("=", 1) for line in message.splitlines() if "=" in line)


@path("service/journal/fields")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can put a socket in the journal's place")
def test_journal(lab):
    """The messages of a migration, with what they can be found by."""
    folder = lab.folder / "journal"
    folder.mkdir()
    journal = Datagrams(folder / "socket")
    daemon = lab.keep(Process("a", [
        "unshare", "-m", "sh", "-c", IN_NAMESPACE, folder, lab.build / "ferryd", "--config", "",
        "--control", lab.folder / "c", "--guests", lab.folder / "g", "--state-dir",
        lab.folder / "s"], lab.folder))
    journal.wait("listens on")
    client = Qmp(lab.folder / "c")
    lab.scripted(GUEST, process_with(daemon, lab.folder / "g"), client, blocks=["ram:1M"])
    client.cmd("migrate", uri="exec:exit 3")
    job = client.await_status("failed", guest=GUEST)["job"]
    attached = fields_of(journal.wait("attached")[0])
    assert attached["FERRY_GUEST"] == GUEST and attached["SYSLOG_IDENTIFIER"] == "ferryd"
    states = [fields_of(text) for text in journal.wait("outgoing migration failed")]
    assert (states[0]["FERRY_STATE"], states[0]["FERRY_JOB"]) == ("failed", job)
    reason = fields_of(journal.wait("FERRY_CODE=")[0])
    assert reason["PRIORITY"] == "4" and len(reason["MESSAGE_ID"]) == 32
    assert reason["MESSAGE_ID"] != states[0]["MESSAGE_ID"] != attached["MESSAGE_ID"]
    assert daemon.errors() == ""
    assert daemon.terminate() == 0


@path("service/journal/a-file-is-no-journal")
def test_no_journal(lab):
    """JOURNAL_STREAM tells of another file than stderr: somebody has redirected it."""
    daemon = lab.daemon("a", env={**os.environ, "JOURNAL_STREAM": "1:2"})
    assert "listens on" in daemon.errors()


# ---- the units ----

def units(lab):
    """As built, with the built daemon in the installed one's place, and users that there are."""
    folder = lab.folder / "units"
    folder.mkdir()
    built = lab.build / "systemd"
    for unit in built.iterdir():
        text = re.sub(r"(?<=ExecStart=)\S+", str(lab.build / "ferryd"), unit.read_text())
        (folder / unit.name).write_text(re.sub(r"^(User|Group|SocketGroup)=.*", r"\1=root", text,
                                               flags=re.M))
    return folder


@path("service/units/verify")
def test_verify(lab):
    folder = units(lab)
    names = sorted(unit.name.replace("@.", "@x.") for unit in folder.iterdir())
    for unit in list(folder.glob("*@.*")):
        (folder / unit.name.replace("@.", "@x.")).symlink_to(unit.name)
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no",
                              *(str(folder / name) for name in names)], capture_output=True,
                             text=True, timeout=DEADLINE, check=False)
    ours = [line for line in checked.stderr.splitlines() if "ferry" in line]
    assert (checked.returncode, ours) == (0, [])
    assert len(names) == 8


@path("service/units/drop-ins/{name}")
@pytest.mark.parametrize("name", ["qemu", "qemu-sandboxed", "rdma"])
def test_drop_in(lab, name):
    folder = units(lab)
    drop_ins = folder / "ferryd.service.d"
    drop_ins.mkdir()
    shutil.copy(f"systemd/drop-ins/{name}.conf", drop_ins)
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", folder / "ferryd.service"],
                             capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def expanded(names):
    """System calls by name; sets are systemd's."""
    found = set()
    for name in names:
        if name.startswith("@"):
            shown = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True,
                                   capture_output=True, text=True, timeout=DEADLINE).stdout
            found |= expanded(re.findall(r"^    ([@a-z]\S*)$", shown, re.M))
        else:
            found.add(name)
    return found


def allowed_calls(unit):
    """By its lines, in their order; a ~ takes away."""
    allowed = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit.read_text(), re.M):
        names = expanded(line.removeprefix("~").split())
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


# The daemon itself is what the lab knows and ends; the tracer stands beside (-D).  Leaks can't be
# looked for in one that is traced.
TRACED = """#!/bin/sh
export ASAN_OPTIONS=detect_leaks=0
exec strace -D -f -qq -o {folder}/calls.$$ {ferryd} "$@"
"""


@path("service/units/system-calls")
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_system_calls(lab):
    """What the daemon calls, from its start over a migration to its end, the unit lets it."""
    with started_by(lab, TRACED.replace("{folder}", str(lab.folder))):
        a, b = (Host(lab, name, options=["--read-only", lab.folder / f"{name}.ro", "--metrics",
                                         "127.0.0.1:0", "--control-group", "0"]) for name in "ab")
    source, target = a.scripted(), b.scripted(incoming=True)
    source.do(f"fill ram 0 {MIB} random 1")
    a.capable(xbzrle=True)
    move(a, b, source, target)
    for host in (a, b):
        host.daemon.ask_to_end()
        host.daemon.wait()
    calls = set()
    for trace in lab.folder.glob("calls.*"):
        calls |= set(re.findall(r"^\d+ +(?:<... )?([a-z_0-9]+)[( ]", trace.read_text(), re.M))
    assert {"recvmsg", "prlimit64", "memfd_create", "lchown"} <= calls
    assert not calls - allowed_calls(lab.build / "systemd" / "ferryd.service") - {"resumed"}


@path("service/units/exposure-is-what-the-README-says")
def test_exposure(lab):
    shown = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--no-pager",
                            lab.build / "systemd" / "ferryd.service"], capture_output=True,
                           text=True, timeout=DEADLINE, check=False).stdout
    figure = re.search(r"Overall exposure level for ferryd.service: (\S+)", shown)[1]
    with open("README.md", encoding="utf-8") as readme:
        assert f"rates {figure}" in " ".join(readme.read().split())


@path("service/config/shipped")
def test_shipped(lab):
    """What is commented out is the default; what is not turns exec: and fd: off."""
    with open("systemd/ferryd.conf", encoding="ascii") as shipped:
        text = shipped.read()
    said = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert said == ["allow-exec = none", "allow-fd = none"]
    everything = lab.folder / "all.conf"
    everything.write_text(re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.M)
                          .replace("= ferry\n", "= root\n"))
    checked = subprocess.run([lab.build / "ferryd", "--config", everything, "--check-config"],
                             capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
