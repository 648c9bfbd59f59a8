"""Each middleware on a real cluster, with request lines that a client library would not send as they are."""

import http.server
import json
import re
import shutil
import socket
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

import psycopg
import pytest

from conftest import BUILT, EXAMPLES, ROOT, Server, free_port, run, wait_until

MIDDLEWARE = EXAMPLES / "middleware"

SCHEMA = (MIDDLEWARE / "schema.sql").read_text()
# The statement of it that registers the scope.
FILES, = re.findall(r"^SELECT auth.temptoken_register_scope\('files'.*;$", SCHEMA, re.M)

VENV = Path(sys.executable).parent


def uvicorn(directory, environment):
    return [Server([VENV / "uvicorn", "--port", "$PORT", "server:app"], directory, environment)]


def gunicorn(directory, environment):
    command = [VENV / "gunicorn", "-b", "127.0.0.1:$PORT", "--forwarder-headers=", "--access-logfile", "-", "server:app"]
    return [Server(command, directory, environment)]


def node(directory, environment):
    """In a copy, so that nothing is installed into the sources."""
    copy = BUILT / "express"
    shutil.copytree(directory, copy, dirs_exist_ok=True)
    run("npm", "ci", "--silent", "--no-audit", "--no-fund", directory=copy)
    return [Server(["node", "server.js"], copy, environment)]


def cargo(directory, environment):
    run("cargo", "build", "--locked", "--quiet", directory=directory, CARGO_TARGET_DIR=str(BUILT / "axum"))
    return [Server([BUILT / "axum/debug/temptoken-axum"], directory, environment)]


def go(directory, environment):
    """With the libraries of the distribution's packages."""
    server = BUILT / "go-server"
    of_debian = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(BUILT / "go-cache")}
    run("go", "build", "-o", server, "server.go", directory=directory, **of_debian)
    return [Server([server], directory, environment)]


