"""What the worker does."""

from datetime import timedelta

from celery import shared_task
from django.utils import timezone
from hermes_celery.session import get_session_env

from newsletters.models import Issue, Newsletter


@shared_task
def send_newsletter(newsletter_id):
    newsletter = Newsletter.objects.get(pk=newsletter_id)
    # The run's id makes it idempotent: a run that begins again sends nothing twice.
    run_id = get_session_env("HERMES_CRON_RUN_ID")
    issue, is_new = Issue.objects.get_or_create(newsletter=newsletter, run_id=run_id)
    return f"sent {newsletter.subject!r}" if is_new else f"{issue.run_id} was sent before"


@shared_task
def count_issues():
    return f"{Issue.objects.count()} issues"


@shared_task
def forget_old_issues():
    deleted, _ = Issue.objects.filter(sent_at__lt=timezone.now() - timedelta(days=30)).delete()
    return f"{deleted} old issues deleted"
