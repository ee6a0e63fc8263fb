"""Keys of encrypted repositories.

A key is 32 random bytes, kept outside the repository as one line of 64 hexadecimal digits, in
a file or wherever a command gets it from. A passphrase is none: what people remember can be
guessed by whoever has a copy of the repository and time.
"""

from __future__ import annotations

import logging
import os
import re
import stat

from thinmeta.errors import RepositoryKeyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    Path = str | os.PathLike[str]

__all__ = ["KEY_BYTES", "key_from_command", "key_from_file", "new_key", "write_key_file"]

KEY_BYTES: Final = 32
#: More than a line with a key is no key.
MOST_BYTES = 4096

_LINE = re.compile(rb"\s*([0-9A-Fa-f]{64})\s*")

log = logging.getLogger("thinmeta.backup")


def new_key() -> bytes:
    """A new random key."""
    return os.urandom(KEY_BYTES)


def write_key_file(path: Path, key: bytes) -> None:
    """Write a key to a new file that its owner alone may read, durably.

    Raises:
        FileExistsError: There is something of that name; it is left as it is.
        OSError: The file cannot be written.
    """
    name = os.fspath(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(key.hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(os.path.dirname(os.path.abspath(name)), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        os.unlink(name)
        raise


def key_from_file(path: Path) -> bytes:
    """The key in a file.

    Raises:
        RepositoryKeyError: The file is not there, cannot be read, or has something else.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MOST_BYTES)
    except OSError as error:
        raise RepositoryKeyError(
            _shown(name), f"the key cannot be read: {error.strerror}"
        ) from error
    if stat.S_ISREG(found.st_mode) and found.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s: others can read this key: chmod 600 %s", name, name)
    return _key_of(name, data)


def key_from_command(command: str) -> bytes:
    """The key that a program prints.

    Args:
        command: Program and arguments, as a shell splits them; no shell runs it. It may ask
            on the terminal.

    Raises:
        RepositoryKeyError: It cannot be run, fails, or prints something else.
    """
    import shlex
    import subprocess

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise RepositoryKeyError("the key's command", f"it is none: {error}") from error
    if not words:
        raise RepositoryKeyError(_shown(command), "the command for the key is empty")
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            data = process.stdout.read(MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RepositoryKeyError(
            _shown(words[0]), f"the key's command cannot be run: {reason}"
        ) from error
    if process.returncode != 0:
        how = f"status {process.returncode}"
        if process.returncode < 0:
            how = f"signal {-process.returncode}"
        raise RepositoryKeyError(_shown(words[0]), f"the key's command ended with {how}")
    return _key_of(words[0], data)


def _shown(name: str) -> str:
    """What messages call a file or a command: never a key that was given in its place."""
    has_key = _LINE.search(os.fsencode(name)) is not None
    return "(a key itself, in the place of a file or a command)" if has_key else name


def _key_of(name: str, data: bytes) -> bytes:
    match = _LINE.fullmatch(data)
    if match is None:
        raise RepositoryKeyError(
            _shown(name),
            "no key: that is a line of 64 hexadecimal digits; 'thinmeta backup key FILE' makes one",
        )
    return bytes.fromhex(match[1].decode())
