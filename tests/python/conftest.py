"""Fixtures shared by all tests: the corpus, the peers, the command."""

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
