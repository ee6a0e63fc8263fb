"""Pools that are changed at random: a model, and both generations of the tools, agree."""

import io
import os
import shutil
import subprocess
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import thinmeta
from histories import History
from model import PoolModel
from ondisk import BLOCK
from oracles import NewerTools, ThinTools, newer_tools

#: Histories in a plain run; `make histories` asks for more.
HISTORIES = int(os.environ.get("THINMETA_HISTORIES", "40"))
FIRST_SEED = int(os.environ.get("THINMETA_HISTORY_SEED", "1"))
STEPS = 6


def dumped(image: Path, *, snapshot: bool = False, shared: bool = False) -> bytes:
    out = io.BytesIO()
    with thinmeta.open_pool(image, metadata_snapshot="held" if snapshot else None) as pool:
        thinmeta.dump(pool, out, shared=shared)
    return out.getvalue()


def test_every_state_is_the_models_and_sound_for_both_generations_of_the_tools(
    thin_tools: ThinTools, tmp_path: Path
) -> None:
    newer = newer_tools()
    judged: deque[Future[None]] = deque()
    # The newer check sleeps for half a second, whatever it checks.
    with ThreadPoolExecutor(32) as beside:
        for seed in range(FIRST_SEED, FIRST_SEED + HISTORIES):
            history = History(tmp_path / "meta.img", seed)
            for step in range(STEPS):
                history.step()
                history.close()
                where = f"seed {seed}, step {step}"
                judge(thin_tools, history, where)
                if newer:
                    copy = tmp_path / f"{seed}-{step}.img"
                    shutil.copyfile(history.image, copy)
                    models = deepcopy((history.model, history.held))
                    judged.append(beside.submit(judge_by_newer, newer, copy, models, where))
                while len(judged) > 64:
                    judged.popleft().result()
                history.reopen()
            history.close()
        for verdict in judged:
            verdict.result()


def judge(thin_tools: ThinTools, history: History, where: str) -> None:
    image = history.image
    assert thinmeta.check(image).is_clean, where
    checked = thin_tools.run("thin_check", image)
    assert checked.returncode == 0, where
    assert not complaints(checked), where
    listing = dumped(image)
    assert listing == thin_tools.dump(image), where
    assert PoolModel.from_xml(listing) == history.model, where
    if history.held:
        held = dumped(image, snapshot=True)
        assert PoolModel.from_xml(held) == history.held, where
        assert held == thin_tools.dump(image, "-m"), where


def judge_by_newer(
    newer: NewerTools, image: Path, models: tuple[PoolModel, PoolModel | None], where: str
) -> None:
    model, held = models
    checked = newer.run("thin_check", image)
    assert checked.returncode == 0, (where, checked)
    assert not complaints(checked), where
    assert PoolModel.from_xml(newer.dump(image)) == model, where
    if held:
        assert PoolModel.from_xml(newer.dump(image, "-m")) == held, where
    image.unlink()


#: What both generations say when nothing is wrong.
PROGRESS = {
    b"examining superblock",
    b"examining devices tree",
    b"examining mapping tree",
    b"checking space map counts",
    b"Checking thin metadata",
    b"device details tree",
    b"mapping tree",
    b"data space map",
    b"metadata space map",
}


def complaints(checked: subprocess.CompletedProcess[bytes]) -> list[bytes]:
    """Lines of a check that are not about its progress."""
    lines = (checked.stderr + checked.stdout).splitlines()
    told = (b"TRANSACTION_ID=", b"METADATA_FREE_BLOCKS=")
    return [line for line in lines if line not in PROGRESS and not line.startswith(told)]


def test_a_complaint_would_be_seen(thin_tools: ThinTools, tmp_path: Path) -> None:
    history = History(tmp_path / "meta.img", 3)
    with history.pool.transaction() as txn:
        txn.create_thin(5)
        txn.insert(5, virtual_block=0, data_block=7)
    root = history.pool.superblock.device_details_root
    history.close()
    with history.image.open("r+b") as file:
        file.seek(root * BLOCK + 100)
        file.write(b"\xff")
    assert not thinmeta.check(history.image).is_clean
    newer = newer_tools()
    assert complaints(thin_tools.run("thin_check", history.image))
    assert newer is None or complaints(newer.run("thin_check", history.image))
