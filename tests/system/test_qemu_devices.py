# SPDX-License-Identifier: BSD-3-Clause
"""Devices and block jobs that a migration from outside can't be made with, or that come and go while
one is under way; and memory that changes its size by itself."""

import os

import pytest
from qemu_scenes import (FILLED, attach_refused, attach_through, check_arrived, check_console,
                         check_stays, disk_options, hold_active, hold_pre_switchover, second_file)
from qemu import attach
from scenes import GUEST, MIB, SLOW, path

pytestmark = pytest.mark.qemu


# ---- balloons ----

def balloon(**states):
    features = ",".join(f"{name.replace('_', '-')}={state}" for name, state in states.items())
    return {"options": ("-object", "iothread,id=io",
                        "-device", f"virtio-balloon-pci,id=balloon,iothread=io,{features}")}


@path("qemu/refused/balloon/free-page-hint")
def test_hints(vms):
    source = vms.source(attached=False, **balloon(free_page_hint="on"))
    error = attach_refused(vms.a, source.qmp_path, GUEST, "/machine/peripheral/balloon",
                           "free-page-hint=off")
    assert error.code == "guest-unsuitable"
    check_console(source)


@path("qemu/balloon/no-free-page-hint")
def test_reports(vms):
    """Others are no reason to refuse a guest."""
    source, target = vms.pair(both=balloon(free_page_hint="off", free_page_reporting="on"))
    vms.move(source, target)


# ---- block jobs ----

JOB = {"device": "copy0", "type": "mirror", "status": "ready", "len": 1, "offset": 0, "busy": False,
       "paused": False, "speed": 0, "io-status": "ok", "ready": True, "auto-finalize": True,
       "auto-dismiss": True}


class Jobs:
    """A QEMU that tells of block jobs; those that it does not have can't harm it."""

    def __init__(self, vms):
        self.told = []
        self.source, self.target = vms.source(FILLED, attached=False), vms.target()
        attach_through(vms.a, vms.relay_qmp(self.source, reply=self._tell))

    def _tell(self, message, command):
        if command == "query-block-jobs" and "return" in message:
            message["return"] += self.told
        return message


def check_blocked(vms, jobs):
    vms.a.fail(GUEST, "'copy0'", "mirror", "block-job-cancel")
    assert vms.a.info()["error-code"] == "migration-blocked"
    vms.b.fail()
    check_stays(vms.a, jobs.source)


@path("qemu/refused/block-job/at-the-start")
def test_job_at_start(vms):
    jobs = Jobs(vms)
    jobs.told = [JOB]
    vms.a.migrate(vms.b.listen())
    check_blocked(vms, jobs)
    jobs.told = []
    vms.move(jobs.source, jobs.target)


@path("qemu/refused/block-job/while-active")
def test_job_in_rounds(vms):
    jobs = Jobs(vms)
    hold_active(vms)
    jobs.told = [JOB]
    vms.a.set(max_bandwidth=0)
    check_blocked(vms, jobs)


@path("qemu/refused/block-job/in-pre-switchover")
def test_job_in_pause(vms):
    """Nothing else is looked at between the pause and the moment at which QEMU lets go of its
    images."""
    jobs = Jobs(vms)
    hold_pre_switchover(vms)
    jobs.told = [JOB]
    vms.a.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    check_blocked(vms, jobs)


@path("qemu/block-job/concluded")
def test_job_concluded(vms):
    """One that has ended does no harm, though its client has not dismissed it."""
    jobs = Jobs(vms)
    jobs.told = [{**JOB, "status": "concluded"}]
    vms.move(jobs.source, jobs.target)


@path("qemu/refused/block-job/of-qemu")
def test_real_job(vms):
    """As QEMU itself tells of one: a backup that takes for ever.  The guest can be attached."""
    image, both = disk_options(vms)
    copy = vms.lab.folder / "copy.raw"
    for file in (image, copy):
        file.write_bytes(os.urandom(8 * MIB))
    source = vms.source(attached=False, **both)
    source.qmp.execute("blockdev-add", {"driver": "raw", "node-name": "copy",
                                        "file": {"driver": "file", "filename": str(copy)}})
    source.qmp.execute("blockdev-backup", {"job-id": "copy0", "device": "data", "target": "copy",
                                           "sync": "full", "speed": 1})
    attach(vms.a.qmp, source)
    target = vms.target(**both)
    vms.a.migrate(vms.b.listen())
    vms.a.fail(GUEST, "'copy0'", "backup")
    vms.b.fail()
    source.qmp.execute("block-job-cancel", {"device": "copy0", "force": True})
    source.qmp.await_event("BLOCK_JOB_CANCELLED")
    vms.move(source, target)


