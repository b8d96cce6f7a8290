# SPDX-License-Identifier: BSD-3-Clause
"""The control socket: each command's arguments, what it answers, and in which state."""

import json
import os
import pathlib
import signal
import socket
import subprocess

import pytest
from lab import CommandError, Qmp
from scenes import (GUEST, HOLD, MIB, check_moved, check_source_runs, hold_active,
                    hold_pre_switchover, path)
from wire import WELCOME, RawVmm, block, hello, memfd, ready

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCHEMA = json.loads((ROOT / "schema" / "control.json").read_text(encoding="utf-8"))
COMMANDS = sorted(set(SCHEMA["commands"]) - {"qmp_capabilities"})
VALUES = {"string": "text", "integer": 7, "number": 0.5, "boolean": True, "array": [],
          "object": {}, "null": None}
ACCEPTED = {"str": ("string", "string"), "int": ("integer", "integer"),
            "number": ("number", "number"), "bool": ("boolean", "boolean")}


def arguments_of(command):
    """Its arguments with those that a type lends it."""
    entry = SCHEMA["commands"][command]
    lent = SCHEMA["types"].get(entry.get("arguments-from"), {}).get("members", {})
    return {**lent, **entry.get("arguments", {})}


def good_value(kind):
    if isinstance(kind, list):
        return []
    if kind in ACCEPTED:
        return VALUES[ACCEPTED[kind][0]]
    return next(iter(SCHEMA["types"][kind]["values"]))


def expected_name(kind):
    """What the error says was expected, and the JSON kinds that are right."""
    if isinstance(kind, list):
        return "array", {"array"}
    name = ACCEPTED.get(kind, ("string", "string"))[1]
    return name, {name, "integer"} if name == "number" else {name}


def required(command):
    return {name: good_value(spec["type"]) for name, spec in arguments_of(command).items()
            if not spec.get("optional")}


def error_of(session, command, arguments):
    with pytest.raises(CommandError) as refused:
        session.execute(command, arguments)
    return refused.value


@path("control/arguments/{command}")
@pytest.mark.parametrize("command", COMMANDS)
def test_arguments(lab, command):
    """Missing, extra and wrong-typed ones; under its aliases as well."""
    session = lab.session(lab.daemon("a"))
    for name in [command] + SCHEMA["commands"][command].get("aliases", []):
        for missing in required(command):
            given = {key: value for key, value in required(command).items() if key != missing}
            error = error_of(session, name, given)
            assert error.desc == f"Parameter '{missing}' is missing"
            assert error.code == "parameter-missing"
        error = error_of(session, name, {**required(command), "surplus": 1})
        assert error.desc == "Parameter 'surplus' is unexpected"
        for argument, spec in arguments_of(command).items():
            expected, right = expected_name(spec["type"])
            for kind, value in VALUES.items():
                if kind in right:
                    continue
                error = error_of(session, name, {**required(command), argument: value})
                wanted = f"Invalid parameter type for '{argument}', expected: {expected}"
                assert error.desc == wanted, (kind, error.desc)
                assert error.cls == "GenericError"
    assert session.cmd("query-version")


@path("control/arguments/enums")
def test_enums(lab):
    session = lab.session(lab.daemon("a"))
    for command in COMMANDS:
        for argument, spec in arguments_of(command).items():
            if not isinstance(spec["type"], str) or spec["type"] in ACCEPTED:
                continue
            error = error_of(session, command, {**required(command), argument: "nonsense"})
            assert error.desc == f"Parameter '{argument}' does not accept value 'nonsense'"


@path("control/introspection/as-the-schema")
def test_introspection(lab):
    """query-commands, query-events and query-qmp-schema say what control.json says."""
    session = lab.session(lab.daemon("a"))
    names = {entry["name"] for entry in session.cmd("query-commands")}
    aliases = {alias for entry in SCHEMA["commands"].values() for alias in entry.get("aliases", [])}
    assert names == set(SCHEMA["commands"]) | aliases
    assert {e["name"] for e in session.cmd("query-events")} == set(SCHEMA["events"])
    entries = {(e["meta-type"], e["name"]): e for e in session.cmd("query-qmp-schema")}
    for name in SCHEMA["commands"]:
        entry = entries["command", name]
        members = {m["name"]: m for m in entries["object", entry["arg-type"]]["members"]}
        assert set(members) == set(arguments_of(name))
        for argument, spec in arguments_of(name).items():
            assert ("default" in members[argument]) == bool(spec.get("optional"))
    for name in SCHEMA["events"]:
        assert ("event", name) in entries


