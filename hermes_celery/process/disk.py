"""How full the disk of a Hermes home is."""

from __future__ import annotations

import shutil
from pathlib import Path


def disk_of(home: Path) -> tuple[int, int]:
    """Bytes free (for us) and in all where a home is or will be; zeros where that is not known."""
    for place in (home, *home.parents):
        try:
            usage = shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return 0, 0
        return usage.free, usage.total
    return 0, 0
