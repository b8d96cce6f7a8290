# SPDX-License-Identifier: BSD-3-Clause
"""From the command line to the exit status."""

import os
import signal
import sys

from .completion import run_completion
from .failure import Exit, Failure
from .moves import run_incoming, run_migrate, run_restore, run_save
from .output import Output
from .parser import parse
from .prompt import run_events, run_prompt, run_raw
from .qmp import Client, Refused
from .report import run_report
from .settings import (run_attach, run_cancel, run_caps, run_continue, run_detach, run_resolve,
                       run_set)
from .status import run_guests, run_status

# What each command of the table does.
RUN = {
    "guests": run_guests,
    "migrate": run_migrate,
    "incoming": run_incoming,
    "cancel": run_cancel,
    "continue": run_continue,
    "resolve": run_resolve,
    "status": run_status,
    "set": run_set,
    "caps": run_caps,
    "attach": run_attach,
    "detach": run_detach,
    "save": run_save,
    "restore": run_restore,
    "report": run_report,
    "qmp": run_prompt,
    "raw": run_raw,
    "events": run_events,
    "completion": run_completion,
}

# Each with what becomes of a text that it can't be given or can't give.
STREAMS = (("stdin", "r", "surrogateescape"), ("stdout", "w", "backslashreplace"),
           ("stderr", "w", "backslashreplace"))


class Session:
    """What a command works with: its values, where it prints, and the daemon."""

    def __init__(self, values):
        self.values = values
        self.out = Output(values["json"])
        self._client = None

    def client(self):
        """The daemon is connected to when it is first needed."""
        if self._client is None:
            self._client = Client(self.values["control"], self.values["timeout"] / 1000)
        return self._client

    def guest(self, name=None):
        """The guest that is meant; None: which it is, or why none, is the daemon's to say."""
        name = name or self.values["GUEST"]
        if name != "-":
            return name
        guests = self.client().execute("query-guests")
        return guests[0]["name"] if len(guests) == 1 else None


def run(argv):
    command, values = parse(argv)
    if command is None:
        print(values)
        return Exit.DONE
    session = Session(values)
    try:
        return RUN[command.name](session)
    except Refused as refused:
        session.out.answer(refused.answer)
        raise


def end_by(signal_number):
    """As if the signal had not been caught: whoever waits sees what ended it."""
    signal.signal(signal_number, signal.SIG_DFL)
    os.kill(os.getpid(), signal_number)


def prepare_streams():
    """Each is there, and takes and gives whatever comes."""
    for name, mode, errors in STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
        getattr(sys, name).reconfigure(errors=errors)


def drop_output():
    """What is left in the buffer and can't be written must not end Python with an error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv):
    prepare_streams()
    try:
        status = run(argv)
    except Failure as failure:
        status = failure.status
        print(f"ferryctl: {failure}", file=sys.stderr)
    except BrokenPipeError:
        status = Exit.REFUSED  # nobody reads it
    except OSError as fault:
        status = Exit.REFUSED
        print(f"ferryctl: What was to be printed could not be: {fault.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        status = Exit.REFUSED
        end_by(signal.SIGINT)
    drop_output()
    return int(status)
