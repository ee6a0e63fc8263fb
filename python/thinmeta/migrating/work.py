"""A migration from beginning to end."""

from __future__ import annotations

from thinmeta.errors import StreamError, VerificationError
from thinmeta.migrating.ahead import thread_count
from thinmeta.migrating.copying import CHECKPOINT_BYTES, How, copy
from thinmeta.migrating.pieces import to_read
from thinmeta.migrating.report import MigrationReport
from thinmeta.migrating.verifying import Verified, verify
from thinmeta.stream.format import Header
from thinmeta.stream.log import log
from thinmeta.stream.planning import plan
from thinmeta.stream.token import Token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.bookmark import Bookmark
    from thinmeta.identity import Identity
    from thinmeta.migrating.copying import Copied
    from thinmeta.migrating.report import Verify
    from thinmeta.source import Changes, Generation
    from thinmeta.stream.targets import Target
    from thinmeta.stream.targets.content import Content

__all__ = ["BUFFER_BYTES", "migrate"]

#: For content that was read and not written yet.
BUFFER_BYTES = 16 << 20


def migrate(
    generation: Generation,
    target: Target,
    *,
    base: int | Bookmark | None = None,
    overwrite: bool = False,
    force_base: bool = False,
    verify: Verify = "copied",
    threads: int | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    checkpoint_bytes: int = CHECKPOINT_BYTES,
    progress: Callable[[int, int], object] | None = None,
) -> MigrationReport:
    """Make a destination hold a state of a volume, and prove that it does.

    Called again after whatever has ended it early, it goes on where that was: what is there
    already, and was of a snapshot, is not copied again, but compared with what the source
    reads now. Volumes of pools and files are what they were until the copy is complete and
    proven; devices, which have no room for two states, are incomplete meanwhile.

    Args:
        generation: The state; it has to stand still meanwhile.
        target: Where it goes.
        base: What the target holds: nothing; a snapshot of the same pool by its id; a
            bookmark of one. Only what has changed since is copied, and what is not mapped any
            more is unmapped or made zero.
        overwrite: A whole volume may take the place of what is there.
        force_base: Believe that the target holds the base.
        verify: How much of it is read back and compared.
        threads: How many read and hash; ``None`` means the cores, at most 8.
        buffer_bytes: How much content is in memory at most, about.
        checkpoint_bytes: How much is copied again at most after it was interrupted.
        progress: Called now and then as ``progress(done, total)``, in bytes of content.

    Raises:
        WrongBaseError: The base cannot be one, or the target does not hold it.
        AlreadyFormattedError: Something is there, and ``overwrite`` was not set.
        VerificationError: What was copied does not read as the source does. A device does
            not count as holding anything then; a file or a volume of a pool is what it was.
        DeviceInUseError: Somebody uses the target.
        ReadOnlyError: It is a device that cannot be written to.
        NoSpaceError: The target's pool is full.
        DamagedBlockError: A block of the metadata failed its check.
        OSError: Something cannot be read or written, or is too small.
    """
    count = thread_count(threads)
    identity = generation.identity
    changes = to_read(plan(generation, base), external_origin=identity.external_origin)
    with target:
        target.recover(force=force_base)
        work = _Migration(generation, target, changes, verify)
        work.how = How.of(count, buffer_bytes, checkpoint_bytes, work.shower(progress))
        if target.holds(identity) and (found := work.see(overwrite=overwrite)) is not None:
            return work.report(None, found)
        return work.run(overwrite=overwrite, force_base=force_base)


