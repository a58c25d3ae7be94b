"""The configuration of our own Celery app: the broker's URL, its TLS and the fixed settings."""

from __future__ import annotations

import ssl

import pytest
from kombu.connection import Connection

from hermes_celery.celery_app.app import broker_ssl, broker_url
from hermes_celery.errors import SettingsError
from hermes_celery.settings import read_settings
from hermes_celery.wiring.own_app import make_app


@pytest.mark.parametrize(
    ("url", "kombu"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("redis://:p@h:1?db=2", "redis://:p@h:1/2"),
        ("unix:///run/x.sock", "redis+socket:///run/x.sock"),
        ("unix:///run/x.sock?db=2", "redis+socket:///run/x.sock?virtual_host=2"),
        ("rediss://h:1/0?ssl_ca_certs=/ca.pem", "rediss://h:1/0"),
    ],
)
def test_the_broker_url_names_the_database_of_the_store(url: str, kombu: str) -> None:
    assert broker_url(url) == kombu


def test_certificates_are_checked_unless_the_url_says_otherwise() -> None:
    assert broker_ssl("redis://h/0") is None
    assert broker_ssl("rediss://h/0") == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert broker_ssl("rediss://h/0?ssl_cert_reqs=none&ssl_ca_certs=/a") == {
        "ssl_cert_reqs": ssl.CERT_NONE,
        "ssl_ca_certs": "/a",
    }
    with pytest.raises(SettingsError, match="use required, optional or none"):
        broker_ssl("rediss://h/0?ssl_cert_reqs=perhaps")


def test_a_rediss_app_checks_the_certificate() -> None:
    app = make_app(read_settings({"HERMES_REDIS_URL": "rediss://h:1/0"}))
    connection: Connection = app.connection_for_read()
    assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}


def test_workers_accept_only_json_and_prefetch_one_message() -> None:
    conf = make_app(read_settings({"HERMES_CRON_MAX_WORKERS": "3"})).conf
    assert conf.accept_content == ["json"]
    assert (conf.worker_concurrency, conf.worker_prefetch_multiplier) == (3, 1)
    assert conf.worker_disable_prefetch is True
    assert conf.task_acks_late is False
    assert conf.beat_scheduler == "hermes_celery.beat:CronScheduler"
    assert conf.worker_send_task_events is True
    assert (
        make_app(read_settings({"HERMES_CELERY_EVENTS": "off"})).conf.worker_send_task_events
        is False
    )
