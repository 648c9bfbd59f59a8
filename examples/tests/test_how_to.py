"""The Python and JavaScript of the how-to pages, as the pages have it, on a real cluster and a real PgBouncer.

Each block runs in a process of its own with a probe below it: as it stands, and without its switch. Addresses and ports are
those that a reader would choose; they alone are replaced.
"""

import gzip
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from conftest import BUILT, ROOT, Server, free_port, run

PAGES = ROOT / "docs/how-to"
SCHEMA = """
CREATE SCHEMA auth;
CREATE EXTENSION temptoken SCHEMA auth;
SELECT auth.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
CREATE SCHEMA app;
CREATE TABLE app.files (id text PRIMARY KEY);
INSERT INTO app.files VALUES ('42'), ('43');
ALTER TABLE app.files ENABLE ROW LEVEL SECURITY;
CREATE POLICY by_token ON app.files
    USING (auth.temptoken_current_scope() = 'files' AND id = auth.temptoken_current_resource_id());
CREATE ROLE how_to LOGIN;
SELECT auth.temptoken_grant('how_to', 'issue');
SELECT auth.temptoken_grant('how_to', 'validate');
GRANT USAGE ON SCHEMA app TO how_to;
GRANT SELECT ON app.files TO how_to;
"""
NO_TOKEN = "tt_" + "0" * 96


def block(page, language, having):
    """The one block of this language that has this text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", (PAGES / page).read_text(), re.M | re.S)
    found, = [block for block in blocks if having in block]
    return found


def without(switch, text):
    assert text.count(switch) == 1, f"{switch} is not once in {text}"
    return text.replace(switch, "")


@pytest.fixture(scope="session")
def node_modules():
    home = BUILT / "how-to"
    shutil.copytree(ROOT / "examples/tests/how-to", home, dirs_exist_ok=True)
    run("npm", "ci", "--silent", "--no-audit", "--no-fund", directory=home)
    return home


@pytest.fixture
def play(tmp_path, request):
    """Runs a program and answers its exit code and all that it prints."""
    def play(language, program, **environment):
        if language == "python":
            command, file = [sys.executable], tmp_path / "program.py"
        else:
            command, file = ["node"], request.getfixturevalue("node_modules") / f"{tmp_path.name}.mjs"
        file.write_text(program)
        done = subprocess.run([*command, file], env={**os.environ, **environment}, timeout=60, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout
    return play


@pytest.fixture(scope="session")
def database(cluster):
    cluster.create("how_to", SCHEMA)
    return cluster.url("how_to", "how_to")


# ----------------------------------------------------------------------------------------------------------------------
# poolers.md
# ----------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def pooler(cluster, database):
    """PgBouncer in transaction mode, that knows no prepared statements. Each name of a database is a pool of its own, of the one
    that is there."""
    version = subprocess.check_output(["pgbouncer", "--version"], text=True)
    is_old = tuple(map(int, re.search(r"PgBouncer (\d+)\.(\d+)", version).groups())) < (1, 21)
    home = cluster.dir / "pgbouncer"
    home.mkdir()
    (home / "users").write_text('"how_to" ""\n')
    port = free_port()
    (home / "ini").write_text(f"""
[databases]
* = host={cluster.dir} dbname=how_to
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {home}/users
pool_mode = transaction
{"" if is_old else "max_prepared_statements = 0"}
""")
    command = ["pgbouncer", home / "ini"]
    if os.getuid() == 0:
        command = ["runuser", "-u", "postgres", "--", *command]
    server = Server(command, "/", {}, port)
    yield server
    server.close()


# What each driver does often enough that it prepares a statement, and then while another client has taken the session.
PYTHON_PROBE = """
import asyncio, os, psycopg
OTHER = psycopg.connect(os.environ["POOLER"], prepare_threshold=None)
SQL, ARGUMENTS = "SELECT status FROM auth.temptoken_try_validate({}, {}, {})", ("x", "GET", "/files/42")

async def probe(ask):
    for _ in range(8):
        assert await ask() == "token_not_found"
    OTHER.execute("SELECT 1")
    for _ in range(8):
        assert await ask() == "token_not_found"
