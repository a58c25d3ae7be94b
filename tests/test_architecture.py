"""The layers hold: a layer is a folder, imports point down, and each outside world has one door."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hermes_celery"
CONTRIBUTING = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")

#: From the bottom up; a module may import its own layer and those below. Each word is a folder of
#: the package or a module at its root.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "events", "clock", "instant", "masking", "guards", "process"),
    ("schedule",),
    ("core",),
    ("session",),
    ("settings", "embedded_server"),
    ("store",),
    # Siblings: they never import each other.
    ("scheduling", "running", "delivering"),
    ("observe",),
    ("client",),
    ("interop",),
    ("celery_app",),
    ("wiring",),
    ("cli", "beat", "__init__", "__main__"),
)
RANKS = {word: rank for rank, words in enumerate(LAYERS) for word in words}
SIBLINGS = frozenset(("scheduling", "running", "delivering"))
#: Who may import the composition root.
ABOVE_WIRING = frozenset(("wiring", "cli", "beat", "__init__", "__main__"))
AT_THE_ROOT = 14

#: Third-party package or module -> the folders and modules that may import it.
DOORS = {
    "redis": {"store"},
    # `core.typed_values`: a stored argument is written as kombu writes it into a message, and the
    # register of a project's own types is kombu's.
    "celery": {"celery_app", "interop.beat_schedule"},
    "kombu": {"celery_app", "core.typed_values"},
    "billiard": {"celery_app"},
    "croniter": {"schedule"},
    "cron_descriptor": {"schedule"},
    "zoneinfo": {"schedule", "settings", "cli", "interop"},
    "click": {"cli", "wiring.own_app"},
    "dotenv": {"running.dotenv_files"},
    "requests": {"running.http", "guards.answer_limits"},
    "requests_hardened": {"running.http"},
    "rich": {"cli"},
    "apprise": {"delivering.channel_apprise"},
    "jinja2": {"delivering.template_child"},
    "subprocess": {"running", "process", "delivering"},
}
#: Only `settings` reads the environment; `session` for its documented fallback.
READS_THE_ENVIRONMENT = {"settings", "session"}


@cache
def modules() -> dict[str, ast.Module]:
    """Each module of the package by its name below `hermes_celery`."""
    return {
        _name(path): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def _name(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name if name == "__init__" else name.removesuffix(".__init__")


def text_of(name: str) -> str:
    path = PACKAGE.joinpath(*name.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")


def folder_of(name: str) -> str:
    return name.partition(".")[0]


def imported_by(tree: ast.AST) -> Iterator[str]:
    """What a module imports, also inside functions, for types and by a text: dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _imports(node.func):
            yield from text_of_import(node)[:1]
        elif isinstance(node, ast.Constant) and _names_a_module(node.value):
            yield str(node.value)


def _imports(function: ast.expr) -> bool:
    return ast.unparse(function).split(".")[-1] in ("import_module", "__import__")


def text_of_import(call: ast.Call) -> list[str]:
    return [str(node.value) for node in ast.walk(call) if isinstance(node, ast.Constant)]


def _names_a_module(value: object) -> bool:
    """Whether a text is the name of one; `module:class` is for Celery, which imports it itself."""
    text = str(value)
    return text.startswith("hermes_celery.") and text.partition(".")[2] in modules()


@cache
def ours_in(tree: ast.AST) -> set[str]:
    """The modules of the package that one imports."""
    found = set()
    for dotted in imported_by(tree):
        if dotted == "hermes_celery" or dotted.startswith("hermes_celery."):
            name = dotted.removeprefix("hermes_celery").strip(".")
            while name and name not in modules():
                name = name.rpartition(".")[0]
            found.add(name or "__init__")
    return found


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("def f():\n from hermes_celery.wiring import beat", "wiring.beat"),
        ("if TYPE_CHECKING:\n from hermes_celery.client import Client", "client"),
        ("import hermes_celery.client as c", "client"),
        ("from hermes_celery import Cron", "__init__"),
        ("importlib.import_module('hermes_celery.client')", "client"),
        ("import_module(f'hermes_celery.cli.{name}')", "cli"),
        ("sys.modules['hermes_celery.client'].Client", "client"),
        ("PLACES = {'Client': 'hermes_celery.client'}", "client"),
    ],
)
def test_each_way_to_import_is_seen(text: str, module: str) -> None:
    assert ours_in(ast.parse(text)) == {module}


