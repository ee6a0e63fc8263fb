"""Boots the kernel for the tests of this folder, or says why not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.blockdev import KernelLog
from kernel.disks import Disks
from kernel.relay import Inside, Outside, in_kernel
from kernel.uml import KERNEL, find_kernel
from oracles import missing

OUTSIDE = pytest.StashKey[Outside]()


def pytest_configure(config: pytest.Config) -> None:
    if in_kernel():
        config.pluginmanager.register(Inside(config))
        return
    kernel = find_kernel()
    if kernel is not None:
        config.stash[OUTSIDE] = Outside(kernel, config, Path(__file__).parent)


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    outside = item.config.stash.get(OUTSIDE, None)
    # This hook is asked for tests of other folders, too.
    if outside is None or not outside.is_ours(item):
        return None
    outside.run(item)
    return True


def pytest_unconfigure(config: pytest.Config) -> None:
    outside = config.stash.get(OUTSIDE, None)
    if outside is not None:
        outside.close()


@pytest.fixture(scope="session", autouse=True)
def kernel() -> None:
    if not in_kernel():
        missing(f"{KERNEL} (Debian's user-mode-linux) is not installed")


@pytest.fixture
def kernel_log() -> Iterator[KernelLog]:
    """What the kernel complains about; a test that does not look must not cause any."""
    log = KernelLog()
    yield log
    complaints = log.complaints()
    log.close()
    assert not complaints


@pytest.fixture
def disks(kernel_log: KernelLog) -> Iterator[Disks]:
    """Devices for one pool, which is not there yet."""
    with Disks() as made:
        made.clear()
        yield made
