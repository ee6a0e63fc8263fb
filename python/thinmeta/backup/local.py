"""Objects as files of a folder.

An object is written to a temporary name, flushed to the disk, and only then takes its own:
whoever finds a name finds all of the object, whenever the power went.
"""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from threading import Lock

from thinmeta.errors import StreamError, UnreadableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Buffer

__all__ = ["LocalStore", "reading_object"]

_TEMPORARY = ".tmp"
#: Volumes are nobody else's business, whatever the umask.
_FILE_MODE = 0o600
#: Threads that wait for the disk.
SETTLING = 4


#: What a disk or a filesystem says of one object, and not of all: it is damaged.
_OF_ONE = frozenset(
    (
        errno.EIO,
        errno.ELOOP,
        errno.ENXIO,
        errno.EISDIR,
        errno.ENODATA,
        errno.EUCLEAN,
        errno.EILSEQ,
        errno.EBADMSG,
    )
)


@contextmanager
def reading_object() -> Iterator[None]:
    """Take an object that cannot be read for a damaged one.

    Raises:
        UnreadableError: The disk, or the filesystem, cannot give it.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _OF_ONE:
            raise UnreadableError(f"it cannot be read: {error.strerror}") from error
        raise


class LocalStore:
    """The objects below a folder.

    Args:
        folder: Its path; it is made when the first object is put.
    """

    def __init__(self, folder: str) -> None:
        self.name = folder
        self._folder = os.path.abspath(folder)
        self._lock = Lock()
        self._settling: ThreadPoolExecutor | None = None
        self._settled: list[Future[str]] = []
        self._failure: OSError | None = None

    def __repr__(self) -> str:
        return f"LocalStore({self.name!r})"

    def put(self, name: str, data: Buffer, *, later: bool = False) -> None:
        """Store an object; see :class:`thinmeta.backup.objects.ObjectStore`."""
        final = self._path(name)
        temporary, descriptor = self._write(final, data)
        if not later:
            _sync_folder(_settle(temporary, descriptor, final))
            return
        # Whoever waits for the disk needs no memory for the data, and no turn of the caller's.
        with self._lock:
            if self._settling is None:
                self._settling = ThreadPoolExecutor(SETTLING, "thinmeta-settle")
            self._settled.append(self._settling.submit(_settle, temporary, descriptor, final))

    def put_new(self, name: str, data: Buffer) -> bool:
        """Store an object if there is none of that name; whether it was."""
        final = self._path(name)
        temporary, descriptor = self._write(final, data)
        try:
            _sync(descriptor, final)
            _link_new(temporary, final)
        except FileExistsError:
            return False
        finally:
            _remove(temporary)
        _sync_folder(os.path.dirname(final))
        return True

    def flush(self) -> None:
        """See to it that all is there that was put with ``later``, and is durable.

        What has failed once is said each time: it is not there afterwards, either.
        """
        with self._lock:
            settling, self._settling = self._settling, None
            settled, self._settled = self._settled, []
        if settling is not None:
            settling.shutdown()
        try:
            if self._failure is not None:
                raise self._failure
            for folder in sorted({each.result() for each in settled}):
                _sync_folder(folder)
        except OSError as error:
            self._failure = error
            raise

    def put_file(self, name: str, path: str) -> None:
        """Store what a file holds."""
        import shutil

        final = self._path(name)
        temporary, descriptor = self._write(final, b"")
        try:
            with open(path, "rb") as source, open(temporary, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        except BaseException:
            os.close(descriptor)
            _remove(temporary)
            raise
        _sync_folder(_settle(temporary, descriptor, final))

    def _open(self, name: str) -> FileIO:
        """Open an object; a pipe in its place would keep us waiting."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        file = FileIO(os.open(self._path(name), flags), "r")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise StreamError(f"{self._path(name)} is no file")
        return file

    def get(self, name: str, limit_bytes: int) -> bytes:
        """The bytes of an object."""
        with reading_object(), self._open(name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit_bytes:
                raise StreamError(f"it has {size} bytes, which cannot be")
            return file.read(size)

    def fetch(self, name: str, path: str) -> None:
        """Write the bytes of an object to a new file."""
        import shutil

        with reading_object(), self._open(name) as file, open(path, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)

    def get_range(self, name: str, begin: int, end: int) -> Buffer:
        """Some bytes of an object; fewer where it ends before."""
        with reading_object(), self._open(name) as file:
            # Nobody is promised that the object is so long.
            end = min(end, os.fstat(file.fileno()).st_size)
            data = bytearray(max(end - begin, 0))
            done = 0
            with memoryview(data) as view:
                while done < len(data):
                    count = os.preadv(file.fileno(), [view[done:]], begin + done)
                    if count == 0:
                        break
                    done += count
            del data[done:]
            return data

    def size(self, name: str) -> int | None:
        """Bytes of an object; ``None`` if it is not there."""
        try:
            found = os.stat(self._path(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _OF_ONE:
                return 0  # it is there; whoever reads it hears more
            raise
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names and bytes of the objects below ``prefix``."""
        for path, entry in self._files(self._path(prefix)):
            name = os.path.relpath(path, self._folder)
            try:
                size = entry.stat().st_size
            except FileNotFoundError:
                if not entry.is_symlink():
                    continue  # deleted meanwhile
                size = 0
            except OSError as error:
                if error.errno not in _OF_ONE:
                    raise
                size = 0  # it is there; whoever reads it hears more
            yield name, size

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, as far as they are there."""
        folders = set()
        for name in names:
            path = self._path(name)
            with suppress(FileNotFoundError):
                os.unlink(path)
                folders.add(os.path.dirname(path))
        for folder in folders:
            _sync_folder(folder)

    def path(self, name: str) -> str | None:
        """The file that is the object."""
        return self._path(name)

    def clean(self, prefix: str) -> int:
        """Remove temporary files of writers that were killed."""
        found = [path for path, _ in self._files(self._path(prefix), temporary=True)]
        for path in found:
            _remove(path)
        return len(found)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _files(
        self, folder: str, *, temporary: bool = False
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(entry.path, temporary=temporary)
            elif entry.name.startswith(_TEMPORARY) == temporary:
                yield entry.path, entry

    def _write(self, final: str, data: Buffer) -> tuple[str, int]:
        """Write a temporary file, and return its path and its descriptor."""
        folder = os.path.dirname(final)
        temporary = os.path.join(folder, f"{_TEMPORARY}-{os.getpid()}-{os.urandom(6).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, _FILE_MODE)
        except FileNotFoundError:
            _make_folder(folder)
            descriptor = os.open(temporary, flags, _FILE_MODE)
        try:
            with memoryview(data) as view, view.cast("B") as rest:
                done = 0
                while done < rest.nbytes:
                    done += os.write(descriptor, rest[done:])
        except BaseException as error:
            os.close(descriptor)
            _remove(temporary)
            if isinstance(error, OSError):
                error.filename = final
            raise
        return temporary, descriptor


def _settle(temporary: str, descriptor: int, final: str) -> str:
    """Make a file durable, and give it its name; the folder, which is to be flushed."""
    try:
        _sync(descriptor, final)
        os.replace(temporary, final)
    except BaseException:
        _remove(temporary)
        raise
    return os.path.dirname(final)


def _sync(descriptor: int, name: str) -> None:
    """Flush a file to the disk and close it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = name
        raise
    finally:
        os.close(descriptor)


def _link_new(temporary: str, final: str) -> None:
    """Give a file a second name that nobody has yet.

    Raises:
        FileExistsError: Somebody has it.
    """
    try:
        os.link(temporary, final)
        return
    except FileExistsError:
        raise
    except OSError as error:
        # Filesystems without hard links: exFAT, some of FUSE.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
    # Claim the name, so that two can never both believe to have it, and fill it by a rename.
    os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    os.replace(temporary, final)


def _make_folder(folder: str) -> None:
    """Make a folder and those above it, each durable in the one above."""
    made = []
    above = folder
    while not os.path.isdir(above):
        made.append(above)
        above = os.path.dirname(above)
    for each in reversed(made):
        with suppress(FileExistsError):  # somebody else has just made it
            os.mkdir(each, 0o700)
    for each in made:
        _sync_folder(os.path.dirname(each))


def _sync_folder(folder: str) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no such thing there
            raise
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
