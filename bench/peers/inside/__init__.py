"""Modules that run in the peers' environments: they import the peer, never hermes_celery."""
