"""Tests agent runs with the real hermes-agent and a stub model on loopback.

hermes-agent has a virtual environment of its own; `tests.models` knows its path. The tests skip if
it is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest, JobState
from hermes_celery.core.run import DeliveryState, Run, RunState
from hermes_celery.running.prompt import EMPTY_ANSWER
from hermes_celery.store import Database
from tests.models import HERMES, Model, configure
from tests.support import eventually
from tests.system.conftest import Processes, await_worker, script, script_job

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not HERMES.is_file(), reason=f"hermes-agent is not installed at {HERMES}"),
]


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.close()


@pytest.fixture
def agents(
    processes: Processes, valkey: Database, cron: Client, home: Path, model: Model
) -> Client:
    """Return a client with a running worker whose agents ask the stub model."""
    configure(home, model)
    (home / ".env").write_text("FROM_ENV_FILE=sk-not-shown-1234567890\n", encoding="utf-8")
    path = f"{HERMES.parent}{os.pathsep}{processes.environment['PATH']}"
    processes.celery("worker", PATH=path, HERMES_CRON_MAX_WORKERS="2")
    await_worker(valkey)
    return cron


def run_agent_job(cron: Client, **fields: Any) -> Run:
    """Add an agent job, run it, and return the finished run."""
    job = cron.add(JobRequest(schedule="every 1h", name=fields.pop("name", "ask"), **fields))
    return ended(cron, cron.run(job.id))


def ended(cron: Client, run_id: str) -> Run:
    eventually(lambda: cron.runs.get(run_id).state.is_final, seconds=60, what=f"end of {run_id}")
    return cron.runs.get(run_id)


def test_an_answer_is_the_output_and_its_tokens_are_kept(agents: Client, model: Model) -> None:
    run = run_agent_job(agents, prompt="Say hello")
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    assert agents.runs.output(run.id).decode() == "hello from the model\n"
    assert (run.tokens, run.cost_usd) == (750, 0.0)
    assert model.prompt().endswith("Say hello")
    assert "scheduled cron job" in model.prompt()
    assert model.keys[-1] == "Bearer stub-key"


def test_collected_data_other_jobs_and_skills_are_put_into_the_prompt(
    agents: Client, model: Model, home: Path
) -> None:
    script(home, "data.sh", "echo fresh data")
    ended(agents, agents.run(agents.add(script_job("every 1h", "data.sh")).id))
    (home / "skills" / "news" / "brief").mkdir(parents=True)
    (home / "skills" / "news" / "brief" / "SKILL.md").write_text("Be brief.", encoding="utf-8")
    run = run_agent_job(
        agents,
        prompt="Report",
        script="data.sh",
        context_from=["DATA.sh", "nobody"],
        skills=["brief", "gone"],
        model="other-model",
        provider="custom",
    )
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    prompt = model.prompt()
    assert "Be brief." in prompt
    assert "not installed: gone" in prompt
    assert "## Output from job 'DATA.sh'" in prompt
    assert "## Script Output" in prompt
    assert prompt.count("fresh data") == 2
    assert model.asked[-1]["model"] == "other-model"


@pytest.mark.parametrize(
    ("answer", "state", "delivery"),
    [
        ("[SILENT]", RunState.SUCCEEDED, DeliveryState.SILENT),
        ("   ", RunState.FAILED, None),
    ],
)
def test_silence_is_a_success_and_a_blank_answer_is_not(
    agents: Client, model: Model, answer: str, state: RunState, delivery: DeliveryState | None
) -> None:
    model.answer = answer
    run = run_agent_job(agents, prompt="Anything new?")
    assert run.state is state
    if delivery is not None:
        assert run.delivery is delivery
    else:
        assert run.error == EMPTY_ANSWER


def test_a_provider_that_refuses_fails_the_run_although_the_exit_code_is_zero(
    agents: Client, model: Model
) -> None:
    model.status = 401
    run = run_agent_job(agents, prompt="Say hello")
    assert run.state is RunState.FAILED
    assert "401" in (run.error or "")


def test_a_script_can_keep_the_agent_asleep_and_its_failure_is_reported(
    agents: Client, model: Model, home: Path
) -> None:
    script(home, "gate.sh", "echo '{\"wakeAgent\": false}'")
    run = run_agent_job(agents, prompt="Report", script="gate.sh")
    assert (run.state, run.delivery) == (RunState.SUCCEEDED, DeliveryState.SILENT)
    script(home, "quiet.sh", ":")
    run = run_agent_job(agents, prompt="Report", script="quiet.sh")
    assert (run.state, run.delivery) == (RunState.SUCCEEDED, DeliveryState.SILENT)
    assert model.asked == []
    script(home, "fail.sh", "echo bad >&2; exit 3")
    run = run_agent_job(agents, prompt="Report", script="fail.sh")
    assert run.state is RunState.SUCCEEDED
    assert "## Script Error" in model.prompt()
    assert "Script exited with code 3\nstderr:\nbad" in model.prompt()


def test_a_waiting_agent_is_cancelled_with_all_its_processes(agents: Client, model: Model) -> None:
    model.gate.clear()
    run_id = agents.run(agents.add(JobRequest(schedule="every 1h", prompt="Wait")).id)
    eventually(lambda: model.asked, seconds=40, what="a request to the model")
    assert agents.cancel(run_id) == "asked"
    assert ended(agents, run_id).state is RunState.CANCELLED


def test_a_spent_budget_pauses_the_job_and_gives_the_reason(agents: Client) -> None:
    job = agents.add(JobRequest(schedule="every 1h", prompt="Say hello", token_budget=1000))
    ended(agents, agents.run(job.id))
    assert agents.show(job.id).state is JobState.SCHEDULED
    ended(agents, agents.run(job.id))
    paused = agents.show(job.id)
    assert paused.state is JobState.PAUSED
    assert (paused.paused_reason or "").startswith("token budget spent: 1500 of 1000 on ")


def test_without_the_program_the_run_says_how_to_get_it(
    processes: Processes, valkey: Database, cron: Client
) -> None:
    processes.celery("worker", HERMES_CELERY_AGENT_COMMAND="no-such-agent {prompt}")
    await_worker(valkey)
    run = run_agent_job(cron, prompt="Say hello")
    assert run.state is RunState.FAILED
    assert "'no-such-agent' is not on this worker; install it" in (run.error or "")
    assert EMPTY_ANSWER not in (run.error or "")
