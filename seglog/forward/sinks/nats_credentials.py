"""Files that say who we are to a NATS server, instead of a user and a password: credentials, or a seed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from seglog.errors import InvalidOption
from seglog.forward.sinks.address import Address
from seglog.forward.sinks.base import missing

# By the URL's option: what the client calls it, what such a file has in it, and what that is in words.
_KINDS = {
    "creds": ("user_credentials", r"BEGIN USER NKEY SEED", "credentials of a user (nsc generate creds)"),
    "nkey": ("nkeys_seed", r"\A\s*SU[A-Z2-7]{56}\s*\Z", "seed of a user (nk -gen user)"),
}
OPTIONS = tuple(_KINDS)


def files(at: Address) -> dict[str, str]:
    """What the client is told; empty without such options. It reads the file at each connection.

    Raises InvalidOption: the client would only say that it could not connect.
    """
    given = [name for name in OPTIONS if name in at.options]
    if not given:
        return {}
    name, path = given[0], at.options[given[0]]
    if len(given) > 1 or at.user is not None or at.password is not None:
        raise InvalidOption(f"the URL's option {name} says who we are, and so does something else: one of them")
    if importlib.util.find_spec("nkeys") is None:
        raise missing("nats", "nkeys")
    theirs, pattern, words = _KINDS[name]
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InvalidOption(f"the URL's option {name}: {path} cannot be read: {reason}") from None
    if not re.search(pattern, text):
        raise InvalidOption(f"the URL's option {name}: {path} holds no {words}")
    return {theirs: path}
