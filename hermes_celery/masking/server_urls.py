"""URLs as text: logins in them, lists of them, and what of them may be shown."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote


def userinfo(user: str | None, password: str | None) -> str:
    """`user:password@` as it stands in a URL; "" without."""
    if not user and not password:
        return ""
    secret = f":{quote(password, safe='')}" if password else ""
    return f"{quote(user or '', safe='')}{secret}@"


def urls_of(text: str) -> list[str]:
    """The URLs of a list that is separated by `;`."""
    return [url for url in _BETWEEN.split(text) if url] or [""]


def without_password(text: str) -> str:
    """A URL, or a list of them, as it may be shown, each password in it replaced by `***`.

    Of a URL that cannot be read only the scheme is shown: `scheme://***`.
    """
    return ";".join(_shown(url) for url in urls_of(text))


def without_passwords_in(text: str) -> str:
    """A text, such as an error, with the login and each password of every URL in it hidden."""
    hidden = _without_options(text, shown="***", options=_OPTION_IN_TEXT)
    return _LOGIN_IN_TEXT.sub("://***@", hidden)


def login_advice(text: str) -> str:
    """What to do where a login holds characters that end it in a URL; "" without such a login."""
    logins = (_split(url)[1] for url in urls_of(text))
    return _ADVICE if any(_UNSAFE.search(login) for login in logins) else ""


def is_cut(url: str) -> bool:
    """Whether a reader of URLs finds a server in the midst of a login, and takes it for this one's.

    `redis://:12#34@host/0` reads as port 12 of localhost, `unix://u:1/2@/x` as the file `/2@/x`. An
    `@` in a path or in an option, as in `?client_name=a@b`, cuts none.
    """
    scheme, login, _ = _split(_without_options(url, shown=""))
    cut = _CUT_OF_SOCKET if scheme == "unix" else _CUT
    return cut.search(login) is not None


def _shown(url: str) -> str:
    # By text first: what a reader of URLs takes for the login is not all of it where the password
    # holds one of / ? # [ as it is.
    scheme, login, rest = _split(_without_options(url, shown="***"))
    user, colon, _ = login.partition(":")
    if not _is_readable(rest):
        return f"{scheme or '***'}://***"
    if not login:
        return f"{scheme}://{rest}" if scheme else rest
    shown = f"{user}:***@{rest}" if colon else f"{login}@{rest}"
    return f"{scheme}://{shown}" if scheme else f"***@{rest}"


def _without_options(text: str, *, shown: str, options: re.Pattern[str] | None = None) -> str:
    """The text with `shown` for the value of each option of a query that holds a secret."""

    def hidden(found: re.Match[str]) -> str:
        is_secret = _IS_SECRET.search(unquote(found["name"])) is not None
        return f"{found['before']}{shown}" if is_secret else found[0]

    return (options or _OPTION).sub(hidden, text)


def _split(url: str) -> tuple[str, str, str]:
    """The scheme, what stands between it and the last `@`, and the rest."""
    before, found, rest = url.partition("://")
    scheme, rest = (before, rest) if found else ("", url)
    login, _, rest = rest.rpartition("@")
    return scheme, login, rest


def _is_readable(rest: str) -> bool:
    """Whether what follows the login begins with hosts, each with a number as its port or none."""
    return all(_HOST.fullmatch(host) for host in _CUTS.split(rest, maxsplit=1)[0].split(","))


#: A password may hold a `;` of its own.
_BETWEEN = re.compile(r";(?=[\w+]+://|$)")
_OPTION = re.compile(r"(?P<before>[?&](?P<name>[^=&?]*)=)(?P<value>[^&]*)")
_OPTION_IN_TEXT = re.compile(r"(?P<before>[?&](?P<name>[^=&?\s]*)=)(?P<value>[^&\s'\"]*)")
_LOGIN_IN_TEXT = re.compile(r"://[^@/\s]*@")
#: `password=`, `sentinel_password=`, `ssl_password=`, and what is taken for one of them by mistake:
#: it is refused, and the refusal shows the URL.
_IS_SECRET = re.compile(r"pass|pwd|secret|token|auth|credential", re.IGNORECASE)
_HOST = re.compile(r"(\[[^][]*\]|[^][:]*)(:\d*)?")
#: What ends a login, or is none of a URL's characters.
_CUT = re.compile(r"#|^:.*[/?]|[?][^=]*$")
_CUT_OF_SOCKET = re.compile(r"#|^[^/]+[/?]")
_CUTS = re.compile(r"[/?#]")
_UNSAFE = re.compile(r"[][/?#]|[^ -~]")
_ADVICE = (
    "its user and password end at the last @, and they cannot be read as they are; in a password "
    "write # / ? as %23 %2F %3F, [ ] as %5B %5D, @ as %40, and what is not ASCII by its bytes, too"
)
