"""What the kernel wrote, we read completely, and to the byte where a peer printed it."""

import hashlib
import io
import itertools
from typing import Literal

import pytest

import thinmeta
from corpus import OTHER_TARGETS, SHARED_DUMPS, STATUS_IS_FINAL, THIN, Corpus, Image
from model import DeltaRow, DeviceModel, PoolModel, merged, peer_kind
from oracles import ThinTools

HELD = [
    "block-192k",
    "block-1m",
    "kernel-6.12",
    "kernel-7.2",
    "metadata-snap",
    "pair-zeroing-2",
]


@pytest.fixture(params=THIN)
def image(request: pytest.FixtureRequest, corpus: Corpus) -> Image:
    return corpus[request.param]


@pytest.fixture(params=HELD)
def held(request: pytest.FixtureRequest, corpus: Corpus) -> Image:
    return corpus[request.param]


def dumped(image: Image, root: Literal["held"] | None = None, *, shared: bool = False) -> bytes:
    out = io.BytesIO()
    with thinmeta.open_pool(image.meta, metadata_snapshot=root) as pool:
        thinmeta.dump(pool, out, shared=shared)
    return out.getvalue()


def listing(pool: thinmeta.Pool) -> PoolModel:
    """Read everything through the API, device by device."""
    superblock = pool.superblock
    model = PoolModel(
        data_block_size_sectors=superblock.data_block_size,
        nr_data_blocks=pool.data_space.blocks,
        time=superblock.time,
        transaction_id=superblock.trans_id,
    )
    for device in pool.devices.values():
        model.devices[device.id] = DeviceModel(
            id=device.id,
            transaction_id=device.transaction_id,
            creation_time=device.creation_time,
            snapshotted_time=device.snapshotted_time,
            mapped_blocks=device.mapped_blocks,
            mappings={
                run.virtual_begin + i: (run.data_begin + i, run.time)
                for run in device.runs()
                for i in range(run.length_blocks)
            },
        )
    return model


def test_the_list_of_held_roots_is_complete(corpus: Corpus) -> None:
    assert [name for name in THIN if corpus[name].has_held_root] == HELD


def test_dump_is_byte_identical_to_thin_dump_0_9(image: Image) -> None:
    ours = dumped(image)

    assert ours == image.dump_of("0.9.0")
    assert hashlib.sha256(ours).hexdigest() == image.facts["dumps"]["live"]["0.9.0"]["sha256"]


def test_dump_of_the_held_root_is_byte_identical_too(held: Image) -> None:
    ours = dumped(held, "held")

    assert ours == held.dump_of("0.9.0", "held")
    assert b'nr_data_blocks="0"' in ours.splitlines()[0]


def test_dump_of_the_held_root_by_its_number_is_the_same(held: Image) -> None:
    out = io.BytesIO()
    block = held.facts["superblock"]["held_root"]
    with thinmeta.open_pool(held.meta, metadata_snapshot=block) as pool:
        thinmeta.dump(pool, out)

    assert out.getvalue() == held.dump_of("0.9.0", "held")


def test_shared_dump_means_the_same_as_the_full_one(image: Image) -> None:
    assert PoolModel.from_xml(dumped(image, shared=True)) == image.model


@pytest.mark.parametrize("name", SHARED_DUMPS)
def test_what_1_1_prints_once_we_print_once(corpus: Corpus, name: str) -> None:
    theirs = corpus[name].dump_of("1.1.0")
    ours = dumped(corpus[name], shared=True)

    assert theirs is not None
    assert PoolModel.from_xml(ours) == PoolModel.from_xml(theirs)
    assert b"<def " in ours
    assert b"<ref " in ours


def test_shared_dump_of_the_held_root_means_the_same(held: Image) -> None:
    theirs = held.dump_of("1.1.0", "held")

    assert PoolModel.from_xml(dumped(held, "held", shared=True)) == held.held_model
    assert theirs is None or PoolModel.from_xml(theirs) == held.held_model


