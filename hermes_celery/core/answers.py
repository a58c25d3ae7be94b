"""Decide whether an agent's answer is silent, and sum up a failure in one line for a chat.

The rules are Hermes' own (cases `run.silence` and `run.failure_summary`).
"""

from __future__ import annotations

import re

_SILENCE = frozenset({"[SILENT]", "SILENT", "NO_REPLY", "NO REPLY"})
_MAX_SUMMARY = 180
_EXCEPTION_NAME = re.compile(r"^(RuntimeError|Exception|ValueError|HTTPStatusError):\s*")


def is_silent(answer: str) -> bool:
    """Return whether an answer says that there is nothing to report.

    A marker counts if it is the whole answer, its first line or its last line. `[SILENT]` also
    counts as the beginning of the answer.
    """
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    if not lines:
        return False
    ends = {" ".join(line.upper().split()) for line in (lines[0], lines[-1])}
    return bool(ends & _SILENCE) or answer.strip().upper().startswith("[SILENT]")


def failure_summary(name: str, error: str | None) -> str:
    """Return what went wrong in one line for a chat; the details stay with the run."""
    text = (error or "unknown error").strip()
    reason = _provider_reason(text)
    if reason is not None:
        return f"⚠️ Cron '{name}' failed: {reason} Full details saved in cron output."
    brief = " ".join(_EXCEPTION_NAME.sub("", text[:2000]).split())
    if len(brief) > _MAX_SUMMARY:
        brief = brief[: _MAX_SUMMARY - 3].rstrip() + "..."
    return f"⚠️ Cron '{name}' failed: {brief}"


def _provider_reason(text: str) -> str | None:
    lower = text.lower()
    exhausted = "Fallback chain was exhausted or unavailable."
    if "429" in text or "rate limit" in lower or "usage limit" in lower:
        limit = "rate limit"
        if "weekly usage limit" in lower:
            limit = "weekly usage limit"
        elif "quota" in lower:
            limit = "quota limit"
        return f"provider {limit}. {exhausted}"
    if "timed out" in lower or "timeout" in lower:
        return f"provider timeout. {exhausted}"
    if re.search(r"authenticat|authoriz", lower) or re.search(r"\b(401|403)\b", text):
        return "provider authentication error."
    return None
