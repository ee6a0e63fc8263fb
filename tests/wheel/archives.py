"""Look into a wheel and a source distribution: archives.py CLAIM PATH...

``tag WHEEL``, ``wheel WHEEL ROOT``, ``sdist SDIST ROOT``, ``same WHEEL WHEEL``.

A claim that does not hold ends it with a message and status 1.
"""

import fnmatch
import re
import sys
import tarfile
import zipfile
from pathlib import Path

NATIVE = "thinmeta/_core.abi3.so"
NEWEST_GLIBC = (2, 28)

# What a source distribution may hold beside the package: enough to build and to read.
SDIST = [
    "PKG-INFO",
    "Cargo.toml",
    "Cargo.lock",
    "pyproject.toml",
    "README.md",
    ".cargo/config.toml",
    "CHANGELOG.md",
    "LICENSE-*",
    "src/*.rs",
    "tests/core/*",
    "benches/*",
    "python/thinmeta/*",
]


def main(claim: str, *archives: str) -> None:
    match claim, archives:
        case "tag", (wheel,):
            check_tag(Path(wheel))
        case "wheel", (wheel, root):
            check_wheel(Path(wheel), Path(root))
        case "sdist", (sdist, root):
            check_sdist(Path(sdist), Path(root))
        case "same", (left, right):
            check_same(Path(left), Path(right))
        case _:
            sys.exit(__doc__)


def check_tag(wheel: Path) -> None:
    interpreter, abi, platforms = wheel.stem.split("-")[-3:]
    require((interpreter, abi) == ("cp311", "abi3"), f"{interpreter}-{abi} is not cp311-abi3")
    glibc = re.match(r"manylinux_(\d+)_(\d+)_", platforms)
    require(glibc is not None, f"{platforms} is no manylinux tag")
    if glibc:
        version = int(glibc[1]), int(glibc[2])
        require(version <= NEWEST_GLIBC, f"{platforms} is newer than manylinux_2_28")


def check_wheel(wheel: Path, root: Path) -> None:
    files = wheel_files(wheel)
    package = {name for name in files if ".dist-info/" not in name}
    expected = {NATIVE} | {f"thinmeta/{name}" for name in package_sources(root)}
    require(package == expected, difference(package, expected))
    check_stub(files["thinmeta/_core.pyi"], root)
    info = {name.partition(".dist-info/")[2] for name in files.keys() - package}
    licences = {"licenses/LICENSE-MIT", "licenses/LICENSE-APACHE"}
    expected = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", *licences}
    require(info == expected, difference(info, expected))
    with zipfile.ZipFile(wheel) as archive:
        links = [i.filename for i in archive.infolist() if i.external_attr >> 28 == 0o12]
    require(not links, f"links in the wheel: {links}")
    metadata = next(text for name, text in files.items() if name.endswith("/METADATA")).decode()
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    require(all("extra ==" in line for line in needs), f"run-time dependencies: {needs}")
    home = re.search(rb"/(root|home/\w+)/\.\w+/[\w./-]*", files[NATIVE])
    require(home is None, f"the native module names a folder of this machine: {home}")


def check_sdist(sdist: Path, root: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {m.name.partition("/")[2]: m for m in archive.getmembers() if not m.isdir()}
        odd = [name for name, m in members.items() if not m.isfile()]
        require(not odd, f"no regular files: {odd}")
        stub = archive.extractfile(members["python/thinmeta/_core.pyi"])
        check_stub(stub.read() if stub else b"", root)
    stray = [n for n in members if not any(fnmatch.fnmatch(n, p) for p in SDIST)]
    require(not stray, f"stray files: {stray}")
    prefix = "python/thinmeta/"
    package = {n.removeprefix(prefix) for n in members if n.startswith(prefix)}
    require(package == package_sources(root), difference(package, package_sources(root)))


def check_same(left: Path, right: Path) -> None:
    """The same name, files and bytes, but for the module's code, whose order may vary."""
    require(left.name == right.name, f"{left.name} and {right.name}")
    ours, theirs = wheel_files(left), wheel_files(right)
    require(ours.keys() == theirs.keys(), difference(set(theirs), set(ours)))
    varies = {NATIVE, *(name for name in ours if name.endswith("/RECORD"))}
    differ = [name for name in ours if name not in varies and ours[name] != theirs[name]]
    require(not differ, f"different contents: {differ}")


def check_stub(stub: bytes, root: Path) -> None:
    ours = (root / "stubs/thinmeta/_core.pyi").read_bytes()
    require(stub == ours, "thinmeta/_core.pyi is not stubs/thinmeta/_core.pyi")


def wheel_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def package_sources(root: Path) -> set[str]:
    """Names under python/thinmeta that belong to the package."""
    top = root / "python/thinmeta"
    kinds = ("*.py", "*.pyi", "py.typed")
    return {path.relative_to(top).as_posix() for kind in kinds for path in top.rglob(kind)}


def difference(found: set[str], expected: set[str]) -> str:
    return f"too many: {sorted(found - expected)}; missing: {sorted(expected - found)}"


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        sys.exit(otherwise)


if __name__ == "__main__":
    main(*sys.argv[1:])
