"""A web application with a factory: tasks run in its context, hooks add periodic tasks."""

import contextlib
import os

from celery import Celery, Task
from celery.schedules import crontab
from kombu import Exchange, Queue
from notes import note

from hermes_celery import Cron

CONTEXT = []


class WebApp:
    """Stands for a web framework's application: settings and a context."""

    def __init__(self):
        self.name = "flaskish"
        self.config = {
            "CELERY": {
                "broker_url": os.environ["BROKER"],
                "result_backend": os.environ["BROKER"],
                "task_ignore_result": True,
                "broker_connection_retry_on_startup": True,
                "worker_hijack_root_logger": False,
            }
        }

    @contextlib.contextmanager
    def app_context(self):
        """Return the context in which a request or a task runs."""
        CONTEXT.append(self.name)
        try:
            yield
        finally:
            CONTEXT.pop()


def celery_init_app(web):
    """Make the Celery app of a web application."""

    class ContextTask(Task):
        def __call__(self, *args, **kwargs):
            with web.app_context():
                return self.run(*args, **kwargs)

    celery = Celery(web.name, task_cls=ContextTask)
    celery.config_from_object(web.config["CELERY"])
    celery.conf.task_queues = {
        Queue("default_jobs", Exchange("jobs"), routing_key="jobs.default"),
        Queue("score_jobs", Exchange("jobs"), routing_key="jobs.score"),
    }
    celery.conf.task_default_queue = "default_jobs"
    celery.conf.task_default_exchange_type = "direct"
    celery.conf.task_default_routing_key = "jobs.default"
    celery.conf.task_routes = {
        "jobs.scores.*": {"queue": "score_jobs", "exchange": "jobs", "priority": 3}
    }
    celery.set_default()
    return celery


app = celery_init_app(WebApp())
cron = Cron(app)


@app.task(name="jobs.scores.refresh")
def refresh_scores(league):
    """Count the points of a league."""
    note("refresh-scores" if league == "a" else "refresh-all-scores", *CONTEXT)


@app.task(name="jobs.profiles.prune")
def prune_profiles():
    """Remove profiles that nobody uses."""
    note("prune-profiles", *CONTEXT)


@app.task(typing=False)
def ping(*words):
    """Record that this task ran."""
    note("ping", *words)


@app.on_after_configure.connect
def setup_periodic_tasks(sender, **kwargs):
    """Add the frequent periodic tasks."""
    sender.add_periodic_task(2.0, refresh_scores.s("a"), name="refresh-scores")
    sender.add_periodic_task(3, ping.s("x", "y"), name="ping", expires=10)


@app.on_after_finalize.connect
def setup_more(sender, **kwargs):
    """Add the nightly periodic tasks."""
    sender.add_periodic_task(
        crontab(hour=7, minute=30, day_of_week=1), prune_profiles.s(), name="prune-profiles"
    )
    sender.add_periodic_task(
        crontab(minute=0, hour="0-6/2"),
        refresh_scores.si("all"),
        name="refresh-all-scores",
        priority=6,
    )
