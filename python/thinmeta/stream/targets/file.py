"""Raw files as targets.

A whole volume is gathered in a new file, which takes the old one's place when it is
complete. Changes are gathered in a journal first.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from hashlib import sha256

from thinmeta.errors import AlreadyFormattedError, StreamError, UsageError
from thinmeta.notes import sync_folder
from thinmeta.stream.sidecar import Sidecar, Work
from thinmeta.stream.targets import journal
from thinmeta.stream.targets.base import Target
from thinmeta.stream.targets.content import Content
from thinmeta.stream.targets.media import FileMedium
from thinmeta.stream.targets.work_file import check_unused, lock, open_work_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.identity import Identity
    from thinmeta.stream.format import Header, Record
    from thinmeta.stream.sidecar import State
    from thinmeta.stream.targets.base import Begin, Evidence, Gathering

__all__ = ["FileTarget", "is_journal_of", "journal_path"]


class FileTarget(Target):
    """A raw file that holds a volume, sparse; it need not be there yet.

    Args:
        path: The file. Through a symbolic link the file that it leads to is meant.
        journal: The folder for journals; ``None`` means the file's own.
    """

    def __init__(self, path: str, *, journal: str | None = None) -> None:
        super().__init__(path)
        self._path = os.path.realpath(path)
        self._journal_folder = journal
        self._descriptor = -1
        self._sidecar = Sidecar(f"{self._path}.thinmeta", path)

    def peek(self) -> State:
        """What is known of it, without locking it."""
        return self._sidecar.load()

    def _open(self) -> None:
        while True:
            try:
                found = os.stat(self._path)
            except FileNotFoundError:
                return
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{self.name} is neither a file nor a block device")
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            lock(self._descriptor, self.name)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), os.stat(self._path)):
                    check_unused(self._descriptor, self.name)
                    return
            self._close()  # another one has taken its place

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _evidence(self, held: Identity) -> Evidence | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return {"size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns}

    def _check_room(self, header: Header) -> None:
        import errno
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        size_bytes = header.identity.size_bytes
        if limit != resource.RLIM_INFINITY and size_bytes > limit:
            words = f"{os.strerror(errno.EFBIG)}: a volume of {size_bytes} bytes, and files may "
            words += f"have {limit} (ulimit -f); nothing written"
            raise OSError(errno.EFBIG, words, self.name)

    def _is_ours(self, path: str) -> bool:
        return path == self._partial_path or is_journal_of(self._path, path)

    @property
    def _partial_path(self) -> str:
        return f"{self._path}.thinmeta-partial"

    def _occupied(self) -> str:
        if self._descriptor < 0 or os.fstat(self._descriptor).st_size == 0:
            return ""
        held = self.state.held
        return "there is a file" if held is None else f"it holds {held.describe()}"

    def _new_work(self, header: Header) -> Work:
        whole = header.base is None
        return Work(
            kind="partial" if whole else "journal",
            identity=header.identity,
            base=header.base,
            resumable=header.resumable,
            path=self._partial_path if whole else journal_path(self._path, self._journal_folder),
            mark=journal.new_mark(),
        )

    def _gather(self, work: Work, begin: Begin) -> Gathering:
        if work.kind == "journal":
            descriptor = open_work_file(work.path, self.name, mode=0o600)
            return journal.Journal(descriptor, work, begin)
        mode = 0o666  # less the umask, or as what it takes the place of
        if self._descriptor >= 0:
            mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode) | 0o600
        if begin == "anew":
            work.replaces = self._look()
        return _Partial(open_work_file(work.path, self.name, mode=mode), work, begin)

    def _look(self) -> str:
        """How the target looks now: which file it is, and when it was last changed."""
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return ""
        return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"

    def _prepare(self, work: Work) -> None:
        if work.kind != "journal":
            return
        medium = self._medium()
        times = os.fstat(self._descriptor)
        try:
            journal.reserve(work, medium)
        except OSError as error:
            # Its content is as it was, and so is what says that it was not changed.
            os.utime(self._descriptor, ns=(times.st_atime_ns, times.st_mtime_ns))
            words = f"{error.strerror}: there is no room for what has changed"
            raise OSError(error.errno, words, self.name) from error

    def _gathered(self, work: Work) -> Content | None:
        return Content(self.name, work.path) if work.kind == "partial" else None

    def content(self) -> Content:
        """Where what it holds can be read."""
        return Content(self.name, self._path)

    def _medium(self) -> FileMedium:
        if self._descriptor < 0:
            raise StreamError(f"{self.name} is gone: send the whole volume")
        return FileMedium(self._descriptor, self.name)

    def _finish(self, work: Work) -> None:
        if work.kind == "journal":
            journal.apply(work, self._medium())
            self._holds(work.identity)
        else:
            self._replace(work)
            self._holds(work.identity)
            return
        with suppress(FileNotFoundError):
            os.unlink(work.path)

    def _replace(self, work: Work) -> None:
        """Let the new file take the target's place, unless it has."""
        for path in (work.path, self._path):
            with suppress(FileNotFoundError):
                if os.stat(path, follow_symlinks=False).st_ino != work.inode:
                    continue
                if path == work.path:
                    self._take_place(work)
                sync_folder(self._path)
                return
        raise StreamError(f"{work.path}, with all that was received, is gone: send it again")

    def _take_place(self, work: Work) -> None:
        with suppress(FileNotFoundError):
            if os.stat(self._path, follow_symlinks=False).st_ino == work.inode:
                os.unlink(work.path)  # it has, and only its old name was left
                return
        if self._look() != work.replaces and not self._forced:
            raise AlreadyFormattedError(
                self.name, "somebody has made or changed it while the stream came"
            )
        self._keep_owner(work.path)
        if work.replaces:
            os.replace(work.path, self._path)
            return
        # Nothing that was made at this very moment is overwritten.
        os.link(work.path, self._path)
        os.unlink(work.path)

    def _keep_owner(self, path: str) -> None:
        """Who may do what with the old file may do it with the new one."""
        if self._descriptor < 0:
            return
        found = os.fstat(self._descriptor)
        with suppress(PermissionError):
            os.chown(path, found.st_uid, found.st_gid)
        os.chmod(path, stat.S_IMODE(found.st_mode))


