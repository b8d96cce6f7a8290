# SPDX-License-Identifier: BSD-3-Clause
"""Commands that set, tell or ask for one thing."""

import os
import socket

from .failure import Exit, Failure
from .follow import named
from .qmp import passed_fd
from .schema import Schema
from .text import clean, columns
from .units import parse_parameter, show_parameter


def parsed_parameters(pairs):
    """Values as the daemon takes them."""
    try:
        return {name: parse_parameter(name, value) for name, value in pairs}
    except ValueError as fault:
        raise Failure(str(fault), Exit.USAGE) from fault


def capability_states(pairs):
    return [{"capability": name, "state": state} for name, state in pairs]


def run_set(session):
    arguments = named(session.guest())
    pairs = session.values["NAME=VALUE"]
    if pairs:
        arguments.update(parsed_parameters(pairs))
        session.out.answer(session.client().execute("migrate-set-parameters", arguments))
        return Exit.DONE
    found = session.client().execute("query-migrate-parameters", arguments)
    rows = [(clean(name), clean(show_parameter(name, value))) for name, value in found.items()]
    session.out.answer(found, *(columns(rows) if rows else ()))
    return Exit.DONE


def run_caps(session):
    arguments = named(session.guest())
    pairs = session.values["NAME|NAME=off"]
    if pairs:
        arguments["capabilities"] = capability_states(pairs)
        session.out.answer(session.client().execute("migrate-set-capabilities", arguments))
        return Exit.DONE
    found = session.client().execute("query-migrate-capabilities", arguments)
    rows = [(clean(entry["capability"]), "on" if entry["state"] else "off") for entry in found]
    session.out.answer(found, *(columns(rows) if rows else ()))
    return Exit.DONE


def run_cancel(session):
    session.out.answer(session.client().execute("migrate_cancel", named(session.guest())))
    return Exit.DONE


def run_continue(session):
    arguments = {"state": "pre-switchover", **named(session.guest())}
    session.out.answer(session.client().execute("migrate-continue", arguments))
    return Exit.DONE


def run_resolve(session):
    arguments = {"outcome": session.values["OUTCOME"], **named(session.guest())}
    session.out.answer(session.client().execute("migrate-resolve", arguments))
    return Exit.DONE


# ---- attach and detach ----

def connected_libferry(path, timeout):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
        # The daemon makes of it what it needs; a deadline is ours alone.
        sock.settimeout(None)
    except OSError as fault:
        sock.close()
        raise Failure(f"No libferry listens at {clean(path)}: {fault.strerror or fault}"
                      ) from fault
    return sock


def attach_socket(session, arguments):
    client = session.client()
    with connected_libferry(session.values["socket"], client.timeout) as sock, \
            passed_fd(client, sock.fileno()) as name:
        return client.execute("guest-attach", {"fd": name, **arguments})


def run_attach(session):
    arguments = {"name": session.values["NAME"]}
    if session.values["qmp"] and session.values["socket"]:
        raise Failure("--qmp and --socket are two ways to reach one VMM: give one of them",
                      Exit.USAGE)
    if session.values["socket"]:
        session.out.answer(attach_socket(session, arguments))
        return Exit.DONE
    if session.values["qmp"]:
        # The daemon's folder is another.
        arguments.update(driver="qemu", qmp=os.path.abspath(session.values["qmp"]))
    session.out.answer(session.client().execute("guest-attach", arguments))
    return Exit.DONE


def run_detach(session):
    arguments = named(session.guest(session.values["NAME"]))
    session.out.answer(session.client().execute("guest-detach", arguments))
    return Exit.DONE


# ---- names for completions ----

NAMES = {
    "guests": lambda client: [guest["name"] for guest in client.execute("query-guests")],
    "capabilities": lambda client: Schema.of(client).values("MigrationCapability"),
    "parameters": lambda client: Schema.of(client).arguments("migrate-set-parameters",
                                                             besides=("guest",)),
    "commands": lambda client: Schema.of(client).commands(),
}