def nginx(directory, environment):
    """In front of the application that comes with it. The file has the ports that a reader would choose."""
    application, = gunicorn(directory, environment)
    port, home = free_port(), Path(tempfile.mkdtemp(prefix="temptoken-nginx-"))
    conf = (directory / "nginx.conf").read_text().replace(":8000", f":{application.port}").replace(":8080", f":{port}")
    (home / "nginx.conf").write_text(f"pid {home}/pid;\n{conf}")
    command = ["nginx", "-c", home / "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
    return [Server(command, directory, environment, port), application]


STACKS = {
    "fastapi": uvicorn,
    "flask": gunicorn,
    "django": gunicorn,
    "express": node,
    "go": go,
    "axum": cargo,
    "nginx": nginx,
}


def test_every_directory_is_a_stack():
    assert {path.name for path in MIDDLEWARE.iterdir() if path.is_dir()} == set(STACKS)


@pytest.fixture(scope="session")
def database(cluster):
    cluster.create("middleware", SCHEMA)
    return cluster.url("app", "middleware")


@pytest.fixture(params=STACKS, scope="module")
def server(request, database):
    """The server of a stack. What the programs behind it print counts as its own."""
    servers = STACKS[request.param](MIDDLEWARE / request.param, {"DATABASE_URL": database})
    first = servers[0]
    first.all_printed = lambda: "".join(server.printed() for server in servers)
    first.mints = request.param != "nginx"
    yield first
    for server in servers:
        server.close()


@pytest.fixture
def mint(cluster):
    def mint(scope, resource_id, ttl="1 hour"):
        with cluster.connect("middleware") as connection:
            row = connection.execute("SELECT auth.temptoken_mint(%s, %s, %s::interval)", (scope, resource_id, ttl))
            return row.fetchone()[0]
    return mint


def ask(server, line, token=None, header="X-Temp-Token: "):
    """Sends this request line as it is; status, headers and body of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        token = f"{header}{token}\r\n" if token else ""
        client.sendall(f"{line} HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    status = int(head.split(" ", 2)[1])
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    return status, headers, body


def resource_id(body):
    """Of a body that may come in chunks."""
    found = re.search(r"\{.*\}", body, re.S)
    return json.loads(found.group())["resource_id"]


def test_the_route_is_open_to_its_token(server, mint):
    token = mint("files", "42")
    for path in ["/files/42", "/files/42?x=1", "/files/42?/files/43"]:
        status, _, body = ask(server, f"GET {path}", token)
        assert (status, resource_id(body)) == (200, "42"), path
    assert ask(server, "GET /files/42", token, "Authorization: Bearer ")[0] == 200


def test_no_cache_keeps_an_accepted_answer(server, mint, cluster):
    """A shared cache would give it to whoever comes without a token, who is not asked for one there."""
    with cluster.connect("middleware") as connection:
        connection.execute("UPDATE flows SET approved = false")
    lines = [("GET /files/42", mint("files", "42")), ("POST /flows/f1/approve", mint("flows", "f1"))]
    if server.mints:
        lines.append(("POST /links/8", None))
    for line, token in lines:
        status, headers, _ = ask(server, line, token)
        assert (status, headers.get("cache-control")) == (200, "no-store"), line


def test_no_other_request_line_is(server, mint):
    token = mint("files", "42")
    for line in [
        "GET /files/43",
        "GET /files/%34%32",
        "GET //files/42",
        "GET /files//42",
        "GET /files/42/",
        "GET /files/42;a=b",
        "GET /files/42%3Fx=1",
        "GET /files/42%00",
        "GET /FILES/42",
        "GET /files/..%2Ffiles%2F42",
        "GET /files/x/../42",
        "GET /files/./42",
        "GET /x/../files/42",
        "HEAD /files/42",
        "POST /files/42",
        "PUT /files/42",
        "GET 42",
        "GET *",
        "GET http://localhost/files/43",
        "GET http://localhost/files/%34%32",
        "GET http://localhost//files/42",
    ]:
        status, _, body = ask(server, line, token)
        assert status >= 300, f"{line}: {status} {body}"
    # A server may serve the absolute form, if it is the route.
    status, _, body = ask(server, "GET http://localhost/files/42", token)
    assert status >= 300 or resource_id(body) == "42"


def test_no_header_moves_the_mount(server, mint, cluster):
    """gunicorn takes the prefix of a mount from a header, unless it is told not to."""
    with cluster.connect("middleware") as connection:
        connection.execute("""SELECT auth.temptoken_register_scope('archive', ARRAY['GET /archive/files/{id}'], '1 hour', '{id}',
                                                                   replace => true)""")
    for header in ["SCRIPT_NAME", "PATH_INFO"]:
        line = f"GET /archive/files/42 HTTP/1.1\r\n{header}: /archive\r\nX-Ignored: "
        status, _, body = ask(server, line, mint("archive", "42"))
        assert status != 200, (header, body)


def test_refusals_are_alike_to_the_stranger(server, mint, cluster):
    deleted = mint("files", "42")
    with cluster.connect("middleware") as connection:
        connection.execute("SELECT auth.temptoken_delete(%s)", (deleted,))
    expired = mint("files", "42", "1 millisecond")
    answers = set()
    for token in [None, "", "nonsense", "tt_" + "0" * 96, deleted, expired, mint("files", "43"), mint("flows", "f1")]:
        status, headers, body = ask(server, "GET /files/42", token)
        assert status == 401
        assert headers["www-authenticate"] == 'bearer error="invalid_token"'
        assert headers["cache-control"] == "no-store"
        answers.add(re.search(r"\{.*\}", body, re.S).group())
    assert len(answers) == 1
    for told in ["token_not_found", "token_expired", "route_not_allowed"]:
        wait_until(f"the log tells {told} apart", lambda: f"refused {told}" in server.all_printed())


def test_a_ttl_is_of_the_type_that_the_driver_has(server, cluster):
    if not server.mints:
        pytest.skip("nginx mints nothing")
    status, _, body = ask(server, "POST /links/7")
    token = re.search(r'"token": ?"(\w+)"', body).group(1)
    assert (status, ask(server, "GET /files/7", token)[0]) == (200, 200)
    with cluster.connect("middleware") as connection:
        sql = "SELECT expires_at - created_at FROM temptoken.temp_tokens WHERE scope = 'files' AND resource_id = '7'"
        assert abs(connection.execute(sql).fetchone()[0].total_seconds() - 900) < 1
        connection.execute("SELECT auth.temptoken_delete(%s)", (token,))


def test_a_link_that_cannot_be_made_is_no_refusal(server, cluster):
    if not server.mints:
        pytest.skip("nginx mints nothing")
    assert ask(server, "POST /links/a%20b")[0] == 400
    wait_until("the log says why", lambda: re.search("not minted: TT012", server.all_printed()))
    with cluster.connect("middleware") as connection:
        connection.execute("SELECT auth.temptoken_unregister_scope('files')")
        try:
            assert ask(server, "POST /links/7")[0] == 400
        finally:
            connection.execute(FILES)
    wait_until("the log says why", lambda: re.search("not minted: TT003", server.all_printed()))
    assert ask(server, "POST /links/7")[0] == 200


def test_no_token_gets_into_the_log_of_the_server(server, mint, cluster):
    """Where it logs each statement, and not the parameters."""
    def log(statements, length):
        with cluster.connect() as connection:
            connection.execute(f"ALTER SYSTEM SET log_statement = '{statements}'")
            connection.execute(f"ALTER SYSTEM SET log_parameter_max_length = {length}")
            connection.execute("SELECT pg_reload_conf()")
            wait_until("the setting holds", lambda: connection.execute("SHOW log_statement").fetchone()[0] == statements)

    token, before = mint("flows", "f2"), len(cluster.log.read_text())
    log("all", 0)
    try:
        # A pool's connections reload at their next statement.
        wait_until("statements are logged", lambda: ask(server, "GET /files/42", mint("files", "42"))[0] == 200
                   and "temptoken_try_validate" in cluster.log.read_text()[before:])
        ask(server, "POST /flows/f2/approve", token)
        assert "temptoken_validate" in cluster.log.read_text()[before:]
        assert not re.search("tt_[0-9a-f]{33}", cluster.log.read_text()[before:])
    finally:
        log("none", -1)


def approved(cluster, flow):
    with cluster.connect("middleware") as connection:
        return connection.execute("SELECT approved FROM flows WHERE id = %s", (flow,)).fetchone()[0]


def test_a_handler_that_fails_does_not_burn_the_link(server, mint, cluster):
    with cluster.connect("middleware") as connection:
        connection.execute("UPDATE flows SET approved = false")
    token = mint("flows", "f1")
    assert ask(server, "POST /flows/f2/approve", token)[0] == 401
    status, _, body = ask(server, "POST /flows/f1/approve?fail=1", token)
    assert status == 500 and "the work has failed" not in body
    assert not approved(cluster, "f1")
    assert ask(server, "POST /flows/f1/approve", token)[0] == 200
    assert approved(cluster, "f1") and not approved(cluster, "f2")
    assert ask(server, "POST /flows/f1/approve", token)[0] == 401
    wait_until("a peek's refusal has its name", lambda: "refused token_used_up" in server.all_printed())


def test_a_resource_that_is_gone_is_refused_and_spends_nothing(server, mint, cluster):
    token = mint("flows", "gone")
    assert ask(server, "POST /flows/gone/approve", token)[0] == 401
    wait_until("the log says why", lambda: "refused resource_gone" in server.all_printed())
    with cluster.connect("middleware") as connection:
        sql = "SELECT status FROM auth.temptoken_peek(%s, 'POST', '/flows/gone/approve')"
        assert connection.execute(sql, (token,)).fetchone()[0] == "ok"


def test_a_lost_database_is_no_refusal(server, mint, cluster):
    token = mint("files", "42")
    with cluster.connect() as connection:
        connection.execute("ALTER DATABASE middleware ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'middleware'")
    try:
        status, _, body = ask(server, "GET /files/42", token)
        assert status == 503, body
    finally:
        with cluster.connect() as connection:
            connection.execute("ALTER DATABASE middleware ALLOW_CONNECTIONS true")
    wait_until("it works again", lambda: ask(server, "GET /files/42", token)[0] == 200)


def test_a_password_that_is_missing_is_no_refusal(server, mint, cluster):
    """The application's: a driver that has none may fail by an error of its own."""
    token, hba = mint("flows", "f2"), cluster.dir / "data/pg_hba.conf"
    trusting = hba.read_text()

    def lets_in():
        try:
            psycopg.connect(cluster.url("app", "middleware")).close()
            return True
        except psycopg.OperationalError:
            return False

    def reload(rules, is_let_in):
        hba.write_text(rules)
        with cluster.connect() as connection:
            connection.execute("SELECT pg_reload_conf()")
            wait_until("the rules hold", lambda: lets_in() == is_let_in)
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")

    reload("local middleware app scram-sha-256\n" + trusting, False)
    try:
        for line in ["GET /files/42", "POST /flows/f2/approve"]:
            assert ask(server, line, token)[0] == 503, line
        if server.mints:
            assert ask(server, "POST /links/7")[0] == 503
    finally:
        reload(trusting, True)
    wait_until("it works again", lambda: ask(server, "POST /flows/f2/approve", token)[0] == 200)


def test_no_log_has_a_token(server, mint, cluster):
    for scope, line in [("files", "GET /files/42"), ("files", "GET /files/43"), ("flows", "POST /flows/f3/approve?fail=1")]:
        token = mint(scope, "42" if scope == "files" else "f3")
        ask(server, line, token)
        assert token[35:] not in server.all_printed()
        assert token[35:] not in cluster.log.read_text()


# What a row of the README's table says is the path, and the SQLSTATE, as the stack's file has it.
ROWS = {
    "fastapi": ['request.scope["raw_path"]', "sqlstate"],
    "flask": ['environ["RAW_URI"]', 'environ["REQUEST_URI"]', "sqlstate"],
    "django": ['request.META["RAW_URI"]', 'request.META["REQUEST_URI"]', "error.__cause__", "sqlstate"],
    "express": ["request.originalUrl", "error.code"],
    "go": ["r.RequestURI", "errors.As", "pgconn.PgError", "Code"],
    "axum": ["OriginalUri", "as_database_error", "code()"],
    "nginx": ["$request_uri", "$request_method"],
}


def test_nginx_passes_no_header_that_overrides_what_was_judged(tmp_path):
    seen = []

    class Application(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(dict(self.headers))
            self.send_response(204)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            pass

    application, port = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application), free_port()
    threading.Thread(target=application.serve_forever, daemon=True).start()
    conf = (MIDDLEWARE / "nginx/nginx.conf").read_text()
    # A location beside those that are judged, as a real application has it.
    conf = conf.replace("location /files/ {", "location / { proxy_pass http://application; }\n        location /files/ {")
    conf = conf.replace(":8000", f":{application.server_port}").replace(":8080", f":{port}")
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\n{conf}")
    command = ["nginx", "-c", tmp_path / "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
    server = Server(command, tmp_path, {}, port)
    overrides = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL"]
    sent = {name: "OPTIONS" for name in overrides} | {"Cookie": "a=b", "X-Temp-Token": "tt_1", "Authorization": "Bearer tt_2"}
    assert urllib.request.urlopen(urllib.request.Request(f"{server.url}/files/42", b"", sent, method="POST")).status == 204
    assert urllib.request.urlopen(urllib.request.Request(f"{server.url}/FILES/42", headers={"X-Resource-Id": "42"})).status == 204
    server.close()
    application.shutdown()
    asked, served, beside = seen
    assert set(asked) - {"Host", "Connection"} == {"X-Temp-Token", "Authorization", "X-Original-Method", "X-Original-Path"}
    assert (asked["X-Original-Method"], asked["X-Temp-Token"], asked["Authorization"]) == ("POST", "tt_1", "Bearer tt_2")
    assert not {name.lower() for name in served} & {name.lower() for name in overrides}
    assert "x-resource-id" not in {name.lower() for name in beside}


@pytest.mark.parametrize("stack", ROWS)
def test_the_readme_says_what_a_stack_does(stack):
    readme = (ROOT / "README.md").read_text()
    row, = [line for line in readme.splitlines() if line.startswith("| [") and f"(examples/middleware/{stack}/" in line]
    file = MIDDLEWARE / stack / re.search(rf"middleware/{stack}/([^)]*)", row).group(1)
    for word in ROWS[stack]:
        assert word in row and word in file.read_text()


def test_the_readme_has_a_row_for_each_stack():
    assert set(ROWS) == set(STACKS)
