"""Reads the schedules of other schedulers and makes jobs of them.

Celery's `beat_schedule`, RedBeat, django-celery-beat, and Hermes' own cron (`hermes`). `core`
decides what a valid job is; `store.redbeat` reads RedBeat's keys.
"""
