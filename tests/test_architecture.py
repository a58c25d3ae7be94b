"""The layers hold: a layer is a folder, imports point down, and each library has one entrance."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hermes_celery"
CONTRIBUTING = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")

#: The layers from the bottom up. A module may import its own layer and those below. Each word is a
#: folder of the package or a module at its root.
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
#: The folders and modules that may import the composition root.
ABOVE_WIRING = frozenset(("wiring", "cli", "beat", "__init__", "__main__"))
AT_THE_ROOT = 14

#: Third-party package or module -> the folders and modules that may import it.
DOORS = {
    "redis": {"store"},
    # `core.typed_values` stores an argument in the form that kombu writes into a message, and reads
    # kombu's registry of a project's own types.
    "celery": {"celery_app", "interop.beat_schedule"},
    "kombu": {"celery_app", "core.typed_values"},
    "billiard": {"celery_app"},
    "croniter": {"schedule"},
    "cron_descriptor": {"schedule"},
    "zoneinfo": {"schedule", "settings.values", "cli", "interop"},
    "click": {"cli", "wiring.own_app"},
    "dotenv": {"running.dotenv_files"},
    "requests": {"running.http", "guards.answer_limits"},
    "requests_hardened": {"running.http"},
    "rich": {"cli"},
    "apprise": {"delivering.channel_apprise"},
    "jinja2": {"delivering.template_child"},
    "subprocess": {"running", "process", "delivering"},
}
#: `session` reads it for its documented fallback.
READS_THE_ENVIRONMENT = {"settings.environment", "session"}


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module by its name below `hermes_celery`."""
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
    """Yield the dotted names that a module imports.

    Imports inside functions, imports for types and imports by a text count as well.
    """
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
    """Return whether a text names a module of the package.

    `module:class` does not count: it is for Celery, which imports it itself.
    """
    text = str(value)
    return text.startswith("hermes_celery.") and text.partition(".")[2] in modules()


@cache
def ours_in(tree: ast.AST) -> set[str]:
    """Return the names of the package's modules that a module imports."""
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
def test_each_way_to_import_is_found(text: str, module: str) -> None:
    assert ours_in(ast.parse(text)) == {module}


@pytest.mark.parametrize("name", modules())
def test_imports_point_down(name: str) -> None:
    own = folder_of(name)
    assert own in RANKS, f"{name} is in no layer: a layer is a folder of LAYERS"
    for other in map(folder_of, ours_in(modules()[name])):
        assert RANKS[other] <= RANKS[own], f"{name} imports {other}, which is above it"
        assert not {own, other} <= SIBLINGS or own == other, f"{name} imports its sibling {other}"
        assert other != "wiring" or own in ABOVE_WIRING, (
            f"{name} imports wiring: pass it what it needs"
        )


def test_the_package_root_holds_few_modules() -> None:
    at_the_root = [path.stem for path in PACKAGE.glob("*.py")]
    assert len(at_the_root) <= AT_THE_ROOT, at_the_root


def test_every_layer_exists_and_every_folder_is_a_layer() -> None:
    assert {folder_of(name) for name in modules()} == set(RANKS)


def drawn() -> list[set[str]]:
    """Return the layers in CONTRIBUTING's drawing, from the top down.

    A layer is the words at the beginning of a line.
    """
    drawing = CONTRIBUTING.split("```\nhermes_celery/\n")[1].split("```")[0]
    lines = re.findall(r"^  ((?:\w+(?:/|\.py) ?)+)", drawing, re.MULTILINE)
    return [set(re.findall(r"\w+", line.replace(".py", ""))) for line in lines]


def test_the_drawing_in_contributing_matches_the_layers() -> None:
    assert drawn() == [set(words) for words in reversed(LAYERS)]


def test_each_path_that_contributing_names_exists() -> None:
    root = PACKAGE.parent
    places = re.findall(r"`((?:hermes_celery|tests|deploy)/[\w./-]+)`", CONTRIBUTING)
    assert len(places) > 20
    assert [place for place in places if not (root / place).exists()] == []


