"""Turn due occurrences into Celery messages: beat, lease, shards, tick, planning ahead, rescue.

This is everything that the leading beat does by itself. `schedule` and `core.planning` decide when
a job is due; `store.due_index` writes the dispatch in one atomic step.
"""