@pytest.mark.parametrize("name", modules())
def test_imports_point_down(name: str) -> None:
    own = folder_of(name)
    assert own in RANKS, f"{name} is in no layer: a layer is a folder of LAYERS"
    for other in map(folder_of, ours_in(modules()[name])):
        assert RANKS[other] <= RANKS[own], f"{name} imports {other}, which is above it"
        assert not {own, other} <= SIBLINGS or own == other, f"{name} imports its sibling {other}"
        assert other != "wiring" or own in ABOVE_WIRING, f"{name} is handed what it needs"


def test_few_modules_lie_at_the_root() -> None:
    at_the_root = [path.stem for path in PACKAGE.glob("*.py")]
    assert len(at_the_root) <= AT_THE_ROOT, at_the_root


def test_every_layer_is_there() -> None:
    assert {folder_of(name) for name in modules()} == set(RANKS)


def drawn() -> list[set[str]]:
    """The layers of the drawing in CONTRIBUTING, from the top down: what begins each line."""
    drawing = CONTRIBUTING.split("```\nhermes_celery/\n")[1].split("```")[0]
    lines = re.findall(r"^  ((?:\w+(?:/|\.py) ?)+)", drawing, re.MULTILINE)
    return [set(re.findall(r"\w+", line.replace(".py", ""))) for line in lines]


def test_the_drawing_shows_the_layers_as_they_are() -> None:
    assert drawn() == [set(words) for words in reversed(LAYERS)]


def test_each_place_that_contributors_are_sent_to_is_there() -> None:
    root = PACKAGE.parent
    places = re.findall(r"`((?:hermes_celery|tests|deploy)/[\w./-]+)`", CONTRIBUTING)
    assert len(places) > 20
    assert [place for place in places if not (root / place).exists()] == []


