"""Which generations a prune keeps: by number, day, week and month."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import thinmeta
from backups import World, restored
from command import ThinmetaCommand, fails
from test_backup_parts import generation
from thinmeta.backup import Repository, StoredGeneration
from thinmeta.backup.keeping import KeepRules
from thinmeta.backup.manifest import CREATED, SegmentRows, decode, encode
from thinmeta.errors import StreamError

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def made_at(times: list[datetime]) -> list[StoredGeneration]:
    return [
        replace(generation(number), created=when.strftime(CREATED))
        for number, when in enumerate(times, 1)
    ]


def kept(rules: KeepRules, group: list[StoredGeneration]) -> list[int]:
    names = rules.kept(group)
    return [each.sequence for each in group if each.name in names]


def test_a_year_of_nights() -> None:
    """January 1, 2026 was a Thursday: weeks change on Mondays, and the year has week 53."""
    nights = made_at([START + timedelta(days=day) for day in range(365)])
    assert kept(KeepRules(last=3), nights) == [363, 364, 365]
    assert kept(KeepRules(daily=3), nights) == [363, 364, 365]
    # December 31, 2026 is a Thursday; the Sundays before it.
    assert kept(KeepRules(weekly=4), nights) == [347, 354, 361, 365]
    assert kept(KeepRules(monthly=3), nights) == [304, 334, 365]
    assert kept(KeepRules(monthly=99), nights)[:2] == [31, 59]
    all_of_them = KeepRules(last=1, daily=2, weekly=2, monthly=2)
    assert kept(all_of_them, nights) == [334, 361, 364, 365]
    assert all_of_them.kept(nights)[nights[-1].name] == [
        "last 1",
        "daily 2026-12-31",
        "weekly 2026-W53",
        "monthly 2026-12",
    ]


def test_of_a_day_the_newest_stays_and_days_without_any_do_not_count() -> None:
    hours = [0, 1, 23, 24, 200, 201, 1000]
    group = made_at([START.replace(hour=0) + timedelta(hours=hour) for hour in hours])
    assert kept(KeepRules(daily=9), group) == [3, 4, 6, 7]
    assert kept(KeepRules(daily=2), group) == [6, 7]


def test_nothing_is_kept_by_no_rule() -> None:
    assert not KeepRules() and KeepRules(monthly=1)
    assert kept(KeepRules(), made_at([START])) == []


@given(
    st.lists(st.integers(0, 800), max_size=30).map(sorted),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 6),
)
def test_each_rule_is_for_itself(
    days: list[int], last: int, daily: int, weekly: int, monthly: int
) -> None:
    group = made_at([START + timedelta(hours=9 * day) for day in days])
    expected = {each.sequence for each in group[max(len(group) - last, 0) :]}
    periods = (
        (daily, lambda when: when.date()),
        (weekly, lambda when: when.date() - timedelta(days=when.weekday())),
        (monthly, lambda when: (when.year, when.month)),
    )
    for most, period_of in periods:
        newest = {period_of(each.created_at): each.sequence for each in group}
        expected |= {newest[period] for period in sorted(newest, reverse=True)[:most]}
    rules = KeepRules(last=last, daily=daily, weekly=weekly, monthly=monthly)
    assert set(kept(rules, group)) == expected
    assert bool(rules) == bool(last or daily or weekly or monthly)
    if rules and group:
        assert group[-1].sequence in expected


def test_a_moment_that_is_none_is_damage() -> None:
    good = generation(1).to_json()
    assert StoredGeneration.from_bytes(good["name"], encode(good)).created == good["created"]
    for wrong in ("", "yesterday", "2026-02-30T00:00:00Z", "2026-1-1T00:00:00Z", 7, None):
        bad = encode({**good, "created": wrong})
        assert decode(bad)
        with pytest.raises(StreamError, match="created cannot be"):
            StoredGeneration.from_bytes(good["name"], bad)


@pytest.fixture
def months(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Generations a fortnight apart, from January on; their content by name."""
    content = {}
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 1, mib=2) as world:
        for number in range(6):
            now = (START + timedelta(days=14 * number)).strftime(CREATED)
            world.step(resize=False)
            with monkeypatch.context() as patch:
                patch.setattr("time.strftime", lambda form, when, now=now: now)
                content[world.back_up(repository).name] = world.shown()
    return content


