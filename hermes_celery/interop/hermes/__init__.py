"""Hermes' own cron: its home and its jobs."""
