"""The files in `deploy/` and the Procfile, checked without a container engine or systemd.

If a file's own tool is installed (`systemd-analyze`, `docker compose`, `hadolint`), that tool
checks the file as well.
"""

from __future__ import annotations

import configparser
import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from hermes_celery.delivering.platform_urls import read_names
from hermes_celery.process.last_resort import PATIENCE_SECONDS
from hermes_celery.running.dotenv_files import dotenv
from hermes_celery.settings import ELSEWHERE, VARIABLES, read_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
_INTERPOLATED = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
#: Until then a worker ends by itself, or kills itself with all that it runs.
_SHORTEST_STOP_SECONDS = read_settings({}).grace_seconds + PATIENCE_SECONDS


def settings_read() -> set[str]:
    """Return every environment variable that sets an attribute of `Settings`."""
    return {variable.name for variable in VARIABLES.values()}


def interpolated(value: Any) -> Any:
    """Return a value with compose's defaults filled in, as if no variable were set."""
    if isinstance(value, str):
        return _INTERPOLATED.sub(lambda match: match[3] if match[2] == "-" else "", value)
    if isinstance(value, dict):
        return {key: interpolated(part) for key, part in value.items()}
    if isinstance(value, list):
        return [interpolated(part) for part in value]
    return value


def compose() -> dict[str, Any]:
    """Return the compose file with its defaults filled in."""
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return {key: interpolated(value) for key, value in loaded.items()}


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file by name."""
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def ours() -> dict[str, dict[str, Any]]:
    """Return the services that run hermes-celery."""
    return {name: service for name, service in services().items() if name != "valkey"}


def assignments(path: Path) -> dict[str, str]:
    """Return the NAME=value lines of an environment file, including commented-out ones."""
    lines = path.read_text(encoding="utf-8").splitlines()
    matches = [re.fullmatch(r"#?([A-Z][A-Z_]+)=(.*)", line) for line in lines]
    return {match[1]: match[2] for match in matches if match}


def unit(path: Path) -> configparser.ConfigParser:
    """Return the parsed sections of a systemd unit file."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def procfile() -> dict[str, list[str]]:
    """Return the Procfile's commands by name."""
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition(":") for line in lines if line.strip()]
    return {name: shlex.split(command) for name, _, command in pairs}


def dockerfile() -> list[str]:
    """Return the Dockerfile's instructions, one per line, without comments."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    kept = "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
    return re.sub(r"[ \t]+", " ", kept.replace("\\\n", " ")).splitlines()


def commands() -> dict[str, list[str]]:
    """Return every Celery command line in the deployment files, by its place."""
    found = {f"Procfile {name}": command for name, command in procfile().items()}
    found |= {path.name: shlex.split(unit(path)["Service"]["ExecStart"]) for path in UNITS}
    found |= {
        f"compose {name}": list(service["command"])
        for name, service in ours().items()
        if service["command"][0] == "celery"
    }
    last = yaml.safe_load(dockerfile()[-1].removeprefix("CMD "))
    return {**found, "Dockerfile": list(last)}


def accept(command: list[str]) -> None:
    """Parse a command with Celery's own command line, as `--help` does. Raises click.UsageError."""
    from celery.bin.celery import celery

    program, option, app, role, *rest = command
    assert (Path(program).name, option, app) == ("celery", "-A", "hermes_celery")
    with pytest.raises(click.exceptions.Exit) as ending:
        celery.commands[role].make_context(role, [*rest, "--help"])
    assert ending.value.exit_code == 0


@pytest.mark.parametrize("where", sorted(commands()))
def test_celery_accepts_every_command_line(where: str) -> None:
    accept(commands()[where])


def test_a_command_line_with_an_unknown_option_is_found() -> None:
    with pytest.raises(click.UsageError, match="--consurrency"):
        accept(["celery", "-A", "hermes_celery", "worker", "--consurrency", "4"])


