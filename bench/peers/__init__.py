"""Measures other cron systems beside this package: `python -m bench.peers`.

The modules in `inside/` run in the peers' own environments and never import hermes_celery.
"""
