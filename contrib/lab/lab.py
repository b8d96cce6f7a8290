# SPDX-License-Identifier: BSD-3-Clause
"""A laboratory on one machine: ferryd daemons, VMMs, and a QMP client to drive them.

The demo, the soak, the benches and the system tests are built from it.  Every process is started
in a folder of its own, ended by its own process id, and what it printed is kept there.  Nothing
sleeps for a fixed time: events, lines and states are awaited, each with a deadline.
"""

import array
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time

DEADLINE = 60.0  # seconds that anything awaited may take, unless a caller says otherwise

SANITIZER_SIGNS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:",
                   "WARNING: ThreadSanitizer", "ThreadSanitizer:DEADLYSIGNAL")


class LabError(Exception):
    """Something awaited did not come, or a command was refused."""


class CommandError(LabError):
    """An error that a QMP command answered."""

    def __init__(self, error):
        super().__init__(f"{error.get('code')}: {error.get('desc')}")
        self.error = error
        self.code = error.get("code")
        self.desc = error.get("desc")
        self.cls = error.get("class")


class Qmp:
    """One session on a control socket.  Events that come meanwhile are kept, in order."""

    def __init__(self, path, negotiate=True):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(str(path))
        self.buffer = b""
        self.events = []
        self.greeting = self.receive()
        if negotiate:
            self.cmd("qmp_capabilities")

    def close(self):
        self.sock.close()

    def receive(self, timeout=DEADLINE):
        """The next object that the daemon sends."""
        self.sock.settimeout(timeout)
        while b"\n" not in self.buffer:
            piece = self.sock.recv(65536)
            if not piece:
                raise LabError("the daemon closed the session")
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def send(self, request, fds=()):
        data = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def answer(self, timeout=DEADLINE):
        """The next answer; events before it are kept."""
        while True:
            got = self.receive(timeout)
            if "event" not in got:
                return got
            self.events.append(got)

    def cmd(self, name, /, fds=(), **arguments):
        """Executes a command; underscores in argument names stand for dashes."""
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.execute(name, arguments, fds)

    def execute(self, name, arguments=None, fds=()):
        request = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        self.send(request, fds)
        got = self.answer()
        if "error" in got:
            raise CommandError(got["error"])
        return got["return"]

    def await_event(self, name, /, timeout=DEADLINE, **data):
        """The next event of that name whose data has these members; earlier ones are dropped."""
        def matches(event):
            return event["event"] == name and all(
                event.get("data", {}).get(key) == value for key, value in data.items())

        end = time.monotonic() + timeout
        while True:
            while self.events:
                event = self.events.pop(0)
                if matches(event):
                    return event
            left = end - time.monotonic()
            if left <= 0:
                raise LabError(f"no event {name} {data} within {timeout} s")
            try:
                got = self.receive(left)
            except TimeoutError as late:
                raise LabError(f"no event {name} {data} within {timeout} s") from late
            if "event" in got:
                self.events.append(got)

    def await_status(self, *statuses, guest, timeout=DEADLINE):
        """Waits, by events, until a guest's migration has one of the statuses; its record then."""
        end = time.monotonic() + timeout
        while True:
            info = self.cmd("query-migrate", guest=guest)
            if info.get("status") in statuses:
                return info
            if info.get("status") in ("failed", "cancelled", "completed"):
                raise LabError(f"guest {guest}: {info}")
            self.await_event("MIGRATION", max(0.01, end - time.monotonic()), guest=guest)