@path("control/introspection/required-commands")
def test_required_commands(lab):
    """Those that clients of the reference rely on."""
    session = lab.session(lab.daemon("a"))
    names = {entry["name"] for entry in session.cmd("query-commands")}
    missing = {
        "migrate", "migrate_cancel", "migrate_set_speed", "migrate_set_downtime",
        "migrate-set-capabilities", "query-migrate-capabilities", "migrate-set-cache-size",
        "query-migrate-cache-size", "query-migrate", "set_speed", "set_downtime",
        "set_capabilities", "migrate-incoming", "migrate-set-parameters",
        "query-migrate-parameters", "migrate-continue", "query-version", "query-commands",
        "query-qmp-schema", "query-status", "stop", "cont", "quit", "getfd", "closefd",
        "query-events", "guest-attach", "guest-detach", "query-guests", "announce-self"} - names
    assert not missing


# ---- transcripts ----

def same(expected, got):
    if expected == "...":
        return True
    if isinstance(expected, dict):
        return isinstance(got, dict) and set(expected) == set(got) and all(
            same(value, got[key]) for key, value in expected.items())
    if isinstance(expected, list) and expected and expected[-1] == "...":
        return isinstance(got, list) and len(got) >= len(expected) - 1 and all(
            same(*pair) for pair in zip(expected[:-1], got))
    if isinstance(expected, list):
        return isinstance(got, list) and len(expected) == len(got) and all(
            same(*pair) for pair in zip(expected, got))
    return expected == got and isinstance(expected, bool) == isinstance(got, bool)


EXAMPLES = sorted((ROOT / "schema" / "examples").glob("*.qmp"))


@path("control/transcript/{example.stem}")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_transcript(lab, example):
    daemon = lab.daemon("a")
    session = None
    for line in example.read_text(encoding="utf-8").splitlines():
        if line.startswith("<- "):
            if session is None:
                session = Qmp(daemon.control, negotiate=False)
                lab.sessions.append(session)
                got = session.greeting
            else:
                got = session.receive()
            assert same(json.loads(line[3:]), got), f"{line}\n{got}"
        elif line.startswith("-> "):
            session.send(line[3:].encode() + b"\n")


# ---- which guest ----

PER_GUEST = sorted(name for name in COMMANDS if "guest" in arguments_of(name))


@path("control/guest/none-attached")
def test_no_guest(lab):
    session = lab.session(lab.daemon("a"))
    for command in PER_GUEST:
        if command == "migrate_cancel":
            assert session.execute(command) == {}
            continue
        error = error_of(session, command, required(command))
        assert (error.code, error.desc) == ("guest-none", "No guest is attached"), command


@path("control/guest/several-attached")
def test_ambiguous_guest(scene):
    scene.a.scripted("one", blocks=("ram:1",))
    scene.a.scripted("two", blocks=("ram:1",))
    for command in PER_GUEST:
        error = error_of(scene.a.qmp, command, required(command))
        assert error.code == "guest-ambiguous", command
        assert "Several guests" in error.desc
    assert {g["name"] for g in scene.a.qmp.cmd("query-guests")} == {"one", "two"}


@path("control/guest/unknown")
def test_unknown_guest(scene):
    scene.a.scripted("one", blocks=("ram:1",))
    for command in PER_GUEST:
        error = error_of(scene.a.qmp, command, {**required(command), "guest": "three"})
        assert (error.code, error.cls) == ("guest-unknown", "DeviceNotFound"), command
        assert "'three'" in error.desc


@path("control/guest/only-one-needs-no-name")
def test_only_guest(scene):
    scene.a.scripted("one", blocks=("ram:1",))
    assert scene.a.qmp.cmd("query-status")["status"] == "running"
    assert scene.a.qmp.cmd("query-migrate") == {}
    info, = scene.a.qmp.cmd("query-guests")
    assert info["name"] == "one" and info["attached"] is True and info["ram"] == MIB
    assert info["blocks"] == [{"name": "ram", "length": MIB, "gpa": 0}]
    assert info["tracking"] and info["driver"] == "agent" and info["pid"] > 0


