# SPDX-License-Identifier: BSD-3-Clause
"""Where ferryctl says what: results to stdout, what went wrong to stderr."""

import json
import sys


class Output:
    """With --json, stdout has only what the daemon answered."""

    def __init__(self, as_json):
        self.json = as_json
        self.stdout = sys.stdout
        self.stderr = sys.stderr

    def say(self, *lines):
        """For people."""
        if not self.json:
            print(*lines, sep="\n", file=self.stdout, flush=True)

    def answer(self, value, *lines):
        """What the daemon answered, or lines that say the same."""
        if self.json:
            print(json.dumps(value), file=self.stdout, flush=True)
        elif lines:
            self.say(*lines)

    def warn(self, text):
        print(f"ferryctl: {text}", file=self.stderr, flush=True)
