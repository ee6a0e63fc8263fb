"""Errors carry facts as attributes, belong to the families promised, and pickle."""

import copy
import errno
import pickle
from typing import Any

import pytest

import thinmeta
from thinmeta import errors

EXAMPLES: list[tuple[thinmeta.ThinmetaError, dict[str, Any]]] = [
    (
        errors.DamagedBlockError(7, "btree node", "checksum", 1, 2),
        {"block": 7, "validator": "btree node", "check": "checksum", "found": 1, "expected": 2},
    ),
    (
        errors.DamagedBlockError(7, "btree node", "depth", "deep", "16", "space map open"),
        {"block": 7, "found": "deep", "step": "space map open"},
    ),
    (
        errors.UnsoundPoolError("/dev/x", "data-count-low", "see check"),
        {"path": "/dev/x", "code": "data-count-low", "reason": "see check"},
    ),
    (errors.NoSpaceError("metadata"), {"space": "metadata"}),
    (
        errors.NoSpaceError("data", "all 8 blocks are in use"),
        {"space": "data", "reason": "all 8 blocks are in use"},
    ),
    (errors.WouldBlockError("not in the cache"), {"errno": errno.EAGAIN}),
    (errors.ReadOnlyError("opened to read"), {"errno": errno.EPERM}),
    (
        errors.DeviceInUseError("/dev/x", "a live pool"),
        {"path": "/dev/x", "filename": "/dev/x", "reason": "a live pool", "errno": errno.EBUSY},
    ),
    (errors.NoSuchDeviceError(12), {"device_id": 12}),
    (errors.NoSuchTreeError("inodes"), {"name": "inodes"}),
    (errors.DeviceExistsError(13), {"device_id": 13}),
    (errors.NotFormattedError("/dev/x"), {"path": "/dev/x"}),
    (errors.AlreadyFormattedError("/dev/x"), {"path": "/dev/x"}),
    (
        errors.UnsupportedFormatError("/dev/x", "looks like XML"),
        {"path": "/dev/x", "reason": "looks like XML"},
    ),
    (errors.MetadataSnapshotHeldError("held"), {}),
    (errors.NoMetadataSnapshotError("/dev/x"), {"path": "/dev/x"}),
    (errors.StaleTransactionError("found 2, expected 1"), {}),
    (errors.UsageError("the pool is closed"), {}),
    (errors.AbortedError("aborted"), {}),
    (errors.PoisonedError("poisoned"), {}),
    (errors.WrongBaseError("wrong base"), {}),
    (
        errors.VerificationError("/dev/x", 4096, 512, "it does not read as zeros"),
        {"path": "/dev/x", "offset_bytes": 4096, "length_bytes": 512},
    ),
    (errors.StreamError("cut short"), {}),
    (
        errors.XmlError("pool.xml", 3, 14, "no such tag"),
        {"path": "pool.xml", "line": 3, "column": 14, "reason": "no such tag"},
    ),
    (errors.UnreadableError("it cannot be read: Input/output error"), {}),
    (errors.OtherVersionError("it is of version 9"), {}),
    (
        errors.RepositoryKeyError("repo", "it is encrypted"),
        {"repository": "repo", "reason": "it is encrypted"},
    ),
    (
        errors.LivePoolError("pool", "it is gone", errno.ENXIO),
        {"pool": "pool", "reason": "it is gone", "errno": errno.ENXIO},
    ),
    (
        errors.ManagedByLvmError("vg/pool", "lvcreate does it"),
        {"pool": "vg/pool", "reason": "lvcreate does it"},
    ),
    (
        errors.RemoteError("host", "no route to it", 255),
        {"host": "host", "reason": "no route to it", "status": 255},
    ),
    (
        errors.RepositoryError("repo", "it is none"),
        {"repository": "repo", "reason": "it is none"},
    ),
    (
        errors.DamagedRepositoryError("repo", "one is missing", ("packs/a",), ("0001",)),
        {"reason": "one is missing", "objects": ("packs/a",), "restorable": ("0001",)},
    ),
    (
        errors.NoSuchGenerationError("repo", "there is none", "0007"),
        {"reason": "there is none", "generation": "0007"},
    ),
    (
        errors.RepositoryBusyError("repo", "a backup is being made"),
        {"reason": "a backup is being made", "errno": errno.EBUSY},
    ),
    (
        errors.ObjectStoreError("s3://b", "no credentials", errno.EACCES),
        {"reason": "no credentials", "errno": errno.EACCES},
    ),
]


@pytest.mark.parametrize(("error", "facts"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_every_error_keeps_its_facts_through_pickle_and_copy(
    error: thinmeta.ThinmetaError, facts: dict[str, Any]
) -> None:
    for again in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert {name: getattr(again, name) for name in facts} == facts
        assert str(again) == str(error)
        assert isinstance(again, thinmeta.ThinmetaError)


@pytest.mark.parametrize(("error", "facts"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_every_error_reads_as_one_line_that_names_its_facts(
    error: thinmeta.ThinmetaError, facts: dict[str, Any]
) -> None:
    message = str(error)
    assert message
    assert "\n" not in message
    for name in ("block", "space", "path", "reason", "device_id", "name", "step"):
        if name in facts:
            assert str(facts[name]) in message


def test_every_public_error_has_an_example_here() -> None:
    classes = {getattr(errors, name) for name in errors.__all__} - {errors.ThinmetaError}
    assert classes == {type(error) for error, _ in EXAMPLES}


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (thinmeta.WouldBlockError, BlockingIOError),
        (thinmeta.ReadOnlyError, PermissionError),
        (thinmeta.DeviceInUseError, OSError),
        (thinmeta.NoSuchDeviceError, KeyError),
        (thinmeta.NoSuchTreeError, KeyError),
        (thinmeta.UsageError, ValueError),
    ],
)
def test_some_errors_belong_to_a_family_of_python_s_own(
    error: type[Exception], family: type[Exception]
) -> None:
    assert issubclass(error, family)
    assert issubclass(error, thinmeta.ThinmetaError)


def test_an_error_of_the_native_module_pickles(corpus: Any, tmp_path: Any) -> None:
    path = tmp_path / "meta.img"
    raw = bytearray(corpus["sequential"].meta.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(thinmeta.DamagedBlockError) as caught:
        thinmeta.open_pool(path)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.block, again.found, again.expected) == (
        0,
        caught.value.found,
        caught.value.expected,
    )