@path("control/guest/detach-and-attach")
def test_detach(scene):
    source = scene.a.scripted()
    assert scene.a.qmp.cmd("guest-detach", guest=GUEST) == {}
    gone = scene.a.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    assert gone["data"]["reason"] == "guest-detach"
    assert scene.a.qmp.cmd("query-guests") == []
    assert source.do("state") == "running"
    assert error_of(scene.a.qmp, "stop", {"guest": GUEST}).code == "guest-unknown"
    assert scene.a.qmp.execute("guest-attach", {"name": GUEST}) == {}
    scene.a.qmp.await_event("GUEST_ATTACHED", guest=GUEST)
    check_source_runs(scene.a, source)
    error = error_of(scene.a.qmp, "guest-attach", {"name": GUEST})
    assert error.code == "guest-exists"
    assert error_of(scene.a.qmp, "guest-attach", {"name": "other"}).code == "guest-unknown"
    scene.move(source, scene.b.scripted(incoming=True))


@path("control/guest/attach-with-a-descriptor")
def test_attach_fd(scene):
    """The other end is given to a VMM that connects to no socket of the daemon's."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    scene.a.qmp.cmd("getfd", fds=[far.fileno()], fdname="vmm")
    far.close()
    vmm = RawVmm.__new__(RawVmm)
    vmm.sock = near
    with vmm:
        fd = memfd()
        vmm.send(hello(b"mine"))
        vmm.send(block(), fd)
        vmm.send(ready())
        assert scene.a.qmp.execute("guest-attach", {
            "name": "mine", "driver": "agent", "fd": "vmm"}) == {}
        assert vmm.receive()[0] == WELCOME
        assert scene.a.run_state("mine") == "running"
        os.close(fd)
    scene.a.qmp.await_event("GUEST_DETACHED", guest="mine")


@path("control/guest/attach-with-a-descriptor-that-does-not-fit")
def test_attach_bad_fd(scene):
    near, far = socket.socketpair()
    scene.a.qmp.cmd("getfd", fds=[far.fileno()], fdname="stream")
    error = error_of(scene.a.qmp, "guest-attach", {"name": "x", "fd": "stream"})
    assert error.code == "fd-unsuitable"
    near.close()
    far.close()
    assert error_of(scene.a.qmp, "guest-attach", {"name": "x", "fd": "none"}).code == "fd-unknown"
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    scene.a.qmp.cmd("getfd", fds=[far.fileno()], fdname="vmm")
    far.close()
    vmm = RawVmm.__new__(RawVmm)
    vmm.sock = near
    with vmm:
        vmm.send(hello(b"bad name"))
        assert error_of(scene.a.qmp, "guest-attach", {"name": "x", "fd": "vmm"}).code == (
            "guest-invalid")
    for name in ("", "x" * 65):
        assert error_of(scene.a.qmp, "guest-attach", {"name": name}).code == "guest-invalid"


# ---- stop and cont ----

@path("control/stop-and-cont")
def test_stop(scene):
    source = scene.a.scripted()
    assert scene.a.qmp.cmd("query-status") == {"running": True, "singlestep": False,
                                               "status": "running"}
    assert scene.a.qmp.cmd("stop") == {}
    scene.a.qmp.await_event("STOP", guest=GUEST)
    assert scene.a.qmp.cmd("query-status") == {"running": False, "singlestep": False,
                                               "status": "paused"}
    assert source.do("state") == "paused"
    assert scene.a.qmp.cmd("stop") == {}
    assert scene.a.qmp.cmd("cont") == {}
    scene.a.qmp.await_event("RESUME", guest=GUEST)
    assert scene.a.qmp.cmd("cont") == {}
    check_source_runs(scene.a, source)


@path("control/stop-and-cont/by-the-vmm")
def test_vmm_pauses(scene):
    source = scene.a.scripted()
    source.do("pause")
    scene.a.qmp.await_event("STOP", guest=GUEST)
    assert scene.a.run_state() == "paused"
    source.do("unpause")
    scene.a.qmp.await_event("RESUME", guest=GUEST)
    source.do("shutdown")
    gone = scene.a.qmp.await_event("SHUTDOWN")
    assert gone["data"] == {"guest": True, "reason": "guest-shutdown", "name": GUEST}


@path("control/stop-and-cont/not-in-a-migrations-hands")
def test_stop_refused(scene):
    source, target = scene.pair()
    for command in ("stop", "cont"):
        assert error_of(scene.b.qmp, command, {}).code == "guest-state"
    hold_pre_switchover(scene, source, target)
    for command in ("stop", "cont"):
        assert error_of(scene.a.qmp, command, {}).code == "guest-state"
    scene.a.cancel()
    scene.a.end()
    check_source_runs(scene.a, source)


@path("control/stop-and-cont/while-active")
def test_stop_while_active(scene):
    """An operator's pause in the middle of the rounds goes over to the destination."""
    source, target = scene.pair()
    hold_active(scene, source, target)
    scene.a.qmp.cmd("stop", guest=GUEST)
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    assert scene.b.run_state() == "paused"
    assert target.do("state") == "paused"
    assert target.do("hash") == source.do("hash")


