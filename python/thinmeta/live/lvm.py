"""Pools of LVM: told by their names, listed and changed by LVM's own programs.

Sources: lvs(8), lvcreate(8), lvchange(8), lvremove(8), lvmthin(7), lvmreport(7).
"""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass

from thinmeta.errors import DeviceInUseError, LivePoolError
from thinmeta.live.programs import QUESTION_SECONDS, finish, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LvmPool", "LvmVolume", "is_name", "join_name", "layered", "pool_of", "split_name"]

#: What names of groups and volumes consist of; none begins with a hyphen.
#: What LVM says where a volume cannot be deactivated.
_IN_USE = re.compile(r"in use|is used by|busy")
_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}")
_UUID = "LVM-"
_POOL_LAYER = "-tpool"
_COLUMNS = "lv_name,thin_id,lv_size,origin,lv_active,pool_lv"


def join_name(volume_group: str, name: str) -> str:
    """What device-mapper calls a volume of LVM: hyphens are doubled, one stands between."""
    return f"{volume_group.replace('-', '--')}-{name.replace('-', '--')}"


def split_name(name: str) -> tuple[str, str, str] | None:
    """Take such a name apart: the group, the volume, and the layer, if there is one.

    Returns:
        ``None`` for what cannot be a name of LVM's.
    """
    found = [""]
    for piece in re.findall(r"--|-|[^-]+", name):  # from the left, as LVM reads it
        if piece == "-":
            found.append("")
        else:
            found[-1] += "-" if piece == "--" else piece
    if not 2 <= len(found) <= 3 or not all(found):
        return None
    return found[0], found[1], found[2] if len(found) == 3 else ""


@dataclass(frozen=True, slots=True)
class LvmVolume:
    """A thin volume as LVM's books have it.

    Attributes:
        volume_group: Its group.
        name: What LVM calls it.
        device_id: Its number in the pool.
        size_bytes: Its size.
        origin: The volume that it is a snapshot of, or ``None``.
        active: Whether it is active on this host.
    """

    volume_group: str
    name: str
    device_id: int
    size_bytes: int
    origin: str | None
    active: bool

    @property
    def device_name(self) -> str:
        """What device-mapper calls it while it is active."""
        return join_name(self.volume_group, self.name)


