"""Looks for injection and exfiltration in prompts, before an agent that approves everything reads
them.

Two surfaces. What a person writes as a job's prompt is short and a directive: there a command that
reads credentials or deletes the disk is a smoking gun, and it is refused when the job is made or
changed. What is put around it at run time (a script's output, another job's report, a skill) quotes
such commands in prose: there only directives to the model count, and invisible characters are
removed instead of refused. Names and wording of the rules are Hermes' (cases `tool.prompt_scan*`).

A tripwire, not a wall: who may write jobs may run scripts as well.
"""

from __future__ import annotations

import re

from hermes_celery.errors import JobError

_SECRET = r"\$\{?\w*(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|API)\w*\}?"
_CURL = r"\bcurl\s[^\n]*"
_WGET = r"\bwget\s[^\n]*"


def _rules(rows: dict[str, str]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((name, re.compile(rule, re.IGNORECASE)) for name, rule in rows.items())


#: Directives to the model: their wording does not survive ordinary prose.
_DIRECTIVES = _rules(
    {
        "prompt_injection": (
            r"\bignore\s(?:[^\n.]{0,200}\s)?(?:previous|all|above|prior)\s"
            r"(?:[^\n.]{0,200}\s)?instructions"
        ),
        "deception_hide": r"do\s+not\s+tell\s+the\s+user",
        "sys_prompt_override": r"system\s+prompt\s+override",
        "disregard_rules": r"disregard\s+(?:your|all|any)\s+(?:instructions|rules|guidelines)",
    }
)
#: Commands that have no business in a prompt.
_COMMANDS = _rules(
    {
        "read_secrets": r"\bcat\s[^\n]*(?:\.env|credentials|\.netrc|\.pgpass)",
        "ssh_backdoor": r"authorized_keys",
        "sudoers_mod": r"/etc/sudoers|\bvisudo\b",
        "destructive_root_rm": r"\brm\s+-rf\s+/",
        "exfil_curl_url": rf"{_CURL}https?://[^\s\"'`]*{_SECRET}",
        "exfil_wget_url": rf"{_WGET}https?://[^\s\"'`]*{_SECRET}",
        "exfil_curl_data": (
            rf"{_CURL}(?:--data(?:-raw|-binary|-urlencode)?|-d|--form|-F)\s[^\n]*{_SECRET}"
        ),
        "exfil_wget_post": rf"{_WGET}--post-(?:data|file)=[^\n]*{_SECRET}",
        "exfil_curl_auth_header": (
            rf"{_CURL}(?:-H|--header)\s+[\"']Authorization:\s*(?:Bearer|token)\s+{_SECRET}[\"']"
        ),
    }
)
#: GitHub's own API is the one place that a token may be sent to.
_GITHUB = re.compile(
    rf"{_CURL}(?:-H|--header)\s+[\"']Authorization:\s*token\s+{_SECRET}[\"']"
    r"\s+[\"']?https://api\.github\.com(?:/|\b)",
    re.IGNORECASE,
)
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\u2062-\u2064\ufeff\u202a-\u202e\u2066-\u2069]")
_JOINER = "\u200d"
_VARIATION = "\ufe0f"
_EMOJI = ((0x1F000, 0x1FFFF), (0x2600, 0x27BF), (0x2300, 0x23FF), (0x20E3, 0x20E3))


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that a person wrote, by the strict rules. Raises JobError."""
    prompt = _GITHUB.sub("curl", prompt)
    for match in _INVISIBLE.finditer(prompt):
        if not _joins_emoji(prompt, match.start()):
            raise JobError(
                f"Blocked: prompt contains invisible unicode U+{ord(match.group()):04X} "
                "(possible injection)."
            )
    _refuse(prompt, _DIRECTIVES + _COMMANDS)


def checked_assembled(prompt: str) -> str:
    """A prompt with run-time data in it, without invisible characters. Raises JobError."""
    cleaned = _INVISIBLE.sub(
        lambda match: match.group() if _joins_emoji(prompt, match.start()) else "", prompt
    )
    _refuse(cleaned, _DIRECTIVES)
    return cleaned


def _refuse(prompt: str, rules: tuple[tuple[str, re.Pattern[str]], ...]) -> None:
    for name, rule in rules:
        if rule.search(prompt):
            raise JobError(
                f"Blocked: prompt matches threat pattern '{name}'. Cron prompts must not contain "
                "injection or exfiltration payloads."
            )


def _joins_emoji(text: str, index: int) -> bool:
    """Whether this is a joiner inside an emoji, such as a family or a flag."""
    if text[index] != _JOINER:
        return False
    before = text[:index].rstrip(_VARIATION)[-1:]
    after = text[index + 1 :].lstrip(_VARIATION)[:1]
    return _is_emoji(before) and _is_emoji(after)


def _is_emoji(character: str) -> bool:
    return bool(character) and any(low <= ord(character) <= high for low, high in _EMOJI)
