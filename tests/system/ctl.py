# SPDX-License-Identifier: BSD-3-Clause
"""ferryctl as tests run it: with pipes, on a terminal of its own, against daemons that lie."""

import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from fcntl import ioctl

from lab import DEADLINE, LabError

COLUMNS, ROWS = 120, 30
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


@dataclass
class Done:
    """What a run has come to."""

    status: int
    out: str
    err: str


class Ctl:
    """Runs ferryctl; what is still running ends with the lab."""

    def __init__(self, lab):
        self.lab = lab
        self.program = lab.build / "ferryctl"

    def env(self, host, **more):
        """For a host of a scene, or the path of a control socket."""
        control = host.daemon.control if hasattr(host, "daemon") else host
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm", "HOME": str(self.lab.folder),
               "FERRY_CONTROL": str(control), "XDG_STATE_HOME": str(self.lab.folder / "xdg")}
        return {**env, **more}

    def run(self, host, *words, stdin="", **more):
        """To its end."""
        done = subprocess.run([self.program, *map(str, words)], input=stdin, text=True,
                              capture_output=True, timeout=DEADLINE, check=False,
                              env=self.env(host, **more))
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, host, *words, **more):
        """A run that must succeed and complain of nothing; what it printed."""
        done = self.run(host, *words, **more)
        assert (done.status, done.err) == (0, ""), done
        return done.out

    def bad(self, host, status, *words, **more):
        """A run that must end so, with one line on stderr, which is returned."""
        done = self.run(host, *words, **more)
        assert done.status == status, done
        assert done.err.startswith("ferryctl: ") and done.err.count("\n") == 1, done
        return done.err

    def started(self, host, *words):
        """One that goes on, with pipes."""
        proc = subprocess.Popen([self.program, *map(str, words)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=self.env(host))
        return self._kept(Piped(proc))

    def terminal(self, host, *words, **more):
        """One that goes on, on a terminal."""
        return self.terminal_of([self.program, *words], host, **more)

    def terminal_of(self, argv, host, **more):
        """Any program that goes on, on a terminal."""
        return self._kept(Terminal(argv, self.env(host, **more)))

    def _kept(self, running):
        self.lab.undo.callback(running.close)
        return running


class Running:
    """A program whose output is read as it comes."""

    def __init__(self, proc):
        self.proc = proc
        self.text = ""
        self.more = threading.Condition()
        self.readers = []

    def read_from(self, fd):
        self.readers.append(threading.Thread(target=self._read, args=(fd,), daemon=True))
        self.readers[-1].start()

    def _read(self, fd):
        try:
            while piece := os.read(fd, 65536):
                with self.more:
                    self.text += piece.decode("utf-8", "replace")
                    self.more.notify_all()
        except OSError:
            pass  # the other end of a terminal is gone

    def await_text(self, text, after=0):
        """Waits until it was printed; where it ends."""
        with self.more:
            if not self.more.wait_for(lambda: text in self.text[after:], DEADLINE):
                raise LabError(f"'{text}' was not printed within {DEADLINE} s: {self.text!r}")
            return self.text.index(text, after) + len(text)

    def interrupt(self):
        self.proc.send_signal(signal.SIGINT)

    def sleeps(self):
        """Whether its main thread waits for something."""
        with open(f"/proc/{self.proc.pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "S"

    def end(self):
        """Waits for its end; the status."""
        try:
            status = self.proc.wait(DEADLINE)
        except subprocess.TimeoutExpired as late:
            raise LabError(f"ferryctl did not end: {self.text!r}") from late
        for reader in self.readers:
            reader.join(DEADLINE)
        return status

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()


class Piped(Running):
    """With pipes: which of them was written to first is not to be seen in the text."""

    def __init__(self, proc):
        super().__init__(proc)
        self.read_from(proc.stdout.fileno())
        self.read_from(proc.stderr.fileno())

    def close(self):
        super().close()
        self.proc.stdout.close()
        self.proc.stderr.close()


class Terminal(Running):
    """On a pseudo-terminal that is its controlling one: Ctrl-C is a key."""

    def __init__(self, argv, env):
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        take = [sys.executable, "-c", "import fcntl, os, sys, termios\n"
                "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\nos.execv(sys.argv[1], sys.argv[1:])"]
        proc = subprocess.Popen([*take, *map(str, argv)], stdin=slave, stdout=slave,
                                stderr=slave, env=env, start_new_session=True)
        os.close(slave)
        super().__init__(proc)
        self.read_from(self.master)

    def type(self, keys):
        os.write(self.master, keys.encode())

    def close(self):
        super().close()
        for reader in self.readers:
            reader.join(DEADLINE)
        os.close(self.master)


class Liar:
    """A control socket behind which sits anything: each connection is given to `serve`."""

    def __init__(self, lab, serve):
        self.path = lab.folder / "liar.ctl"
        self.serve = serve
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        lab.undo.callback(self.listener.close)

    def _accept(self):
        try:
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()
        except OSError:
            pass  # the test is over

    def _serve(self, sock):
        with sock:
            try:
                self.serve(sock)
            except OSError:
                pass  # it had enough


def requests(sock):
    """What ferryctl sends, a request at a time."""
    with sock.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)["execute"]


def answering(answers):
    """Serves what commands return; bytes are sent as they are, and at None it hangs up."""
    def serve(sock):
        sock.sendall(GREETING)
        for name in requests(sock):
            answer = answers.get(name, {})
            if answer is None:
                return
            sock.sendall(answer if isinstance(answer, bytes)
                         else json.dumps({"return": answer}).encode() + b"\r\n")

    return serve
