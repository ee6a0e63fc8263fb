"""Hypothesis strategies: pools as somebody might really have made them."""

from hypothesis import strategies as st

from model import DeviceModel, PoolModel

MAX_DATA_BLOCKS = 96


@st.composite
def pools(draw: st.DrawFn, *, max_devices: int = 5, max_virtual: int = 400) -> PoolModel:
    """A pool of a few devices, some of them copies of another with changes.

    Runs are laid out as fragments of the data device in any order; a snapshot-like
    device starts with another one's mappings, loses some and has others moved.
    """
    blocks = draw(st.integers(1, MAX_DATA_BLOCKS))
    time = draw(st.integers(0, 9))
    pool = PoolModel(
        data_block_size_sectors=draw(st.sampled_from([128, 128, 256, 384])),
        nr_data_blocks=blocks,
        time=time,
        transaction_id=draw(st.integers(0, 2**40)),
    )
    ids = draw(
        st.lists(
            st.one_of(st.integers(0, 20), st.integers(0, 2**24 - 1)),
            unique=True,
            max_size=max_devices,
        )
    )
    for device_id in sorted(ids):
        device = DeviceModel(
            id=device_id,
            transaction_id=draw(st.integers(0, 2**32)),
            creation_time=draw(st.integers(0, time)),
            snapshotted_time=draw(st.integers(0, time)),
        )
        copies = draw(st.booleans())
        if pool.devices and copies:
            source = draw(st.sampled_from(sorted(pool.devices)))
            device.mappings = dict(pool.devices[source].mappings)
            for gone in draw(
                st.lists(st.sampled_from(sorted(device.mappings) or [0]), max_size=20)
            ):
                device.mappings.pop(gone, None)
        free = [b for b in range(blocks) if b not in device.blocks()]
        for _ in range(draw(st.integers(0, 8))):
            if not free:
                break
            virtual = draw(st.one_of(st.integers(0, max_virtual), st.integers(0, 2**40)))
            begin = draw(st.integers(0, len(free) - 1))
            when = draw(st.integers(0, time))
            for i in range(draw(st.integers(1, 12))):
                if begin >= len(free):
                    break
                device.mappings[virtual + i] = (free.pop(begin), when)
        device.mapped_blocks = len(device.mappings)
        pool.devices[device_id] = device
    return pool
