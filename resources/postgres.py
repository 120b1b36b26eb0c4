"""A PostgreSQL server on loopback for Dagster's history: several runs may write at once, which SQLite files bear badly.

`python -m resources.postgres start` makes one below DAGSTER_HOME, where need be, and writes the dagster.yaml that uses it; `stop`
and `restart` do as they say. For a trial on one machine; a cluster wants a server that somebody maintains.
"""

import argparse
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
DEBIAN = Path("/usr/lib/postgresql")
OWNERS = ("postgres", "nobody")
STORAGE = """
# Written by `make postgres`. The password is this server's alone; the file is for its owner's eyes.
storage:
  postgres:
    postgres_url: postgresql+psycopg2://dagster:{password}@127.0.0.1:{port}/postgres
"""


class Server:
    """A PostgreSQL server whose data lie below a Dagster home."""

    def __init__(self, home: Path) -> None:
        """The server of that home; nothing is started."""
        self.home, self.data = home, home / "postgres"

    def start(self) -> None:
        """Make the server where there is none, and start it where it does not run.

        Raises:
            ValueError: PostgreSQL is not installed, cannot reach the folder, or does not start.
        """
        if not (self.data / "PG_VERSION").is_file():
            self._make()
        if not self.is_running():
            self._control("start")

    def stop(self) -> None:
        """End the server; what it holds stays."""
        self._control("stop", "--mode=fast")

    def restart(self) -> None:
        """End the server and start it again: connections break, nothing that was committed is lost."""
        self._control("restart", "--mode=fast")

    def is_running(self) -> bool:
        """Whether it answers for its folder."""
        return _run(["pg_ctl", "status", "-D", self.data], check=False) == 0

    def _control(self, *arguments: str) -> None:
        _run(["pg_ctl", *arguments, "-w", "-D", self.data, "-l", self.data / "server.log"])

    def _make(self) -> None:
        """Make the server under another name first, so that one half made is never taken for one."""
        password, port, new = secrets.token_hex(24), _free_port(), self.data.with_name("postgres.new")
        secret = self.data.with_name("postgres.password")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        _write_private(secret, password)
        try:
            _give(new)
            _give(secret)
            who = ["-U", "dagster", "--auth=scram-sha-256", f"--pwfile={secret}"]
            _run(["initdb", "-D", new, "-E", "UTF8", *who])
        finally:
            secret.unlink()
        with (new / "postgresql.conf").open("a") as file:
            file.write(f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n")
        general = (CHECKOUT / "deploy" / "dagster.yaml").read_text(encoding="utf-8")
        _write_private(self.home / "dagster.yaml", general + STORAGE.format(password=password, port=port))
        new.rename(self.data)


def _run(command: list[str | Path], *, check: bool = True) -> int:
    """Exit status of a program of PostgreSQL, by a user that it does not refuse: it will not run as root.

    Raises:
        ValueError: it failed, and that is not to be borne; says what it said.
    """
    full = [*_as_owner(), _program(str(command[0])), *map(str, command[1:])]
    done = subprocess.run(full, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit status {done.returncode}"]
        raise ValueError(f"{command[0]} failed: {' '.join(said[-3:])}")
    return done.returncode


def _program(name: str) -> str:
    found = shutil.which(name) or max(map(str, DEBIAN.glob(f"*/bin/{name}")), default=None)
    if found is None:
        raise ValueError(f"{name} is not installed; apt-get install postgresql, or use a server of your own")
    return found


def _owner() -> str | None:
    """Whom the server runs as where this process is root; nobody else need be asked for."""
    if os.geteuid():
        return None
    return next(name for name in OWNERS if name in {entry.pw_name for entry in pwd.getpwall()})


def _as_owner() -> list[str]:
    owner = _owner()
    return ["runuser", "-u", owner, "--"] if owner else []


def _give(path: Path) -> None:
    """Hand a file to the server's user.

    Raises:
        ValueError: that user cannot get there.
    """
    owner = _owner()
    if owner:
        shutil.chown(path, owner)
        if subprocess.run([*_as_owner(), "test", "-r", str(path)], cwd="/").returncode:
            raise ValueError(
                f"PostgreSQL does not run as root, and user {owner} cannot reach {path}; choose a DAGSTER_HOME in a folder "
                f"that others may enter, or run as another user"
            )


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main(arguments: list[str] | None = None) -> int:
    """Start, stop or restart the server of DAGSTER_HOME; 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m resources.postgres", description=__doc__)
    parser.add_argument("action", choices=["start", "stop", "restart"])
    home = Path(os.environ.get("DAGSTER_HOME", CHECKOUT / ".dagster_home"))
    server, action = Server(home), parser.parse_args(arguments).action
    try:
        getattr(server, action)()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{action}: PostgreSQL in {server.data}; {home / 'dagster.yaml'} says where it listens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
