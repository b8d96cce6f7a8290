# SPDX-License-Identifier: BSD-3-Clause
"""What the daemon's answers must look like.  All else relies on what was checked here.

A shape is a type, a tuple of types, a list of one shape, or members by name; a name that ends in
'?' may be absent.  Members that no shape names are free.
"""

from .history import PARTS

NUMBER = (int, float)

RAM = {
    "transferred": int, "remaining": int, "total": int, "dirty-pages-rate": int, "mbps": NUMBER,
    "dirty-sync-count": int, "page-size": int,
}
DISK = {"transferred": int, "remaining": int, "total": int}
STOP_PARTS = {name: NUMBER for name in PARTS}
ROUND = {
    "round": int, "count": int, "start": NUMBER, "end": NUMBER, "transferred": int, "pages": int,
    "dirtied": int, "remaining": int, "throttle": int,
}
MIGRATION = {
    "status?": str, "direction?": str, "total-time?": int, "expected-downtime?": int,
    "cpu-throttle-percentage?": int, "downtime?": int, "downtime-parts?": STOP_PARTS,
    "error-desc?": str, "error-code?": str, "ram?": RAM, "disk?": DISK, "handover?": str,
    "blocked-reasons?": [str], "listening?": str,
}
HISTORY = {
    "direction?": str, "status?": str, "rounds": [ROUND],
    "stop?": {"start": NUMBER, "downtime": NUMBER, "transferred": int, "parts": STOP_PARTS},
}
SCHEMA_ENTRY = {
    "name": str, "meta-type": str, "json-type?": str, "values?": [str],
    "members?": [{"name": str, "type?": str}], "arg-type?": str,
}
EVENT = {
    "event": str, "data?": dict, "timestamp?": {"seconds": int, "microseconds": int},
}

ANSWERS = {
    "query-guests": [{"name": str, "driver": str, "status": str, "ram": int, "pid?": int}],
    "query-migrate": MIGRATION,
    "query-migrate-history": HISTORY,
    "query-migrate-parameters": dict,
    "query-migrate-capabilities": [{"capability": str, "state": bool}],
    "query-qmp-schema": [SCHEMA_ENTRY],
}


def _is_a(value, types):
    """JSON's booleans are no numbers."""
    return isinstance(value, types) and (types is bool or not isinstance(value, bool))


def _fault_of_members(value, members, where):
    for key, shape in members.items():
        name = key.removesuffix("?")
        if name in value:
            fault = fault_of(value[name], shape, f"{where}.{name}")
        else:
            fault = None if key.endswith("?") else f"{where} has no '{name}'"
        if fault:
            return fault
    return None


def fault_of(value, shape, where):
    """What is wrong with a value, as text; None: nothing."""
    kind = type(shape) if isinstance(shape, (list, dict)) else shape
    if not _is_a(value, kind):
        return f"{where} is of another type than it must be"
    if isinstance(shape, list):
        faults = (fault_of(item, shape[0], f"{where}[{at}]") for at, item in enumerate(value))
        return next(filter(None, faults), None)
    return _fault_of_members(value, shape, where) if isinstance(shape, dict) else None
