"""What all targets have in common: when they refuse a stream, and how one that was cut ends.

A target is entered (it is locked then, and nobody else may use it), :meth:`Target.recover`
finishes what an earlier process had complete, :meth:`Target.check` refuses,
:meth:`Target.begin` starts, :meth:`Target.write`, :meth:`Target.unmap` and
:meth:`Target.checkpoint` take what comes, and either :meth:`Target.seal` and
:meth:`Target.finish` make it the target's content, or :meth:`Target.suspend` says what is left.
"""

from __future__ import annotations

from contextlib import suppress

from thinmeta.errors import AlreadyFormattedError, StreamError, UsageError, WrongBaseError
from thinmeta.stream.sidecar import Sidecar, State, Work
from thinmeta.stream.token import Token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal, Protocol, Self

    from thinmeta.identity import Identity
    from thinmeta.stream.format import Header, Record
    from thinmeta.stream.targets.content import Content

    Evidence = dict[str, int | str]
    Begin = Literal["anew", "resume", "drop"]

    class Gathering(Protocol):
        """Where what comes is gathered; see :class:`Work` for the kinds."""

        def write(self, record: Record | None, offset_bytes: int, content: memoryview) -> None: ...
        def unmap(self, offset_bytes: int, length_bytes: int) -> None: ...
        def flush(self, work: Work) -> None: ...
        def seal(self, work: Work) -> None: ...
        def cut(self, work: Work) -> None: ...
        def drop(self, work: Work) -> None: ...
        def close(self) -> None: ...


__all__ = ["Target"]


