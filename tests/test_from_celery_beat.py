"""The page "From celery beat" is followed word by word, in a fresh directory with a real server.

Every python block whose first line names a file is written there, every command of a console block
is run in its order, from the top of the page to its end. Two things differ: the address of the
server, and `pip install`, which has happened.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from hermes_celery.store import Database, Jobs, Runs, connect
from hermes_celery.store.keys import Keys
from hermes_celery.store.worker_signs import alive
from tests.projects.bed import Server
from tests.projects.test_moving_here import put_redbeat_keys
from tests.support import eventually

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/how-to/from-celery-beat.md").read_text(encoding="utf-8")
DATA = ROOT / "tests/data"
_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_ADDRESS = "redis://localhost:6379/0"
#: What says that something was refused, with all that could be done done.
_MAY_REFUSE = ("import redbeat", "import django-celery-beat", "doctor")


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    return {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }


def test_every_link_of_the_page_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"\s+", " ", PAGE)):
        path, _, anchor = target.partition("#")
        folder = ROOT / "docs/how-to"
        page = (folder / path).resolve() if path else folder / "from-celery-beat.md"
        assert page.exists(), target
        assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), target


class Follower:
    """Somebody who does what the page says."""

    def __init__(self, place: Path, server: Server) -> None:
        self.place = place
        self.server = server
        self.printed: dict[str, str] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        scripts = str(Path(sys.executable).parent)
        self._environment = {
            **{name: value for name, value in os.environ.items() if name in ("HOME", "LANG")},
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HERMES_HOME": str(place / "home"),
        }
        (place / "home" / "scripts").mkdir(parents=True)
        self.database = Database(connect(server.url), keys=Keys(namespace="shop"))

    def write(self, block: str) -> None:
        """A block that begins with the name of a file goes into it."""
        name = re.match(r"# ([\w/.]+\.py)", block)
        assert name is not None, block
        with (self.place / name[1]).open("a", encoding="utf-8") as file:
            file.write(block.replace(_ADDRESS, self.server.url) + "\n")

    def run(self, command: str) -> None:
        """One command; a worker or beat goes on beside."""
        if command.startswith("pip install hermes-celery"):
            return
        words = shlex.split(command)
        if words[0] == "celery":
            self._start(command, words)
            return
        done = subprocess.run(
            words, cwd=self.place, env=self._environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.printed[command] = done.stdout + done.stderr
        may_refuse = any(part in command for part in _MAY_REFUSE)
        assert done.returncode in ((0, 1) if may_refuse else (0,)), self.printed[command]
        assert "Traceback" not in self.printed[command]

    def end(self) -> None:
        """End what was started."""
        for process in self._running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.database.close()

    def logs(self) -> str:
        """What the processes printed."""
        return "".join(path.read_text(errors="replace") for path in self.place.glob("*.log"))

    def _start(self, command: str, words: list[str]) -> None:
        with (self.place / f"{len(self._running)}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen(
                    words,
                    cwd=self.place,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        if " worker" in command:
            eventually(
                lambda: alive(self.database, now_ms=self.database.now_ms()), what="the worker"
            )
        else:
            eventually(
                lambda: self.database.call("GET", self.database.keys.lease), what="the beat leads"
            )
            eventually(lambda: self.database.call("EXISTS", self.database.keys.due), what="jobs")


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    server = Server(tmp_path / "server")
    server.start()
    place = tmp_path / "fresh"
    place.mkdir()
    follower = Follower(place, server)
    try:
        yield follower
    finally:
        follower.end()
        server.end()


@pytest.mark.system
def test_the_page_is_followed_word_by_word(follower: Follower) -> None:
    put_redbeat_keys(follower.database)
    shutil.copy(DATA / "django-celery-beat/2.9.0.json", follower.place / "beat.json")
    for kind, block in _BLOCK.findall(PAGE):
        if kind == "python":
            follower.write(block)
            continue
        for line in block.splitlines():
            assert line.startswith("$ "), line
            follower.run(line.removeprefix("$ "))
    printed = follower.printed

    assert "count stock" in printed["hermes-celery -A shop list"]
    assert "nightly report" in printed["hermes-celery -A shop list"]
    doctor = printed["hermes-celery -A shop doctor"]
    assert not re.search(r"^fail +(server|beat|workers?|queues?|records)\b", doctor, re.MULTILINE)
    assert "entries of RedBeat" in doctor
    assert "succeeded" in printed['hermes-celery -A shop runs "nightly report"']
    assert "9 imported" in printed["hermes-celery -A shop import redbeat"]
    assert "11 imported" in printed["hermes-celery -A shop import django-celery-beat beat.json"]
    stock = Jobs(follower.database).find("count stock")
    eventually(
        lambda: [
            run
            for run in Runs(follower.database).latest(job_id=stock.id, limit=10)
            if run.state is RunState.SUCCEEDED
        ],
        what="the schedule runs by itself",
    )
    # Tasks that only the imported jobs know are the worker's to complain of, in Celery's words.
    assert not re.search(r'File ".*/hermes_celery/', follower.logs())
