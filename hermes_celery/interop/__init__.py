"""Other people's schedules in and out."""