def test_unit_tests_lie_in_folders_of_the_package() -> None:
    tests = PACKAGE.parent / "tests" / "unit"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert [str(folder) for folder in folders if not (PACKAGE / folder).is_dir()] == []


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The groups of names that reach each other."""
    reached = {name: _reached(name, imports) for name in imports}
    groups = {
        tuple(sorted({other for other in reached[name] if name in reached[other]} | {name}))
        for name in imports
    }
    return sorted(list(group) for group in groups if len(group) > 1)


def _reached(start: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        for other in imports[ahead.pop()] & imports.keys() - found:
            found.add(other)
            ahead.append(other)
    return found - {start}


def test_there_is_no_circle_of_modules() -> None:
    assert circles({name: ours_in(tree) for name, tree in modules().items()}) == []


def test_there_is_no_circle_of_folders() -> None:
    folders: dict[str, set[str]] = {word: set() for word in RANKS}
    for name, tree in modules().items():
        folders[folder_of(name)] |= set(map(folder_of, ours_in(tree)))
    assert circles(folders) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def _allows(doors: set[str], name: str) -> bool:
    return any(name == door or name.startswith(f"{door}.") for door in doors)


@pytest.mark.parametrize("name", modules())
def test_each_outside_world_has_one_door(name: str) -> None:
    for dotted in imported_by(modules()[name]):
        package = _behind_a_door(dotted)
        assert not package or _allows(DOORS[package], name), f"{name} imports {dotted}"


def _behind_a_door(dotted: str) -> str:
    """The package of DOORS that an import leads to, also through a module of ours; "" for none."""
    package, _, _ = dotted.partition(".")
    if package == "hermes_celery":
        ours, _, package = dotted.rpartition(".")
        through = modules().get(ours.partition(".")[2])
        if through is None or package not in imported_by(through):
            return ""
    return package if package in DOORS else ""


def test_a_package_is_not_handed_on_by_a_module_of_ours() -> None:
    assert _behind_a_door("redis.exceptions") == "redis"
    assert _behind_a_door("hermes_celery.store.database.redis") == "redis"
    assert _behind_a_door("hermes_celery.running.dotenv_files.dotenv") == ""


def test_every_door_is_used() -> None:
    for package, doors in DOORS.items():
        for door in doors:
            users = [
                name
                for name, tree in modules().items()
                if _allows({door}, name)
                and any(dotted.partition(".")[0] == package for dotted in imported_by(tree))
            ]
            assert users, f"nobody in {door} imports {package}"


def inner_imports(tree: ast.AST) -> Iterator[ast.stmt]:
    """The imports inside functions."""
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    yield node


def test_only_the_public_names_are_imported_by_a_text_that_is_not_written_there() -> None:
    unknown = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _imports(node.func) and not text_of_import(node)
    }
    assert unknown == {"__init__"}


@pytest.mark.parametrize("name", modules())
def test_an_import_inside_a_function_says_why(name: str) -> None:
    silent = list(silent_imports(modules()[name], text_of(name).splitlines()))
    assert silent == [], (
        f"{name}:{silent[0]}: import it at the top; it may stand here only to start fast, and says "
        "so in a comment on its line or above its group"
    )


def silent_imports(tree: ast.AST, lines: list[str]) -> Iterator[int]:
    """The lines of imports inside functions that give no reason, alone or as a group."""
    told_until = 0
    for node in inner_imports(tree):
        end = node.end_lineno or node.lineno
        is_told = node.lineno == told_until + 1 or lines[node.lineno - 2].strip().startswith("#")
        if is_told:
            told_until = end
        elif "#" not in lines[node.lineno - 1] + lines[end - 1]:
            yield node.lineno


def test_a_silent_import_would_be_found() -> None:
    text = "def f():\n    # why\n    import a\n    import b\n\n    import c\n    import d  # why\n"
    assert list(silent_imports(ast.parse(text), text.splitlines())) == [6]


#: Commands of Redis, of which nobody outside the store knows. (Words such as GET and TYPE, which
#: mean other things as well, are found by who calls the store with them.)
_COMMANDS = re.compile(
    r"^(?:[HZLSX](?:ADD|REM|SET|GET|GETALL|MGET|DEL|LEN|CARD|RANGE\w*|SCORE|POP\w*|PUSH|SCAN|TRIM)"
    r"|[BR]+POP\w*|EVAL\w*|EXPIRE\w*|PEXPIRE\w*|PTTL|INFO|SCAN|PING|SUBSCRIBE|PUBLISH|FLUSH\w+)$"
)


#: What only a client of Redis, or our `Database` around it, is asked.
_ASKS = ("call", "execute_command", "pipeline", "register_script")


def redis_words(tree: ast.AST) -> Iterator[str]:
    """Redis' commands among a module's texts, and what asks a client or our `Database`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and _COMMANDS.match(str(node.value)):
            yield str(node.value)
        elif isinstance(node, ast.Attribute) and _asks_the_database(node):
            yield ast.unparse(node)


def _asks_the_database(node: ast.Attribute) -> bool:
    owner = ast.unparse(node.value).split(".")[-1]
    is_ours = owner in ("database", "_database", "client", "_client", "redis")
    return node.attr in _ASKS or (is_ours and node.attr in ("run", "client"))


@pytest.mark.parametrize(
    "text",
    [
        "database.call('GET', key)",
        "db = self._database\ndb.call(word, key)",
        "send = database.call\nsend(word)",
        "WORD = 'HGETALL'",
        "pipe.execute_command(word)",
        "self._database.client.get(key)",
    ],
)
def test_each_way_to_ask_redis_is_seen(text: str) -> None:
    assert list(redis_words(ast.parse(text)))


