"""Drop-ins print what 1.x printed, byte for byte, and end as it did."""

import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from corpus import FIXTURES, THIN, Corpus
from dropins import DropIns, Ran
from model import PoolModel

RECORDED: dict[str, Any] = json.loads(
    lzma.decompress((FIXTURES / "dropins-1.1.0.json.xz").read_bytes())
)
#: Dumps of trees that devices share as a whole: 1.1.0 names them by their first leaf, and
#: we by their root. They are the same in meaning.
OTHER_NAMES = {("crashed", "live"), ("needs-check", "live"), ("kernel-7.2", "held")}


def fails(name: str, said: dict[str, Any]) -> bool:
    """Whether 1.x failed, and not by a mistake of its own.

    With --skip-mappings, 1.1.0 tries to clear needs_check of what it has open for reading,
    though nobody asked it to, and ends with "Bad file descriptor".
    """
    mistaken = name in ("metadata-full", "needs-check") and "--skip-mappings" in said["command"]
    return said["status"] != 0 and not (mistaken and said["command"].startswith("thin_check"))


def differs(said: dict[str, Any], out: bytes) -> bool:
    """Whether what was printed is not what was recorded."""
    return hashlib.sha256(out).hexdigest() != str(said["sha256"])


@pytest.mark.parametrize("name", THIN)
def test_what_1_x_printed_of_an_image_is_printed(
    drop_in: DropIns, corpus: Corpus, name: str
) -> None:
    image = corpus[name]
    for said in RECORDED["thin"][name]:
        line = said["command"]
        ran = drop_in(line, image.meta)
        assert ran.status == (1 if fails(name, said) else 0), line
        if not differs(said, ran.out):
            continue
        root = "held" if " -m" in line or "--metadata-snap" in line else "live"
        assert line.startswith("thin_dump") and (name, root) in OTHER_NAMES, line
        if "human_readable" not in line and "--dev-id" not in line:
            wanted = image.held_model if root == "held" else image.model
            found = PoolModel.from_xml(ran.out)
            assert found.devices == wanted.devices


@pytest.mark.parametrize("name", ["metadata-full", "sequential"])
def test_1_x_status_is_had_for_the_asking(drop_in: DropIns, corpus: Corpus, name: str) -> None:
    for said in RECORDED["thin"][name]:
        ran = drop_in(said["command"], corpus[name].meta, compat="1.x")
        assert ran.status == (64 if fails(name, said) else 0), said["command"]


def test_sizes_are_those_of_1_x(drop_in: DropIns) -> None:
    for said in RECORDED["sizes"]:
        ran = drop_in(said["command"])
        assert ran.status == (1 if said["status"] else 0), said["command"]
        assert not differs(said, ran.out), said["command"]


# What 1.1.0 printed (thin_metadata_size -b 64k -s 1t -m 1000 -n -u UNIT).
@pytest.mark.parametrize(
    ("unit", "printed"),
    [
        ("b", "549494784"),
        ("s", "1073232"),
        ("k", "536616"),
        ("K", "549494.78"),
        ("kilobyte", "549494.78"),
        ("m", "524.04"),
        ("MiB", "524.04"),
        ("g", "0.5117568969726563"),
        ("p", "0.0000004880494088865817"),
        ("E", "0.000000000549494784"),
    ],
)
def test_a_size_has_the_digits_of_1_x(drop_in: DropIns, unit: str, printed: str) -> None:
    ran = drop_in("thin_metadata_size -b 64k -s 1t -m 1000 -n -u", unit)
    assert ran == Ran(0, f"{printed}\n".encode(), "")


# What only 0.9 takes: its manual's own examples, with the numbers of 1.x.
@pytest.mark.parametrize(
    ("line", "printed"),
    [
        (
            "--block-size=1gibi --pool-size=1petabytes --max-thins=1mega --unit=G -nlong",
            "4.13gigabytes",
        ),
        ("--block-size=1g --pool-size=1P --max-thins=1M --unit=G --numeric-only", "4.13"),
        ("-b64kibibytes -s1tebibytes -m1 -nshort", "1065240s"),
        ("-b64k -s1t -m1000 -uY -n", "0.000000000000000549494784"),
    ],
)
def test_sizes_in_words_of_0_9_are_understood(drop_in: DropIns, line: str, printed: str) -> None:
    assert drop_in(f"thin_metadata_size {line}").out.decode() == f"{printed}\n"