class Target:
    """What a stream is received into; a context manager.

    Args:
        name: What the user calls it.

    Attributes:
        name: The same.
        words: What stands for it on a command line.
        state: What is known of it; to be asked after it was entered, or from :meth:`peek`.
    """

    name: str
    words: str
    state: State
    _sidecar: Sidecar
    _gathering: Gathering | None = None
    _forced = False

    def __init__(self, name: str, words: str | None = None) -> None:
        from shlex import quote

        self.name = name
        self.words = quote(name) if words is None else words
        self.state = State()

    def __enter__(self) -> Self:
        try:
            self._open()
            self.state = self._sidecar.load()
            work = self.state.work
            if work is not None and work.path and not self._is_ours(work.path):
                raise StreamError(
                    f"{self._sidecar.path} names {work.path}, which is no place of ours for "
                    f"{self.name}: remove it, and send the whole volume"
                )
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._gathering is not None:
                self._gathering.close()
        finally:
            self._gathering = None
            self._close()

    # ---- what each kind of target has to say ----

    def peek(self) -> State:
        """What is known of it, without locking it.

        Raises:
            StreamError: What is known cannot be believed.
            OSError: It cannot be found.
        """
        raise NotImplementedError

    def _open(self) -> None:
        """Lock it, and find its sidecar."""
        raise NotImplementedError

    def _close(self) -> None:
        """Let go of it; whatever is open."""
        raise NotImplementedError

    def _evidence(self, held: Identity) -> Evidence | None:
        """How it looks now, while it is said to hold that; ``None``: there is nothing."""
        raise NotImplementedError

    def _check_room(self, header: Header) -> None:
        """Refuse what cannot fit."""

    def _is_ours(self, path: str) -> bool:
        """Whether a file may be where something is gathered: what is there is removed."""
        return False

    def _occupied(self) -> str:
        """What is there, if it may not be overwritten unasked; empty if it may."""
        raise NotImplementedError

    def _new_work(self, header: Header) -> Work:
        """What will be gathered, and where."""
        raise NotImplementedError

    def _gather(self, work: Work, begin: Begin) -> Gathering:
        """Open where it is gathered: to begin, to go on at the last checkpoint, to drop it."""
        raise NotImplementedError

    def _gathered(self, work: Work) -> Content | None:
        """Where what is gathered can be read; ``None``: only when it has taken effect."""
        return None

    def content(self) -> Content:
        """Where what it holds can be read."""
        raise NotImplementedError

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and devices that it is in."""
        return (self.name,)

    def _prepare(self, work: Work) -> None:
        """See to it that what is complete will not fail for want of room; changes nothing."""

    def _finish(self, work: Work) -> None:
        """Make what is complete the content of the target; to be done again after a crash."""
        raise NotImplementedError

    def was_changed(self) -> bool:
        """Whether it is not what it was when it was said to hold something."""
        held = self.state.held
        return held is not None and self._evidence(held) != self.state.evidence

    def holds(self, identity: Identity) -> bool:
        """Whether it is known to hold a state, and looks as it did then."""
        held = self.state.held
        if held is None or self.state.work is not None:
            return False
        try:
            held.check_base(identity)
        except WrongBaseError:
            return False
        return held.size_bytes == identity.size_bytes and not self.was_changed()

    def disown(self) -> None:
        """Say that it holds nothing that is known.

        Raises:
            OSError: That cannot be written down.
        """
        self.state = State(None, {}, self.state.work)
        self._save()

    # ---- what receiving consists of ----

    def recover(self, *, force: bool = False) -> Identity | None:
        """Finish what an earlier process had complete; what the target holds then.

        Args:
            force: Though somebody has changed the target since.

        Raises:
            StreamError: What is needed for it is damaged.
            OSError: It cannot be done.
        """
        work = self.state.work
        if work is None or not work.complete:
            return None
        self._forced = force
        self.finish()
        return work.identity

    def check(self, header: Header, *, overwrite: bool, resume: bool, force_base: bool) -> None:
        """Refuse a stream that does not fit; nothing has been changed.

        Raises:
            WrongBaseError: The target does not hold what the stream was made from, or the
                stream goes on from another place than the last one got to.
            AlreadyFormattedError: Something is there, and nothing said that it may be
                overwritten.
            UsageError: A stream that continues, and ``resume`` was not given.
            OSError: The target is too small.
        """
        self._forced = force_base
        self._check_room(header)
        if header.resume_offset_bytes is not None:
            self._check_resume(header, resume=resume)
        if header.base is not None:
            # So much of it has to be there; what the volume has beyond is in the stream.
            needed = min(header.base.size_bytes, header.identity.size_bytes)
            self._check_base(header.base, needed, force=force_base)
            self._check_size(header)
        elif header.resume_offset_bytes is None and not overwrite and (what := self._occupied()):
            raise AlreadyFormattedError(self.name, what)

    def _check_size(self, header: Header) -> None:
        held, comes = self.state.held, header.identity
        guessed = not comes.size_is_known and held is not None and held.size_is_known
        if guessed and held is not None and comes.size_bytes < held.size_bytes:
            raise WrongBaseError(
                f"{self.name}: it holds a volume of {held.size_bytes} bytes, and the size of what "
                f"comes, {comes.size_bytes}, was guessed from its last block: send it with --size"
            )

    def _check_resume(self, header: Header, *, resume: bool) -> None:
        if not resume:
            raise UsageError(
                "this stream continues one that was cut: --resume takes it up, and without it "
                "a stream from the beginning is needed"
            )
        work = self.state.work
        if work is None:
            raise WrongBaseError(
                f"{self.name}: nothing is kept of a stream that was cut: send it from the "
                "beginning, without a token"
            )
        token = work.token
        if token is None:
            raise WrongBaseError(
                f"{self.name}: what is kept cannot be continued: send it from the beginning, "
                "without a token"
            )
        comes = Token.of(header.identity, header.base, header.begin_bytes)
        if comes != token:
            raise WrongBaseError(
                f"{self.name}: the stream continues another one than was cut here, or at "
                f"another place: the token is {token}"
            )

    def _check_base(self, base: Identity, needed_bytes: int, *, force: bool) -> None:
        held = self.state.held
        now = None if held is None and not force else self._evidence(base if held is None else held)
        if now is None and (held is not None or force):
            raise WrongBaseError(
                f"{self.name}: there is nothing, and the stream was made from "
                f"{base.describe()}: send the whole volume"
            )
        if force:
            size = (now or {}).get("size_bytes")
            if isinstance(size, int) and size < needed_bytes:
                raise WrongBaseError(
                    f"{self.name}: it has {size} bytes, and of {base.describe()} {needed_bytes} "
                    "are needed: send the whole volume"
                )
            return
        if held is None:
            raise WrongBaseError(
                f"{self.name}: nothing says what it holds, and the stream was made from "
                f"{base.describe()}: send the whole volume; or --force-base, if that is certain"
            )
        try:
            held.check_base(base)
        except WrongBaseError as error:
            raise WrongBaseError(f"{self.name}: {error}: use that as the base") from error
        if held.size_bytes < needed_bytes:
            raise WrongBaseError(
                f"{self.name}: it holds only {held.size_bytes} bytes of {base.describe()}, and "
                f"{needed_bytes} are needed: send from a bookmark that was saved with the size, "
                "or the whole volume"
            )
        if now != self.state.evidence:
            raise WrongBaseError(
                f"{self.name}: it was changed since {held.describe()} was received: send the "
                "whole volume; or --force-base, if the change does not matter"
            )

    def begin(self, header: Header) -> None:
        """Get ready for what comes.

        Raises:
            OSError: There is no room.
        """
        work = self.state.work
        if header.resume_offset_bytes is not None and work is not None:
            self._gathering = self._gather(work, "resume")
            return
        if work is not None:
            self._drop(work)
            if work.begun:
                self.state.held, self.state.evidence = None, {}
        self.state.work = work = self._new_work(header)
        if work.kind == "in place":
            self.state.held, self.state.evidence = None, {}
        self._save()
        self._gathering = self._gather(work, "anew")
        if work.kind == "partial":
            self._save()  # it is known now which file it is

    def _save(self) -> None:
        self._sidecar.save(self.state)

    def _drop(self, work: Work) -> None:
        """Take away what was gathered; the sidecar has to be saved after it."""
        gathering = self._gathering or self._gather(work, "drop")
        try:
            gathering.drop(work)
        finally:
            gathering.close()
            self._gathering = None

    def write(self, record: Record | None, offset_bytes: int, content: memoryview) -> None:
        """Take content; the record that it came in, if in one.

        Raises:
            NoSpaceError: A pool is full.
            OSError: It cannot be written.
        """
        assert self._gathering is not None
        self._gathering.write(record, offset_bytes, content)

    def unmap(self, offset_bytes: int, length_bytes: int) -> None:
        """Take notice that a range shows zeros.

        Raises:
            NoSpaceError: A pool is full.
            OSError: It cannot be written.
        """
        assert self._gathering is not None
        self._gathering.unmap(offset_bytes, length_bytes)

    def checkpoint(self, offset_bytes: int) -> None:
        """All below is there and was checked: make it durable, and say so.

        Raises:
            OSError: It cannot be.
        """
        work = self.state.work
        assert self._gathering is not None and work is not None
        if not work.resumable:
            return
        self._gathering.flush(work)
        work.offset_bytes = offset_bytes
        self._save()

    def gathered(self) -> Content | None:
        """Make all durable that came; where it can be read before it takes effect.

        ``None`` where there is no such place: only when it has taken effect.

        Raises:
            OSError: It cannot be made durable.
        """
        work = self.state.work
        assert self._gathering is not None and work is not None
        self._gathering.seal(work)
        return self._gathered(work)

    def seal(self) -> None:
        """All is there and was checked: make it durable, and say so.

        From here on the target gets to the new state, whoever finishes it.

        Raises:
            OSError: It cannot be.
        """
        work = self.state.work
        assert self._gathering is not None and work is not None
        self._gathering.seal(work)
        work.complete = True
        try:
            self._save()
        except BaseException:
            work.complete = False
            raise

    def finish(self) -> None:
        """Make what is complete the content of the target.

        Raises:
            StreamError: What was gathered is damaged.
            OSError: It cannot be written; ``recover`` does it later.
        """
        work = self.state.work
        assert work is not None and work.complete
        if self._gathering is not None:
            self._gathering.close()
            self._gathering = None
        if not work.begun:
            if not work.checked:
                self._check_unchanged(work)
                work.checked = True
                self._save()
            self._prepare(work)
            work.begun = True
            try:
                self._save()
            except BaseException:
                work.begun = False
                raise
        self._finish(work)

    def _check_unchanged(self, work: Work) -> None:
        """Refuse to apply changes to what was changed while they came, or since."""
        if work.base is None or self._forced or not self.was_changed():
            return
        held = self.state.held
        raise WrongBaseError(
            f"{self.name}: somebody has changed it since it held "
            f"{held.describe() if held else 'anything'}: what has come is kept; with --resume "
            "--force-base it is applied all the same, or send the whole volume with --overwrite"
        )

    def _holds(self, identity: Identity) -> None:
        """The target's content is durable, and is this."""
        evidence = self._evidence(identity)
        self.state = State(identity, {} if evidence is None else evidence, None)
        self._save()

    def suspend(self, *, keep: bool) -> Token | None:
        """Give up for now; nothing is ever raised for it.

        Args:
            keep: Keep what was there at the last checkpoint.

        Returns:
            Where the stream may go on; ``None``: it has to come from the beginning.
        """
        work = self.state.work
        if work is None or work.complete:
            return None
        token = work.token if keep else None
        # What cannot be put in order now is when the next stream comes.
        with suppress(Exception):
            if token is not None:
                if self._gathering is not None:
                    self._gathering.cut(work)
                return token
            self._drop(work)
            if work.kind == "in place":
                work.resumable, work.offset_bytes = False, 0
            else:
                self.state.work = None
            self._save()
        return token

    def stands(self) -> str:
        """What it holds, in words."""
        work, held = self.state.work, self.state.held
        if work is not None and work.kind == "in place":
            return f"{self.name} is incomplete, {work.offset_bytes} bytes are known to be there"
        if work is not None and work.begun:
            return f"{self.name} is not complete yet"
        if held is not None:
            return f"{self.name} is complete at {held.describe()}"
        return f"{self.name} is as it was"
