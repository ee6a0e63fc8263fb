"""How long the tests go on, and from which seed: `make kernel` sets both."""

import os

ROUNDS = int(os.environ.get("THINMETA_KERNEL_ROUNDS", "12"))
SEED = int(os.environ.get("THINMETA_KERNEL_SEED", "1"))
