"""A message becomes an outcome: claim, session, work, finish."""
