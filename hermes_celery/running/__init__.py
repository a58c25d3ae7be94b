"""Turn a message into an outcome: claim, session, work, finish.

These modules perform one run in one worker: the runner, its heartbeat, and the kinds of work
(agent, script, HTTP). Celery calls a project's own tasks (`celery_app.user_tasks`); `delivering`
sends the outcome to people.
"""
