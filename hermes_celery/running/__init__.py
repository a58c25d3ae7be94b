"""A message becomes an outcome: claim, session, work, finish.

One run in one worker: the runner, its heartbeat, and the kinds of work (agent, script, HTTP). A
project's own task is Celery's to call (`celery_app.user_tasks`); who is told is `delivering`'s.
"""