def test_folders_of_unit_tests_are_folders_of_the_package() -> None:
    tests = PACKAGE.parent / "tests" / "unit"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert [str(folder) for folder in folders if not (PACKAGE / folder).is_dir()] == []


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of names that reach each other."""
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


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({name: ours_in(tree) for name, tree in modules().items()}) == []


def test_no_folders_import_each_other_in_a_circle() -> None:
    folders: dict[str, set[str]] = {word: set() for word in RANKS}
    for name, tree in modules().items():
        folders[folder_of(name)] |= set(map(folder_of, ours_in(tree)))
    assert circles(folders) == []


def test_a_circle_of_imports_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def _allows(doors: set[str], name: str) -> bool:
    return any(name == door or name.startswith(f"{door}.") for door in doors)


@pytest.mark.parametrize("name", modules())
def test_each_library_is_imported_only_where_doors_allows_it(name: str) -> None:
    for dotted in imported_by(modules()[name]):
        package = _behind_a_door(dotted)
        assert not package or _allows(DOORS[package], name), f"{name} imports {dotted}"


def _behind_a_door(dotted: str) -> str:
    """Return the package of DOORS that an import leads to; "" if there is none.

    An import through a module of the package counts as well.
    """
    package, _, _ = dotted.partition(".")
    if package == "hermes_celery":
        ours, _, package = dotted.rpartition(".")
        through = modules().get(ours.partition(".")[2])
        if through is None or package not in imported_by(through):
            return ""
    return package if package in DOORS else ""


def test_a_library_imported_through_our_own_module_is_found() -> None:
    assert _behind_a_door("redis.exceptions") == "redis"
    assert _behind_a_door("hermes_celery.store.database.redis") == "redis"
    assert _behind_a_door("hermes_celery.running.dotenv_files.dotenv") == ""


def test_every_entry_of_doors_is_used() -> None:
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
    """Yield the imports inside functions."""
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    yield node


def test_only_the_package_itself_imports_modules_by_a_computed_name() -> None:
    unknown = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _imports(node.func) and not text_of_import(node)
    }
    assert unknown == {"__init__"}


@pytest.mark.parametrize("name", modules())
def test_an_import_inside_a_function_gives_its_reason(name: str) -> None:
    silent = list(silent_imports(modules()[name], text_of(name).splitlines()))
    assert silent == [], (
        f"{name}:{silent[0]}: import it at the top; an import inside a function is allowed only to "
        "start fast, with a comment on its line or above its group"
    )


def silent_imports(tree: ast.AST, lines: list[str]) -> Iterator[int]:
    """Yield the lines of imports inside functions that give no reason, alone or as a group."""
    reason_until = 0
    for node in inner_imports(tree):
        end = node.end_lineno or node.lineno
        has_reason = node.lineno == reason_until + 1 or lines[node.lineno - 2].strip().startswith(
            "#"
        )
        if has_reason:
            reason_until = end
        elif "#" not in lines[node.lineno - 1] + lines[end - 1]:
            yield node.lineno


def test_an_inner_import_without_a_reason_is_found() -> None:
    text = "def f():\n    # why\n    import a\n    import b\n\n    import c\n    import d  # why\n"
    assert list(silent_imports(ast.parse(text), text.splitlines())) == [6]


#: Commands of Redis that only the store may name. Words with other meanings, such as GET and TYPE,
#: are left out: `_ASKS` finds the calls that would send them.
_COMMANDS = re.compile(
    r"^(?:[HZLSX](?:ADD|REM|SET|GET|GETALL|MGET|DEL|LEN|CARD|RANGE\w*|SCORE|POP\w*|PUSH|SCAN|TRIM)"
    r"|[BR]+POP\w*|EVAL\w*|EXPIRE\w*|PEXPIRE\w*|PTTL|INFO|SCAN|PING|SUBSCRIBE|PUBLISH|FLUSH\w+)$"
)


#: Methods that only a client of Redis, or our `Database` around it, has.
_ASKS = ("call", "execute_command", "pipeline", "register_script")


def redis_words(tree: ast.AST) -> Iterator[str]:
    """Yield the Redis commands in a module's texts, and its calls of a client or our `Database`."""
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
def test_each_way_to_call_redis_is_found(text: str) -> None:
    assert list(redis_words(ast.parse(text)))


@pytest.mark.parametrize("name", [name for name in modules() if folder_of(name) != "store"])
def test_only_the_store_calls_redis(name: str) -> None:
    # These extend kombu's channels, which send Redis commands themselves.
    if name in (
        "celery_app.consuming",
        "celery_app.safe_consumer",
        "celery_app.purging",
    ):
        return
    assert list(redis_words(modules()[name])) == []


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice == {}


MOST_PARAMETERS = 6
#: Public functions that take more, by documented keywords, with the reason.
PUBLIC_SIGNATURES = {
    # `args`, `kwargs` and `options` are Celery's, as in `apply_async` and `beat_schedule`.
    "wiring.project.add",
}


@pytest.mark.parametrize("name", modules())
def test_no_function_takes_more_than_six_parameters(name: str) -> None:
    for node in ast.walk(modules()[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [one.arg for one in given if one.arg not in ("self", "cls")]
            if f"{name}.{node.name}" in PUBLIC_SIGNATURES:
                continue
            assert len(names) <= MOST_PARAMETERS, f"{name}.{node.name}: {', '.join(names)}"


@pytest.mark.parametrize("name", sorted(modules().keys() - READS_THE_ENVIRONMENT))
def test_only_one_module_of_settings_reads_the_environment(name: str) -> None:
    assert not environment_readings(modules()[name])


def environment_readings(tree: ast.AST) -> list[str]:
    named = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    named += [dotted.removeprefix("os.") for dotted in imported_by(tree)]
    return [name for name in named if name in ("environ", "environb", "getenv")]


def test_each_way_to_read_the_environment_is_found() -> None:
    for text in ("os.environ['A']", "from os import environ", "import os as o; o.getenv('A')"):
        assert environment_readings(ast.parse(text)), text


@pytest.mark.parametrize(
    "name", [name for name in modules() if folder_of(name) in ("core", "schedule", "masking")]
)
def test_core_schedule_and_masking_read_no_clock(name: str) -> None:
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


def test_each_way_to_read_a_clock_is_found() -> None:
    for text in ("datetime.now(UTC)", "f(default_factory=time.time)", "from time import monotonic"):
        assert clock_readings(ast.parse(text)), text


def test_no_lua_script_calls_time() -> None:
    for path in (PACKAGE / "store" / "lua").glob("*.lua"):
        assert "'TIME'" not in path.read_text(encoding="utf-8"), path.name


def test_only_two_modules_read_the_queues_key_prefix() -> None:
    readers = {
        name
        for name in modules()
        for line in text_of(name).splitlines()
        if re.search(r"""["']global_keyprefix["']""", line)
    }
    assert readers == {"celery_app.broker", "celery_app.consuming"}


def test_only_one_place_makes_a_message_builder() -> None:
    # A second place that makes a `MessageBuilder` would forget the session or the namespace.
    makers = [
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "MessageBuilder"
    ]
    assert len(makers) == 1, makers


def test_only_the_masking_folder_hides_secrets() -> None:
    hiders = {
        folder_of(name)
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and (node.value in ("***", b"***") or "://***" in str(node.value))
    }
    assert hiders == {"masking"}
