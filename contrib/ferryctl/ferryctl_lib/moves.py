# SPDX-License-Identifier: BSD-3-Clause
"""Commands that start a migration: to a peer, from one, into a file and out of it."""

import contextlib
import os

from .failure import Exit, Failure
from .follow import Follower, begin, call, named
from .interrupts import Interrupts
from .qmp import Refused, passed_fd
from .settings import capability_states
from .text import clean


def prepare(session, guest):
    """Sets what was asked for along with the migration."""
    values = session.values
    wanted = {"max-bandwidth": values.get("speed"), "downtime-limit": values.get("downtime")}
    parameters = {name: value for name, value in wanted.items() if value is not None}
    if parameters:
        session.client().execute("migrate-set-parameters", {**parameters, **named(guest)})
    if values["cap"]:
        session.client().execute("migrate-set-capabilities", {
            "capabilities": capability_states(values["cap"]), **named(guest)})


def noting_interrupts(session):
    """Ctrl-C is noted for what is followed; where an answer alone is awaited it ends ferryctl."""
    return Interrupts() if session.values["wait"] else contextlib.nullcontext()


def follow(session, guest, interrupts):
    return Follower(session.client(), guest, session.out, interrupts).run()


def run_migrate(session):
    guest = session.guest()
    prepare(session, guest)
    arguments = {"uri": session.values["URI"]}
    arguments.update({name: True for name in ("blk", "inc") if session.values[name]})
    with noting_interrupts(session) as interrupts:
        answer = begin(session.client(), guest, "migrate", arguments)
        if session.values["wait"]:
            return follow(session, guest, interrupts)
    session.out.answer(answer)
    return Exit.DONE


def tell_listening(session, guest):
    info = session.client().execute("query-migrate", named(guest))
    where = info.get("listening")
    session.out.answer(info, *([f"listens on {clean(where)}"] if where else []))


def begin_incoming(session, guest, uri):
    paused = {"autostart": False} if session.values["paused"] else {}
    return begin(session.client(), guest, "migrate-incoming", {"uri": uri, **paused})


def run_incoming(session):
    guest = session.guest()
    prepare(session, guest)
    with noting_interrupts(session) as interrupts:
        begin_incoming(session, guest, session.values["URI"])
        tell_listening(session, guest)
        if session.values["wait"]:
            return follow(session, guest, interrupts)
    return Exit.DONE


# ---- files ----

class Part:
    """FILE.part, which becomes FILE.  It is never overwritten: it may be all that is left."""

    def __init__(self, path):
        self.path = path
        self.name = f"{path}.part"
        self.ours = True  # whether nothing of worth is in it
        try:
            self.fd = os.open(self.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as fault:
            raise Failure(f"{clean(self.name)} exists: a guest is being saved there, or was left "
                          "in it; move it away") from fault
        except OSError as fault:
            raise Failure(f"{clean(self.name)}: {fault.strerror}") from fault

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.close(self.fd)
        if self.ours:
            os.unlink(self.name)

    def settle(self, status):
        """What becomes of it, now that the migration has ended so."""
        if status is Exit.DONE:
            self._take_place()
        self.ours = status in (Exit.FAILED, Exit.CANCELLED)

    def _take_place(self):
        """The name may change only once the content is safe."""
        try:
            os.fsync(self.fd)
            os.rename(self.name, self.path)
            folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
        except OSError as fault:
            raise Failure(f"{clean(self.name)} holds the guest and could not become "
                          f"{clean(self.path)}: {fault.strerror}") from fault


def start_saving(client, guest, part):
    """From here on what is in the part may be the guest, unless the daemon refuses."""
    with passed_fd(client, part.fd) as name:
        part.ours = False
        try:
            return begin(client, guest, "migrate", {"uri": f"fd:{name}"})
        except Refused:
            part.ours = True
            raise


def tell_part(session, guest, part):
    if not part.ours:
        session.out.warn(f"What there is of {call(guest)} is in {clean(part.name)}")


def run_save(session):
    guest = session.guest()
    with Part(session.values["FILE"]) as part, Interrupts() as interrupts:
        try:
            start_saving(session.client(), guest, part)
            status = follow(session, guest, interrupts)
        except Failure:
            tell_part(session, guest, part)
            raise
        if status in (Exit.LEFT, Exit.UNDECIDED):
            tell_part(session, guest, part)
        part.settle(status)
        return status


def opened(path):
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as fault:
        raise Failure(f"{clean(path)}: {fault.strerror}") from fault


def run_restore(session):
    client, guest = session.client(), session.guest()
    fd = opened(session.values["FILE"])
    try:
        with Interrupts() as interrupts:
            with passed_fd(client, fd) as name:
                begin_incoming(session, guest, f"fd:{name}")
            return follow(session, guest, interrupts)
    finally:
        os.close(fd)
