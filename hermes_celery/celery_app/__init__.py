"""All that touches Celery: app, messages, tasks, the worker's hooks, the scheduler class."""
