"""Redis servers on loopback ports, with TLS if a test needs it.

They are Debian's, since the wheel's Valkey has no TLS. `needs` skips a test on machines without
these programs.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.conftest import await_server


def needs(*programs: str) -> None:
    """Skip the test where one of these programs is missing."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} is missing here (Debian: redis-server, openssl)")


class Certificates:
    """A certificate authority with the certificates of a localhost server and of a client."""

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._place = place
        self.authority, key = self._authority("ca")
        self.server = self._signed("server", key, "subjectAltName=DNS:localhost")
        self.client = self._signed("client", key, "extendedKeyUsage=clientAuth")
        #: An authority that has signed nothing.
        self.stranger, _ = self._authority("stranger")

    def _authority(self, name: str) -> tuple[Path, Path]:
        certificate, key = self._place / f"{name}.pem", self._place / f"{name}.key"
        self._openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key

    def _signed(self, name: str, authority_key: Path, extension: str) -> tuple[Path, Path]:
        certificate, key = self._place / f"{name}.pem", self._place / f"{name}.key"
        request, extensions = self._place / f"{name}.csr", self._place / f"{name}.ext"
        extensions.write_text(extension + "\n", encoding="utf-8")
        self._openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-days", "2", "-in", str(request), "-out", str(certificate),
            "-CA", str(self.authority), "-CAkey", str(authority_key), "-CAcreateserial",
            "-extfile", str(extensions),
        )  # fmt: skip
        return certificate, key

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self._place)


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A server on its own loopback port: Debian's redis-server unless a subclass names another."""

    binary = "redis-server"

    def __init__(self, place: Path, *options: str, port: int = 0) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(place),
            "--save", "", "--appendonly", "yes", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, also again after `end`, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await_server(self.url)

    def signal(self, number: signal.Signals) -> None:
        """Send the server process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill the server process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class TlsServer(RedisServer):
    """A server that accepts TLS connections only; `asks_clients` requires a client certificate."""

    def __init__(self, place: Path, certificates: Certificates, *, asks_clients: bool) -> None:
        certificate, key = certificates.server
        super().__init__(
            place, "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
            "--tls-ca-cert-file", str(certificates.authority),
            "--tls-auth-clients", "yes" if asks_clients else "no",
        )  # fmt: skip
        self._command[self._command.index("--port")] = "--tls-port"
        self._command += ["--port", "0"]
        own_certificate, own_key = certificates.client
        options = {"ssl_ca_certs": certificates.authority}
        if asks_clients:
            options |= {"ssl_certfile": own_certificate, "ssl_keyfile": own_key}
        self.url = f"rediss://localhost:{self.port}/0?{urlencode(options)}"