def test_devices_runs_and_mappings_are_those_of_the_listing(image: Image) -> None:
    with thinmeta.open_pool(image.meta) as pool:
        assert listing(pool) == image.model
        assert list(pool.devices) == sorted(image.model.devices)
        for device_id, device in pool.devices.items():
            wanted = image.model.devices[device_id]
            runs = [(r.virtual_begin, r.data_begin, r.length_blocks, r.time) for r in device.runs()]
            assert runs == wanted.runs()
            assert len(device.mappings()) == len(wanted.mappings)


def test_the_held_root_lists_the_pool_as_it_was(held: Image) -> None:
    with thinmeta.open_pool(held.meta, metadata_snapshot="held") as pool:
        then = listing(pool)

    then.nr_data_blocks = 0  # not published in a snapshot; thin_dump says 0
    assert then == held.held_model
    expected = held.facts["expected_held_root"]
    assert {str(d.id): len(d.mappings) for d in then.devices.values()} == expected["mapped_blocks"]


@pytest.mark.parametrize("name", STATUS_IS_FINAL)
def test_the_kernel_counted_the_same_mapped_blocks(corpus: Corpus, name: str) -> None:
    image = corpus[name]
    reported = image.facts["kernel_reported"]
    with thinmeta.open_pool(image.meta) as pool:
        for device_id, facts in reported.get("devices", {}).items():
            device = pool.devices[int(device_id)]
            *_, last = device.runs()
            end_block = last.virtual_begin + last.length_blocks
            sectors = end_block * pool.superblock.data_block_size
            assert device.mapped_blocks == facts["mapped_blocks"]
            assert sectors - 1 == facts["highest_mapped_sector"]


def test_runs_of_a_part_are_the_runs_cut_at_its_ends(corpus: Corpus) -> None:
    image = corpus["discards"]
    with thinmeta.open_pool(image.meta) as pool:
        for device in pool.devices.values():
            mappings = image.model.devices[device.id].mappings
            for start, stop in [(0, 0), (0, 1), (7, 7), (10, 400), (1313, 1414), (2900, 10**9)]:
                got = {
                    run.virtual_begin + i: (run.data_begin + i, run.time)
                    for run in device.runs(start, stop)
                    for i in range(run.length_blocks)
                }
                assert got == {v: m for v, m in mappings.items() if start <= v < stop}


def test_find_answers_for_every_block_and_every_hole(image: Image) -> None:
    with thinmeta.open_pool(image.meta) as pool:
        for device in pool.devices.values():
            wanted = image.model.devices[device.id]
            probes = {n + d for n in wanted.mappings for d in (-1, 0, 1)} | {0, 2**40, 2**64 - 1}
            for virtual in sorted(probes - {-1})[:4000]:
                found = device.find(virtual)
                if virtual not in wanted.mappings:
                    assert found is None
                    continue
                data, time = wanted.mappings[virtual]
                assert found is not None
                assert (found.data_block, found.time) == (data, time)
                assert found.shared == (wanted.snapshotted_time > time), "the kernel's time rule"


def test_check_is_clean_where_the_kernel_left_it_clean(image: Image) -> None:
    report = thinmeta.check(image.meta)

    if image.name != "metadata-full":
        wrong = [f for f in report.findings if f.severity != "info"]
        assert report.is_clean, wrong
        assert wrong == []
    assert report.devices == len(image.model.devices)
    assert report.transaction_id == image.model.transaction_id


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_check_says_the_same_with_any_number_of_threads(image: Image, threads: int) -> None:
    assert thinmeta.check(image.meta, threads=threads) == thinmeta.check(image.meta)


def test_check_of_a_held_root_is_clean(held: Image) -> None:
    assert thinmeta.check(held.meta, metadata_snapshot="held").is_clean


def test_check_of_an_open_pool_says_the_same(image: Image) -> None:
    with thinmeta.open_pool(image.meta) as pool:
        assert thinmeta.check(pool) == thinmeta.check(image.meta)


