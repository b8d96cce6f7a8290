# SPDX-License-Identifier: BSD-3-Clause
"""Follows a migration to its end, or to where the user leaves it."""

import os
import select
import sys
import time

from .failure import Exit, Failure
from .progress import progress_for
from .qmp import Lost, Refused
from .text import clean

ENDED = {"completed": Exit.DONE, "failed": Exit.FAILED, "cancelled": Exit.CANCELLED}
QUESTION = "\n[c]ancel, [l]eave it running, [k]eep waiting? "
ANSWERS = ("c", "l", "k")
LINE = 4096  # bytes that a terminal's line has at most


def named(guest):
    """The arguments of a command for a guest; None: the only one."""
    return {} if guest is None else {"guest": guest}


def call(guest):
    return "the guest" if guest is None else f"guest '{clean(guest)}'"


def outcome(info):
    """The exit status of a migration that has ended; None: it goes on."""
    status = ENDED.get(info.get("status"))
    undecided = status is Exit.FAILED and info.get("handover") == "undecided"
    return Exit.UNDECIDED if undecided else status


def lost_sight(guest, fault):
    """What there is to say where the daemon was lost, and with it the guest's whereabouts."""
    return Failure(f"{fault}. Where {call(guest)} runs is not known here: ask 'ferryctl status' "
                   "once the daemon answers", Exit.UNDECIDED)


def begin(client, guest, command, arguments):
    """Starts a migration.  A daemon that is lost before it has answered may have begun it."""
    try:
        return client.execute(command, {**arguments, **named(guest)})
    except Lost as fault:
        raise lost_sight(guest, fault) from fault


def ask_user(progress, interrupts):
    """What to do about the migration: c, l or k.  No answer, or another Ctrl-C, leaves it running.

    A line is read past Python's buffers, which select does not know of.
    """
    while True:
        progress.write(QUESTION)
        select.select([sys.stdin, interrupts], [], [])
        line = b"" if interrupts.take() else os.read(sys.stdin.fileno(), LINE)
        if not line:
            return "l"
        answer = line.decode("utf-8", "replace").strip().lower()[:1]
        if answer in ANSWERS:
            return answer


class Follower:
    """One guest's migration; `interrupts` were entered before it was started."""

    def __init__(self, client, guest, out, interrupts):
        self.client = client
        self.guest = guest
        self.out = out
        self.interrupts = interrupts
        self.progress = progress_for(out)
        self.patience_ends = None

    def run(self):
        """Its exit status."""
        try:
            return self._run()
        except KeyboardInterrupt:
            return self._leave()
        except (Lost, Refused) as fault:
            self.progress.clear()
            raise lost_sight(self.guest, fault) from fault
        finally:
            self.progress.clear()

    def _run(self):
        while True:
            info = self.client.execute("query-migrate", named(self.guest))
            if "status" not in info:
                raise Lost("The daemon has forgotten the migration")
            status = outcome(info)
            if status is None:
                self.progress.show(info)
                status = self._impatience(info)
            if status is None and self.interrupts.take():
                status = self._interrupted()
            if status is not None:
                self._tell_end(status, info)
                return status
            self._pause()

    def _tell_end(self, status, info):
        if status is not Exit.LEFT:
            self.progress.end(info)
        if status is Exit.UNDECIDED:
            self.out.warn(f"Where {call(self.guest)} runs is undecided: see where it does, then "
                          "'ferryctl resolve' it")

    def _impatience(self, info):
        """Daemons settle most of what is undecided by themselves: they are given a while."""
        if info.get("handover") != "undecided":
            self.patience_ends = None
            return None
        now = time.monotonic()
        if self.patience_ends is None:
            self.patience_ends = now + self.client.timeout
        return Exit.UNDECIDED if now >= self.patience_ends else None

    def _pause(self):
        """Until something has happened to this guest's migration, or it is time to look again."""
        end = time.monotonic() + self.progress.every
        while (left := end - time.monotonic()) > 0 and not self.interrupts.noted:
            event = self.client.next_event(left, wake=[self.interrupts])
            if event and self._concerns(event):
                return

    def _concerns(self, event):
        if event["event"] not in ("MIGRATION", "MIGRATION_PASS"):
            return False
        return self.guest is None or event.get("data", {}).get("guest") == self.guest

    # ---- Ctrl-C ----

    def _interrupted(self):
        """An exit status, or None: it is waited for as before."""
        self.progress.clear()
        asks = self.progress.interactive and sys.stdin.isatty()
        answer = ask_user(self.progress, self.interrupts) if asks else "l"
        if answer == "c":
            self.client.execute("migrate_cancel", named(self.guest))
        return self._leave() if answer == "l" else None

    def _leave(self):
        self.progress.clear()
        self.out.warn(f"The migration of {call(self.guest)} was left running")
        return Exit.LEFT
