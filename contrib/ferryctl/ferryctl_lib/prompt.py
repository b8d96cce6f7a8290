# SPDX-License-Identifier: BSD-3-Clause
"""The prompt: commands are read, answers and events are shown as they come.

A thread reads what the daemon sends, since a line that is being edited can't be waited for along
with a socket.
"""

import contextlib
import json
import os
import pathlib
import queue
import signal
import sys
import threading
import time

from .failure import Exit, Failure
from .output import put
from .qmp import check_answer
from .requests import candidates, event_line, parse_request
from .schema import Schema

PROMPT = "ferryd> "
HISTORY_LINES = 1000
WAKE_EVERY = 0.05  # seconds


class Receiver(threading.Thread):
    """Sorts what comes: answers into a queue, events to whoever shows them."""

    def __init__(self, client, screen):
        super().__init__(daemon=True)
        self.client = client
        self.screen = screen
        self.answers = queue.SimpleQueue()
        self.lost = None

    def run(self):
        try:
            while True:
                got = self.client.receive()
                if "event" in got:
                    self.screen.show_event(got)
                else:
                    self.answers.put(check_answer(got))
        except (Failure, OSError) as fault:  # the latter where nobody reads what is shown
            self.lost = fault
            self.answers.put(None)
            self.screen.stop_reading()

    def ask(self, request):
        self.client.send(request)
        try:
            answer = self.answers.get(timeout=self.client.timeout)
        except queue.Empty as late:
            raise Failure(f"The daemon did not answer within {self.client.timeout:g} s "
                          "(--timeout)") from late
        if answer is None:
            raise self.lost
        return answer


class Pipe:
    """Where nobody sits at a terminal: a command a line, an answer or an event a line."""

    def __init__(self, out):
        self.out = out

    def lines(self, _receiver):
        yield from sys.stdin

    def show_event(self, event):
        self.show(event)

    def show(self, value):
        self.write(json.dumps(value))

    def write(self, text):
        """In one piece: two threads do."""
        self.out.stdout.write(f"{text}\n")
        self.out.stdout.flush()

    def stop_reading(self):
        """The next command finds out."""


class Terminal(Pipe):
    """A line is edited while events go by above it."""

    def __init__(self, out, schema):
        super().__init__(out)
        import readline  # pylint: disable=import-outside-toplevel  # it takes the terminal
        self.readline = readline
        self.schema = schema
        self.reading = False
        signal.signal(signal.SIGINT, self._interrupt)
        readline.set_completer_delims(" \t\n=")
        readline.set_completer(self._complete)
        readline.parse_and_bind("tab: complete")

    def _complete(self, text, number):
        before = self.readline.get_line_buffer()[:self.readline.get_begidx()]
        found = candidates(self.schema, before, text)
        return found[number] if number < len(found) else None

    def _interrupt(self, *_):
        """Ends the line that is edited, once; answers have a deadline."""
        if self.reading:
            self.reading = False
            raise KeyboardInterrupt

    def _read(self):
        """A line; None at the end."""
        try:
            self.reading = True
            return input(PROMPT)
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            return ""
        finally:
            self.reading = False

    def lines(self, receiver):
        while receiver.lost is None and (line := self._read()) is not None:
            yield line

    def show_event(self, event):
        line = event_line(event)
        if not self.reading:
            self.write(line)
            return
        edited = PROMPT + self.readline.get_line_buffer()
        self.out.stdout.write(f"\r{' ' * len(edited)}\r{line}\n{edited}")
        self.out.stdout.flush()

    def show(self, value):
        self.write(json.dumps(value, indent=None if self.out.json else 2))

    def stop_reading(self):
        """Only a signal ends the editing of a line, and one that comes just before it is missed."""
        while self.reading:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(WAKE_EVERY)


# ---- history ----

def history_path():
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return pathlib.Path(home) / "ferryctl" / "history"


@contextlib.contextmanager
def history(screen):
    """What was typed before; what is typed now is added to it."""
    if not isinstance(screen, Terminal):
        yield
        return
    path = history_path()
    with contextlib.suppress(OSError):  # there is none yet
        screen.readline.read_history_file(path)
    screen.readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            screen.readline.write_history_file(path)
        except OSError as fault:
            screen.out.warn(f"The history could not be kept in {path}: {fault.strerror}")


# ---- the loop ----

def answer_line(schema, receiver, screen, line):
    """Whether it was a good command, well answered."""
    try:
        request = parse_request(schema, line)
    except Failure as wrong:
        screen.out.warn(str(wrong))
        return False
    answer = receiver.ask(request)
    screen.show(answer)
    return "error" not in answer


def run_prompt(session):
    """On a terminal the exit status says nothing of single commands: whoever typed saw them."""
    client = session.client()
    schema = Schema.of(client)
    interactive = sys.stdin.isatty()
    screen = Terminal(session.out, schema) if interactive else Pipe(session.out)
    receiver = Receiver(client, screen)
    receiver.start()
    good = True
    with history(screen):
        for line in filter(str.strip, screen.lines(receiver)):
            good = answer_line(schema, receiver, screen, line) and good
        if receiver.lost:
            raise receiver.lost
    return Exit.DONE if good or interactive else Exit.REFUSED


def run_raw(session):
    client = session.client()
    text = " ".join(session.values["REQUEST"])
    request = parse_request(Schema.of(client), text)
    answer = client.ask(request)
    put(session.out.stdout, json.dumps(answer))
    return Exit.REFUSED if "error" in answer else Exit.DONE


def run_events(session):
    client = session.client()
    try:
        while True:
            event = client.next_event()
            session.out.answer(event, event_line(event))
    except KeyboardInterrupt:
        return Exit.DONE
