"""Random pools, made by thin_restore: we and every peer say the same of them."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import thinmeta
from model import DeltaRow, PoolModel, merged, peer_kind
from oracles import ThinTools
from strategies import MAX_DATA_BLOCKS, pools

EXAMPLES = int(os.environ.get("THINMETA_EXAMPLES", "60"))
common = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each example's pool is put, over the one before."""
    return tmp_path_factory.mktemp("restored") / "meta.img"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data device in which every sector is different."""
    path = tmp_path_factory.mktemp("data") / "data.img"
    with path.open("wb") as file:
        for sector in range(MAX_DATA_BLOCKS * 384):
            file.write(hashlib.blake2b(b"%d" % sector, digest_size=64).digest() * 8)
    return path


def dumped(image: Path, **how: Any) -> bytes:
    out = io.BytesIO()
    thinmeta.dump(image, out, **how)
    return out.getvalue()


@common
@given(model=pools())
def test_dump_check_ls_and_delta_are_those_of_the_tools(
    thin_tools: ThinTools, image: Path, model: PoolModel
) -> None:
    thin_tools.restore(model.to_xml(), image)

    assert dumped(image) == thin_tools.dump(image)
    assert PoolModel.from_xml(dumped(image)) == model
    assert PoolModel.from_xml(dumped(image, shared=True)) == model
    assert thin_tools.check(image) == 0
    report = thinmeta.check(image)
    assert not [finding for finding in report.findings if finding.severity == "fatal"]
    with thinmeta.open_pool(image) as pool:
        assert pool.exclusive_blocks() == model.exclusive_blocks()
        assert pool.exclusive_blocks() == thin_tools.exclusive_blocks(image)
        for left, right in pairs(model):
            ours = pool.delta(left, right)
            theirs = thin_tools.delta(image, left, right)
            assert ours.merged() == merged((peer_kind(tag), b, n) for tag, b, n in theirs)
            rows = [
                DeltaRow(
                    r.kind, r.begin_blocks, r.length_blocks, r.left_data_block, r.right_data_block
                )
                for r in pool.delta(left, right, same=True)
            ]
            assert rows == model.delta(left, right, same=True)


def pairs(model: PoolModel) -> list[tuple[int, int]]:
    ids = sorted(model.devices)
    return [(a, b) for a in ids for b in ids][:9]


@common
@given(model=pools())
def test_what_we_dump_restores_to_the_same_pool(
    thin_tools: ThinTools, image: Path, model: PoolModel
) -> None:
    thin_tools.restore(model.to_xml(), image)
    first = dumped(image)
    thin_tools.restore(first, image)

    assert dumped(image) == first


@common
@given(model=pools(), choice=st.data())
def test_runs_find_and_mappings_tell_one_story(
    thin_tools: ThinTools, image: Path, model: PoolModel, choice: st.DataObject
) -> None:
    assume(model.devices)
    thin_tools.restore(model.to_xml(), image)
    device_model = model.devices[choice.draw(st.sampled_from(sorted(model.devices)))]
    edges = sorted({0, *(v + d for v in device_model.mappings for d in (0, 1))})
    start, stop = choice.draw(st.tuples(st.sampled_from(edges), st.sampled_from(edges)))

    with thinmeta.open_pool(image) as pool:
        device = pool.devices[device_model.id]
        runs = [(r.virtual_begin, r.data_begin, r.length_blocks, r.time) for r in device.runs()]
        assert runs == device_model.runs()
        part = {
            run.virtual_begin + i: (run.data_begin + i, run.time)
            for run in device.runs(start, stop)
            for i in range(run.length_blocks)
        }
        assert part == {v: m for v, m in device_model.mappings.items() if start <= v < stop}
        for virtual in edges:
            found = device.find(virtual)
            told = None if found is None else (found.data_block, found.time)
            assert told == device_model.mappings.get(virtual)


@common
@given(model=pools(max_virtual=120), choice=st.data())
def test_reads_of_random_ranges_of_a_volume_are_those_of_a_model(
    thin_tools: ThinTools, image: Path, data: Path, model: PoolModel, choice: st.DataObject
) -> None:
    small = [device_id for device_id, device in model.devices.items() if device.end_block <= 200]
    assume(small)
    thin_tools.restore(model.to_xml(), image)
    device_id = choice.draw(st.sampled_from(small))
    end = model.devices[device_id].end_block * model.block_bytes
    size = choice.draw(st.one_of(st.none(), st.integers(0, end + 2 * model.block_bytes)))
    origin = choice.draw(st.one_of(st.just(b""), st.binary(max_size=100).map(lambda b: b * 5000)))
    whole = model.content(device_id, data.read_bytes(), end if size is None else size, origin)

    with thinmeta.open_pool(image, data=data) as pool:
        with pool.devices[device_id].open(
            size_bytes=size, external_origin=io.BytesIO(origin)
        ) as volume:
            assert volume.size_bytes == len(whole)
            for _ in range(10):
                begin = choice.draw(st.integers(0, len(whole) + 10))
                length = choice.draw(
                    st.one_of(st.integers(0, 2000), st.integers(0, 6 * model.block_bytes))
                )
                volume.seek(begin)
                assert volume.read(length) == whole[begin : begin + length]
