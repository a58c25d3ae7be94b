"""Other schedulers' schedules: their names there, and the jobs that they become here.

Celery's `beat_schedule`, RedBeat, django-celery-beat, and Hermes' own cron (`hermes`). `core`
decides what a valid job is; `store.redbeat` reads RedBeat's keys.
"""
