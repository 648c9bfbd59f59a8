"""Signing in by a link in a mail, with a button that a mail scanner does not press."""

import asyncio
import hashlib
import secrets

from fastapi import APIRouter, BackgroundTasks, Form, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse

from tokens import validated

router = APIRouter()

TTL = "15 minutes"
COOKIE = "session"


def cookie_hash(request: Request) -> bytes:
    return hashlib.sha256(request.cookies.get(COOKIE, "").encode()).digest()


async def link_for(pool, email: str) -> str | None:
    """A link for this user; of several, only the newest works. None if there is no such user."""
    async with pool.connection() as connection:
        # FOR SHARE: whoever deletes the user waits until the token is there, and then the trigger ends it.
        mint = """WITH asked AS (SELECT email FROM users WHERE email = %s FOR SHARE)
                  SELECT auth.temptoken_mint('magic_link', email, %s::interval, replace => true) FROM asked"""
        minted = await (await connection.execute(mint, (email, TTL))).fetchone()
    return f"/sign-in/link#{minted[0]}" if minted else None


@router.get("/sign-in")
async def form():
    return FileResponse("static/sign-in.html")


@router.post("/sign-in")
async def send(request: Request, later: BackgroundTasks, email: str = Form(max_length=200)):
    """The answer is the same whether there is such a user or not, and as fast: all the rest comes after it. A real application also
    limits how often somebody may ask."""
    later.add_task(mail, request.app.state, email)
    return RedirectResponse("/sign-in?sent", 303)


async def mail(state, email: str):
    # One at a time, to leave the pool to the pages, and all as long: else the time of pages and other mails would tell.
    async with state.one_at_a_time:
        link, _ = await asyncio.gather(link_for(state.pool, email), asyncio.sleep(0.05))
    if link:
        state.outbox.append((email, link))  # A real application gives it to its mailer.


@router.get("/sign-in/link")
async def link_page():
    return FileResponse("static/link.html")


@router.get("/api/sign-in")
async def who(request: Request):
    """Whom the link is for. Spends nothing."""
    async with request.app.state.pool.connection() as connection:
        token = await validated(connection, request)
    return {"email": token.resource_id, "expires_at": token.expires_at}


@router.post("/api/sign-in")
async def sign_in(request: Request) -> Response:
    secret = secrets.token_urlsafe(32)
    async with request.app.state.pool.connection() as connection:
        token = await validated(connection, request)
        sql = "INSERT INTO sessions VALUES (sha256(%s), %s, now() + interval '1 day')"
        await connection.execute(sql, (secret.encode(), token.resource_id))
    response = JSONResponse({"email": token.resource_id})
    # Behind a TLS proxy on another host this is "http", unless uvicorn is told to trust it: --forwarded-allow-ips.
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, secret, max_age=86400, httponly=True, samesite="lax", secure=secure)
    return response


@router.get("/api/session")
async def session(request: Request):
    """Who is signed in; nobody is null."""
    async with request.app.state.pool.connection() as connection:
        sql = """SELECT name FROM sessions JOIN users USING (email)
                 WHERE cookie_hash = %s AND expires_at > now()"""
        found = await (await connection.execute(sql, (cookie_hash(request),))).fetchone()
    return {"name": found[0] if found else None}


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    async with request.app.state.pool.connection() as connection:
        await connection.execute("DELETE FROM sessions WHERE cookie_hash = %s", (cookie_hash(request),))
    response = RedirectResponse("/", 303)
    if COOKIE in request.cookies:  # A form of another site comes without it, and signs nobody out.
        response.delete_cookie(COOKIE)
    return response
