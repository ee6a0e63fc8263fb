"""What is open to be changed refuses to work in a forked child."""

import os

from thinmeta import _core

os.register_at_fork(after_in_child=_core._forked)
