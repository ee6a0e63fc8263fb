"""The thin devices of a pool that are active on this host."""

from __future__ import annotations

from thinmeta.live import dmsetup
from thinmeta.live.nodes import node_of
from thinmeta.live.status import LiveVolume, parse_thin_status, parse_thin_table

__all__ = ["active_volumes"]


def active_volumes(blame: str, number: str) -> list[LiveVolume]:
    """The thin devices of a pool, by number and name.

    Args:
        blame: What errors are about.
        number: The pool's device number, ``major:minor``.

    Raises:
        LivePoolError: ``dmsetup`` fails.
    """
    tables = {
        name: table
        for name, line in dmsetup.tables(blame, "thin").items()
        if (table := parse_thin_table(name, line)).pool == number
    }
    if not tables:
        return []
    infos = dmsetup.infos(blame)
    statuses = dmsetup.statuses(blame, "thin")
    found = []
    for name, table in tables.items():
        info = infos.get(name)
        if info is None:  # gone since
            continue
        line = statuses.get(name)
        mapped, highest = (None, None) if line is None else parse_thin_status(name, line)
        origin = table.external_origin
        found.append(
            LiveVolume(
                name=name,
                uuid=info.uuid,
                device_id=table.device_id,
                size_sectors=table.length_sectors,
                read_only=info.read_only,
                suspended=info.suspended,
                open_count=info.open_count,
                path=node_of(info.number),
                external_origin=None if origin is None else node_of(origin),
                mapped_sectors=mapped,
                highest_mapped_sector=highest,
            )
        )
    return sorted(found, key=lambda volume: (volume.device_id, volume.name))
