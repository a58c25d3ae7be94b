"""What the API answers when hermes-celery refuses.

Messages about schedules and jobs say what was given, what is wrong and what to do: users get them
as they are. The other messages name commands for operators, so the API has words of its own.
"""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from hermes_celery.errors import Conflict, JobError, JobNotFound, ScheduleError, StoreError


def add_handlers(api: FastAPI) -> None:
    """Answer each of hermes-celery's errors with a status and one sentence."""

    @api.exception_handler(ScheduleError)
    @api.exception_handler(JobError)
    def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @api.exception_handler(JobNotFound)
    def not_found(request: Request, error: JobNotFound) -> JSONResponse:
        detail = f"you have no reminder {error.reference!r}"
        return JSONResponse({"detail": detail}, status_code=404)

    @api.exception_handler(Conflict)
    def changed(request: Request, error: Conflict) -> JSONResponse:
        detail = "the reminder was changed or deleted meanwhile; read it and try again"
        return JSONResponse({"detail": detail}, status_code=409)

    @api.exception_handler(StoreError)
    def unavailable(request: Request, error: StoreError) -> JSONResponse:
        detail = "reminders cannot be reached at the moment; try again"
        return JSONResponse({"detail": detail}, status_code=503, headers={"Retry-After": "5"})
