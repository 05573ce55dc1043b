"""Certificates as an operator makes them: by the openssl command, with an authority of their own."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HAS_OPENSSL = shutil.which("openssl") is not None
WITHOUT_OPENSSL = "needs the openssl command: apt-get install openssl"

P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its key, PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates, which it leaves in `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _make(self._own, "/CN=authority", "-nodes", "-addext", "keyUsage=critical,keyCertSign")

    @property
    def cert(self) -> Path:
        return self._own.cert

    @property
    def _own(self) -> Pair:
        return _pair(self.folder, "authority")

    def issue(
        self, file: str, *, subject: str = "/", names: str = "", passphrase: str = "", key: tuple[str, ...] = P256
    ) -> Pair:
        """`names` are subject alternative names, such as DNS:localhost,URI:spiffe://fleet/search."""
        pair = _pair(self.folder, file)
        signed = ("-CA", str(self._own.cert), "-CAkey", str(self._own.key))
        extensions = ("-addext", f"subjectAltName={names}") if names else ()
        secrecy = ("-passout", f"pass:{passphrase}") if passphrase else ("-nodes",)
        _make(pair, subject, *signed, *secrecy, "-addext", "basicConstraints=critical,CA:FALSE", *extensions, key=key)
        return pair

    def issue_expired(self, file: str, *, names: str) -> Pair:
        """One that was valid until yesterday."""
        pair, request = _pair(self.folder, file), self.folder / f"{file}.csr"
        extensions = ("-addext", f"subjectAltName={names}")
        _run("req", "-new", "-newkey", *P256, "-nodes", "-subj", "/", *extensions, "-out", request, "-keyout", pair.key)
        signed = ("-CA", self._own.cert, "-CAkey", self._own.key, "-CAcreateserial", "-copy_extensions", "copy")
        _run("x509", "-req", "-in", request, "-days", "-1", *signed, "-out", pair.cert)
        return pair


def _pair(folder: Path, file: str) -> Pair:
    return Pair(cert=folder / f"{file}.pem", key=folder / f"{file}.key")


def _make(pair: Pair, subject: str, *flags: str, key: tuple[str, ...] = P256) -> None:
    new = ("req", "-x509", "-newkey", *key, "-days", "2", "-subj", subject)
    _run(*new, *flags, "-out", pair.cert, "-keyout", pair.key)


def _run(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
