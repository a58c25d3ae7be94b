"""An outcome reaches people, and so does a trouble: outbox, deliverer, channels, watchdog.

What `deliver` means is read in `core.targets`, and when a trouble is told is decided in
`core.incidents`; here it is sent, and looked for.
"""
