"""Drop-ins, run within this process: a thousand interpreters would take a minute."""

from typing import NamedTuple

import pytest

from thinmeta.cli import main


class Ran(NamedTuple):
    status: int
    out: bytes
    err: str


class DropIns:
    """``thinmeta``, called by the words of its command line."""

    def __init__(
        self, capture: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._capture, self._monkeypatch = capture, monkeypatch

    def __call__(self, line: str, *more: object, compat: str = "") -> Ran:
        self._monkeypatch.setenv("THINMETA_COMPAT", compat)
        self._capture.readouterr()
        status = main([*line.split(), *map(str, more)])
        out, err = self._capture.readouterr()
        return Ran(status, out, err.decode())
