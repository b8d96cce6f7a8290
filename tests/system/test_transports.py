# SPDX-License-Identifier: BSD-3-Clause
"""Each transport, out and in."""

import os
import re
import socket

import pytest
from lab import CommandError
from scenes import (GUEST, MIB, Host, address_of, check_moved, check_source_runs, eventually,
                    path)
from stream import END, HELLO, STATE_END, VERIFY, split

IPV6 = socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") and (
    " lo" in open("/proc/net/if_inet6", encoding="ascii").read())


@path("transports/tcp/{kind}")
@pytest.mark.parametrize("kind,host,shown", [
    ("ipv4", "127.0.0.1", r"tcp:127\.0\.0\.1:(\d+)"),
    ("name", "localhost", r"tcp:(?:127\.0\.0\.1|\[::1\]):(\d+)"),
    pytest.param("ipv6", "[::1]", r"tcp:\[::1\]:(\d+)",
                 marks=pytest.mark.skipif(not IPV6, reason="no IPv6 on loopback")),
    ("everywhere", "", r"tcp:(?:0\.0\.0\.0|\[::\]):(\d+)"),
])
def test_tcp(scene, kind, host, shown):
    """Port 0 is reported as the port that was given."""
    source, target = scene.pair()
    uri = scene.b.listen(uri=f"tcp:{host}:0")
    port = int(re.fullmatch(shown, uri).group(1))
    assert port > 0
    scene.a.migrate(f"tcp:{host}:{port}")
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("transports/tcp/port-that-was-asked-for")
def test_tcp_port(scene):
    """The port is free again for a second migration at once."""
    source, target = scene.pair()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    uri = f"tcp:127.0.0.1:{port}"
    assert scene.b.listen(uri=uri) == uri
    scene.b.cancel()
    scene.b.end()
    assert scene.b.listen(uri=uri) == uri
    scene.a.migrate(uri)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("transports/tcp/port-taken")
def test_tcp_port_taken(scene):
    scene.b.scripted(incoming=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError) as refused:
            scene.b.listen(uri=f"tcp:127.0.0.1:{port}")
    assert refused.value.code == "listen-failed"
    assert str(port) in refused.value.desc
    assert scene.b.run_state() == "inmigrate"
    assert scene.b.listen()


@path("transports/tcp/nobody-listens")
def test_tcp_refused(scene):
    source = scene.a.scripted()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    scene.a.migrate(f"tcp:127.0.0.1:{port}")
    scene.a.fail(GUEST, "connect", f"127.0.0.1:{port}")
    check_source_runs(scene.a, source)


@path("transports/tcp/unknown-name")
def test_tcp_unknown_name(scene):
    source = scene.a.scripted()
    scene.a.migrate("tcp:no-such-host.invalid:4444")
    scene.a.fail(GUEST, "no-such-host.invalid")
    check_source_runs(scene.a, source)


@path("transports/tcp/second-connection-waits")
def test_tcp_second_connection(scene):
    """Who comes second is not served, and does not disturb the first."""
    source, target = scene.pair()
    uri = scene.b.listen()
    scene.a.set(max_bandwidth=MIB)
    scene.a.migrate(uri)
    scene.b.reach("active")
    with socket.create_connection(address_of(uri)) as second:
        second.sendall(b"GET / HTTP/1.0\r\n\r\n")
        scene.a.set(max_bandwidth=0)
        scene.a.complete()
        scene.b.complete()
    check_moved(source, target)


@path("transports/unix/path")
def test_unix_path(scene):
    source, target = scene.pair()
    where = scene.lab.folder / "link.sock"
    uri = scene.b.listen(uri=f"unix:{where}")
    assert uri == f"unix:{where}"
    assert where.is_socket()
    scene.a.migrate(uri)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("transports/unix/path-in-the-way")
def test_unix_path_in_the_way(scene):
    """A stale socket is replaced; a file that is none is left alone."""
    scene.b.scripted(incoming=True)
    where = scene.lab.folder / "link.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(where))
    assert scene.b.listen(uri=f"unix:{where}")
    scene.b.cancel()
    scene.b.end()
    file = scene.lab.folder / "file"
    file.write_text("mine")
    with pytest.raises(CommandError) as refused:
        scene.b.listen(uri=f"unix:{file}")
    assert refused.value.code == "listen-failed"
    assert file.read_text() == "mine"


