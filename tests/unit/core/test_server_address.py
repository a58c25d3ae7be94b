"""A server's URL is parsed into its address, login, TLS options and Sentinels."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import redis
from redis.sentinel import SentinelConnectionPool

from hermes_celery.core.server_address import ServerAddress, parse_address
from hermes_celery.errors import SettingsError, StoreUnsuitable
from hermes_celery.settings import read_settings
from hermes_celery.store import connect
from hermes_celery.store.connecting import MasterTlsConnection


def options_of(where: str | ServerAddress) -> dict[str, Any]:
    """Return the options that redis-py gets for a connection."""
    with connect(where) as client:
        options: dict[str, Any] = client.connection_pool.connection_kwargs
        return options


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ("", ssl.CERT_REQUIRED),
        ("?ssl_cert_reqs=none", ssl.CERT_NONE),
        ("?ssl_cert_reqs=CERT_NONE", ssl.CERT_NONE),
        ("?ssl_cert_reqs=CERT_OPTIONAL", ssl.CERT_OPTIONAL),
        ("?ssl_cert_reqs=optional", ssl.CERT_OPTIONAL),
        ("?ssl_cert_reqs=CERT_REQUIRED", ssl.CERT_REQUIRED),
    ],
)
def test_both_spellings_of_ssl_cert_reqs_are_accepted(
    text: str, requirement: ssl.VerifyMode
) -> None:
    assert options_of(f"rediss://h/0{text}")["ssl_cert_reqs"] is requirement


def test_url_options_are_passed_on_and_default_timeouts_apply() -> None:
    options = options_of("redis://bob:s@h:7/3?socket_timeout=9.5&client_name=me")
    assert (options["host"], options["port"], options["db"]) == ("h", 7, 3)
    assert (options["username"], options["password"]) == ("bob", "s")
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (9.5, 5)
    assert options["client_name"] == "me"


def test_all_tls_options_are_read_from_the_url() -> None:
    address = parse_address(
        "rediss://h/0?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=false"
        "&ssl_min_version=TLSv1.2"
    )
    assert address.tls == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca", "ssl_certfile": "/c",
        "ssl_keyfile": "/k", "ssl_check_hostname": False,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://:p@a:1,b/2?master_name=m",
        "sentinel://:p@a:1;sentinel://:p@b:26379/2?master_name=m",
    ],
)
def test_sentinels_are_listed_in_one_url_or_in_several(url: str) -> None:
    address = parse_address(url)
    assert address.servers == [("a", 1), ("b", 26379)]
    assert (address.master_name, address.database, address.password) == ("m", 2, "p")
    assert address.shown.startswith("sentinel://:***@a:1,b")
    with connect(url) as client:
        pool = client.connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        assert pool.service_name == "m"
        assert pool.connection_kwargs["password"] == "p"
        assert [one.connection_pool.connection_kwargs["host"]
                for one in pool.sentinel_manager.sentinels] == ["a", "b"]  # fmt: skip
        assert "password" not in pool.sentinel_manager.sentinels[0].connection_pool.__dict__


def test_sentinels_have_their_own_login_and_tls_options() -> None:
    url = (
        "sentinel://a/0?master_name=m&sentinel_username=s&sentinel_password=q&sentinel_ssl=true"
        "&ssl=true&ssl_cert_reqs=none"
    )
    with connect(url) as client:
        pool = client.connection_pool
        assert pool.connection_class is MasterTlsConnection
        (one,) = pool.sentinel_manager.sentinels
        known = one.connection_pool.connection_kwargs
        assert (known["username"], known["password"]) == ("s", "q")
        assert one.connection_pool.connection_class is redis.SSLConnection
        assert known["ssl_cert_reqs"] is ssl.CERT_NONE
        assert pool.connection_kwargs.get("password") is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://h/0?foo=bar", "'foo' is unknown"),
        ("redis://h/x", "'x' is not a database number"),
        ("redis://h/0?ssl_ca_certs=/a", "needs TLS; use rediss://"),
        ("rediss://h/0?ssl_cert_reqs=perhaps", "use required, optional or none"),
        ("redis://h/0?socket_timeout=long", "socket_timeout is wrong"),
        ("redis://a,b/0", "names several servers"),
        ("redis://a/0;redis://b/0", "names several servers"),
        ("sentinel://a/0", "add \\?master_name=NAME"),
        ("sentinel://:p@a;sentinel://b/0?master_name=m", "different logins"),
        ("sentinel://a;redis://b/0?master_name=m", "name Sentinels"),
    ],
)
def test_an_invalid_url_is_refused_in_one_sentence(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"HERMES_REDIS_URL: .*{why}") as error:
        read_settings({"HERMES_REDIS_URL": url})
    assert "\n" not in str(error.value)
    with pytest.raises(StoreUnsuitable, match=why):
        connect(url)


def test_no_password_of_a_sentinel_url_is_shown() -> None:
    url = "sentinel://u:s3cret@a;sentinel://u:s3cret@b/0?master_name=m&sentinel_password=s3cret&x=1"
    with pytest.raises(SettingsError) as error:
        read_settings({"HERMES_REDIS_URL": url})
    assert "s3cret" not in str(error.value)
    address = parse_address(url.removesuffix("&x=1"))
    assert "s3cret" not in f"{address.shown}{address!r}"


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("redis://h/0", "redis://H:6379", True),
        ("redis://h/0", "redis://h/1", False),
        ("redis://u@h/0", "redis://h/0", False),
        ("redis://default@h/0", "redis://h/0", True),
        ("redis://localhost/0", "redis://127.0.0.1/0", False),
        ("unix:///run/x", "unix:///run/./x?db=0", True),
        ("sentinel://a,b/0?master_name=m", "sentinel://b,c/0?master_name=m", True),
        ("sentinel://a,b/0?master_name=m", "sentinel://a/0?master_name=other", False),
        ("sentinel://a/0?master_name=m", "sentinel://b/0?master_name=m", False),
        ("sentinel://a:6379/0?master_name=m", "redis://a:6379/0", False),
    ],
)
def test_two_urls_of_one_server_are_recognised_as_the_same(
    one: str, other: str, is_same: bool
) -> None:
    assert parse_address(one).is_same_as(parse_address(other)) is is_same