class Process:
    """A process with its output in files, its lines awaitable."""

    must_live = False  # whether ending by itself is a fault, even with status 0
    ends_first = False  # before those that serve it

    def __init__(self, name, argv, folder, stdin=subprocess.DEVNULL, pass_fds=(), env=None):
        self.name = name
        self.out_path = pathlib.Path(folder) / f"{name}.out"
        self.err_path = pathlib.Path(folder) / f"{name}.err"
        self.meant_to_end = False  # a test ended it, or let it end
        with open(self.out_path, "ab") as out, open(self.err_path, "ab") as err:
            self.proc = subprocess.Popen([str(a) for a in argv], stdin=stdin, stdout=out,
                                         stderr=err, pass_fds=pass_fds, env=env)

    @property
    def pid(self):
        return self.proc.pid

    def alive(self):
        return self.proc.poll() is None

    def output(self):
        return self.out_path.read_text(errors="replace")

    def errors(self):
        return self.err_path.read_text(errors="replace")

    def kill(self):
        self.meant_to_end = True
        if self.alive():
            self.proc.kill()
        self.proc.wait()

    def terminate(self, timeout=DEADLINE):
        self.ask_to_end()
        return self.wait(timeout)

    def ask_to_end(self):
        """The polite way; returns at once."""
        if self.alive():
            self.meant_to_end = True
            self.wake()
            self.proc.terminate()

    def fault(self):
        """What is wrong with how it ended or what it said; None: nothing."""
        text = self.errors()
        for sign in SANITIZER_SIGNS:
            if sign in text:
                return f"{self.name}: {text[text.find(sign):][:4000]}"
        status = self.proc.poll()
        if status is None or (self.meant_to_end and status in (0, -signal.SIGKILL)):
            return None
        if self.must_live or status != 0:
            return f"{self.name} ended by itself, with status {status}"
        return None

    def wait(self, timeout=DEADLINE):
        try:
            return self.proc.wait(timeout)
        except subprocess.TimeoutExpired as late:
            raise LabError(f"{self.name} did not end within {timeout} s") from late

    def _threads(self):
        """The state of each thread: R, S, T..."""
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            try:
                yield (task / "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
            except OSError:
                pass  # it has ended

    def suspend(self):
        """Returns when it stands still: a signal takes its time to reach a thread that runs."""
        self.proc.send_signal(signal.SIGSTOP)
        end = time.monotonic() + DEADLINE
        while any(state not in "TtZX" for state in self._threads()):
            if time.monotonic() > end:
                raise LabError(f"{self.name} does not stand still")
            time.sleep(0.001)

    def wake(self):
        self.proc.send_signal(signal.SIGCONT)

    def cpu_seconds(self):
        """User and system time so far."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def await_line(self, text, after=0, timeout=DEADLINE, errors=False):
        """Waits until `text` stands in the output past position `after`; where it ends."""
        path = self.err_path if errors else self.out_path
        end = time.monotonic() + timeout
        while True:
            content = path.read_text(errors="replace")
            at = content.find(text, after)
            if at >= 0:
                return at + len(text)
            if not self.alive() and path.read_text(errors="replace") == content:
                raise LabError(f"{self.name} ended without printing '{text}':\n{content[-2000:]}"
                               f"\n{self.errors()[-2000:]}")
            if time.monotonic() > end:
                raise LabError(f"{self.name} did not print '{text}' within {timeout} s:\n"
                               f"{content[-2000:]}")
            time.sleep(0.005)  # how often a growing file is looked at


class Daemon(Process):
    """A ferryd, with its sockets in the lab's folder."""

    must_live = True

    def __init__(self, lab, name, pass_fds=(), options=(), env=None, config=""):
        """`options`: more of the command line; `config`: a file, by default none."""
        self.lab = lab
        self.control = lab.folder / f"{name}.ctl"
        self.guests = lab.folder / f"{name}.gst"
        argv = [lab.build / "ferryd", "--control", self.control, "--guests", self.guests,
                "--state-dir", lab.folder / f"{name}.state", "--config", config,
                *lab.daemon_options, *options]
        super().__init__(name, argv, lab.folder, pass_fds=pass_fds, env=env)
        self.await_line("listens on", errors=True, after=self._started_at())

    def _started_at(self):
        """Where this start's log begins, when a daemon of the same name ran before."""
        text = self.errors()
        return text.rfind("\n# started\n") + 1

    def qmp(self, negotiate=True):
        return Qmp(self.control, negotiate)


class Vmm(Process):
    """A ferry-vmm with a test guest; its console is its standard output."""

    def __init__(self, lab, name, daemon, guest=None, args="", memory=64, cpus=1, incoming=False,
                 disk=None, disk_base=None, options=()):
        argv = [lab.build / "ferry-vmm", "--name", name, "--ferry", daemon.guests,
                "--memory", memory, "--cpus", cpus, "--console", "stdio"]
        if incoming:
            argv += ["--incoming"]
        else:
            argv += ["--guest", lab.build / "guests" / f"{guest}.bin"]
            if args:
                argv += ["--args", args]
        if disk:
            argv += ["--disk", disk]
        if disk_base:
            argv += ["--disk-base", disk_base]
        super().__init__(lab.unique(name), [*argv, *options], lab.folder)
        self.guest_name = name


class ScriptedVmm(Process):
    """A scripted-vmm: RAM without KVM, driven by commands."""

    def __init__(self, lab, name, daemon, blocks=("ram:16",), disks=(), incoming=False,
                 options=()):
        argv = [lab.build / "tests" / "scripted-vmm", "--name", name, "--ferry",
                daemon if isinstance(daemon, (str, pathlib.Path)) else daemon.guests]
        for block in blocks:
            argv += ["--block", block]
        for disk in disks:
            argv += ["--disk", disk]
        if incoming:
            argv += ["--incoming"]
        super().__init__(lab.unique(name), [*argv, *options], lab.folder, stdin=subprocess.PIPE)
        self.guest_name = name
        self.start_answers()

    def start_answers(self):
        self.read_to = 0
        self.lock = threading.Lock()
        self._next_answer()

    def _next_answer(self, timeout=DEADLINE):
        """The next "ok ..." or "error ..." line; event lines are passed over."""
        end = time.monotonic() + timeout
        while True:
            content = self.output()
            newline = content.find("\n", self.read_to)
            if newline < 0:
                if not self.alive() or time.monotonic() > end:
                    raise LabError(f"{self.name} gave no answer: {self.errors()[-1000:]}")
                time.sleep(0.002)  # how often a growing file is looked at
                continue
            line = content[self.read_to:newline]
            self.read_to = newline + 1
            if line.startswith("ok"):
                return line[3:]
            if line.startswith("error"):
                raise LabError(f"{self.name}: {line}")

    def do(self, command):
        with self.lock:
            self.proc.stdin.write(command.encode() + b"\n")
            self.proc.stdin.flush()
            return self._next_answer()

    def ask_to_end(self):
        """The end of its commands is its end."""
        self.meant_to_end = True
        if self.alive():
            self.wake()
        try:
            self.proc.stdin.close()
        except BrokenPipeError:
            pass

    def events(self, name):
        """What came with each event of that name so far."""
        prefix = f"event {name}"
        return [line[len(prefix):].strip() for line in self.output().splitlines()
                if line.startswith(prefix)]

    def await_event(self, name, count=1, timeout=DEADLINE):
        end = time.monotonic() + timeout
        while len(self.events(name)) < count:
            if time.monotonic() > end:
                raise LabError(f"{self.name}: no event {name}: {self.output()[-1000:]}")
            time.sleep(0.005)  # how often a growing file is looked at


class Lab:
    """A folder, and what was started in it; `with` ends it all."""

    def __init__(self, build, folder=None, daemon_options=()):
        self.build = pathlib.Path(build).resolve()
        self._made = None
        if folder is None:
            self._made = tempfile.TemporaryDirectory(prefix="ferry-")
            folder = self._made.name
        self.folder = pathlib.Path(folder)
        self.daemon_options = list(daemon_options)
        self.processes = []
        self.sessions = []
        self.names = {}
        self.undo = contextlib.ExitStack()  # what close does once all processes have ended

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        for session in self.sessions:
            session.close()
        for process in reversed(self.processes):
            process.kill()
        self.sessions, self.processes = [], []
        self.undo.close()
        if self._made:
            self._made.cleanup()

    def finish(self):
        """Ends everything in the polite way; a list of what was wrong with it."""
        for session in self.sessions:
            session.close()
        self.sessions = []
        first = [process for process in self.processes if process.ends_first]
        return self._end(first) + self._end([p for p in self.processes if p not in first])

    @staticmethod
    def _end(processes):
        for process in reversed(processes):
            process.ask_to_end()
        faults = []
        for process in processes:
            try:
                process.wait(30)
            except LabError as late:
                faults.append(str(late))
                process.kill()
            fault = process.fault()
            faults += [fault] if fault else []
        return faults

    def unique(self, name):
        """A name for files: the second process of one name gets another."""
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name}.{self.names[name]}"

    def keep(self, process):
        """The lab ends it from now on."""
        self.processes.append(process)
        return process

    def daemon(self, name, **kwargs):
        path = self.folder / f"{name}.err"
        if path.exists():
            with open(path, "a", encoding="ascii") as log:
                log.write("\n# started\n")
        return self.keep(Daemon(self, name, **kwargs))

    def session(self, daemon, negotiate=True):
        session = daemon.qmp(negotiate)
        self.sessions.append(session)
        return session

    def await_guest(self, session, name):
        """Waits until a guest is attached."""
        end = time.monotonic() + DEADLINE
        while not any(g["name"] == name for g in session.cmd("query-guests")):
            if time.monotonic() > end:
                raise LabError(f"guest {name} was not attached")
            session.await_event("GUEST_ATTACHED", guest=name)

    def vmm(self, name, daemon, session=None, **kwargs):
        vmm = self.keep(Vmm(self, name, daemon, **kwargs))
        if session:
            self.await_guest(session, name)
        return vmm

    def scripted(self, name, daemon, session=None, **kwargs):
        vmm = self.keep(ScriptedVmm(self, name, daemon, **kwargs))
        if session:
            self.await_guest(session, name)
        return vmm

    def logs(self):
        """All that was printed, for a failure's report."""
        parts = []
        for path in sorted(self.folder.glob("*.err")) + sorted(self.folder.glob("*.out")):
            text = path.read_text(errors="replace")
            if text:
                parts.append(f"---- {path.name}\n{text[-3000:]}")
        return "\n".join(parts)


