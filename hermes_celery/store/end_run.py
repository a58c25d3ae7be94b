"""End a run without its runner's report: it still waits, or its runner is gone.

People, rescue, the tick, and workers that drop its message end a waiting run (`cancel.lua`). A run
whose worker or process is gone is given up (`lose.lua`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hermes_celery.core.run import EndReason, RunState, job_id_of
from hermes_celery.errors import RunNotFound
from hermes_celery.store.database import Arg, Database, or_none
from hermes_celery.store.fencing import Actor
from hermes_celery.store.waiting_runs import WaitingRuns


class EarlyEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The state and the reason with which a run ends without its runner's report."""

    state: RunState
    reason: str = ""
    #: If set, people are notified.
    error: str = ""
    #: Whether to leave a running run alone; else its runner is asked to end it.
    leaves_running: bool = False
    #: The attempt whose message was dropped; the run is left alone if it now waits for another
    #: message. None: end the run whatever message it waits for.
    attempt: int | None = None
    #: How often the run's own tasks had handed that message on.
    hop: int = 0


class _Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Options for giving up a run whose worker or process is gone."""

    #: The prefix of its claim token; "" when it is given up because its heartbeat stopped.
    claimed: str = ""
    #: When its next attempt begins, Unix ms; None for no retry.
    retry_at_ms: int | None = None
    #: Whether the message of that attempt is already on a queue.
    is_requeued: bool = False


def cancel_run(
    database: Database,
    run_id: str,
    end: EarlyEnd,
    *,
    actor: Actor,
    queue: str,
    redeliver_at_ms: int,
) -> str:
    """End a waiting run, or ask a running one's runner to end it.

    A held run that becomes free goes to `queue`. Returns `cancelled`, `asked`, `over` or `gone`.
    Raises LeaseLost when a younger leader's token is known.
    """
    keys, job_id = database.keys, job_id_of(run_id)
    return database.run_fenced(
        "cancel",
        keys={
            "run": keys.run(run_id),
            "job": keys.job(job_id),
            "active": keys.active(job_id),
            "queued": keys.queued,
            "held": keys.held(job_id),
            "due": database.due_key(job_id),
            "completed": keys.completed,
            "queue": queue,
            "term": keys.term_of(actor.shard),
            "deliveries": keys.deliveries,
        },
        args={
            "run_id": run_id,
            "now_ms": actor.now_ms,
            "reason": end.reason,
            "state": end.state.value,
            "redeliver_at_ms": redeliver_at_ms,
            "token": or_none(actor.token),
            "error": end.error,
            "when_running": "leave" if end.leaves_running else "ask",
            "attempt": or_none(end.attempt),
            "hop": end.hop,
        },
    )


class EndingRuns(WaitingRuns):
    """Ends runs of one namespace before their runner reports an end."""

    def cancel(self, run_id: str, *, reason: str, now_ms: int, token: int | None = None) -> str:
        """Cancel a run: `cancelled`, `asked` (its runner will end it) or `over`.

        A leader passes its `token`. Raises RunNotFound, and LeaseLost when a younger leader's token
        is known.
        """
        end = EarlyEnd(state=RunState.CANCELLED, reason=reason)
        answer = self._end(run_id, end, Actor(now_ms=now_ms, token=token))
        if answer == "gone":
            raise RunNotFound(run_id)
        return answer

    def expire(self, run_id: str, *, now_ms: int, token: int | None = None) -> None:
        """Skip a waiting run whose lateness deadline has passed; a leader passes its `token`.

        A run that a worker claimed at the last moment is left alone.
        """
        reason = f"{EndReason.EXPIRED}: no worker took it in time"
        end = EarlyEnd(state=RunState.SKIPPED, reason=reason)
        self.end_waiting(run_id, end, now_ms=now_ms, token=token)

    def end_waiting(
        self, run_id: str, end: EarlyEnd, *, now_ms: int, token: int | None = None
    ) -> str:
        """End a waiting run whose message was dropped; a running one is left alone.

        Returns `cancelled`, `over` or `gone`. Raises LeaseLost when a younger leader's token is
        known.
        """
        end = msgspec.structs.replace(end, leaves_running=True)
        return self._end(run_id, end, Actor(now_ms=now_ms, token=token))

    def _end(self, run_id: str, end: EarlyEnd, actor: Actor) -> str:
        return cancel_run(
            self._database,
            run_id,
            end,
            actor=actor,
            queue=self._queue_of(run_id),
            redeliver_at_ms=actor.now_ms + self._redeliver_after_ms,
        )

    def silent_since(self, now_ms: int, *, limit: int) -> list[str]:
        """Return at most `limit` ids of running runs whose claim expired at `now_ms` or earlier."""
        heartbeats = self._keys.heartbeats
        return list(
            self._database.call("ZRANGEBYSCORE", heartbeats, "-inf", now_ms, "LIMIT", 0, limit)
        )

    def lose(
        self,
        run_id: str,
        *,
        error: str,
        now_ms: int,
        token: int | None = None,
        retry_at_ms: int | None = None,
    ) -> str:
        """Give up a run whose heartbeat stopped; with `retry_at_ms` queue its next attempt.

        Returns `ok`, `retry`, or `alive`: its heartbeat goes on, and nothing changed. Raises
        LeaseLost when a younger leader's token is known.
        """
        end = EarlyEnd(state=RunState.LOST, error=error)
        actor = Actor(now_ms=now_ms, token=token)
        return self._lose(run_id, end, _Loss(retry_at_ms=retry_at_ms), actor)

    def give_up(
        self,
        run_id: str,
        end: EarlyEnd,
        *,
        pid: int,
        now_ms: int,
        retry_at_ms: int | None = None,
        is_requeued: bool = False,
    ) -> str:
        """End a run at once, because the process `pid` that ran it has ended.

        A run that another process has taken since is left alone. With `retry_at_ms` its next
        attempt is queued; `is_requeued` means that the message of that attempt is already on
        the queue. A run that was asked to end is cancelled. Returns the words of `lose`.
        """
        loss = _Loss(claimed=f"{pid}-", retry_at_ms=retry_at_ms, is_requeued=is_requeued)
        return self._lose(run_id, end, loss, Actor(now_ms=now_ms))

    def _lose(self, run_id: str, end: EarlyEnd, loss: _Loss, actor: Actor) -> str:
        args: Mapping[str, Arg] = {
            "token": or_none(actor.token),
            "now_ms": actor.now_ms,
            "run_id": run_id,
            "error": end.error,
            "retry_at_ms": or_none(loss.retry_at_ms),
            "redeliver_at_ms": actor.now_ms + self._redeliver_after_ms,
            "claimed": loss.claimed,
            "state": end.state.value,
            "is_requeued": int(loss.is_requeued),
        }
        keys, job_id = self._keys, job_id_of(run_id)
        return self._database.run_fenced(
            "lose",
            keys={
                "term": keys.term,
                "run": keys.run(run_id),
                "job": keys.job(job_id),
                "active": keys.active(job_id),
                "heartbeats": keys.heartbeats,
                "held": keys.held(job_id),
                "due": self._database.due_key(job_id),
                "queued": keys.queued,
                "completed": keys.completed,
                "queue": self._queue_of(run_id),
                "deliveries": keys.deliveries,
            },
            args=args,
        )
