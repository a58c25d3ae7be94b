"""All that touches Celery: app, messages, tasks, the worker's hooks, the scheduler class.

Nothing is decided here that would be so without Celery; what the hooks and tasks need is handed to
them (`collaborators`).
"""
