"""Assemble the prompt of an agent run from the job's prompt and its context.

Section texts are Hermes' own (cases `run.prompt`), so that jobs and skills written for its cron
work the same here. `core.answers` interprets the answer. All inputs are arguments: this module
reads no file and no Redis.
"""

from __future__ import annotations

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


class CollectedData(msgspec.Struct, frozen=True, kw_only=True):
    """The output or error of a job's pre-run script."""

    text: str
    failed: bool = False


class ContextOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The latest output of another job, with the reference that the job uses for it."""

    reference: str
    text: str


class Skill(msgspec.Struct, frozen=True, kw_only=True):
    """A skill's instructions; `content` is None if the skill is not installed."""

    name: str
    content: str | None


def assembled(
    prompt: str,
    *,
    collected: CollectedData | None = None,
    contexts: Sequence[ContextOutput] = (),
    skills: Sequence[Skill] = (),
) -> str:
    """Return the whole prompt of one run: hint, skills, other jobs' output, script output, prompt.

    Raises JobError when the prompt scan refuses it. The scan is strict for the job's own words, and
    looser for a prompt that contains other data.
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


def _collected_section(collected: CollectedData) -> str:
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


def _context_section(context: ContextOutput) -> str:
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
