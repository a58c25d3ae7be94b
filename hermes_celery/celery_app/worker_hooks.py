"""Registers our tasks on an app, and hooks the start and stop of worker and beat processes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Collection, Mapping
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import billiard.pool
from billiard.process import BaseProcess
from celery import Celery, signals
from celery.concurrency import get_implementation, prefork
from celery.worker import state as worker_state

from hermes_celery.celery_app import (
    continued_runs,
    deliver_task,
    ended_requests,
    purging,
    safe_consumer,
    user_tasks,
)
from hermes_celery.celery_app.app_settings import app_settings, namespaces_of
from hermes_celery.celery_app.broker import names_of
from hermes_celery.celery_app.collaborators import Collaborators, collaborators_of
from hermes_celery.celery_app.consuming import looking, prove
from hermes_celery.celery_app.loop_wakeup import wake
from hermes_celery.celery_app.messages import RUN_TASK
from hermes_celery.celery_app.run_task import RunTask
from hermes_celery.celery_app.startup import patience_seconds, until_it_answers
from hermes_celery.errors import HermesCeleryError, SettingsError, StoreError
from hermes_celery.events import JsonFormatter, event
from hermes_celery.masking.output import Redact, known_secrets, redactor, unredacted
from hermes_celery.process import descriptors
from hermes_celery.process.last_resort import LastResort
from hermes_celery.process.parent_death import die_with_parent
from hermes_celery.running.escaped_exceptions import is_pool_process
from hermes_celery.running.stuck_work import HeldMessage
from hermes_celery.session import HEADER, run_carried_by
from hermes_celery.settings import check_home, process_environment
from hermes_celery.store.keys import Keys
from hermes_celery.store.worker_signs import Presence

if TYPE_CHECKING:
    from hermes_celery.running.ended_by_celery import RunEnder
    from hermes_celery.settings import Settings

_log = logging.getLogger(__name__)

# A stopping pool process waits up to 30 s (300 times 0.1 s) for its parent to read its results, but
# the parent no longer reads. Our results are in Redis before a task returns, so it need not wait.
billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 5


def register(app: Celery) -> None:
    """Put our tasks and process hooks on an app."""
    # Not shared: Celery registers a shared task on every other app of the process as well.
    app.task(
        RunTask.perform, name=RUN_TASK, base=RunTask, bind=True, ignore_result=True, shared=False
    )
    deliver_task.register(app)
    continued_runs.connect()
    # One per process: its threads do not survive a fork.
    run_ender_in = cache(lambda pid: collaborators_of(app).run_ender())
    purging.watch(app, lambda: run_ender_in(os.getpid()))
    _Hooks(app).connect()


def _warn_of_another_scheduler(scheduler: object) -> None:
    """Log that this beat runs no job of ours, where its scheduler is not our class."""
    # Here to start fast: workers need no scheduler.
    from hermes_celery.celery_app.scheduler import BeatScheduler

    if not isinstance(scheduler, BeatScheduler):
        kind = f"{type(scheduler).__module__}:{type(scheduler).__name__}"
        why = (
            f"this beat has the scheduler {kind}, which runs no job of hermes-celery; start it "
            "with `celery -A APP beat -S hermes`, a worker with `--beat --scheduler hermes`, or "
            "set app.conf.beat_scheduler = 'hermes_celery.beat:CronScheduler'"
        )
        event(_log, "beat.other_scheduler", level=logging.WARNING, why=why)


_EAGER = (
    "task_always_eager is on: tasks would run inside the process that publishes them, and no "
    "worker would ever get one; set task_always_eager = False (in Django's settings "
    "CELERY_TASK_ALWAYS_EAGER = False), and turn it on only in the settings of your tests"
)
#: Seconds that a stopping worker waits for a Redis that does not answer.
_DRAIN_SECONDS = 5.0
#: Seconds that a stopping worker waits for its own beat, which waits 3 s for the server.
_BEAT_SECONDS = 5.0


class _Hooks:
    """The handlers of Celery's signals for the worker and beat processes of one app."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._presence: Presence | None = None
        self._proof = prove(app)
        wake(app)
        self._last_resort: LastResort | None = None
        self._run_ender: RunEnder | None = None
        self._name = ""
        #: The worker's own hard limit, seconds (`--time-limit`).
        self._time_limit: float | None = None

    @property
    def _settings(self) -> Settings:
        # Read late: a project configures its app after creating it.
        return app_settings(self._app)

    @property
    def _collaborators(self) -> Collaborators:
        return collaborators_of(self._app)

    @property
    def _is_own(self) -> bool:
        return bool(self._app.conf.get("hermes_is_own_app"))

    def connect(self) -> None:
        """Listen to Celery's signals. They are global, so each handler checks for its own app."""
        for heard, receiver in (
            (signals.celeryd_init, self.on_worker_init),
            (signals.worker_init, self.on_tasks_known),
            (signals.beat_init, self.on_beat_init),
            (signals.worker_ready, self.on_worker_ready),
            (signals.worker_shutting_down, self.on_worker_shutting_down),
            (signals.worker_shutdown, self.on_worker_shutdown),
            (signals.worker_before_create_process, self.on_tasks_traced),
            (signals.worker_process_init, self.on_pool_process_init),
            (signals.after_setup_logger, self.on_logger),
        ):
            heard.connect(receiver, weak=False)

    def on_worker_init(
        self, sender: str, instance: Any, options: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Refuse to start this app's worker without a usable server; ignore other apps' workers."""
        if instance.app is not self._app:
            return
        self._name = RunTask.worker = f"{sender}:{os.getpid()}"
        self._check_server(queues=(options or {}).get("queues") or ())
        self._run_ender = self._collaborators.run_ender()
        dead_letters = self._collaborators.dead_letters(
            worker=self._name, run_ender=self._run_ender
        )
        safe_consumer.install(self._app, dead_letters)
        ended_requests.install(self._app, self._run_ender)
        _accept_ours(self._app)

    def on_beat_init(self, sender: Any, **_: Any) -> None:
        """Refuse to start this app's beat without a usable server; warn of another scheduler."""
        if sender.app is self._app:
            self._check_server()
            _warn_of_another_scheduler(sender.scheduler)

    def on_tasks_known(self, sender: Any, **_: Any) -> None:
        """Make every task of this app's worker carry the session from here on.

        By now the worker knows its size and has opened no connection.
        """
        if sender.app is not self._app:
            return
        _make_room(sender)
        self._time_limit = sender.time_limit
        safe_consumer.before_tracing(self._app, self.on_tasks_traced)
        self.on_tasks_traced()

    def on_tasks_traced(self, **_: Any) -> None:
        """Wrap the tasks that were registered since: a task may be registered late.

        Celery traces tasks when a pool process begins, and when the main process begins to consume.
        """
        if self._run_ender is None:
            return
        ended_requests.watch_all(self._app, self._run_ender)
        user_tasks.wrap_tasks(
            self._app,
            runner=self._app.tasks[RUN_TASK].runner_here,
            worker=self._name,
            redact=self._redact,
            namespaces=namespaces_of(self._app),
            time_limit=self._time_limit,
        )

    @cached_property
    def _redact(self) -> Redact:
        secrets = known_secrets(process_environment())
        return redactor(secrets) if self._settings.redact else unredacted

    def on_worker_ready(self, sender: Any = None, **_: Any) -> None:
        """Start the threads that sign this worker as alive, watch the beats and guard its slots."""
        if not self._name:
            return
        settings = self._settings
        self._presence = self._collaborators.presence(
            worker=self._name,
            look=looking(self._proof, home=settings.home),
        )
        self._presence.start()
        self._collaborators.worker_sign(worker=self._name).start()
        self._collaborators.beat_watch().start()
        self._guard_slots(getattr(sender, "pool", None))
        soft_seconds = self._app.conf.get("worker_soft_shutdown_timeout") or 0
        self._last_resort = LastResort(
            grace_seconds=settings.grace_seconds + soft_seconds,
            waits_when_warm=not self._is_own,
            is_remapped=process_environment().get("REMAP_SIGTERM") == "SIGQUIT",
        )
        try:
            self._last_resort.start()
        except OSError as error:
            event(_log, "worker.unwatched", level=logging.WARNING, why=error)

    def _guard_slots(self, pool: Any) -> None:
        if not isinstance(pool, prefork.TaskPool):
            return

        def kill(pid: int) -> None:
            if any(process.pid == pid for process in pool._pool._pool):
                os.kill(pid, signal.SIGKILL)

        self._collaborators.slot_guard(worker=self._name, held=held_by_pool, kill=kill).start()

    def on_worker_shutting_down(self, how: str, **_: Any) -> None:
        """Limit the wait of our own worker's warm shutdown; leave a project's worker to Celery."""
        if self._presence is not None:
            self._presence.stop()
        if how == "Warm" and self._name and self._is_own:
            timer = threading.Timer(self._settings.grace_seconds, self._cancel_running)
            timer.daemon = True
            timer.start()

    def on_worker_shutdown(self, sender: Any, **_: Any) -> None:
        """Write the ends of runs that Celery ended last, and wait for the worker's own beat.

        Celery ends without its beat (`worker --beat`), which would then outlive the worker, or die
        with the worker's container before it released its lease.
        """
        if self._run_ender is not None:
            self._run_ender.drain(_DRAIN_SECONDS)
        beat = getattr(sender, "beat", None)
        if isinstance(beat, BaseProcess) and beat.pid is not None:
            beat.join(_BEAT_SECONDS)

    def on_pool_process_init(self, **_: Any) -> None:
        """Make a pool process die with its worker; otherwise its run would continue unseen.

        The pool `solo` sends this signal in the worker's main process. That process may outlive
        whatever started it: a shell, `nohup`, a script.
        """
        if not is_pool_process(self._name):
            return
        if self._last_resort is not None:
            self._last_resort.leave()
        die_with_parent()

    def on_logger(self, logger: logging.Logger, **_: Any) -> None:
        """Show our events at level INFO, and log every line as JSON on request."""
        logging.getLogger("hermes_celery").setLevel(logging.INFO)
        try:
            settings = self._settings
        except SettingsError:
            return  # invalid settings end the process later, when it starts its work
        for text in settings.ignored:
            event(_log, "setting.ignored", level=logging.WARNING, why=text)
        if settings.log_format == "json":
            for handler in logger.handlers:
                handler.setFormatter(JsonFormatter())

    def _cancel_running(self) -> None:
        runs, clock = self._collaborators.runs(), self._collaborators.clock()
        try:
            running = runs.running_on(self._name)
        except StoreError as error:
            event(_log, "worker.cancel_failed", level=logging.WARNING, why=error)
            return
        for run_id in running:
            try:
                runs.cancel(run_id, reason="its worker shut down", now_ms=clock.now_ms())
                event(_log, "run.cancelled", run=run_id, reason="shutdown")
            except HermesCeleryError as error:
                event(_log, "worker.cancel_failed", level=logging.WARNING, run=run_id, why=error)

    def _check_server(self, *, queues: Collection[str] = ()) -> None:
        """Wait for a usable server, or exit with 1. `queues` are those of `-Q`."""
        if self._app.conf.task_always_eager:
            _exit(_EAGER)
        try:
            wanted = names_of(self._app).queues.union(queues)
            check_home(self._settings)
            self._collaborators.check_alerts(delivers_here=self._delivers(queues))
            until_it_answers(
                lambda: self._collaborators.check_server(queues=wanted),
                seconds=patience_seconds(self._app),
                say=_say,
            )
        except (StoreError, SettingsError) as error:
            _exit(str(error))

    def _delivers(self, queues: Collection[str]) -> bool:
        # A beat has no name here, and a worker of other queues performs no deliveries.
        own = Keys(namespace=self._settings.namespace).delivery_queue
        return bool(self._name) and (not queues or own in queues)


def held_by_pool() -> list[HeldMessage]:
    """Return the messages with a run that this worker's pool processes have accepted."""
    found = []
    for request in list(worker_state.active_requests):
        header = request.request_dict.get(HEADER)
        run_id = run_carried_by(header, message_id=str(request.id))
        if run_id is not None and request.worker_pid:
            held = HeldMessage(
                run_id=run_id, pid=request.worker_pid, since=request.time_start or 0.0
            )
            found.append(held)
    return found


def _accept_ours(app: Celery) -> None:
    """Add JSON to the accepted content: our own messages are JSON, whatever the project uses."""
    accepted = list(app.conf.accept_content or ())
    if not {"json", "application/json"} & set(accepted):
        app.conf.accept_content = [*accepted, "json"]


def _make_room(worker: Any) -> None:
    """Refuse to start with too few file descriptors for the pool's processes."""
    largest = max(worker.options.get("autoscale") or (worker.concurrency,))
    slots = largest if isinstance(largest, int) else os.cpu_count() or 1
    shortage = descriptors.make_room(slots)
    if shortage is None:
        return
    if issubclass(get_implementation(worker.pool_cls), prefork.TaskPool):
        _exit(str(shortage))
    # Other pools open files only when a run needs them, so this is only a warning.
    event(_log, "worker.few_files", level=logging.WARNING, why=shortage)


def _exit(message: str) -> NoReturn:
    _say(f"Error: {message}")
    raise SystemExit(1)


def _say(message: str) -> None:
    # Celery may have replaced sys.stderr by a logger.
    print(message, file=sys.__stderr__ or sys.stderr, flush=True)
