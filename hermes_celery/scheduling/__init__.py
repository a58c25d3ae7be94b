"""What is due becomes a message: the beat, its lease and shards, the tick, planning ahead, rescue.

Everything that the leading beat does by itself. When a schedule is due is `schedule`'s and
`core.planning`'s to say; the one step that writes it is `store.due_index`'s.
"""
