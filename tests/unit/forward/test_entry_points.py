"""Sinks of other packages: found by their scheme, through the metadata of what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

import seglog
from seglog.errors import InvalidOption
from seglog.forward import Forwarder, open_sink
from seglog.forward.sinks import ENTRY_POINTS

ROOT = Path(__file__).resolve().parents[3]
MODULE = """
class ParrotSink:
    heard = []

    def __init__(self, url):
        if "nowhere" in url:
            raise OSError("unable to open the cage")
        self.url = url

    def send(self, batch):
        self.heard.extend(message.payload for message in batch)
"""


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As pip leaves it."""
    site = tmp_path / "site-packages"
    metadata = site / "parrot_sink-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-sink\nVersion: 1.0\n")
    lines = ["parrot = parrot_sink:ParrotSink", "gone = parrot_gone:Sink", "typo = parrot_sink:ParotSink"]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINTS}]", *lines, ""]))
    (site / "parrot_sink.py").write_text(MODULE)
    monkeypatch.syspath_prepend(site)
    return site


def test_a_scheme_of_another_package_is_a_sink(distribution: Path) -> None:
    with seglog.open(":memory:") as log, log.consumer("forward") as consumer:
        log.append_many([b"hello", b"world"])
        sink = open_sink("Parrot://cage?colour=grey")
        Forwarder(consumer, sink).run(once=True)
        assert len(consumer) == 0
    assert vars(sink) == {"url": "Parrot://cage?colour=grey"}
    assert type(sink).heard == [b"hello", b"world"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("scheme", "named"), [("gone", "parrot_gone:Sink"), ("typo", "parrot_sink:ParotSink")])
def test_one_that_cannot_be_imported_is_named(distribution: Path, scheme: str, named: str) -> None:
    with pytest.raises(InvalidOption, match=f"the sink for {scheme}: of '{named}' cannot be imported"):
        open_sink(f"{scheme}://s3cret@host")


def test_one_that_cannot_be_made_is_named(distribution: Path) -> None:
    with pytest.raises(InvalidOption, match=r"the sink for parrot: cannot be made: OSError: unable to open the cage"):
        open_sink("parrot:nowhere")


def test_a_wrong_scheme_comes_before_what_it_would_take(distribution: Path) -> None:
    with pytest.raises(InvalidOption, match="no sink for 'htp:…'"):
        open_sink("htp://x", headers={"A": "b"})


def test_a_scheme_that_nobody_has_says_which_there_are(distribution: Path) -> None:
    with pytest.raises(
        InvalidOption, match=r"no sink for 'raven:…': there are .*exec:, file:, .*other packages"
    ) as caught:
        open_sink("raven://user:s3cret@host")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("option", [{"format": "lines"}, {"headers": {"A": "b"}}])
def test_it_takes_the_url_and_nothing_else(distribution: Path, option: dict[str, object]) -> None:
    with pytest.raises(InvalidOption, match="parrot: takes no"):
        open_sink("parrot:", **option)  # type: ignore[arg-type]


def test_the_readme_names_the_group() -> None:
    assert f'[project.entry-points."{ENTRY_POINTS}"]' in (ROOT / "README.md").read_text("utf-8")
