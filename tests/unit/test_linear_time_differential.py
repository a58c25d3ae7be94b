"""The linear-time functions find the same as the plain patterns that they replaced."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hermes_celery.delivering import attachments
from hermes_celery.delivering.splitting import pieces, utf16_length
from hermes_celery.masking.output import MASK, redactor
from hermes_celery.masking.urls import masked

_MEDIA = re.compile(r"^\s*MEDIA:\s*(?P<path>\S.*?)\s*$", re.MULTILINE)
_FILE = r"(?<![\w+.-])([fF][iI][lL][eE])://"
_URL = re.compile(rf"{_FILE}|(?i:\b([a-z][a-z0-9+.-]*)://[^\s,]+)")
_ASSIGNED = re.compile(
    rb"(?P<before>[\"']?[ \t]{0,4}(?P<sign>[=:])[ \t]{0,4}(?:(?:basic|token)[ \t]+)?[\"']?)"
    rb"(?P<value>[^\s\"'`,;&<>(){}\[\]$*\x00][^\s\"'`,;&<>\x00]*)",
    re.IGNORECASE,
)
_PLAIN = re.compile(rb"(?:[0-9.]+|true|false|none|null|yes|no|bearer)", re.IGNORECASE)


def words(*found: str) -> st.SearchStrategy[str]:
    """Return a strategy for texts composed of these words."""
    return st.lists(st.sampled_from(found), max_size=24).map("".join)


@given(words("MEDIA:", "MEDIA: ", "\n", " ", "\t", "\r", "x", "/a b", "\u2028", "\x1f", "\n\n"))
def test_media_lines_match_those_of_the_plain_pattern(text: str) -> None:
    found = [match["path"].strip("`\"'") for match in _MEDIA.finditer(text)]
    extracted = attachments.extract(text, allowed=(Path("/nowhere"),))
    named = [refusal.split("'")[1] for refusal in extracted.refused]
    assert [repr(path)[1:-1] for path in found] == named
    assert extracted.text == (_MEDIA.sub("", text) if found else text).strip()


@given(words("://", "file", "FILE", "a", "Z", "9", "+", ".", "-", "_", " ", ",", "/", "\u017f",
             "\u0130", "é", ":", "\n"))  # fmt: skip
def test_masked_urls_match_those_of_the_plain_pattern(text: str) -> None:
    assert masked(text) == _URL.sub(lambda url: url[0] if url[1] else f"{url[2]}://***", text)


@given(words("token", "secret", "=", ":", " ", "\t", "'", '"', "abcdefgh", "1", "9.5", "\n", ",",
             "true", "TOKEN ", "basic ", "$", "("))  # fmt: skip
def test_masked_values_match_those_of_the_plain_pattern(text: str) -> None:
    content = text.encode()
    assert redactor()(content) == _masked_as_before(content)


def _masked_as_before(content: bytes) -> bytes:
    spans: list[tuple[int, int]] = []
    for name in (b"token", b"secret"):
        covered, start = 0, content.lower().find(name)
        while start >= 0:
            found = _ASSIGNED.match(content, start + len(name)) if start >= covered else None
            if found is not None and _was_secret(found):
                covered = found.end()
                spans.append(found.span("value"))
            start = content.lower().find(name, start + len(name))
    position, kept = 0, []
    for start, end in sorted(spans):
        if end <= position:
            continue
        if start >= position:
            kept += [content[position:start], MASK]
        position = end
    return b"".join([*kept, content[position:]])


def _was_secret(found: re.Match[bytes]) -> bool:
    value = found["value"]
    if _PLAIN.fullmatch(value):
        return False
    if found["sign"] == b"=":
        return len(value) >= 4
    return len(value) >= 8 and any(digit in value for digit in b"0123456789")


@given(st.text(alphabet="ab\n 🜲\ud800", max_size=300), st.integers(2, 40))
def test_pieces_match_those_of_the_plain_quadratic_loop(text: str, limit: int) -> None:
    assert pieces(text, limit=limit, length=utf16_length) == _pieces_as_before(text, limit)


def _length_as_before(text: str) -> int:
    return len(text) + sum(ord(character) > 0xFFFF for character in text)


def _pieces_as_before(text: str, limit: int) -> list[str]:
    text, found = text.strip("\n"), []
    while _length_as_before(text) > limit:
        count = min(limit, len(text))
        while _length_as_before(text[:count]) > limit:
            count -= max((_length_as_before(text[:count]) - limit) // 2, 1)
        cuts = (text.rfind(mark, count // 2, count + 1) for mark in ("\n", " "))
        cut = next((at for at in cuts if at > 0), count)
        head, text = text[:cut].rstrip(), text[cut:].removeprefix(" ").lstrip("\n")
        if head:
            found.append(head)
    return [*found, text] if text else found
