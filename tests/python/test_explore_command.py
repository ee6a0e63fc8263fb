"""``thinmeta explore`` as far as it needs no screen, and the guide."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from textual.binding import Binding

from command import ThinmetaCommand, fails
from corpus import Corpus
from ondisk import BLOCK
from thinmeta.cli import main


def test_json_needs_no_screen_and_tells_of_damage(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    done = command("explore", "--json", corpus["snap-chain"].meta, "1:0")
    fields = json.loads(done.stdout)
    assert done.returncode == 0 and fields["place"] == {"kind": "mapping", "device": 1, "block": 0}
    assert fields["findings"] == [] and fields["heads"] and fields["rows"]
    meta = tmp_path / "meta.img"
    meta.write_bytes(bytes(BLOCK) + corpus["snap-chain"].meta.read_bytes()[BLOCK:])
    done = command("explore", "--json", meta)
    fields = json.loads(done.stdout)
    assert done.returncode == 1 and fields["bytes"] == "00" * BLOCK
    assert [each["code"] for each in fields["findings"]] == ["superblock-damaged"]


def test_without_a_terminal_or_textual_one_line_says_what_to_do(
    command: ThinmetaCommand,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    meta = corpus["empty"].meta
    fails(command("explore", meta), 2, "needs a terminal")
    fails(command("explore", meta, "nowhere"), 2, "there is no place 'nowhere'")
    monkeypatch.setitem(sys.modules, "textual", None)
    assert main(["explore", str(meta)]) == 2
    said = capfd.readouterr().err
    assert "pip install 'thinmeta[explore]'" in said and said.count("\n") == 1
    assert main(["explore", "--json", str(meta)]) == 0, "JSON needs no textual"
    capfd.readouterr()


def test_the_program_of_the_guide_runs(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "explore.md"
    program = guide.read_text().partition("```python\n")[2].partition("```")[0]
    (tmp_path / "metadata.img").write_bytes(corpus["snap-chain"].meta.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(program, str(guide), "exec"), {})


def test_the_help_is_complete_and_names_every_key(command: ThinmetaCommand) -> None:
    page = command("explore", "--help").stdout
    assert page == command("help", "explore").stdout
    assert max(map(len, page.splitlines())) <= 90
    from thinmeta.explore.view import ExploreApp

    keys = page.partition("\nKeys\n")[2].partition("\nOptions\n")[0].replace(",", " ").split()
    for binding in ExploreApp.BINDINGS:
        assert isinstance(binding, Binding)
        for each in binding.key.split(","):
            assert each in keys, each
    assert "--json" in page and "--metadata-snapshot" in page