@pytest.mark.parametrize("name", [name for name in modules() if folder_of(name) != "store"])
def test_only_the_store_speaks_to_redis(name: str) -> None:
    # kombu's own channels are Celery's way to the server, and read with Redis' words.
    if name in (
        "celery_app.consuming",
        "celery_app.safe_consumer",
        "celery_app.purging",
    ):
        return
    assert list(redis_words(modules()[name])) == []


def test_no_public_class_has_the_name_of_another() -> None:
    places: dict[str, list[str]] = {}
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice == {}


MOST_PARAMETERS = 6
#: What people call with more, by keywords that are documented, and why.
PUBLIC_SIGNATURES = {
    # `args`, `kwargs` and `options` are Celery's, as in `apply_async` and `beat_schedule`.
    "wiring.project.add",
}


@pytest.mark.parametrize("name", modules())
def test_no_function_wants_more_than_six_values(name: str) -> None:
    for node in ast.walk(modules()[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [one.arg for one in given if one.arg not in ("self", "cls")]
            if f"{name}.{node.name}" in PUBLIC_SIGNATURES:
                continue
            assert len(names) <= MOST_PARAMETERS, f"{name}.{node.name}: {', '.join(names)}"


@pytest.mark.parametrize("name", sorted(modules().keys() - READS_THE_ENVIRONMENT))
def test_only_settings_reads_the_environment(name: str) -> None:
    assert not environment_readings(modules()[name])


def environment_readings(tree: ast.AST) -> list[str]:
    named = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    named += [dotted.removeprefix("os.") for dotted in imported_by(tree)]
    return [name for name in named if name in ("environ", "environb", "getenv")]


def test_each_way_to_read_the_environment_is_seen() -> None:
    for text in ("os.environ['A']", "from os import environ", "import os as o; o.getenv('A')"):
        assert environment_readings(ast.parse(text)), text


@pytest.mark.parametrize(
    "name", [name for name in modules() if folder_of(name) in ("core", "schedule", "masking")]
)
def test_values_and_decisions_read_no_clock(name: str) -> None:
    assert not clock_readings(modules()[name])


_CLOCKS = ("now", "utcnow", "today", "time", "monotonic", "time_ns", "monotonic_ns")


def clock_readings(tree: ast.AST) -> list[str]:
    asked = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in _CLOCKS
        and ast.unparse(node.value).split(".")[-1] in ("datetime", "date", "time")
    ]
    imports = [dotted for dotted in imported_by(tree) if dotted in {f"time.{c}" for c in _CLOCKS}]
    return asked + imports + [one for one in ours_in(tree) if one == "clock"]


def test_each_way_to_read_a_clock_is_seen() -> None:
    for text in ("datetime.now(UTC)", "f(default_factory=time.time)", "from time import monotonic"):
        assert clock_readings(ast.parse(text)), text


def test_no_script_reads_the_time() -> None:
    for path in (PACKAGE / "store" / "lua").glob("*.lua"):
        assert "'TIME'" not in path.read_text(encoding="utf-8"), path.name


def test_the_prefix_of_queues_is_read_once_from_the_settings_and_once_from_the_channel() -> None:
    readers = {
        name
        for name in modules()
        for line in text_of(name).splitlines()
        if re.search(r"""["']global_keyprefix["']""", line)
    }
    assert readers == {"celery_app.broker", "celery_app.consuming"}


def test_messages_are_built_as_the_settings_say() -> None:
    # Whoever makes a `MessageBuilder` by itself forgets the session, the namespace or who listens.
    makers = [
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "MessageBuilder"
    ]
    assert len(makers) == 1, makers


def test_only_the_masking_hides_secrets() -> None:
    hiders = {
        folder_of(name)
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and (node.value in ("***", b"***") or "://***" in str(node.value))
    }
    assert hiders == {"masking"}