def has_kvm():
    """None, or why KVM guests can't run here."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as fault:
        return f"/dev/kvm: {fault.strerror}"
    return None


def set_capabilities(session, guest, **states):
    """Capabilities by name, underscores for dashes."""
    session.cmd("migrate-set-capabilities", guest=guest, capabilities=[
        {"capability": name.replace("_", "-"), "state": state} for name, state in states.items()])


class Cut(bytes):
    """The last bytes that a Relay passes on: it breaks the link behind them."""


class Relay:
    """A link between two daemons that a test can look into, slow down and break.

    Listens on loopback and passes bytes on to `target` ("host", port).  Each piece of data goes
    through `on_data(relay, way, data)` ("out" towards the target, "back" from it), which returns
    what is passed on; None, or a Cut, breaks the link.  `tap(relay, number)` makes such a function
    of `(way, data)` for each connection instead.
    """

    def __init__(self, target, on_data=None, tap=None):
        self.target = target
        self.tap = tap or (lambda relay, number: lambda way, data: on_data(relay, way, data)
                           if on_data else data)
        self.passed = {"out": 0, "back": 0}
        self.connections = 0
        self.open = True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.uri = f"tcp:127.0.0.1:{self.port}"
        self.pairs = []
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            try:
                far = socket.create_connection(self.target)
            except OSError:
                near.close()
                continue
            self._join(near, far)

    def _join(self, near, far):
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self.connections += 1
            look = self.tap(self, self.connections)
            self.pairs.append((near, far))
        for way, source, sink in (("out", near, far), ("back", far, near)):
            threading.Thread(target=self._pump, args=(look, way, source, sink),
                             daemon=True).start()

    def _pump(self, look, way, source, sink):
        """One direction.  A sink that is gone swallows; the other direction tells its end."""
        lost = False
        try:
            while data := source.recv(1 << 16):
                data = look(way, data)
                data = Cut() if data is None else data
                if isinstance(data, Cut):
                    self._break(source)  # first, so that no answer to it slips back
                lost = lost or not self._push(way, sink, data)
                if isinstance(data, Cut):
                    self._break(sink)
                    return
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._break(source, sink)

    def _push(self, way, sink, data):
        """Passes data on; False when nobody takes it."""
        try:
            sink.sendall(data)
        except OSError:
            return False
        self.passed[way] += len(data)
        return True

    @staticmethod
    def _break(*socks):
        for sock in socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Breaks every link that is up."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            self._break(*pair)

    def close(self):
        self._break(self.listener)
        self.listener.close()
        self.cut()
