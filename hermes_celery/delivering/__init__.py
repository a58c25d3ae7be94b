"""Send outcomes and incidents to people: outbox, deliverer, channels, watchdog.

`core.targets` reads what `deliver` means, and `core.incidents` decides when to report a trouble.
These modules send the messages, and look for troubles.
"""
