"""Taking a stream: everything is checked, gathered, and then made the target's content."""

from __future__ import annotations

from typing import NamedTuple

from thinmeta.errors import NoSpaceError, StreamError, ThinmetaError, UsageError
from thinmeta.stream.format import CHECKPOINT, DATA, MAX_DATA_BYTES
from thinmeta.stream.log import log
from thinmeta.stream.reader import StreamReader
from thinmeta.stream.targets import Target, open_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import BinaryIO, Self

    from thinmeta.identity import Identity
    from thinmeta.stream.format import Header, Record
    from thinmeta.stream.reader import Source
    from thinmeta.stream.token import Token

__all__ = ["ReceiveReport", "Standing", "look", "print_token", "receive"]


class ReceiveReport(NamedTuple):
    """What was received.

    Attributes:
        target: What it is called.
        identity: What the target holds now.
        base: What it held before, if the stream was made from that.
        data_bytes: Content that was written.
        unmap_bytes: What was unmapped.
        stream_bytes: Length of the stream; 0: none was read.
        resumed_at_bytes: Where in the volume the stream began; ``None``: it is no continuation.
        finished: Whether it was all there before, from an earlier process, and only had to be
            finished.
        dry_run: Whether everything is as it was.
    """

    target: str
    identity: Identity
    base: Identity | None
    data_bytes: int
    unmap_bytes: int
    stream_bytes: int
    resumed_at_bytes: int | None
    finished: bool
    dry_run: bool


