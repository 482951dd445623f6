"""What librdkafka is told: how it connects, writes and reads. No I/O but the files of TLS."""

from __future__ import annotations

from typing import Any

from seglog.errors import InvalidOption
from seglog.forward.sinks import address

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

_FRAME_BYTES = 4096  # what surrounds one record in its request, and more


def connection(at: address.Address, timeout: float) -> dict[str, Any]:
    """What librdkafka is told for reading and writing alike. Raises InvalidOption."""
    host = f"[{at.host}]" if ":" in at.host else at.host
    brokers = [f"{host}:{at.port}", *filter(None, at.options.get("brokers", "").split(","))]
    tls = at.scheme == "kafka+tls"
    given: dict[str, Any] = {
        "bootstrap.servers": ",".join(brokers),
        "client.id": "seglog",
        "security.protocol": "SSL" if tls else "PLAINTEXT",
        # More than a send waits: a connection that was given up has to be made again to know what became of it.
        "socket.timeout.ms": max(10_000, min(300_000, int(timeout * 2000))),
        "reconnect.backoff.max.ms": 2000,
        "log.connection.close": False,
    }
    if tls:
        at.tls()  # what cannot be used is told now
        names = {"ca": "ssl.ca.location", "cert": "ssl.certificate.location", "key": "ssl.key.location"}
        given |= {names[name]: path for name, path in at.options.items() if name in names}
        if "cert" in at.options:
            given.setdefault("ssl.key.location", at.options["cert"])  # one file may hold both
    mechanism = at.options.get("sasl", MECHANISMS[0])
    if mechanism not in MECHANISMS:
        raise InvalidOption(f"the URL's option sasl is one of {', '.join(MECHANISMS)}, not {mechanism!r}")
    if at.user is None and at.password is None:
        if "sasl" in at.options:
            raise InvalidOption("the URL's option sasl needs a user and a password")
        return given
    if at.user is None or at.password is None:
        raise InvalidOption(f"{at.name}: a user needs a password, and a password a user")
    given["security.protocol"] = "SASL_SSL" if tls else "SASL_PLAINTEXT"
    return {**given, "sasl.mechanism": mechanism, "sasl.username": at.user, "sasl.password": at.password}


def writing(timeout: float, max_bytes: int) -> dict[str, Any]:
    """What a producer is told beside `connection`."""
    return {
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "acks": "all",
        "delivery.report.only.error": True,  # to hear of each record takes time; the others are counted
        "max.in.flight": 1,
        "message.timeout.ms": 0,  # none: the sink asks later what became of it
        "request.timeout.ms": max(1, min(900_000, int(timeout * 1000))),  # what the broker has, for all its replicas
        "linger.ms": 1,  # the first records go while the others are given; then nothing waits
        "message.max.bytes": max(1000, max_bytes + _FRAME_BYTES),
    }


def reading(max_bytes: int) -> dict[str, Any]:
    """What a consumer is told beside `connection`."""
    return {
        "group.id": "seglog",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",  # what was asked for was trimmed meanwhile
        "isolation.level": "read_uncommitted",  # whatever stands there
        "fetch.wait.max.ms": 20,
        "receive.message.max.bytes": max_bytes + (64 << 20),
    }
