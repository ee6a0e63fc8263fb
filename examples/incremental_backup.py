#!/usr/bin/env python3
"""Back a volume up, again and again: only what has changed is read and stored.

    incremental_backup.py REPOSITORY METADATA DATA SNAPSHOT [SIZE] [IMAGE]

REPOSITORY is a folder or s3://BUCKET/PREFIX, and is made if it is not there. SNAPSHOT is the
thin device to back up, and SIZE its size in bytes. The generation is restored to IMAGE.
"""

import sys
from pathlib import Path

import thinmeta
from thinmeta.backup import Repository
from thinmeta.source import ImageGeneration


def main(
    where: str, metadata: str, data: str, snapshot: str, size: str = "", image: str = ""
) -> None:
    try:
        repository = Repository.open(where)
    except thinmeta.RepositoryError:
        repository = Repository.init(where)
    with thinmeta.open_pool(metadata, data=data) as pool:
        with ImageGeneration(pool, int(snapshot), size_bytes=int(size or 0) or None) as state:
            made = repository.create(state, volume=Path(metadata).resolve().as_posix())
    print(f"{made.name}: {made.read_bytes} bytes read, {made.stored_bytes} of them were new")
    if not repository.verify().is_clean:
        sys.exit("the repository is damaged")
    if image:
        report = repository.restore(made, image, overwrite=True)
        print(f"{report.size_bytes} bytes restored, {report.data_bytes} of them not zeros")


if __name__ == "__main__":
    main(*sys.argv[1:])
