"""Benchmarks behind the documented numbers, one command each. They are not part of the package."""
