"""Find the jobs that the server lost, from the leader's incidents and this machine's note."""

from __future__ import annotations

from hermes_celery.core.incidents import TroubleKind, incident_id
from hermes_celery.store import Database, Incidents
from hermes_celery.store.loss_note import LOSS, LossNote


def lost_jobs(database: Database, loss_note: LossNote | None) -> list[str]:
    """Return one sentence for each loss that nobody has acknowledged.

    `loss_note` shows a loss even if no beat leads that would report it. Raises StoreError.
    """
    told = [one for one in Incidents(database).of_job("") if one.kind is TroubleKind.GONE]
    texts = [one.text for one in told if not one.acked_at]
    is_told = any(one.id == incident_id(TroubleKind.GONE, LOSS) for one in told)
    seen = loss_note.missing() if loss_note is not None and not is_told else None
    return texts if seen is None else [seen.text, *texts]