class _Partial:
    """A new file that will take the target's place; what does not come is a hole."""

    def __init__(self, descriptor: int, work: Work, begin: Begin) -> None:
        self._descriptor = descriptor
        self._medium = FileMedium(descriptor, work.path)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if begin == "anew":
                if size_bytes:
                    raise UsageError(f"{work.path} is in the way: remove it")
                work.inode = os.fstat(descriptor).st_ino
            elif begin == "resume":
                if not self._is_ours(work):
                    raise StreamError(
                        f"{work.path}, with what was received, is gone: send the whole volume "
                        "from the beginning"
                    )
                os.ftruncate(descriptor, work.length_bytes)
        except BaseException:
            os.close(descriptor)
            raise

    def _is_ours(self, work: Work) -> bool:
        found = os.fstat(self._descriptor)
        return found.st_ino == work.inode and found.st_size >= work.length_bytes

    def write(self, record: Record | None, offset_bytes: int, content: memoryview) -> None:
        self._medium.write(offset_bytes, content)

    def unmap(self, offset_bytes: int, length_bytes: int) -> None:
        """Nothing has been written there."""

    def flush(self, work: Work) -> None:
        self._medium.sync()
        work.length_bytes = os.fstat(self._descriptor).st_size

    def seal(self, work: Work) -> None:
        self._medium.resize(work.identity.size_bytes)
        self.flush(work)

    def cut(self, work: Work) -> None:
        os.ftruncate(self._descriptor, work.length_bytes)

    def drop(self, work: Work) -> None:
        found = os.fstat(self._descriptor)
        # One whose number was not written down yet has nothing in it.
        if found.st_ino == work.inode or not found.st_size:
            with suppress(FileNotFoundError):
                os.unlink(work.path)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def journal_path(path: str, folder: str | None) -> str:
    """Where the journal of a target is.

    Args:
        path: The target.
        folder: Where it is wanted; ``None`` means beside it.
    """
    if folder is None:
        return f"{path}.thinmeta-journal"
    name = os.path.basename(path)[:100]
    key = sha256(os.fsencode(path)).hexdigest()[:12]
    return os.path.join(os.path.abspath(folder), f"{name}-{key}.thinmeta-journal")


def is_journal_of(path: str, journal: str) -> bool:
    """Whether a file is named as a journal of a target is, in whatever folder."""
    here, elsewhere = journal_path(path, None), journal_path(path, os.path.dirname(journal))
    return os.path.isabs(journal) and journal in (here, elsewhere)
