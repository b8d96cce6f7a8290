# SPDX-License-Identifier: BSD-3-Clause
"""rdma: over real verbs.  Runs where tests/rdma has made two devices that reach each other."""

from scenes import MIB, check_moved, path

NEAR = "10.8.0.1"
FAR = "10.8.0.2"
URI = f"rdma:{FAR}:0"
BLOCKS = ("ram:32",)


def pair(scene, fill=16 * MIB, blocks=BLOCKS, **options):
    return scene.pair(fill=fill, blocks=blocks, **options)


@path("rdma/{device}/plain")
def test_plain(scene, device):
    """The RAM goes by RDMA WRITE, all of it, and nothing else is in the stream but records."""
    source, target = pair(scene)
    scene.a.migrate(scene.b.listen(uri=URI))
    sent, got = scene.a.complete(), scene.b.complete()
    check_moved(source, target)
    for info in (sent, got):
        ram = info["ram"]
        assert ram["placed-bytes"] == ram["normal-bytes"] >= 16 * MIB
        assert ram["transferred"] - ram["placed-bytes"] < MIB
