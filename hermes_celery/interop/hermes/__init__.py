"""Hermes' own cron: its home directory and its jobs."""
