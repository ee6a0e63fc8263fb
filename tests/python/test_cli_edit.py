"""A script is done as a whole or not at all, and a mistake in it is named by its line."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import thinmeta
from command import ThinmetaCommand, as_json, fails
from corpus import Corpus
from thinmeta import ThinmetaError
from thinmeta.cli.script import MAX_LINE_BYTES, OPERATIONS, read_operation

GOOD = b'{"op": "create_thin", "device_id": %d}\n'


@pytest.fixture
def meta(corpus: Corpus, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(corpus["pair-zeroing-2"].meta, tmp_path / "meta.img"))


def lines(*operations: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in operations)


def devices(meta: Path) -> dict[int, dict[int, int]]:
    """The mappings of each device of a sound pool: virtual block to data block."""
    assert thinmeta.check(meta).is_clean
    with thinmeta.open_pool(meta) as pool:
        return {
            device.id: {
                run.virtual_begin + each: run.data_begin + each
                for run in device.runs()
                for each in range(run.length_blocks)
            }
            for device in pool.devices.values()
        }


def test_every_operation_of_a_script(command: ThinmetaCommand, meta: Path, tmp_path: Path) -> None:
    before = devices(meta)
    some, other, last, *_ = sorted(before[0])
    script = tmp_path / "changes.jsonl"
    script.write_text(
        "\n# comments and empty lines are left out\n   \n"
        + lines(
            {"op": "release_metadata_snapshot"},
            {"op": "create_snapshot", "device_id": 10, "origin_id": 0},
            {"op": "create_thin", "device_id": 11},
            {"op": "delete", "device_id": 3},
            {"op": "remove", "device_id": 0, "virtual_block": some},
            {"op": "remove", "device_id": 0, "virtual_block": some},
            {"op": "remove_range", "device_id": 0, "begin": other, "end": other + 1},
            {"op": "set_transaction_id", "expected": 0, "new": 4},
            {"op": "set_transaction_id", "expected": 4, "new": 5},
            {"op": "grow_metadata", "blocks": 2048},
            {"op": "grow_data", "blocks": 1024},
        )
        + '  {"device_id": 12, "op": "create_thin"}'
    )
    answer = as_json(command("edit", "--json", meta, script))
    assert answer["script"] == str(script)
    assert answer["operations"] == {
        "release_metadata_snapshot": 1,
        "create_snapshot": 1,
        "create_thin": 2,
        "delete": 1,
        "remove": 2,
        "remove_range": 1,
        "set_transaction_id": 2,
        "grow_metadata": 1,
        "grow_data": 1,
    }
    assert set(answer["operations"]) == set(OPERATIONS) - {"insert", "reserve_metadata_snapshot"}
    assert (answer["devices_created"], answer["devices_deleted"]) == ([10, 11, 12], [3])
    state = answer["after"]
    assert (state["transaction_id"], state["time"]) == (5, answer["before"]["time"] + 1)
    assert (state["metadata_blocks"], state["data_blocks"]) == (2048, 1024)
    assert state["metadata_snapshot"] is None

    left = dict(before)
    left[10], left[11], left[12] = left[0], {}, {}
    del left[3]
    left[0] = {block: data for block, data in left[0].items() if block not in (some, other)}
    assert devices(meta) == left
    assert last in left[0]


def test_a_script_from_standard_input(command: ThinmetaCommand, meta: Path) -> None:
    before = sorted(devices(meta))
    words = command.argv("edit", meta, "-")
    for more, verb in ((["-n"], "would make"), ([], "made")):
        run = subprocess.run(
            [*words, *more], input=GOOD % 20 + GOOD % 21, capture_output=True, check=True
        )
        assert run.stdout.decode() == (
            f"{verb} 2 changes: 2 create_thin\n"
            f"  thin devices: {len(before)} before, {len(before) + 2} after\n"
        )
    assert sorted(devices(meta)) == [*before, 20, 21]
    run = subprocess.run([*words], input=b"{", capture_output=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith(b"thinmeta: standard input: line 1: not JSON: ")


def test_a_script_of_nothing_changes_nothing(
    command: ThinmetaCommand, meta: Path, tmp_path: Path
) -> None:
    before = devices(meta)
    for text in ("", "\n\n", "# only this"):
        (tmp_path / "script").write_text(text)
        run = command("edit", meta, tmp_path / "script")
        assert (run.returncode, run.stdout) == (0, "made 0 changes\n")
    assert devices(meta) == before


WRONG = [
    (b"{", "not JSON: "),
    (b"create_thin 5", "not JSON: "),
    (b"[1]", "not a JSON object but [1]"),
    (b"null", "not a JSON object but null"),
    (b"{}", "there is no 'op'"),
    (b'{"device_id": 5}', "there is no 'op'"),
    (b'{"op": 5}', "'op' must be a string, not 5"),
    (b'{"op": "creat_thin", "device_id": 5}', "did you mean 'create_thin'"),
    (b'{"op": "commit"}', 'there is no operation "commit"'),
    (b'{"op": "__class__"}', 'there is no operation "__class__"'),
    (b'{"op": "\\ud800"}', 'there is no operation "\\ud800"'),
    (b'{"op": "create_thin"}', "create_thin needs 'device_id'"),
    (b'{"op": "create_thin", "device_id": 5, "size": 7}', 'create_thin takes no "size"'),
    (b'{"op": "create_thin", "device_id": true}', "must be a whole number, not true"),
    (b'{"op": "create_thin", "device_id": "5"}', 'must be a whole number, not "5"'),
    (b'{"op": "create_thin", "device_id": 5.0}', "must be a whole number, not 5.0"),
    (b'{"op": "create_thin", "device_id": 1e3}', "must be a whole number, not 1000.0"),
    (b'{"op": "create_thin", "device_id": NaN}', "must be a whole number, not NaN"),
    (b'{"op": "create_thin", "device_id": null}', "must be a whole number, not null"),
    (b'{"op": "create_thin", "device_id": [5]}', "must be a whole number, not [5]"),
    (b'{"op": "create_thin", "device_id": -1}', "must be from 0 to 18446744073709551615"),
    (b'{"op": "create_thin", "device_id": 18446744073709551616}', "must be from 0 to "),
    (b'{"op": "create_thin", "device_id": %s}' % (b"9" * 10_000), "too long or too deep"),
    (b'{"op": "create_thin", "device_id": 5, "device_id": 6}', '"device_id" is there twice'),
    (b'{"op": "create_thin", "device_id": 5} {}', "not JSON: "),
    (b"[" * 100_000, "line 900: not JSON"),
    (b'{"op": "create_thin", "device_id": \xff}', "not UTF-8 at byte 36"),
    (b"\xef\xbb\xbf{}", "not JSON: "),
    (b"# " + b"x" * MAX_LINE_BYTES, "longer than 1048576 bytes"),
    # What the pool says to it
    (b'{"op": "create_thin", "device_id": 16777216}', ""),
    (b'{"op": "create_thin", "device_id": 3}', "the pool has a thin device 3 already"),
    (b'{"op": "create_thin", "device_id": 1000}', "the pool has a thin device 1000 already"),
    (b'{"op": "create_snapshot", "device_id": 5, "origin_id": 6}', "no thin device 6"),
    (b'{"op": "delete", "device_id": 6}', "no thin device 6"),
    (b'{"op": "remove", "device_id": 6, "virtual_block": 0}', "no thin device 6"),
    (b'{"op": "set_transaction_id", "expected": 6, "new": 7}', "transaction"),
    (b'{"op": "grow_data", "blocks": 1}', ""),
    (b'{"op": "insert", "device_id": 0, "virtual_block": 0, "data_block": 1099511627776}', ""),
    (b'{"op": "reserve_metadata_snapshot"}', "snapshot"),
]


ENDINGS = [(line, text, b"\n") for line, text in WRONG]
ENDINGS += [(*WRONG[4], ending) for ending in (b"\r\n", b"")]


@pytest.mark.parametrize(("line", "text", "ending"), ENDINGS, ids=lambda value: str(value)[:50])
def test_a_wrong_line_is_named_and_nothing_is_changed(
    command: ThinmetaCommand, meta: Path, tmp_path: Path, line: bytes, text: str, ending: bytes
) -> None:
    before = meta.read_bytes()
    mapping = b'{"op": "insert", "device_id": 1000, "virtual_block": %d, "data_block": 7}\n'
    good = GOOD % 1000 + b"".join(mapping % block for block in range(898))
    script = tmp_path / "script"
    script.write_bytes(good + line + ending + (GOOD % 2000 if ending else b""))
    run = command("edit", meta, script)
    fails(run, 1, text)
    assert run.stderr.startswith(f"thinmeta: {script}: line 900: ")
    assert len(run.stderr) < 400
    assert meta.read_bytes() == before


def test_a_line_may_be_as_long_as_is_said(
    command: ThinmetaCommand, meta: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    for ending in (b"\n", b""):
        script.write_bytes(b"#" * MAX_LINE_BYTES + ending)
        assert command("edit", "-n", meta, script).returncode == 0
        script.write_bytes(b"#" * (MAX_LINE_BYTES + 1) + ending)
        fails(command("edit", "-n", meta, script), 1, f"{script}: line 1: longer than")


def test_a_script_without_an_end_is_not_held_in_memory(
    command: ThinmetaCommand, meta: Path
) -> None:
    limited = ["sh", "-c", 'ulimit -v 4000000; exec "$@"', "sh"]
    run = subprocess.run(
        [*limited, *command.argv("edit", meta, "/dev/zero")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    fails(run, 1, "/dev/zero: line 1: longer than 1048576 bytes")


def test_a_script_that_cannot_be_read_is_status_3(
    command: ThinmetaCommand, meta: Path, tmp_path: Path
) -> None:
    before = meta.read_bytes()
    absent = tmp_path / "absent"
    fails(command("edit", meta, absent), 3, f"{absent}: No such file or directory")
    fails(command("edit", meta, tmp_path), 3, f"{tmp_path}: Is a directory")
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *command.argv("edit", meta, "-")]
    run = subprocess.run(closed, capture_output=True, text=True, check=False)
    fails(run, 3, "standard input")
    assert meta.read_bytes() == before


def test_a_metadata_snapshot_of_what_a_script_leaves(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    meta = Path(shutil.copyfile(corpus["pair-zeroing-1"].meta, tmp_path / "meta.img"))
    script = tmp_path / "script"
    script.write_text(lines({"op": "reserve_metadata_snapshot"}, {"op": "delete", "device_id": 1}))
    assert command("edit", meta, script).returncode == 0
    with thinmeta.open_pool(meta, metadata_snapshot="held") as held:
        assert list(held.devices) == sorted(devices(meta)) == [0, 2]


def test_what_a_script_made_room_for_is_taken_back_with_it(
    command: ThinmetaCommand, meta: Path, tmp_path: Path
) -> None:
    before, script = meta.read_bytes(), tmp_path / "script"
    script.write_text(
        lines({"op": "grow_metadata", "blocks": 2048}, {"op": "grow_data", "blocks": 1})
    )
    fails(command("edit", meta, script), 1, f"{script}: line 2: ")
    assert meta.read_bytes() == before
    script.write_text(lines({"op": "grow_metadata", "blocks": 2048}))
    assert command("edit", "-n", meta, script).returncode == 0
    assert meta.read_bytes() == before


@given(st.binary(max_size=60))
def test_no_bytes_are_more_than_a_wrong_line(line: bytes) -> None:
    try:
        operation = read_operation(line)
    except ThinmetaError:
        return
    assert operation is None


NUMBERS = st.integers(-3, 2**64 + 3) | st.booleans() | st.none() | st.floats() | st.text()
FIELDS = sorted({field for fields in OPERATIONS.values() for field in fields} | {"op", "other"})


@given(
    st.sampled_from([*OPERATIONS, "other"]) | NUMBERS,
    st.dictionaries(st.sampled_from(FIELDS), NUMBERS, max_size=4),
)
def test_a_line_is_one_operation_exactly_or_wrong(name: Any, fields: dict[str, Any]) -> None:
    fields.pop("op", None)
    is_right = (
        isinstance(name, str)
        and name in OPERATIONS
        and set(fields) == set(OPERATIONS[name])
        and all(type(each) is int and 0 <= each < 2**64 for each in fields.values())
    )
    line = json.dumps({"op": name, **fields}).encode()
    if is_right:
        assert read_operation(line) == (name, fields)
    else:
        with pytest.raises(ThinmetaError):
            read_operation(line)
