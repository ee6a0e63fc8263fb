"""What deleting devices would free: by plain counting, and by really deleting them."""

from __future__ import annotations

import json
import random
import shutil
from itertools import combinations
from pathlib import Path

import pytest

import thinmeta
from corpus import Corpus, Image
from histories import History
from thinmeta.cli import main


def by_counting(image: Image, ids: set[int]) -> int:
    devices = image.model.devices.values()
    gone: set[int] = set()
    stay: set[int] = set()
    for device in devices:
        (gone if device.id in ids else stay).update(device.blocks())
    if image.has_held_root:
        for device in image.held_model.devices.values():
            stay |= device.blocks()
    return len(gone - stay)


@pytest.mark.parametrize("name", ["kernel-6.12", "snap-chain", "metadata-snap", "deleted"])
def test_the_corpus_by_counting(corpus: Corpus, name: str) -> None:
    image = corpus[name]
    ids = sorted(image.model.devices)
    draw = random.Random(name)
    with thinmeta.open_pool(image.meta) as pool:
        sets = [{each} for each in ids[:8]] + [set(two) for two in list(combinations(ids, 2))[:8]]
        sets += [set(draw.sample(ids, draw.randint(1, len(ids)))) for _ in range(6)] + [set(ids)]
        for chosen in sets:
            assert pool.freed_if_deleted(chosen)[0] == by_counting(image, chosen), chosen
        assert pool.freed_if_deleted([]) == (0, 0)
        with pytest.raises(thinmeta.NoSuchDeviceError):
            pool.freed_if_deleted([ids[0], 123_456])
        with pytest.raises(thinmeta.NoSuchDeviceError):
            pool.freed_if_deleted([-1])


@pytest.mark.parametrize("seed", range(12))
def test_deleting_frees_what_was_foretold(tmp_path: Path, seed: int) -> None:
    path, copy = tmp_path / "meta.img", tmp_path / "copy.img"
    history = History(path, seed)
    for _ in range(14):
        history.step()
    history.close()
    draw = random.Random(seed)
    with thinmeta.open_pool(path) as pool:
        ids = list(pool.devices)
        for _ in range(5):
            chosen = draw.sample(ids, draw.randint(0, len(ids)))
            data, metadata = pool.freed_if_deleted(chosen)
            shutil.copyfile(path, copy)
            with thinmeta.open_pool(copy, mode="r+") as other:
                before = (other.data_space.free, other.metadata_space.free)
                with other.transaction() as txn:
                    for each in chosen:
                        txn.delete(each)
                after = (other.data_space.free, other.metadata_space.free)
            assert after[0] - before[0] == data
            # Nodes above the devices are copied and merged, overflow trees shrink.
            freed = after[1] - before[1]
            assert abs(freed - metadata) <= 6


def test_the_command(corpus: Corpus, capfd: pytest.CaptureFixture[str]) -> None:
    image = corpus["kernel-6.12"]
    ids = sorted(image.model.devices)[:3]
    words = ",".join(map(str, ids))
    blocks = by_counting(image, set(ids))
    assert main(["ls", "--if-deleted", words, "--json", str(image.meta)]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["freed_data_blocks"] == blocks
    assert document["freed_data_bytes"] == blocks * 65536
    assert document["deleted"] == ids
    assert main(["ls", "--if-deleted", words, "--units", "blocks", str(image.meta)]) == 0
    assert f"free afterwards: {blocks} of data" in capfd.readouterr().out
    assert main(["ls", "--if-deleted", words, "-o", "all", str(image.meta)]) == 2
    assert main(["ls", "--if-deleted", ",", str(image.meta)]) == 2
    assert main(["ls", "--if-deleted", "424242", str(image.meta)]) == 1
    capfd.readouterr()
    assert main(["ls", "--if-deleted", "0", str(corpus["metadata-snap"].meta)]) == 0
    assert "holds a metadata snapshot" in capfd.readouterr().err
