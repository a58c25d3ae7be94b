"""Which jobs the server lost, as the leader told it, or as this machine's note says."""

from __future__ import annotations

from hermes_celery.core.incidents import TroubleKind, incident_id
from hermes_celery.store import Database, Incidents
from hermes_celery.store.loss_note import LOSS, LossNote


def lost_jobs(database: Database, loss_note: LossNote | None) -> list[str]:
    """What is lost and not acknowledged, a sentence for each loss.

    `loss_note` knows what was there, also while no beat leads that would tell. Raises StoreError.
    """
    told = [one for one in Incidents(database).of_job("") if one.kind is TroubleKind.GONE]
    texts = [one.text for one in told if not one.acked_at]
    is_told = any(one.id == incident_id(TroubleKind.GONE, LOSS) for one in told)
    seen = loss_note.missing() if loss_note is not None and not is_told else None
    return texts if seen is None else [seen.text, *texts]