def test_what_the_rules_keep_stays_and_can_be_restored(
    months: dict[str, bytes], tmp_path: Path
) -> None:
    repository, names = Repository.open(tmp_path / "repo"), list(months)
    looked = repository.prune(keep_last=1, keep_monthly=3, keep=[names[0]], dry_run=True)
    # January 1, 15, 29; February 12, 26; March 12.
    assert looked.deleted == [names[1], names[3]]
    assert looked.reasons == {
        names[0]: ["asked for"],
        names[2]: ["monthly 2026-01"],
        names[4]: ["monthly 2026-02"],
        names[5]: ["last 1", "monthly 2026-03"],
    }
    report = repository.prune(keep_last=1, keep_monthly=3, keep=[names[0]])
    assert (report.deleted, report.reasons) == (looked.deleted, looked.reasons)
    assert report.kept == [each.name for each in repository.generations()]
    for name in report.kept:
        assert restored(repository, name, tmp_path) == months[name]
    assert repository.verify().is_clean


def test_a_rule_is_needed_and_a_volume_that_is_there(
    months: dict[str, bytes], tmp_path: Path
) -> None:
    repository = Repository.open(tmp_path / "repo")
    for last, daily in ((0, 0), (1, -1), (-1, 1)):
        with pytest.raises(thinmeta.UsageError, match="at least one"):
            repository.prune(keep_last=last, keep_daily=daily)
    with pytest.raises(thinmeta.UsageError, match="at least one"):
        repository.prune()
    with pytest.raises(thinmeta.NoSuchGenerationError, match="no generation of a volume 'w'"):
        repository.prune(keep_last=1, volume="w")
    assert len(repository.generations()) == len(months)


def test_the_command_says_what_stays_and_why(
    months: dict[str, bytes], command: ThinmetaCommand, tmp_path: Path
) -> None:
    names, repo = list(months), tmp_path / "repo"
    fails(command("backup", "prune", repo), 2, "--keep-daily, --keep-weekly or --keep-monthly")
    fails(command("backup", "prune", repo, "--keep-daily", 0), 2, "has to be at least 1")
    fails(command("backup", "prune", repo, "--keep-daily", "few"), 2, "must be a number")
    rules = "--keep-daily", 1, "--keep-monthly", 2
    lines = command("backup", "prune", repo, *rules, "--dry-run").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == names
    assert [line.split()[4] for line in lines[1:-1]] == ["delete"] * 4 + ["keep"] * 2
    assert lines[-2].endswith("daily 2026-03-12, monthly 2026-03")
    assert lines[-1].startswith("would delete 4 generations, 2 stay")
    event = json.loads(command("backup", "prune", repo, *rules, "--json").stdout.splitlines()[-1])
    assert event["kept"] == names[4:] and event["deleted"] == names[:4]
    assert event["reasons"][names[4]] == ["monthly 2026-02"]


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.binary(min_size=32, max_size=32))),
    st.integers(-5, 40),
)
def test_the_parts_of_a_generation_are_a_sequence(
    facts: list[tuple[int, bytes]], index: int
) -> None:
    rows = [(number, name.hex(), number % 9) for number, name in facts]
    made = SegmentRows(rows)
    assert list(made) == rows and len(made) == len(rows)
    assert made[1:3] == rows[1:3] and made == SegmentRows(rows) != SegmentRows([(9, "ab" * 32, 1)])
    assert hash(made) == hash(SegmentRows(rows)) and made != rows
    assert made.total_bytes == sum(row[2] for row in rows)
    if -len(rows) <= index < len(rows):
        assert made[index] == rows[index]
    else:
        with pytest.raises(IndexError):
            made[index]
