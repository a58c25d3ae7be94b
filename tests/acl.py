"""Server users with the documented ACL rules, or with some of them left out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from hermes_celery.store import Database, connect

_PAGE = Path(__file__).parents[1] / "docs/how-to/several-machines.md"


def documented_rules(namespace: str) -> list[str]:
    """Return the rules of docs/how-to/several-machines.md, rewritten for `namespace`."""
    (line,) = re.findall(r"^ACL SETUSER hermes on >PASSWORD (.*)$", _PAGE.read_text(), re.M)
    return [
        rule if rule.startswith("+") else rule.replace("hermes", namespace) for rule in line.split()
    ]


def project_rules(*, prefix: str = "") -> list[str]:
    """Return the rules of docs/how-to/several-machines.md for its example project `shop`."""
    commands = [rule for rule in documented_rules("shop") if rule[0] in "+-" or rule[:5] == "reset"]
    text = _PAGE.read_text()
    if prefix:
        (given,) = re.findall(r"`(~\{shop\}:\* ~shop\* ~PREFIX:\*[^`]*)`", text)
    else:
        (given,) = re.findall(r"^(~\{shop\}:\* ~shop\* ~celery\*.*)$", text, re.M)
    return [*commands, *given.replace("PREFIX:", prefix).split()]


def sentinel_rules() -> list[str]:
    """Return the rules of docs/how-to/several-machines.md for the user of a Sentinel."""
    (given,) = re.findall(r"`(-@all \+ping [^`]*)`", _PAGE.read_text())
    return str(given).replace("\\|", "|").split()


@contextmanager
def user(url: str, rules: list[str]) -> Iterator[str]:
    """Create a user with these rules; yield the URL that logs in as that user; delete the user."""
    admin, name, password = Database(connect(url)), f"u{secrets.token_hex(4)}", secrets.token_hex(8)
    admin.call("ACL", "SETUSER", name, "on", f">{password}", *rules)
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    try:
        yield f"{parts.scheme}://{name}:{password}@{host}{parts.path}" + (
            f"?{parts.query}" if parts.query else ""
        )
    finally:
        admin.call("ACL", "DELUSER", name)
        admin.close()