def test_check_of_metadata_full_finds_the_one_leaked_data_block(corpus: Corpus) -> None:
    report = thinmeta.check(corpus["metadata-full"].meta)

    assert not report.is_clean
    assert sorted((f.code, f.severity) for f in report.findings) == [
        ("data-leak", "non-fatal"),
        ("needs-check", "info"),
    ]


def test_check_of_a_pool_that_needs_a_check_is_clean_and_says_so(corpus: Corpus) -> None:
    report = thinmeta.check(corpus["needs-check"].meta)

    assert report.is_clean
    assert [(f.code, f.severity) for f in report.findings] == [("needs-check", "info")]


def test_superblock_fields_are_those_in_the_bytes(image: Image) -> None:
    raw = image.meta.read_bytes()[:4096]
    wanted = image.facts["superblock"]

    with thinmeta.open_pool(image.meta) as pool:
        found = pool.superblock

    assert found.csum == int.from_bytes(raw[0:4], "little")
    assert found.uuid == raw[16:32].hex()
    assert (found.magic, found.blocknr) == (27022010, 0)
    assert (found.flags, found.needs_check) == (wanted["flags"], wanted["needs_check"])
    assert (found.version, found.time) == (wanted["version"], wanted["time"])
    assert found.trans_id == wanted["transaction_id"]
    assert found.held_root == (wanted["held_root"] or 0)
    assert found.data_mapping_root == wanted["data_mapping_root"]
    assert found.device_details_root == wanted["device_details_root"]
    assert found.data_block_size == wanted["data_block_sectors"]
    assert found.metadata_block_size == wanted["metadata_block_sectors"]
    assert found.metadata_nr_blocks == wanted["metadata_nr_blocks"]
    assert (found.compat_flags, found.compat_ro_flags, found.incompat_flags) == (0, 0, 0)
    for name in ("data_space_map", "metadata_space_map"):
        root = getattr(found, f"{name}_root")
        fields = ("nr_blocks", "nr_allocated", "bitmap_root", "ref_count_root")
        assert {field: getattr(root, field) for field in fields} == wanted[name]


def test_the_held_root_s_superblock_is_its_own_block(held: Image) -> None:
    block = held.facts["superblock"]["held_root"]

    with thinmeta.open_pool(held.meta, metadata_snapshot="held") as pool:
        found = pool.superblock

    assert (found.blocknr, found.held_root) == (block, 0)
    assert found.data_space_map_root.nr_blocks == found.metadata_space_map_root.nr_blocks == 0
    expected = held.facts["expected_held_root"]
    assert (found.time, found.trans_id) == (expected["time"], expected["transaction_id"])


def test_space_usage_is_that_of_the_space_maps(image: Image) -> None:
    expected = image.facts["expected"]

    with thinmeta.open_pool(image.meta) as pool:
        data, metadata = pool.data_space, pool.metadata_space

    assert data.blocks == expected["nr_data_blocks"]
    assert data.allocated == expected["used_data_blocks"]
    assert data.free == expected["free_data_blocks"]
    assert metadata.free == expected["free_metadata_blocks"]
    assert metadata.free + metadata.allocated == metadata.blocks


