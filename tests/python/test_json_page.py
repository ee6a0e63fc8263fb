"""docs/json.md names every key that a command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from command import ThinmetaCommand
from corpus import Corpus
from json_runs import Runs, keys
from test_docs import DOCS
from thinmeta.cli import COMMANDS

#: Prints no JSON: links, or pages for people.
WITHOUT = {"install-links"}
#: What needs a live pool, and is not run here.
LIVE = {"live", "replicate"}


def sections(page: str) -> dict[str, set[str]]:
    """The names that each section has in code, by what its head says."""
    found: dict[str, set[str]] = {}
    for section in page.split("\n## ")[1:]:
        head, _, text = section.partition("\n")
        names = set(re.findall(r"`([a-z0-9_-]+)`", text))
        for command in head.split(", "):
            found[command] = names
    return found


PAGE = sections((DOCS / "json.md").read_text())


def test_every_command_has_a_section() -> None:
    assert set(PAGE) - {"Everywhere"} == set(COMMANDS) - WITHOUT


@pytest.fixture(scope="module")
def printed(
    command: ThinmetaCommand, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    folder: Path = tmp_path_factory.mktemp("json")
    for name, documents in Runs(command, corpus, folder).all():
        found.setdefault(name, set()).update(key for each in documents for key in keys(each))
    return found


def test_all_commands_are_run(printed: dict[str, set[str]]) -> None:
    assert set(printed) == set(COMMANDS) - WITHOUT - LIVE


def missing(page: dict[str, set[str]], printed: dict[str, set[str]]) -> dict[str, set[str]]:
    """Keys that are printed and not named, by command."""
    left = {name: found - page[name] - page["Everywhere"] for name, found in printed.items()}
    return {name: names for name, names in left.items() if names}


def test_the_page_names_every_key(printed: dict[str, set[str]]) -> None:
    assert missing(PAGE, printed) == {}


def test_a_key_that_the_page_does_not_name_is_missed(printed: dict[str, set[str]]) -> None:
    short = {**PAGE, "shrink": PAGE["shrink"] - {"moved_blocks"}}
    assert missing(short, printed) == {"shrink": {"moved_blocks"}}


def test_sizes_of_data_blocks_have_one_name(printed: dict[str, set[str]]) -> None:
    for name, found in printed.items():
        assert "block_bytes" not in found, name
        # A dump says it as XML does, and a state of a volume as streams do.
        if name != "dump" and "is_snapshot" not in found:
            assert "data_block_size_sectors" not in found, name