def test_the_procfile_has_one_line_for_each_role() -> None:
    roles = {name: command[:4] for name, command in procfile().items()}
    assert roles == {name: ["celery", "-A", "hermes_celery", name] for name in roles}
    assert set(roles) == {"worker", "beat", "flower"}


def test_flower_knows_the_options_it_is_given() -> None:
    pytest.importorskip("flower.options", reason="the extra `flower` is not installed")
    from tornado.options import options

    for command in commands().values():
        if command[3] == "flower":
            given = {option.removeprefix("--").partition("=")[0] for option in command[4:]}
            assert given <= set(options)
    assert "basic-auth" in options or "basic_auth" in options


def test_flower_listens_on_loopback_only() -> None:
    assert "--address=127.0.0.1" in procfile()["flower"]
    (published,) = services()["flower"]["ports"]
    assert published == "127.0.0.1:5555:5555"


def test_compose_publishes_no_other_port() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["flower"]


@pytest.mark.parametrize("name", sorted(ours()))
def test_a_service_sets_only_variables_that_are_read(name: str) -> None:
    known = settings_read() | ({"FLOWER_BASIC_AUTH"} if name == "flower" else set())
    assert set(ours()[name]["environment"]) <= known


def test_the_defaults_of_compose_are_valid_settings() -> None:
    for service in ours().values():
        read_settings(service["environment"])


def test_flower_does_not_start_without_a_password() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert re.search(r"FLOWER_BASIC_AUTH: \$\{FLOWER_BASIC_AUTH:\?[^}]+\}", text)


def test_the_env_example_names_the_variables_and_defaults_of_compose() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    asked = {
        match[1]: match[3] if match[2] == "-" else "" for match in _INTERPOLATED.finditer(text)
    }
    example = assignments(DEPLOY / ".env.example")
    assert set(example) == set(asked)
    del example["HERMES_REDIS_URL"], asked["HERMES_REDIS_URL"]
    assert example == asked


def test_compose_starts_two_beats_two_workers_and_a_durable_valkey() -> None:
    found = services()
    assert found["beat"]["deploy"]["replicas"] == 2
    assert found["worker"]["deploy"]["replicas"] == 2
    valkey = " ".join(found["valkey"]["command"])
    assert "--appendonly yes" in valkey
    assert "--maxmemory-policy noeviction" in valkey
    assert "valkey:/data" in found["valkey"]["volumes"]
    assert found["worker"]["volumes"] == [
        "scripts:/data/scripts:ro",
        "/dev/null:/data/.env:ro",
        "/dev/null:/data/cron/hermes-celery/targets.toml:ro",
    ]
    assert set(compose()["volumes"]) == {"valkey", "scripts"}


@pytest.mark.parametrize("name", ["beat", "worker", "cli"])
def test_services_that_deliver_or_check_see_the_tokens_and_the_named_targets(
    tmp_path: Path, name: str
) -> None:
    settings = read_settings({"HERMES_HOME": "/data"})
    mounts = [mount.split(":") for mount in services()[name]["volumes"]]
    files = {inside: outside for outside, inside, *_ in mounts if inside != "/data/scripts"}
    assert set(files) == {str(settings.home / ".env"), str(settings.targets_path)}
    # Without files of the user's: this one, which readers take for a file that is not there.
    assert set(files.values()) == {"/dev/null"}
    (tmp_path / ".env").symlink_to("/dev/null")
    assert dotenv(tmp_path, profile="") == {}
    assert read_names(Path("/dev/null")) == {}


def test_the_image_has_the_directory_of_the_named_targets_as_its_users_own() -> None:
    made = next(line for line in dockerfile() if "install --directory" in line)
    assert str(read_settings({"HERMES_HOME": "/data"}).state_dir) in made.split()


def test_the_image_can_deliver_and_show_flower() -> None:
    (installed,) = [line for line in dockerfile() if "pip install" in line]
    assert ".[flower,notify]" in installed


