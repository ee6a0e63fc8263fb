"""Writing pools: see ../README.md."""