"""
JS_PROBE = """
import { Client } from "pg";
const SQL = "SELECT status FROM auth.temptoken_try_validate($1, $2, $3)", ARGUMENTS = ["x", "GET", "/files/42"];
const probe = async (ask) => {
  const times = async () => { for (let i = 0; i < 50; i++) if ((await ask()) !== "token_not_found") throw "wrong" };
  await times();
  const other = new Client(process.env.POOLER);
  await other.connect();
  await other.query("BEGIN");
  await times();
  process.exit(0);
};
"""
PSYCOPG = PYTHON_PROBE + """async def ask():
    return connection.execute(SQL.format("%s", "%s", "%s"), ARGUMENTS).fetchone()[0]
asyncio.run(probe(ask))
"""
ASYNCPG = PYTHON_PROBE + """
async def main():
    connection = await connect()
    await probe(lambda: connection.fetchval(SQL.format("$1", "$2", "$3"), *ARGUMENTS))
asyncio.run(main())
"""
SQLALCHEMY = PYTHON_PROBE + """
async def ask():
    with engine.begin() as connection:
        query = sqlalchemy.text(SQL.format(":token", ":method", ":path"))
        return connection.execute(query, dict(zip(("token", "method", "path"), ARGUMENTS))).scalar_one()
asyncio.run(probe(ask))
"""
SQLALCHEMY_ASYNCPG = PYTHON_PROBE + """
from sqlalchemy.ext.asyncio import create_async_engine
async def main():
    url = engine.url.set(drivername="postgresql+asyncpg")
    async def ask():
        async with asynchronous.begin() as connection:
            query = sqlalchemy.text(SQL.format(":token", ":method", ":path"))
            answer = await connection.execute(query, dict(zip(("token", "method", "path"), ARGUMENTS)))
            return answer.scalar_one()
    asynchronous = create_async_engine(url, connect_args=@@)
    await probe(ask)
asyncio.run(main())
"""
POSTGRES_JS = JS_PROBE + """
const [token, method, path] = ARGUMENTS;
const inTransaction = (work) => sql.begin(work);
await probe(() => inTransaction(async (sql) => {
  const [row] = await sql`SELECT status FROM auth.temptoken_try_validate(${token}, ${method}, ${path})`;
  return row.status;
}));
"""
DRIZZLE_POSTGRES_JS = JS_PROBE + """
import { drizzle } from "drizzle-orm/postgres-js";
import { sql as query } from "drizzle-orm";
const [token, method, path] = ARGUMENTS;
const ask = query`SELECT status FROM auth.temptoken_try_validate(${token}, ${method}, ${path})`;
await probe(() => drizzle(sql).transaction(async (db) => (await db.execute(ask))[0].status));
"""
NODE_POSTGRES = JS_PROBE + """
await probe(async () => (await pool.query(@@)).rows[0].status);
"""
DRIZZLE_NODE_POSTGRES = JS_PROBE + """
import { drizzle } from "drizzle-orm/node-postgres";
import { sql as query } from "drizzle-orm";
const [token, method, path] = ARGUMENTS;
const ask = query`SELECT status FROM auth.temptoken_try_validate(${token}, ${method}, ${path})`;
await probe(() => drizzle(pool).transaction(async (db) => (await db.execute(ask)).rows[0].status));
"""

NEEDS_A_SWITCH = {
    "psycopg": ("python", "psycopg.connect", ", prepare_threshold=None", PSYCOPG),
    "asyncpg": ("python", "asyncpg.connect", ", statement_cache_size=0", ASYNCPG),
    "sqlalchemy": ("python", "create_engine", ', connect_args={"prepare_threshold": None}', SQLALCHEMY),
    "postgres-js": ("js", "prepare: false", ", { prepare: false }", POSTGRES_JS),
}


@pytest.fixture
def behind(play, pooler, request):
    """Runs a block and a probe behind the pooler, in a pool that is this test's alone."""
    def behind(language, program, name):
        address = f"127.0.0.1:{pooler.port}/{name}"
        program = program.replace("app@localhost:6432/app", f"how_to@{address}")
        return play(language, program, POOLER=f"postgresql://how_to@{address}")
    return behind


