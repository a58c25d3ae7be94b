"""Writes the reference pages from the code's own tables.

`python -m docs.generate` writes all of them; `python -m docs.generate --check` writes nothing and
names the pages that differ. A page is a module here with a function `page`; what a page says stands
in the code that uses it, and only the words between the tables stand here.
"""
