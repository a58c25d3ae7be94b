"""An API through which users schedule their own reminders.

The client's calls wait for Redis, so the endpoints are plain functions: FastAPI runs them in
threads.
"""

from datetime import datetime
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, FastAPI, Header, status
from hermes_celery import Job, JobRequest, Origin
from hermes_celery.errors import JobNotFound
from pydantic import BaseModel, Field

from errors import add_handlers
from reminders import cron, remind

api = FastAPI(title="Reminders")
add_handlers(api)


class NewReminder(BaseModel):
    text: Annotated[str, Field(max_length=200)]
    schedule: str
    timezone: str = "UTC"


class Reminder(BaseModel):
    id: str
    text: str
    schedule: str
    state: str
    next_run_at: datetime | None

    @classmethod
    def of(cls, job: Job):
        return cls(
            id=job.id,
            text=job.spec.task.args[0],
            schedule=job.spec.schedule_display,
            state=job.state,
            next_run_at=job.next_run_at,
        )


def signed_in(x_user: Annotated[str, Header(pattern="^[a-z]+$")]) -> str:
    """Return the user. A real API would check a token."""
    return x_user


User = Annotated[str, Depends(signed_in)]


def own_job(reminder_id: str, user: User) -> Job:
    """Return a job of the user's. To others it does not exist."""
    job = cron.client.show(reminder_id)
    if job.spec.origin is None or job.spec.origin.user_id != user:
        raise JobNotFound(reminder_id)
    return job


OwnJob = Annotated[Job, Depends(own_job)]


@api.post("/reminders", status_code=status.HTTP_201_CREATED)
def make(new: NewReminder, user: User) -> Reminder:
    request = JobRequest(
        # Jobs are listed by the beginning of their names, from an index.
        name=f"{user}/{uuid4().hex}",
        schedule=new.schedule,
        timezone=new.timezone,
        task=remind.s(new.text),
        origin=Origin(platform="reminders", user_id=user),
    )
    return Reminder.of(cron.client.add(request))


@api.get("/reminders")
def read(user: User) -> list[Reminder]:
    jobs = cron.client.find_jobs(name=f"{user}/")
    return [Reminder.of(job) for job in jobs if isinstance(job, Job)]


@api.post("/reminders/{reminder_id}/pause")
def pause(job: OwnJob) -> Reminder:
    return Reminder.of(cron.client.pause(job.id))


@api.post("/reminders/{reminder_id}/resume")
def resume(job: OwnJob) -> Reminder:
    return Reminder.of(cron.client.resume(job.id))


@api.delete("/reminders/{reminder_id}", status_code=status.HTTP_204_NO_CONTENT)
def delete(job: OwnJob) -> None:
    cron.client.remove(job.id)


@api.get("/reminders/{reminder_id}/runs")
def runs(job: OwnJob) -> list[dict]:
    return [
        {"due_at": run.due_at, "state": run.state, "said": cron.client.output(run.id)}
        for run in cron.client.latest_runs(job.id)
    ]
