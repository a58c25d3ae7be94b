"""Draws the pictures in `docs/screens/` from what the commands print.

`python -m docs.generate.screens` starts `hermes-celery up` on an embedded server, types the
commands of `scenes` in a terminal of 80 columns, masks what differs from run to run (`masks`) and
draws each scene as an SVG (`drawing`). A test types the same commands and compares the words.
"""
