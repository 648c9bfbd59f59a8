"""What nginx.conf asks, and an application behind it.

    python3 -m venv .venv && .venv/bin/pip install flask gunicorn 'psycopg[binary,pool]'
    .venv/bin/gunicorn -b 127.0.0.1:8000 --forwarder-headers= server:app        with DATABASE_URL
"""

import os
import sys

import psycopg
from flask import Flask, request
from psycopg.rows import namedtuple_row
from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["DATABASE_URL"], kwargs={"row_factory": namedtuple_row}, min_size=1, max_size=10, timeout=3, open=True)
app = Flask(__name__)

# --- To copy: from here -----------------------------------------------------------------------------------------------

QUESTIONS = {
    "let-in": "SELECT * FROM auth.temptoken_try_validate(%s, %s, %s)",
    "peek": "SELECT * FROM auth.temptoken_peek(%s, %s, %s)",
}


def token() -> str:
    return request.headers.get("X-Temp-Token") or request.headers.get("Authorization", "").removeprefix("Bearer ")


@app.get("/auth/<question>")
def auth(question):
    presented = (token(), request.headers["X-Original-Method"], request.headers["X-Original-Path"])
    with pool.connection() as connection:
        judged = connection.execute(QUESTIONS[question], presented).fetchone()
    if judged.status != "ok":
        print("refused", judged.status, file=sys.stderr)
        return "", 401
    return "", 204, {"X-Resource-Id": judged.resource_id}


# --- to here ----------------------------------------------------------------------------------------------------------


@app.get("/files/<id>")
def read(id):
    return {"id": id, "resource_id": request.headers["X-Resource-Id"]}


@app.post("/flows/<id>/approve")
def approve(id):
    with pool.connection() as connection:
        # nginx passes the request's target on as it came.
        presented = (token(), request.method, request.environ["RAW_URI"].partition("?")[0])
        validated = connection.execute("SELECT * FROM auth.temptoken_validate(%s, %s, %s)", presented).fetchone()
        update = connection.execute("UPDATE flows SET approved = true WHERE id = %s", (validated.resource_id,))
        if not update.rowcount:
            raise Gone
        if request.args.get("fail"):
            raise RuntimeError("the work has failed")
    return {"approved": validated.resource_id}


class Gone(Exception):
    """The resource is no longer there."""

    sqlstate = "resource_gone"


@app.errorhandler(Gone)
@app.errorhandler(psycopg.DatabaseError)
def refuse(error):
    if error.sqlstate in ("TT001", "TT002", "TT003", "TT004", "TT006", Gone.sqlstate):
        print("refused", error.sqlstate, file=sys.stderr)
        return {"error": "invalid_token"}, 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    print("database:", type(error).__name__, error.sqlstate, file=sys.stderr)
    return {"error": "unavailable"}, 503
