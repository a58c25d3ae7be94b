"""Agent runs with the real hermes-agent in an environment of its own, and a model on loopback.

The model is a stub that speaks OpenAI's protocol. Without hermes-agent (`.ci/run` installs it into
`.venv-hermes`; HERMES_AGENT_BIN names another place) these tests skip.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest, JobState
from hermes_celery.core.run import DeliveryState, Run, RunState
from hermes_celery.running.prompt import EMPTY_ANSWER
from hermes_celery.store import Database
from tests.support import eventually
from tests.system.conftest import Processes, await_worker, script, script_job

_HERMES = Path(
    os.environ.get("HERMES_AGENT_BIN")
    or Path(__file__).parents[2] / ".venv-hermes" / "bin" / "hermes"
)
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not _HERMES.is_file(), reason=f"hermes-agent is not installed at {_HERMES}"),
]


class Model:
    """A model that answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer = "hello from the model"
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        model = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                self.reply(b'{"data": []}')

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if "messages" not in body:
                    self.reply(b"{}", status=404)
                    return
                model.asked.append(body)
                model.keys.append(str(self.headers.get("Authorization")))
                model.gate.wait(60)
                if model.status != 200:
                    error = {"error": {"message": "Incorrect API key provided", "code": "bad_key"}}
                    self.reply(json.dumps(error).encode(), status=model.status)
                elif body.get("stream"):
                    self.reply(streamed(model.answer), kind="text/event-stream")
                else:
                    self.reply(whole(model.answer))

            def reply(
                self, content: bytes, *, status: int = 200, kind: str = "application/json"
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def prompt(self) -> str:
        """The user's part of the last question."""
        content = [m["content"] for m in self.asked[-1]["messages"] if m["role"] == "user"][-1]
        return content if isinstance(content, str) else str(content)

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


_USAGE = {"prompt_tokens": 700, "completion_tokens": 50, "total_tokens": 750}


def whole(answer: str) -> bytes:
    message = {"role": "assistant", "content": answer}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 1, "model": "stub",
         "choices": [choice], "usage": _USAGE}
    ).encode()  # fmt: skip


def streamed(answer: str) -> bytes:
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": answer}, None),
        ({}, "stop"),
    ]
    chunks = [
        {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "stub",
         "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
         **({"usage": _USAGE} if reason else {})}
        for delta, reason in deltas
    ]  # fmt: skip
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.close()


@pytest.fixture
def agents(
    processes: Processes, valkey: Database, cron: Client, home: Path, model: Model
) -> Client:
    """The verbs, with a worker whose agents ask the stub."""
    configure(home, model)
    (home / ".env").write_text("FROM_ENV_FILE=sk-not-shown-1234567890\n", encoding="utf-8")
    path = f"{_HERMES.parent}{os.pathsep}{processes.environment['PATH']}"
    processes.celery("worker", PATH=path, HERMES_CRON_MAX_WORKERS="2")
    await_worker(valkey)
    return cron


def configure(home: Path, model: Model) -> None:
    settings = {"default": "stub-model", "provider": "custom", "base_url": model.url}
    (home / "config.yaml").write_text(
        json.dumps({"model": {**settings, "api_key": "stub-key"}}), encoding="utf-8"
    )


def asked(cron: Client, **fields: Any) -> Run:
    """A run of a job that asks the agent, at its end."""
    job = cron.add(JobRequest(schedule="every 1h", name=fields.pop("name", "ask"), **fields))
    return ended(cron, cron.run(job.id))


def ended(cron: Client, run_id: str) -> Run:
    eventually(lambda: cron.runs.get(run_id).state.is_final, seconds=60, what=f"end of {run_id}")
    return cron.runs.get(run_id)


def test_an_answer_is_the_output_and_its_tokens_are_kept(agents: Client, model: Model) -> None:
    run = asked(agents, prompt="Say hello")
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
    run = asked(
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
    run = asked(agents, prompt="Anything new?")
    assert run.state is state
    if delivery is not None:
        assert run.delivery is delivery
    else:
        assert run.error == EMPTY_ANSWER


def test_a_provider_that_refuses_fails_the_run_although_the_exit_code_is_zero(
    agents: Client, model: Model
) -> None:
    model.status = 401
    run = asked(agents, prompt="Say hello")
    assert run.state is RunState.FAILED
    assert "401" in (run.error or "")


def test_a_script_can_keep_the_agent_asleep_and_its_failure_is_reported(
    agents: Client, model: Model, home: Path
) -> None:
    script(home, "gate.sh", "echo '{\"wakeAgent\": false}'")
    run = asked(agents, prompt="Report", script="gate.sh")
    assert (run.state, run.delivery) == (RunState.SUCCEEDED, DeliveryState.SILENT)
    script(home, "quiet.sh", ":")
    run = asked(agents, prompt="Report", script="quiet.sh")
    assert (run.state, run.delivery) == (RunState.SUCCEEDED, DeliveryState.SILENT)
    assert model.asked == []
    script(home, "fail.sh", "echo bad >&2; exit 3")
    run = asked(agents, prompt="Report", script="fail.sh")
    assert run.state is RunState.SUCCEEDED
    assert "## Script Error" in model.prompt()
    assert "Script exited with code 3\nstderr:\nbad" in model.prompt()


def test_a_waiting_agent_is_cancelled_with_all_its_processes(agents: Client, model: Model) -> None:
    model.gate.clear()
    run_id = agents.run(agents.add(JobRequest(schedule="every 1h", prompt="Wait")).id)
    eventually(lambda: model.asked, seconds=40, what="the question")
    assert agents.cancel(run_id) == "asked"
    assert ended(agents, run_id).state is RunState.CANCELLED


def test_a_budget_that_is_spent_pauses_the_job_and_says_so(agents: Client) -> None:
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
    run = asked(cron, prompt="Say hello")
    assert run.state is RunState.FAILED
    assert "'no-such-agent' is not on this worker; install it" in (run.error or "")
    assert EMPTY_ANSWER not in (run.error or "")
