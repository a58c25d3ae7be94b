"""A Celery app's broker and the store are one server, as kombu and redis-py read their URLs."""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from hermes_celery import embedded_server
from hermes_celery.celery_app.app_settings import app_settings
from hermes_celery.core.server_address import parse_address
from hermes_celery.errors import SettingsError
from hermes_celery.settings import read_settings
from hermes_celery.store import connect
from hermes_celery.wiring.own_app import make_app
from hermes_celery.wiring.project import Cron

VARIABLES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear the machine's own broker variables."""
    for name in (*VARIABLES, "HERMES_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def own_app(url: str) -> Celery:
    return make_app(read_settings({"HERMES_REDIS_URL": url}))


def project(broker: str | list[str] | None, **conf: object) -> Celery:
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(conf)
    Cron(app)
    return app


@pytest.mark.parametrize(
    "broker",
    ["amqp://u:p[ss@h//", "amqp://u:p#ss@h//", "redis://:p[ss@h/0", "redis://:p#ss@h/0",
     "redis://:12/ss@h/0", "redis://:ss", "redis://h;redis://:p/ss@h"],
)  # fmt: skip
def test_a_broker_with_an_unreadable_login_is_refused_without_its_password(broker: str) -> None:
    with pytest.raises(SettingsError) as error:
        app_settings(project(broker))
    assert "ss" not in str(error.value).replace("password", "").replace("message", "")
    assert "broker_url" in str(error.value)


@pytest.mark.parametrize(
    ("ours", "celerys"),
    [
        ("redis://h/0", "redis://H"),
        ("redis://h", "redis://h:6379/0"),
        ("redis://:secret@h/2", "redis://:other@h:6379/2"),
        ("redis://default:s@h", "redis://:s@h"),
        ("redis://h/1?db=2", "redis://h/2"),
        ("redis://a@h?username=b", "redis://a@h"),
        ("unix:///run/x.sock", "redis+socket:///run/./x.sock"),
        ("unix:///run/x.sock?db=3", "redis+socket:///run/x.sock?virtual_host=3"),
        ("unix://u:p@/run/x.sock", "redis+socket://u:p@/run/x.sock"),
    ],
)
def test_two_spellings_of_one_server_are_accepted(
    ours: str, celerys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, celerys)
    settings = app_settings(own_app(ours))
    assert settings.redis_url == ours
    # The app's own spelling of the URL is recognised as well.
    for name in VARIABLES:
        monkeypatch.delenv(name)
    app_settings(own_app(ours))


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize(
    "celerys",
    [
        "redis://other/0",
        "redis://h:6380/0",
        "redis://h/1",
        "redis://bob:secret@h/0",
        "redis://127.0.0.1/0",
        "redis+socket:///run/x.sock",
        "amqp://guest:secret@h//",
        "redis://h/0;redis://other/0",
        "sentinel://h:26379/0",
        "redis://h/0?db=1",
        "memory://",
    ],
)
def test_another_server_database_or_user_is_refused_in_one_sentence(
    name: str, celerys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, celerys)
    app = own_app("redis://h/0")
    with pytest.raises(SettingsError, match=f"unset {name}, or set") as error:
        app_settings(app)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_the_embedded_servers_socket_is_an_accepted_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_settings({"HERMES_HOME": str(tmp_path)})
    socket = embedded_server.socket_path(settings.state_dir)
    monkeypatch.setenv("CELERY_BROKER_URL", f"redis+socket://{socket}")
    found = app_settings(make_app(settings))
    assert replace(found, broker_names=settings.broker_names) == settings
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://localhost:6379/0")
    with pytest.raises(SettingsError, match="the schedules of this cron are on unix://"):
        app_settings(make_app(settings))


def test_a_project_uses_celerys_final_broker_url(monkeypatch: pytest.MonkeyPatch) -> None:
    app = project("redis://code/1")
    assert app_settings(app).redis_url == "redis://code/1"
    # `celery -b` sets this variable after the app was made; it wins over the code.
    monkeypatch.setenv("CELERY_BROKER_URL", "redis+socket://u:p@/run/v.sock?virtual_host=2")
    assert app_settings(app).redis_url == "unix://u:p@/run/v.sock?db=2"


def test_a_project_uses_the_broker_settings_outside_the_url() -> None:
    app = project("redis://h", broker_vhost="3", broker_port=7000, broker_user="bob")
    assert parse_address(app_settings(app).redis_url or "").is_same_as(
        parse_address("redis://bob@h:7000/3")
    )


def test_the_store_uses_the_brokers_tls_options() -> None:
    app = project("redis://h:1/0", broker_use_ssl={"ssl_ca_certs": "/ca.pem"})
    assert app_settings(app).redis_url == "rediss://h:1/0?ssl_ca_certs=%2Fca.pem"
    app = project("rediss://h:1/0?ssl_cert_reqs=none")
    assert app_settings(app).redis_url == "rediss://h:1/0?ssl_cert_reqs=none"


class Provider(redis.CredentialProvider):
    """A credential provider like those of cloud libraries."""

    def get_credentials(self) -> tuple[str, str]:
        return "u", "p"


def celerys(app: Celery) -> dict[str, Any]:
    """Return the parameters that kombu gives each connection of an app, without connecting."""
    connection = app.connection_for_write()
    transport: Any = connection.transport
    channel = object.__new__(transport.Channel)
    channel.connection = SimpleNamespace(client=connection, default_port=transport.default_port)
    for name in transport.Channel.from_transport_options:
        if name in connection.transport_options:
            setattr(channel, name, connection.transport_options[name])
    return dict(channel._connparams())


@pytest.mark.parametrize(
    ("broker", "conf"),
    [
        ("redis://bob:s%40@h:1/2", {}),
        ("redis://h", {"broker_user": "bob", "broker_password": "s", "broker_vhost": "/4"}),
        ("rediss://h/0", {}),
        ("rediss://h/0?ssl_cert_reqs=CERT_OPTIONAL&ssl_check_hostname=false", {}),
        ("rediss://h/0?ssl_cert_reqs=none", {"broker_use_ssl": {"ssl_ciphers": "HIGH"}}),
        ("redis://h/0", {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE}}),
        ("redis://h/0", {"broker_use_ssl": {"ssl_cert_reqs": "optional"}}),
        ("redis://h/0", {"broker_use_ssl": {"ssl_min_version": ssl.TLSVersion.TLSv1_3}}),
        ("redis://h/0", {"broker_use_ssl": True}),
        ("redis://h/0", {"broker_use_ssl": {}}),
        ("redis+socket:///run/x.sock?virtual_host=3", {}),
        ("redis+socket://u:p@/run/x.sock", {}),
        ("redis://h/0", {"broker_transport_options": {
            "socket_timeout": 7, "socket_connect_timeout": 8, "socket_keepalive": True,
            "client_name": "shop", "health_check_interval": 3, "retry_on_timeout": True,
            "visibility_timeout": 60, "max_connections": 4}}),
        (f"redis://h/0?credential_provider={__name__}.Provider", {}),
        ("sentinel://:p@a:1;sentinel://:p@b:2", {"broker_transport_options": {"master_name": "m"}}),
        ("sentinel://a:1;sentinel://b:2/0", {"broker_transport_options": {"master_name": "m"},
                                            "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE}}),
    ],
)  # fmt: skip
def test_the_store_connects_with_the_brokers_parameters(
    broker: str, conf: dict[str, object]
) -> None:
    app = project(broker, **conf)
    wanted = {name: value for name, value in celerys(app).items() if value is not None}
    address = app_settings(app).address
    assert address is not None
    with connect(address) as client:
        pool = client.connection_pool
        # These configure kombu's pool, not a single connection.
        for name in ("max_connections", "retry_on_timeout"):
            wanted.pop(name, None)
        if "health_check_interval" not in conf.get("broker_transport_options", {}):  # type: ignore[operator]
            wanted.pop("health_check_interval", None)
        is_tls = issubclass(wanted.pop("connection_class"), redis.SSLConnection)
        assert issubclass(pool.connection_class, redis.SSLConnection) is is_tls
        if address.master_name:
            wanted.pop("host")
            wanted.pop("port")
        provider = wanted.pop("credential_provider", None)
        assert type(pool.connection_kwargs.get("credential_provider")) is type(provider)
        ours = {**pool.connection_kwargs}
        # For redis-py both "" and None mean no login.
        assert {name: value or None for name, value in wanted.items()} == {
            name: ours.get(name) or None for name in wanted
        }


def test_a_projects_sentinels_are_read_from_its_broker_list() -> None:
    options = {"master_name": "m", "sentinel_kwargs": {"password": "q"}, "min_other_sentinels": 1}
    app = project("sentinel://a:1;sentinel://b/0", broker_transport_options=options)
    address = app_settings(app).address
    assert address is not None
    assert address.servers == [("a", 1), ("b", 26379)]
    assert address.sentinel_options == {"password": "q"}
    assert address.min_other_sentinels == 1


@pytest.mark.parametrize(
    ("broker", "conf", "why"),
    [
        ("sentinel://a/0", {}, 'set broker_transport_options = {"master_name": NAME}'),
        ("sentinel://:p@a;sentinel://b", {"broker_transport_options": {"master_name": "m"}},
         "the same login before the @"),
        ("sentinel://a/0;sentinel://b/1", {"broker_transport_options": {"master_name": "m"}},
         "the same database at the end"),
        ("redis://h/0", {"broker_use_ssl": {"ssl_cert_reqs": "CERT_NONE"}},
         "broker_use_ssl: ssl_cert_reqs is 'CERT_NONE', which Celery does not know"),
        ("redis://h/0", {"broker_use_ssl": {"keyfile": "/k"}}, "broker_use_ssl has 'keyfile'"),
        ("rediss://h/0", {"broker_use_ssl": True}, "broker_use_ssl is True"),
        ("redis://h/0?foo=bar", {}, "broker_url cannot be read by Celery (its option 'foo'"),
        ("redis://h/x", {}, "its database is 'x'"),
        ("sqs://key:s3cret@", {}, "needs one Redis or Valkey"),
        ("rediscluster://h", {}, "needs one Redis or Valkey"),
        ("redis+cluster://h", {}, "needs one Redis or Valkey"),
        ("filesystem://", {}, "needs one Redis or Valkey"),
    ],
)  # fmt: skip
def test_an_unusable_broker_setting_is_refused_by_its_name(
    broker: str, conf: dict[str, object], why: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(why)) as error:
        app_settings(project(broker, **conf))
    assert "\n" not in str(error.value)
    assert "s3cret" not in str(error.value)
    assert "HERMES_REDIS_URL" not in str(error.value)


def test_a_broker_list_of_one_server_in_two_spellings_is_accepted() -> None:
    app = project("redis://h:6379/0;redis://H")
    assert app_settings(app).redis_url == "redis://h:6379/0"


@pytest.mark.parametrize("given_in_code", [True, False])
def test_a_project_whose_redis_url_differs_from_its_broker_is_refused(
    given_in_code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celery("shop", broker="redis://h/0", set_as_current=False)
    if given_in_code:
        Cron(app, settings=read_settings({"HERMES_REDIS_URL": "redis://h/1"}))
    else:
        monkeypatch.setenv("HERMES_REDIS_URL", "redis://h/1")
        Cron(app)
    with pytest.raises(SettingsError, match="unset HERMES_REDIS_URL to use the broker"):
        app_settings(app)


def test_a_project_with_different_read_and_write_brokers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SettingsError, match=r"broker_url means .* and broker_read_url means"):
        app_settings(project("redis://h/0", broker_read_url="redis://h/1"))
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "redis://h/2")
    with pytest.raises(SettingsError, match="CELERY_BROKER_WRITE_URL means redis://h/2"):
        app_settings(project("redis://h/0"))


@pytest.mark.parametrize(
    "broker",
    ["amqp://guest:guest@localhost//", "", None, "redis://a:1/0;redis://b:1/0",
     ["redis://a:1/0", "redis://b:1/0"]],
)  # fmt: skip
def test_a_project_without_a_single_redis_broker_is_refused(broker: str | list[str] | None) -> None:
    with pytest.raises(SettingsError, match="needs one Redis or Valkey"):
        app_settings(project(broker))
