"""Other people's schedules: what they are called there, and the jobs that they become here.

Celery's `beat_schedule`, RedBeat, django-celery-beat, and Hermes' own cron in `hermes`. What a job
may be is `core`'s to say; RedBeat's keys are read in `store.redbeat`.
"""
