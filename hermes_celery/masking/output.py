"""Mask secrets in what a run printed, before any of it is stored or shown.

A secret is recognised by its value (credentials of the environment), by its form (key prefixes of
issuers, bearer tokens, PEM blocks, passwords in URLs), or by what stands before it (`token=`,
`"api_key": `, `Cookie: `). Each becomes `***`. The functions work on bytes, because output may have
any encoding. Only a PEM block spans lines, so a stream can be masked line by line.

Fixed strings are searched first, and patterns only where one is found. A megabyte without secrets
takes a few milliseconds.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import unquote

MASK = b"***"
#: Shortest known value that is masked; shorter ones would mask ordinary words.
_MIN_KNOWN = 8
#: Key prefixes of issuers, and the shortest length of a key after the prefix.
_PREFIXES = {
    b"sk-": 10,
    b"sk_": 16,
    b"rk_live_": 10,
    b"gsk_": 16,
    b"hsk-": 10,
    b"ghp_": 10,
    b"gho_": 10,
    b"ghu_": 10,
    b"ghs_": 10,
    b"ghr_": 10,
    b"github_pat_": 10,
    b"glpat-": 10,
    b"xoxb-": 8,
    b"xoxa-": 8,
    b"xoxp-": 8,
    b"xoxr-": 8,
    b"xoxs-": 8,
    b"xapp-": 8,
    b"AKIA": 16,
    b"ASIA": 16,
    b"AIza": 30,
    b"ya29.": 20,
    b"hf_": 16,
    b"npm_": 20,
    b"pypi-": 20,
    b"dop_v1_": 20,
    b"whsec_": 16,
    b"SG.": 20,
    b"eyJ": 30,
}
_KEY = re.compile(rb"[A-Za-z0-9_.+/=-]+")
_NAMES = (
    b"token",
    b"secret",
    b"password",
    b"passwd",
    b"passphrase",
    b"api_key",
    b"apikey",
    b"api-key",
    b"access_key",
    b"private_key",
    b"credential",
    b"authorization",
)
#: The text between a name and the first byte of its value.
_ASSIGNED = re.compile(
    rb"[\"']?[ \t]{0,4}(?P<sign>[=:])[ \t]{0,4}(?:(?:basic|token)[ \t]+)?[\"']?"
    rb"(?=[^\s\"'`,;&<>(){}\[\]$*\x00])",
    re.IGNORECASE,
)
_VALUE_END = re.compile(rb"[\s\"'`,;&<>\x00]|\Z")
_DIGIT = re.compile(rb"[0-9]|\Z")
_PLAIN = re.compile(rb"(?:[0-9.]+|true|false|none|null|yes|no|bearer)", re.IGNORECASE)
_BEARER = re.compile(rb"[ \t]+(?P<value>[A-Za-z0-9_.~+/=-]{8,})")
_USER_INFO = re.compile(rb"[^\s/@:\"'<>]*(?::(?P<password>[^\s/@\"'<>]+)|(?<=\S{16}))@")
_PEM = re.compile(
    rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_PEM_BEGIN, _PEM_END = b"-----BEGIN ", b"PRIVATE KEY-----"
_TELEGRAM = re.compile(rb"(?<![0-9])[0-9]{8,10}:[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])")
_WORD = re.compile(rb"[A-Za-z0-9]")
_CREDENTIAL_NAME = re.compile(
    r"(^|_)(API_?KEYS?|ACCESS_?KEY(_ID)?|SECRET(_?KEY)?S?|SECRET_ACCESS_KEY|PRIVATE_?KEY|TOKENS?|"
    r"PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH)$",
    re.IGNORECASE,
)
_URL_WITH_PASSWORD = re.compile(r"://[^/@:\s]*:([^/@\s]+)@")
_OPTION_WITH_PASSWORD = re.compile(r"[?&][^=&?\s]*(?:password|passwd)=([^&\s]+)", re.IGNORECASE)
_PASSWORD_OPTION = re.compile(rb"[^\s\"'`<>&#$*{(][^\s\"'`<>&#]*")
_OPTION_NAME = re.compile(rb"[?&]\w{0,40}\Z")
#: The text between `Cookie` or `Set-Cookie` and the header's value, which may be in quotes.
_COOKIES = re.compile(rb"[\"']?[ \t]{0,4}:[ \t]{0,4}(?P<quote>[\"']?)")
_COOKIE = re.compile(
    rb"(?<![^\s=;,:\"'])(?P<name>[^\s=;,:\"']{1,256})=[\"']?(?P<value>[^\s;,\"']+)"
)
_COOKIE_ATTRIBUTES = frozenset(
    (b"path", b"domain", b"expires", b"max-age", b"samesite", b"version")
)

#: A function that masks the secrets in bytes.
Redact = Callable[[bytes], bytes]
_Span = tuple[int, int]
_CREDENTIAL_HEADER = re.compile(r"authorization|cookie|token|key|secret|password", re.IGNORECASE)
_BETWEEN_CREDENTIALS = re.compile(r"[\s;,]+")


def is_credential(name: str, value: str) -> bool:
    """Return whether a variable holds a credential, by its name or as a URL with a password."""
    return bool(_CREDENTIAL_NAME.search(name) or passwords_of(value))


def without_credentials(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a request's headers with each credential replaced by `***`."""
    return {
        name: "***" if _CREDENTIAL_HEADER.search(name) else value for name, value in headers.items()
    }


