"""Running the programs of others, and work that an interrupt must not cut in two."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from contextlib import suppress
from typing import BinaryIO, NamedTuple, TypeVar

from thinmeta.errors import LivePoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Guard", "Ran", "finish", "run"]

Result = TypeVar("Result")

#: A question that is not answered by then will not be answered.
QUESTION_SECONDS = 60.0
#: How long an interrupted call waits for the program before it is told to end.
GRACE_SECONDS = 10.0
#: How often the main thread looks for signals.
LOOK_SECONDS = 0.1
#: More than that is not what any of these programs prints.
MAX_OUTPUT_BYTES = 64 << 20

#: What the C library of Linux hosts calls errors in the locale C; musl has words of its own.
_NUMBERS = {
    "Device or resource busy": errno.EBUSY,
    "Resource busy": errno.EBUSY,
    "File exists": errno.EEXIST,
    "Input/output error": errno.EIO,
    "I/O error": errno.EIO,
    "Invalid argument": errno.EINVAL,
    "No data available": errno.ENODATA,
    "No space left on device": errno.ENOSPC,
    "No such device or address": errno.ENXIO,
    "Device does not exist": errno.ENXIO,
    "Operation not permitted": errno.EPERM,
    "Permission denied": errno.EACCES,
    "Operation not supported": errno.EOPNOTSUPP,
    "Not supported": errno.EOPNOTSUPP,
    "Read-only file system": errno.EROFS,
    "No such device": errno.ENODEV,
}

#: What says nothing that the line before it has not said.
_NOISE = (
    "Command failed.",
    "Failure to communicate with kernel device-mapper driver.",
    "Check that device-mapper is available in the kernel.",
    "Incompatible libdevmapper ",
)

#: Programs that run now, by the thread that waits for them.
_running: dict[int, subprocess.Popen[bytes]] = {}


class Ran(NamedTuple):
    """How a program ended.

    Attributes:
        status: Its exit status; negative for the signal that ended it.
        out: What it printed.
        reason: What it had to complain about, in one line.
        number: The errno that the complaint speaks of, or 0.
    """

    status: int
    out: str
    reason: str
    number: int


def _find(program: str) -> str | None:
    """Where a program is; the folders of administrators may not be in a user's PATH."""
    import shutil

    path = os.environ.get("PATH", os.defpath)
    return shutil.which(program, path=f"{path}:/usr/sbin:/sbin")


def _where(blame: str, program: str) -> str:
    where = _find(program)
    if where is None:
        reason = f"the program {program} is not installed, or not in PATH"
        raise LivePoolError(blame, reason, errno.ENOENT)
    return where


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "LANGUAGE"}
    return {**environment, "LC_ALL": "C"}


def run(
    blame: str,
    program: str,
    arguments: Iterable[str],
    *,
    seconds: float | None = None,
    keep: Sequence[int] = (),
    proof: int | None = None,
) -> Ran:
    """Run a program to its end.

    It has the locale C, no standard input, and a session of its own, so that Ctrl-C on a
    terminal does not reach it: what it has begun it finishes.

    Args:
        blame: What errors are about: the pool or the volume.
        program: Its name; looked for in ``PATH``, ``/usr/sbin`` and ``/sbin``.
        arguments: What it is given, as it is.
        seconds: End it after that long; ``None`` waits for as long as it takes.
        keep: Descriptors that it inherits: locks that last until it has ended, though this
            process may be killed meanwhile.
        proof: A descriptor that gets a line when the program was successful, whoever is
            still there to see it.

    Raises:
        LivePoolError: It is not installed, cannot be started or does not end.
    """
    words = [_where(blame, program), *arguments]
    if proof is not None:
        # The words are parameters of the shell: it does not read what is in them.
        words = ["/bin/sh", "-c", '"$@" >/dev/null && echo done', "sh", *words]
    # Files in memory: nobody has to read them while the program runs.
    with (
        os.fdopen(os.memfd_create("out"), "rb") as out,
        os.fdopen(os.memfd_create("err"), "rb") as err,
    ):
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out.fileno() if proof is None else proof,
                stderr=err.fileno(),
                env=_environment(),
                pass_fds=keep,
                start_new_session=True,
            )
        except OSError as error:
            reason = f"{program} cannot be run: {error.strerror}"
            raise LivePoolError(blame, reason, error.errno or errno.EIO) from None
        except ValueError:  # a NUL in a word
            raise LivePoolError(blame, "no such name can be", errno.EINVAL) from None
        status = _wait(process, blame, program, seconds)
        printed, complaint = _read(out), _read(err)
    reason = _one_line(complaint)
    number = next((number for words_, number in _NUMBERS.items() if words_ in reason), 0)
    if status and not reason:
        reason = f"ended with status {status}" if status > 0 else f"ended by signal {-status}"
    return Ran(status, printed, f"{program}: {reason}" if reason else "", number)


