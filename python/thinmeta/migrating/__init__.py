"""Migration: volumes from one pool to another, or to files or devices, read back and compared.

::

    from thinmeta.migrating import migrate
    from thinmeta.source import ImageGeneration
    from thinmeta.stream import PoolTarget

    with thinmeta.open_pool("meta.img", data="data.img") as pool:
        with ImageGeneration(pool, 2) as monday:
            migrate(monday, PoolTarget("other_meta.img", "other_data.img", 7))

Where content comes from is a :class:`thinmeta.source.Generation`; where it goes to is a
:class:`thinmeta.stream.Target`, with all that it does to be whole after a crash. What is here
copies from one to the other without a stream between them, and proves what it copied.
Devices that share blocks keep sharing them with :func:`migrate_family`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.migrating.family import (
        FamilyReport,
        MemberPlan,
        MemberReport,
        migrate_family,
        plan_family,
    )
    from thinmeta.migrating.report import MigrationReport, Verify
    from thinmeta.migrating.work import migrate

__all__ = [
    "FamilyReport",
    "MemberPlan",
    "MemberReport",
    "MigrationReport",
    "Verify",
    "migrate",
    "migrate_family",
    "plan_family",
]

if not TYPE_CHECKING:  # a checker must still refuse names that are not there
    _HOMES = {
        "family": "FamilyReport MemberPlan MemberReport migrate_family plan_family",
        "report": "MigrationReport Verify",
        "work": "migrate",
    }

    def __getattr__(name):
        from importlib import import_module

        home = next((home for home, names in _HOMES.items() if name in names.split()), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"thinmeta.migrating.{home}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
