"""Other cron systems, measured beside ours on the same ground: `python -m bench.peers`.

`inside/` runs in the peers' own environments and imports nothing of ours but itself.
"""
