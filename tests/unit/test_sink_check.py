"""`check_sink` passes sinks that keep what they promise, and finds each way of not keeping it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from seglog.forward import SinkError, Verdict, open_sink
from seglog.model import Message
from seglog.testing import check_sink

Batch = Sequence[Message[Any]]
Stored = tuple[str, bytes, bytes | None, dict[str, bytes]]


class FarEnd:
    """What outlives the sinks: the records, and what a sink keeps there to know where it was."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []
        self.next = 0


class Good:
    """Keeps everything that is asked of a sink; those below do one thing wrong each."""

    def __init__(self, far_end: FarEnd) -> None:
        self.far_end = far_end
        self.closed = False

    def attach(self, log_id: str) -> None:
        self.log_id = log_id

    def resume_point(self) -> int | None:
        return self.far_end.next

    def send(self, batch: Batch) -> None:
        there = {id for id, *_ in self.far_end.stored}
        for message in batch:
            if message.id not in there:
                self.store(message)
        self.far_end.next = max(self.far_end.next, batch[-1].offset + 1)

    def store(self, message: Message[Any]) -> None:
        self.far_end.stored.append((message.id, message.payload, message.key, message.headers))

    def classify(self, error: Exception) -> Verdict:
        return error.verdict if isinstance(error, SinkError) else Verdict.RETRY

    def close(self) -> None:
        self.closed = True


def checked(kind: type[Good], **options: Any) -> None:
    far_end = FarEnd()
    check_sink(lambda: kind(far_end), lambda: list(far_end.stored), **options)


def test_a_good_sink_passes() -> None:
    checked(Good)
    far_end = FarEnd()
    check_sink(lambda: Good(far_end), lambda: [(id, payload) for id, payload, *_ in far_end.stored])
    assert len(far_end.stored) > 50


def test_a_sink_that_knows_less_passes_if_that_is_said() -> None:
    stored: list[tuple[str, bytes]] = []

    def send(batch: Batch) -> None:
        stored.extend((one.id, one.payload) for one in batch)

    check_sink(lambda: send, lambda: stored, duplicates=True)
    assert len(set(stored)) < len(stored)


def test_one_that_refuses_passes() -> None:
    class Refuses(Good):
        def send(self, batch: Batch) -> None:
            if any(one.payload == b"bad" for one in batch):
                raise SinkError("no", verdict=Verdict.REFUSED)
            super().send(batch)

    checked(Refuses, refused=b"bad")


def test_one_that_ends_the_forwarding_with_an_error_passes() -> None:
    class Ends(Good):
        def classify(self, error: Exception) -> Verdict:
            raise error

    checked(Ends)


class Several(Good):
    """Begins batches before the one before is there."""

    def __init__(self, far_end: FarEnd) -> None:
        super().__init__(far_end)
        self.begun: list[Batch] = []

    def resume_point(self) -> int | None:
        for batch in self.begun:  # they were on their way
            self.send(batch)
        self.begun.clear()
        return super().resume_point()

    def begin(self, batch: Batch) -> None:
        self.begun.append(batch)

    def finish(self) -> int:
        self.send(self.begun.pop(0))
        return 1


def test_one_with_several_batches_under_way_passes() -> None:
    most = 0

    class Watched(Several):
        def begin(self, batch: Batch) -> None:
            nonlocal most
            super().begin(batch)
            most = max(most, len(self.begun))

    checked(Watched)
    assert most > 1


class FinishesWhatIsNotThere(Several):
    def finish(self) -> int:
        super().finish()
        return 1 + bool(self.begun)


class FinishesNothing(Several):
    def finish(self) -> int:
        super().finish()
        return 0


class ForgetsWhatItBegan(Several):
    """What was under way when another one failed may be there."""

    def resume_point(self) -> int | None:
        point = self.far_end.next
        for batch in self.begun:
            self.send(batch)
        self.begun.clear()
        return point

    def send(self, batch: Batch) -> None:
        for message in batch:
            self.store(message)
        self.far_end.next = max(self.far_end.next, batch[-1].offset + 1)