def receive(
    stream: Source | None,
    target: Target | str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    force_base: bool = False,
    external_origin: str | os.PathLike[str] | None = None,
    journal: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> ReceiveReport:
    """Make a target become what a stream says.

    Whatever happens, the target is complete afterwards, in the state before or in the one
    after; but a block device that a whole volume is written to, for which there is no other
    place, is incomplete until it is all there. An earlier call that was killed when it had
    everything is finished first.

    Args:
        stream: A binary file. ``None``: only finish what an earlier call had complete.
        target: A file, a block device, or a :class:`Target`.
        overwrite: A whole volume may take the place of what is there.
        resume: The stream may continue one that was cut.
        force_base: Believe that the target holds what the stream was made from.
        external_origin: What the source shows where it has nothing mapped, if that is not
            zeros; it is copied, so that the target does not need it later.
        journal: The folder in which changes are gathered.
        dry_run: Read and check all of the stream, and change nothing.
        progress: Called now and then as ``progress(done, total)``, in bytes of content.

    Raises:
        StreamError: The stream is none, is damaged, cut, or of another version. Its
            ``token``, if there is one, is where the sender may go on.
        WrongBaseError: The target does not hold what the stream was made from.
        AlreadyFormattedError: Something is there, and ``overwrite`` was not set.
        UsageError: The source has an external origin, and none was given; the stream
            continues another one, and ``resume`` was not set.
        DeviceInUseError: Somebody uses the target.
        NoSpaceError: The target's pool is full.
        OSError: Something cannot be read or written, or is too small.
    """
    if not isinstance(target, Target):
        target = open_target(target, journal=journal)
    with target:
        reception = _Reception(target, progress, dry_run=dry_run)
        failure = reception.recover(force=force_base)
        if stream is None:
            return reception.only_finish(failure)
        reader = reception.read(stream, failure, overwrite=overwrite)
        if reader is None:
            return reception.only_finish(failure)
        if reception.is_there(reader.header):
            reception.drain(reader)
            return reception.report(reader, finished=True)
        target.check(reader.header, overwrite=overwrite, resume=resume, force_base=force_base)
        with _Origin(reader.header, external_origin) as origin:
            if dry_run:
                reception.drain(reader)
            else:
                reception.take(reader, origin)
        return reception.report(reader, finished=False)


class _Reception:
    def __init__(
        self, target: Target, progress: Callable[[int, int], object] | None, *, dry_run: bool
    ) -> None:
        self._target, self._progress, self._dry_run = target, progress, dry_run
        self._finished: Identity | None = None

    def recover(self, *, force: bool) -> Exception | None:
        """Finish what was complete; why that could not be, if it could not."""
        if self._dry_run:
            return None
        try:
            self._finished = self._target.recover(force=force)
        except (StreamError, OSError, ThinmetaError) as error:
            return error
        if self._finished is not None:
            log("finished %s on %s", self._finished.describe(), self._target.name)
        return None

    def only_finish(self, failure: Exception | None) -> ReceiveReport:
        if failure is not None:
            raise self._explained(failure, None) from failure
        if self._finished is None:
            work = self._target.state.work
            token = None if work is None else work.token
            raise self._explained(StreamError("nothing came: there is no stream"), token)
        return self.report(None, finished=True)

    def read(
        self, stream: Source, failure: Exception | None, *, overwrite: bool
    ) -> StreamReader | None:
        """Begin to read; ``None``: nothing comes, and something was finished."""
        try:
            reader = StreamReader(stream)
        except StreamError as error:
            if "nothing came" in str(error) and (failure or self._finished):
                return None
            work = self._target.state.work
            token = None if work is None else work.token
            raise self._explained(error, token) from error
        # Only what replaces everything does without what could not be finished.
        if failure is not None and not (overwrite and reader.header.base is None):
            raise self._explained(failure, None) from failure
        return reader

    def is_there(self, header: Header) -> bool:
        """Whether this is what was just finished, sent once more."""
        found, comes = self._finished, header.identity
        return (
            found is not None
            and header.resumable
            and (found.digest, found.size_bytes) == (comes.digest, comes.size_bytes)
        )

    def drain(self, reader: StreamReader) -> None:
        """Read and check everything."""
        buffer = memoryview(bytearray(MAX_DATA_BYTES))
        for record in reader.records():
            if record.kind == DATA:
                _content(record, buffer, reader)
                self._show(reader)

    def take(self, reader: StreamReader, origin: _Origin) -> None:
        target, header = self._target, reader.header
        log("receiving %s into %s", header.identity.describe(), target.name)
        buffer = memoryview(bytearray(MAX_DATA_BYTES))
        try:
            target.begin(header)
            for record in reader.records():
                if record.kind == DATA:
                    content = _content(record, buffer, reader)
                    target.write(record, record.offset_bytes, content)
                    self._show(reader)
                elif record.kind == CHECKPOINT:
                    target.checkpoint(record.offset_bytes)
                else:
                    origin.unmap(target, record.offset_bytes, record.length_bytes)
            target.seal()
        except BaseException as error:
            token = target.suspend(keep=not reader.is_forged)
            if isinstance(error, StreamError | OSError | ThinmetaError):
                raise self._explained(error, token) from error
            raise
        try:
            target.finish()
        except (StreamError, OSError, ThinmetaError) as error:
            raise self._explained(error, None) from error
        log("%s holds %s", target.name, header.identity.describe())

    def _show(self, reader: StreamReader) -> None:
        if self._progress is not None:
            self._progress(reader.data_bytes, reader.header.data_bytes)

    def _explained(self, error: Exception, token: Token | None) -> Exception:
        """The same error, which says what the target holds and what to do."""
        target, work = self._target, self._target.state.work
        words = target.stands()
        if token is not None:
            words += (
                f"; continue with 'thinmeta send ... --resume {token} | thinmeta receive "
                f"{target.words} --resume'"
            )
        elif work is not None and work.complete:
            words += f"; all that it needs is there: finish it with {_finishing(target)}"
        elif work is not None and work.kind == "in place":
            words += "; send the whole volume again"
        return _with_words(error, words, None if token is None else str(token))

    def report(self, reader: StreamReader | None, *, finished: bool) -> ReceiveReport:
        header = None if reader is None else reader.header
        identity = self._finished if header is None else header.identity
        assert identity is not None
        return ReceiveReport(
            target=self._target.name,
            identity=identity,
            base=None if header is None else header.base,
            data_bytes=0 if reader is None or finished else reader.data_bytes,
            unmap_bytes=0 if reader is None or finished else reader.unmap_bytes,
            stream_bytes=0 if reader is None else reader.stream_bytes,
            resumed_at_bytes=None if header is None else header.resume_offset_bytes,
            finished=finished,
            dry_run=self._dry_run,
        )


def _finishing(target: Target) -> str:
    return f"'thinmeta receive {target.words} --resume < /dev/null'"


def _content(record: Record, buffer: memoryview, reader: StreamReader) -> memoryview:
    try:
        return record.content(buffer)
    except StreamError as error:
        reader.is_forged = True  # its checksum was right
        raise StreamError(f"damaged stream: {error}") from error


def _with_words(error: Exception, words: str, token: str | None) -> Exception:
    """An error like this one with something added, as far as its kind lets itself be told."""
    if isinstance(error, StreamError):
        found = StreamError(f"{error}; {words}")
        found.token, found.resumable = token, token is not None
        return found
    if isinstance(error, NoSpaceError):
        reason = f"{error.reason}; {words}" if error.reason else words
        return NoSpaceError(error.space, reason)
    if isinstance(error, OSError) and not isinstance(error, ThinmetaError):
        return OSError(error.errno, f"{error.strerror}; {words}", error.filename)
    error.add_note(words)
    return error


class _Origin:
    """What shows where the source has nothing mapped: zeros, or an external origin.

    Raises:
        UsageError: The stream says that it is an origin, and none was given; or the other
            way around.
        OSError: It cannot be opened.
    """

    def __init__(self, header: Header, path: str | os.PathLike[str] | None) -> None:
        self._file: BinaryIO | None = None
        if header.identity.external_origin and path is None:
            raise UsageError(
                "the volume shows an external origin where nothing was written, which is not in "
                "the stream: give it with --external-origin, or send with --flatten"
            )
        if not header.identity.external_origin and path is not None:
            raise UsageError(
                "the volume that was sent has no external origin: leave --external-origin out"
            )
        self._path = path

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = open(self._path, "rb", buffering=0)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def unmap(self, target: Target, offset_bytes: int, length_bytes: int) -> None:
        """Let a range show what shows through."""
        end = offset_bytes + length_bytes
        while self._file is not None and offset_bytes < end:
            self._file.seek(offset_bytes)
            content = memoryview(self._file.read(min(MAX_DATA_BYTES, end - offset_bytes)))
            if not content:
                break  # past its end there are zeros
            target.write(None, offset_bytes, content)
            offset_bytes += len(content)
        if offset_bytes < end:
            target.unmap(offset_bytes, end - offset_bytes)


class Standing(NamedTuple):
    """What a target is.

    Attributes:
        held: The state that it holds; ``None``: nothing that is known.
        changed: Whether somebody has changed it since, or it is gone.
        token: Where a stream that was cut may go on, or ``None``.
        complete: Whether all of another state is there, and only has to be finished.
    """

    held: Identity | None
    changed: bool
    token: str | None
    complete: bool


def look(target: Target | str | os.PathLike[str]) -> Standing:
    """What a target is; nobody else may be using it.

    Raises:
        StreamError: What is known of it cannot be believed.
        DeviceInUseError: Somebody uses it.
        OSError: It cannot be found.
    """
    if not isinstance(target, Target):
        target = open_target(target)
    with target:
        work = target.state.work
        token = None if work is None else work.token
        return Standing(
            held=target.state.held,
            changed=target.was_changed(),
            token=None if token is None else str(token),
            complete=work is not None and work.complete,
        )


def print_token(target: Target | str | os.PathLike[str]) -> Token:
    """Where a stream into a target that was cut may go on.

    Raises:
        StreamError: Nothing is kept that could be continued.
        OSError: The target cannot be found.
    """
    if not isinstance(target, Target):
        target = open_target(target)
    state = target.peek()
    target.state = state
    token = None if state.work is None else state.work.token
    if token is None:
        what = "nothing is kept of a stream that was cut"
        if state.work is not None and state.work.complete:
            what = f"all of the stream is there: finish it with {_finishing(target)}"
        raise StreamError(f"{what}; {target.stands()}")
    return token
