# SPDX-License-Identifier: BSD-3-Clause
"""What the daemon says of its commands: their arguments, and the values that these may have."""

SWITCH = ["true", "false"]


class Schema:
    """The entries of query-qmp-schema by name: those of commands, and those of types."""

    def __init__(self, entries):
        self.commands_by_name = {e["name"]: e for e in entries if e["meta-type"] == "command"}
        self.types = {e["name"]: e for e in entries if e["meta-type"] not in ("command", "event")}

    @classmethod
    def of(cls, client):
        return cls(client.execute("query-qmp-schema"))

    def commands(self):
        return sorted(self.commands_by_name)

    def _members(self, command):
        """Types of the arguments by name."""
        entry = self.types.get(self.commands_by_name.get(command, {}).get("arg-type"), {})
        return {member["name"]: member.get("type") for member in entry.get("members", ())}

    def arguments(self, command, besides=()):
        return [name for name in self._members(command) if name not in besides]

    def values(self, type_name):
        """Those of an enum, or of a boolean; [] where anything may stand."""
        entry = self.types.get(type_name, {})
        if entry.get("json-type") == "boolean":
            return SWITCH
        return entry.get("values", [])

    def argument_values(self, command, argument):
        return self.values(self._members(command).get(argument))

    def is_text(self, command, argument):
        """Whether a word stands for itself, even if it reads like a number."""
        entry = self.types.get(self._members(command).get(argument), {})
        return entry.get("meta-type") == "enum" or entry.get("json-type") == "string"
