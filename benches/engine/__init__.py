"""The engine beside other transactional stores: see ../README.md."""
