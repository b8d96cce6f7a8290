# SPDX-License-Identifier: BSD-3-Clause
"""SIGINT as something to look for, so that it never comes in the middle of an answer."""

import os
import signal


class Interrupts:
    """While entered, Ctrl-C is noted.  A second one before the first was taken is raised."""

    def __init__(self):
        self.noted = False
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.before = signal.getsignal(signal.SIGINT)

    def __enter__(self):
        if self.before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exc):
        signal.signal(signal.SIGINT, self.before)
        os.close(self.reader)
        os.close(self.writer)

    def _note(self, *_):
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        os.write(self.writer, b"!")

    def fileno(self):
        """What select waits for."""
        return self.reader

    def take(self):
        """Whether there was one since the last time."""
        noted, self.noted = self.noted, False
        if noted:
            os.read(self.reader, 1)
        return noted
