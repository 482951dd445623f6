"""Routes from TOML: values, defaults, what cannot be meant, and what makes a route another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seglog.errors import InvalidOption
from seglog.forward import routes
from seglog.forward.routes import Route, load


def written(folder: Path, text: str) -> Path:
    (folder / "spool.toml").write_text(text, "utf-8")
    return folder / "spool.toml"


def one(folder: Path, *lines: str) -> Route:
    text = "\n".join(["[[route]]", 'directory = "spool"', *lines])
    (route,) = load(written(folder, text if "to = " in text else f'{text}\nto = "stdout:"'))
    return route


def test_what_is_not_said_is_as_on_the_command_line(tmp_path: Path) -> None:
    assert one(tmp_path) == Route("spool", Path("spool"), "stdout:", files=(None,) * 7)


def test_every_key_has_its_value(tmp_path: Path) -> None:
    pytest.importorskip("urllib3")
    text = """
        [defaults]
        batch_records = 7
        max_refused = 0
        headers = { A = "default" }
        [[route]]
        name = "orders"
        directory = "/srv/orders"
        to = "https://127.0.0.1/x"
        consumer = "up"
        patience = "2m"
        batch_records = 8
        batch_bytes = "64KiB"
        linger = "250ms"
        timeout = 1.5
        format = "envelope"
        headers = { B = "own" }
        content_encoding = "gzip"
    """
    assert load(written(tmp_path, text)) == [
        Route(
            name="orders",
            directory=Path("/srv/orders"),
            to="https://127.0.0.1/x",
            consumer="up",
            batch_records=8,
            batch_bytes=65536,
            linger=0.25,
            max_refused=0,
            patience=120.0,
            timeout=1.5,
            format="envelope",
            headers={"B": "own"},
            content_encoding="gzip",
            files=(None,) * 7,
        )
    ]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("0", 0.0), ("1.5", 1.5), ('"0.2"', 0.2), ('"200ms"', 0.2), ('"30 s"', 30.0), ('"2m"', 120.0), ('"1h"', 3600.0)],
)
def test_durations(tmp_path: Path, written: str, seconds: float) -> None:
    assert one(tmp_path, f"linger = {written}").linger == pytest.approx(seconds)


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "true", '"1 day"', '""', '"-1s"', "[1]"])
def test_what_is_no_duration(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InvalidOption, match=r"spool\.toml: route 1 \(spool\): linger"):
        one(tmp_path, f"linger = {wrong}")


def table(directory: str, to: str, *more: str) -> str:
    return "\n".join(["[[route]]", f'directory = "{directory}"', f'to = "{to}"', *more, ""])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[route]", "Expected ']]'"),
        ("", "there is no [[route]]"),
        ("[route]\nx = 1", "expected one table [defaults] and tables [[route]]"),
        ("[[routes]]", "unknown key 'routes'; there are defaults, route"),
        ('[[route]]\nto = "stdout:"', "route 1: directory is missing"),
        ('[[route]]\ndirectory = "a"', "route 1 (a): to is missing"),
        (table("a\\u0000b", "stdout:"), "directory: expected text without control characters"),
        (table("a", "stdout:", 'name = "a\\nb"'), "name: expected text without control characters"),
        (table("a", "stdout:", "batchrecords = 1"), "route 1 (a): unknown key 'batchrecords'; there are name, "),
        (
            table("a", "stdout:", 'batch_records = "1"'),
            "route 1 (a): batch_records: expected a whole number, not text",
        ),
        (table("a", "stdout:", "batch_records = 0"), "route 1 (a): batch_records=0: expected a whole number from 1"),
        (table("a", "stdout:", 'batch_bytes = "1Q"'), "route 1 (a): batch_bytes: '1Q' is no size"),
        (table("a", "stdout:", "max_refused = true"), "route 1 (a): max_refused: expected a whole number, not true"),
        (table("a", "stdout:", 'patience = "soon"'), "route 1 (a): patience: 'soon' is no duration"),
        (table("a", "stdout:", "timeout = -1"), "route 1 (a): timeout: duration=-1: expected seconds"),
        (table("a", "stdout:", 'consumer = "../x"'), "route 1 (a): consumer: consumer name '../x'"),
        (table("a", "stdout:", 'format = "xml"'), "route 1 (a): to: format='xml': expected one of"),
        (table("a", "stdout:", "headers = { a = 1 }"), "route 1 (a): headers: expected a table of texts"),
        (table("a", "gopher://me:SECRET@x/y"), "route 1 (a): to: no sink for 'gopher:…'"),
        (table("a", "stdout:") + '[defaults]\nname = "x"', "[defaults]: unknown key 'name'"),
        (table("a", "stdout:") + "[defaults]\nlinger = []", "[defaults]: linger: expected a duration in seconds, not"),
        (
            table("a", "stdout:") + table("b", "stdout:") + table("./b/", "stdout:"),
            "route 3 (./b/): directory, consumer: route 'b' has the same log and consumer 'forward'",
        ),
        (
            table("a", "stdout:", 'name = "x"') + table("b", "stdout:", 'name = "x"'),
            "route 2 (x): name: another route is called 'x'",
        ),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidOption) as raised:
        load(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: ")
    assert complaint in said
    assert "SECRET" not in said


@pytest.mark.parametrize("text", [None, b"\xff\xfe", b"a = " + b"[" * 100_000])
def test_a_file_that_cannot_be_read(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "spool.toml").write_bytes(text)
    with pytest.raises(InvalidOption, match=r"spool\.toml: (No such file|.*utf-8|.*recursion)"):
        load(tmp_path / "spool.toml")


@pytest.mark.parametrize(
    ("to", "shown"),
    [
        ("stdout:", "stdout:"),
        ("file:/var/events.ndjson?rotate=1GiB", "file:/var/events.ndjson"),
        ("exec:curl -H 'token: SECRET'", "exec:…"),
        ("https://127.0.0.1:8443/a/b?token=SECRET", "https://127.0.0.1:8443/a/b"),
        ("nats://me:SECRET@localhost/orders", "nats://localhost/orders"),
        ("kafka://SECRET@[::1]:9092/t", "kafka://[::1]:9092/t"),
        ("other://[SECRET", "other:…"),
    ],
)
def test_the_name_of_a_sink_has_no_secret(to: str, shown: str) -> None:
    route = Route("r", Path("spool"), to)
    assert route.sink == shown
    assert "SECRET" not in repr(route) + route.summary()


def test_new_credentials_make_it_another_route(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    secret = tmp_path / "secret"
    secret.write_text("one\n")
    lines = ('to = "redis://localhost/stream"', f'password_file = "{secret}"')
    before = one(tmp_path, *lines)
    assert one(tmp_path, *lines) == before
    (tmp_path / "new").write_text("two\n")
    os.replace(tmp_path / "new", secret)
    assert one(tmp_path, *lines) != before
    by_url = f'to = "redis://localhost/stream?password_file={secret}"'
    before = one(tmp_path, by_url)
    secret.write_text("three\n")
    assert one(tmp_path, by_url) != before


def test_a_password_file_is_read_by_the_sink(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    secret = tmp_path / "a & b"
    with pytest.raises(InvalidOption, match=r"route 1 \(spool\): to: the password file .*/a & b cannot be read"):
        one(tmp_path, 'to = "redis://localhost/s?db=1"', f'password_file = "{secret}"')
    secret.write_text("SECRET\n")
    sink = one(tmp_path, 'to = "redis://localhost/s?db=1"', f'password_file = "{secret}"').open_sink()
    assert vars(sink)["_at"].password == "SECRET"
    assert vars(sink)["_at"].options["db"] == "1"


@pytest.mark.parametrize("to", ["http://127.0.0.1/x", "stdout:", "exec:cat"])
def test_where_there_is_no_password_none_is_taken(tmp_path: Path, to: str) -> None:
    with pytest.raises(InvalidOption, match="takes no password_file"):
        one(tmp_path, f'to = "{to}"', 'password_file = "x"')


def test_the_same_log_spelled_differently_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "link").symlink_to("spool")
    keys = {Route("r", tmp_path / name, "stdout:").key for name in ("spool", "link", "x/../spool", "spool/")}
    assert len(keys) == 1


def test_every_key_is_a_field_and_the_other_way_round() -> None:
    assert set(routes.KEYS) == set(Route.__dataclass_fields__) - {"files"}
