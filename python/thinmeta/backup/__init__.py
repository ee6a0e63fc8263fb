"""Backup repositories: generations of volumes, in a folder or in an object store.

::

    from thinmeta.backup import Repository
    from thinmeta.source import ImageGeneration

    repository = Repository.init("/backup/web")
    with thinmeta.open_pool("meta.img", data="data.img") as pool:
        with ImageGeneration(pool, 2) as monday:
            repository.create(monday, volume="web")
    repository.restore("latest", "web.img")

``docs/backup.md`` tells what is stored, byte by byte, and why nothing is lost.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.backup.aio import AsyncRepository
    from thinmeta.backup.create import Outlook
    from thinmeta.backup.manifest import StoredGeneration
    from thinmeta.backup.markers import Marker
    from thinmeta.backup.objects import open_store
    from thinmeta.backup.prune import PruneReport
    from thinmeta.backup.repository import Repository
    from thinmeta.backup.restore import RestoreReport
    from thinmeta.backup.verify import Finding, GenerationState, VerifyReport

__all__ = [
    "AsyncRepository",
    "Finding",
    "GenerationState",
    "Marker",
    "Outlook",
    "PruneReport",
    "Repository",
    "RestoreReport",
    "StoredGeneration",
    "VerifyReport",
    "open_store",
]

if not TYPE_CHECKING:  # a checker must still refuse names that are not there
    _HOMES = {
        "aio": "AsyncRepository",
        "create": "Outlook",
        "manifest": "StoredGeneration",
        "markers": "Marker",
        "objects": "open_store",
        "prune": "PruneReport",
        "repository": "Repository",
        "restore": "RestoreReport",
        "verify": "Finding GenerationState VerifyReport",
    }

    def __getattr__(name):
        from importlib import import_module

        home = next((home for home, names in _HOMES.items() if name in names.split()), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"thinmeta.backup.{home}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