@path("transports/unix/abstract")
def test_unix_abstract(scene):
    source, target = scene.pair()
    name = f"unix:@ferry-test-{os.getpid()}-{source.pid}"
    assert scene.b.listen(uri=name) == name
    scene.a.migrate(name)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("transports/unix/nobody-listens")
def test_unix_refused(scene):
    source = scene.a.scripted()
    scene.a.migrate(f"unix:{scene.lab.folder}/nothing")
    scene.a.fail(GUEST, "nothing")
    check_source_runs(scene.a, source)


def give(session, name, fd):
    session.cmd("getfd", fds=[fd], fdname=name)


@path("transports/fd/getfd")
def test_fd_by_getfd(scene):
    source, target = scene.pair()
    ends = socket.socketpair()
    give(scene.a.qmp, "link", ends[0].fileno())
    give(scene.b.qmp, "link", ends[1].fileno())
    for end in ends:
        end.close()
    assert scene.b.listen(uri="fd:link") == "fd:link"
    scene.a.migrate("fd:link")
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)
    with pytest.raises(CommandError, match="has not been found"):
        scene.a.qmp.cmd("closefd", fdname="link")


@path("transports/fd/getfd-pipe")
def test_fd_pipe(scene):
    """One way only: no answers, and the source is done when all was taken."""
    source, target = scene.pair()
    reading, writing = os.pipe()
    give(scene.a.qmp, "pipe", writing)
    give(scene.b.qmp, "pipe", reading)
    os.close(reading)
    os.close(writing)
    scene.b.listen(uri="fd:pipe")
    scene.a.migrate("fd:pipe")
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("transports/fd/inherited")
def test_fd_inherited(lab):
    ends = socket.socketpair()
    hosts = [Host(lab, name, pass_fds=[end.fileno()]) for name, end in zip("ab", ends)]
    numbers = [end.fileno() for end in ends]
    for end in ends:
        end.close()
    source = hosts[0].scripted()
    source.do(f"fill ram 0 {MIB} random 1")
    target = hosts[1].scripted(incoming=True)
    hosts[1].listen(uri=f"fd:{numbers[1]}")
    hosts[0].migrate(f"fd:{numbers[0]}")
    hosts[0].complete()
    hosts[1].complete()
    check_moved(source, target)


@path("transports/fd/numbers-of-its-own")
def test_fd_not_inherited(scene):
    """The daemon's own descriptors, and the standard ones, are nobody's to use."""
    scene.a.scripted()
    for number in range(64):
        with pytest.raises(CommandError) as refused:
            scene.a.migrate(f"fd:{number}")
        assert refused.value.code == "fd-unknown"
        assert refused.value.desc == f"File descriptor named '{number}' has not been found"
    assert scene.a.info() == {}


@path("transports/fd/unknown-name")
def test_fd_unknown(scene):
    scene.a.scripted()
    with pytest.raises(CommandError) as refused:
        scene.a.migrate("fd:nothing")
    assert refused.value.desc == "File descriptor named 'nothing' has not been found"


@path("transports/fd/closed-peer")
def test_fd_peer_closed(scene):
    source = scene.a.scripted()
    near, far = socket.socketpair()
    give(scene.a.qmp, "link", near.fileno())
    near.close()
    far.close()
    scene.a.migrate("fd:link")
    scene.a.fail(GUEST)
    check_source_runs(scene.a, source)


def save(scene, source, file):
    """Saves the guest into a file; the source's record."""
    scene.a.migrate(f"exec:cat >{file}")
    info = scene.a.complete()
    assert source.do("state") == "given-away"
    return info


@path("transports/exec/save-and-restore")
def test_exec(scene):
    source, target = scene.pair()
    file = scene.lab.folder / "saved"
    info = save(scene, source, file)
    assert info["ram"]["transferred"] == file.stat().st_size
    kinds = [kind for kind, _ in split(file.read_bytes())[1]]
    assert kinds[0] == HELLO and END in kinds[-2:]
    assert STATE_END in kinds and VERIFY in kinds
    scene.b.listen(uri=f"exec:cat {file}")
    assert scene.b.complete()["verified"] is True
    check_moved(source, target)


