"""The side that has the copy: here, and behind ``ssh``, for which a script stands in."""

import io
import os
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from thinmeta import stream
from thinmeta.errors import RemoteError, UsageError
from thinmeta.replication import LocalPeer, SshPeer, open_peer
from thinmeta.source import ImageGeneration

BLOCK = 65536
BLOCKS = 24
SIZE = BLOCKS * BLOCK
THINMETA = Path(__file__).parents[2] / ".venv/bin/thinmeta"

SSH = """#!/bin/sh
# ssh, as far as it is used here: the last word is for a shell, on this host.
echo "$@" >> "{log}"
while [ "$1" != -- ]; do shift; done
if [ "$2" = unreachable ]; then
    echo "ssh: connect to host unreachable port 22: No route to host" >&2
    exit 255
fi
exec sh -c "$3"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, where a script is called ssh; the log of its words."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "ssh.log"
    script = folder / "ssh"
    script.write_text(SSH.format(log=log))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{THINMETA.parent}:{os.environ['PATH']}")
    return log


@pytest.fixture
def pool(tmp_path: Path) -> Any:
    """Device 1 was written twice; devices 2 and 3 are its snapshots of then."""
    data = tmp_path / "data"
    with data.open("wb") as file:
        file.truncate(4 * SIZE)
    with thinmeta.Pool.create(
        tmp_path / "meta",
        data_block_size_sectors=128,
        data_blocks=4 * BLOCKS,
        metadata_blocks=256,
        data=data,
    ) as made:
        with made.transaction() as txn:
            txn.create_thin(1)
        for snapshot, places in ((2, range(BLOCKS)), (3, (1, 7))):
            with made.devices[1].open(mode="r+", size_bytes=SIZE) as volume:
                for place in places:
                    volume.seek(place * BLOCK)
                    volume.write(os.urandom(BLOCK))
            with made.transaction() as txn:
                txn.create_snapshot(snapshot, origin_id=1)
        yield made


def content(pool: thinmeta.Pool, device_id: int) -> bytes:
    with pool.devices[device_id].open(size_bytes=SIZE) as volume:
        return volume.readall()


def sent(pool: thinmeta.Pool, device_id: int, **options: Any) -> bytes:
    out = io.BytesIO()
    with ImageGeneration(pool, device_id, size_bytes=SIZE) as generation:
        stream.send(generation, out, **options)
    return out.getvalue()


def receive(peer: LocalPeer | SshPeer, content: bytes, path: Path, **options: bool) -> None:
    """Through a file: a process over there needs something with a descriptor."""
    path.write_bytes(content)
    with path.open("rb") as file:
        peer.receive(file, **{"overwrite": False, "resume": False, **options})


@pytest.mark.parametrize("kind", ["here", "behind ssh"])
def test_a_peer_tells_what_it_holds_and_takes_streams(
    kind: str, ssh: Path, pool: thinmeta.Pool, tmp_path: Path
) -> None:
    path = tmp_path / "a copy's name"
    peer = open_peer(f"ssh:user@host:{path}" if kind == "behind ssh" else str(path))
    assert peer.state() == stream.Standing(None, False, None, False)
    receive(peer, sent(pool, 2), tmp_path / "stream")
    assert path.read_bytes() == content(pool, 2)
    state = peer.state()
    assert state.held is not None
    assert (state.held.device_id, state.changed) == (2, False)
    whole = sent(pool, 3, base=2, checkpoint_bytes=BLOCK)
    with pytest.raises((RemoteError, thinmeta.StreamError), match=r"cut|ends|early"):
        receive(peer, whole[: len(whole) * 3 // 4], tmp_path / "stream")
    assert path.read_bytes() == content(pool, 2)
    token = peer.state().token
    assert token is not None
    rest = sent(pool, 3, base=2, token=token)
    assert len(rest) < len(whole)
    receive(peer, rest, tmp_path / "stream", resume=True)
    assert path.read_bytes() == content(pool, 3)
    path.write_bytes(b"changed by somebody")
    assert peer.state().changed
    receive(peer, sent(pool, 2), tmp_path / "stream", overwrite=True)
    assert path.read_bytes() == content(pool, 2)
    assert ssh.exists() == (kind == "behind ssh")


def test_what_ssh_or_the_other_side_says_becomes_an_error(
    ssh: Path, pool: thinmeta.Pool, tmp_path: Path
) -> None:
    with pytest.raises(RemoteError, match="No route to host") as caught:
        SshPeer("unreachable", "copy").state()
    assert (caught.value.host, caught.value.status) == ("unreachable", 255)
    with pytest.raises(RemoteError, match="not found"):
        SshPeer("host", "copy", remote_command="nosuchprogram").state()
    for answer in (
        "echo",
        "echo '[]'",
        "echo '{\"held\": 5}'",
        "echo ' {' #",
        "head -c 99 /dev/zero #",
    ):
        with pytest.raises(RemoteError, match="not understood"):
            SshPeer("host", "copy", remote_command=f"{answer} #").state()
    path = tmp_path / "copy"
    path.write_bytes(b"precious")
    with pytest.raises(RemoteError, match="--overwrite") as refused:
        receive(SshPeer("host", str(path)), sent(pool, 2), tmp_path / "stream")
    assert refused.value.status == 1
    assert path.read_bytes() == b"precious"
    os.remove(ssh.parent / "bin/ssh")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(empty))
        with pytest.raises(RemoteError, match="ssh cannot be run"):
            SshPeer("host", "copy").state()


@pytest.mark.parametrize(
    "word", ["ssh:", "ssh:host", "ssh:host:", "ssh::path", "ssh:-oProxyCommand=x:path", "ssh:[::1]"]
)
def test_words_that_are_no_target_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="ssh:HOST:PATH"):
        open_peer(word)


def test_hosts_may_be_addresses() -> None:
    assert open_peer("ssh:[fe80::1]:/dev/x").name == "ssh:fe80::1:/dev/x"
    assert isinstance(open_peer("a:b"), LocalPeer)