class Drops(Good):
    def store(self, message: Message[Any]) -> None:
        if message.offset != 9:
            super().store(message)


class DropsWhatIsEmpty(Good):
    def store(self, message: Message[Any]) -> None:
        if message.payload:
            super().store(message)


class Doubles(Good):
    def store(self, message: Message[Any]) -> None:
        super().store(message)
        if message.offset == 4:
            super().store(message)


class Invents(Good):
    def store(self, message: Message[Any]) -> None:
        super().store(message)
        self.far_end.stored.append(("heartbeat", b"", None, {}))


class Reorders(Good):
    def send(self, batch: Batch) -> None:
        super().send(batch)
        self.far_end.stored.sort(key=lambda one: int(one[0].rpartition(":")[2]) ^ 1)


class Strips(Good):
    def store(self, message: Message[Any]) -> None:
        self.far_end.stored.append((message.id, message.payload.strip(), message.key, message.headers))


class LosesHeaders(Good):
    def store(self, message: Message[Any]) -> None:
        self.far_end.stored.append((message.id, message.payload, message.key, {}))


class TakesAnEmptyKeyForNone(Good):
    def store(self, message: Message[Any]) -> None:
        self.far_end.stored.append((message.id, message.payload, message.key or None, message.headers))


class ConfirmsBeforeItStores(Good):
    def __init__(self, far_end: FarEnd) -> None:
        super().__init__(far_end)
        self.held: Batch = ()

    def send(self, batch: Batch) -> None:
        held, self.held = self.held, batch
        if held:
            super().send(held)

    def close(self) -> None:
        if self.held:
            super().send(self.held)


class LosesTheLastOfABatch(Good):
    def send(self, batch: Batch) -> None:
        super().send(batch[:-1] or batch)


class KnowsNothingAfterItIsMadeAnew(Good):
    def __init__(self, far_end: FarEnd) -> None:
        super().__init__(far_end)
        self.next: int | None = None

    def resume_point(self) -> int | None:
        return self.next

    def send(self, batch: Batch) -> None:
        for message in batch:
            self.store(message)
        self.next = max(self.next or 0, batch[-1].offset + 1)


class PointsTooHigh(Good):
    def resume_point(self) -> int | None:
        return self.far_end.next + 1


class PointsTooLow(Good):
    def resume_point(self) -> int | None:
        return max(0, self.far_end.next - 1)

    def send(self, batch: Batch) -> None:
        for message in batch:
            self.store(message)
        self.far_end.next = max(self.far_end.next, batch[-1].offset + 1)


class PointsByTheNewestRecord(Good):
    """Right until a delayed one is the newest."""

    def send(self, batch: Batch) -> None:
        there = {id for id, *_ in self.far_end.stored}
        for message in batch:
            if message.id not in there or message.offset >= self.far_end.next:
                self.store(message)
        self.far_end.next = batch[-1].offset + 1


class TakesLateOnesForRepeats(Good):
    def send(self, batch: Batch) -> None:
        for message in batch:
            if message.offset >= self.far_end.next:
                self.store(message)
                self.far_end.next = message.offset + 1


class DoublesLateOnes(Good):
    def send(self, batch: Batch) -> None:
        for message in batch:
            self.store(message)
        self.far_end.next = max(self.far_end.next, batch[-1].offset + 1)


class IsOfNoUseAfterClosing(Good):
    def send(self, batch: Batch) -> None:
        if self.closed:
            raise ConnectionError("closed")
        super().send(batch)


class ClosesOnce(Good):
    def close(self) -> None:
        assert not self.closed, "closed twice"
        super().close()


class RefusesWhatItDoesNotKnow(Good):
    def classify(self, error: Exception) -> Verdict:
        return Verdict.REFUSED


class RefusesBinary(Good):
    def send(self, batch: Batch) -> None:
        for message in batch:
            try:
                message.payload.decode()
            except UnicodeDecodeError:
                raise SinkError("no text", verdict=Verdict.REFUSED) from None
        super().send(batch)


