"""For the tests of the examples and of monitoring: a cluster with the extension, other servers, and a browser.

PG_CONFIG chooses the PostgreSQL, which must have the extension installed; without it scripts/pg-config does.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent
EXAMPLES = ROOT / "examples"
# What the tests build and install, so that nothing of it comes into the sources.
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "examples"
PATIENCE = 60
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


def wait_until(what, ask):
    begun = time.monotonic()
    while not (found := ask()):
        assert time.monotonic() - begun < PATIENCE, f"waited {PATIENCE} s in vain until {what}"
        time.sleep(0.05)
    return found


def run(*command, directory, **environment):
    subprocess.run(command, check=True, cwd=directory, env={**os.environ, **environment})


class Cluster:
    """A server of its own in a directory of its own. As root it runs as the user postgres."""

    def __init__(self):
        pg_config = subprocess.check_output([ROOT / "scripts/pg-config"], text=True).strip()
        self.bin = Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())
        # A short path, since a socket's has at most 107 bytes, and for the server alone: whoever reaches it is a superuser.
        self.dir = Path(tempfile.mkdtemp(prefix="temptoken-examples-", dir="/tmp"))
        self.dir.chmod(0o700)
        if os.getuid() == 0:
            shutil.chown(self.dir, "postgres")
        self.run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        settings = ["listen_addresses = ''", f"unix_socket_directories = '{self.dir}'", "fsync = off",
                    "shared_preload_libraries = 'temptoken'", "log_min_messages = warning"]
        with open(self.dir / "data/postgresql.conf", "a") as conf:
            conf.write("\n".join(settings) + "\n")
        self.run("pg_ctl", "-l", str(self.log), "-w", "-s", "start")

    @property
    def log(self):
        return self.dir / "log"

    def run(self, program, *arguments):
        command = [self.bin / program, "-D", self.dir / "data", *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL)

    def url(self, user, database):
        # Drivers that know no empty host want a name, which `host` overrides.
        return f"postgresql://{user}@localhost/{database}?host={self.dir}"

    def connect(self, database="postgres"):
        return psycopg.connect(self.url("postgres", database), autocommit=True)

    def create(self, database, script):
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {database}")
        with self.connect(database) as connection:
            connection.execute(script)

    def close(self):
        self.run("pg_ctl", "-m", "immediate", "-s", "stop")
        shutil.rmtree(self.dir)


@pytest.fixture(scope="session")
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.close()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A program that listens on a port of its own, with all that it prints in a file."""

    def __init__(self, command, directory, environment, port=None):
        self.port = port or free_port()
        self.output = tempfile.NamedTemporaryFile()
        environment = {**os.environ, **environment, "PORT": str(self.port), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(word).replace("$PORT", str(self.port)) for word in command]
        self.process = subprocess.Popen(command, cwd=directory, env=environment, stdout=self.output,
                                        stderr=subprocess.STDOUT, start_new_session=True)
        wait_until(f"{command[0]} listens", self.is_listening)

    def is_listening(self):
        assert self.process.poll() is None, self.printed()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def printed(self):
        return Path(self.output.name).read_text()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def close(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
