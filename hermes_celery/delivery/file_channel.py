"""A local file as a target: `file://daily.md` is `$HERMES_HOME/cron/output/daily.md`.

Messages are appended, each in one write. Nothing outside that directory can be named, links
resolved: where a job delivers to may be chosen by an agent.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hermes_celery.errors import DeliveryFault, DeliveryRefused

_SCHEME = "file://"


def is_file_url(url: str) -> bool:
    """Whether a URL names a local file."""
    return url.lower().startswith(_SCHEME)


def located(url: str, *, root: Path) -> Path:
    """The file that a URL names. Raises DeliveryRefused unless it lies under `root`."""
    name = url[len(_SCHEME) :]
    # Not `Path.resolve`, which raises where links go in a circle.
    path, real_root = Path(os.path.realpath(root / name)), Path(os.path.realpath(root))
    if not name or not path.is_relative_to(real_root) or path == real_root:
        raise DeliveryRefused(
            f"{url!r} does not name a file under {root}; write file://NAME or file://DIR/NAME"
        )
    return path


class FileChannel:
    """One file."""

    seconds = 10.0

    def __init__(self, url: str, *, root: Path) -> None:
        self._path = located(url, root=root)

    def pieces(self, text: str) -> list[str]:
        """The text, whole."""
        return [text]

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        """Append a message; files are copied beside it. Raises DeliveryFault."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(f"{piece}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            for path in files:
                shutil.copyfile(path, self._path.parent / path.name)
        except OSError as error:
            raise DeliveryFault(f"{self._path} cannot be written: {error.strerror}") from None
