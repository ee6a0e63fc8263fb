"""Proving a copy: everything is read back and compared, by its hash, with what the source reads."""

from __future__ import annotations

from typing import NamedTuple

from thinmeta._core import Blake3, is_zero
from thinmeta.errors import VerificationError
from thinmeta.migrating.ahead import ahead
from thinmeta.migrating.pieces import BATCH_BYTES, Chain, pieces_below
from thinmeta.migrating.readback import open_content
from thinmeta.stream.planning import Piece, pieces_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from thinmeta.migrating.copying import How
    from thinmeta.migrating.pieces import Readable
    from thinmeta.migrating.readback import Readback
    from thinmeta.source import Changes
    from thinmeta.stream.targets.content import Content

__all__ = ["Verified", "verify"]

_BATCH_LOOKS = 256


class Verified(NamedTuple):
    """What was compared.

    Attributes:
        verified_bytes: Content.
        zero_bytes: What has to be zero, and is.
        past_cache: Whether it was read from the disk.
    """

    verified_bytes: int = 0
    zero_bytes: int = 0
    past_cache: bool = False


def verify(
    source: Readable,
    content: Content,
    changes: Changes,
    how: How,
    *,
    begin_bytes: int | None = None,
    digest: bytes = b"",
) -> Verified:
    """Compare what was copied with what the source reads.

    Args:
        source: What it was copied from.
        content: Where the copy is; it was flushed.
        changes: What of it is compared: content, and zeros.
        how: How the work is done.
        begin_bytes: From there on ``digest`` says what the source has read just now; what is
            before is read from it once more. ``None``: all of it is.
        digest: Of the pieces from there on.

    Raises:
        VerificationError: They differ.
        OSError: One of them cannot be read.
    """
    size = source.identity.size_bytes
    begin = size if begin_bytes is None else begin_bytes
    with open_content(content) as copy:
        comparison = _Comparison(source, copy, content.name, how)
        total = comparison.compare(pieces_below(changes, begin))
        chain = Chain()
        total = total.plus(*comparison.hash(pieces_of(changes, begin), chain))
        if begin < size and chain.digest() != digest:
            comparison.locate(pieces_of(changes, begin))
        return Verified(total.verified, total.zeros, copy.past_cache)


class _Look(NamedTuple):
    """A stretch of the copy: content, or zeros, which are read if nothing else tells."""

    piece: Piece
    is_read: bool


class _Seen(NamedTuple):
    """What was found there: the hash of content, and of the source's if it was asked, too."""

    piece: Piece
    copy: bytes
    source: bytes


class _Total(NamedTuple):
    verified: int = 0
    zeros: int = 0

    def plus(self, verified: int, zeros: int) -> _Total:
        return _Total(self.verified + verified, self.zeros + zeros)


class _Comparison:
    """Reads both sides; what it hands to threads they do at once."""

    def __init__(self, source: Readable, copy: Readback, name: str, how: How) -> None:
        self._source, self._copy, self._name, self._how = source, copy, name, how

    def compare(self, pieces: Iterable[Piece]) -> _Total:
        """Compare piece by piece, both read now."""
        return self._count(pieces, self._both)

    def hash(self, pieces: Iterable[Piece], chain: Chain) -> _Total:
        """Read the copy, and gather what its content is known by."""
        return self._count(pieces, self._mine, chain)

    def locate(self, pieces: Iterable[Piece]) -> None:
        """Say where two sides differ that have not the same hash.

        Raises:
            VerificationError: Always.
        """
        self.compare(pieces)
        # Nothing differs now: what was read once is not what is read now.
        raise VerificationError(
            self._name,
            0,
            self._source.identity.size_bytes,
            "what the source read when it was copied is not what it reads now: somebody has "
            "written to it, or its disk, or memory, is failing",
        )

    def _count(
        self,
        pieces: Iterable[Piece],
        work: Callable[[list[_Look]], list[_Seen]],
        chain: Chain | None = None,
    ) -> _Total:
        total = _Total()
        how, looks = self._how, self._looks(pieces)
        for batch in ahead(work, _batches(looks), how.threads, how.waiting):
            for piece, mine, theirs in batch:
                if not piece.is_data:
                    total = total.plus(0, piece.length_bytes)
                    continue
                total = total.plus(piece.length_bytes, 0)
                if chain is not None:
                    chain.add(piece, mine)
                elif mine != theirs:
                    raise self._differs(piece)
                how.progress(piece.length_bytes)
        return total

    def _looks(self, pieces: Iterable[Piece]) -> Iterator[_Look]:
        """The same, with zeros apart that are there without having been read."""
        for piece in pieces:
            if piece.is_data:
                yield _Look(piece, True)
                continue
            here, end = piece.offset_bytes, piece.offset_bytes + piece.length_bytes
            for begin, length in self._copy.parts_in(here, piece.length_bytes):
                if begin > here:
                    yield _Look(Piece(here, begin - here, is_data=False), False)
                here = begin + length
                for at in range(begin, here, BATCH_BYTES):
                    yield _Look(Piece(at, min(BATCH_BYTES, here - at), is_data=False), True)
            if here < end:
                yield _Look(Piece(here, end - here, is_data=False), False)

    def _mine(self, batch: list[_Look]) -> list[_Seen]:
        return [_Seen(look.piece, self._read(look), b"") for look in batch]

    def _both(self, batch: list[_Look]) -> list[_Seen]:
        found = []
        for look in batch:
            theirs = b""
            if look.piece.is_data:
                content = memoryview(bytearray(look.piece.length_bytes))
                self._source.read_into(look.piece.offset_bytes, content)
                theirs = Blake3(content).digest()
            found.append(_Seen(look.piece, self._read(look), theirs))
        return found

    def _read(self, look: _Look) -> bytes:
        """What is there, as a hash; nothing for zeros.

        Raises:
            VerificationError: There are no zeros.
        """
        if not look.is_read:
            return b""
        piece = look.piece
        content = memoryview(bytearray(piece.length_bytes))
        self._copy.read_into(piece.offset_bytes, content)
        if piece.is_data:
            return Blake3(content).digest()
        if not is_zero(content):
            raise self._differs(piece)
        return b""

    def _differs(self, piece: Piece) -> VerificationError:
        """An error that says where in a piece the two differ first."""
        offset, length, is_data = piece
        mine, theirs = (memoryview(bytearray(length)) for _ in range(2))
        self._copy.read_into(offset, mine)
        if is_data:
            self._source.read_into(offset, theirs)
        first = next((at for at in range(length) if mine[at] != theirs[at]), 0)
        reason = "it does not read as the source does" if is_data else "it does not read as zeros"
        return VerificationError(self._name, offset + first, length - first, reason)


def _batches(looks: Iterable[_Look]) -> Iterator[list[_Look]]:
    """As much as one call of a thread reads."""
    batch: list[_Look] = []
    count = 0
    for look in looks:
        read = look.piece.length_bytes if look.is_read else 0
        if batch and (count + read > BATCH_BYTES or len(batch) == _BATCH_LOOKS):
            yield batch
            batch, count = [], 0
        batch.append(look)
        count += read
    if batch:
        yield batch