class NeverAnswers(Good):
    def send(self, batch: Batch) -> None:
        raise TimeoutError("no answer")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Drops, "records of all kinds: send returned, and that confirms the batch, but the far end does not have"),
        (DropsWhatIsEmpty, "send returned, and that confirms the batch, but the far end does not have"),
        (Doubles, "records of all kinds: more than once at the far end"),
        (Invents, "the far end has what should not be there: heartbeat"),
        (Reorders, "in another order than they were sent"),
        (Strips, "arrived changed"),
        (LosesHeaders, "arrived changed"),
        (TakesAnEmptyKeyForNone, "arrived changed"),
        (ConfirmsBeforeItStores, "send returned, and that confirms the batch, but the far end does not have"),
        (LosesTheLastOfABatch, "send returned, and that confirms the batch, but the far end does not have"),
        (KnowsNothingAfterItIsMadeAnew, r"resume_point\(\) does not say what the far end has"),
        (PointsTooHigh, "acknowledged, and lost"),
        (PointsTooLow, "a new sink, asked from the log's beginning on: more than once at the far end"),
        (PointsByTheNewestRecord, "more than once at the far end"),
        (TakesLateOnesForRepeats, "a delayed message, .*: send returned, .* but the far end does not have"),
        (DoublesLateOnes, "a delayed message, .* an answer that is lost: more than once at the far end"),
        (IsOfNoUseAfterClosing, r"after close\(\): the sink does not take what it should: .* closed"),
        (ClosesOnce, "closed twice"),
        (RefusesWhatItDoesNotKnow, r"an error before the far end had the batch: .*classify\(\)"),
        (RefusesBinary, r"was refused \(no text\); .* pass them as payloads="),
        (FinishesWhatIsNotThere, "finish returned, and that confirms the batch, but the far end does not have"),
        (FinishesNothing, "finish returned 0"),
        (ForgetsWhatItBegan, "more than once at the far end"),
        (NeverAnswers, "records of all kinds: the sink does not take what it should: .* no answer"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_sink_is_found_out(kind: type[Good], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        checked(kind)


def test_a_record_that_is_taken_although_it_should_be_refused_is_found() -> None:
    with pytest.raises(AssertionError, match="a record that the far end never takes"):
        checked(Good, refused=b"bad")


def test_order_matters_unless_it_is_said_that_it_does_not() -> None:
    checked(Reorders, order=False)


def test_without_payloads_there_is_nothing_to_check() -> None:
    with pytest.raises(ValueError, match="at least one"):
        checked(Good, payloads=[])


# Our own that need no server


def from_envelopes(data: bytes) -> list[tuple[str, bytes]]:
    lines = [json.loads(line) for line in data.splitlines()]
    decoded: Callable[[dict[str, Any]], bytes] = lambda line: (  # noqa: E731
        line["payload"].encode() if "payload" in line else base64.b64decode(line["payload_base64"])
    )
    return [(line["id"], decoded(line)) for line in lines]


def test_the_file_sink_passes(tmp_path: Path) -> None:
    url = f"file:{tmp_path}/out.ndjson?format=envelope&rotate=1KiB"

    def arrived() -> list[tuple[str, bytes]]:
        parts = sorted(tmp_path.glob("out.0*.ndjson"))
        return from_envelopes(b"".join(part.read_bytes() for part in (*parts, tmp_path / "out.ndjson")))

    check_sink(lambda: open_sink(url), arrived)
    assert len(list(tmp_path.glob("out.0*.ndjson"))) > 3


def test_the_exec_sink_passes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make = lambda: open_sink(f"""exec:sh -c 'cat >>"$0"' {out}""", format="envelope")  # noqa: E731
    check_sink(make, lambda: from_envelopes(out.read_bytes()), duplicates=True)


def test_importing_it_imports_no_forwarder() -> None:
    program = "import sys; from seglog.testing import check_sink; print('seglog.forward' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