IMPOSSIBLE_SIZES = [
    "-b 64k -s 1t",
    "-b 100 -s 1t -m 1",
    "-b 2g -s 1t -m 1",
    "-b 64k -s 1 -m 1",
    "-b 64k -s 1t -m x",
    "-b 64k -s 99999999e -m 1",
    "-b 64k -s 1t -m 1 -u x",
    "-b 64k -s 1t -m 1 -nfoo",
    "-b k -s 1t -m 1",
    "-b 64k -s 1t -m 1 more",
]


@pytest.mark.parametrize("line", IMPOSSIBLE_SIZES)
def test_sizes_that_cannot_be_are_refused(drop_in: DropIns, line: str) -> None:
    ran = drop_in(f"thin_metadata_size {line}")
    assert (ran.status, ran.out) == (1, b"")
    assert ran.err.startswith("thinmeta: thin_metadata_size: ") and ran.err.count("\n") == 1


# Sizes in bytes and how 1.1.0 writes them: HIGHEST_BYTE and HIGHEST_MAPPED of its thin_ls.
HUMAN = {
    511: "511b",
    8191: "8191b",
    8703: "8KiB",
    8704: "9KiB",
    523776: "512KiB",
    1047551: "1023KiB",
    1048575: "1024KiB",
    1638399: "1599KiB",
    8388095: "8191KiB",
    8389119: "8192KiB",
    9437183: "9MiB",
    20955135: "20MiB",
    1073741823: "1024MiB",
    1073743971483647: "977Tib",
    3221234061934591: "2929Tib",
    9671372997394431: "9PiB",
    18446744073709551615: "16EiB",
}


def test_sizes_have_the_units_and_the_rounding_of_1_x() -> None:
    from thinmeta.cli.dropins.thin_ls import _human

    assert {size: _human(size) for size in HUMAN} == HUMAN


def test_a_version_is_a_version_and_nothing_else(drop_in: DropIns) -> None:
    for name in ("thin_check", "thin_delta", "thin_dump", "thin_ls", "thin_metadata_size"):
        for option in ("-V", "--version"):
            assert drop_in(f"{name} {option}") == Ran(0, b"1.1.0\n", "")


def test_help_names_every_option(drop_in: DropIns) -> None:
    from thinmeta.cli.dropins import NAMES

    for name in NAMES:
        module = __import__(f"thinmeta.cli.dropins.{name}", fromlist=["OPTIONS"])
        for option in ("-h", "--help"):
            ran = drop_in(f"{name} {option}")
            assert (ran.status, ran.err) == (0, "")
            for each in module.OPTIONS:
                for word in each.names:
                    assert word in ran.out.decode(), (name, word)


def test_quiet_is_silent_whatever_goes_wrong(
    drop_in: DropIns, corpus: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    for path in (corpus["metadata-full"].meta, tmp_path / "zeros", tmp_path / "none"):
        assert drop_in("thin_check -q", path) == Ran(1, b"", "")
    for path in (tmp_path / "zeros", tmp_path / "none"):
        assert drop_in("thin_dump -q", path) == Ran(1, b"", "")


def test_what_is_not_there_yet_fails_in_a_line(drop_in: DropIns, corpus: Corpus) -> None:
    meta = corpus["sequential"].meta
    ran = drop_in("thin_dump -f custom=library.so", meta)
    assert (ran.status, ran.out) == (1, b"")
    assert "plug-ins" in ran.err


def test_a_missing_side_of_a_comparison_is_no_wrong_usage_for_1_x(
    drop_in: DropIns, corpus: Corpus
) -> None:
    meta = corpus["sequential"].meta
    assert drop_in("thin_delta --thin1 0", meta, compat="1.x").status == 64
    assert drop_in("thin_delta --thin1 0 --thin2 x", meta, compat="1.x").status == 2
    assert drop_in("thin_delta --thin1 0 --thin2 x", meta).status == 1