@pytest.mark.parametrize("name", STATUS_IS_FINAL)
def test_the_kernel_s_own_used_counts_agree(corpus: Corpus, name: str) -> None:
    image = corpus[name]
    reported = image.facts["kernel_reported"]["pool"]
    with thinmeta.open_pool(image.meta) as pool:
        data, metadata = pool.data_space, pool.metadata_space

    assert (data.blocks, data.allocated) == (reported["data_total"], reported["data_used"])
    reserve = min(metadata.blocks // 10, 4096)  # the kernel counts it as used
    assert metadata.allocated + reserve == reported["metadata_used"]
    assert metadata.blocks == reported["metadata_total"]


@pytest.mark.parametrize("same", [False, True])
def test_delta_is_what_a_plain_comparison_gives(image: Image, same: bool) -> None:
    ids = sorted(image.model.devices)
    pairs = [*itertools.islice(itertools.pairwise(ids), 12), *zip(ids[:1], ids[-1:], strict=True)]

    with thinmeta.open_pool(image.meta) as pool:
        for left, right in [*pairs, *((b, a) for a, b in pairs)]:
            delta = pool.delta(left, right, same=same)
            wanted = image.model.delta(left, right, same=same)
            assert rows(delta) == wanted
            assert delta.merged() == merged(wanted)
            changed = sum(row.length for row in wanted if row.kind != "same")
            assert delta.changed_bytes == changed * image.model.block_bytes


def test_delta_of_a_device_with_itself_is_empty(image: Image) -> None:
    with thinmeta.open_pool(image.meta) as pool:
        for device in pool.devices.values():
            assert len(pool.delta(device, device)) == 0


def rows(delta: thinmeta.Delta) -> list[DeltaRow]:
    out = []
    for row in delta:
        assert row.begin_bytes == row.begin_blocks * delta.data_block_size_bytes
        assert row.length_bytes == row.length_blocks * delta.data_block_size_bytes
        out.append(
            DeltaRow(
                row.kind,
                row.begin_blocks,
                row.length_blocks,
                row.left_data_block,
                row.right_data_block,
            )
        )
    return out


@pytest.mark.parametrize("root", ["live", "held"])
def test_what_the_peers_recorded_of_listings_and_deltas_is_what_we_say(
    image: Image, root: Literal["live", "held"]
) -> None:
    for peer in image.peers():
        if root not in peer:
            continue
        ls, deltas = peer[root]["thin_ls"], peer[root]["thin_delta"]["ranges"]
        with thinmeta.open_pool(
            image.meta, metadata_snapshot="held" if root == "held" else None
        ) as pool:
            shares = pool.exclusive_blocks()
            ours = [
                [
                    device.id,
                    device.mapped_blocks,
                    *shares[device.id],
                    device.transaction_id,
                    device.creation_time,
                    device.snapshotted_time,
                ]
                for device in pool.devices.values()
            ]
            assert ours == ls["rows"], peer["version"]
            for pair, ranges in deltas.items():
                left, right = map(int, pair.split())
                theirs = merged((peer_kind(tag), b, n) for tag, b, n in ranges if tag != "same")
                assert pool.delta(left, right).merged() == theirs, (peer["version"], pair)


def test_check_agrees_with_1_x_on_what_is_an_error(image: Image) -> None:
    for peer in image.peers():
        if peer["version"] == "0.9.0":
            continue  # a leak is no error there
        assert thinmeta.check(image.meta).is_clean == (peer["thin_check"]["status"] == 0)


def test_exclusive_and_shared_blocks_are_those_of_a_plain_count(image: Image) -> None:
    with thinmeta.open_pool(image.meta) as pool:
        assert pool.exclusive_blocks() == image.model.exclusive_blocks()
        assert pool.exclusive_blocks(threads=1) == pool.exclusive_blocks(threads=8)


def test_the_installed_tools_say_the_same_today(image: Image, thin_tools: ThinTools) -> None:
    assert thin_tools.dump(image.meta) == dumped(image)
    assert thin_tools.check(image.meta) == 0
    with thinmeta.open_pool(image.meta) as pool:
        assert thin_tools.exclusive_blocks(image.meta) == pool.exclusive_blocks()


@pytest.mark.parametrize("device_ids", [[0], [2, 0], []])
def test_dump_of_some_devices_prints_only_those(corpus: Corpus, device_ids: list[int]) -> None:
    image, out = corpus["pair-zeroing-2"], io.BytesIO()
    with thinmeta.open_pool(image.meta) as pool:
        thinmeta.dump(pool, out, device_ids=device_ids)

    got = PoolModel.from_xml(out.getvalue())
    assert got.devices == {d: image.model.devices[d] for d in sorted(device_ids)}


@pytest.mark.parametrize("name", OTHER_TARGETS)
def test_metadata_of_other_targets_is_told_apart(corpus: Corpus, name: str) -> None:
    other = corpus[name]
    for use in (thinmeta.open_pool, thinmeta.check):
        with pytest.raises(thinmeta.UnsupportedFormatError, match=other.facts["kind"]):
            use(other.meta)