def known_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values in an environment that must never be shown."""
    found: list[str] = []
    for name, value in environment.items():
        if _CREDENTIAL_NAME.search(name):
            found.append(value)
        found += passwords_of(value)
    return tuple(found)


def passwords_of(url: str) -> list[str]:
    """Return the passwords in a URL's login and options, as written and decoded."""
    found = _URL_WITH_PASSWORD.findall(url)
    if "://" in url:
        found += _OPTION_WITH_PASSWORD.findall(url)
    return list(dict.fromkeys(form for one in found for form in (one, unquote(one))))


def header_secrets(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the credentials in a request's headers, as a whole and in parts."""
    return tuple(
        part
        for name, value in headers.items()
        if _CREDENTIAL_HEADER.search(name)
        for part in _credentials(value.strip(), has_scheme="authorization" in name.lower())
    )


def _credentials(value: str, *, has_scheme: bool) -> Iterator[str]:
    """Yield a header's value and its parts: cookies, parameters, and the password of `Basic`."""
    yield value
    words = _BETWEEN_CREDENTIALS.split(value)
    if has_scheme and words[0].lower() == "basic":
        yield from _basic_password(words[-1])
    # The scheme ("Bearer" and so on) is not a secret.
    for word in words[1:] if has_scheme and len(words) > 1 else words:
        yield word.strip("=")
        yield word.partition("=")[2].strip("\"'")


def _basic_password(encoded: str) -> list[str]:
    try:
        login = b64decode(encoded).decode()
    except ValueError:
        return []
    return [login, login.partition(":")[2]]


def redactor(secrets: Iterable[str] = ()) -> Redact:
    """Return a function that masks these values and everything with the form of a secret."""
    known = sorted(
        {text.encode(errors="surrogateescape") for text in secrets if len(text) >= _MIN_KNOWN},
        key=len,
        reverse=True,
    )

    def redact(content: bytes) -> bytes:
        for value in known:
            if value in content:
                content = content.replace(value, MASK)
        if _PEM_BEGIN in content:
            content = _PEM.sub(MASK, content)
        found = (_by_prefix, _by_name, _in_urls, _in_options, _in_cookies)
        return _masked(content, [span for spans in found for span in spans(content)])

    return redact


def unredacted(content: bytes) -> bytes:
    """Return the content unmasked."""
    return content


def redact_text(redact: Redact, text: str) -> str:
    """Mask the secrets in a text."""
    return redact(text.encode(errors="surrogatepass")).decode(errors="replace")


def opens_pem(content: bytes) -> bool:
    """Return whether a private key begins in the content and does not end in it."""
    begin = content.rfind(_PEM_BEGIN)
    if begin < 0:
        return False
    return content.find(b"-----END ", begin) < 0 and _PEM_END in content[begin:]


def _by_prefix(content: bytes) -> Iterable[_Span]:
    for prefix, least in _PREFIXES.items():
        # Skip what a match has covered; otherwise a hostile line would take quadratic time.
        covered = 0
        for start in _occurrences(content, prefix):
            if start < covered or (start and _WORD.match(content, start - 1)):
                continue
            key = _KEY.match(content, start + len(prefix))
            if key is not None and key.end() - key.start() >= least:
                covered = key.end()
                yield start, covered
    yield from (found.span() for found in _TELEGRAM.finditer(content))


def _by_name(content: bytes) -> Iterable[_Span]:
    lowered = content.lower()
    for name in _NAMES:
        covered = 0
        value_end, digit = _Next(_VALUE_END, content), _Next(_DIGIT, content)
        for start in _occurrences(lowered, name):
            found = _ASSIGNED.match(content, start + len(name)) if start >= covered else None
            if found is None:
                continue
            span = found.end(), value_end.at_or_after(found.end())
            if _is_secret(content, span, sign=found["sign"], digit=digit):
                covered = span[1]
                yield span
    for start in _occurrences(lowered, b"bearer"):
        found = _BEARER.match(content, start + len(b"bearer"))
        if found is not None:
            yield found.span("value")


class _Next:
    """Remembers the next match of a pattern.

    A line that repeats one name asks for the end of the same value again and again.
    """

    def __init__(self, pattern: re.Pattern[bytes], content: bytes) -> None:
        self._pattern = pattern
        self._content = content
        self._found = -1

    def at_or_after(self, position: int) -> int:
        """Return the position of the next match; positions must not decrease.

        The pattern must match at the end of the content.
        """
        if self._found < position:
            found = self._pattern.search(self._content, position)
            self._found = found.start() if found else len(self._content)
        return self._found


def _is_secret(content: bytes, span: _Span, *, sign: bytes, digit: _Next) -> bool:
    """Return whether an assigned value looks like a secret and not like a word of a sentence."""
    start, end = span
    if _PLAIN.fullmatch(content, start, end):
        return False
    if sign == b"=":
        return end - start >= 4
    return end - start >= 8 and digit.at_or_after(start) < end


def _in_urls(content: bytes) -> Iterable[_Span]:
    for start in _occurrences(content, b"://"):
        found = _USER_INFO.match(content, start + 3)
        if found is None:
            continue
        if found["password"]:
            yield found.span("password")
        else:
            yield start + 3, found.end() - 1


def _in_options(content: bytes) -> Iterable[_Span]:
    """Find passwords in a query, `?password=x`; there even a short or plain value is one."""
    covered = 0
    for start in _occurrences(content.lower(), b"password="):
        if start < covered or not _OPTION_NAME.search(content[max(start - 41, 0) : start]):
            continue
        value = _PASSWORD_OPTION.match(content, start + len(b"password="))
        if value is not None:
            covered = value.end()
            yield value.span()


def _in_cookies(content: bytes) -> Iterable[_Span]:
    """Find the value of each cookie in a printed header, as when a server echoes it."""
    covered = 0
    for start in _occurrences(content.lower(), b"cookie"):
        found = _COOKIES.match(content, start + len(b"cookie")) if start >= covered else None
        if found is None:
            continue
        end = content.find(found["quote"] or b"\n", found.end())
        covered = end if end >= 0 else len(content)
        for cookie in _COOKIE.finditer(content, found.end(), covered):
            if cookie["name"].lower() not in _COOKIE_ATTRIBUTES:
                yield cookie.span("value")


def _occurrences(content: bytes, needle: bytes) -> Iterable[int]:
    start = content.find(needle)
    while start >= 0:
        yield start
        start = content.find(needle, start + len(needle))


def _masked(content: bytes, spans: Iterable[_Span]) -> bytes:
    pieces: list[bytes] = []
    position = 0
    for start, end in sorted(spans):
        if end <= position:
            continue
        if start >= position:
            pieces += (content[position:start], MASK)
        position = end
    return b"".join((*pieces, content[position:])) if pieces else content
