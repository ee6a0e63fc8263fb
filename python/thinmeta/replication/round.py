"""One round: snapshot, send, receive, verify, drop the old base."""

from __future__ import annotations

import os
from threading import Thread
from typing import NamedTuple

from thinmeta.errors import StreamError, UsageError, WrongBaseError
from thinmeta.live.generation import LiveGeneration
from thinmeta.stream.sender import CHECKPOINT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.bookmark import Bookmark
    from thinmeta.identity import Identity
    from thinmeta.live.pool import LivePool
    from thinmeta.replication.peers import Peer
    from thinmeta.stream import SendReport, Standing

__all__ = ["ReplicationReport", "replicate"]


class ReplicationReport(NamedTuple):
    """What a round has done.

    Attributes:
        target: Where the copy is.
        identity: What it holds now.
        base: What it held before, if the round went on from that.
        data_bytes: Content that was read.
        stream_bytes: What went over the line.
        resumed_at_bytes: Where in the volume a stream that was cut went on, or ``None``.
    """

    target: str
    identity: Identity
    base: Identity | None
    data_bytes: int
    stream_bytes: int
    resumed_at_bytes: int | None


def replicate(
    live: LivePool,
    volume: int | str,
    peer: Peer,
    *,
    overwrite: bool = False,
    size_bytes: int | None = None,
    flatten: bool = False,
    level: int = 1,
    checkpoint_bytes: int = CHECKPOINT_BYTES,
    progress: Callable[[int, int], object] | None = None,
) -> ReplicationReport:
    """Bring a copy of a volume of a live pool up to date.

    Args:
        live: The pool.
        volume: The volume, by number or name.
        peer: Where the copy is.
        overwrite: Send the whole volume where the copy holds nothing that could be gone on
            from, whatever it is.
        size_bytes: Size of the volume, where it is not active and LVM does not know it.
        flatten: Send what an external origin shows, too; always the whole volume.
        level: Of zstd.
        checkpoint_bytes: How much stream is sent again at most after a round was cut.
        progress: Called now and then as ``progress(done, total)``, in bytes of content.

    Raises:
        WrongBaseError: The copy holds a state that no snapshot here is of.
        RemoteError: The other host could not be reached, or could not do it.
        StreamError: The stream did not arrive whole; the next round goes on.
        ThinmetaError: What making the snapshot, or receiving, reports.
        OSError: Something cannot be read or written.
    """
    state = peer.state()
    held = "" if state.held is None else state.held.digest
    with LiveGeneration(
        live,
        volume,
        purpose=f"replicate {peer.place}",
        size_bytes=size_bytes,
        flatten=flatten,
        held=held,
        wanted=_wanted(state),
    ) as generation:
        base = None if flatten else _base(generation, state, peer, overwrite=overwrite)
        token = _token(generation, state, base)
        if flatten and state.held is not None:
            overwrite = True  # what is there came from here, and goes whole
        how = _How(level, checkpoint_bytes, progress)
        try:
            sent = _transfer(generation, peer, base, token, how, overwrite=overwrite)
            now = peer.state().held
        except BaseException:
            # What arrived is of this very snapshot.
            generation.leave_behind()
            raise
        if now is None or now.digest != generation.identity.digest:
            found = "nothing that is known" if now is None else now.describe()
            raise StreamError(
                f"{peer.name}: it says that it holds {found}, and {generation.identity.describe()} "
                "was sent: does somebody else write there?"
            )
        generation.keep()
    return ReplicationReport(
        target=peer.name,
        identity=sent.identity,
        base=sent.base,
        data_bytes=sent.data_bytes,
        stream_bytes=sent.stream_bytes,
        resumed_at_bytes=sent.resumed_at_bytes,
    )


def _wanted(state: Standing) -> str:
    if state.token is None:
        return ""
    from thinmeta.stream import Token

    return Token.parse(state.token).digest


def _base(
    generation: LiveGeneration, state: Standing, peer: Peer, *, overwrite: bool
) -> Bookmark | None:
    """What the copy can go on from."""
    if state.held is None:
        return None
    if state.changed:
        if overwrite:
            return None
        raise WrongBaseError(
            f"{peer.name}: somebody has changed it since {state.held.describe()} was received: "
            "once with --overwrite sends the whole volume"
        )
    base = generation.kept_base
    if base is not None and base.digest.hex() == state.held.digest:
        return base
    if overwrite:
        return None
    raise WrongBaseError(
        f"{peer.name} holds {state.held.describe()}, and no snapshot that was kept here is of "
        "that: once with --overwrite sends the whole volume"
    )


def _token(generation: LiveGeneration, state: Standing, base: Bookmark | None) -> str | None:
    """Where a stream that was cut goes on, if it is one of this snapshot and this base."""
    if state.token is None:
        return None
    from thinmeta.stream import Token

    token = Token.parse(state.token)
    from_here = "" if base is None else base.digest.hex()
    if token.digest != generation.identity.digest or (token.base_digest or "") != from_here:
        return None
    return state.token


class _How(NamedTuple):
    level: int
    checkpoint_bytes: int
    progress: Callable[[int, int], object] | None


def _transfer(
    generation: LiveGeneration,
    peer: Peer,
    base: Bookmark | None,
    token: str | None,
    how: _How,
    *,
    overwrite: bool,
) -> SendReport:
    """Send in one thread, and let the peer receive in this one."""
    from thinmeta.stream import send

    reading, writing = os.pipe()
    reports: list[SendReport] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with open(writing, "wb", buffering=0) as out:
                report = send(generation, out, base=base, token=token, **how._asdict())
            reports.append(report)
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=work, name="thinmeta-send")
    thread.start()
    try:
        with open(reading, "rb") as stream:
            peer.receive(stream, overwrite=overwrite, resume=token is not None)
    except BaseException as error:
        thread.join()
        # The end that failed first is the one to tell of: a pipe without a reader is no reason.
        for failure in failures:
            if not isinstance(failure, BrokenPipeError):
                raise failure from error
        raise
    thread.join()
    if failures:
        raise failures[0]
    if not reports:
        raise UsageError("nothing was sent")
    return reports[0]
