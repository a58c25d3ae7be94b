"""Keeps one job for each newsletter."""

from contextlib import suppress

from hermes_celery import JobRequest
from hermes_celery.errors import JobNotFound

from mysite.celery import cron
from newsletters.tasks import send_newsletter


def job_name(newsletter_id):
    return f"newsletter-{newsletter_id}"


def store(newsletter):
    """Add the newsletter's job, or give it the newsletter's schedule."""
    name = job_name(newsletter.pk)
    try:
        cron.client.edit(name, {"schedule": newsletter.schedule})
    except JobNotFound:
        task = send_newsletter.s(newsletter.pk)
        cron.client.add(JobRequest(name=name, schedule=newsletter.schedule, task=task))


def remove(newsletter_id):
    """Remove the newsletter's job, if there is one."""
    with suppress(JobNotFound):
        cron.client.remove(job_name(newsletter_id))


def next_run_at(newsletter):
    """Return when the newsletter goes out next; None if it does not."""
    try:
        return cron.client.show(job_name(newsletter.pk)).next_run_at
    except JobNotFound:
        return None
