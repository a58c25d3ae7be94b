"""The shop's tasks for orders."""

from celery import shared_task
from notes import note


@shared_task
def release_reserved(older_than_minutes):
    """Release reserved books that were not paid for."""
    note("release-reserved-books", older_than_minutes)
    return {"released": 0}


@shared_task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=3)
def report(self, kind):
    """Count the sold books."""
    note("morning-report" if kind == "daily" else "close-the-month", self.request.id)
    return f"{kind} report"
