"""Every page is followed from its top to its end; `page.py` says what a page may contain.

Blocks that cannot run here are listed in `NOT_RUN`, so that no block is left out unseen.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import yaml

from hermes_celery.cli import main
from tests.docs.page import EACH, FILE, GIVEN, ROOT, Block, anchors, blocks, links, typed
from tests.docs.reader import Reader
from tests.models import HERMES, Model, configure

HOME = "https://github.com/hermes-celery/hermes-celery/blob/main/"
DATA = ROOT / "tests/data"
#: How many console blocks of a page are not run; each says why in a comment above it.
NOT_RUN = {
    "docs/explanation/model.md": 1,
    "docs/how-to/alerts.md": 1,
    "docs/how-to/back-up.md": 2,
    "docs/how-to/from-celery-beat.md": 1,
    "docs/how-to/hermes.md": 1,
    "docs/how-to/several-machines.md": 7,
    "docs/tutorial.md": 1,
}
#: Kinds of blocks that are checked without being typed.
CHECKED = {"python", "toml", "ini", "yaml", "json", "bash"}
#: Kinds of blocks that are read, not checked: the signatures of a generated page, and plain text.
READ = {"py", ""}
CONTEXT = click.Context(main, info_name="hermes-celery")
#: Options that each command has.
OPTIONS = ("--help",)
#: Pages that are followed by a test of their own, which looks at more than they print.
FOLLOWED_ELSEWHERE = {"docs/how-to/from-celery-beat.md"}
#: Pages of a reader who has not installed anything yet.
FROM_NOTHING = {"README.md", "docs/tutorial.md"}


def pages() -> list[str]:
    """Return the pages, by their paths in the repository."""
    found = [ROOT / "README.md", ROOT / "deploy/README.md", *(ROOT / "docs").rglob("*.md")]
    found += (ROOT / "examples").rglob("README.md")
    return sorted(str(path.relative_to(ROOT)) for path in found)


def read(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def page_blocks(kind: str = "") -> list[tuple[str, Block]]:
    """Return all blocks of one kind, with their pages."""
    return [
        (page, block)
        for page in pages()
        for block in blocks(read(page))
        if not kind or block.kind == kind
    ]


def named(values: list[tuple[str, Block]]) -> list[object]:
    """Return parameters that are called by page and line."""
    return [pytest.param(page, block, id=f"{page}:{block.line}") for page, block in values]


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of ours in a console block."""
    for step in typed(block):
        command = step.command.replace("\\\n", " ")
        for part in re.split(r"\s(?:&&|\|\|?|;|&)(?:\s|$)", command):
            try:
                words = shlex.split(part.partition("<<")[0], comments=True)
            except ValueError:
                continue
            while words and (re.match(r"\w+=", words[0]) or words[0] in {"sudo", "exec", "export"}):
                words.pop(0)
            if words and Path(words[0]).name == "hermes-celery":
                yield words[1:]
            elif words[:1] == ["celery"] and words[3:4] == ["cron"]:
                yield words[4:]


def accept(words: list[str]) -> None:
    """Let the command line parse a command without running it. Raises click.UsageError."""
    rest = list(words)
    while rest[:1] and rest[0].startswith("-") and len(rest) > 1:
        rest = rest[2:]
    group: click.Group = main
    command: click.Command | None = main
    context = click.Context(main, info_name="hermes-celery")
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        group, name = command, rest.pop(0)
        command = group.get_command(context, name)
        if command is None:
            raise click.UsageError(f"no command {name!r}")
        context = click.Context(command, info_name=name, parent=context)
    if command is not None and not isinstance(command, click.Group):
        command.make_context(context.info_name, rest, parent=context.parent)


def refusal(words: list[str]) -> str:
    """Return why the command line refuses a command; "": it does not."""
    try:
        accept(words)
    except click.exceptions.Exit as end:
        return f"exit {end.exit_code}" if end.exit_code else ""
    except click.UsageError as error:
        return error.message
    return ""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path: a socket's path has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        yield Path(directory)


@pytest.fixture
def model() -> Iterator[Model]:
    """A stand-in for a model, at a port of its own."""
    model = Model()
    yield model
    model.close()


def a_hermes_home(reader: Reader, model: Model) -> None:
    """The reader uses Hermes."""
    shutil.copytree(DATA / "hermes-home", reader.home / ".hermes")


def hermes_with_a_model(reader: Reader, model: Model) -> None:
    """The reader has hermes-agent, whose model answers what the page shows."""
    if not HERMES.is_file():
        pytest.skip(f"hermes-agent is not installed at {HERMES}")
    reader.has_on_path(HERMES.parent)
    (reader.home / ".hermes").mkdir()
    configure(reader.home / ".hermes", model)
    model.answer = "Ada has changed the prices to cents. Check every place that still shows euros."


def a_model_at_ollamas_port(reader: Reader, model: Model) -> None:
    """The reader has a model on the machine, which answers what the page shows."""
    reader.stands_for("11434", model.port)
    model.answer = "Good morning! May your coffee be strong."


#: What a reader of a page has already, which the page says at its top.
HAS: dict[str, Callable[[Reader, Model], None]] = {
    "README.md": a_hermes_home,
    "docs/how-to/hermes.md": a_hermes_home,
    "examples/agent-report/README.md": hermes_with_a_model,
    "examples/own-agent/README.md": a_model_at_ollamas_port,
}