# ---- query-migrate ----

FIELDS = {
    "setup": set(),
    "active": {"setup-time", "expected-downtime", "ram"},
    "pre-switchover": {"setup-time", "expected-downtime", "ram"},
    "device-save": {"setup-time", "expected-downtime", "ram"},
    "device-load": {"setup-time", "expected-downtime", "ram"},
}
RAM = {name: spec["type"] for name, spec in SCHEMA["types"]["MigrationStats"]["members"].items()
       if not spec.get("optional")}
ALWAYS = {"status", "job", "direction", "total-time", "verified"}


def check_ram(ram):
    assert set(ram) == set(RAM)
    for name, kind in RAM.items():
        assert isinstance(ram[name], float if kind == "number" else int), name
        assert ram[name] >= 0, name


@path("control/query-migrate/{state}")
@pytest.mark.parametrize("state", HOLD)
def test_query_migrate(scene, state):
    source, target = scene.pair()
    assert scene.a.info() == {}
    HOLD[state](scene, source, target)
    info = scene.a.info()
    assert info["status"] == state.split("-save")[0].split("-load")[0]
    assert set(info) == ALWAYS | FIELDS[state]
    if "ram" in info:
        check_ram(info["ram"])
        assert info["ram"]["total"] == 16 * MIB
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    info = scene.a.info()
    assert "error-desc" not in info and "downtime" not in info
    scene.b.daemon.wake()
    source.do("behave save=ok")
    target.do("behave load=ok")


@path("control/query-migrate/completed")
def test_query_completed(scene):
    source, target = scene.pair()
    sent, got = scene.move(source, target)
    assert set(sent) == ALWAYS | {"setup-time", "ram", "downtime", "downtime-parts", "handover"}
    assert sent["direction"] == "outgoing" and got["direction"] == "incoming"
    check_ram(sent["ram"])
    check_ram(got["ram"])
    assert got["listening"].startswith("tcp:127.0.0.1:")
    assert sent["ram"]["remaining"] == got["ram"]["remaining"] == 0


@path("control/query-migrate/failed")
def test_query_failed(scene):
    scene.a.scripted()
    scene.a.migrate("unix:/no/such/socket")
    info = scene.a.fail()
    assert set(info) == ALWAYS | {"error-desc", "error-code"}
    assert info["error-code"] == "connect-failed"


@path("control/events/in-order")
def test_events(scene):
    source, target = scene.pair()
    watch_a, watch_b = scene.a.session(), scene.b.session()
    scene.move(source, target)

    def told(session):
        session.cmd("query-version")
        return [(e["event"], e["data"].get("status")) for e in session.events
                if e["event"] != "MIGRATION_PASS"]

    assert told(watch_a) == [("MIGRATION", "setup"), ("MIGRATION", "active"), ("STOP", None),
                             ("MIGRATION", "device"), ("MIGRATION", "completed")]
    assert told(watch_b) == [("MIGRATION", "setup"), ("MIGRATION", "active"),
                             ("MIGRATION", "device"), ("RESUME", None), ("MIGRATION", "completed")]
    for session in (watch_a, watch_b):
        passes = [e["data"]["pass"] for e in session.events if e["event"] == "MIGRATION_PASS"]
        assert passes[0] == 1 and passes == sorted(set(passes))
        assert all({"seconds", "microseconds"} == set(e["timestamp"]) for e in session.events)


