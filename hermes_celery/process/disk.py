"""Read how full the disk of a Hermes home is."""

from __future__ import annotations

import shutil
from pathlib import Path


def disk_of(home: Path) -> tuple[int, int]:
    """Return the bytes free (for this user) and in total on the disk of a home, present or future.

    Returns zeros if they cannot be read.
    """
    for place in (home, *home.parents):
        try:
            usage = shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return 0, 0
        return usage.free, usage.total
    return 0, 0
