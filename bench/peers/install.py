"""Creates the peers' virtual environments, since their versions conflict with the package's.

The Celery peers share `.bench/celery-peers`. hermes-agent pins other versions of shared
dependencies and has `.venv-hermes`, which the tests use too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from bench.server import BenchError

ROOT = Path(__file__).resolve().parents[2]
_INSTALL_SECONDS = 900.0
_ASK = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's pip requirements and the virtual environment in which it is installed."""

    name: str
    #: The measured versions.
    series: str
    requirements: tuple[str, ...]
    environment: Path

    @property
    def python(self) -> str:
        """The Python interpreter of its environment."""
        return str(self.environment / "bin" / "python")


_CELERY_PEERS = ROOT / ".bench" / "celery-peers"
#: With hiredis, as in this package.
_CELERY = ("celery[redis]>=5.7,<5.8", "kombu>=5.7,<5.8", "redis[hiredis]>=6.4")

CELERY = Package(name="celery", series="5.7.", requirements=_CELERY, environment=_CELERY_PEERS)
REDBEAT = Package(
    name="celery-redbeat",
    series="2.4.",
    requirements=(*_CELERY, "celery-redbeat>=2.4,<2.5"),
    environment=_CELERY_PEERS,
)
DJANGO = Package(
    name="django-celery-beat",
    series="2.",
    requirements=(*_CELERY, "django-celery-beat>=2.8,<3"),
    environment=_CELERY_PEERS,
)
HERMES = Package(
    name="hermes-agent",
    series="0.19.0",
    requirements=("hermes-agent==0.19.0",),
    environment=ROOT / ".venv-hermes",
)


def install(package: Package) -> str:
    """Install a peer if it is missing and return its version. Raises BenchError on failure."""
    version = _installed(package)
    if version is None:
        _create(package)
        version = _installed(package)
    if version is None:
        raise BenchError(f"{package.name} {package.series} cannot be found after its installation")
    return version


def _installed(package: Package) -> str | None:
    try:
        asked = subprocess.run(
            [package.python, "-c", _ASK, package.name], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    version = asked.stdout.strip()
    return version if version.startswith(package.series) else None


def _create(package: Package) -> None:
    pip = [package.python, "-m", "pip", "install", "--quiet", *package.requirements]
    try:
        if not Path(package.python).exists():
            _run([sys.executable, "-m", "venv", str(package.environment)])
        _run(pip)
    except subprocess.CalledProcessError as error:
        why = (error.stderr or "no reason given").strip().splitlines()[-1:]
        raise BenchError(f"{package.name} could not be installed: {' '.join(why)}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{package.name} could not be installed: {error}") from None


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=_INSTALL_SECONDS)
