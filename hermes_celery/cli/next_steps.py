"""The commands that `up` prints to try next, as they work in a terminal that was just opened.

A new terminal has neither this one's variables nor its activated environment, so each line names
the program, the home and the server, unless the defaults find them.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from hermes_celery.masking.server_urls import without_password
from hermes_celery.settings import DEFAULT_NAMESPACE, Settings

_NAME = "hermes-celery"


def next_steps(settings: Settings, *, environment: Mapping[str, str]) -> list[str]:
    """Return lines to paste into a shell: make a script, schedule it, run it, list the jobs."""
    script = _unused_name(settings.scripts_dir)
    prefix = _prefix(settings, environment)
    file = shlex.quote(str(settings.scripts_dir / script))
    make = f"echo 'df -h /' > {file}"
    if not settings.scripts_dir.is_dir():
        make = f"mkdir -p {shlex.quote(str(settings.scripts_dir))} && {make}"
    verbs = (f'add "every 5m" --script {script} --no-agent', f"run {script} --wait", "list")
    return [make, *(f"{prefix} {verb}" for verb in verbs)]


def needs_the_server_url(settings: Settings) -> bool:
    """Return whether the lines work only with a HERMES_REDIS_URL, which holds a password."""
    url = settings.redis_url
    return url is not None and without_password(url) != url


def _prefix(settings: Settings, environment: Mapping[str, str]) -> str:
    words = []
    if not settings.is_default_home:
        words.append(f"HERMES_HOME={shlex.quote(str(settings.home.absolute()))}")
    if settings.redis_url is not None and not needs_the_server_url(settings):
        words.append(f"HERMES_REDIS_URL={shlex.quote(settings.redis_url)}")
    words.append(_program(environment))
    if settings.namespace != DEFAULT_NAMESPACE:
        words += ["-N", shlex.quote(settings.namespace)]
    return " ".join(words)


def _program(environment: Mapping[str, str]) -> str:
    """Return the program's name if a new terminal finds this installation by it, else its path."""
    here = Path(sys.executable).parent / _NAME
    found = shutil.which(_NAME, path=environment.get("PATH", ""))
    activated = environment.get("VIRTUAL_ENV", "")
    is_activated = bool(activated) and here.is_relative_to(activated)
    if found is not None and Path(found).resolve() == here.resolve() and not is_activated:
        return _NAME
    if here.is_file():
        return shlex.quote(str(here))
    return f"{shlex.quote(sys.executable)} -m hermes_celery"


def _unused_name(scripts: Path) -> str:
    """Return a name that no script has yet, so that no file is overwritten."""
    number = 1
    name = "disk.sh"
    while (scripts / name).exists():
        number += 1
        name = f"disk-{number}.sh"
    return name