class _Migration:
    how: How

    def __init__(
        self, generation: Generation, target: Target, changes: Changes, scope: Verify
    ) -> None:
        self._generation, self._target, self._changes = generation, target, changes
        self._scope = scope
        self._identity: Identity = generation.identity
        # Only of a snapshot that shows nothing else, all is the same the next time.
        self._resumable = self._identity.is_snapshot and not self._identity.external_origin
        self._resumed_at: int | None = None

    def shower(self, progress: Callable[[int, int], object] | None) -> Callable[[int], object]:
        """What counts how much was done, and tells it."""
        passes = 1 if self._scope == "nothing" else 2
        total, done = self._changes.data_bytes * passes, 0

        def show(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(min(done, total), total)

        return show

    def see(self, *, overwrite: bool) -> Verified | None:
        """What is said to be there already; ``None``: it has to be copied."""
        if self._scope == "nothing":
            return Verified() if self._resumable else None
        try:
            return verify(self._generation, self._target.content(), self._whole(), self.how)
        except VerificationError as error:
            if overwrite and self._changes.base is None:
                return None
            self._target.disown()
            error.add_note(
                f"it was said to hold {self._identity.describe()} already: somebody has changed "
                "it since; copy the whole volume, over what is there"
            )
            raise

    def _whole(self) -> Changes:
        """What is compared."""
        if self._changes.base is None or self._scope == "copied":
            return self._changes
        everything = self._generation.changes(None)
        return to_read(everything, external_origin=self._identity.external_origin)

    def run(self, *, overwrite: bool, force_base: bool) -> MigrationReport:
        """Copy, and prove it."""
        target, header = self._target, self._header(self._begin())
        target.check(header, overwrite=overwrite, resume=True, force_base=force_base)
        try:
            try:
                target.begin(header)
            except StreamError:
                if header.resume_offset_bytes is None:
                    raise
                # What an earlier run had gathered is gone: all of it is copied once more.
                header = self._header(None)
                target.check(header, overwrite=overwrite, resume=True, force_base=force_base)
                target.begin(header)
            self._resumed_at = header.resume_offset_bytes
            log("migrating %s to %s", self._identity.describe(), target.name)
            copied = copy(self._generation, target, self._changes, header.begin_bytes, self.how)
            found = self._prove_gathered(copied)
            target.seal()
        except BaseException as error:
            unproven = isinstance(error, VerificationError)
            token = target.suspend(keep=not unproven)
            goes_on = "" if token is None else "; the same once more goes on from where it was"
            error.add_note(f"{target.stands()}{goes_on}")
            raise
        target.finish()
        if found is None:
            found = self._prove_finished(copied)
        log("%s holds %s", target.name, self._identity.describe())
        return self.report(copied, found)

    def _begin(self) -> int | None:
        """Where an earlier run was interrupted that copied this very state."""
        work, base = self._target.state.work, self._changes.base
        if work is None or work.token is None or not self._resumable:
            return None
        here = Token.of(self._identity, base, work.offset_bytes)
        same_pool = work.identity.pool_uuid == self._identity.pool_uuid
        return work.offset_bytes if here == work.token and same_pool else None

    def _header(self, begin: int | None) -> Header:
        from thinmeta._core import __version__

        return Header(
            identity=self._identity,
            base=self._changes.base,
            resume_offset_bytes=begin,
            resumable=self._resumable,
            data_bytes=self._changes.data_bytes,
            zero_bytes=self._changes.zero_bytes,
            program=f"thinmeta {__version__}",
        )

    def _prove_gathered(self, copied: Copied) -> Verified | None:
        """Prove what comes before it takes effect; ``None``: there is no place to see it yet."""
        if self._scope == "nothing":
            return Verified()
        content = self._target.gathered()
        return None if content is None else self._prove(copied, content)

    def _prove_finished(self, copied: Copied) -> Verified:
        try:
            return self._prove(copied, self._target.content())
        except VerificationError as error:
            self._target.disown()
            error.add_note(f"{self._target.name} counts as holding nothing: copy the whole volume")
            raise

    def _prove(self, copied: Copied, content: Content) -> Verified:
        if self._scope == "all" and self._changes.base is not None:
            return verify(self._generation, content, self._whole(), self.how)
        return verify(
            self._generation,
            content,
            self._changes,
            self.how,
            begin_bytes=self._resumed_at or 0,
            digest=copied.digest,
        )

    def report(self, copied: Copied | None, found: Verified) -> MigrationReport:
        """What was done."""
        return MigrationReport(
            target=self._target.name,
            identity=self._identity,
            base=self._changes.base,
            copied_bytes=0 if copied is None else copied.copied_bytes,
            zeroed_bytes=0 if copied is None else copied.zeroed_bytes,
            verified_bytes=found.verified_bytes,
            verified_zero_bytes=found.zero_bytes,
            past_cache=found.past_cache,
            resumed_at_bytes=self._resumed_at,
            was_there=copied is None,
        )
