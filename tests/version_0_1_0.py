"""Version 0.1.0, from its wheel: its programs run beside those of this tree.

The wheel is unpacked into a directory that comes first on `PYTHONPATH`; what it depends on is that
of this environment. Its programs must start in another directory than this tree's, since Celery
puts the working directory before everything.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.support import DATA

WHEEL = DATA / "wheels" / "hermes_celery-0.1.0-py3-none-any.whl"


def unpack(place: Path) -> Path:
    """Unpack 0.1.0; returns the directory for `PYTHONPATH`."""
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(place)
    return place
