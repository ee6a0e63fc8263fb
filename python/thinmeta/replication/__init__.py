"""Keeping a copy of a live volume up to date, a round at a time.

::

    from thinmeta.replication import open_peer, replicate

    report = replicate(thinmeta.live_pool("vg/pool"), "home", open_peer("ssh:host:/dev/vg/copy"))

A round makes a snapshot, asks the target what it holds, sends what changed since, and keeps
the snapshot as the base of the next round when the target has said that it holds it. Killed at
any moment, at either end, the next round goes on from what is there.
"""

from thinmeta.replication.peers import LocalPeer, SshPeer, open_peer
from thinmeta.replication.round import ReplicationReport, replicate

__all__ = [
    "LocalPeer",
    "ReplicationReport",
    "SshPeer",
    "open_peer",
    "replicate",
]
