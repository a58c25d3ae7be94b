"""Limits for other people's code, servers and records: their errors, their time, their size.

A failed duty is tried again, work that hangs is abandoned, an endless answer is cut off. `masking`
decides which secrets may be shown, and `process` ends processes.
"""
