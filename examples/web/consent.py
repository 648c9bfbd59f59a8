"""A consent page: an agent asks, a person looks and answers, once."""

import secrets
from typing import Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel

from tokens import validated

router = APIRouter()

TTL = "10 minutes"

# The trigger ends the links of a flow that is deleted. TRUNCATE fires none.
gone = HTTPException(401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


class Answer(BaseModel):
    answer: Literal["approved", "denied"]


async def start_flow(pool, agent: str, wish: str) -> str:
    """Stores what an agent asks for; the link to the page on which a person answers.

    The token is in the fragment, which a browser sends to nobody: no access log, proxy or Referer has it.
    """
    flow = secrets.token_urlsafe(9)
    async with pool.connection() as connection:
        await connection.execute("INSERT INTO flows VALUES (%s, %s, %s)", (flow, agent, wish))
        mint = "SELECT auth.temptoken_mint('oauth2_consent', %s, %s::interval)"
        (token,) = await (await connection.execute(mint, (flow, TTL))).fetchone()
    return f"/consent/{flow}#{token}"


@router.get("/consent/{flow}")
async def page(flow: str):
    """The page is the same for everybody. It asks for the flow itself, with the token of its link."""
    return FileResponse("static/consent.html")


@router.get("/api/flows/{flow}")
async def show(request: Request):
    async with request.app.state.pool.connection() as connection:
        token = await validated(connection, request)
        # The token's resource id, rather than the path's: it is what was validated.
        sql = "SELECT agent, wish, answer FROM flows WHERE id = %s"
        found = await (await connection.execute(sql, (token.resource_id,))).fetchone()
        if not found:
            raise gone
    agent, wish, answer = found
    return {"agent": agent, "wish": wish, "answer": answer, "expires_at": token.expires_at}


@router.put("/api/flows/{flow}")
async def decide(flow: str, answer: Answer, request: Request):
    # One transaction: the use is spent, the answer is stored, and the trigger ends the flow's links. Or none of it. The flow is
    # locked first, as by whoever deletes it, so that the two cannot wait for each other.
    async with request.app.state.pool.connection() as connection:
        await connection.execute("SELECT FROM flows WHERE id = %s FOR UPDATE", (flow,))
        token = await validated(connection, request)
        sql = "UPDATE flows SET answer = %s WHERE id = %s"
        if not (await connection.execute(sql, (answer.answer, token.resource_id))).rowcount:
            raise gone
    return {"answer": answer.answer}
