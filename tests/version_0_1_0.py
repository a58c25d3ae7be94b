"""Runs version 0.1.0 from its wheel beside the current version.

The wheel is unpacked into a directory that comes first on `PYTHONPATH`; its dependencies are those
of this environment. Start its programs outside the source tree, since Celery puts the working
directory first on the path.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.support import DATA

WHEEL = DATA / "wheels" / "hermes_celery-0.1.0-py3-none-any.whl"


def unpack(place: Path) -> Path:
    """Unpack 0.1.0 and return the directory for `PYTHONPATH`."""
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(place)
    return place
