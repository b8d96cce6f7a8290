# SPDX-License-Identifier: BSD-3-Clause
"""How the benches tell what they have found."""


class Report:
    """Rows as they come: name, figure, goal, whether it was met; raw lines below each."""

    def __init__(self):
        self.missed = []

    def row(self, name, figure, goal, met, raw):
        print(f"{'ok    ' if met else 'MISSED'}  {name}: {figure} (goal: {goal})", flush=True)
        for line in raw:
            print(f"          {line}", flush=True)
        if not met:
            self.missed.append(name)

    @staticmethod
    def note(text):
        print(f"          {text}", flush=True)


def rss(process):
    """Bytes resident in a process that are not shared memory."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        return sum(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))
