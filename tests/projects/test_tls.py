"""Tests projects whose broker uses TLS, with every spelling of the settings that Celery accepts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects.bed import Bed
from tests.redis_servers import Certificates, TlsServer, needs
from tests.support import eventually

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Create certificates for this module."""
    needs("redis-server", "openssl")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def bed(tmp_path: Path, certificates: Certificates) -> Iterator[Bed]:
    """Yield the project on a TLS server that does not ask for client certificates."""
    server = TlsServer(tmp_path / "server", certificates, asks_clients=False)
    with Bed("secure", tmp_path, server=server) as bed:
        yield bed


def worker_with_beat(bed: Bed, case: str, broker: str, use_ssl: object) -> subprocess.Popen[bytes]:
    """Start a worker with an embedded beat."""
    return bed.worker(
        "-B", "--scheduler", "hermes_celery.beat:CronScheduler", "-c", "1", "-n", f"{case}@%h",
        BROKER=broker, CASE=case, USE_SSL=json.dumps(use_ssl),
    )  # fmt: skip


def test_every_spelling_of_tls_settings_that_celery_accepts_works(
    bed: Bed, certificates: Certificates
) -> None:
    at, ca = f"localhost:{bed.server.port}", str(certificates.authority)
    cases = {
        "flag-in-url": (f"rediss://{at}/0?ssl_cert_reqs=CERT_NONE", None),
        "setting-none": (f"rediss://{at}/1", {"ssl_cert_reqs": "CERT_NONE"}),
        "setting-ca": (
            f"rediss://{at}/2", {"ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": ca},
        ),
        "plain-scheme": (f"redis://{at}/3", {"ssl_cert_reqs": "CERT_NONE"}),
        "none-in-url": (f"rediss://{at}/4?ssl_cert_reqs=none", None),
        "ca-in-url": (f"rediss://{at}/5?ssl_cert_reqs=required&ssl_ca_certs={ca}", None),
        "flag-and-ca": (f"rediss://{at}/6?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}", None),
    }  # fmt: skip
    running = {case: worker_with_beat(bed, case, *given) for case, given in cases.items()}

    def missing() -> set[str]:
        return set(cases) - {words[1] for words in bed.notes("tick")}

    try:
        eventually(lambda: not missing(), seconds=90, what="a run in each case")
    except AssertionError:
        raise AssertionError({case: bed.log(running[case]) for case in missing()}) from None


def test_a_server_that_asks_for_a_client_certificate_gets_it(
    tmp_path: Path, certificates: Certificates
) -> None:
    server = TlsServer(tmp_path / "server", certificates, asks_clients=True)
    certificate, key = map(str, certificates.client)
    trust = {"ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": str(certificates.authority)}
    with Bed("secure", tmp_path, server=server) as bed:
        broker = f"rediss://localhost:{server.port}/0"
        with_it = {**trust, "ssl_certfile": certificate, "ssl_keyfile": key}
        worker_with_beat(bed, "client", broker, with_it)
        bed.await_notes("tick")
        without = worker_with_beat(bed, "without", broker, trust)
        said = refusal(bed, without)
    assert "broker_use_ssl" in said
    assert "certificate" in said.lower()


def test_wrong_certificates_end_the_start_and_the_error_names_the_setting(
    bed: Bed, certificates: Certificates
) -> None:
    broker = f"rediss://localhost:{bed.server.port}/0"
    started = {
        "another authority": worker_with_beat(
            bed, "stranger", broker,
            {"ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": str(certificates.stranger)},
        ),
        "no such file": worker_with_beat(
            bed, "absent", broker, {"ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": "/no.pem"}
        ),
        "another name": worker_with_beat(
            bed, "name", broker.replace("localhost", "127.0.0.1"),
            {"ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": str(certificates.authority)},
        ),
        "no dict": worker_with_beat(bed, "true", broker, True),
        "another broker's": worker_with_beat(bed, "other", broker, {"cert_reqs": "CERT_NONE"}),
    }  # fmt: skip
    for case, process in started.items():
        said = refusal(bed, process)
        assert "broker_use_ssl" in said, case
        assert "HERMES_REDIS_URL" not in said, case
    assert bed.notes() == []


def test_a_certificate_for_another_name_is_accepted_if_the_project_disables_the_check(
    bed: Bed, certificates: Certificates
) -> None:
    unchecked = {
        "ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": str(certificates.authority),
        "ssl_check_hostname": False,
    }  # fmt: skip
    worker_with_beat(bed, "name", f"rediss://127.0.0.1:{bed.server.port}/0", unchecked)
    bed.await_notes("tick")


def refusal(bed: Bed, process: subprocess.Popen[bytes]) -> str:
    """Return the single error line with which a process exited."""
    assert process.wait(40) == 1, bed.log(process)
    said = bed.log(process)
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    return sentence
