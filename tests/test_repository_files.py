"""The files for GitHub and pre-commit parse, and the names in them exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermes_celery.cli.doctor import doctor

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github/workflows/ci.yml"
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
DOCUMENTS = sorted(
    path
    for folder in (".", ".github", "bench", "deploy", "docs", "examples", "proof")
    for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
)
#: Programs of the machine that a step may call.
_SYSTEM = {"sudo", "bash", "make"}


def loaded(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def jobs() -> dict[str, dict[str, Any]]:
    """Return the jobs of the workflow."""
    found: dict[str, dict[str, Any]] = loaded(WORKFLOW)["jobs"]
    return found


def rows(job: str) -> list[dict[str, Any]]:
    """Return the rows of a job's matrix."""
    found: list[dict[str, Any]] = jobs()[job]["strategy"]["matrix"]["include"]
    return found


def commands() -> Iterator[list[str]]:
    """Yield the words of each command of the workflow."""
    for job in jobs().values():
        for step in job["steps"]:
            for part in re.split(r"&&|\n", step.get("run", "")):
                if part.strip():
                    yield shlex.split(part)


def targets(makefile: str) -> set[str]:
    """Return the targets of a Makefile that are called by name."""
    return set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))


def missing(words: list[str]) -> list[str]:
    """Return the names in a command that do not exist in the repository."""
    program, *arguments = words
    if program == "make":
        known = targets((ROOT / "Makefile").read_text(encoding="utf-8"))
        return [name for name in arguments if name not in known]
    if program == "bash":
        return [name for name in arguments[:1] if not (ROOT / name).is_file()]
    return [] if program in _SYSTEM else [program]


def test_each_target_and_script_of_the_workflow_exists() -> None:
    called = list(commands())
    assert ["make", "test-quick"] in called
    assert ["bash", ".ci/run"] in called
    assert [words for words in called if missing(words)] == []


@pytest.mark.parametrize("words", [["make", "tset"], ["bash", ".ci/gone"], ["pytest", "tests"]])
def test_a_command_that_names_a_missing_target_or_script_is_found(words: list[str]) -> None:
    assert missing(words)


def calls(text: str) -> list[list[str]]:
    """Return the commands in a document that call a target, a script of CI, a module or a test."""
    found = re.findall(
        r"(?:^\$ |^    |`)((?:make |bash \.ci/|python -m (?:bench|docs|tests)|pytest )[^`\n#|]*)",
        text,
        re.MULTILINE,
    )
    return [shlex.split(command) for command in found]


def unknown(words: list[str]) -> list[str]:
    """Return the names in a document's command that do not exist in the repository."""
    if words[0] == "pytest":
        return [name for name in words[1:] if "/" in name and not (ROOT / name).exists()]
    if words[0] != "python":
        return missing(words)
    path = ROOT.joinpath(*words[2].split("."))
    source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    if not source.is_file():
        return words[2:3]
    known = source.read_text(encoding="utf-8")
    known += (ROOT / "bench/options.py").read_text(encoding="utf-8")
    return [name for name in words[3:] if name.startswith("--") and f'"{name}"' not in known]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_command_of_a_document_that_calls_the_repository_exists(path: Path) -> None:
    for words in calls(path.read_text(encoding="utf-8")):
        assert unknown(words) == [], shlex.join(words)


@pytest.mark.parametrize(
    "text",
    [
        "$ make gard    # fast\n",
        "see `bash .ci/gone`",
        "    python -m bench.gone\n",
        "| `python -m bench.soak --minute 3` |",
        "`pytest -m slow tests/gone`",
    ],
)
def test_a_command_of_a_document_that_is_gone_is_found(text: str) -> None:
    assert [unknown(words) for words in calls(text)] not in ([], [[]])


def test_each_job_checks_out_the_repository_with_read_permission_only() -> None:
    assert loaded(WORKFLOW)["permissions"] == {"contents": "read"}
    for name, job in jobs().items():
        assert job["steps"][0]["uses"].startswith("actions/checkout@"), name


def test_each_python_in_the_classifiers_has_a_matrix_row() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert {row["python"] for row in rows("python") if not row.get("unrun")} == set(promised)


def test_a_matrix_row_that_was_never_run_may_fail_and_is_in_contributing() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = " ".join(line for line in text.splitlines() if line.endswith("| not run |"))
    for job, key in (("python", "python"), ("server", "image")):
        assert jobs()[job]["continue-on-error"] == "${{ matrix.unrun == true }}"
        for row in rows(job):
            name = row[key].rpartition("/")[2].replace(":", " ")
            assert bool(row.get("unrun")) == (name in said.lower()), name


def test_a_bug_report_asks_for_the_output_of_doctor() -> None:
    assert {path.stem for path in TEMPLATES} == {"bug", "config", "idea", "question"}
    assert "--json" in {option for one in doctor.params for option in one.opts}
    for path in TEMPLATES:
        if path.stem in ("bug", "question"):
            body = loaded(path)["body"]
            labels = [part["attributes"].get("label", "") for part in body]
            assert "`hermes-celery doctor --json`" in labels, path.name
    (config,) = [loaded(path) for path in TEMPLATES if path.stem == "config"]
    assert config["blank_issues_enabled"] is False
    assert config["contact_links"][0]["url"].endswith("/blob/main/SECURITY.md")


def test_a_bug_of_a_page_or_of_the_install_needs_no_output_of_doctor() -> None:
    (bug,) = [loaded(path) for path in TEMPLATES if path.stem == "bug"]
    required = {
        part["id"] for part in bug["body"] if part.get("validations", {}).get("required", False)
    }
    assert required == {"what", "steps", "version"}


def test_the_source_distribution_has_every_directory_that_pages_name() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = set(settings["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    assert {"proof", ".ci", "bench", "deploy", "docs", "examples", "tests"} <= packed


def test_the_hooks_are_local_and_their_programs_exist() -> None:
    (repository,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        program, *arguments = hook["entry"].split()
        assert hook["language"] == "system"
        if program == "python":
            assert importlib.util.find_spec(f"{arguments[1]}.__main__"), hook["id"]
        else:
            assert (Path(sys.executable).parent / program).is_file(), hook["id"]


def code_names(text: str) -> set[str]:
    """Return the names of functions, classes and constants that a text has in backticks."""
    return {
        name.rpartition(".")[2]
        for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\(.*?\))?`", text)
        if not name.endswith((".lua", ".py"))
    }


def test_each_name_in_the_steps_of_contributing_is_in_the_code() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = text.split("## The usual additions, step by step")[1].split("\n## ")[0]
    files = [
        *(ROOT / "hermes_celery").rglob("*.py"),
        *(ROOT / "hermes_celery").rglob("*.lua"),
        ROOT / "tests/unit/core/test_fields.py",
        ROOT / "tests/conftest.py",
    ]
    words = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in files)))
    names = code_names(steps)
    assert {"WorkKind", "way_to", "TYPED"} <= names
    assert names - words == set()


def test_the_changelog_has_the_sections_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    order = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    versions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [version.split()[0] for version in versions] == ["Unreleased", "0.1.0,"]
    for version in versions:
        sections = re.findall(r"^### (.*)", version, re.MULTILINE)
        assert sections == [section for section in order if section in sections]
