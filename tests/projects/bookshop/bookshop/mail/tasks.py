"""The shop's tasks that send mail."""

from celery import group, shared_task
from notes import note


@shared_task(ignore_result=True)
def send_queued():
    """Send the mail in the outbox."""
    note("send-queued-mail")


@shared_task
def write_letter(reader):
    """Write to one reader."""
    note("letter", reader)


@shared_task(name="newsletter")
def newsletter():
    """Write to every reader."""
    group(write_letter.s(reader) for reader in range(3)).delay()
    note("weekly-newsletter")
