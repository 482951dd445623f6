"""nginx before a server that knows neither TLS nor users by itself: how such a server is run in earnest."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from tools.engines.server import Engine

PROGRAM = shutil.which("nginx") or "/usr/sbin/nginx"  # not on everybody's PATH
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # it makes all of these, whatever it needs


class Front(Engine):
    """Passes on to `behind`, a port of loopback, what may pass."""

    name = "nginx"
    programs = (PROGRAM, "openssl")

    def __init__(self, folder: Path, behind: int) -> None:
        super().__init__(folder)
        self._behind = behind

    def command(self) -> list[str]:
        settings = self.folder / "nginx.conf"
        settings.write_text(self._settings())
        return [PROGRAM, "-p", str(self.folder), "-c", str(settings), "-e", "stderr"]

    def answers(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), 5).close()

    def _settings(self) -> str:
        listen, inside = f"127.0.0.1:{self.port}", [f"location / {{ proxy_pass http://127.0.0.1:{self._behind}; }}"]
        if self.certificate:
            listen += " ssl"
            inside += [f"ssl_certificate {self.certificate[0]};", f"ssl_certificate_key {self.certificate[1]};"]
        if self.protected:
            users = self.folder / "users"
            users.write_text(f"{self.user}:{self._hashed(self.password)}\n")
            inside += ["auth_basic here;", f"auth_basic_user_file {users};"]
        outside = ["access_log off;", *(f"{name}_temp_path {self.folder / name};" for name in TEMPORARY)]
        server = "\n        ".join([f"listen {listen};", *inside])
        http = "\n    ".join([*outside, f"server {{\n        {server}\n    }}"])
        return f"daemon off;\nmaster_process off;\npid {self.folder / 'pid'};\nevents {{}}\nhttp {{\n    {http}\n}}\n"

    @staticmethod
    def _hashed(password: str) -> str:
        command = ["openssl", "passwd", "-apr1", "-stdin"]
        return subprocess.run(command, input=password, text=True, check=True, capture_output=True).stdout.strip()
