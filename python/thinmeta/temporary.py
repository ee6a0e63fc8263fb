"""Temporary files, and what is said when there is no room for them."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

__all__ = ["work_file"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def work_file() -> Iterator[tuple[IO[bytes], str]]:
    """A file without a name in ``$TMPDIR``, and what errors about it are to call it.

    Where it has no room, the error says what to do: nothing is wrong with the output.

    Raises:
        OSError: It cannot be made.
    """
    import tempfile

    folder = tempfile.gettempdir()
    name = os.path.join(folder, "(temporary file)")
    try:
        with tempfile.TemporaryFile(prefix="thinmeta-", dir=folder) as file:
            yield file, name
    except OSError as error:
        if error.errno in _FULL and str(error.filename or "").startswith(name):
            error.add_note(f"set TMPDIR to a folder with more room than {folder} has")
        raise
