# SPDX-License-Identifier: BSD-3-Clause
"""Guests and their migrations, as people read them."""

import time

from .failure import Exit
from .follow import named
from .interrupts import Interrupts
from .progress import end_line, phase, rates, remaining, time_left, verb
from .qmp import Refused
from .text import clean, columns
from .units import show_rate, show_size, show_time

WATCH_EVERY = 1.0  # seconds between two looks, where no event comes
WATCHED = ("MIGRATION", "MIGRATION_PASS", "GUEST_ATTACHED", "GUEST_DETACHED", "STOP", "RESUME")
GUEST_COLUMNS = ("NAME", "DRIVER", "STATUS", "RAM", "PID", "MIGRATION")


def guest_rows(client, guests):
    for guest in guests:
        migration = info_of(client, guest["name"])
        yield (clean(guest["name"]), clean(guest["driver"]), clean(guest["status"]),
               show_size(guest["ram"]), str(guest.get("pid", "-")),
               phase(migration) if migration else "-")


def info_of(client, name):
    """The record; {} of a guest that has gone since it was listed."""
    try:
        return client.execute("query-migrate", named(name))
    except Refused:
        return {}


def run_guests(session):
    client = session.client()
    guests = client.execute("query-guests")
    if session.out.json:
        session.out.answer(guests)
        return Exit.DONE
    rows = [GUEST_COLUMNS, *guest_rows(client, guests)]
    session.out.say(*(columns(rows, numbers=(3, 4)) if guests else ["No guest is attached."]))
    return Exit.DONE


# ---- status ----

def _moving(info):
    left, total = remaining(info)
    sent, written = rates(info)
    yield (f"{show_size(left)} of {show_size(total)} left, round "
           f"{info['ram']['dirty-sync-count']}")
    yield f"{show_size(info['ram']['transferred'])} of RAM {verb(info)}, {show_rate(sent)}"
    if "expected-downtime" in info:
        texts = [f"the guest writes {show_rate(written)}",
                 f"expected downtime {show_time(info['expected-downtime'])}", time_left(info)]
        yield ", ".join(filter(None, texts))


def _parts(info):
    parts = ", ".join(f"{name} {show_time(value)}" for name, value in
                      info["downtime-parts"].items())
    yield f"downtime: {clean(parts)}"


def _details(info):
    """The lines below the first."""
    if info.get("status") in ("active", "pre-switchover", "device", "cancelling") and "ram" in info:
        yield from _moving(info)
    if info.get("cpu-throttle-percentage"):
        yield f"the guest is kept from running {info['cpu-throttle-percentage']} % of the time"
    if "downtime-parts" in info and info.get("direction") != "incoming":
        yield from _parts(info)
    if "listening" in info:
        yield f"listens on {clean(info['listening'])}"
    for reason in info.get("blocked-reasons", ()):
        yield f"can't be migrated now: {clean(reason)}"


def status_lines(name, info):
    first = "no migration"
    if "status" in info:
        first = f"{clean(info.get('direction', 'migration'))}, {end_line(info)}"
    return [f"{name}: {first}", *(f"  {line}" for line in _details(info))]


def watched_infos(session, client):
    """The records that were asked for, by the name that is shown."""
    guest = session.values["GUEST"]
    if guest is not None:
        name = session.guest(guest)
        return {name or "-": client.execute("query-migrate", named(name))}
    return {found["name"]: info_of(client, found["name"])
            for found in client.execute("query-guests")}


def answer_infos(session, infos):
    if session.out.json:
        for name, info in infos.items():
            session.out.answer({"guest": name, **info})
        return
    lines = [line for name, info in infos.items() for line in status_lines(clean(name), info)]
    session.out.say(*(lines or ["No guest is attached."]))


def watch(session, client, interrupts):
    """Shows what has changed, at most so often."""
    last = None
    while not interrupts.take():
        infos = watched_infos(session, client)
        if infos != last:
            answer_infos(session, infos)
            last = infos
        pause(client, interrupts)


def pause(client, interrupts):
    end = time.monotonic() + WATCH_EVERY
    while (left := end - time.monotonic()) > 0 and not interrupts.noted:
        event = client.next_event(left, wake=[interrupts])
        if event and event["event"] in WATCHED:
            return


def run_status(session):
    client = session.client()
    if session.values["watch"]:
        with Interrupts() as interrupts:
            watch(session, client, interrupts)
    else:
        answer_infos(session, watched_infos(session, client))
    return Exit.DONE
