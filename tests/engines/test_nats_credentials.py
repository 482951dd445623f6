"""Who we are, by files: with a real server that knows nobody by name."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.errors import InvalidOption
from seglog.forward import SinkError, Verdict, open_sink
from tests.engines.test_sinks import forward
from tools.engines.nats import Nats
from tools.engines.server import running

nkeys = pytest.importorskip("nkeys")
UNLIMITED = dict.fromkeys(
    ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams"), -1
)


class Key:
    """A pair of keys, and what it signs."""

    def __init__(self, kind: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), kind)
        self._pair = nkeys.from_seed(self.seed)
        self.public: str = self._pair.public_key.decode()

    def signs(self, subject: str, kind: str, **claims: Any) -> str:
        """A token about somebody, as `nsc` makes them."""
        about = {"iat": 1_700_000_000, "iss": self.public, "sub": subject, "name": kind}
        about["nats"] = {"type": kind, "version": 2, **claims}
        about["jti"] = base64.b32encode(hashlib.sha256(json.dumps(about).encode()).digest()).decode().rstrip("=")
        signed = f"{encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{encoded(about)}"
        return f"{signed}.{plain(self._pair.sign(signed.encode()))}"


def encoded(value: dict[str, Any]) -> str:
    return plain(json.dumps(value).encode())


def plain(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Keyed(Nats):
    """It knows one user by its key, or whomever its operator's accounts vouch for."""

    def __init__(self, folder: Path, *, operator: bool) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.user_key = Key(nkeys.PREFIX_BYTE_USER)
        self.file = folder / ("user.creds" if operator else "user.nk")
        self.option = f"{'creds' if operator else 'nkey'}={self.file}"
        self.client = {"user_credentials" if operator else "nkeys_seed": str(self.file)}
        self._more: dict[str, Any] = self._vouched() if operator else self._listed()

    def _listed(self) -> dict[str, Any]:
        self.file.write_bytes(self.user_key.seed + b"\n")
        return {"authorization": {"users": [{"nkey": self.user_key.public}]}}

    def _vouched(self) -> dict[str, Any]:
        operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
        account, system = Key(nkeys.PREFIX_BYTE_ACCOUNT), Key(nkeys.PREFIX_BYTE_ACCOUNT)
        user = account.signs(self.user_key.public, "user", subs=-1, data=-1, payload=-1)
        self.file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{user}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.user_key.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        limits = {**UNLIMITED, "consumer": -1, "wildcards": True}
        return {
            "operator": operator.signs(operator.public, "operator"),
            "system_account": system.public,
            "resolver": "MEMORY",
            "resolver_preload": {
                account.public: operator.signs(account.public, "account", limits=limits),
                system.public: operator.signs(system.public, "account"),
            },
        }

    def command(self) -> list[str]:
        command = super().command()
        path = Path(command[-1])
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **self._more}), "utf-8")
        return command

    def connecting(self) -> dict[str, Any]:
        return {**super().connecting(), **self.client}


@pytest.fixture(params=["creds", "nkey"])
def keyed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keyed]:
    if lacks := Keyed.without():
        pytest.skip(lacks)
    server = Keyed(tmp_path / "server", operator=request.param == "creds")
    with running(server):
        server.prepare("s")
        yield server


def test_a_file_says_who_we_are(keyed: Keyed) -> None:
    with seglog.open(":memory:") as log:
        log.append(b"hello")
        forward(log, f"{keyed.url('s')}?{keyed.option}", patience=10)
        assert [one.payload for one in keyed.arrived("s")] == [b"hello"]


def test_who_is_somebody_else_is_told_that_it_is_the_configuration(keyed: Keyed) -> None:
    stranger = Key(nkeys.PREFIX_BYTE_USER)
    keyed.file.write_text(keyed.file.read_text().replace(keyed.user_key.seed.decode(), stranger.seed.decode()))
    for url in (keyed.url("s"), f"{keyed.url('s')}?{keyed.option}"):
        sink: Any = open_sink(url, timeout=5)
        with pytest.raises(SinkError, match="Authorization") as caught:
            sink.resume_point()
        sink.close()
        assert caught.value.verdict is Verdict.CONFIGURATION
        assert stranger.seed.decode() not in str(caught.value)


@pytest.mark.parametrize("option", ["creds", "nkey"])
def test_a_file_that_cannot_be_meant_is_told_at_once(tmp_path: Path, option: str) -> None:
    path = tmp_path / "file"
    url = f"nats://127.0.0.1/s?{option}={path}"
    with pytest.raises(InvalidOption, match=f"option {option}: .* cannot be read: No such file"):
        open_sink(url)
    path.write_text("hunter2")
    with pytest.raises(InvalidOption, match=f"option {option}: .* holds no (credentials|seed)") as caught:
        open_sink(url)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidOption, match="one of them"):
        open_sink(url.replace("://", "://me:sesame@"))
