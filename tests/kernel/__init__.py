"""The real kernel's dm-thin as an oracle: tests that run inside it.

The kernel is User Mode Linux, an ordinary process. ``conftest.py`` boots it once for all
tests of this folder; they run under a pytest of its own in there (``relay``), and what it
reports is what the pytest outside reports. So a test may use device-mapper (``dm``,
``live``) and thinmeta side by side, on the same block devices.

What runs where: ``uml`` is outside, ``guest`` is process 1 inside, ``relay`` has a half in
each, everything else is inside.
"""