@dataclass(frozen=True, slots=True)
class LvmPool:
    """A thin pool that LVM manages.

    Attributes:
        volume_group: Its group.
        name: What LVM calls it.
    """

    volume_group: str
    name: str

    @property
    def full_name(self) -> str:
        """``vg/pool``."""
        return f"{self.volume_group}/{self.name}"

    def volumes(self) -> list[LvmVolume]:
        """Its thin volumes, active or not, by their number.

        Raises:
            LivePoolError: ``lvs`` is missing or fails.
        """
        arguments = ("--reportformat", "json", "--units", "b", "--nosuffix", "-o", _COLUMNS)
        ran = run(self.full_name, "lvs", (*arguments, self.volume_group), seconds=QUESTION_SECONDS)
        if ran.status:
            raise LivePoolError(self.full_name, ran.reason, ran.number or errno.EIO)
        try:
            rows = [row for part in json.loads(ran.out)["report"] for row in part["lv"]]
            found = [self._volume(row) for row in rows if _pool_name(row) == self.name]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = f"lvs printed something that is not understood ({type(error).__name__})"
            raise LivePoolError(self.full_name, reason) from None
        return sorted(found, key=lambda volume: volume.device_id)

    def _volume(self, row: dict[str, Any]) -> LvmVolume:
        name, device_id, size = str(row["lv_name"]), int(row["thin_id"]), int(row["lv_size"])
        if not _NAME.fullmatch(name) or not 0 <= device_id < 1 << 24 or not 0 <= size < 1 << 64:
            raise ValueError(name)
        return LvmVolume(
            volume_group=self.volume_group,
            name=name,
            device_id=device_id,
            size_bytes=size,
            origin=_plain(row.get("origin")) or None,
            # json has "active", json_std a number
            active=str(row.get("lv_active", "")).startswith(("active", "1")),
        )

    def volume(self, name: str) -> LvmVolume:
        """A thin volume by its name.

        Raises:
            LivePoolError: The pool has none of that name, or ``lvs`` fails.
        """
        name = self._own(name)
        for volume in self.volumes():
            if volume.name == name:
                return volume
        reason = f"the pool has no thin volume {name!r}: 'lvs -o+thin_id' lists them"
        raise LivePoolError(self.full_name, reason, errno.ENOENT)

    def create_snapshot(self, name: str, *, origin: str, read_only: bool = True) -> LvmVolume:
        """Make a snapshot of a thin volume, as LVM does: the origin stands still meanwhile.

        It is not activated, here or when the host starts: LVM's *activation skip*.

        Raises:
            LivePoolError: There is a volume of that name, or ``lvcreate`` fails.
        """
        name, origin = self._own(name), self._own(origin)
        words = ["--snapshot", "--name", name, "--setactivationskip", "y"]
        words += ["--permission", "r" if read_only else "rw"]
        self._change("lvcreate", *words, f"{self.volume_group}/{origin}")
        try:
            return self.volume(name)
        except BaseException:
            self.remove(name)
            raise

    def activate(self, name: str) -> None:
        """Activate a thin volume, also one that activation skips.

        Raises:
            LivePoolError: ``lvchange`` fails.
        """
        words = ("--activate", "y", "--ignoreactivationskip")
        self._change("lvchange", *words, f"{self.volume_group}/{self._own(name)}")

    def deactivate(self, name: str) -> None:
        """Deactivate a thin volume.

        Raises:
            LivePoolError: It is in use, or ``lvchange`` fails.
        """
        self._change("lvchange", "--activate", "n", f"{self.volume_group}/{self._own(name)}")

    def remove(self, name: str) -> None:
        """Remove a thin volume; nobody is asked.

        Raises:
            DeviceInUseError: Somebody uses it.
            LivePoolError: ``lvremove`` fails otherwise.
        """
        volume = f"{self.volume_group}/{self._own(name)}"
        try:
            self._change("lvremove", "--force", volume)
        except LivePoolError as error:
            if _IN_USE.search(error.reason):
                raise DeviceInUseError(volume, error.reason) from error
            raise

    def _change(self, program: str, *words: str) -> None:
        ran = finish(lambda: run(self.full_name, program, words))
        if ran.status:
            raise LivePoolError(self.full_name, ran.reason, ran.number or errno.EIO)

    def _own(self, name: str) -> str:
        """A volume's name, which may come with the group's in front.

        Raises:
            LivePoolError: No volume of the group can have it.
        """
        name = name.removeprefix(f"{self.volume_group}/")
        if not _NAME.fullmatch(name):
            reason = f"no volume can be called {name!r}"
            raise LivePoolError(self.full_name, reason, errno.EINVAL)
        return name


def _plain(value: object) -> str:
    """A name without the brackets that mark hidden volumes."""
    return str(value or "").strip("[]")


def _pool_name(row: dict[str, Any]) -> str:
    return _plain(row.get("pool_lv"))


def is_name(word: str) -> bool:
    """Whether a word may be ``vg/volume``."""
    parts = word.split("/")
    return len(parts) == 2 and all(_NAME.fullmatch(part) for part in parts)


def pool_of(name: str, uuid: str) -> LvmPool | None:
    """The pool of LVM whose thin-pool device this is, or ``None`` for any other."""
    if not uuid.startswith(_UUID):
        return None
    parts = split_name(name)
    return None if parts is None else LvmPool(parts[0], parts[1])


def layered(name: str) -> str:
    """The device below a pool of LVM that has the thin-pool target."""
    return name + _POOL_LAYER
