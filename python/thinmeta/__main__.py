"""``python -m thinmeta`` is the command ``thinmeta``."""

import sys

from thinmeta.cli import main

if __name__ == "__main__":
    sys.exit(main())