def test_one_service_builds_the_image_of_all_services() -> None:
    (build,) = [service["build"] for service in ours().values() if "build" in service]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    assert {service["image"] for service in ours().values()} == {"hermes-celery"}


def test_compose_gives_a_stopping_worker_more_time_than_its_runs() -> None:
    stop = services()["worker"]["stop_grace_period"]
    assert float(stop.removesuffix("s")) > _SHORTEST_STOP_SECONDS


def test_the_dockerfile_runs_as_a_numeric_user_and_stops_with_sigterm() -> None:
    lines = dockerfile()
    assert len([line for line in lines if line.startswith("FROM ")]) == 2
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert "STOPSIGNAL SIGTERM" in lines
    # Exec form: a shell in between would keep SIGTERM to itself.
    assert all(re.search(r"CMD \[", line) for line in lines if re.search(r"\bCMD\b", line))


def test_the_build_context_holds_every_file_that_the_dockerfile_copies() -> None:
    text = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    let_in = [line[1:] for line in text.splitlines() if line.startswith("!")]
    copied = [
        source
        for line in dockerfile()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_restarts_for_ever_and_signals_the_main_process_only(path: Path) -> None:
    parsed = unit(path)
    assert parsed["Service"]["Restart"] == "always"
    assert parsed["Unit"]["StartLimitIntervalSec"] == "0"
    assert parsed["Service"]["KillMode"] == "mixed"
    assert "network-online.target" in parsed["Unit"]["After"]
    assert parsed["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_the_program_of_each_unit_is_installed(path: Path) -> None:
    program = Path(shlex.split(unit(path)["Service"]["ExecStart"])[0])
    assert (Path(sys.executable).parent / program.name).is_file()


def test_the_workers_unit_waits_longer_than_a_run_may_take_to_stop() -> None:
    service = unit(DEPLOY / "systemd" / "hermes-celery-worker.service")["Service"]
    assert float(service["TimeoutStopSec"]) > _SHORTEST_STOP_SECONDS


def test_the_units_environment_example_holds_every_valid_setting() -> None:
    example = assignments(DEPLOY / "systemd" / "hermes-celery.env.example")
    assert set(example) == settings_read() | {"HERMES_MEDIA_ALLOW_DIRS"}
    assert "HERMES_MEDIA_ALLOW_DIRS" in {variable.name for variable in ELSEWHERE}
    read_settings(example)
    files = {unit(path)["Service"]["EnvironmentFile"] for path in UNITS}
    assert files == {"/etc/hermes-celery/hermes-celery.env"}


def test_commented_out_values_of_the_units_example_are_defaults_or_examples() -> None:
    text = (DEPLOY / "systemd" / "hermes-celery.env.example").read_text(encoding="utf-8")
    defaults, examples = text.partition("# The defaults.\n")[2].split("\n# Examples.")
    shown = dict(re.findall(r"^#([A-Z_]+)=(.*)$", defaults, re.MULTILINE))
    assert len(shown) > 10
    assert shown == {one.name: one.default for one in VARIABLES.values() if one.name in shown}
    assert re.findall(r"^[A-Z_]+=", defaults + examples, re.MULTILINE) == []


def _judged(*command: str, cwd: Path | None = None, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in UNITS:
        text = path.read_text(encoding="utf-8")
        here = text.replace("/opt/hermes-celery/bin", str(Path(sys.executable).parent))
        (tmp_path / path.name).write_text(here, encoding="utf-8")
    _judged("systemd-analyze", "verify", "--man=no", *(path.name for path in UNITS), cwd=tmp_path)


def test_docker_accepts_the_compose_file() -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("docker is not installed")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose plugin")
    file = str(DEPLOY / "compose.yaml")
    _judged(
        *(docker, "compose", "--file", file, "--profile", "tools", "config", "--quiet"),
        FLOWER_BASIC_AUTH="user:password",
    )


def test_hadolint_accepts_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    _judged(hadolint, str(DEPLOY / "Dockerfile"))
