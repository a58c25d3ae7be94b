"""A local file as a target: `file://daily.md` is `$HERMES_HOME/cron/output/daily.md`.

Each message is appended in one write. An attachment is copied next to the file and overwrites
nothing: if its name is taken it becomes `NAME-1.EXT`, and the message says so. A URL cannot name a
path outside that directory, with links resolved, because an agent may choose the target of a job.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from hermes_celery.errors import DeliveryFault, DeliveryRefused

_SCHEME = "file://"


def is_file_url(url: str) -> bool:
    """Return whether a URL names a local file."""
    return url.lower().startswith(_SCHEME)


def located(url: str, *, root: Path) -> Path:
    """Return the file that a URL names. Raises DeliveryRefused unless it is under `root`."""
    name = url[len(_SCHEME) :]
    # Not `Path.resolve`, which raises for a loop of links.
    path, real_root = Path(os.path.realpath(root / name)), Path(os.path.realpath(root))
    if not name or not path.is_relative_to(real_root) or path == real_root:
        raise DeliveryRefused(
            f"{url!r} does not name a file under {root}; write file://NAME or file://DIR/NAME"
        )
    return path


class FileChannel:
    """One local file."""

    seconds = 10.0

    def __init__(self, url: str, *, root: Path) -> None:
        self._path = located(url, root=root)

    def pieces(self, text: str) -> list[str]:
        """Return the whole text as one piece."""
        return [text]

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        """Copy the files next to the target, then append the message. Raises DeliveryFault."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            notes = [note for path in files if (note := self._keep(path))]
            with self._path.open("ab") as file:
                file.write("".join(f"{line}\n" for line in (piece, *notes)).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            why = error.strerror or str(error)
            raise DeliveryFault(f"{self._path} cannot be written: {why}") from None

    def _keep(self, source: Path) -> str:
        """Copy a file to a name that is free; return a note if that is not its own name.

        A file that was copied before, even by an earlier attempt, is not copied again.
        """
        for name in _names_like(source.name):
            kept = self._path.parent / name
            if _is_copy(kept, source) or (kept != self._path and _copy_if_free(source, kept)):
                return "" if name == source.name else f"(attachment {source.name} is {name})"
        raise AssertionError("names do not end")


def _names_like(name: str) -> Iterator[str]:
    yield name
    path = Path(name)
    for number in count(1):
        yield f"{path.stem}-{number}{path.suffix}"


def _is_copy(kept: Path, source: Path) -> bool:
    return kept.is_file() and not kept.is_symlink() and filecmp.cmp(kept, source, shallow=False)


def _copy_if_free(source: Path, kept: Path) -> bool:
    """Copy a file to a name; return False if the name is taken, even by a link.

    Raises OSError, after removing the incomplete copy.
    """
    with source.open("rb") as content:
        try:
            target = kept.open("xb")
        except FileExistsError:
            return False
        try:
            with target:
                shutil.copyfileobj(content, target)
        except OSError:
            kept.unlink(missing_ok=True)
            raise
    return True