def _wait(process: subprocess.Popen[bytes], blame: str, program: str, seconds: float | None) -> int:
    thread = threading.get_ident()
    _running[thread] = process
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        reason = f"{program} did not answer within {seconds:g} seconds and was ended"
        raise LivePoolError(blame, reason, errno.ETIMEDOUT) from None
    except BaseException:
        _end(process)
        raise
    finally:
        del _running[thread]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program; one that the kernel does not let go is left behind."""
    _signal(process, signal.SIGKILL)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.returncode = -9  # nobody waits for it any more


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a program and what it has started: it leads a group of processes."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _read(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(MAX_OUTPUT_BYTES).decode("utf-8", "surrogateescape")


def _one_line(complaint: str) -> str:
    """A program's complaint without what says nothing."""
    lines = [" ".join(line.split()) for line in complaint.splitlines()]
    lines = [line.removeprefix("device-mapper: ") for line in lines]
    said = [line for line in lines if line and not line.startswith(_NOISE)]
    text = "; ".join(said)
    return text if len(text) <= 500 else text[:500] + "…"


class Guard:
    """A program that is run if this process ends before it has dismissed the guard.

    It waits on a pipe that only we, and programs that inherit :attr:`descriptor`, hold open.
    """

    def __init__(self, blame: str, program: str, arguments: Iterable[str]) -> None:
        words = [_where(blame, program), *arguments]
        read, self.descriptor = os.pipe()
        try:
            self._process = subprocess.Popen(
                # The words are parameters of the shell: it does not read what is in them.
                ["/bin/sh", "-c", 'read -r _ || exec "$@"', "sh", *words],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self.descriptor)
            reason = f"/bin/sh cannot be run: {error.strerror}"
            raise LivePoolError(blame, reason, error.errno or errno.EIO) from None
        finally:
            os.close(read)

    def dismiss(self) -> None:
        """It is not needed any more."""
        with suppress(BrokenPipeError):  # somebody has ended it
            os.write(self.descriptor, b"\n")
        os.close(self.descriptor)
        self._process.wait()


def finish(work: Callable[[], Result]) -> Result:
    """Do work to its end, whatever a handler of signals raises meanwhile.

    Python raises what its handlers raise, ``KeyboardInterrupt`` for one, in the main
    thread only. So the work is done in another one, and the exception goes on when the
    work is done. When it takes long, programs that it waits for are told to end.

    Raises:
        BaseException: What the work raised; or what interrupted it, after it.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[Result] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def worker() -> None:
        try:
            results.append(work())
        except BaseException as failure:
            failures.append(failure)
        finally:
            done.set()

    thread = threading.Thread(target=worker, name="thinmeta", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is about to end: there are no new threads
        return work()
    interruption: BaseException | None = None
    while not done.is_set():
        try:
            # A signal may come to a thread of somebody else's, which does not wake this one:
            # so it looks by itself.
            if interruption is None:
                done.wait(LOOK_SECONDS)
            elif not done.wait(GRACE_SECONDS):
                process = _running.get(thread.ident or 0)
                if process is not None:
                    _signal(process, signal.SIGTERM)
        except BaseException as error:
            interruption = interruption or error
    if interruption is not None:
        if failures:
            interruption.add_note(f"what was being done failed, too: {failures[0]}")
        raise interruption
    if failures:
        failure = failures.pop()
        try:
            raise failure
        finally:
            del failure  # it refers to this frame, too
    return results[0]
