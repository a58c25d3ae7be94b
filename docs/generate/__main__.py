"""The command: write the pages, or name those that differ from the code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs.generate.pages import PAGES

REFERENCE = Path(__file__).parents[1] / "reference"


def stale_pages(folder: Path = REFERENCE) -> list[str]:
    """Return the names of the pages whose file in `folder` is not what the code says."""
    return [
        name
        for name, page in PAGES.items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != page()
    ]


def write_pages(folder: Path = REFERENCE) -> None:
    """Write every page into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def main(folder: Path = REFERENCE) -> int:
    """Run the command and return its exit code: 1 if `--check` found pages that differ."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name stale pages")
    if not parser.parse_args().check:
        write_pages(folder)
        return 0
    stale = stale_pages(folder)
    for name in stale:
        print(f"docs/reference/{name} differs from the code", file=sys.stderr)
    if stale:
        print("Run `python -m docs.generate` and commit what it wrote.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
