"""Keeps the jobs in step with the table: after each commit, since a rollback undoes no job."""

from functools import partial

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from newsletters import schedules
from newsletters.models import Newsletter


@receiver(post_save, sender=Newsletter)
def saved(instance, **_):
    transaction.on_commit(partial(schedules.store, instance))


@receiver(post_delete, sender=Newsletter)
def deleted(instance, **_):
    transaction.on_commit(partial(schedules.remove, instance.pk))
