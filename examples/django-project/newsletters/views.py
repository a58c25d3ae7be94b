"""What people see of the newsletters."""

from django.http import JsonResponse
from django.utils import timezone

from newsletters import schedules
from newsletters.models import Newsletter


def newsletters(request):
    """List the newsletters with when they go out, in the zone of the project."""
    return JsonResponse({"newsletters": [shown(one) for one in Newsletter.objects.order_by("pk")]})


def shown(newsletter):
    next_run_at = schedules.next_run_at(newsletter)
    return {
        "subject": newsletter.subject,
        "schedule": newsletter.schedule,
        "next": next_run_at and timezone.localtime(next_run_at).isoformat(timespec="seconds"),
        "sent": newsletter.issue_set.count(),
    }