@path("control/migrate-continue/refused")
def test_continue_refused(scene):
    source, target = scene.pair()
    for state in ("pre-switchover", "active", "device"):
        error = error_of(scene.a.qmp, "migrate-continue", {"state": state})
        assert error.desc.startswith("Migration not in expected state: ")
        assert error.code == "migration-state"
    hold_active(scene, source, target)
    error = error_of(scene.a.qmp, "migrate-continue", {"state": "pre-switchover"})
    assert error.desc == "Migration not in expected state: active"
    scene.a.cancel()
    scene.a.end()
    scene.b.end()
    hold_pre_switchover(scene, source, target)
    error = error_of(scene.a.qmp, "migrate-continue", {"state": "device"})
    assert error.desc == "Migration not in expected state: pre-switchover"
    scene.a.set(max_bandwidth=0)
    scene.a.qmp.cmd("migrate-continue", state="pre-switchover")
    scene.a.complete()
    check_moved(source, target)


# ---- capabilities and parameters ----

def capabilities(session):
    return {entry["capability"]: entry["state"]
            for entry in session.cmd("query-migrate-capabilities")}


@path("control/capabilities/all-or-nothing")
def test_capabilities(scene):
    source, target = scene.pair()
    session = scene.a.qmp
    initial = capabilities(session)
    assert set(initial) == set(SCHEMA["types"]["MigrationCapability"]["values"])
    assert not any(initial.values())
    error_of(session, "migrate-set-capabilities", {"capabilities": [
        {"capability": "verify", "state": True}, {"capability": "levitate", "state": True}]})
    error_of(session, "migrate-set-capabilities", {"capabilities": [
        {"capability": "verify", "state": True}, {"capability": "verify"}]})
    assert capabilities(session) == initial
    scene.a.capable(verify=True, pause_before_switchover=True)
    assert all(capabilities(session)[name] for name in ("verify", "pause-before-switchover"))
    scene.a.capable(pause_before_switchover=False)
    assert capabilities(session)["verify"] is True
    hold_active(scene, source, target)
    error = error_of(session, "migrate-set-capabilities",
                     {"capabilities": [{"capability": "verify", "state": False}]})
    assert error.desc == "There's a migration process in progress"
    assert capabilities(session)["verify"] is True


@path("control/parameters/defaults")
def test_defaults(scene):
    scene.a.scripted()
    found = scene.a.qmp.cmd("query-migrate-parameters")
    assert set(found) == set(SCHEMA["types"]["MigrationParameters"]["members"])
    assert found["max-bandwidth"] == 0
    assert found["downtime-limit"] == 300
    assert found["xbzrle-cache-size"] == 64 * MIB
    assert found["avail-switchover-bandwidth"] == 0
    assert found["throttle-trigger-threshold"] == 50
    assert found["cpu-throttle-initial"] == 20
    assert found["cpu-throttle-increment"] == 10
    assert found["max-cpu-throttle"] == 99
    assert [found[f"announce-{name}"] for name in ("initial", "max", "rounds", "step")] == [
        50, 550, 5, 100]


@path("control/parameters/read-back")
def test_read_back(scene):
    """Exactly as set; what was left out stays; each guest has its own."""
    scene.a.scripted()
    scene.a.scripted("other")
    values = {"max-bandwidth": 123456789012345, "downtime-limit": 1999999,
              "xbzrle-cache-size": 8 * MIB, "avail-switchover-bandwidth": 2**62,
              "throttle-trigger-threshold": 1, "cpu-throttle-initial": 2,
              "cpu-throttle-increment": 3, "max-cpu-throttle": 4,
              "guest-timeout": 1, "peer-timeout": 3600000, "announce-initial": 0,
              "announce-max": 100000, "announce-rounds": 1000, "announce-step": 10000,
              "rdma-chunk-size": 16 << 20}
    before = scene.a.qmp.cmd("query-migrate-parameters", guest="other")
    for name, value in values.items():
        scene.a.qmp.execute("migrate-set-parameters", {"guest": GUEST, name: value})
    assert scene.a.qmp.cmd("query-migrate-parameters", guest=GUEST) == values
    assert scene.a.qmp.cmd("migrate-set-parameters", guest=GUEST) == {}
    assert scene.a.qmp.cmd("query-migrate-parameters", guest=GUEST) == values
    assert scene.a.qmp.cmd("query-migrate-parameters", guest="other") == before


