# SPDX-License-Identifier: BSD-3-Clause
"""The command line, as one table: the parser, --help and the completions are made from it.

Kinds say what a value is: how it is read (readers, in parser.py) and how a shell completes it
(completion.py).
"""

from dataclasses import dataclass

DEFAULT_CONTROL = "/run/ferryd/control.sock"


@dataclass(frozen=True)
class Option:
    """An option; one without a value is a switch."""

    name: str
    doc: str
    value: str = ""
    kind: str = "text"
    many: bool = False  # may be given several times


@dataclass(frozen=True)
class Argument:
    """A positional argument; count as argparse's nargs: "" is exactly one."""

    name: str
    doc: str
    kind: str = "text"
    count: str = ""
    choices: tuple = ()


@dataclass(frozen=True)
class Command:
    """A command, and what follows its name."""

    name: str
    doc: str
    arguments: tuple = ()
    options: tuple = ()


GLOBAL_OPTIONS = (
    Option("--control", "The daemon's control socket; $FERRY_CONTROL, or "
           f"{DEFAULT_CONTROL}, without it.", "PATH", "file"),
    Option("--json", "Prints what the daemon answers as JSON, an object a line where several "
           "come."),
    Option("--timeout", "How long an answer may take, and how long an undecided handover is "
           "waited for; 30s without it.", "TIME", "time"),
    Option("--help", "Shows this, or what a command takes."),
    Option("--version", "Shows the version."),
)

GUEST = Argument("GUEST", "The guest's name; - is the only one.", "guest")
WAIT = Option("--wait", "Shows the progress and ends when the migration has ended.")
CAPS = Option("--cap", "Turns a capability on, or off, first.", "NAME|NAME=off", "capability",
              many=True)
PAUSED = Option("--paused", "The guest stays paused where it arrives.")

COMMANDS = (
    Command("guests", "Lists the guests that the daemon knows."),
    Command("migrate", "Migrates a guest away.",
            (GUEST, Argument("URI", "Where to, such as tcp:HOST:PORT.", "uri")),
            (WAIT,
             Option("--speed", "Sets max-bandwidth first: bytes per second, 0 is unlimited.",
                    "SIZE", "size"),
             Option("--downtime", "Sets downtime-limit first.", "TIME", "time"),
             CAPS,
             Option("--blk", "Migrates the guest's disks too."),
             Option("--inc", "Migrates of the disks only what was written since their bases."))),
    Command("incoming", "Waits for a guest's migration to here, and says where it listens.",
            (GUEST, Argument("URI", "Where to listen, such as tcp:0.0.0.0:PORT.", "uri")),
            (WAIT, PAUSED, CAPS)),
    Command("cancel", "Cancels a guest's migration.", (GUEST,)),
    Command("continue", "Lets a migration that waits in pre-switchover go on.", (GUEST,)),
    Command("resolve", "Decides an undecided handover: whoever does has made sure that the guest "
            "does not run at the other side.",
            (GUEST, Argument("OUTCOME", "Where the guest belongs.", "choice",
                             choices=("source", "destination")))),
    Command("status", "Shows a guest's migration, or those of all guests.",
            (Argument("GUEST", "The guest's name; - is the only one.", "guest", "?"),),
            (Option("--watch", "Shows it again whenever it changes, until interrupted."),)),
    Command("set", "Sets migration parameters; without any, shows them.",
            (GUEST, Argument("NAME=VALUE", "A parameter: sizes as 1.5G, times as 300ms.",
                             "parameter", "*"))),
    Command("caps", "Turns capabilities on or off; without any, shows them.",
            (GUEST, Argument("NAME|NAME=off", "A capability.", "capability", "*"))),
    Command("attach", "Makes a guest known to the daemon; without an option, one that was "
            "detached and whose VMM is still connected.",
            (Argument("NAME", "The guest's name from now on."),),
            (Option("--qmp", "The QMP socket of its QEMU, the daemon's alone from then on.",
                    "PATH", "file"),
             Option("--socket", "A SOCK_SEQPACKET unix socket on which its VMM's libferry "
                    "listens.", "PATH", "file"))),
    Command("detach", "Makes the daemon forget a guest, which runs on.",
            (Argument("NAME", "The guest's name; - is the only one.", "guest"),)),
    Command("save", "Migrates a guest into a file, which takes its place once all is there.",
            (GUEST, Argument("FILE", "The file; FILE.part until it is complete.", "file"))),
    Command("restore", "Lets a guest that was saved go on in a VMM that waits for it.",
            (GUEST, Argument("FILE", "What save has written.", "file")),
            (PAUSED,)),
    Command("report", "Draws a guest's last migration.",
            (GUEST,),
            (Option("--svg", "Draws it into an SVG file.", "FILE", "file"),
             Option("--width", "Columns to draw in; the terminal's without it.", "N", "count"))),
    Command("qmp", "A prompt for commands to the daemon: JSON, or a command's name and "
            "NAME=VALUE."),
    Command("raw", "Sends one command and prints the answer.",
            (Argument("REQUEST", "JSON, or a command's name and NAME=VALUE.", "command", "+"),)),
    Command("events", "Prints events as they come, until interrupted."),
    Command("completion", "Prints the completions for a shell, or the names that they offer.",
            (Argument("WHAT", "A shell, or names.", "choice", choices=(
                "bash", "zsh", "fish", "guests", "capabilities", "parameters", "commands")),)),
)

ENVIRONMENT = (
    ("FERRY_CONTROL", "The daemon's control socket, where --control does not name it."),
    ("XDG_STATE_HOME", "Where ferryctl/history is kept, the prompt's history; ~/.local/state "
     "without it."),
)
