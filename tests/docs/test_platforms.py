"""The table of platforms on the page about deliveries has the variables that the program reads."""

from __future__ import annotations

import re

from hermes_celery.core.targets import HOME_VARIABLES, PLATFORMS, Target
from hermes_celery.delivering.platform_urls import apprise_url
from tests.docs.page import ROOT

PAGE = (ROOT / "docs/how-to/alerts.md").read_text(encoding="utf-8")
_NAME = re.compile(r"`([A-Z][A-Z_]+)`")


def rows() -> dict[str, tuple[list[str], str]]:
    """Return for each platform of the table its variables and that of its home channel."""
    table = PAGE.split("| platform | token and server | home channel |\n")[1].split("\n\n")[0]
    found = {}
    for line in table.splitlines()[1:]:
        platform, tokens, home = line.strip("| ").split(" | ")
        if variables := _NAME.findall(tokens):
            found[platform.split("`")[1]] = (variables, *_NAME.findall(home))
    return found


def url_of(platform: str, variables: list[str]) -> str | None:
    """Return the URL of a chat where exactly these variables are set."""
    values = {name: "https://chat.example.com" for name in variables if "_URL" in name}
    values |= {name: "https://chat.example.com" for name in variables if "HOMESERVER" in name}
    values |= {name: "465" for name in variables if "PORT" in name}
    return apprise_url(
        Target(platform=platform, chat_id="17"), {name: "secret" for name in variables} | values
    )


def test_the_variables_of_each_platform_make_its_url() -> None:
    assert {name for name, (variables, _) in rows().items() if not url_of(name, variables)} == set()


def test_every_platform_whose_url_can_be_made_is_listed() -> None:
    variables = [name for names, _ in rows().values() for name in names]
    made = {platform for platform in PLATFORMS if url_of(platform, variables)}
    assert made == set(rows())


def test_the_home_channels_are_those_of_hermes() -> None:
    assert {name: home for name, (_, home) in rows().items()} == {
        name: HOME_VARIABLES[name] for name in rows()
    }
