-- The links of an AI gateway: a user authorizes an OAuth flow, enters headers, or consents, on a page that opens without
-- a login. Each link is a token for one flow, for 15 minutes. `make demo` plays it.

CREATE SCHEMA auth;
CREATE EXTENSION temptoken SCHEMA auth;
SET search_path = auth;

-- 1. Scopes: which routes, for how long. {id} stands for the flow.
SELECT temptoken_register_scope('mcp_auth',
    ARRAY['GET /api/oauth/per-user/flows/{id}', 'GET /api/oauth/per-user/flows/{id}/start'],
    '15 minutes', '{id}');
SELECT temptoken_register_scope('mcp_headers_auth',
    ARRAY['GET /api/mcp/per-user-headers/flows/{id}', 'PUT /api/mcp/per-user-headers/flows/{id}'],
    '15 minutes', '{id}');
SELECT temptoken_register_scope('oauth2_consent',
    ARRAY['GET /api/oauth2/consent/flows/{id}', 'PUT /api/oauth2/consent/flows/{id}'],
    '15 minutes', '{id}', max_uses => 1, spending_methods => '{PUT}');

-- A second scope of a name is refused.
SELECT temptoken_register_scope('mcp_auth', ARRAY['GET /api/anything'], '1 hour');

-- 2. A flow begins: mint its token. It is shown this once; the database keeps a hash.
SELECT temptoken_mint('mcp_auth', 'flow-81f3', '15 minutes') AS token \gset
\echo :token
SELECT id, encode(token_hash, 'hex') AS token_hash, scope, resource_id FROM temptoken.temp_tokens;

-- 3. The user's browser opens the page, then starts the flow: both are routes of the scope.
SELECT scope, resource_id FROM temptoken_validate(:'token', 'GET', '/api/oauth/per-user/flows/flow-81f3');
SELECT scope, resource_id FROM temptoken_validate(:'token', 'GET', '/api/oauth/per-user/flows/flow-81f3/start');

-- 4. Whatever else the same token is tried on is refused, each refusal with its own SQLSTATE.
-- Another flow:
SELECT * FROM temptoken_validate(:'token', 'GET', '/api/oauth/per-user/flows/flow-99aa');
-- Another method:
SELECT * FROM temptoken_validate(:'token', 'DELETE', '/api/oauth/per-user/flows/flow-81f3');
-- An unrelated path:
SELECT * FROM temptoken_validate(:'token', 'GET', '/api/providers');
-- An unrelated path that a proxy might decode into an allowed one:
SELECT * FROM temptoken_validate(:'token', 'GET', '/api/providers/..%2Foauth%2Fper-user%2Fflows%2Fflow-81f3');
-- An unknown token, here a right id with a made-up secret:
SELECT * FROM temptoken_validate(left(:'token', 35) || repeat('0', 64), 'GET', '/api/oauth/per-user/flows/flow-81f3');
-- The refusal as a value, which does not abort a transaction:
SELECT status, scope FROM temptoken_try_validate(:'token', 'GET', '/api/providers');

-- 5. The flow ends: its tokens go with it, and the link is dead.
SELECT temptoken_delete_by_resource_id('mcp_auth', 'flow-81f3');
SELECT * FROM temptoken_validate(:'token', 'GET', '/api/oauth/per-user/flows/flow-81f3');
-- Nothing left to delete is a success too.
SELECT temptoken_delete_by_resource_id('mcp_auth', 'flow-81f3');

-- 6. A token that nobody deletes expires, by the clock, at the moment of the call...
SELECT temptoken_mint('oauth2_consent', 'flow-52d0', '1 second') AS token \gset
SELECT status FROM temptoken_try_validate(:'token', 'PUT', '/api/oauth2/consent/flows/flow-52d0');
SELECT pg_sleep(1.1);
SELECT * FROM temptoken_validate(:'token', 'PUT', '/api/oauth2/consent/flows/flow-52d0');

-- ... and the background worker, which here comes every two seconds, removes its row.
SELECT pg_sleep(3);
SELECT count(*) AS rows_left FROM temptoken.temp_tokens;
