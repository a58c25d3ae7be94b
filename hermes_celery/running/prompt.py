"""What an agent is told, and what its answer means.

Section texts, silence and the summary of a failure are Hermes' own (cases `run.prompt`,
`run.silence`, `run.outcome`, `run.failure_summary`), so that jobs and skills written for its cron
behave the same here. Everything is handed in: no file, no Redis.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from hermes_celery.core.prompt_scan import check_prompt, checked_assembled

MAX_CONTEXT = 8_000
EMPTY_ANSWER = (
    "Agent completed but produced empty response (model error, timeout, or misconfiguration)"
)
HINT = (
    "[IMPORTANT: This is a scheduled cron job; nobody is there to answer questions. "
    "DELIVERY: your final response is sent to the user automatically. Do not send it yourself with "
    "send_message or any other tool; just write the report as your final response. "
    'SILENT: if there is nothing new to report, respond with exactly "[SILENT]" and nothing else, '
    "and nothing is delivered. Never put [SILENT] beside a report.]\n\n"
)
_SILENCE = frozenset({"[SILENT]", "SILENT", "NO_REPLY", "NO REPLY"})
_MAX_SUMMARY = 180
_EXCEPTION_NAME = re.compile(r"^(RuntimeError|Exception|ValueError|HTTPStatusError):\s*")


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's pre-run script gave."""

    text: str
    failed: bool = False


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The latest output of another job, under the reference that the job names it by."""

    reference: str
    text: str


class Skill(msgspec.Struct, frozen=True, kw_only=True):
    """A skill's instructions; None where it is not installed."""

    name: str
    content: str | None


def assembled(
    prompt: str,
    *,
    collected: Collected | None = None,
    contexts: Sequence[Context] = (),
    skills: Sequence[Skill] = (),
) -> str:
    """The whole prompt of one run: hint, skills, other jobs' output, script output, prompt.

    Raises JobError when the prompt scan refuses it: strictly for the job's own words, loosely once
    there is data of others in it.
    """
    check_prompt(prompt)
    text = prompt
    if collected is not None:
        text = _collected_section(collected) + text
    for context in contexts:
        if context.text.strip():
            text = _context_section(context) + text
    text = HINT + text
    if skills:
        text = _with_skills(text, skills)
    if text == HINT + prompt:
        return text
    return checked_assembled(text)


def is_silent(answer: str) -> bool:
    """Whether an answer says that there is nothing to say.

    A marker alone, or on the first or last line of its own; `[SILENT]` also before other words.
    """
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    if not lines:
        return False
    ends = {" ".join(line.upper().split()) for line in (lines[0], lines[-1])}
    return bool(ends & _SILENCE) or answer.strip().upper().startswith("[SILENT]")


def failure_summary(name: str, error: str | None) -> str:
    """In one line for a chat, what went wrong; the details stay with the run."""
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


def _collected_section(collected: Collected) -> str:
    if collected.failed:
        heading, meaning = (
            "Script Error",
            "The data-collection script failed. Report this to the user.",
        )
    else:
        heading, meaning = (
            "Script Output",
            "The following data was collected by a pre-run script. Use it as context for your "
            "analysis.",
        )
    return f"## {heading}\n{meaning}\n\n```\n{collected.text}\n```\n\n"


def _context_section(context: Context) -> str:
    text = context.text.strip()
    if len(text) > MAX_CONTEXT:
        text = text[:MAX_CONTEXT] + "\n\n[... output truncated ...]"
    return (
        f"## Output from job '{context.reference}'\n"
        "The following is the most recent output from a preceding cron job. Use it as context for "
        f"your analysis.\n\n```\n{text}\n```\n\n"
    )


def _with_skills(text: str, skills: Sequence[Skill]) -> str:
    parts = [
        f'[IMPORTANT: Follow the instructions of the skill "{skill.name}"; they are given in full '
        f"below.]\n\n{skill.content.strip()}\n"
        for skill in skills
        if skill.content is not None
    ]
    missing = [skill.name for skill in skills if skill.content is None]
    if missing:
        parts.append(
            f"[IMPORTANT: These skills of the job are not installed: {', '.join(missing)}. Say so "
            "at the start of your response.]\n"
        )
    return "\n".join([*parts, text])
