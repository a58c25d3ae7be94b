"""Tests of stored deliveries: begun with the run's end, claimed part by part, settled, counted."""

from __future__ import annotations

import pytest

from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import DeliveryState, Outcome, RunState
from hermes_celery.core.targets import Target
from hermes_celery.errors import LeaseLost, RunNotFound
from hermes_celery.store import (
    Deliveries,
    DeliveryPart,
    FollowUp,
    Incidents,
    PartContent,
    ToldIncident,
)
from hermes_celery.store.deliveries import GRACE_MS, MAX_PLANNINGS, SendClaim
from tests.support import Store

TOKEN = 7
OPS = DeliveryPart(what=PartContent.OUTPUT, target=Target(name="ops"))
CHAT = DeliveryPart(what=PartContent.OUTPUT, target=Target(platform="telegram", chat_id="1"))
QUEUE = "deliveries"


@pytest.fixture
def deliveries(store: Store) -> Deliveries:
    """Return the deliveries of the store's namespace."""
    return Deliveries(store.database)


@pytest.fixture
def incidents(store: Store) -> Incidents:
    """Return the incidents of the store's namespace."""
    return Incidents(store.database)


@pytest.fixture
def run_id(store: Store) -> str:
    """Return the id of a run that succeeded and is to be delivered."""
    store.database.call("SET", store.database.keys.term, TOKEN)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    return ended(store)


def ended(
    store: Store,
    state: RunState = RunState.SUCCEEDED,
    delivery: DeliveryState = DeliveryState.PENDING,
) -> str:
    run_id = store.cron.run("n")
    outcome = Outcome(state=state, output=b"hi")
    queue = store.database.keys.default_queue + QUEUE
    follow_up = FollowUp(delivery=delivery, queue=queue, message=run_id.encode(),
                         is_needed=delivery is DeliveryState.PENDING)  # fmt: skip
    store.runs.finish(store.claim(run_id), outcome, now_ms=store.clock.ms, follow_up=follow_up)
    return run_id


def pushed(store: Store) -> list[str]:
    return list(store.database.call("LRANGE", store.database.keys.default_queue + QUEUE, 0, -1))[
        ::-1
    ]


def claim_part(store: Store, deliveries: Deliveries, run_id: str, part: int = 0) -> SendClaim:
    found = deliveries.claim(
        run_id, part, token="t", now_ms=store.clock.ms, until_ms=store.clock.ms + 30_000
    )
    assert isinstance(found, SendClaim), found
    return found


