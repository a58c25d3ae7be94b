"""Convert a platform's chat to an apprise URL, from the variables that Hermes users have set.

The variables have Hermes' names (hermes-agent 0.19, gateway and its platform plugins). A platform
that apprise reaches only through webhooks, such as Discord's bot, has no entry here: `hermes send`
is used for it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from hermes_celery.core.targets import Target, is_reserved
from hermes_celery.core.work import checked_url
from hermes_celery.errors import DeliveryRefused, SettingsError

_Environment = Mapping[str, str]


def apprise_url(target: Target, environment: _Environment) -> str | None:
    """Return the apprise URL of a platform's chat; None if its variables are not set."""
    build = _BUILDERS.get(target.platform.lower())
    return build(target, environment) if build is not None else None


def read_names(path: Path) -> dict[str, str]:
    """Return the named targets of a `targets.toml`: `name = "URL"`. Empty if there is no such file.

    Raises SettingsError; its text never shows a value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path} cannot be read: {error}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path} is not valid TOML: {error}"]) from None
    faults = [
        f"{path}: {fault}" for name, value in content.items() if (fault := _fault(name, value))
    ]
    if faults:
        raise SettingsError(faults)
    return content


def _fault(name: str, value: object) -> str | None:
    if is_reserved(name) or name.lower() in ("local", "origin"):
        return f"{name!r} already has a meaning; use another name"
    if not name or any(character in ":,/ " for character in name):
        return f"{name!r} cannot be a name; it must not have a space, comma, colon or slash"
    if not isinstance(value, str) or "://" not in value:
        return f'{name!r} must be a URL in quotes, such as "json://host/path"'
    return None


def _telegram(target: Target, environment: _Environment) -> str | None:
    token = environment.get("TELEGRAM_BOT_TOKEN")
    if not token:
        return None
    # Telegram's tokens contain a colon, which apprise expects unquoted.
    url = f"tgram://{quote(token, safe=':')}/{_quoted(target.chat_id)}/?format=text"
    return url + (f"&topic={_quoted(target.thread_id)}" if target.thread_id else "")


def _slack(target: Target, environment: _Environment) -> str | None:
    token = environment.get("SLACK_BOT_TOKEN")
    if not token:
        return None
    thread = f":{_quoted(target.thread_id)}" if target.thread_id else ""
    return f"slack://{_quoted(token)}/{_quoted(target.chat_id)}{thread}/"


def _mattermost(target: Target, environment: _Environment) -> str | None:
    url, token = environment.get("MATTERMOST_URL"), environment.get("MATTERMOST_TOKEN")
    if not (url and token):
        return None
    schema, host, path = _server(url, "MATTERMOST_URL", plain="mmost", secure="mmosts")
    return f"{schema}://{host}{path}/{_quoted(token)}?mode=bot&to={_quoted(target.chat_id)}"


def _matrix(target: Target, environment: _Environment) -> str | None:
    url, token = environment.get("MATRIX_HOMESERVER"), environment.get("MATRIX_ACCESS_TOKEN")
    if not (url and token):
        return None
    schema, host, _ = _server(url, "MATRIX_HOMESERVER", plain="matrix", secure="matrixs")
    return f"{schema}://{_quoted(token)}@{host}/{_quoted(target.chat_id)}"


def _email(target: Target, environment: _Environment) -> str | None:
    sender, password = environment.get("EMAIL_ADDRESS"), environment.get("EMAIL_PASSWORD")
    host, port = environment.get("EMAIL_SMTP_HOST"), environment.get("EMAIL_SMTP_PORT", "587")
    if not (sender and password and host):
        return None
    mode = "ssl" if port == "465" else "starttls"
    # Apprise decodes the password twice.
    return (
        f"mailtos://{host}:{port}/?user={_quoted(sender)}&pass={_quoted(_quoted(password))}&mode={mode}"
        f"&smtp={host}&from={_quoted(sender)}&to={_quoted(target.chat_id)}"
    )


def _sms(target: Target, environment: _Environment) -> str | None:
    sid, token = environment.get("TWILIO_ACCOUNT_SID"), environment.get("TWILIO_AUTH_TOKEN")
    number = environment.get("TWILIO_PHONE_NUMBER")
    if not (sid and token and number):
        return None
    return f"twilio://{_quoted(sid)}:{_quoted(token)}@{_quoted(number)}/{_quoted(target.chat_id)}"


def _signal(target: Target, environment: _Environment) -> str | None:
    url, account = environment.get("SIGNAL_HTTP_URL"), environment.get("SIGNAL_ACCOUNT")
    if not (url and account):
        return None
    schema, host, _ = _server(url, "SIGNAL_HTTP_URL", plain="signal", secure="signals")
    return f"{schema}://{host}/{_quoted(account)}/{_quoted(target.chat_id)}"


def _ntfy(target: Target, environment: _Environment) -> str | None:
    url = environment.get("NTFY_SERVER_URL") or "https://ntfy.sh"
    token = environment.get("NTFY_TOKEN")
    schema, host, _ = _server(url, "NTFY_SERVER_URL", plain="ntfy", secure="ntfys")
    login = f"{_quoted(token)}@" if token else ""
    return f"{schema}://{login}{host}/{_quoted(target.chat_id)}"


def _homeassistant(target: Target, environment: _Environment) -> str | None:
    url, token = environment.get("HASS_URL"), environment.get("HASS_TOKEN")
    if not (url and token):
        return None
    schema, host, _ = _server(url, "HASS_URL", plain="hassio", secure="hassios")
    return f"{schema}://{host}/{_quoted(token)}"


_BUILDERS: Mapping[str, Callable[[Target, _Environment], str | None]] = {
    "telegram": _telegram,
    "slack": _slack,
    "mattermost": _mattermost,
    "matrix": _matrix,
    "email": _email,
    "sms": _sms,
    "signal": _signal,
    "ntfy": _ntfy,
    "homeassistant": _homeassistant,
}


def _server(url: str, variable: str, *, plain: str, secure: str) -> tuple[str, str, str]:
    """Return schema, host (with port) and path of a server's URL. Raises DeliveryRefused."""
    try:
        parts = checked_url(url if "://" in url else f"https://{url}")
    except ValueError as error:
        raise DeliveryRefused(f"{variable} must be the http(s) URL of a server; {error}") from None
    return (plain if parts.scheme == "http" else secure), parts.netloc, parts.path.rstrip("/")


def _quoted(text: str | None) -> str:
    return quote(text or "", safe="")
