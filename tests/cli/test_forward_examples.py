"""What tools/examples shows is right: our loader takes the TOML, systemd the unit, our parser the command lines."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from seglog.cli.main import parser
from seglog.forward.routes import KEYS, load
from tests.cli.conftest import ROOT, Cli

EXAMPLES = ROOT / "tools" / "examples"
UNIT = (EXAMPLES / "seglog-forward.service").read_text("utf-8")
CONTAINER = (EXAMPLES / "Containerfile").read_text("utf-8")
CONFIGURATION = "/etc/seglog/spool.toml"


def settings(unit: str) -> dict[str, list[str]]:
    """Key -> its values, in the order of the file."""
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def instruction(name: str) -> str:
    """The one instruction of that name in the Containerfile."""
    (found,) = re.findall(rf"^{name} (.*)$", CONTAINER, re.MULTILINE)
    return str(found)


def assert_runs_the_service(words: list[str]) -> None:
    program, *arguments = words
    assert Path(program).name == "seglog"
    args = parser("forward").parse_args(arguments)
    assert (str(args.config), args.once, args.directory) == (CONFIGURATION, False, None)


def test_the_configuration_is_one(cli: Cli) -> None:
    for extra in ("urllib3", "redis"):
        pytest.importorskip(extra)
    orders, audit = load(EXAMPLES / "spool.toml")
    assert (orders.name, orders.linger, orders.batch_bytes, orders.format) == ("orders", 0.2, 1 << 20, "envelope")
    assert (audit.name, audit.consumer, audit.timeout) == ("audit", "redis", 10.0)
    assert cli("forward", "--config", EXAMPLES / "spool.toml", "--check").returncode == 0


def test_what_the_configuration_shows_as_a_comment_is_a_key_too() -> None:
    text = (EXAMPLES / "spool.toml").read_text("utf-8")
    assert set(re.findall(r"^# ([a-z_]+) = ", text, re.MULTILINE)) == {"password_file"}
    assert "password_file" in KEYS


def test_the_unit_runs_the_service() -> None:
    found = settings(UNIT)
    check, run = (shlex.split(found[key][0]) for key in ("ExecStartPre", "ExecStart"))
    assert_runs_the_service(run)
    assert check == [*run, "--check"]
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert (found["Type"], found["WatchdogSec"], found["Restart"]) == (["notify"], ["60"], ["always"])


def verified(unit: str, folder: Path) -> str:
    """What systemd says about it."""
    (folder / "seglog").write_text("#!/bin/sh\n")
    (folder / "seglog").chmod(0o755)
    path = folder / "seglog-forward.service"
    path.write_text(unit.replace("/usr/local/bin/seglog", str(folder / "seglog")))
    result = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=60)
    return result.stdout + result.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_knows_every_setting_of_the_unit(tmp_path: Path) -> None:
    said = verified(UNIT, tmp_path)
    assert [line for line in said.splitlines() if "seglog-forward" in line] == []
    said = verified(UNIT.replace("ProtectHome=", "ProtectHouse="), tmp_path)
    assert "ProtectHouse" in said, "systemd-analyze finds what is wrong"


def test_the_container_runs_the_service() -> None:
    assert_runs_the_service([*json.loads(instruction("ENTRYPOINT")), *json.loads(instruction("CMD"))])
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert int(instruction("USER")) > 0
    assert instruction("VOLUME") == instruction("WORKDIR") == settings(UNIT)["WorkingDirectory"][0]


def test_the_container_is_made_of_what_is_there() -> None:
    copied = [word for line in re.findall(r"^COPY (.*)$", CONTAINER, re.MULTILINE) for word in line.split()[:-1]]
    assert {"pyproject.toml", "seglog"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (extras,) = re.findall(r"/src\[([a-z,]+)\]", CONTAINER)
    assert [extra for extra in extras.split(",") if not re.search(rf"^{extra} = \[", project, re.MULTILINE)] == []
