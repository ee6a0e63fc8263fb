"""What dmsetup prints is understood, of old kernels and new, or refused."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinmeta import LivePoolError
from thinmeta.live.status import (
    parse_info,
    parse_pool_status,
    parse_pool_table,
    parse_thin_status,
    parse_thin_table,
    parse_versions,
)

LVM = Path(__file__).resolve().parent.parent / "fixtures" / "lvm"

#: Lines of kernels of all ages, from their documentation and from runs.
STATUS: list[tuple[str, dict[str, Any]]] = [
    (
        "0 524288 thin-pool 0 420/4096 0/4096 - rw no_discard_passdown error_if_no_space - 1024 ",
        {
            "failed": None,
            "transaction_id": 0,
            "used_metadata_blocks": 420,
            "total_metadata_blocks": 4096,
            "free_metadata_blocks": 3676,
            "used_data_blocks": 0,
            "total_data_blocks": 4096,
            "free_data_blocks": 4096,
            "held_root": None,
            "mode": "rw",
            "discard_passdown": "no_discard_passdown",
            "error_if_no_space": True,
            "needs_check": False,
            "metadata_low_watermark_blocks": 1024,
        },
    ),
    (
        "0 1638400 thin-pool 7 18/1024 4/12800 - ",  # 3.2
        {
            "transaction_id": 7,
            "held_root": None,
            "mode": None,
            "discard_passdown": None,
            "error_if_no_space": None,
            "needs_check": None,
            "metadata_low_watermark_blocks": None,
        },
    ),
    (
        "0 1638400 thin-pool 7 18/1024 4/12800 23 rw discard_passdown",  # 3.9
        {"held_root": 23, "mode": "rw", "discard_passdown": "discard_passdown"},
    ),
    (
        "0 4096 thin-pool 1 5/64 32/32 - out_of_data_space ignore_discard queue_if_no_space ",
        {
            "mode": "out_of_data_space",
            "discard_passdown": "ignore_discard",
            "error_if_no_space": False,
            "needs_check": None,
            "free_data_blocks": 0,
        },
    ),
    (
        "0 4096 thin-pool 1 5/64 1/32 9 ro discard_passdown queue_if_no_space needs_check ",
        {"mode": "ro", "needs_check": True, "held_root": 9},
    ),
    (
        "0 4096 thin-pool 18446744073709551615 5/64 1/32 - rw queue_if_no_space - 16 something_new",
        {"transaction_id": 2**64 - 1, "mode": "rw", "needs_check": False},
    ),
    ("0 4096 thin-pool Fail", {"failed": "Fail", "transaction_id": None, "mode": None}),
    ("0 4096 thin-pool Error", {"failed": "Error", "free_data_blocks": None}),
]


@pytest.mark.parametrize(("line", "facts"), STATUS, ids=lambda value: str(value)[:60])
def test_every_field_of_a_status_is_read(line: str, facts: dict[str, Any]) -> None:
    status = parse_pool_status("pool", line + "\n")
    assert {name: getattr(status, name) for name in facts} == facts
    assert status.line == " ".join(line.split())


def test_lines_of_a_real_host_are_read() -> None:
    pools, volumes = 0, 0
    for line in (LVM / "dmsetup-status-active.txt").read_text().splitlines():
        name, _, rest = line.partition(": ")
        if " thin-pool " in rest:
            assert parse_pool_status(name, rest).error_if_no_space is False
            pools += 1
        elif " thin " in rest:
            mapped, highest = parse_thin_status(name, rest)
            assert (mapped, highest) in ((0, None), (20480, 20479))
            volumes += 1
    assert (pools, volumes) == (2, 5)
    tables = {}
    for line in (LVM / "dmsetup-table-active.txt").read_text().splitlines():
        name, _, rest = line.partition(": ")
        if " thin-pool " in rest:
            assert parse_pool_table(name, rest).features == ()
        elif " thin " in rest:
            tables[name] = parse_thin_table(name, rest)
    assert tables["vg-ext1"] == (24576, "254:2", 5, "254:7")
    assert tables["vg-snap3"].external_origin is None


def test_the_table_of_a_pool_is_read() -> None:
    table = parse_pool_table(
        "pool", "0 524288 thin-pool 98:0 98:16 128 100 2 skip_block_zeroing error_if_no_space \n"
    )
    assert (table.metadata, table.data, table.data_block_size_sectors) == ("98:0", "98:16", 128)
    assert table.low_water_mark_blocks == 100
    assert table.features == ("skip_block_zeroing", "error_if_no_space")


def test_a_device_is_read_whatever_it_is_called() -> None:
    for name in ("pool", "-odd", r"sp\x20ace", "a:b", "data--1-my--pool-tpool"):
        for uuid in ("", "LVM-abc-tpool", "a/b"):
            info = parse_info(name, f"254/3/2/Read-only/Suspended/{uuid}/{name}\n")
            assert (info.name, info.uuid, info.number) == (name, uuid, "254:3")
            assert (info.open_count, info.read_only, info.suspended) == (2, True, True)


def test_versions_of_targets_are_read() -> None:
    text = "thin-pool        v1.22.0\nthin             v1.22.0\nnonsense\nodd v1.x.2\n"
    assert parse_versions(text) == {"thin-pool": (1, 22, 0), "thin": (1, 22, 0)}


PARSERS = [
    parse_pool_status,
    parse_pool_table,
    parse_thin_status,
    parse_thin_table,
    parse_info,
]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "0",
        "0 1 linear 8:0 0",
        "0 5 thin-pool",
        "0 5 thin",
        "8 5 thin-pool 0 1/2 1/2 -",
        "0 5 thin-pool 0 3/2 1/2 -",
        "0 5 thin-pool -1 1/2 1/2 -",
        "0 5 thin-pool 0 1/2 1/2 x",
        "0 5 thin-pool ٣ 1/2 1/2 -",
        "0 5 thin-pool 99999999999999999999999 1/2 1/2 -",
        "0 5 thin-pool a b 128 0 3 one",
        "0 5 thin x",
        "0 5 thin 5",
        "1/2/3/4/5/6/7",
    ],
)
def test_what_makes_no_sense_is_an_error_of_one_line(parse: Any, line: str) -> None:
    with pytest.raises(LivePoolError, match="not understood") as caught:
        parse("pool", line)
    assert "\n" not in str(caught.value)
    assert caught.value.pool == "pool"


WORDS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.integers(-5, 2**70).map(str),
        st.sampled_from(["-", "rw", "ro", "1/2", "thin-pool", "thin", "Fail", "needs_check", "0"]),
    ),
    max_size=14,
).map(" ".join)


@pytest.mark.parametrize("parse", PARSERS)
@given(line=st.one_of(st.text(), WORDS, WORDS.map("0 100 thin-pool ".__add__)))
def test_garbage_is_understood_or_refused(parse: Any, line: str) -> None:
    try:
        parse("pool", line)
    except LivePoolError as error:
        said = str(error)
    else:
        said = ""
    assert len(said) < 1500


@given(st.text())
def test_no_list_of_targets_is_too_odd(text: str) -> None:
    assert isinstance(parse_versions(text), dict)
