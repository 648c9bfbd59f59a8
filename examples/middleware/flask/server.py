"""Flask with psycopg: requests are let in by their token.

    python3 -m venv .venv && .venv/bin/pip install flask gunicorn 'psycopg[binary,pool]'
    .venv/bin/gunicorn -b 127.0.0.1:8000 --forwarder-headers= server:app        with DATABASE_URL
"""

import functools
import os
import sys
from datetime import timedelta

import psycopg
from flask import Blueprint, Flask, abort, after_this_request, g, jsonify, request
from psycopg.rows import namedtuple_row
from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["DATABASE_URL"], kwargs={"row_factory": namedtuple_row}, min_size=1, max_size=10, timeout=3, open=True)

# --- To copy: from here -----------------------------------------------------------------------------------------------


def presented() -> tuple:
    """The token, method and raw path of this request. All are text.

    gunicorn and Flask's own server put the raw target into RAW_URI, uWSGI into REQUEST_URI. PATH_INFO and `request.path` are
    decoded. A server that has neither is an error, not a guess.
    """
    environ = request.environ
    raw = environ["RAW_URI"] if "RAW_URI" in environ else environ["REQUEST_URI"]
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return request.headers.get("X-Temp-Token") or bearer, request.method, raw.partition("?")[0]


# The names that try_validate and peek answer, for the SQLSTATEs that validate raises.
REFUSALS = {
    "TT001": "token_not_found",
    "TT002": "token_expired",
    "TT003": "scope_unknown",
    "TT004": "route_not_allowed",
    "TT006": "token_used_up",
}


class Refused(Exception):
    """A refusal by its name: a status of try_validate or peek, or that the resource is gone."""


def guarded(sql: str):
    """A decorator of views that judges before them. The token's row is in `g.token`."""
    def decorate(view):
        @functools.wraps(view)
        def judging(*args, **kwargs):
            after_this_request(no_store)
            with pool.connection() as connection:
                g.token = connection.execute(sql, presented()).fetchone()
            if g.token.status != "ok":
                raise Refused(g.token.status)
            return view(*args, **kwargs)
        return judging
    return decorate


def no_store(response):
    """No cache keeps the answer, unless its view sets a Cache-Control of its own."""
    response.headers.setdefault("Cache-Control", "no-store")
    return response


# Way one, for reading: one call judges, and spends where the scope says so.
letting_in = guarded("SELECT * FROM auth.temptoken_try_validate(%s, %s, %s)")
# Way two, for work: refuses early and spends nothing. The view calls `validated` in the transaction of its work.
peeked = guarded("SELECT * FROM auth.temptoken_peek(%s, %s, %s)")


def validated(connection: psycopg.Connection):
    """Raises a DatabaseError whose sqlstate is the refusal's: if the work fails after it, the use comes back."""
    return connection.execute("SELECT * FROM auth.temptoken_validate(%s, %s, %s)", presented()).fetchone()


def mint(connection: psycopg.Connection, resource_id: str) -> str:
    """A TTL is a timedelta; ids are text. A `replace => true` in the call ends the earlier links to this id."""
    sql = "SELECT auth.temptoken_mint('files', %s, %s)"  # 'files' is your scope.
    try:
        return connection.execute(sql, (resource_id, timedelta(minutes=15))).fetchone()[0]
    except psycopg.DatabaseError as error:
        if not (error.sqlstate or "").startswith("TT"):
            raise
        print("not minted:", error.sqlstate, file=sys.stderr)
        abort(400, "no link can be made for this")


def refuse(error: Exception):
    """All refusals are alike to the stranger, and told apart in the log. No error of the database is one."""
    sqlstate = getattr(error, "sqlstate", None)
    name = str(error) if isinstance(error, Refused) else REFUSALS.get(sqlstate)
    if name is None:
        print("database:", type(error).__name__, sqlstate, file=sys.stderr)
        return jsonify(error="unavailable"), 503
    print("refused", name, file=sys.stderr)
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"', "Cache-Control": "no-store"}
    return jsonify(error="invalid_token"), 401, headers


# --- to here ----------------------------------------------------------------------------------------------------------

files = Blueprint("files", __name__, url_prefix="/files")


@files.get("/<id>")
@letting_in
def read(id):
    return jsonify(id=id, resource_id=g.token.resource_id)


app = Flask(__name__)
app.register_blueprint(files)
app.register_error_handler(Refused, refuse)
app.register_error_handler(psycopg.DatabaseError, refuse)


@app.post("/flows/<id>/approve")
@peeked
def approve(id):
    with pool.connection() as connection:
        token = validated(connection)
        update = connection.execute("UPDATE flows SET approved = true WHERE id = %s", (token.resource_id,))
        if not update.rowcount:
            raise Refused("resource_gone")
        if request.args.get("fail"):
            raise RuntimeError("the work has failed")
    return jsonify(approved=token.resource_id)


@app.post("/links/<id>")
def link(id):
    with pool.connection() as connection:
        return jsonify(token=mint(connection, id)), {"Cache-Control": "no-store"}
