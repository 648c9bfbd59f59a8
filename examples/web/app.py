"""An example application: a consent page for an agent, and signing in by a link in a mail.

    uvicorn app:app        with DATABASE_URL, after schema.sql; `make example` does all of it
"""

import asyncio
import os
from contextlib import asynccontextmanager

import psycopg
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool

import consent
import magic_link
import tokens

HEADERS = {
    # Nothing of a link leaves with a request to another page, and no other page may frame or script these.
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    # A shared cache would give an answer to whoever comes without its token.
    "Cache-Control": "no-store",
}


@asynccontextmanager
async def lifespan(app: FastAPI):
    kwargs = {"row_factory": namedtuple_row}
    async with AsyncConnectionPool(os.environ["DATABASE_URL"], kwargs=kwargs, min_size=1, max_size=10, timeout=5) as pool:
        app.state.pool, app.state.outbox, app.state.one_at_a_time = pool, [], asyncio.Lock()
        yield


app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
app.include_router(consent.router)
app.include_router(magic_link.router)
app.mount("/static", StaticFiles(directory="static"))
app.add_exception_handler(psycopg.DatabaseError, tokens.refused)


@app.middleware("http")
async def add_headers(request: Request, call_next):
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


# What follows plays the agent and the mailer, so that there is something to click.


@app.get("/")
async def home():
    return FileResponse("static/home.html")


@app.post("/demo/flows")
async def ask(request: Request):
    link = await consent.start_flow(request.app.state.pool, "Harbour Agent", "Read your calendar until Friday")
    return {"link": link}


@app.get("/demo/outbox")
async def outbox(request: Request):
    return [{"to": to, "link": link} for to, link in reversed(request.app.state.outbox[-5:])]
