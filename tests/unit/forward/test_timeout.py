"""Every sink that waits for a far end says at once which times it cannot wait."""

from __future__ import annotations

import pytest

from seglog.errors import InvalidOption
from seglog.forward import open_sink
from seglog.forward.sinks import SINKS

WAITING = [scheme for scheme, place in SINKS.items() if "timeout" in place.takes]


@pytest.mark.parametrize("timeout", [0, -1, 3601, float("nan"), float("inf"), "10", True])
@pytest.mark.parametrize("scheme", WAITING)
def test_a_timeout_that_cannot_be_meant_is_said_at_once(scheme: str, timeout: float) -> None:
    url = "exec:true" if scheme == "exec" else f"{scheme}://127.0.0.1:1/target"
    with pytest.raises(InvalidOption, match="timeout"):
        open_sink(url, timeout=timeout)