@pytest.mark.parametrize("driver", NEEDS_A_SWITCH)
def test_a_driver_fails_without_its_switch_and_works_with_it(driver, behind):
    language, having, switch, probe = NEEDS_A_SWITCH[driver]
    text = block("poolers.md", language, having)
    code, printed = behind(language, without(switch, text) + probe, f"{driver}_without")
    assert code and re.search(r'prepared statement "\w+" does not exist', printed), printed
    code, printed = behind(language, text + probe, f"{driver}_with")
    assert code == 0, printed


def test_sqlalchemy_on_asyncpg_has_the_switch_that_the_page_names(behind):
    text = block("poolers.md", "python", "create_engine")
    assert '`{"statement_cache_size": 0}`' in (PAGES / "poolers.md").read_text()
    code, printed = behind("python", text + SQLALCHEMY_ASYNCPG.replace("@@", "{}"), "alchemy_asyncpg_without")
    assert code and "does not exist" in printed, printed
    code, printed = behind("python", text + SQLALCHEMY_ASYNCPG.replace("@@", '{"statement_cache_size": 0}'), "alchemy_asyncpg")
    assert code == 0, printed


def test_postgres_js_tries_again_outside_of_transactions(behind):
    text = without(", { prepare: false }", block("poolers.md", "js", "prepare: false"))
    code, printed = behind("js", text + POSTGRES_JS.replace("sql.begin(work)", "work(sql)"), "postgres_js_retries")
    assert code == 0, printed


def test_drizzle_on_postgres_js_works_with_the_switch(behind):
    code, printed = behind("js", block("poolers.md", "js", "prepare: false") + DRIZZLE_POSTGRES_JS, "drizzle_postgres_js")
    assert code == 0, printed


def test_node_postgres_needs_no_switch_but_for_names(behind):
    text = block("poolers.md", "js", "pg.Pool")
    code, printed = behind("js", text + NODE_POSTGRES.replace("@@", "SQL, ARGUMENTS"), "node_postgres")
    assert code == 0, printed
    code, printed = behind("js", text + DRIZZLE_NODE_POSTGRES, "drizzle_node_postgres")
    assert code == 0, printed
    named = NODE_POSTGRES.replace("@@", '{ name: "ask", text: SQL, values: ARGUMENTS }')
    code, printed = behind("js", text + named, "node_postgres_named")
    assert code and 'prepared statement "ask" does not exist' in printed, printed


def test_what_is_bound_stays_in_its_transaction_behind_the_pooler(behind):
    program = block("poolers.md", "python", "psycopg.connect") + """
mint = connection.execute("SELECT auth.temptoken_mint('files', '42', '1 minute'), pg_backend_pid()")
(token, first), method, path = mint.fetchone(), "GET", "/files/42"
""" + block("poolers.md", "python", "temptoken_authenticate") + """
assert rows == [("42",)], rows
other = psycopg.connect(connection.info.dsn)
assert other.execute("SELECT pg_backend_pid()").fetchone()[0] == first, "not the same session"
assert other.execute("SELECT id FROM app.files").fetchall() == []
"""
    code, printed = behind("python", program, "bound")
    assert code == 0, printed


# ----------------------------------------------------------------------------------------------------------------------
# orms-and-error-trackers.md
# ----------------------------------------------------------------------------------------------------------------------

ORMS = "orms-and-error-trackers.md"


@pytest.fixture
def tell(play, pooler):
    """Runs a block and what fails below it, with TOKEN; answers what it prints. Through the pooler, since the URLs of
    postgres.js have no sockets."""
    def tell(language, program):
        address = f"how_to@127.0.0.1:{pooler.port}/told"
        program = program.replace("app@localhost/app", address)
        code, printed = play(language, program, TOKEN=NO_TOKEN, DATABASE_URL=f"postgresql://{address}")
        assert code == 0 and "refused TT001" in printed, printed
        return printed
    return tell


