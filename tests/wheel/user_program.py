"""What a user of the installed wheel may write: type-checked and run against it.

Uses the promised names and nothing but the standard library, since the wheel brings no
other package along.
"""

import io
import sys
from collections.abc import Iterator

import thinmeta
from thinmeta.errors import NoSuchDeviceError


def mapped_bytes(pool: thinmeta.Pool) -> Iterator[tuple[int, int]]:
    block_bytes: int = pool.superblock.data_block_size * 512
    for device_id, device in pool.devices.items():
        runs: int = sum(run.length_blocks for run in device.runs())
        if runs != device.mapped_blocks:
            raise AssertionError(f"device {device_id}: {runs} != {device.mapped_blocks}")
        yield device_id, runs * block_bytes


def first_mapping(device: thinmeta.ThinDevice) -> thinmeta.BlockMapping | None:
    for run in device.runs(0, None):
        found: thinmeta.BlockMapping | None = device.find(run.virtual_begin)
        return found
    return None


def changed_ranges(pool: thinmeta.Pool, left: int, right: int) -> list[tuple[int, int]]:
    delta: thinmeta.Delta = pool.delta(left, right)
    ranges = [(row.begin_bytes, row.length_bytes) for row in delta if row.kind != "same"]
    if sum(length for _, length in ranges) != delta.changed_bytes:
        raise AssertionError("the rows do not add up")
    return ranges


def show_progress(done: int, total: int) -> None:
    print(f"{done} of {total}", file=sys.stderr)


def main(metadata: str, data: str) -> int:
    report: thinmeta.CheckReport = thinmeta.check(metadata, progress=show_progress)
    for finding in report.findings:
        print(finding.code, finding.severity, finding.block)
    with thinmeta.open_pool(metadata, data=data) as pool:
        space: thinmeta.SpaceUsage = pool.data_space
        print(f"{space.allocated} of {space.blocks} data blocks")
        for device_id, size in mapped_bytes(pool):
            print(device_id, size, first_mapping(pool.devices[device_id]))
        first, second, *_ = pool.devices
        print(changed_ranges(pool, first, second)[:3])
        with pool.devices[first].open() as volume:
            head: bytes | None = volume.read(4096)
            print(len(head or b""), volume.seek(0))
        print(len(pool.devices[first].mappings()))
        xml = io.BytesIO()
        thinmeta.dump(pool, xml)
        print(xml.getvalue().splitlines()[0])
        try:
            print(pool.devices[1 << 20])
        except NoSuchDeviceError as error:
            missing: int = error.device_id
            print(missing, error)
    try:
        with thinmeta.open_pool(data) as not_a_pool:
            print(not_a_pool.devices)
    except (thinmeta.NotFormattedError, thinmeta.UnsupportedFormatError) as error:
        print(error)
    except thinmeta.DamagedBlockError as error:
        print(error.block, error.validator, error.check, error.found, error.expected)
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
