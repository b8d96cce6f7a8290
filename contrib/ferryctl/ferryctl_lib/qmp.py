# SPDX-License-Identifier: BSD-3-Clause
"""A session on the daemon's control socket.  Whatever is awaited has a deadline."""

import collections
import contextlib
import json
import math
import os
import select
import socket
import time

from .failure import Failure
from .shapes import ANSWERS, EVENT, fault_of
from .text import clean

# No answer of a daemon is longer; more is taken for nonsense.
LINE_MAX = 32 << 20
PIECE = 1 << 16
# Events that nobody has asked for yet.
EVENTS_KEPT = 1000
NUMBER_MAX = 1 << 64
# A number with more digits is none that a daemon counts to.
DIGITS_MAX = 24


class Lost(Failure):
    """The session can't go on: it was closed, is silent, or says what is no answer."""


class Refused(Failure):
    """An error that the daemon answered, which `answer` keeps whole."""

    def __init__(self, answer):
        error = answer["error"]
        super().__init__(clean(error.get("desc") or error.get("class") or "an error without text"))
        self.answer = answer
        self.code = error.get("code")


def _integer(text):
    value = int(text) if len(text) <= DIGITS_MAX else NUMBER_MAX
    if abs(value) >= NUMBER_MAX:
        raise ValueError("a number out of range")
    return value


def _real(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number out of range")
    return value


def decode(line):
    """The object in a line."""
    try:
        got = json.loads(line, parse_int=_integer, parse_float=_real, parse_constant=_real)
    except (ValueError, RecursionError):
        got = None
    if not isinstance(got, dict):
        start = clean(line[:60].decode("utf-8", "replace"))
        raise Lost(f"What answers is no ferryd: it says '{start}'")
    return got


def _connect(path, timeout):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except OSError as fault:
        sock.close()
        why = fault.strerror or str(fault)
        raise Failure(f"No ferryd answers at {clean(path)}: {why} (--control names its socket)"
                      ) from fault
    return sock


class Client:
    """Sends commands, receives answers, and keeps the events that come in between."""

    def __init__(self, path, timeout):
        self.path = path
        self.timeout = timeout  # seconds
        self.sock = _connect(path, timeout)
        self.lines = collections.deque()
        self.partial = bytearray()
        self.events = collections.deque(maxlen=EVENTS_KEPT)
        if not isinstance(self._await("its greeting").get("QMP"), dict):
            raise Lost(f"What answers at {clean(path)} is no ferryd: it does not greet as one")
        self.execute("qmp_capabilities")

    # ---- lines ----

    def _take(self, piece):
        """Cuts what has come into lines."""
        if not piece:
            raise Lost("The daemon closed the session")
        first, *others = piece.split(b"\n")
        self.partial += first
        for other in others:
            self.lines.append(bytes(self.partial))
            self.partial = bytearray(other)
        if len(self.partial) > LINE_MAX:
            raise Lost(f"What answers is no ferryd: it says a line of more than "
                       f"{LINE_MAX >> 20} MiB")

    def _fill(self, end, wake):
        """Reads once; False where the time is over or `wake` has something to say."""
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            return False
        ready, _, _ = select.select([self.sock, *wake], [], [], left)
        if self.sock not in ready:
            return False
        try:
            self._take(self.sock.recv(PIECE))
        except OSError as fault:
            raise Lost(f"The daemon was lost: {fault.strerror or fault}") from fault
        return True

    def receive(self, timeout=None, wake=()):
        """The next object; None where none came in time, or `wake`, file objects, woke it."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            while self.lines:
                line = self.lines.popleft()
                if line.strip():
                    return decode(line)
            if not self._fill(end, wake):
                return None

    def send(self, request, fds=()):
        data = json.dumps(request).encode("ascii") + b"\n"
        try:
            if fds:
                sent = socket.send_fds(self.sock, [data], fds)
                data = data[sent:]
            self.sock.sendall(data, socket.MSG_NOSIGNAL)
        except OSError as fault:
            raise Lost(f"The daemon was lost: {fault.strerror or fault}") from fault

    # ---- answers and events ----

    def _await(self, what):
        """The next object that is no event."""
        end = time.monotonic() + self.timeout
        while (left := end - time.monotonic()) > 0:
            got = self.receive(left)
            if got is None:
                break
            if "event" not in got:
                return got
            self._keep(got)
        raise Lost(f"The daemon did not send {what} within {self.timeout:g} s (--timeout)")

    def _keep(self, event):
        check_event(event)
        self.events.append(event)

    def ask(self, request, fds=()):
        """Sends any request; its answer, as it came."""
        self.send(request, fds)
        return check_answer(self._await("an answer"))

    def execute(self, name, arguments=None, fds=()):
        """Executes a command; what it returns, in the shape that it must have."""
        request = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        answer = self.ask(request, fds)
        if "error" in answer:
            raise Refused(answer)
        fault = name in ANSWERS and fault_of(answer["return"], ANSWERS[name], name)
        if fault:
            raise Lost(f"What answers is no ferryd: {fault}")
        return answer["return"]

    def next_event(self, timeout=None, wake=()):
        """The next event; None where none came in time, or `wake` woke it."""
        if self.events:
            return self.events.popleft()
        got = self.receive(timeout, wake)
        if got is not None:
            check_event(got)
        return got


def check_answer(answer):
    if "return" not in answer and not isinstance(answer.get("error"), dict):
        raise Lost("What answers is no ferryd: an answer has neither a return nor an error")
    return answer


def check_event(event):
    fault = fault_of(event, EVENT, "an event")
    if fault:
        raise Lost(f"What answers is no ferryd: {fault}")


@contextlib.contextmanager
def passed_fd(client, fd):
    """The name under which the daemon holds a descriptor, until a command inside has used it."""
    name = f"ferryctl-{os.getpid()}"
    client.execute("getfd", {"fdname": name}, [fd])
    try:
        yield name
    except Refused:
        with contextlib.suppress(Refused):  # it may have been used up
            client.execute("closefd", {"fdname": name})
        raise