def start_of(page: str) -> str:
    """Return the directory of the clone where a page begins; "": in a directory of the reader's."""
    return "." if page == "deploy/README.md" else (
        str(Path(page).parent) if page.startswith("examples/") else ""
    )  # fmt: skip


def runnable() -> list[str]:
    """Return the pages on which something is typed."""
    return [
        page
        for page in pages()
        if page not in FOLLOWED_ELSEWHERE and any(b.is_run for b in blocks(read(page)))
    ]


@pytest.mark.pages
@pytest.mark.system
@pytest.mark.parametrize("page", runnable())
def test_a_page_that_is_followed_prints_what_it_shows(page: str, place: Path, model: Model) -> None:
    reader = Reader(
        place, page, on_path=page not in FROM_NOTHING, start=start_of(page), text=read(page)
    )
    try:
        if page in HAS:
            HAS[page](reader, model)
        for block in blocks(read(page)):
            reader.follow(block)
        reader.look_back()
    finally:
        reader.end()


@pytest.mark.parametrize(
    ("page", "block"),
    named([(page, b) for page, b in page_blocks("console") if b.mark == "not run"]),
)
def test_a_block_that_is_not_run_says_why_and_names_files_that_exist(
    page: str, block: Block
) -> None:
    assert block.reason
    for name in re.findall(
        r"(?<![\w/.~-])(?:deploy|examples|tests|bench|proof)/[\w./-]+", block.text
    ):
        assert (ROOT / name).exists(), name


def test_the_blocks_that_are_not_run_are_counted() -> None:
    skipped = [(page, b) for page, b in page_blocks("console") if b.mark == "not run"]
    counted = {page: sum(p == page for p, _ in skipped) for page, _ in skipped}
    listed = "\n".join(f"{page}:{block.line}: {block.reason}" for page, block in skipped)
    assert counted == NOT_RUN, listed


@pytest.mark.parametrize(("page", "block"), named(page_blocks("console")))
def test_every_command_of_a_page_parses(page: str, block: Block) -> None:
    for words in commands(block):
        # A page may show what a wrong command says.
        assert refusal(words) in " ".join(block.text.split()), words


@pytest.mark.parametrize("page", pages())
def test_every_option_that_a_sentence_names_exists(page: str) -> None:
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`(hermes-celery [^`]+)`", prose):
        words = [word for word in code.split()[1:] if re.fullmatch(r"--[a-z-]+|[a-z]+", word)]
        command: click.Command = main
        known = set(OPTIONS)
        for word in words:
            found = command.get_command(CONTEXT, word) if isinstance(command, click.Group) else None
            command = found or command
            known |= {option for one in command.params for option in one.opts + one.secondary_opts}
        for word in words:
            assert not word.startswith("--") or word in known, code


@pytest.mark.parametrize(
    ("page", "block"),
    named([(page, block) for page, block in page_blocks() if block.kind in CHECKED]),
)
def test_a_block_that_is_not_typed_is_well_formed(page: str, block: Block) -> None:
    check(block)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("python", "def shop(:\n"),
        ("python", "from hermes_celery import Crom\n"),
        ("toml", "phone = \n"),
        ("ini", "[Service\nUser = shop\n"),
        ("yaml", "a: [\n"),
        ("json", "{'a': 1}\n"),
        ("bash", "if true; do\n"),
        ("bash", "hermes-celery list\n"),
    ],
)
def test_a_block_that_is_malformed_is_found(kind: str, text: str) -> None:
    faults = (SyntaxError, ValueError, AssertionError, configparser.Error, yaml.YAMLError)
    with pytest.raises((*faults, subprocess.CalledProcessError)):
        check(Block(kind=kind, text=text, line=1, mark="", reason=""))


def check(block: Block) -> None:
    """Read a block that is not typed. Raises an error if it is malformed."""
    if block.kind == "python":
        imports_exist(ast.parse(block.text))
    elif block.kind == "toml":
        tomllib.loads(block.text)
    elif block.kind == "yaml":
        yaml.safe_load(block.text)
    elif block.kind == "json":
        json.loads(block.text)
    elif block.kind == "bash":
        assert not re.search(r"^(\$ |hermes-celery )", block.text, re.MULTILINE), "use console"
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    elif re.search(r"^\[", block.text, re.MULTILINE):
        configparser.ConfigParser(strict=False, interpolation=None).read_string(block.text)


def imports_exist(tree: ast.Module) -> None:
    """What is imported from hermes_celery is there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hermes_celery"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", pages())
def test_commands_are_in_console_blocks(page: str) -> None:
    for block in blocks(read(page)):
        assert block.kind in {"console", GIVEN, EACH} | CHECKED | READ, block.line
        assert block.kind == "console" or not block.mark, block.line
        if block.kind not in {"console", "python", "toml", "ini", "yaml"}:
            assert not FILE.match(block.text.partition("\n")[0]), block.line


@pytest.mark.parametrize("page", pages())
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    for target in links(read(page)):
        path, _, anchor = target.partition("#")
        if path.startswith(HOME):
            found = ROOT / path.removeprefix(HOME)
        elif re.match(r"\w+:", path):
            continue
        else:
            found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target
