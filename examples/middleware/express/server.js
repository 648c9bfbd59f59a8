// Express with node-postgres: requests are let in by their token.
//
//     npm install && npm start        with DATABASE_URL and PORT
//
// In a project of yours: npm install express@5 pg. The imports want "type": "module" in its package.json. With Express 4 an error
// of an async function, such as a refusal, ends the process.

import express from "express";
import pg from "pg";

const { DATABASE_URL, PORT } = process.env;
if (!DATABASE_URL || !PORT) throw new Error("DATABASE_URL and PORT have to be set");
const pool = new pg.Pool({ connectionString: DATABASE_URL, connectionTimeoutMillis: 3000 });
pool.on("error", (error) => console.error("database:", error.code)); // A connection was lost while it was idle.

// --- To copy: from here ----------------------------------------------------------------------------------------------

/** The token, method and raw path of a request. All are text.
 *  `originalUrl` is what the client wrote, in a mounted router too, where `url` is stripped. `path` is stripped as well. */
function presented(request) {
  const token = request.get("X-Temp-Token") ?? request.get("Authorization")?.replace(/^Bearer /, "");
  return [token, request.method, request.originalUrl.split("?")[0]];
}

/** The names that try_validate and peek answer, for the SQLSTATEs that validate raises. */
const REFUSALS = {
  TT001: "token_not_found",
  TT002: "token_expired",
  TT003: "scope_unknown",
  TT004: "route_not_allowed",
  TT006: "token_used_up",
};

/** A refusal by its name: a status of try_validate or peek, or that the resource is gone. */
class Refused extends Error {}

/** No link can be made for this. The message is the SQLSTATE. */
class NotMinted extends Error {}

/** A middleware that judges by this function. The token's row is `request.token`. */
const judge = (sql) => async (request, response, next) => {
  response.set("Cache-Control", "no-store"); // No cache keeps the answer, unless its handler sets a header of its own.
  const { rows } = await pool.query(sql, presented(request)).catch(ofDatabase);
  if (rows[0].status !== "ok") throw new Refused(rows[0].status);
  request.token = rows[0];
  next();
};

/** Way one, for reading: one call judges, and spends where the scope says so. */
const lettingIn = judge("SELECT * FROM auth.temptoken_try_validate($1, $2, $3)");

/** Way two, for work: refuses early and spends nothing. The handler calls `validated` in the transaction of its work. */
const peeked = judge("SELECT * FROM auth.temptoken_peek($1, $2, $3)");

/** Throws an error whose `code` is the refusal's SQLSTATE. If the work fails after it, the use comes back. */
async function validated(client, request) {
  return (await client.query("SELECT * FROM auth.temptoken_validate($1, $2, $3)", presented(request))).rows[0];
}

/** A TTL is text, as PostgreSQL reads an interval; a number would be an error. Ids are text.
 *  A `replace => true` in the call ends the earlier links to this id. */
async function mint(resourceId) {
  const sql = "SELECT auth.temptoken_mint('files', $1, $2) AS token"; // 'files' is your scope.
  try {
    return (await pool.query(sql, [resourceId, "15 minutes"])).rows[0].token;
  } catch (error) {
    if (/^TT/.test(error.code)) throw new NotMinted(error.code);
    ofDatabase(error);
  }
}

/** All refusals are alike to the stranger, and told apart in the log. What is wrong with the database is none. */
function refuse(error, _request, response, next) {
  const name = error instanceof Refused ? error.message : REFUSALS[error.code];
  if (name) {
    console.error("refused", name);
    response.set({ "WWW-Authenticate": 'Bearer error="invalid_token"', "Cache-Control": "no-store" });
    return response.status(401).json({ error: "invalid_token" });
  }
  if (error instanceof NotMinted) {
    console.error("not minted:", error.message);
    return response.status(400).json({ error: "no link can be made for this" });
  }
  if (!(error instanceof pg.DatabaseError || error.isOfDatabase || isLost(error))) return next(error);
  console.error("database:", error.code);
  response.status(503).json({ error: "unavailable" });
}

/** node-postgres has no class for a connection that could not be had, for want of a password too, or was lost. */
const ofDatabase = (error) => { throw Object.assign(error, { isOfDatabase: true }); };
const isLost = (error) => error.syscall !== undefined || /Connection terminated/.test(error.message);

/** Runs `work` in a transaction: committed if it answers, rolled back if it throws. */
async function transaction(work) {
  const client = await pool.connect().catch(ofDatabase);
  try {
    await client.query("BEGIN");
    const answer = await work(client);
    await client.query("COMMIT");
    client.release();
    return answer;
  } catch (error) {
    client.release(await client.query("ROLLBACK").then(() => undefined, () => error));
    throw error;
  }
}

// --- to here ---------------------------------------------------------------------------------------------------------

const files = express.Router();
files.get("/:id", lettingIn, (request, response) => {
  response.json({ id: request.params.id, resource_id: request.token.resource_id });
});

const app = express();
app.set("env", "production"); // So that Express's own page of an error shows no stack.
app.use("/files", files);
app.post("/flows/:id/approve", peeked, async (request, response) => {
  const approved = await transaction(async (client) => {
    const token = await validated(client, request);
    const update = await client.query("UPDATE flows SET approved = true WHERE id = $1", [token.resource_id]);
    if (!update.rowCount) throw new Refused("resource_gone");
    if (request.query.fail) throw new Error("the work has failed");
    return token.resource_id;
  });
  response.json({ approved });
});
app.post("/links/:id", async (request, response) => {
  response.set("Cache-Control", "no-store").json({ token: await mint(request.params.id) });
});
app.use(refuse);
app.listen(PORT, "127.0.0.1", () => console.log(`listening on 127.0.0.1:${PORT}`));
