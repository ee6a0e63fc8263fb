"""dm-thin pool metadata in userland: list, check, dump, compare, extract, change.

A pool's metadata says which block of the pool's data belongs to which block of
which thin volume. This package reads it from a device or an image, with no kernel::

    import thinmeta

    with thinmeta.open_pool("metadata.img", data="data.img") as pool:
        for device in pool.devices.values():
            print(device.id, device.mapped_blocks)
        delta = pool.delta(1, 2)
        print(delta.changed_bytes)
        with pool.devices[2].open() as volume:
            first = volume.read(4096)

    assert thinmeta.check("metadata.img").is_clean

Only names live here, and each is imported when it is first used: ``import
thinmeta`` costs next to nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta import errors
    from thinmeta._core import BlockMapping, Run, __version__
    from thinmeta.bookmark import Bookmark
    from thinmeta.delta import Delta
    from thinmeta.devices import Devices, ThinDevice
    from thinmeta.errors import (
        AbortedError,
        AlreadyFormattedError,
        DamagedBlockError,
        DamagedRepositoryError,
        DeviceExistsError,
        DeviceInUseError,
        LivePoolError,
        ManagedByLvmError,
        MetadataSnapshotHeldError,
        NoMetadataSnapshotError,
        NoSpaceError,
        NoSuchDeviceError,
        NoSuchGenerationError,
        NoSuchTreeError,
        NotFormattedError,
        ObjectStoreError,
        OtherVersionError,
        PoisonedError,
        ReadOnlyError,
        RemoteError,
        RepositoryBusyError,
        RepositoryError,
        RepositoryKeyError,
        StaleTransactionError,
        StreamError,
        ThinmetaError,
        UnreadableError,
        UnsoundPoolError,
        UnsupportedFormatError,
        UsageError,
        VerificationError,
        WouldBlockError,
        WrongBaseError,
        XmlError,
    )
    from thinmeta.live import LivePool, LiveStatus, LiveVolume, live_pool
    from thinmeta.mappings import BlockMappings, Mappings
    from thinmeta.mending import AutoRepair, auto_repair
    from thinmeta.merging.snapshot import MergePlan, merge, plan_merge
    from thinmeta.packing import pack, unpack
    from thinmeta.pool import Pool, open_pool
    from thinmeta.repairing import RepairPlan, plan_repair, repair
    from thinmeta.restoring import restore
    from thinmeta.rmap import ReverseMap
    from thinmeta.shrinking import ShrinkPlan, Shrunk, plan_shrink, shrink
    from thinmeta.tools import check, dump
    from thinmeta.transaction import PoolTransaction
    from thinmeta.trimming import Trimmed, trim
    from thinmeta.types import (
        AffectedRange,
        CheckReport,
        DeltaRange,
        DeviceDetails,
        Finding,
        NewPool,
        PackedMetadata,
        ReverseRun,
        SpaceMapRoot,
        SpaceUsage,
        Superblock,
        UnpackedMetadata,
    )
    from thinmeta.volume import Volume, WritableVolume

__all__ = [
    "AbortedError",
    "AffectedRange",
    "AlreadyFormattedError",
    "AutoRepair",
    "BlockMapping",
    "BlockMappings",
    "Bookmark",
    "CheckReport",
    "DamagedBlockError",
    "DamagedRepositoryError",
    "Delta",
    "DeltaRange",
    "DeviceDetails",
    "DeviceExistsError",
    "DeviceInUseError",
    "Devices",
    "Finding",
    "LivePool",
    "LivePoolError",
    "LiveStatus",
    "LiveVolume",
    "ManagedByLvmError",
    "Mappings",
    "MergePlan",
    "MetadataSnapshotHeldError",
    "NewPool",
    "NoMetadataSnapshotError",
    "NoSpaceError",
    "NoSuchDeviceError",
    "NoSuchGenerationError",
    "NoSuchTreeError",
    "NotFormattedError",
    "ObjectStoreError",
    "OtherVersionError",
    "PackedMetadata",
    "PoisonedError",
    "Pool",
    "PoolTransaction",
    "ReadOnlyError",
    "RemoteError",
    "RepairPlan",
    "RepositoryBusyError",
    "RepositoryError",
    "RepositoryKeyError",
    "ReverseMap",
    "ReverseRun",
    "Run",
    "ShrinkPlan",
    "Shrunk",
    "SpaceMapRoot",
    "SpaceUsage",
    "StaleTransactionError",
    "StreamError",
    "Superblock",
    "ThinDevice",
    "ThinmetaError",
    "Trimmed",
    "UnpackedMetadata",
    "UnreadableError",
    "UnsoundPoolError",
    "UnsupportedFormatError",
    "UsageError",
    "VerificationError",
    "Volume",
    "WouldBlockError",
    "WritableVolume",
    "WrongBaseError",
    "XmlError",
    "__version__",
    "auto_repair",
    "check",
    "dump",
    "errors",
    "live_pool",
    "merge",
    "open_pool",
    "pack",
    "plan_merge",
    "plan_repair",
    "plan_shrink",
    "repair",
    "restore",
    "shrink",
    "trim",
    "unpack",
]

if not TYPE_CHECKING:  # a checker must still refuse names that are not there
    _HOMES = {
        "_core": "BlockMapping Run __version__",
        "bookmark": "Bookmark",
        "delta": "Delta",
        "live": "LivePool LiveStatus LiveVolume live_pool",
        "mappings": "BlockMappings Mappings",
        "merging.snapshot": "MergePlan merge plan_merge",
        "mending": "AutoRepair auto_repair",
        "devices": "Devices ThinDevice",
        "packing": "pack unpack",
        "pool": "Pool open_pool",
        "repairing": "RepairPlan plan_repair repair",
        "restoring": "restore",
        "rmap": "ReverseMap",
        "shrinking": "ShrinkPlan Shrunk plan_shrink shrink",
        "tools": "check dump",
        "transaction": "PoolTransaction",
        "trimming": "Trimmed trim",
        "types": (
            "AffectedRange CheckReport DeltaRange DeviceDetails Finding NewPool PackedMetadata "
            "ReverseRun SpaceMapRoot SpaceUsage Superblock UnpackedMetadata"
        ),
        "volume": "Volume WritableVolume",
    }

    def __getattr__(name):
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "errors":
            return import_module("thinmeta.errors")
        home = next((home for home, names in _HOMES.items() if name in names.split()), "errors")
        value = globals()[name] = getattr(import_module(f"thinmeta.{home}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
