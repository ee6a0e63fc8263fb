"""The command line is read as its help says."""

import pytest

from thinmeta.cli.options import (
    CHANGING,
    Option,
    Parsed,
    device_number,
    parse,
    size,
    whole_number,
)
from thinmeta.errors import UsageError

OPTIONS = (Option("quiet", "q"), Option("output", "o", takes="a word"), Option("skip-mappings"))


def read(*arguments: str) -> Parsed:
    return parse("check", list(arguments), OPTIONS, ("META",))


@pytest.mark.parametrize(
    ("arguments", "snapshot"),
    [
        (["META"], None),
        (["-m", "META"], "held"),
        (["META", "-m"], "held"),
        (["--metadata-snapshot", "META"], "held"),
        (["-qm", "META"], "held"),
        (["-m42", "META"], 42),
        (["-m=42", "META"], 42),
        (["-qm42", "META"], 42),
        (["-qm=42", "META"], 42),
        (["--metadata-snapshot=42", "META"], 42),
        (["-m7", "-m", "META"], "held"),
    ],
)
def test_the_metadata_snapshot_option_never_takes_the_next_word(
    arguments: list[str], snapshot: object
) -> None:
    parsed = read(*arguments)
    assert parsed.words == ["META"]
    assert parsed.metadata_snapshot() == snapshot
    assert parsed.has("quiet") == ("q" in arguments[0])


def test_a_number_after_the_metadata_snapshot_option_is_a_word_of_its_own() -> None:
    parsed = parse("delta", ["-m", "META", "1", "2"], (), ("META", "LEFT", "RIGHT"))
    assert parsed.words == ["META", "1", "2"]
    assert parsed.metadata_snapshot() == "held"


@pytest.mark.parametrize("word", ["", "0", "-1", "x", "1_000", "٣", "99999999999999999999999"])
def test_a_snapshot_s_block_is_a_plain_number(word: str) -> None:
    with pytest.raises(UsageError):
        read(f"-m={word}", "META").metadata_snapshot()


@pytest.mark.parametrize(
    "arguments", [["-oOUT"], ["-o", "OUT"], ["-o=OUT"], ["--output", "OUT"], ["--output=OUT"]]
)
def test_a_value_may_be_joined_or_the_next_word(arguments: list[str]) -> None:
    parsed = read(*arguments, "META")
    assert parsed.value("output") == "OUT"
    assert parsed.words == ["META"]


def test_a_lone_dash_is_a_word_and_two_dashes_end_the_options() -> None:
    assert read("-o", "-", "META").value("output") == "-"
    assert read("--", "-q").words == ["-q"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "META is missing"),
        (["a", "b"], "one word too many: 'b'"),
        (["--quiet=1", "a"], "--quiet takes no value"),
        (["-x", "a"], "no option '-x'"),
        (["--quite", "a"], "did you mean '--quiet'"),
        (["a", "-o"], "-o needs a value"),
        (["a", "-o", "--quiet"], "-o needs a value"),
    ],
)
def test_a_wrong_command_line_is_named(arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=r"^check: .*see 'thinmeta check --help'") as error:
        read(*arguments)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64K", 65536),
        ("64kib", 65536),
        ("10GiB", 10 << 30),
        ("8s", 4096),
        ("512b", 512),
        ("1P", 1 << 50),
    ],
)
def test_sizes(word: str, count: int) -> None:
    assert size(word, "--size") == count


@pytest.mark.parametrize("word", ["", "K", "1KB", "1.5G", "-1", "0x10", "1 K", "9000000P", "5ss"])
def test_sizes_that_are_none(word: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        size(word, "--size")


def test_device_ids_have_24_bits() -> None:
    assert device_number("16777215", "ID") == 16777215
    with pytest.raises(UsageError, match="0 to 16777215"):
        device_number("16777216", "ID")


def test_numbers_have_64_bits() -> None:
    assert whole_number(str(2**64 - 1), "N") == 2**64 - 1
    with pytest.raises(UsageError, match="N must be below"):
        whole_number(str(2**64), "N")
    with pytest.raises(UsageError, match="N must be a number"):
        whole_number("1K", "N")


def test_a_command_that_changes_has_a_dry_run_and_reads_no_snapshot() -> None:
    def words(*arguments: str) -> Parsed:
        return parse("delete", list(arguments), (), ("META", "ID"), common=CHANGING, optional=1)

    assert words("-n", "META", "1").has("dry-run")
    assert words("META", "--dry-run").words == ["META"]
    with pytest.raises(UsageError, match="no option '-m'"):
        words("-m", "META", "1")
    with pytest.raises(UsageError, match="META is missing"):
        words()
    with pytest.raises(UsageError, match="one word too many: '2'"):
        words("META", "1", "2")
