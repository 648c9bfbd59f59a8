"""The tokens of requests: where they come from, and what a refusal is to those who are refused."""

import logging

import psycopg
from fastapi import Request
from fastapi.responses import JSONResponse

log = logging.getLogger("uvicorn.error")

# The SQLSTATE of each refusal. Only who holds the whole token learns that it has expired: to everybody else it is TT001.
REFUSALS = {
    "TT001": "token_not_found",
    "TT002": "token_expired",
    "TT003": "scope_unknown",
    "TT004": "route_not_allowed",
    "TT006": "token_used_up",
}


async def validated(connection: psycopg.AsyncConnection, request: Request):
    """The row of the request's token. Raises the refusal, which `refused` answers.

    Call it in the transaction that does the work: a use that is spent in it comes back if the work fails.
    """
    # The raw path, before decoding and without the query string. `request.url.path` is decoded.
    path = request.scope["raw_path"].decode("latin-1")
    sql = "SELECT scope, resource_id, expires_at FROM auth.temptoken_validate(%s, %s, %s)"
    cursor = await connection.execute(sql, (request.headers.get("X-Temp-Token"), request.method, path))
    return await cursor.fetchone()


async def refused(_request: Request, error: psycopg.DatabaseError) -> JSONResponse:
    """A refusal is 401, and told apart in the log. What is wrong with the database is 503, never 401."""
    headers = {"Cache-Control": "no-store"}
    refusal = REFUSALS.get(error.sqlstate or "")
    if refusal is None:
        # Neither the message nor the statement: they may repeat what the client sent.
        log.error("database: %s %s", type(error).__name__, error.sqlstate)
        return JSONResponse({"error": "unavailable"}, 503, headers)
    log.warning("refused: %s", refusal)
    because = "expired" if refusal == "token_expired" else "no_longer_good"
    headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    return JSONResponse({"error": "invalid_token", "because": because}, 401, headers)
