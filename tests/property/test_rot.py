"""Damage by the thousand: bits, cuts, blocks and files of whole logs, each case judged by itself (P6, P7, P8).

`tools/crashtest/run rot` goes on with every bit of 64 KiB of logs; here are shares that differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from seglog import segment_reader
from seglog.format import footer, salvage, segment_header, slots
from tools.crashtest import fuzz
from tools.crashtest.campaign import Terms, run
from tools.crashtest.rot import LAYER, corpus, specimen


def shares(pattern: str) -> list[str]:
    return [share for share in LAYER.shares(0) if re.fullmatch(pattern, share)]


def cases_in(pattern: str) -> int:
    """How many cases the shares have whose names match; all must be fine."""
    done = 0
    for share in shares(pattern):
        tally = LAYER.work(share)
        assert tally.findings == []
        done += tally.counts["cases"]
    return done


# The files around the batches are the same in all subjects: one of them is swept whole, the others in their batches.
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("where", "least"),
    [
        ("compressed/segments/.*/8192-8448", 2000),
        ("extras/segments/.*/8192-8448", 2000),
        ("segments/(cursors|meta|lock)/.*", 3500),
        ("orphaned/segments/.*4-.*/8448-8704", 1500),
        ("dead_letters/dead/cursors/.*/0-256", 500),
    ],
)
def test_p6_f21_every_flipped_bit_costs_at_most_one_record_and_is_named(where: str, least: int) -> None:
    assert cases_in("bits/" + where) >= least


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_p7_f23_a_flipped_bit_in_a_batch_that_nothing_proves_is_suspect_and_never_torn() -> None:
    assert cases_in("bits/unproven_batch/segments/.*/8192-8448") > 1500


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["batched", "segments"])
def test_p6_f29_every_cut_of_every_file_is_reported_with_the_offsets_it_costs(name: str) -> None:
    assert cases_in(f"cuts/{name}/(cursors|meta|lock|segments)/?.*") > 900


@pytest.mark.parametrize("name", ["batched", "reclaimed"])
def test_p6_f35_a_zeroed_sector_is_damage_and_no_end_of_the_log(name: str) -> None:
    """So are blocks of ones, of noise, of other places and of other logs."""
    assert cases_in(f"blocks/{name}") > 100


@pytest.mark.parametrize("name", ["segments", "dead_letters", "orphaned", "mixed-1"])
def test_p6_f30_f32_a_file_that_is_gone_or_somebody_elses_costs_its_own_records_and_is_named(name: str) -> None:
    assert cases_in(f"files/{name}") > 40


# -- the layer itself


def test_the_corpus_has_64_kib_of_used_bytes_and_each_of_their_bits_is_a_case() -> None:
    names = list(corpus(0))
    assert sum(specimen(name).used() for name in names) >= 64 << 10
    bits = {share.split("/")[1] for share in shares("bits/.*")}
    assert bits == set(names)
    assert LAYER.work(shares("bits/plain/segments/.*/0-256")[0]).counts["cases"] == 8 * 156


def test_a_place_is_replayed_alone_and_an_unknown_one_is_told() -> None:
    for place in ("bits/plain/lock/3.5", "cuts/segments/meta/65540", shares("files/plain")[0] + "/meta/gone"):
        tally = LAYER.replay(place)
        assert (tally.counts["cases"], tally.findings) == (1, [])
    for unknown in ("bits/plain/lock/4000.0", "bits/nobody/lock/0.0", "files/plain/meta/unheard of", "noise"):
        with pytest.raises(LookupError):
            LAYER.replay(unknown)


class Whatever(int):
    """A checksum that is equal to every other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def skip_checksum(module: Any) -> Callable[[pytest.MonkeyPatch], None]:
    real = module.crc32c

    def broken(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "crc32c", lambda *given: Whatever(real(*given)))

    return broken


@pytest.mark.parametrize(
    ("bug", "subject", "what"),
    [
        (lambda m: m.setattr(segment_reader, "body_holds", lambda *_, **__: True), "batched", "record"),
        (skip_checksum(salvage), "batched", "record"),
        (skip_checksum(footer), "orphaned", "footer"),
        (skip_checksum(slots), "segments", "slot"),
        (skip_checksum(segment_header), "plain", "segment header"),
    ],
    ids=["body", "records", "footer", "slots", "segment header"],
)
def test_a_log_that_skips_a_check_is_caught(
    bug: Callable[[pytest.MonkeyPatch], None], subject: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = [part for part in specimen(subject).parts if part.what == what and part.start < part.stop][-1]
    share = f"bits/{subject}/{part.path}/{part.start}-{min(part.stop, part.start + 64)}"
    assert LAYER.work(share).findings == []
    bug(monkeypatch)
    assert LAYER.work(share).findings


def test_what_does_not_end_and_what_takes_all_memory_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.crashtest.rot.SECONDS_MAX", 0.05)

    def endless(*_: object, **__: object) -> None:
        while True:
            sum(range(1000))

    monkeypatch.setattr("tools.crashtest.rot.check", endless)
    found = LAYER.replay("bits/plain/lock/3.5").findings
    assert "Endless" in found[0].what
    monkeypatch.setattr("tools.crashtest.rot.check", lambda *_, **__: bytes(3 << 30))
    found = LAYER.replay("bits/plain/lock/3.5").findings
    assert "MemoryError" in found[0].what


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_p10_bytes_under_checksums_that_hold_raise_only_documented_errors(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "RUNS", 100)
    monkeypatch.setattr(fuzz, "find_spec", lambda _: None)  # blind: the same everywhere
    tally = LAYER.work(f"fuzz/{target}/1")
    assert (tally.counts["cases"], tally.findings) == (100, [])


def test_an_undocumented_error_of_the_fuzzed_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(payload: bytes) -> None:
        raise IndexError(len(payload))

    monkeypatch.setattr("seglog.consumers.cursor.decode_cursor", careless)
    found = LAYER.replay("fuzz/cursor/x00").findings
    assert [(finding.place, finding.what) for finding in found] == [("fuzz/cursor/x00", "IndexError: 0")]


def test_the_command_runs_it() -> None:
    report = run("rot", Terms(only="files/plain"))
    assert (report.ok, report.finished, report.counts["cases"] > 20) == (True, True, True)
