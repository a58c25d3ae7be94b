"""Agent runs with a script in place of the agent: its command line, environment and limits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.core.job import Origin
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import JobError
from hermes_celery.running.agent import HERMES_COMMAND, AgentRunner, command_line, skill
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.running.orphan_reaper import OrphanReaper
from hermes_celery.running.prompt import EMPTY_ANSWER
from hermes_celery.running.script import ScriptRunner
from hermes_celery.running.worker_machine import WorkerMachine
from hermes_celery.session import Session
from tests.support import a_spec

_EMPTY = dict.fromkeys(
    ("prompt", "model", "provider", "base_url", "toolsets", "skills", "reasoning", "usage_file"), ""
)
_AGENT = f"{sys.executable} {{home}}/agent.py {{{{prompt}}}} [--usage {{{{usage_file}}}}]"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    return tmp_path


@pytest.fixture
def reaper() -> Iterator[OrphanReaper]:
    reaper = OrphanReaper()
    yield reaper
    reaper.close()


def perform(
    home: Path,
    reaper: OrphanReaper,
    code: str,
    *,
    template: str = _AGENT,
    idle_seconds: float = 0,
    stop: RunningRun | None = None,
    **fields: Any,
) -> Outcome:
    (home / "agent.py").write_text(code, encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "OUTER_API_KEY": "outer-secret-value"}
    machine = WorkerMachine(home=home, environment=environment, reaper=reaper)
    scripts = ScriptRunner(machine, passthrough=frozenset(), timeout_seconds=20)
    runner = AgentRunner(
        machine,
        template=template.format(home=home) if "{home}" in template else template,
        scripts=scripts,
        outputs=lambda name, besides: None,
        timeout_seconds=0,
        idle_seconds=idle_seconds,
    )
    spec = a_spec(**{"prompt": "say it", **fields})
    return runner.perform(spec, Session(origin=spec.origin or Origin()), stop or RunningRun())


def test_the_default_command_omits_options_that_a_job_does_not_set() -> None:
    values = {**_EMPTY, "prompt": "a 'b' {model}", "usage_file": "/u", "toolsets": "web,files"}
    assert command_line(HERMES_COMMAND, values) == [
        *("hermes", "-z", "a 'b' {model}", "--usage-file", "/u", "-t", "web,files")
    ]


@pytest.mark.parametrize(
    ("template", "values", "why"),
    [
        ("agent --ask", {}, "must contain {prompt}"),
        ("agent {prompt} {colour}", {}, "may contain"),
        (HERMES_COMMAND, {"base_url": "http://x"}, "sets base_url"),
        (HERMES_COMMAND, {"reasoning": "high"}, "sets reasoning"),
    ],
)
def test_a_command_without_a_placeholder_for_a_set_field_is_refused(
    template: str, values: dict[str, str], why: str
) -> None:
    with pytest.raises(JobError, match=why):
        command_line(template, {**_EMPTY, "prompt": "p", **values})


def test_the_agent_gets_its_prompt_and_env_files_and_an_empty_stdin(
    home: Path, reaper: OrphanReaper
) -> None:
    (home / ".env").write_text("FROM_HOME=1\nINNER_API_KEY=inner-secret-value\n")
    (home / "profiles" / "ann").mkdir(parents=True)
    (home / "profiles" / "ann" / ".env").write_text("FROM_PROFILE=2\n")
    code = (
        "import os, sys; e = os.environ;"
        "print(sys.argv[1][-6:], repr(sys.stdin.read()), e['FROM_HOME'], e['FROM_PROFILE'],"
        "e['HERMES_HOME'].rpartition('/')[2], e['HERMES_SESSION_PLATFORM'],"
        "e['OUTER_API_KEY'], e['INNER_API_KEY'])"
    )
    outcome = perform(
        home, reaper, code, origin=Origin(platform="telegram", profile="ann"), deliver="local"
    )
    assert (outcome.state, outcome.error) == (RunState.SUCCEEDED, None)
    assert outcome.output == b"say it '' 1 2 ann telegram *** ***\n"


@pytest.mark.parametrize(
    ("code", "state", "error"),
    [
        ("pass", RunState.FAILED, EMPTY_ANSWER),
        ("print('   ')", RunState.FAILED, EMPTY_ANSWER),
        ("import sys; sys.exit('no key')", RunState.FAILED, "no key"),
        ("import sys; sys.exit(4)", RunState.FAILED, "Agent exited with code 4 and said nothing"),
        ("print('ok')", RunState.SUCCEEDED, None),
    ],
)
def test_without_a_usage_file_exit_code_and_answer_decide(
    home: Path, reaper: OrphanReaper, code: str, state: RunState, error: str | None
) -> None:
    outcome = perform(home, reaper, code)
    assert (outcome.state, outcome.error, outcome.usage) == (state, error, None)


@pytest.mark.parametrize(
    ("report", "state", "error", "tokens"),
    [
        ('{"failed": true, "total_tokens": 9}', RunState.FAILED, "HTTP 401", 9),
        ('{"failed": true, "failure": "boom"}', RunState.FAILED, "boom", 0),
        ('{"input_tokens": 3, "output_tokens": 4}', RunState.SUCCEEDED, None, 7),
        ('{"estimated_cost_usd": null}', RunState.SUCCEEDED, None, 0),
    ],
)
def test_the_usage_file_decides_over_the_exit_code(
    home: Path, reaper: OrphanReaper, report: str, state: RunState, error: str | None, tokens: int
) -> None:
    code = f"import sys; open(sys.argv[3], 'w').write('''{report}'''); print('HTTP 401')"
    outcome = perform(home, reaper, code)
    assert (outcome.state, outcome.error) == (state, error)
    assert outcome.usage is not None
    assert outcome.usage.tokens == tokens


def test_an_agent_without_activity_is_stopped(home: Path, reaper: OrphanReaper) -> None:
    code = "import time; print('x', flush=True); time.sleep(600)"
    # Starting Python is no activity, and takes over half a second on a busy machine.
    outcome = perform(home, reaper, code, idle_seconds=3)
    assert outcome.state is RunState.TIMED_OUT
    assert "no activity for 3s" in (outcome.error or "")
    assert outcome.output == b"x\n"


def test_output_and_the_agents_own_files_count_as_activity(
    home: Path, reaper: OrphanReaper
) -> None:
    code = (
        "import os, pathlib, time; state = pathlib.Path(os.environ['HERMES_HOME'], 'state.db')\n"
        "for n in range(10): state.write_text(str(n)); time.sleep(0.3)\n"
        "for n in range(10): print(n, flush=True); time.sleep(0.3)\n"
    )
    outcome = perform(home, reaper, code, idle_seconds=2)
    assert (outcome.state, outcome.error) == (RunState.SUCCEEDED, None)


def test_a_busy_agent_is_stopped_at_its_jobs_timeout(home: Path, reaper: OrphanReaper) -> None:
    code = "import time\nwhile True: print('x', flush=True); time.sleep(0.05)"
    outcome = perform(home, reaper, code, timeout_seconds=0.5)
    assert (outcome.state, outcome.error) == (RunState.TIMED_OUT, "Agent timed out after 0.5s")


def test_a_prompt_too_long_for_an_argument_is_refused(home: Path, reaper: OrphanReaper) -> None:
    (home / "scripts" / "much.sh").write_text("head -c 140000 /dev/zero | tr '\\0' x")
    with pytest.raises(JobError, match="print less in the job's script"):
        perform(home, reaper, "print('ok')", script="much.sh")


@pytest.mark.parametrize("printed", ["", "echo '{\"wakeAgent\": false}'"])
def test_a_script_that_finds_nothing_starts_no_agent(
    home: Path, reaper: OrphanReaper, printed: str
) -> None:
    (home / "scripts" / "look.sh").write_text(printed)
    outcome = perform(home, reaper, "raise SystemExit('asked')", script="look.sh")
    assert (outcome.state, outcome.silent) == (RunState.SUCCEEDED, True)


def test_a_skill_is_found_by_name_or_path_inside_the_home_only(home: Path) -> None:
    place = home / "skills" / "news" / "brief"
    place.mkdir(parents=True)
    (place / "SKILL.md").write_text("Be brief.")
    (home / "SKILL.md").write_text("secret")
    assert skill(home, "brief") == skill(home, "news/brief") == skill(home, "/brief") == "Be brief."
    assert skill(home, "..") is None
    assert skill(home, "other/brief") is None
    assert skill(home, "") is None