OUT_OF_RANGE = [
    ("max-bandwidth", -1), ("downtime-limit", -1), ("downtime-limit", 2000001),
    ("xbzrle-cache-size", 4095), ("xbzrle-cache-size", 0), ("xbzrle-cache-size", -4096),
    ("xbzrle-cache-size", 16 * MIB + 1), ("avail-switchover-bandwidth", -5),
    ("throttle-trigger-threshold", 0), ("throttle-trigger-threshold", 101),
    ("cpu-throttle-initial", 0), ("cpu-throttle-initial", 100), ("cpu-throttle-increment", 0),
    ("cpu-throttle-increment", 100), ("max-cpu-throttle", 0), ("max-cpu-throttle", 100),
    ("guest-timeout", 0), ("guest-timeout", 3600001), ("peer-timeout", 0),
    ("peer-timeout", 2**63 - 1), ("announce-initial", 100001), ("announce-max", -1),
    ("announce-rounds", 1001), ("announce-step", 0), ("announce-step", 10001),
    ("rdma-chunk-size", 32768), ("rdma-chunk-size", 32 * MIB), ("rdma-chunk-size", 3 * MIB),
]


@path("control/parameters/out-of-range/{name}={value}")
@pytest.mark.parametrize("name,value", OUT_OF_RANGE)
def test_out_of_range(scene, name, value):
    """Refused, and nothing that came with it was applied."""
    scene.a.scripted()
    before = scene.a.qmp.cmd("query-migrate-parameters")
    for good in ({"max-bandwidth": 77}, {"peer-timeout": 77}):
        error = error_of(scene.a.qmp, "migrate-set-parameters", {**good, name: value})
        assert error.code == "parameter-range"
        assert scene.a.qmp.cmd("query-migrate-parameters") == before


@path("control/parameters/numbers-too-large")
def test_too_large(scene):
    """2^63 and more: an error that leaves the session usable, or the largest."""
    scene.a.scripted()
    for value in ("9223372036854775808", "1e400", "-9223372036854775809"):
        scene.a.qmp.send(b'{"execute": "migrate-set-parameters", "arguments": '
                         b'{"max-bandwidth": %s}}\n' % value.encode())
        assert "error" in scene.a.qmp.answer()
    assert scene.a.qmp.cmd("query-migrate-parameters")["max-bandwidth"] == 0


@path("control/migrate_set_speed")
def test_set_speed(scene):
    scene.a.scripted()
    for command in ("migrate_set_speed", "set_speed"):
        for value, kept in ((5, 5), (-1, 0), (2**63 - 1, 2**63 - 1), (-2**63, 0), (0, 0)):
            assert scene.a.qmp.cmd(command, value=value) == {}
            assert scene.a.qmp.cmd("query-migrate-parameters")["max-bandwidth"] == kept


@path("control/migrate_set_downtime")
def test_set_downtime(scene):
    """Seconds, with a fraction."""
    scene.a.scripted()
    for command in ("migrate_set_downtime", "set_downtime"):
        for value, kept in ((0.5, 500), (1, 1000), (0, 0), (2000, 2000000), (0.0015, 2),
                            (1.2345, 1235)):
            assert scene.a.qmp.cmd(command, value=value) == {}
            found = scene.a.qmp.cmd("query-migrate-parameters")["downtime-limit"]
            assert abs(found - kept) <= 1, value
        for value in (-0.001, 2000.1, 1e300):
            error = error_of(scene.a.qmp, command, {"value": value})
            assert error.code == "parameter-range"
            assert f" {value:.17g} " in error.desc or f" {value} " in error.desc
        near = error_of(scene.a.qmp, command, {"value": 2000.001})
        assert near.desc == "Parameter 'value' is 2000.001 seconds; it may be 0 to 2000"