# ---- devices that come and go ----

XHCI = {"options": ("-device", "qemu-xhci,id=usb", "-device", "usb-tablet,id=tablet")}


@path("qemu/device/plugged/while-active")
def test_plugged(vms):
    source, _ = vms.pair(FILLED)
    hold_active(vms)
    source.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "late"})
    vms.a.set(max_bandwidth=0)
    vms.a.fail(GUEST, "/machine/peripheral/late", "virtio-rng-pci", "plugged during")
    assert vms.a.info()["error-code"] == "guest-changed"
    vms.b.fail()
    check_stays(vms.a, source)


@path("qemu/device/unplugged/while-active")
def test_unplugged(vms):
    source, _ = vms.pair(FILLED, both=XHCI)
    hold_active(vms)
    source.qmp.execute("device_del", {"id": "tablet"})
    source.qmp.await_event("DEVICE_DELETED", device="tablet")
    vms.a.set(max_bandwidth=0)
    vms.a.fail(GUEST, "/machine/peripheral/tablet", "usb-tablet", "unplugged during")
    vms.b.fail()
    check_stays(vms.a, source)


@path("qemu/device/plugged/as-ferryd-stops-the-guest")
def test_plugged_late(vms):
    """Behind the last round, and before QEMU itself refuses it."""
    source, _ = vms.source(FILLED, attached=False), vms.target()

    def plug_first(message):
        if message["execute"] == "migrate":
            source.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "late"})
        return message

    attach_through(vms.a, vms.relay_qmp(source, request=plug_first))
    vms.a.migrate(vms.b.listen())
    vms.a.fail(GUEST, "/machine/peripheral/late", "plugged during")
    vms.b.fail()
    check_stays(vms.a, source)


@path("qemu/device/plugged/before")
def test_plugged_before(vms):
    """At both ends, after the attach: that is allowed."""
    source, target = vms.pair()
    for qemu in (source, target):
        qemu.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "late"})
    vms.move(source, target)


# ---- memory that the guest plugs by itself ----

def virtio_mem(vms, which):
    file = second_file(vms, which)
    vms.lab.undo.callback(file.unlink, missing_ok=True)
    return {"options": (
        "-m", "64M,maxmem=512M", "-device", "virtio-mem-pci,id=vmem,memdev=mem1,requested-size=0",
        "-object", f"memory-backend-file,id=mem1,size=128M,mem-path={file},share=on")}


@path("qemu/virtio-mem/size-changes")
def test_virtio_mem(vms):
    """What a guest has plugged of it changes at any time, also between the attach and the arrival."""
    sizes = iter(range(0, 1 << 30, 2 << 20))

    def grow(message, command):
        if command == "query-memory-devices":
            for device in message["return"]:
                device["data"]["size"] = next(sizes)
        return message

    source, target = vms.source(FILLED, attached=False, **virtio_mem(vms, "s")), vms.qemu(
        incoming=True, **virtio_mem(vms, "t"))
    attach_through(vms.a, vms.relay_qmp(source, reply=grow))
    attach_through(vms.b, vms.relay_qmp(target, reply=grow))
    vms.a.set(max_bandwidth=SLOW * 4)
    vms.a.migrate(vms.b.listen())
    vms.a.complete()
    vms.b.complete()
    check_arrived(source, target)
    source.kill()
    vms.a.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    last = vms.target(vms.a, **virtio_mem(vms, "l"))
    vms.b.migrate(vms.a.listen())
    vms.b.complete()
    vms.a.complete()
    check_arrived(target, last)


@path("qemu/refused/virtio-mem/nothing-mapped-yet")
def test_dynamic_slots(vms):
    """With dynamic-memslots QEMU 8.2 or newer shows the backend only as the guest plugs it."""
    def claim(message, command):
        if command == "query-memory-devices":
            message["return"].append({"type": "virtio-mem", "data": {
                "id": "later", "memdev": "/objects/mem9", "memaddr": 1 << 32, "size": 0}})
        return message

    source = vms.source(attached=False)
    relay = vms.relay_qmp(source, reply=claim)
    error = attach_refused(vms.a, relay.path, GUEST, "'mem9'", "dynamic-memslots=off")
    assert error.code == "guest-unsuitable"
    check_console(source)
