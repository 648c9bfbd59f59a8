"""FastAPI or Starlette with psycopg: requests are let in by their token.

    python3 -m venv .venv && .venv/bin/pip install fastapi uvicorn 'psycopg[binary,pool]'
    .venv/bin/uvicorn server:app        with DATABASE_URL
"""

import logging
import os
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool

log = logging.getLogger("uvicorn.error")

# --- To copy: from here -----------------------------------------------------------------------------------------------


def presented(request: Request) -> tuple:
    """The token, method and raw path of a request. All are text.

    `raw_path` is what the client wrote, before decoding and without the query string, in a mounted application too.
    `request.url.path` is decoded.
    """
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    token = request.headers.get("X-Temp-Token") or bearer
    return token, request.method, request.scope["raw_path"].decode("latin-1")


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


async def letting_in(request: Request):
    """Way one, for reading: one call judges, and spends where the scope says so."""
    return await judged(request, "SELECT * FROM auth.temptoken_try_validate(%s, %s, %s)")


async def peeked(request: Request):
    """Way two, for work: refuses early and spends nothing. The handler calls `validated` in the transaction of its work."""
    return await judged(request, "SELECT * FROM auth.temptoken_peek(%s, %s, %s)")


async def judged(request: Request, sql: str):
    async with request.app.state.pool.connection() as connection:
        token = await (await connection.execute(sql, presented(request))).fetchone()
    if token.status != "ok":
        raise Refused(token.status)
    return token


async def validated(connection: psycopg.AsyncConnection, request: Request):
    """Raises a DatabaseError whose sqlstate is the refusal's: if the work fails after it, the use comes back."""
    sql = "SELECT * FROM auth.temptoken_validate(%s, %s, %s)"
    return await (await connection.execute(sql, presented(request))).fetchone()


async def mint(connection: psycopg.AsyncConnection, resource_id: str) -> str:
    """A TTL is a timedelta; ids are text. A `replace => true` in the call ends the earlier links to this id."""
    sql = "SELECT auth.temptoken_mint('files', %s, %s)"  # 'files' is your scope.
    try:
        return (await (await connection.execute(sql, (resource_id, timedelta(minutes=15)))).fetchone())[0]
    except psycopg.DatabaseError as error:
        if not (error.sqlstate or "").startswith("TT"):
            raise
        log.error("not minted: %s", error.sqlstate)
        raise HTTPException(400, "no link can be made for this") from None


async def refuse(_request: Request, error: Exception) -> JSONResponse:
    """All refusals are alike to the stranger, and told apart in the log. No error of the database is one."""
    sqlstate = getattr(error, "sqlstate", None)
    name = str(error) if isinstance(error, Refused) else REFUSALS.get(sqlstate)
    if name is None:
        log.error("database: %s %s", type(error).__name__, sqlstate)
        return JSONResponse({"error": "unavailable"}, 503)
    log.warning("refused %s", name)
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"', "Cache-Control": "no-store"}
    return JSONResponse({"error": "invalid_token"}, 401, headers)


async def no_store(request: Request, call_next):
    """A middleware: no cache keeps an answer, unless its handler sets a Cache-Control of its own."""
    response = await call_next(request)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


# --- to here ----------------------------------------------------------------------------------------------------------

files, flows = FastAPI(), APIRouter()


@files.get("/{id}")
async def read(id: str, token=Depends(letting_in)):
    return {"id": id, "resource_id": token.resource_id}


@flows.post("/flows/{id}/approve")
async def approve(request: Request, fail: bool = False, token=Depends(peeked)):
    async with request.app.state.pool.connection() as connection:
        token = await validated(connection, request)
        update = await connection.execute("UPDATE flows SET approved = true WHERE id = %s", (token.resource_id,))
        if not update.rowcount:
            raise Refused("resource_gone")
        if fail:
            raise RuntimeError("the work has failed")
    return {"approved": token.resource_id}


@flows.post("/links/{id}")
async def link(request: Request, id: str):
    async with request.app.state.pool.connection() as connection:
        return {"token": await mint(connection, id)}


@asynccontextmanager
async def lifespan(app: FastAPI):
    kwargs = {"row_factory": namedtuple_row}
    async with AsyncConnectionPool(os.environ["DATABASE_URL"], kwargs=kwargs, min_size=1, max_size=10, timeout=3) as pool:
        app.state.pool = files.state.pool = pool
        print("listening", flush=True)
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/files", files)
app.include_router(flows)
app.middleware("http")(no_store)
for each in (app, files):
    each.add_exception_handler(Refused, refuse)
    each.add_exception_handler(psycopg.DatabaseError, refuse)
