"""Newsletters, and what was sent of them."""

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from hermes_celery import parse_schedule
from hermes_celery.errors import ScheduleError


def check_schedule(text):
    """Raise ValidationError, with what is wrong, for a text that is no schedule."""
    try:
        parse_schedule(text, now=timezone.now())
    except ScheduleError as error:
        raise ValidationError(str(error)) from error


class Newsletter(models.Model):
    subject = models.CharField(max_length=100)
    schedule = models.CharField(max_length=100, validators=[check_schedule])

    def __str__(self):
        return self.subject


class Issue(models.Model):
    newsletter = models.ForeignKey(Newsletter, on_delete=models.CASCADE)
    #: The run that sent it: it is sent once, however often the run begins.
    run_id = models.CharField(max_length=60, unique=True)
    sent_at = models.DateTimeField(auto_now_add=True)
