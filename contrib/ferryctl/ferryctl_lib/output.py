# SPDX-License-Identifier: BSD-3-Clause
"""Where ferryctl says what: results to stdout, what went wrong to stderr."""

import json
import sys


def put(stream, *lines):
    """Whole lines at once: a Ctrl-C, which may come anywhere, does not leave half of one."""
    stream.write("\n".join(map(str, lines)) + "\n")
    stream.flush()


class Output:
    """With --json, stdout has only what the daemon answered."""

    def __init__(self, as_json):
        self.json = as_json
        self.stdout = sys.stdout
        self.stderr = sys.stderr

    def say(self, *lines):
        """For people."""
        if not self.json:
            put(self.stdout, *lines)

    def answer(self, value, *lines):
        """What the daemon answered, or lines that say the same."""
        if self.json:
            put(self.stdout, json.dumps(value))
        elif lines:
            self.say(*lines)

    def warn(self, text):
        put(self.stderr, f"ferryctl: {text}")
