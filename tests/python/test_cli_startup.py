"""Commands that do little start fast: they import little."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corpus import Corpus

HEAVY = {
    "argparse",
    "asyncio",
    "collections",
    "concurrent",
    "dataclasses",
    "difflib",
    "enum",
    "importlib.metadata",
    "inspect",
    "json",
    "logging",
    "numpy",
    "pathlib",
    "re",
    "rich",
    "shutil",
    "signal",
    "subprocess",
    "tempfile",
    "textwrap",
    "threading",
    "typing",
}


def imported(*arguments: str) -> set[str]:
    """What the command imports beyond what the interpreter does anyway."""
    code = "import sys; from thinmeta.cli import main; sys.exit(main(sys.argv[1:]))"
    return _imports("-c", code, *arguments) - _imports("-c", "pass")


def _imports(*arguments: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


def heavy(modules: set[str]) -> set[str]:
    return {name for name in modules if name in HEAVY or name.partition(".")[0] in HEAVY}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["check", "--help"],
        ["check", "--super-block-only", "META"],
        ["check", "-q", "META"],
        ["check", "META"],
        ["thin_check", "-V"],
    ],
    ids=" ".join,
)
def test_the_start_imports_nothing_heavy(corpus: Corpus, arguments: list[str]) -> None:
    meta = str(corpus["sequential"].meta)
    modules = imported(*(meta if word == "META" else word for word in arguments))
    assert "thinmeta.cli" in modules
    assert not heavy(modules)


def test_a_listing_needs_no_dataclasses_and_no_parser_library(corpus: Corpus) -> None:
    meta = str(corpus["sequential"].meta)
    assert heavy(imported("ls", meta)) <= {"collections", "collections.abc"}
    assert heavy(imported("delta", meta, "0", "0")) <= {"collections", "collections.abc"}
    check, delta = ["thin_check", "-q", "--clear-needs-check-flag"], ["thin_delta"]
    for words in (["thin_ls"], ["thin_dump"], check, [*delta, "--thin1", "0", "--thin2", "0"]):
        assert heavy(imported(*words, meta)) <= {"collections", "collections.abc"}


def test_packing_and_unpacking_need_less_than_that(corpus: Corpus, tmp_path: Path) -> None:
    meta, pack, out = str(corpus["sequential"].meta), str(tmp_path / "pack"), str(tmp_path / "out")
    assert not heavy(imported("thin_metadata_pack", "-i", meta, "-o", pack))
    assert not heavy(imported("thin_metadata_unpack", "-i", pack, "-o", out))
    unpack = heavy(imported("unpack", pack, "-o", out, "--force"))
    assert not {name.partition(".")[0] for name in unpack} & {"dataclasses", "inspect", "typing"}


def test_a_change_needs_no_more_than_a_listing(corpus: Corpus, tmp_path: Path) -> None:
    meta = str(shutil.copyfile(corpus["sequential"].meta, tmp_path / "meta.img"))
    for words in (["edit", "--help"], ["snapshot", meta, "0", "7"], ["delete", "-n", meta, "0"]):
        assert heavy(imported(*words)) <= {"collections", "collections.abc"}


def test_import_thinmeta_imports_nothing_else() -> None:
    new = _imports("-c", "import thinmeta") - _imports("-c", "pass")
    assert new == {"thinmeta"}


def test_every_public_name_is_there() -> None:
    import thinmeta

    for name in thinmeta.__all__:
        assert getattr(thinmeta, name) is not None
    assert set(thinmeta.__all__) <= set(dir(thinmeta))
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(thinmeta, "no_such_name")  # noqa: B009


def test_the_package_is_typed() -> None:
    import thinmeta

    assert (Path(thinmeta.__file__).parent / "py.typed").exists()