@path("transports/exec/restore-twice")
def test_exec_restored_twice(scene):
    """What was saved can be restored as often as one likes: the file is not changed."""
    source, target = scene.pair()
    file = scene.lab.folder / "saved"
    save(scene, source, file)
    for guest in (target, scene.a.scripted("again", incoming=True)):
        host = scene.b if guest is target else scene.a
        host.listen(guest.guest_name, f"exec:cat {file}")
        host.complete(guest.guest_name)
        assert guest.do("hash") == source.do("hash")
        assert guest.do("state") == "running"


@path("transports/exec/compressed")
def test_exec_through_a_filter(scene):
    source, target = scene.pair(fill=0)
    source.do(f"fill ram 0 {MIB} pattern 7")
    file = scene.lab.folder / "saved.gz"
    scene.a.migrate(f"exec:gzip -c >{file}")
    scene.a.complete()
    assert file.stat().st_size < MIB / 4
    scene.b.listen(uri=f"exec:gzip -dc <{file}")
    scene.b.complete()
    check_moved(source, target)


@path("transports/exec/{how}")
@pytest.mark.parametrize("how,command,words", [
    ("exits-non-zero", "cat >/dev/null; exit 3", ["status 3"]),
    ("exits-at-once", "exit 5", []),
    ("takes-a-little", "head -c 100000 >/dev/null; exit 1", []),
    ("is-killed", "cat >/dev/null; kill -9 $$", ["signal 9"]),
    ("is-not-there", "/no/such/command", []),
])
def test_exec_fails(scene, how, command, words):
    source, target = scene.pair()
    scene.a.migrate(f"exec:{command}")
    scene.a.fail(GUEST, *words)
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("transports/exec/closes-early-and-exits-zero")
def test_exec_closes_early(scene):
    """A command that did not take everything has not saved the guest, whatever its status."""
    source, target = scene.pair(blocks=("ram:64",), fill=64 * MIB)
    scene.a.migrate("exec:head -c 100000 >/dev/null")
    scene.a.fail(GUEST)
    check_source_runs(scene.a, source)


@path("transports/exec/cancel-ends-the-command")
def test_exec_cancel(scene):
    source, target = scene.pair(fill=16 * MIB)
    mark = scene.lab.folder / "pid"
    scene.a.migrate(f"exec:echo $$ >{mark}; exec sleep 1000")
    scene.a.reach("active")
    eventually(lambda: mark.exists() and mark.read_text().endswith("\n"), what="the command")
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    assert not os.path.exists(f"/proc/{mark.read_text().strip()}")
    check_source_runs(scene.a, source)


@path("transports/exec/incoming-{how}")
@pytest.mark.parametrize("how,command,words", [
    ("exits-non-zero", "exit 4", []),
    ("says-nothing", "true", []),
    ("is-no-stream", "echo this is no stream; cat /dev/zero | head -c 1000", ["stream"]),
    ("never-ends-its-garbage", "cat /dev/zero", ["stream"]),
])
def test_exec_incoming_fails(scene, how, command, words):
    source, target = scene.pair()
    try:
        scene.b.listen(uri=f"exec:{command}")
    except CommandError as refused:
        assert refused.code != "system-error"
    scene.b.fail(GUEST, *words)
    assert target.do("state") == "incoming"
    scene.move(source, target)


@path("transports/exec/incoming-exits-non-zero-at-the-end")
def test_exec_incoming_bad_end(scene):
    """All came, but the command says that it failed: the guest is not started."""
    source, target = scene.pair()
    file = scene.lab.folder / "saved"
    save(scene, source, file)
    scene.b.listen(uri=f"exec:cat {file}; exit 9")
    scene.b.fail(GUEST, "status 9")
    assert target.do("state") == "incoming"
    scene.b.listen(uri=f"exec:cat {file}")
    scene.b.complete()
    check_moved(source, target)


@path("transports/exec/truncated-file/{part}")
@pytest.mark.parametrize("part", ["nothing", "preamble", "introduction", "pages", "state", "end",
                                  "last-byte"])
def test_exec_truncated(scene, part):
    source, target = scene.pair()
    file = scene.lab.folder / "saved"
    save(scene, source, file)
    whole = file.read_bytes()
    keep = {"nothing": 0, "preamble": 9, "introduction": 60, "pages": MIB // 2,
            "state": whole.rfind(b"gusstate") + 1000, "end": len(whole) - 40,
            "last-byte": len(whole) - 1}[part]
    cut = scene.lab.folder / "cut"
    cut.write_bytes(whole[:keep])
    try:
        scene.b.listen(uri=f"exec:cat {cut}")
    except CommandError:
        pass
    scene.b.fail(GUEST, "ended in the middle")
    assert target.do("state") == "incoming"
    assert int(target.do("allocated")) == 0
    scene.b.listen(uri=f"exec:cat {file}")
    scene.b.complete()
    check_moved(source, target)


