"""The Celery app: its configuration, with the reason for each setting.

`celery -A hermes_celery worker`, `... beat`, `... worker -B` and `... flower` need no other flags.
An invalid setting ends the command with one sentence.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from hermes_celery.celery_app.messages import DELIVER_TASK
from hermes_celery.core.server_address import ServerAddress, parse_address
from hermes_celery.errors import SettingsError
from hermes_celery.masking.server_urls import userinfo
from hermes_celery.settings import Settings, address_of
from hermes_celery.store.connecting import (
    HEALTH_CHECK_SECONDS,
    SOCKET_TIMEOUT_SECONDS,
    sentinel_options,
)
from hermes_celery.store.keys import Keys


def configured_app(settings: Settings) -> Celery:
    """Return a Celery app for these settings, without our tasks and hooks."""
    address = address_of(settings)
    keys = Keys(namespace=settings.namespace)
    app = Celery("hermes_celery", broker=broker_url(address), set_as_current=False)
    app.amqp.Connection = _QuickConnection
    app.conf.update(
        hermes_settings=settings,
        # Our own app takes its broker from the settings; a project's app sets the broker itself.
        hermes_is_own_app=True,
        # Only JSON: nothing from the broker is ever unpickled.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # The run's record is its result.
        task_ignore_result=True,
        result_backend=None,
        task_default_queue=keys.default_queue,
        # Deliveries are short, and people wait for them. They have a queue of their own, which a
        # worker reads as often as the queue of the runs.
        task_queues=[_queue(keys.default_queue), _queue(keys.delivery_queue)],
        task_routes={DELIVER_TASK: {"queue": keys.delivery_queue}},
        # The claim protects a run, not the acknowledgement; `scheduling.run_rescue` explains
        # redelivery.
        task_acks_late=False,
        worker_concurrency=settings.max_workers,
        # A worker takes a message only when a slot is free. Otherwise it would hoard runs that
        # other workers could perform.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Flower shows these events.
        worker_send_task_events=settings.events,
        task_send_sent_event=False,
        beat_scheduler="hermes_celery.beat:CronScheduler",
        broker_use_ssl=broker_ssl(address),
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(address),
        # Our times are in UTC; they are converted for display only.
        enable_utc=True,
        timezone="UTC",
        worker_hijack_root_logger=True,
    )
    return app


class _QuickConnection(Connection):
    """Retries an unavailable broker every second or two; kombu alone waits up to 30 s."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect as kombu does, with shorter waits."""
        waits = {"interval_start": 1, "interval_step": 1, "interval_max": 2}
        return super().ensure_connection(*args, **{**waits, **kwargs})  # type: ignore[no-untyped-call]


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def broker_url(where: str | ServerAddress) -> str:
    """Return the URL of a server and database in kombu's notation.

    kombu writes a unix socket as `redis+socket://` with a `virtual_host`, and gives each Sentinel a
    URL.
    """
    address = _parsed(where)
    user = userinfo(address.username, address.password)
    if address.path:
        virtual_host = f"?virtual_host={address.database}" if address.database else ""
        return f"redis+socket://{user}{address.path}{virtual_host}"
    scheme = "sentinel" if address.master_name else "redis" if address.tls is None else "rediss"
    return ";".join(
        f"{scheme}://{user}{f'[{host}]' if ':' in host else host}:{port}/{address.database}"
        for host, port in address.servers
    )


def broker_ssl(where: str | ServerAddress) -> dict[str, Any] | None:
    """Return kombu's TLS options for a rediss:// server; None for any other.

    Certificates are checked unless the URL says `ssl_cert_reqs=none`; kombu alone would not check.
    """
    tls = _parsed(where).tls
    return None if tls is None else dict(tls)


def _transport_options(address: ServerAddress) -> dict[str, Any]:
    options: dict[str, Any] = {
        # With these, a half-open connection is detected in 11 s instead of minutes.
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "retry_on_timeout": True,
        **address.options,
    }
    if address.master_name:
        options["master_name"] = address.master_name
        options["sentinel_kwargs"] = sentinel_options(address.sentinel_options)
    return options


def _parsed(where: str | ServerAddress) -> ServerAddress:
    if isinstance(where, ServerAddress):
        return where
    try:
        return parse_address(where)
    except ValueError as error:
        raise SettingsError([f"HERMES_REDIS_URL: {error}"]) from None
