"""Everything that touches Celery: app, messages, tasks, worker hooks, the scheduler class.

It contains only decisions that exist because of Celery. Hooks and tasks are given the objects that
they need (`collaborators`).
"""
