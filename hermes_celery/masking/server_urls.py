"""Handle server URLs as text: logins, lists of URLs, and which parts may be shown."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote


def userinfo(user: str | None, password: str | None) -> str:
    """Return the `user:password@` of a URL; "" without both."""
    if not user and not password:
        return ""
    secret = f":{quote(password, safe='')}" if password else ""
    return f"{quote(user or '', safe='')}{secret}@"


def urls_of(text: str) -> list[str]:
    """Split a list of URLs at `;`."""
    return [url for url in _BETWEEN.split(text) if url] or [""]


def without_password(text: str) -> str:
    """Return a URL, or a list of them, with each password replaced by `***`.

    Of an unreadable URL only the scheme is shown: `scheme://***`.
    """
    return ";".join(_shown(url) for url in urls_of(text))


def without_passwords_in(text: str) -> str:
    """Return a text, such as an error, with the logins and passwords of all its URLs hidden."""
    hidden = _without_options(text, shown="***", options=_OPTION_IN_TEXT)
    return _LOGIN_IN_TEXT.sub("://***@", hidden)


def login_advice(text: str) -> str:
    """Return what to do about a login with characters that end it in a URL; "" if it has none."""
    logins = (_split(url)[1] for url in urls_of(text))
    return _ADVICE if any(_UNSAFE.search(login) for login in logins) else ""


def is_cut(url: str) -> bool:
    """Return whether a URL parser ends the login early and takes part of it for the server.

    `redis://:12#34@host/0` reads as port 12 of localhost, `unix://u:1/2@/x` as the file `/2@/x`. An
    `@` in a path or an option, as in `?client_name=a@b`, does not end a login.
    """
    scheme, login, _ = _split(_without_options(url, shown=""))
    cut = _CUT_OF_SOCKET if scheme == "unix" else _CUT
    return cut.search(login) is not None


def _shown(url: str) -> str:
    # Split the text here: a URL parser ends the login early if the password has one of / ? # [
    # unescaped.
    scheme, login, rest = _split(_without_options(url, shown="***"))
    user, colon, _ = login.partition(":")
    if not _is_readable(rest):
        return f"{scheme or '***'}://***"
    if not login:
        return f"{scheme}://{rest}" if scheme else rest
    shown = f"{user}:***@{rest}" if colon else f"{login}@{rest}"
    return f"{scheme}://{shown}" if scheme else f"***@{rest}"


def _without_options(text: str, *, shown: str, options: re.Pattern[str] | None = None) -> str:
    """Replace the value of each secret query option by `shown`."""

    def hidden(found: re.Match[str]) -> str:
        is_secret = _IS_SECRET.search(unquote(found["name"])) is not None
        return f"{found['before']}{shown}" if is_secret else found[0]

    return (options or _OPTION).sub(hidden, text)


def _split(url: str) -> tuple[str, str, str]:
    """Return the scheme, the text between it and the last `@`, and the rest."""
    before, found, rest = url.partition("://")
    scheme, rest = (before, rest) if found else ("", url)
    login, _, rest = rest.rpartition("@")
    return scheme, login, rest


def _is_readable(rest: str) -> bool:
    """Return whether the text after the login begins with hosts; their ports must be numeric."""
    return all(_HOST.fullmatch(host) for host in _CUTS.split(rest, maxsplit=1)[0].split(","))


#: Splits only before a scheme, because a password may contain a `;`.
_BETWEEN = re.compile(r";(?=[\w+]+://|$)")
_OPTION = re.compile(r"(?P<before>[?&](?P<name>[^=&?]*)=)(?P<value>[^&]*)")
_OPTION_IN_TEXT = re.compile(r"(?P<before>[?&](?P<name>[^=&?\s]*)=)(?P<value>[^&\s'\"]*)")
_LOGIN_IN_TEXT = re.compile(r"://[^@/\s]*@")
#: `password=`, `sentinel_password=`, `ssl_password=`, and wrong names for them: those are refused,
#: and the refusal shows the URL.
_IS_SECRET = re.compile(r"pass|pwd|secret|token|auth|credential", re.IGNORECASE)
_HOST = re.compile(r"(\[[^][]*\]|[^][:]*)(:\d*)?")
#: Characters that end a login, or that a URL cannot contain.
_CUT = re.compile(r"#|^:.*[/?]|[?][^=]*$")
_CUT_OF_SOCKET = re.compile(r"#|^[^/]+[/?]")
_CUTS = re.compile(r"[/?#]")
_UNSAFE = re.compile(r"[][/?#]|[^ -~]")
_ADVICE = (
    "its user and password end at the last @ and contain characters that must be escaped; in a "
    "password write # / ? as %23 %2F %3F, [ ] as %5B %5D, @ as %40, and percent-encode the bytes "
    "of other characters that are not ASCII"
)
