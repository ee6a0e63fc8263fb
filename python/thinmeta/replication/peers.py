"""The side that has the copy: here, or on another host through ``ssh``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile

from thinmeta.errors import RemoteError, StreamError, UsageError
from thinmeta.identity import Identity
from thinmeta.stream import Standing, look, open_target, receive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO, Protocol

    class Peer(Protocol):
        """Where a copy is."""

        name: str
        #: The same for one place however it is spelt.
        place: str

        def state(self) -> Standing:
            """What the copy is; what an earlier round had complete is finished first."""

        def receive(self, stream: BinaryIO, *, overwrite: bool, resume: bool) -> None:
            """Make the copy become what a stream says."""


__all__ = ["LocalPeer", "SshPeer", "open_peer"]

_SSH = "ssh:"
#: A network that is gone is noticed.
_SSH_OPTIONS = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=30"),
    *("-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=4"),
)
#: More than that is no answer to a question.
_MAX_ANSWER_BYTES = 1 << 20
_MAX_COMPLAINT_BYTES = 1 << 16


def _standing(value: object) -> Standing:
    """What somebody else says of a target.

    Raises:
        StreamError: That cannot be.
    """
    if not isinstance(value, dict):
        raise StreamError("the answer is not an object")
    held, token = value.get("held"), value.get("token")
    changed, complete = value.get("changed"), value.get("complete")
    if not (token is None or isinstance(token, str)):
        raise StreamError("a token that cannot be")
    if not isinstance(changed, bool) or not isinstance(complete, bool):
        raise StreamError("the answer cannot be")
    return Standing(None if held is None else Identity.from_json(held), changed, token, complete)


def open_peer(
    target: str, *, journal: str | None = None, remote_command: str = "thinmeta"
) -> LocalPeer | SshPeer:
    """Find out where a target is.

    Args:
        target: A file or block device; or ``ssh:HOST:PATH`` for one on another host, where
            HOST is what the program ``ssh`` takes, ``user@host`` or an alias of its
            configuration.
        journal: The folder, over there, in which changes are gathered.
        remote_command: How thinmeta is called on the other host, e.g. ``sudo thinmeta``.

    Raises:
        UsageError: No host or no path.
    """
    if not target.startswith(_SSH):
        return LocalPeer(target, journal=journal)
    rest = target.removeprefix(_SSH)
    if rest.startswith("["):  # an address with colons
        host, closed, path = rest[1:].partition("]:")
    else:
        host, closed, path = rest.partition(":")
    if not host or not closed or not path or host.startswith("-") or not host.isprintable():
        raise UsageError(f"{target!r} is not ssh:HOST:PATH")
    return SshPeer(host, path, journal=journal, remote_command=remote_command)


class LocalPeer:
    """A file or a block device on this host."""

    def __init__(self, path: str, *, journal: str | None = None) -> None:
        self.name, self._journal = path, journal
        self.place = os.path.realpath(path)

    def state(self) -> Standing:
        """What the copy is; what an earlier round had complete is finished first.

        Raises:
            StreamError: What is known of it cannot be believed.
            DeviceInUseError: Somebody uses it.
            OSError: It cannot be looked at, or finished.
        """
        found = look(open_target(self.name, journal=self._journal))
        if found.complete:
            receive(None, open_target(self.name, journal=self._journal), resume=True)
            found = look(open_target(self.name, journal=self._journal))
        return found

    def receive(self, stream: BinaryIO, *, overwrite: bool, resume: bool) -> None:
        """Make the copy become what a stream says; errors are those of ``receive``."""
        target = open_target(self.name, journal=self._journal)
        receive(stream, target, overwrite=overwrite, resume=resume)


class SshPeer:
    """A target on another host, where thinmeta is installed, too."""

    def __init__(
        self, host: str, path: str, *, journal: str | None = None, remote_command: str = "thinmeta"
    ) -> None:
        self.name = self.place = f"{_SSH}{host}:{path}"
        self._host, self._path, self._journal = host, path, journal
        self._command = remote_command

    def state(self) -> Standing:
        """What the copy is; what an earlier round had complete is finished first.

        Raises:
            RemoteError: The host cannot be reached, or answers something else.
        """
        found = self._ask()
        if found.complete:
            with open(os.devnull, "rb") as nothing:
                self.receive(nothing, overwrite=False, resume=True)
            found = self._ask()
        return found

    def _ask(self) -> Standing:
        answer = self._run(["--print-state", "--json"], subprocess.DEVNULL)
        try:
            return _standing(json.loads(answer))
        except (ValueError, RecursionError, StreamError) as error:
            reason = f"thinmeta over there answers something that is not understood ({error})"
            raise RemoteError(self._host, reason) from error

    def receive(self, stream: BinaryIO, *, overwrite: bool, resume: bool) -> None:
        """Make the copy become what a stream says.

        Raises:
            RemoteError: The host cannot be reached, or says why it could not be done.
        """
        words = ["--json", *(["--overwrite"] if overwrite else []), *(["--resume"] * resume)]
        if self._journal is not None:
            words += ["--journal", self._journal]
        self._run(words, stream)

    def _run(self, words: Sequence[str], stdin: int | BinaryIO) -> bytes:
        remote = f"{self._command} receive {shlex.join(words)} -- {shlex.quote(self._path)}"
        command = ["ssh", "-T", *_SSH_OPTIONS, "--", self._host, remote]
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors
                )
            except OSError as error:
                reason = f"the program ssh cannot be run: {error.strerror}"
                raise RemoteError(self._host, reason) from error
            with process:
                try:
                    assert process.stdout is not None
                    answer = process.stdout.read(_MAX_ANSWER_BYTES)
                    if len(answer) == _MAX_ANSWER_BYTES:
                        process.kill()
                        raise RemoteError(self._host, "it answers far more than was asked")
                    status = process.wait()
                except BaseException:
                    process.kill()
                    raise
            errors.seek(max(errors.seek(0, os.SEEK_END) - _MAX_COMPLAINT_BYTES, 0))
            said = errors.read().decode(errors="replace").strip().splitlines()
        if status:
            reason = said[-1] if said else f"ssh ended with status {status}"
            reason = "".join(each if each.isprintable() else "?" for each in reason)
            raise RemoteError(self._host, reason.removeprefix("thinmeta: "), status)
        return answer
