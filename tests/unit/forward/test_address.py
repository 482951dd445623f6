"""What the URL of an engine says, and what it cannot mean. No message holds a secret."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from seglog.errors import InvalidOption
from seglog.forward.sinks import address

TLS = ("rediss", "nats+tls", "kafka+tls", "amqp-stream+tls", "otlp+https")
PLAIN = ("redis", "nats", "kafka", "amqp-stream", "otlp+http")


def parsed(url: str) -> address.Address:
    return address.parse(url, port=1234, target="a stream")


def refused(url: str) -> str:
    with pytest.raises(InvalidOption) as caught:
        parsed(url)
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate, its key, both in one, the key under a passphrase, another key, and no PEM."""
    place = tmp_path_factory.mktemp("pem")
    files = {name: place / f"{name}.pem" for name in ("cert", "key", "both", "encrypted", "other", "text")}
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {cert}"
    hidden = "openssl pkey -in {key} -aes256 -passout pass:hunter2 -out {encrypted}"
    for command in (made, hidden, "openssl genrsa -out {other} 2048"):
        subprocess.run(command.format_map(files).split(), check=True, capture_output=True)
    files["both"].write_text(files["cert"].read_text() + files["key"].read_text())
    files["text"].write_text("no PEM")
    return files


def test_all_parts_of_a_url() -> None:
    at = parsed("RediSS://al%40ice:open%2Fsesame@[::1]:7/a%40b/c?ca=/x%20y")
    assert (at.scheme, at.host, at.port, at.target) == ("rediss", "::1", 7, "a@b/c")
    assert (at.user, at.password, at.options) == ("al@ice", "open/sesame", {"ca": "/x y"})
    assert at.name == "rediss://[::1]:7/a@b/c"


@pytest.mark.parametrize(
    "url", ["redis://user:12/hunter2@h/x", "redis://user:/hunter2@h/x", "redis://user/hunter2@h", "redis://h/a@hunter2"]
)
def test_a_slash_in_a_password_does_not_make_it_a_target(url: str) -> None:
    assert "a / in a password is written %2F" in refused(url)


@pytest.mark.parametrize("target", ["a%0aERROR", "a%00", "%1b[2J", "a%7f", "a%C2%85", "a%E2%80%A8b"])
def test_a_target_with_control_characters_is_refused(target: str) -> None:
    assert "control characters" in refused(f"redis://user:hunter2@h/{target}")


@pytest.mark.parametrize(
    "url",
    [
        *("redis://h/%ff", "redis://u:hunter2%ff@h/x", "redis://u%ff:hunter2@h/x"),
        *("redis://h/\udcff", "redis://u:hunter2\udcff@h/x"),
    ],
)
def test_what_is_no_utf_8_is_refused(url: str) -> None:
    assert "UTF-8" in refused(url)


@pytest.mark.parametrize("name", ["USER", "PASSWORD"])
def test_a_name_or_password_of_the_environment_that_is_no_utf_8_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"SEGLOG_SINK_{name}", "hunter2\udcff")
    assert f"SEGLOG_SINK_{name}" in refused("redis://h/x")
    assert parsed("redis://u:sesame@h/x").password == "sesame"


@pytest.mark.parametrize("option", ["ca", "cert", "key", "cert=b&key"])
@pytest.mark.parametrize("scheme", PLAIN)
def test_tls_options_without_tls_are_refused(scheme: str, option: str) -> None:
    assert f"{scheme}:// is without TLS" in refused(f"{scheme}://user:hunter2@h/x?{option}=/nowhere")


@pytest.mark.parametrize("scheme", TLS)
def test_a_key_without_a_certificate_is_refused(scheme: str) -> None:
    assert "option key needs cert" in refused(f"{scheme}://user:hunter2@h/x?key=/nowhere")
    parsed(f"{scheme}://h/x?key=/nowhere&cert=/nowhere&ca=/nowhere")


@pytest.mark.parametrize("option", ["ca=", "cert=", "cert=/nowhere&key="])
def test_a_tls_option_without_a_file_is_refused(option: str) -> None:
    assert "names no file" in refused(f"rediss://user:hunter2@h/x?{option}")


def test_tls_by_the_files_that_the_url_names(pem: dict[str, Path]) -> None:
    context = parsed("rediss://h/x?ca={cert}&cert={cert}&key={key}".format_map(pem)).tls()
    assert len(context.get_ca_certs()) == 1
    parsed("rediss://h/x?cert={both}".format_map(pem)).tls()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("ca=/does/not/exist", "option ca: /does/not/exist cannot be used: No such file or directory"),
        ("cert=/does/not/exist", "option cert: /does/not/exist cannot be used: No such file or directory"),
        ("cert={cert}&key=/does/not/exist", "option key: /does/not/exist cannot be used: No such file or directory"),
        ("ca=a%00b", "option ca: "),
        ("cert=a%00b", "option cert: "),
        ("cert={cert}&key=a%00b", "option key: "),
        ("ca={text}", "option ca: {text} cannot be used: "),
        ("cert={text}&key={key}", "option cert: {text} cannot be used: "),
        ("cert={cert}&key={text}", "option key: {text} cannot be used: "),
        ("cert={cert}&key={other}", "option key: {other} cannot be used: "),
        ("cert={cert}", "option cert: {cert} cannot be used: "),
        ("cert={cert}&key={encrypted}", "the key {encrypted} is encrypted; give one that is not"),
    ],
)
def test_a_tls_file_that_cannot_be_used_is_named(pem: dict[str, Path], options: str, why: str) -> None:
    at = parsed(f"rediss://user:hunter2@h/x?{options.format_map(pem)}")
    with pytest.raises(InvalidOption) as caught:
        at.tls()
    assert why.format_map(pem) in str(caught.value)
    assert "hunter2" not in str(caught.value)