SQLALCHEMY_FAILS = """
import os, traceback
VALIDATE = sqlalchemy.text("SELECT * FROM auth.temptoken_validate(:token, 'GET', '/files/42')")
try:
    with engine.begin() as connection:
        connection.execute(VALIDATE, {"token": os.environ["TOKEN"]})
except Exception as error:
    traceback.print_exc()
    print("refused", error.orig.sqlstate)
"""
SQLALCHEMY_ECHOES = """
engine.echo = True
""" + SQLALCHEMY_FAILS
DRIZZLE_FAILS = """
import { drizzle } from "drizzle-orm/node-postgres";
import { sql } from "drizzle-orm";
import { inspect } from "node:util";
const db = drizzle(process.env.DATABASE_URL), as_it_is = (work) => work();
const ask = sql`SELECT * FROM auth.temptoken_validate(${process.env.TOKEN}, ${"GET"}, ${"/files/42"})`;
for (const work of [() => db.execute(ask), () => db.transaction((tx) => tx.execute(ask))]) {
  try {
    await @@(work);
  } catch (error) {
    console.log(error.message, error.stack, inspect(error, { depth: 9, showHidden: true }), JSON.stringify(error));
    console.log("refused", error.code ?? error.cause.code);
  }
}
process.exit(0);
"""
POSTGRES_JS_FAILS = """
try {
  await sql`SELECT * FROM auth.temptoken_validate(${process.env.TOKEN}, ${"GET"}, ${"/files/42"})`;
} catch (error) {
  console.error(error);
  console.log(error.stack, JSON.stringify(error), "refused", error.code);
  if (error.parameters[0] !== process.env.TOKEN) throw "not even in parameters";
}
process.exit(0);
"""


@pytest.mark.parametrize("probe", [SQLALCHEMY_FAILS, SQLALCHEMY_ECHOES], ids=["exception", "echo"])
def test_sqlalchemy_hides_parameters(probe, tell):
    text = block(ORMS, "python", "create_engine")
    assert NO_TOKEN in tell("python", without(", hide_parameters=True", text) + probe)
    assert NO_TOKEN not in tell("python", text + probe)


def test_drizzle_has_parameters_and_its_cause_has_not(tell):
    text = block(ORMS, "js", "DrizzleQueryError")
    assert NO_TOKEN in tell("js", text + DRIZZLE_FAILS.replace("@@", "as_it_is"))
    printed = tell("js", text + DRIZZLE_FAILS.replace("@@", "withoutParameters"))
    assert NO_TOKEN not in printed and printed.count("refused TT001") == 2


def test_postgres_js_shows_parameters_in_debug_alone(tell):
    text = block(ORMS, "js", "debug: false")
    for debug in ["true", "() => {}"]:
        assert NO_TOKEN in tell("js", text.replace("debug: false", f"debug: {debug}") + POSTGRES_JS_FAILS)
    assert NO_TOKEN not in tell("js", text + POSTGRES_JS_FAILS)


PSYCOPG_FAILS = """
import os, psycopg, traceback
connection = psycopg.connect(os.environ["DATABASE_URL"])
try:
    connection.execute("SELECT * FROM auth.temptoken_validate(%s, 'GET', '/files/42')", (os.environ["TOKEN"],))
except Exception as error:
    traceback.print_exc()
    print(vars(error), "refused", error.sqlstate)
"""
ASYNCPG_FAILS = """
import asyncio, asyncpg, os, traceback
async def main():
    connection = await asyncpg.connect(os.environ["DATABASE_URL"], statement_cache_size=0)
    try:
        await connection.fetch("SELECT * FROM auth.temptoken_validate($1, 'GET', '/files/42')", os.environ["TOKEN"])
    except Exception as error:
        traceback.print_exc()
        print(vars(error), "refused", error.sqlstate)
asyncio.run(main())
"""
NODE_POSTGRES_FAILS = """
import pg from "pg";
import { inspect } from "node:util";
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
try {
  await pool.query("SELECT * FROM auth.temptoken_validate($1, 'GET', '/files/42')", [process.env.TOKEN]);
} catch (error) {
  console.log(error.stack, inspect(error, { depth: 9, showHidden: true }), "refused", error.code);
}
process.exit(0);
"""


