"""Which generations a prune keeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from thinmeta.backup.manifest import StoredGeneration

__all__ = ["KeepRules", "groups_of"]


@dataclass(frozen=True, slots=True)
class KeepRules:
    """How many generations of each volume stay.

    Each rule is for itself, and what one of them keeps stays. Days, weeks (of ISO 8601, from
    Monday on) and months are those of UTC, and only such count in which there is a generation.

    Attributes:
        last: So many of the newest.
        daily: The newest of each of so many of the latest days.
        weekly: The same of weeks.
        monthly: The same of months.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    def __bool__(self) -> bool:
        """Whether anything is kept."""
        return max(self.last, self.daily, self.weekly, self.monthly) > 0

    def kept(self, group: list[StoredGeneration]) -> dict[str, list[str]]:
        """Names of the generations of one volume that stay, and the rules that say so.

        Args:
            group: All of them, the oldest first.
        """
        rules: list[tuple[str, int, Callable[[datetime], str] | None]] = [
            ("last", self.last, None),
            ("daily", self.daily, lambda when: f"{when:%Y-%m-%d}"),
            ("weekly", self.weekly, lambda when: f"{when:%G-W%V}"),
            ("monthly", self.monthly, lambda when: f"{when:%Y-%m}"),
        ]
        reasons: dict[str, list[str]] = {}
        for rule, most, period_of in rules:
            seen: set[str] = set()
            for number, each in enumerate(reversed(group), 1):
                if len(seen) == most:
                    break
                period = str(number) if period_of is None else period_of(each.created_at)
                if period not in seen:
                    seen.add(period)
                    reasons.setdefault(each.name, []).append(f"{rule} {period}")
        return reasons


def groups_of(stored: Iterable[StoredGeneration]) -> list[list[StoredGeneration]]:
    """Generations by volume, each the oldest first.

    Those of one volume have the same name for it, and are of one pool as far as those have
    uuids. Without a name, they are of one device of one pool, or of one lineage: any generation
    of a pool may be a base, and need not be of the same volume.
    """
    found = sorted(stored, key=lambda each: each.name)
    above: dict[object, object] = {}

    def top(each: object) -> object:
        while (over := above.setdefault(each, each)) != each:
            above[each] = above[over]
            each = over
        return each

    for each in found:
        if each.volume:
            # Two hosts may have a volume of that name, and pools that are known apart.
            above[top(each.name)] = top((each.volume, each.identity.pool_uuid))
        else:
            above[top(each.name)] = top((each.pool, each.identity.device_id, "device"))
            above[top(each.name)] = top((each.lineage, "lineage"))
    groups: dict[object, list[StoredGeneration]] = {}
    for each in found:
        groups.setdefault(top(each.name), []).append(each)
    return list(groups.values())
