"""The documents, followed word by word; `page` says what a page may contain."""
