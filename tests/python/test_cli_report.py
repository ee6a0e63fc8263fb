"""Results in words: units, findings, verdicts."""

from typing import Any

import pytest

from thinmeta.report import check_json, check_text, count, human_bytes, verdict
from thinmeta.types import CheckReport


def result(*findings: dict[str, Any], **more: Any) -> dict[str, Any]:
    bad = any(finding["severity"] != "info" for finding in findings)
    return {
        "clean": not bad,
        "findings": list(findings),
        "findings_omitted": {},
        "metadata_blocks_checked": 20,
        "mappings_checked": 1,
        "devices": 3,
        "transaction_id": 7,
        "data_block_size_sectors": 128,
        **more,
    }


def finding(severity: str = "fatal", **more: Any) -> dict[str, Any]:
    return {
        "code": "bad-checksum",
        "severity": severity,
        "message": "the checksum is wrong",
        "block": None,
        "tree": None,
        "path": [],
        "affected": [],
        "affected_total": 0,
        **more,
    }


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (65536, "64 KiB"),
        (13107200, "12.5 MiB"),
        ((1 << 20) - 1, "1 MiB"),
        (1 << 50, "1 PiB"),
        (2**64 - 1, "16 EiB"),
        (2**80, "1048576 EiB"),
    ],
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert human_bytes(size) == text


def test_one_block_is_not_blocks() -> None:
    assert [count(number, "block") for number in (0, 1, 2)] == ["0 blocks", "1 block", "2 blocks"]


def test_a_finding_says_what_and_where_and_whom_it_affects() -> None:
    fields = result(
        finding(
            block=17,
            tree="mapping tree",
            path=[6, 9, 17],
            affected=[(1, 0, 252), (2, 300, 301), (3, 4, 2**64 - 1), (4, 0, 2**64 - 1)],
            affected_total=6,
        ),
        finding("info", block=0, path=[0]),
        findings_omitted={"leaked-block": 5},
    )
    assert check_text(CheckReport.from_fields(fields)) == (
        "fatal: bad-checksum: the checksum is wrong\n"
        "  where:   metadata block 17, in the mapping tree, reached through blocks 6 > 9 > 17\n"
        "  affects: device 1, 15.8 MiB at byte 0, blocks 0 to 251\n"
        "  affects: device 2, 64 KiB at byte 19660800, block 300\n"
        "  affects: device 3, from byte 262144 to the end, blocks 4 and up\n"
        "  affects: all of device 4\n"
        "  affects: 2 more ranges, not listed\n"
        "info: bad-checksum: the checksum is wrong\n"
        "  where:   metadata block 0\n"
        "5 more of leaked-block, not listed\n"
    )


def test_the_verdict_says_what_it_means() -> None:
    looked = "20 metadata blocks, 3 thin devices, 1 mapping checked"
    assert verdict(result()) == f"CLEAN: nothing is wrong ({looked})."
    assert verdict(result(finding("info"))).endswith("checked). 1 note above.")
    assert verdict(result(finding("non-fatal"))).startswith("NOT CLEAN: 1 problem, none fatal:")
    assert verdict(result(finding())).startswith("DAMAGED: 1 fatal problem: ")
    mixed = verdict(result(finding(), finding("non-fatal"), findings_omitted={"data-leak": 7}))
    assert mixed.startswith("DAMAGED: 9 problems, 1 of them fatal: ")


def test_the_verdict_claims_nothing_about_what_was_not_looked_at() -> None:
    sound = "CLEAN: the superblock is sound; nothing else was looked at."
    assert verdict(result(), "superblock") == sound
    assert verdict(result(finding("info")), "superblock") == sound + " 1 note above."
    assert "(only the superblock checked)" in verdict(result(finding()), "superblock")
    looked = "20 metadata blocks, 3 thin devices checked; mappings were not looked at"
    assert verdict(result(), "without_mappings") == f"CLEAN: nothing is wrong ({looked})."
    assert f"({looked})" in verdict(result(finding("non-fatal")), "without_mappings")


def test_the_json_form_names_the_parts_of_a_range() -> None:
    document = check_json(result(finding(affected=[(1, 0, 252)])), "meta.img", "held")
    assert document["metadata"] == "meta.img"
    assert document["metadata_snapshot"] == "held"
    (only,) = document["findings"]
    assert only["affected"] == [{"device_id": 1, "begin_block": 0, "end_block": 252}]


def test_a_report_holds_what_the_native_module_found() -> None:
    report = CheckReport.from_fields(result(finding(path=[6, 9], affected=[(1, 0, 5)])))
    assert not report.is_clean
    assert report.findings[0].path == (6, 9)
    assert report.findings[0].affected[0].end_block == 5
    assert hash(report.findings[0])
