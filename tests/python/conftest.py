"""Fixtures shared by all tests: the corpus, the peers, the command."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import ThinmetaCommand
from corpus import Corpus
from dropins import DropIns
from oracles import ThinTools


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The images of tests/fixtures, each unpacked once, when it is first asked for."""
    return Corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def thin_tools() -> ThinTools:
    """Debian's tools, or a skip (a failure under THINMETA_ORACLES=require)."""
    return ThinTools()


@pytest.fixture(scope="session")
def command() -> ThinmetaCommand:
    return ThinmetaCommand()


@pytest.fixture
def drop_in(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> DropIns:
    return DropIns(capfdbinary, monkeypatch)


@pytest.fixture
def memory_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as ``tmp_path`` is, where flushes cost nothing; gone after the test."""
    memory = "/dev/shm"
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("memory")
        return
    folder = tempfile.mkdtemp(prefix="thinmeta-tests-", dir=memory)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder)
