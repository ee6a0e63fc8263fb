"""Results go whole into Arrow, NumPy, polars and duckdb, without a row in Python."""

import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import thinmeta
from corpus import Corpus, Image
from oracles import require_module

NAMES = ["virtual_block", "data_block", "time"]
DELTA_NAMES = [
    "kind",
    "begin_blocks",
    "length_blocks",
    "begin_bytes",
    "length_bytes",
    "left_data_block",
    "right_data_block",
]


@pytest.fixture(params=["random-60k", "snap-chain", "pair-zeroing-2"])
def image(request: pytest.FixtureRequest, corpus: Corpus) -> Image:
    return corpus[request.param]


@pytest.fixture
def pool(image: Image) -> Iterator[thinmeta.Pool]:
    with thinmeta.open_pool(image.meta) as opened:
        yield opened


@pytest.fixture
def chain(corpus: Corpus) -> Iterator[thinmeta.Pool]:
    with thinmeta.open_pool(corpus["snap-chain"].meta) as opened:
        yield opened


def wanted_mappings(image: Image, device_id: int) -> list[tuple[int, int, int]]:
    mappings = image.model.devices[device_id].mappings
    return [(virtual, data, time) for virtual, (data, time) in sorted(mappings.items())]


def wanted_delta(image: Image) -> list[tuple[object, ...]]:
    size = image.model.block_bytes
    return [
        (row.kind, row.begin, row.length, row.begin * size, row.length * size, row.left, row.right)
        for row in image.model.delta(0, 20, same=True)
    ]


def test_mappings_are_a_pyarrow_table(image: Image, pool: thinmeta.Pool) -> None:
    pa: Any = require_module("pyarrow")
    for device in pool.devices.values():
        table = pa.table(device.mappings())
        assert table.column_names == NAMES
        assert [str(t) for t in table.schema.types] == ["uint64", "uint64", "uint32"]
        table.validate(full=True)
        rows = zip(*(table.column(name).to_pylist() for name in NAMES), strict=True)
        assert list(rows) == wanted_mappings(image, device.id)


def test_mappings_stream_in_batches(corpus: Corpus) -> None:
    pa: Any = require_module("pyarrow")
    with thinmeta.open_pool(corpus["random-60k"].meta) as pool:
        mappings = pool.devices[0].mappings()
        reader = pa.RecordBatchReader.from_stream(mappings)
        sizes = [batch.num_rows for batch in reader]
        assert sum(sizes) == len(mappings) == 60000
        again = pa.RecordBatchReader.from_stream(mappings)
        assert again.read_next_batch().num_rows == sizes[0]


def test_a_stream_outlives_the_objects_it_came_from(corpus: Corpus) -> None:
    pa: Any = require_module("pyarrow")
    with thinmeta.open_pool(corpus["random-60k"].meta) as pool:
        reader = pa.RecordBatchReader.from_stream(pool.devices[0].mappings())
        assert reader.read_all().num_rows == 60000
        table = pa.table(pool.devices[0].mappings())
        delta = pa.table(pool.delta(0, 0, same=True))
    assert table.num_rows == 60000
    assert sum(delta.column("length_blocks").to_pylist()) == 60000


def test_an_unread_stream_is_given_back_quietly(corpus: Corpus) -> None:
    with thinmeta.open_pool(corpus["random-60k"].meta) as pool:
        for _ in range(10):
            pool.devices[0].mappings().__arrow_c_stream__()
            pool.delta(0, 0, same=True).__arrow_c_stream__()


def test_schemas_are_known_before_anything_is_read(chain: thinmeta.Pool) -> None:
    pa: Any = require_module("pyarrow")
    assert pa.schema(chain.devices[0].mappings()).names == NAMES
    schema = pa.schema(chain.delta(0, 20))
    assert schema.names == DELTA_NAMES
    assert schema.field("left_data_block").nullable
    assert schema.field("right_data_block").nullable


def test_delta_is_a_pyarrow_table_with_nulls_where_unmapped(
    corpus: Corpus, chain: thinmeta.Pool
) -> None:
    pa: Any = require_module("pyarrow")
    table = pa.table(chain.delta(0, 20, same=True))
    assert table.column_names == DELTA_NAMES
    table.validate(full=True)
    columns = [
        table.column(name).cast(pa.string() if name == "kind" else pa.int64())
        for name in DELTA_NAMES
    ]
    assert list(zip(*(c.to_pylist() for c in columns), strict=True)) == wanted_delta(
        corpus["snap-chain"]
    )
    kinds = set(table.column("kind").cast(pa.string()).to_pylist())
    assert kinds == {"changed", "left_only", "right_only", "same"}


def test_an_empty_delta_is_an_empty_table(chain: thinmeta.Pool) -> None:
    pa: Any = require_module("pyarrow")
    table = pa.table(chain.delta(3, 3))
    assert (table.num_rows, table.column_names) == (0, DELTA_NAMES)