def test_ending_a_run_and_beginning_its_delivery_is_one_step(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    assert store.runs.get(run_id).delivery is DeliveryState.PENDING
    assert pushed(store) == [run_id]
    assert deliveries.get(run_id).parts is None
    assert deliveries.due(store.clock.ms, limit=9) == []
    assert deliveries.due(store.clock.ms + 60_000, limit=9) == [(run_id, store.clock.ms + 60_000)]


def test_a_repeated_finish_begins_one_delivery(store: Store, run_id: str) -> None:
    again = store.cron.run("n")
    claim = store.claim(again)
    follow_up = FollowUp(delivery=DeliveryState.PENDING, is_needed=True, message=b"m",
                         queue=store.database.keys.default_queue + QUEUE)  # fmt: skip
    for _ in range(2):
        outcome = Outcome(state=RunState.SUCCEEDED)
        store.runs.finish(claim, outcome, now_ms=store.clock.ms, follow_up=follow_up)
    assert pushed(store) == [run_id, "m"]


def test_a_run_that_is_tried_again_is_not_delivered_yet(store: Store, run_id: str) -> None:
    again = store.cron.run("n")
    follow_up = FollowUp(delivery=DeliveryState.PENDING, is_needed=True, message=b"m",
                         queue=store.database.keys.default_queue + QUEUE)  # fmt: skip
    answer = store.runs.finish(
        store.claim(again),
        Outcome(state=RunState.FAILED, error="boom"),
        now_ms=store.clock.ms,
        retry_at_ms=store.clock.ms + 1000,
        follow_up=follow_up,
    )
    assert (answer, pushed(store)) == ("retry", [run_id])
    assert store.runs.get(again).delivery is DeliveryState.NONE


def test_a_lost_run_is_delivered_by_the_next_rescue(store: Store, deliveries: Deliveries) -> None:
    store.database.call("SET", store.database.keys.term, TOKEN)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    run_id = store.cron.run("n")
    store.claim(run_id)
    store.clock.advance(20)
    assert store.runs.lose(run_id, error="gone", token=TOKEN, now_ms=store.clock.ms) == "ok"
    assert deliveries.due(store.clock.ms, limit=9) == [(run_id, store.clock.ms)]
    assert store.runs.get(run_id).delivery is DeliveryState.PENDING


def test_a_delivery_is_planned_once(store: Store, deliveries: Deliveries, run_id: str) -> None:
    deliveries.plan(run_id, [OPS], now_ms=store.clock.ms)
    deliveries.plan(run_id, [CHAT, OPS], now_ms=store.clock.ms)
    parts = deliveries.get(run_id).parts
    assert parts is not None
    assert [part.part for part in parts] == [OPS]


def test_a_part_is_claimed_by_one_sender_at_a_time(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [OPS, CHAT], now_ms=store.clock.ms)
    assert claim_part(store, deliveries, run_id).attempt == 1
    until_ms = store.clock.ms + 30_000

    def second(part: int) -> SendClaim | str:
        return deliveries.claim(run_id, part, token="u", now_ms=store.clock.ms, until_ms=until_ms)

    assert second(0) == "taken"
    assert isinstance(second(1), SendClaim)


def test_the_claim_of_a_dead_sender_expires_after_the_grace(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [OPS], now_ms=store.clock.ms)
    first = claim_part(store, deliveries, run_id)
    assert deliveries.due(store.clock.ms + 29_999, limit=9) == []
    store.clock.advance(30)
    assert [due for due, _ in deliveries.due(store.clock.ms, limit=9)] == [run_id]
    assert asked(store, deliveries, run_id, token="u") == "taken"
    assert deliveries.due(store.clock.ms + GRACE_MS - 1, limit=9) == []
    store.clock.advance(GRACE_MS / 1000 - 0.001)
    assert asked(store, deliveries, run_id, token="u") == "taken"
    store.clock.advance(0.001)
    assert [due for due, _ in deliveries.due(store.clock.ms, limit=9)] == [run_id]
    second = asked(store, deliveries, run_id, token="u")
    assert isinstance(second, SendClaim)
    assert second.attempt == 2
    late = replace_token(first, "somebody else's")
    assert deliveries.done(late, DeliveryState.DELIVERED, now_ms=store.clock.ms) == "late"


def asked(store: Store, deliveries: Deliveries, run_id: str, *, token: str) -> SendClaim | str:
    now_ms = store.clock.ms
    return deliveries.claim(run_id, 0, token=token, now_ms=now_ms, until_ms=now_ms + 30_000)


def test_a_sender_that_claims_again_within_the_grace_keeps_its_part(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [OPS], now_ms=store.clock.ms)
    first = claim_part(store, deliveries, run_id)
    # The server did not answer for an hour; others reach it before the sender does.
    store.clock.advance(3600)
    assert asked(store, deliveries, run_id, token="u") == "taken"
    again = asked(store, deliveries, run_id, token="t")
    assert again == first
    store.clock.advance(29)
    assert asked(store, deliveries, run_id, token="u") == "taken"
    assert deliveries.done(first, DeliveryState.DELIVERED, now_ms=store.clock.ms) == "delivered"
    assert asked(store, deliveries, run_id, token="u") == "over"


def test_a_request_repeated_after_a_lost_answer_counts_nothing_twice(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [OPS], now_ms=store.clock.ms)
    first = claim_part(store, deliveries, run_id)
    assert claim_part(store, deliveries, run_id) == first
    for _ in range(2):
        state = deliveries.done(first, DeliveryState.PENDING, now_ms=store.clock.ms, error="502",
                                next_ms=store.clock.ms + 1000, sent=1)  # fmt: skip
        assert state == "pending"
    (part,) = deliveries.get(run_id).parts or ()
    assert (part.attempts, part.error, part.next_ms) == (1, "502", store.clock.ms + 1000)


def begun(store: Store, deliveries: Deliveries, run_id: str, *, token: str) -> str:
    now_ms = store.clock.ms
    return deliveries.begin(run_id, token=token, now_ms=now_ms, until_ms=now_ms + 30_000)


def test_a_delivery_is_planned_by_one_worker_at_a_time_and_plannings_are_counted(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    for number in range(MAX_PLANNINGS):
        for _ in range(2):
            assert begun(store, deliveries, run_id, token=str(number)) == "ok"
        assert begun(store, deliveries, run_id, token="other") == "taken"
        store.clock.advance(30)
    assert begun(store, deliveries, run_id, token="last") == "spent"
    assert begun(store, deliveries, run_id, token="last") == "spent"
    assert begun(store, deliveries, run_id, token="other") == "taken"
    deliveries.plan(run_id, [OPS], now_ms=store.clock.ms)
    assert begun(store, deliveries, run_id, token="other") == "planned"
    deliveries.again(run_id, mode="all", now_ms=store.clock.ms, queue="q", message=b"m")
    assert begun(store, deliveries, run_id, token="another") == "ok"


def test_a_failed_planning_does_not_bring_the_next_push_forward(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    ((_, seen_ms),) = deliveries.due(store.clock.ms + 60_000, limit=9)
    begun(store, deliveries, run_id, token="a")
    assert deliveries.due(seen_ms, limit=9) == [(run_id, seen_ms)]
    store.clock.ms = seen_ms - 1000
    begun(store, deliveries, run_id, token="b")
    assert deliveries.due(seen_ms, limit=9) == []
    assert deliveries.due(seen_ms + 29_000, limit=9) == [(run_id, seen_ms + 29_000)]


def replace_token(one: SendClaim, token: str) -> SendClaim:
    return SendClaim(id=one.id, part=one.part, token=token, attempt=one.attempt, sent=one.sent)


def test_a_delivery_is_delivered_when_all_parts_are(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [OPS, CHAT], now_ms=store.clock.ms)
    now_ms = store.clock.ms
    assert deliveries.done(
        claim_part(store, deliveries, run_id), DeliveryState.DELIVERED, now_ms=now_ms
    ) == ("pending")
    one = claim_part(store, deliveries, run_id, 1)
    assert deliveries.done(one, DeliveryState.DELIVERED, now_ms=now_ms) == "delivered"
    assert store.runs.get(run_id).delivery is DeliveryState.DELIVERED
    assert deliveries.due(now_ms + 10**9, limit=9) == []
    assert deliveries.claim(run_id, 0, token="x", now_ms=now_ms, until_ms=now_ms) == "over"


def test_a_delivery_with_one_failed_part_is_failed_and_the_job_says_so(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [OPS, CHAT], now_ms=store.clock.ms)
    now_ms = store.clock.ms
    deliveries.done(claim_part(store, deliveries, run_id), DeliveryState.DELIVERED, now_ms=now_ms)
    one = claim_part(store, deliveries, run_id, 1)
    deliveries.done(one, DeliveryState.PENDING, now_ms=now_ms, error="502", next_ms=now_ms + 1000)
    job = store.cron.show("n")
    assert (job.last_status, job.last_delivery_error) == ("ok", "502")
    assert deliveries.claim(run_id, 1, token="x", now_ms=now_ms, until_ms=now_ms) == "later"
    store.clock.advance(1)
    one = claim_part(store, deliveries, run_id, 1)
    assert (
        deliveries.done(one, DeliveryState.FAILED, now_ms=store.clock.ms, error="502") == "failed"
    )
    job, run = store.cron.show("n"), store.runs.get(run_id)
    assert (job.last_status, job.last_delivery_error) == ("delivery_failed", "502")
    assert (run.state, run.delivery) == (RunState.SUCCEEDED, DeliveryState.FAILED)


def test_a_successful_redelivery_clears_the_jobs_delivery_error(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [OPS, CHAT], now_ms=store.clock.ms)
    now_ms = store.clock.ms
    deliveries.done(claim_part(store, deliveries, run_id), DeliveryState.DELIVERED, now_ms=now_ms)
    one = claim_part(store, deliveries, run_id, 1)
    deliveries.done(one, DeliveryState.FAILED, now_ms=now_ms, error="502")
    assert deliveries.again(run_id, mode="failed", now_ms=now_ms, queue="q", message=b"m")
    assert deliveries.get(run_id).again == "failed"
    reached = DeliveryPart(what=PartContent.OUTPUT, target=OPS.target, was_delivered=True)
    deliveries.plan(run_id, [reached, CHAT], now_ms=now_ms)
    assert deliveries.claim(run_id, 0, token="x", now_ms=now_ms, until_ms=now_ms) == "over"
    one = claim_part(store, deliveries, run_id, 1)
    assert deliveries.done(one, DeliveryState.DELIVERED, now_ms=now_ms) == "delivered"
    job = store.cron.show("n")
    assert (job.last_status, job.last_delivery_error) == ("ok", None)


def test_a_late_delivery_does_not_change_the_status_of_the_jobs_next_run(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [OPS], now_ms=store.clock.ms)
    one = claim_part(store, deliveries, run_id)
    store.clock.advance(5)
    ended(store, delivery=DeliveryState.NONE)
    deliveries.done(one, DeliveryState.FAILED, now_ms=store.clock.ms, error="502")
    job = store.cron.show("n")
    assert (job.last_status, job.last_delivery_error) == ("ok", None)
    assert store.runs.get(run_id).delivery is DeliveryState.FAILED


def test_an_unresolvable_target_is_recorded_as_failed(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    lost = DeliveryPart(
        what=PartContent.OUTPUT, target=Target(name="x"), fault="no delivery target resolved"
    )
    deliveries.plan(run_id, [lost], now_ms=store.clock.ms)
    assert store.runs.get(run_id).delivery is DeliveryState.FAILED
    assert store.cron.show("n").last_delivery_error == "no delivery target resolved"


def test_a_delivery_without_targets_is_not_a_failure(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    deliveries.plan(run_id, [], now_ms=store.clock.ms, warning="w")
    run = store.runs.get(run_id)
    assert (run.delivery, run.delivery_warning) == (DeliveryState.NONE, "w")
    assert store.cron.show("n").last_status == "ok"


def test_an_active_run_cannot_be_delivered_again(store: Store, deliveries: Deliveries) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    run_id = store.cron.run("n")
    assert not deliveries.again(run_id, mode="all", now_ms=0, queue="q", message=b"m")
    with pytest.raises(RunNotFound):
        deliveries.again("aaaaaaaaaaaa-20260622T120000Z", mode="all", now_ms=0, queue="q",
                         message=b"m")  # fmt: skip


def test_a_message_that_nobody_takes_is_pushed_again_at_growing_intervals(
    store: Store, deliveries: Deliveries, run_id: str
) -> None:
    times = []
    start_ms = store.clock.ms
    for _ in range(5):
        ((_, seen_ms),) = deliveries.due(store.clock.ms + 10**9, limit=9)
        store.clock.ms = seen_ms
        assert deliveries.push(run_id, seen_ms=seen_ms, now_ms=seen_ms, token=TOKEN,
                               queue=store.database.keys.default_queue + QUEUE,
                               message=b"again")  # fmt: skip
        times.append((seen_ms - start_ms) // 1000)
    assert times == [60, 120, 240, 480, 960]
    assert not deliveries.push(run_id, seen_ms=1, now_ms=1, token=TOKEN, queue="q", message=b"m")


def test_an_older_leader_pushes_nothing(store: Store, deliveries: Deliveries, run_id: str) -> None:
    with pytest.raises(LeaseLost):
        deliveries.push(run_id, seen_ms=1, now_ms=1, token=TOKEN - 1, queue="q", message=b"m")


def note(store: Store, incidents: Incidents, run_id: str) -> tuple[int, int, bool]:
    boom = Trouble(
        kind=TroubleKind.FAILURE,
        subject="a-1",
        text="boom",
        job_id="a",
        job_name="n",
        run_id=run_id,
    )
    noted = incidents.report(boom, now_ms=store.clock.ms)
    return noted.count, noted.told, noted.is_acked


def test_a_run_reported_several_times_is_counted_once(store: Store, incidents: Incidents) -> None:
    assert note(store, incidents, "r1") == (1, 0, False)
    assert note(store, incidents, "r1") == (1, 0, False)
    assert note(store, incidents, "r2") == (2, 0, False)
    (found,) = incidents.of_job("a")
    assert (found.count, found.last_run_id, found.text) == (2, "r2", "boom")
    assert incidents.open() == [found]


def test_an_incident_without_a_run_is_counted_once_until_it_is_closed(
    store: Store, incidents: Incidents
) -> None:
    for _ in range(3):
        assert note(store, incidents, "") == (1, 0, False)
    found = incidents.of_job("a")

    def close(*, worked_ms: int) -> int:
        return incidents.close(found, job_id="a", now_ms=store.clock.ms, worked_ms=worked_ms)

    assert close(worked_ms=store.clock.ms - 1) == 0
    assert close(worked_ms=store.clock.ms) == 1
    assert (incidents.open(), incidents.of_job("a"), incidents.count()) == ([], [], 0)
    assert note(store, incidents, "") == (1, 0, False)


def test_an_incident_stays_acknowledged_until_it_is_closed(
    store: Store, incidents: Incidents
) -> None:
    note(store, incidents, "r1")
    assert incidents.ack("failure-a-1", now_ms=store.clock.ms) == "ok"
    assert incidents.ack("failure-a-1", now_ms=store.clock.ms) == "before"
    assert note(store, incidents, "r2") == (2, 0, True)
    incidents.close(incidents.of_job("a"), job_id="a", now_ms=store.clock.ms,
                    worked_ms=store.clock.ms)  # fmt: skip
    assert incidents.ack("failure-a-1", now_ms=store.clock.ms) == "gone"
    assert note(store, incidents, "r3") == (1, 0, False)


def test_a_recovery_is_stored_with_the_delivery_that_closed_the_incident(
    store: Store, deliveries: Deliveries, incidents: Incidents
) -> None:
    note(store, incidents, "r1")
    found = incidents.of_job("a")
    for _ in range(2):
        incidents.close(found, job_id="a", now_ms=store.clock.ms, worked_ms=store.clock.ms,
                        delivery_id="r2", recovery="works again")  # fmt: skip
    assert deliveries.get("r2").recovery == "works again"


def test_a_success_pushes_a_message_if_there_is_an_open_incident(
    store: Store, incidents: Incidents, run_id: str
) -> None:
    job_id = store.runs.get(run_id).job_id
    quiet = ended(store, delivery=DeliveryState.NONE)
    assert pushed(store) == [run_id]
    failed = Trouble(kind=TroubleKind.FAILURE, subject="i", text="t", job_id=job_id, run_id="r")
    incidents.report(failed, now_ms=1)
    told = ended(store, delivery=DeliveryState.NONE)
    assert pushed(store) == [run_id, told]
    assert quiet not in pushed(store)


def test_a_notice_is_recorded_once_for_each_count(
    store: Store, deliveries: Deliveries, incidents: Incidents
) -> None:
    note(store, incidents, "r1")

    def notice(notice_id: str, *, count: int) -> bool:
        return deliveries.notice(
            notice_id,
            "text",
            deliver="ops",
            job_id="a",
            told=ToldIncident(id="failure-a-1", count=count),
            now_ms=store.clock.ms,
        )

    assert notice("n1", count=1)
    assert not notice("n2", count=1)
    assert notice("n3", count=3)
    assert [due for due, _ in deliveries.due(store.clock.ms, limit=9)] == ["n1", "n3"]
    assert (deliveries.get("n1").text, deliveries.get("n1").deliver) == ("text", "ops")
