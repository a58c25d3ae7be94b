"""Scan prompts for injection and exfiltration, before they reach an agent that approves everything.

There are two sets of rules. A job's own prompt is short and directive: a command in it that reads
credentials or deletes the disk is refused when the job is added or changed. Text that is added at
run time (a script's output, another job's report, a skill) may quote such commands: there only
directives to the model are refused, and invisible characters are removed instead of refused. Names
and wording of the rules are Hermes' (cases `tool.prompt_scan*`).

This is a tripwire, not a barrier: whoever may write jobs may run scripts as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hermes_celery.errors import JobError

#: The `*+` is possessive; without it a name with many KEYs is split in every possible way.
_SECRET = r"\$\{?(?=\w*(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|API))\w*+\}?"
_AUTHORIZATION = rf"(?:-H|--header)\s+[\"']Authorization:\s*(?:Bearer|token)\s+{_SECRET}[\"']"


def _steps(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


#: Directives to the model; ordinary prose does not use these words.
_DIRECTIVES = {
    "prompt_injection": _steps(
        r"\bignore\s(?:[^\n.]{0,100}\s)?(?:previous|all|above|prior)\s"
        r"(?:[^\n.]{0,100}\s)?instructions"
    ),
    "deception_hide": _steps(r"do\s+not\s+tell\s+the\s+user"),
    "sys_prompt_override": _steps(r"system\s+prompt\s+override"),
    "disregard_rules": _steps(r"disregard\s+(?:your|all|any)\s+(?:instructions|rules|guidelines)"),
}
#: Commands that are refused in a prompt, as patterns that follow each other in one line. They are
#: separate steps, because one pattern with two `.*` takes minutes on a malicious prompt.
_COMMANDS = {
    "read_secrets": _steps(r"\bcat\s", r"\.env|credentials|\.netrc|\.pgpass"),
    "ssh_backdoor": _steps(r"authorized_keys"),
    "sudoers_mod": _steps(r"/etc/sudoers|\bvisudo\b"),
    "destructive_root_rm": _steps(r"\brm\s+-rf\s+/"),
    "exfil_curl_data": _steps(
        r"\bcurl\s", r"\s(?:--data(?:-raw|-binary|-urlencode)?|-d|--form|-F)\s", _SECRET
    ),
    "exfil_wget_post": _steps(r"\bwget\s", r"--post-(?:data|file)=", _SECRET),
    "exfil_curl_auth_header": _steps(r"\bcurl\s", _AUTHORIZATION),
}
#: The same, where the steps after the command are found within one word, a URL.
_URLS = {
    "exfil_curl_url": (re.compile(r"\bcurl\s", re.IGNORECASE), *_steps(r"https?://", _SECRET)),
    "exfil_wget_url": (re.compile(r"\bwget\s", re.IGNORECASE), *_steps(r"https?://", _SECRET)),
}
#: The only place that a token may be sent to is GitHub's own API.
_GITHUB = re.compile(
    rf"\bcurl\s[^\n]{{0,500}}?{_AUTHORIZATION.replace('Bearer|', '')}"
    r"\s+[\"']?https://api\.github\.com(?:/|\b)",
    re.IGNORECASE,
)
_WORD_END = re.compile(r"[\s\"'`]+")
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\u2062-\u2064\ufeff\u202a-\u202e\u2066-\u2069]")
_JOINER = "\u200d"
_VARIATION = "\ufe0f"
_EMOJI = ((0x1F000, 0x1FFFF), (0x2600, 0x27BF), (0x2300, 0x23FF), (0x20E3, 0x20E3))


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that a person wrote if it breaks the strict rules. Raises JobError."""
    prompt = _GITHUB.sub("curl", prompt)
    for match in _INVISIBLE.finditer(prompt):
        if not _joins_emoji(prompt, match.start()):
            raise JobError(
                f"Blocked: prompt contains invisible unicode U+{ord(match.group()):04X} "
                "(possible injection)."
            )
    _refuse_directives(prompt)
    for line in prompt.splitlines():
        for name, steps in _COMMANDS.items():
            if _in_order(line, steps):
                raise _blocked(name)
        for name, (command, *url) in _URLS.items():
            found = command.search(line)
            words = _WORD_END.split(line[found.end() :]) if found else ()
            if any(_in_order(word, url) for word in words):
                raise _blocked(name)


def checked_assembled(prompt: str) -> str:
    """Return a prompt with run-time data without its invisible characters. Raises JobError."""
    cleaned = _INVISIBLE.sub(
        lambda match: match.group() if _joins_emoji(prompt, match.start()) else "", prompt
    )
    _refuse_directives(cleaned)
    return cleaned


def _refuse_directives(prompt: str) -> None:
    for name, steps in _DIRECTIVES.items():
        if _in_order(prompt, steps):
            raise _blocked(name)


def _blocked(name: str) -> JobError:
    return JobError(
        f"Blocked: prompt matches threat pattern '{name}'. Cron prompts must not contain "
        "injection or exfiltration payloads."
    )


def _in_order(text: str, steps: Sequence[re.Pattern[str]]) -> bool:
    """Return whether the patterns occur one after the other."""
    position = 0
    for step in steps:
        found = step.search(text, position)
        if found is None:
            return False
        # The blank between two steps may belong to both.
        position = max(found.end() - 1, found.start() + 1)
    return True


def _joins_emoji(text: str, index: int) -> bool:
    """Return whether the character is a joiner inside an emoji, such as a family or a flag."""
    if text[index] != _JOINER:
        return False
    before, after = index - 1, index + 1
    while before >= 0 and text[before] == _VARIATION:
        before -= 1
    while after < len(text) and text[after] == _VARIATION:
        after += 1
    return _is_emoji(text[max(before, 0)]) and _is_emoji(text[after : after + 1])


def _is_emoji(character: str) -> bool:
    return bool(character) and any(low <= ord(character) <= high for low, high in _EMOJI)
