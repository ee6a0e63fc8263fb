"""The programs of docs/live.md run."""

from pathlib import Path

import pytest

from live_world import make_world
from test_docs import DOCS, run


def test_the_programs_of_the_guide_to_live_pools_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path, monkeypatch)
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    world.dmsetup.add_volume("home", 1)
    assert run(DOCS / "live.md", tmp_path, monkeypatch) == 7
    assert capsys.readouterr().out.startswith("home 1 10485760 False")
    assert world.dmsetup.held_root() is None
