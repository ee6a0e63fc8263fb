"""Whether thinmeta's answers are the peers', case by case: `same`, or what DIFFERS."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import answers
from answers import NoAnswer
from client import CallFailed, Worker
from peers import Peer, Thinmeta
from pools import Pool

TOO_MANY = 5_000_000  # mappings to read in Python when a quicker proof is there


def said(compare: Callable[[], str]) -> str:
    try:
        return compare()
    except (NoAnswer, CallFailed, OSError, ValueError, KeyError) as error:
        return f"not compared: {error}"[:70]


def check(worker: Worker | None, path: str) -> str:
    """The peers' status 0 was seen in the timed runs."""
    if worker is None:
        return ""
    return said(
        lambda: "same" if worker.call("check", path=path)["clean"] else "DIFFERS: not clean"
    )


def dump(ours: Thinmeta, peers: Sequence[Peer], pool: Pool) -> str:
    """Byte-identical with 0.9.0; the same meaning as 1.x."""

    def compare() -> str:
        mine = ours.command("dump", pool.image)
        whole, body = answers.dump_digests(mine)
        result = []
        meaning = ""
        for peer in peers:
            theirs = peer.command("thin_dump", pool.image)
            their_whole, their_body = answers.dump_digests(theirs)
            if whole == their_whole:
                result.append(f"bytes of {peer.name}")
            elif not peer.is_1x:
                return f"DIFFERS from {peer.name}"
            elif body != their_body and result and pool.mappings > TOO_MANY:
                continue  # the shared form is compared with it instead
            elif body != their_body:
                meaning = meaning or answers.dump_meaning(mine)
                if meaning != answers.dump_meaning(theirs):
                    return f"DIFFERS from {peer.name}"
                result.append(f"meaning of {peer.name}")
            else:
                result.append(f"meaning of {peer.name}")
        return "same: " + ", ".join(result) if result else ""

    return said(compare)


def shared_dump(ours: Thinmeta, peer: Peer | None, pool: Pool) -> str:
    def compare() -> str:
        if peer is None:
            return ""
        mine = ours.command("dump", "--shared", pool.image)
        theirs = peer.command("thin_dump", pool.image)
        if answers.dump_digests(mine)[0] == answers.dump_digests(theirs)[0]:
            return f"same: bytes of {peer.name}"
        alike = answers.dump_meaning(mine) == answers.dump_meaning(theirs)
        return f"same: meaning of {peer.name}" if alike else f"DIFFERS from {peer.name}"

    return said(compare)


def delta(worker: Worker, peers: Sequence[Peer], pool: Pool) -> str:
    def compare() -> str:
        found = worker.call("delta_ranges", path=str(pool.image), left=1, right=2)["ranges"]
        mine = [tuple(row) for row in found]
        for peer in peers:
            command = peer.command("thin_delta", "--thin1", "1", "--thin2", "2", pool.image)
            if answers.delta_ranges(command) != mine:
                return f"DIFFERS from {peer.name}"
        return f"same: {len(mine)} ranges" if peers else ""

    return said(compare)


def ls(ours: Thinmeta, peers: Sequence[Peer], pool: Pool) -> str:
    def compare() -> str:
        columns = ("dev", "mapped", "exclusive", "shared")
        command = ours.command("ls", "--json", "-o", ",".join(columns), pool.image)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoAnswer(done.stderr.strip() or f"status {done.returncode}")
        mine = listed(json.loads(done.stdout))
        for peer in peers:
            asked = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS,SHARED_BLOCKS"
            if (
                answers.listing(peer.command("thin_ls", "--no-headers", "-o", asked, pool.image))
                != mine
            ):
                return f"DIFFERS from {peer.name}"
        return f"same: {len(mine)} devices" if peers else ""

    return said(compare)


def listed(document: Any) -> list[tuple[int, ...]]:
    """Id, mapped, exclusive and shared blocks of every device in our listing's JSON."""
    rows = document["devices"] if isinstance(document, Mapping) else document
    names = ("device_id", "mapped_blocks", "exclusive_blocks", "shared_blocks")
    return [tuple(int(row[name]) for name in names) for row in rows]


def volume(worker: Worker, pool: Pool, arguments: Mapping[str, Any]) -> str:
    def compare() -> str:
        answer = worker.call("read_volume", **arguments, digest=True)
        alike = answer["sha256"] == pool.volume_sha256
        return "same: sha256" if alike else "DIFFERS: sha256"

    return said(compare)