@path("transports/exec/trailing-garbage")
def test_exec_trailing(scene):
    source, target = scene.pair()
    file = scene.lab.folder / "saved"
    save(scene, source, file)
    scene.b.listen(uri=f"exec:cat {file}; echo more")
    scene.b.fail(GUEST, "goes on")
    assert target.do("state") == "incoming"


@pytest.mark.skipif(os.path.isdir("/sys/class/infiniband"), reason="there is an RDMA device")
@path("rdma/no-device/{command}-fails-with-reason")
@pytest.mark.parametrize("command", ["migrate", "migrate-incoming"])
def test_no_rdma_device(scene, command):
    """The daemon starts and works without one; only who asks for RDMA is told."""
    scene.a.scripted(incoming=command == "migrate-incoming")
    with pytest.raises(CommandError) as refused:
        scene.a.qmp.cmd(command, guest=GUEST, uri="rdma:127.0.0.1:4444")
    assert refused.value.code == "rdma-no-device"
    assert "rdma:127.0.0.1:4444" in refused.value.desc
    assert scene.a.info() == {}


@path("transports/{what}")
@pytest.mark.parametrize("what,uri,code", [
    ("unknown-scheme", "carrier-pigeon:coop", "uri-unknown"),
    ("no-scheme", "nonsense", "uri-unknown"),
    ("empty", "", "uri-unknown"),
    ("tcp/no-port", "tcp:localhost", "uri-invalid"),
    ("tcp/port-too-large", "tcp:localhost:65536", "uri-invalid"),
    ("tcp/port-no-number", "tcp:localhost:x", "uri-invalid"),
    ("tcp/ipv6-without-brackets", "tcp:::1:4444", "uri-invalid"),
    ("tcp/as-a-url", "tcp://localhost:4444", "uri-invalid"),
    ("tcp/space", "tcp:local host:4444", "uri-invalid"),
    ("rdma/as-a-url", "rdma://localhost:4444", "uri-invalid"),
    ("unix/no-path", "unix:", "uri-invalid"),
    ("unix/path-too-long", "unix:/" + "x" * 200, "uri-invalid"),
    ("exec/no-command", "exec:", "uri-invalid"),
    ("rdma/no-port", "rdma:localhost", "uri-invalid"),
    ("rdma/port-too-large", "rdma:localhost:65536", "uri-invalid"),
    ("rdma/ipv6-without-brackets", "rdma:::1:4444", "uri-invalid"),
])
def test_bad_uri(scene, what, uri, code):
    """Refused before there is a job; the record of the last one stays."""
    scene.a.scripted()
    scene.b.scripted(incoming=True)
    for host, command in ((scene.a, "migrate"), (scene.b, "migrate-incoming")):
        with pytest.raises(CommandError) as refused:
            host.qmp.cmd(command, guest=GUEST, uri=uri)
        assert refused.value.code == code
        if code == "uri-unknown":
            assert refused.value.desc == f"unknown migration protocol: {uri}"
        assert host.info() == {}


# ---- peers that do not answer ----

@path("transports/tcp/silence/{who}")
@pytest.mark.parametrize("who", ["drops-connections", "says-nothing"])
def test_silence(scene, who):
    """Whose silence it is stands in the error."""
    scene.a.scripted()
    uri = full(scene) if who == "drops-connections" else scene.mute()
    scene.a.set(peer_timeout=300, guest_timeout=1)
    scene.a.migrate(uri)
    scene.a.fail(GUEST, "No answer", f"({uri})")
    assert scene.a.info()["error-code"] == "timeout"


def full(scene):
    """A port whose queue is full: the kernel drops what comes, as a firewall does; its URI."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    scene.sockets.append(listener)
    callers = [socket.socket() for _ in range(4)]
    scene.sockets.extend(callers)
    for caller in callers:
        caller.setblocking(False)
        caller.connect_ex(listener.getsockname())
    return f"tcp:127.0.0.1:{listener.getsockname()[1]}"