@path("control/migrate-set-cache-size")
def test_cache_size(scene):
    source, target = scene.pair()
    session = scene.a.qmp
    for value, kept in ((4096, 4096), (5000, 4096), (16 * MIB, 16 * MIB), (3 * MIB, 2 * MIB)):
        assert session.cmd("migrate-set-cache-size", value=value) == {}
        assert session.cmd("query-migrate-cache-size") == kept
        assert session.cmd("query-migrate-parameters")["xbzrle-cache-size"] == kept
    too_large = error_of(session, "migrate-set-cache-size", {"value": 16 * MIB + 1})
    assert "RAM" in too_large.desc and "cache size" in too_large.desc
    too_small = error_of(session, "migrate-set-cache-size", {"value": 4095})
    assert "page" in too_small.desc
    assert session.cmd("query-migrate-cache-size") == 2 * MIB
    hold_active(scene, source, target)
    assert session.cmd("migrate-set-cache-size", value=MIB) == {}
    assert session.cmd("query-migrate-cache-size") == MIB
    assert scene.a.status() == "active"


@path("control/migrate/disks")
def test_disks(scene):
    scene.a.scripted()
    for name in ("blk", "inc"):
        error = error_of(scene.a.qmp, "migrate", {"uri": "tcp:127.0.0.1:1", name: True})
        assert error.code == "no-disks"
    assert scene.a.info() == {}
    source, target = scene.a, scene.b.scripted(incoming=True)
    source.qmp.cmd("migrate", uri=scene.b.listen(), blk=False, inc=False, detach=True)
    source.complete()
    assert target.do("state") == "running"


# ---- descriptors ----

@path("control/getfd")
def test_getfd(scene):
    session = scene.a.qmp
    reading, writing = os.pipe()
    error = error_of(session, "getfd", {"fdname": "x"})
    assert error.desc == "No file descriptor supplied via SCM_RIGHTS"
    assert session.cmd("getfd", fds=[writing], fdname="x") == {}
    assert session.cmd("closefd", fdname="x") == {}
    assert error_of(session, "closefd", {"fdname": "x"}).desc == (
        "File descriptor named 'x' has not been found")
    with pytest.raises(CommandError, match="starting with a digit"):
        session.cmd("getfd", fds=[writing], fdname="1x")
    # replacing one of the same name closes the first
    session.cmd("getfd", fds=[writing], fdname="x")
    session.cmd("getfd", fds=[reading], fdname="x")
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    session.cmd("closefd", fdname="x")


@path("control/getfd/too-many")
def test_getfd_many(scene):
    session = scene.a.qmp
    with open(os.devnull, "rb") as file:
        before = len(os.listdir(f"/proc/{scene.a.daemon.pid}/fd"))
        with pytest.raises(CommandError) as refused:
            for number in range(1000):
                session.cmd("getfd", fds=[file.fileno()], fdname=f"x{number}")
        assert refused.value.code == "fd-too-many"
        for n in range(number):
            session.cmd("closefd", fdname=f"x{n}")
        assert len(os.listdir(f"/proc/{scene.a.daemon.pid}/fd")) == before


@path("control/getfd/by-another-session")
def test_getfd_shared(scene):
    """A name is the daemon's, not the session's; a session's end does not take it along."""
    reading, writing = os.pipe()
    other = Qmp(scene.a.daemon.control)
    other.cmd("getfd", fds=[writing], fdname="x")
    other.close()
    os.close(reading)
    os.close(writing)
    assert scene.a.qmp.cmd("closefd", fdname="x") == {}


# ---- sessions and the daemon's end ----

@path("control/sessions/many-and-broken")
def test_sessions(scene):
    source, target = scene.pair()
    hold_active(scene, source, target)
    for words in (b"{", b"\xff\xfe", b"[" * 5000, b'{"execute": "query-version"' + b" " * 100000,
                  b"\0" * 1000, b"]}" * 100, os.urandom(3000)):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(scene.a.daemon.control))
            try:
                sock.sendall(words)
            except OSError:
                pass
    sessions = [scene.a.session() for _ in range(20)]
    for session in sessions:
        assert session.cmd("query-migrate", guest=GUEST)["status"] == "active"
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    check_moved(source, target)


@path("control/sessions/client-gone-while-it-waits")
def test_client_gone(scene):
    """A request that is answered late, to a client that has left."""
    source = scene.a.scripted()
    source.do("behave stop=hang")
    other = Qmp(scene.a.daemon.control)
    other.send({"execute": "stop", "arguments": {"guest": GUEST}})
    source.await_event("stop")
    other.close()
    source.do("behave stop=ok")
    scene.a.await_run_state("paused")
    scene.a.qmp.cmd("cont", guest=GUEST)
    check_source_runs(scene.a, source)


