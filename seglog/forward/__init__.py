"""Forwarding: a consumer's records go to a sink, at least once, in order, acknowledged after the far end confirmed.

Importing this imports no sink's client library; `open_sink` does, and says which extra is missing.
"""

from seglog.forward.forwarder import Forwarder, ForwardStats
from seglog.forward.sinks import open_sink
from seglog.forward.sinks.base import Sink, SinkError, Verdict

__all__ = ["ForwardStats", "Forwarder", "Sink", "SinkError", "Verdict", "open_sink"]