def test_polars_takes_both(corpus: Corpus, image: Image, pool: thinmeta.Pool) -> None:
    pl: Any = require_module("polars")
    frame = pl.DataFrame(pool.devices[0].mappings())
    assert frame.columns == NAMES
    assert frame.rows() == wanted_mappings(image, 0)
    with thinmeta.open_pool(corpus["snap-chain"].meta) as chain:
        delta = pl.DataFrame(chain.delta(0, 20, same=True))
    assert delta.with_columns(pl.col("kind").cast(pl.String)).rows() == wanted_delta(
        corpus["snap-chain"]
    )


def test_duckdb_asks_them_in_sql(corpus: Corpus, chain: thinmeta.Pool) -> None:
    duckdb: Any = require_module("duckdb")
    delta = chain.delta(0, 20, same=True)
    mappings = chain.devices[0].mappings()
    with duckdb.connect() as db:
        db.register("delta", delta)
        db.register("mappings", mappings)
        answer = db.sql(
            "select kind, sum(length_bytes) from delta group by all order by all"
        ).fetchall()
        count = db.execute("select count(distinct data_block) from mappings").fetchone()
    totals: dict[object, int] = {}
    for kind, _, _, _, length, *_ in wanted_delta(corpus["snap-chain"]):
        assert isinstance(length, int)
        totals[kind] = totals.get(kind, 0) + length
    assert answer == sorted(totals.items())
    assert count == (len(corpus["snap-chain"].model.devices[0].blocks()),)


def test_mappings_are_numpy_arrays(image: Image, pool: thinmeta.Pool) -> None:
    for device in pool.devices.values():
        arrays = device.mappings().to_numpy()
        assert list(arrays) == NAMES
        assert [arrays[name].dtype for name in NAMES] == [np.uint64, np.uint64, np.uint32]
        rows = list(zip(*(arrays[name].tolist() for name in NAMES), strict=True))
        assert rows == wanted_mappings(image, device.id)


def test_delta_is_numpy_arrays_masked_where_unmapped(corpus: Corpus, chain: thinmeta.Pool) -> None:
    arrays = chain.delta(0, 20, same=True).to_numpy()
    rows = list(zip(*(arrays[name].tolist() for name in DELTA_NAMES), strict=True))
    assert rows == wanted_delta(corpus["snap-chain"])
    assert arrays["begin_blocks"].dtype == np.uint64


def test_arrays_stay_valid_when_the_pool_is_gone(corpus: Corpus) -> None:
    image = corpus["snap-chain"]
    with thinmeta.open_pool(image.meta) as pool:
        arrays = pool.devices[7].mappings().to_numpy()
        delta = pool.delta(0, 20, same=True).to_numpy()
    del pool
    assert arrays["virtual_block"].tolist() == sorted(image.model.devices[7].mappings)
    assert delta["length_blocks"].sum() == sum(
        r.length for r in image.model.delta(0, 20, same=True)
    )


def test_columns_are_read_only_views(chain: thinmeta.Pool) -> None:
    arrays = chain.delta(0, 20).to_numpy()
    with pytest.raises(ValueError, match="read-only"):
        arrays["begin_blocks"][0] = 1


@pytest.mark.parametrize("form", ["numpy", "array", "memoryview"])
def test_many_blocks_are_found_at_once_from_any_buffer(
    image: Image, pool: thinmeta.Pool, form: str
) -> None:
    device, model = pool.devices[0], image.model.devices[0]
    blocks = [*range(500), *range(65000, 64500, -3), 2**64 - 1, 7, 7]
    buffers: dict[str, Any] = {
        "numpy": np.array(blocks, dtype=np.uint64),
        "array": array.array("Q", blocks),
        "memoryview": memoryview(array.array("Q", blocks)),
    }
    answer = device.find_many(buffers[form])
    assert len(answer) == len(blocks)
    columns = answer.to_numpy()
    for i, virtual in enumerate(blocks):
        single = device.find(virtual)
        assert bool(columns["mapped"][i]) == (virtual in model.mappings) == (single is not None)
        if single is not None:
            assert (int(columns["data_block"][i]), int(columns["time"][i])) == model.mappings[
                virtual
            ]
            assert bool(columns["shared"][i]) == single.shared


def test_looking_up_no_block_at_all_gives_no_rows(chain: thinmeta.Pool) -> None:
    assert len(chain.devices[0].find_many(array.array("Q"))) == 0


def test_a_buffer_of_another_type_is_refused(chain: thinmeta.Pool) -> None:
    wrongs: list[Any] = [np.array([1.5]), array.array("I", [1]), b"12345678"]
    for wrong in wrongs:
        with pytest.raises((TypeError, BufferError, ValueError)):
            chain.devices[0].find_many(wrong)
