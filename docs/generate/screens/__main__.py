"""The command: draw every scene into `docs/screens/`."""

from __future__ import annotations

from pathlib import Path

from docs.generate.screens.drawing import drawn
from docs.generate.screens.scenes import played

SCREENS = Path(__file__).parents[2] / "screens"


def main() -> None:
    """Draw every scene."""
    SCREENS.mkdir(exist_ok=True)
    for name, scene in played().items():
        (SCREENS / f"{name}.svg").write_text(drawn(name, scene), encoding="utf-8")
        print(f"docs/screens/{name}.svg")


if __name__ == "__main__":
    main()
