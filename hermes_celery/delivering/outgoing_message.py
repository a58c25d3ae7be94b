"""The content of one message: title, text and files, and the text's pieces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from hermes_celery.core.job import Job
from hermes_celery.core.run import Run
from hermes_celery.delivering.attachments import ExtractedFiles
from hermes_celery.delivering.channels import Channel
from hermes_celery.delivering.template import render

#: The most pieces, so that a message does not flood a chat. The run keeps the whole output.
_MAX_PIECES = 20


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message to send."""

    title: str
    text: str
    files: tuple[Path, ...] = ()
    #: One sentence for each part that could not be sent as the job wants.
    warnings: tuple[str, ...] = ()
    #: The command that shows the rest of a text that is too long.
    more_at: str = ""

    def pieces(self, channel: Channel) -> list[str]:
        """Split the text into 1 to 20 pieces that the channel accepts."""
        found = channel.pieces(self.text)
        if len(found) > _MAX_PIECES:
            cut = len(found) - _MAX_PIECES + 1
            found = [*found[: _MAX_PIECES - 1], f"[... {cut} more messages: {self.more_at}]"]
        return found or [", ".join(path.name for path in self.files) or "(no text)"]


def message_of(
    job: Job, run: Run, output: str, *, wrap: bool, attachments: Callable[[str], ExtractedFiles]
) -> Message:
    """Build the message of a run's output."""
    rendered = render(job, run, output, wrap=wrap)
    extracted = attachments(rendered.text)
    warnings = (*((rendered.warning,) if rendered.warning else ()), *extracted.refused)
    notes = "".join(f"\n({fault})" for fault in extracted.refused)
    return Message(
        title=job.name,
        text=(extracted.text + notes).strip(),
        files=extracted.files,
        warnings=warnings,
        more_at=f"hermes-celery logs {run.id}",
    )
