"""Many random damages, repaired by us alone; with peers, and far more, in test_repair.py."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from corpus import Corpus
from damages import Tree, damage, mapped
from histories import History
from model import PoolModel
from ondisk import BLOCK
from oracles import ThinTools
from test_repair import model_of, repaired

#: Of each image.
DAMAGES = 15
IMAGES = ("crashed", "deleted", "discards", "metadata-snap", "restored-0.9.0")


def repaired_model(damaged: bytes, folder: Path, **options: Any) -> PoolModel | None:
    """What came of it; ``None`` where no device is left."""
    try:
        return repaired(damaged, folder, **options)[1]
    except thinmeta.UnsoundPoolError as error:
        if "no device was found" not in str(error):
            raise
        return None


def check_each(
    seed: str, content: bytes, older: list[bytes], sectors: int, folder: Path, tools: ThinTools
) -> int:
    """Damage the image again and again; how often something could be repaired."""
    draw = random.Random(seed)
    done = 0
    for _ in range(DAMAGES):
        damaged, what = damage(draw, content, older)
        options: dict[str, Any] = {}
        if damaged[:BLOCK] != content[:BLOCK]:
            options = {"data_block_size_sectors": sectors}
        provable = Tree(content).provable(damaged)
        model = repaired_model(damaged, folder, **options)
        if model is None:
            assert not provable, what
            continue
        assert provable <= mapped(model), what
        assert tools.check(folder / "repaired.img") == 0, what
        done += 1
    return done


@pytest.mark.parametrize("name", IMAGES)
def test_of_a_kernels_pool(
    corpus: Corpus, thin_tools: ThinTools, tmp_path: Path, name: str
) -> None:
    image = corpus[name]
    content, sectors = image.meta.read_bytes(), image.model.data_block_size_sectors
    assert check_each(name, content, [], sectors, tmp_path, thin_tools) > DAMAGES // 2


def test_of_a_pool_that_has_changed_often(thin_tools: ThinTools, tmp_path: Path) -> None:
    path = tmp_path / "history.img"
    history = History(path, 5, metadata_blocks=600)
    older = []
    for _ in range(10):
        history.step()
        older.append(path.read_bytes())
    history.close()
    content, sectors = path.read_bytes(), model_of(path).data_block_size_sectors
    assert check_each("often", content, older, sectors, tmp_path, thin_tools) > DAMAGES // 2