@pytest.mark.parametrize("language, program", [
    ("python", PSYCOPG_FAILS), ("python", ASYNCPG_FAILS), ("js", NODE_POSTGRES_FAILS)],
    ids=["psycopg", "asyncpg", "node-postgres"])
def test_a_plain_driver_has_the_token_nowhere(language, program, tell):
    assert NO_TOKEN not in tell(language, program)


@pytest.fixture
def tracker():
    """Takes what an SDK sends, as the tracker's server would."""
    events = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            if "Content-Length" in self.headers:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            else:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
            events.append((gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.events = events
    yield server
    server.shutdown()


# A request that presents its token in each way, and a handler whose exception has it nowhere, as psycopg's.
SENTRY_PYTHON_FAILS = """
import os, flask, psycopg
app = flask.Flask("application")

@app.get("/files/<id>")
def file(id):
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        presented = flask.request.headers["X-Temp-Token"]
        connection.execute("SELECT * FROM auth.temptoken_validate(%s, 'GET', %s)", (presented, flask.request.path))

token = os.environ["TOKEN"]
sentry_sdk.logger.warning("asks for {path}", path=f"/files/42?t={token}")
sentry_sdk.metrics.count("asked", 1, attributes={"path": f"/files/42?t={token}"})
app.test_client().get("/files/42@@", headers={"X-Temp-Token": token, "Authorization": f"Bearer {token}"})
sentry_sdk.flush()
print("refused TT001")
"""
SENTRY_JS_FAILS = """
import { drizzle } from "drizzle-orm/node-postgres";
import { sql } from "drizzle-orm";
const db = drizzle(process.env.DATABASE_URL);
try {
  await db.execute(sql`SELECT * FROM auth.temptoken_validate(${process.env.TOKEN}, ${"GET"}, ${"/files/42"})`);
} catch (error) {
  Sentry.captureException(error);
  console.log("refused", error.cause.code);
}
await Sentry.flush(5000);
process.exit(0);
"""


@pytest.fixture
def sent(tell, tracker):
    def sent(language, program):
        tracker.events.clear()
        tell(language, program.replace("https://key@sentry.example.com/1", f"http://key@127.0.0.1:{tracker.server_port}/1"))
        events = "".join(tracker.events)
        assert "temptoken: token not found" in events, "the exception was not sent"
        return events
    return sent


def test_sentry_for_python_needs_both_switches(sent):
    text = block(ORMS, "python", "sentry_sdk.init")
    scrubs = ",\n    before_send=without_tokens,\n    before_send_log=without_tokens,\n    before_send_metric=without_tokens"
    scrubs += ",\n    before_send_transaction=without_tokens"
    variables = ",\n    include_local_variables=False"
    with_query = SENTRY_PYTHON_FAILS.replace("@@", "?t=" + NO_TOKEN)
    plain = SENTRY_PYTHON_FAILS.replace("@@", "")
    assert '"presented"' in sent("python", without(variables, without(scrubs, text)) + plain)
    assert NO_TOKEN in sent("python", without(variables, without(scrubs, text)) + plain)
    assert NO_TOKEN in sent("python", without(scrubs, text) + with_query)
    for hook in ["before_send_log", "before_send_metric"]:
        assert NO_TOKEN in sent("python", without(f"\n    {hook}=without_tokens,", text) + plain)
    events = sent("python", text + with_query)
    assert NO_TOKEN[:36] not in events and "[token]" in events
    assert '"presented"' not in events and '"type":"transaction"' in events


def test_sentry_for_javascript_scrubs(sent):
    text = block(ORMS, "js", "Sentry.init")
    hooks = "\n  beforeSend: withoutTokens,"
    assert NO_TOKEN in sent("js", without(hooks, text) + SENTRY_JS_FAILS)
    events = sent("js", text + SENTRY_JS_FAILS)
    assert NO_TOKEN[:36] not in events and "[token]" in events