@path("control/sessions/oob-cancel-overtakes")
def test_oob(scene):
    source, target = scene.pair()
    hold_active(scene, source, target)
    other = scene.lab.session(scene.a.daemon, negotiate=False)
    assert "oob" in other.greeting["QMP"]["capabilities"]
    other.cmd("qmp_capabilities", enable=["oob"])
    source.do("behave stop=hang")
    other.send({"execute": "stop", "arguments": {"guest": GUEST}, "id": 1})
    source.await_event("stop")
    other.send({"exec-oob": "migrate_cancel", "arguments": {"guest": GUEST}, "id": 2})
    assert other.answer() == {"return": {}, "id": 2}
    source.do("behave stop=ok")
    assert other.answer()["id"] == 1
    assert scene.a.end()["status"] == "cancelled"


@path("control/end/{how}/{state}")
@pytest.mark.parametrize("how", ["quit", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("state", ["idle", "active", "pre-switchover", "device-load"])
def test_end(scene, how, state):
    """The daemon ends with 0; the guest runs on, the sockets are gone."""
    source, target = scene.pair()
    if state != "idle":
        HOLD[state](scene, source, target)
    daemon = scene.a.daemon
    daemon.meant_to_end = True
    if how == "quit":
        assert scene.a.qmp.cmd("quit") == {}
    else:
        daemon.proc.send_signal(getattr(signal, how))
    assert daemon.wait() == 0
    assert not daemon.control.exists() and not daemon.guests.exists()
    target.do("behave load=ok")
    scene.a.restart(GUEST)
    check_source_runs(scene.a, source)
    if state != "idle":
        scene.b.end()
    scene.move(source, target)


@path("control/end/sockets-of-a-dead-daemon")
def test_stale_sockets(scene):
    scene.a.scripted()
    scene.a.kill()
    assert scene.a.daemon.control.exists()
    scene.a.restart(GUEST)


@path("control/end/second-daemon-refused")
def test_second_daemon(scene):
    second = run_ferryd(scene.lab, "--control", scene.a.daemon.control, "--guests",
                        scene.lab.folder / "x.gst", "--state-dir", scene.lab.folder / "x")
    assert second.returncode == 1
    assert "another daemon listens there" in second.stderr
    assert scene.a.qmp.cmd("query-version")
    assert Qmp(scene.a.daemon.control).cmd("query-version")


# ---- the command line ----

def run_ferryd(lab, *arguments):
    return subprocess.run([lab.build / "ferryd", *arguments], capture_output=True, text=True,
                          timeout=60, check=False)


@path("control/command-line/help-and-version")
def test_help(lab):
    shown = run_ferryd(lab, "--help")
    assert shown.returncode == 0 and not shown.stderr
    for option in ("--control", "--guests", "--state-dir", "--help", "--version"):
        assert option in shown.stdout
    shown = run_ferryd(lab, "--version")
    assert shown.returncode == 0
    assert shown.stdout.startswith("ferryd ") and shown.stdout.count("\n") == 1


@path("control/command-line/wrong/{what}")
@pytest.mark.parametrize("what,arguments", [
    ("unknown-option", ["--nonsense"]), ("short-option", ["-x"]), ("argument", ["here"]),
    ("value-missing", ["--control"]), ("value-unwanted", ["--help=1"]),
    ("log-level", ["--log-level", "loud"]),
])
def test_wrong_option(lab, what, arguments):
    shown = run_ferryd(lab, *arguments)
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1 and not shown.stdout


@path("control/command-line/socket-paths/{what}")
@pytest.mark.parametrize("what", ["too-long", "no-folder", "a-file"])
def test_socket_paths(lab, what):
    file = lab.folder / "file"
    file.write_text("mine")
    where = {"too-long": lab.folder / ("x" * 200), "no-folder": lab.folder / "no" / "socket",
             "a-file": file}[what]
    shown = run_ferryd(lab, "--control", where, "--guests", lab.folder / "gst", "--state-dir",
                       lab.folder / "state")
    assert shown.returncode == 1
    assert str(where) in shown.stderr
    assert file.read_text() == "mine"
