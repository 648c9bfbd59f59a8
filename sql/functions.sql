-- The functions that applications call, in the schema that CREATE EXTENSION names.
--
-- None is STRICT: every one sees NULL and answers it. None is IMMUTABLE or STABLE but the list of reserved names: an
-- answer depends on the clock, and on tokens that others may delete. So it is none for another row with the same arguments
-- (SUPPORT). Nothing is granted to anybody: see privileges.sql.

-- ---------------------------------------------------------------------------------------------------------------------
-- Scopes
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.temptoken_register_scope(
    name text,
    allowed_routes text[],
    max_ttl interval,
    resource_id_in_path text DEFAULT '',
    max_uses integer DEFAULT NULL,
    spending_methods text[] DEFAULT NULL,
    replace boolean DEFAULT false
) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_register_scope(text, text[], interval, text, integer, text[], boolean) IS
'Registers a scope.
name: 1 to 255 visible ASCII characters other than " and \ (a scope-token of RFC 6749). allowed_routes: 1 to 1000 ''METHOD /path'' of at most 4096 bytes each; METHOD is an RFC 9110 token, the path is made of RFC 3986 path characters without percent-encoding. max_ttl: positive, finite, without months or years. resource_id_in_path: the placeholder, in every route, at most 64 visible ASCII characters other than / ? # %, or empty for none. max_uses: positive, or NULL for no limit. spending_methods: 1 to 1000 methods of the routes, or NULL for all. replace: take the place of a scope of this name.
Answers a WARNING where a route is valid but probably a mistake: a segment that starts with : and is not the placeholder, a segment with *, one that is . or .. up to a semicolon, a method * or GET|POST. All of them are compared as they are written.
Errors: TT010 scope_already_registered; TT011 invalid_scope; 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_lookup_scope(name text) RETURNS temptoken.scopes
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_lookup_scope(text) IS
'The scope of this name, or NULL when there is none';

CREATE FUNCTION @extschema@.temptoken_unregister_scope(name text) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_unregister_scope(text) IS
'Removes a scope; whether there was one. Its tokens stay, refused as scope_unknown, and live again if it is registered anew.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_well_known_scopes(OUT name text, OUT resource_id_is text) RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    VALUES
        ('mcp_auth', 'id of the OAuth flow that a user authorizes for an MCP server'),
        ('mcp_headers_auth', 'id of the flow in which a user enters headers for an MCP server'),
        ('oauth2_consent', 'id of the OAuth 2.0 authorization request that a user consents to')
$$;
COMMENT ON FUNCTION @extschema@.temptoken_well_known_scopes() IS
'Names of scopes with an agreed meaning, and what their resource id is. Their routes belong to the application, which registers them.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Mint
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.temptoken_mint(
    scope text,
    resource_id text,
    ttl interval,
    metadata jsonb DEFAULT NULL,
    max_uses integer DEFAULT NULL,
    replace boolean DEFAULT false
) RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_mint(text, text, interval, jsonb, integer, boolean) IS
'Mints a token and returns it, the only time that it can be seen.
scope: a registered one. resource_id: at most 2048 bytes; where the scope has a placeholder, RFC 3986 path characters without percent-encoding and semicolon, which are not . or .. (dots); an empty one stands for no resource, and temptoken_delete_by_resource_id removes nothing for it. ttl: greater than zero and at most the scope''s max_ttl, without months or years; the expiry is cut to the millisecond. metadata: returned by validation; at most 65536 bytes as a text, in at most 64 levels of objects and arrays. max_uses: positive, and at most the scope''s; NULL for the scope''s. replace: the earlier tokens of this scope and resource id, an empty one too, end in the same transaction, so that only the newest works, where every mint of them replaces; whoever else replaces them waits until this transaction ends.
Errors: TT003 scope_unknown; TT005 ttl_exceeds_max; TT012 invalid_resource_id; 22023 max_uses not positive or over the scope''s; 54000 metadata of more bytes or levels; 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_mint_many(
    scope text,
    resource_ids text[],
    ttl interval,
    metadata jsonb DEFAULT NULL,
    max_uses integer DEFAULT NULL,
    replace boolean DEFAULT false,
    OUT resource_id text,
    OUT token text
) RETURNS SETOF record
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_mint_many(text, text[], interval, jsonb, integer, boolean) IS
'Mints a token for each resource id, all or none, in one statement and in the order given. Arguments as of temptoken_mint.
With replace, whoever else replaces tokens of the scope waits until this transaction ends.
Errors: those of temptoken_mint; 22023 when a resource id stands twice in resource_ids, with replace; 2202E when resource_ids is NULL or not one-dimensional; 54000 when there are more than a million.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Validate
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.temptoken_validate(
    token text,
    method text,
    path text,
    OUT id uuid,
    OUT scope text,
    OUT resource_id text,
    OUT expires_at timestamptz,
    OUT metadata jsonb,
    OUT uses_left integer
) RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_validate(text, text, text) IS
'Authenticates a request: the token''s row, or an error. Spends a use of a limited token; uses_left is how many it has after this call, NULL without limit. Call it in FROM, and read what it answers: (temptoken_validate(...)).* would call it once a column, and a CTE that nothing reads not at all. With arguments from a row, it is called for each row, and without once a statement. A function of yours around it may have its answer kept for rows with the same arguments where it stands in FROM (enable_memoize): call that in the select list. With FOR UPDATE it is called before the row is locked, and so for the row as it was before a wait, and for rows that SKIP LOCKED leaves out; in the conditions and values of an UPDATE, DELETE or MERGE, and in the select list with FOR UPDATE, once more for a row that another transaction has changed meanwhile. Lock the rows in a statement of its own first.
method: compared without regard to ASCII case. path: the raw path as the router sees it, before decoding, without the query string; compared byte for byte.
Errors, the first that holds: TT001 token_not_found; TT002 token_expired; TT003 scope_unknown; TT004 route_not_allowed; TT006 token_used_up; 25006 when a use would be spent in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_try_validate(
    token text,
    method text,
    path text,
    OUT status text,
    OUT id uuid,
    OUT scope text,
    OUT resource_id text,
    OUT expires_at timestamptz,
    OUT metadata jsonb,
    OUT uses_left integer
) RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_try_validate(text, text, text) IS
'As temptoken_validate, with the refusal as a value: status is ok, or the refusal''s name and everything else NULL. A refusal is a row too: compare the status. The transaction goes on.
Errors: 25006 when a use would be spent in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_peek(
    token text,
    method text,
    path text,
    OUT status text,
    OUT id uuid,
    OUT scope text,
    OUT resource_id text,
    OUT expires_at timestamptz,
    OUT metadata jsonb,
    OUT uses_left integer
) RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_peek(text, text, text) IS
'As temptoken_try_validate, without spending a use: what a validation would answer now';

-- ---------------------------------------------------------------------------------------------------------------------
-- Delete
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.temptoken_delete(token text) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete(text) IS
'Deletes the token whose text this is; whether there was one.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_delete_by_id(id uuid) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_by_id(uuid) IS
'Deletes the token with this id; whether there was one.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_delete_by_resource_id(scope text, resource_id text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_by_resource_id(text, text) IS
'Deletes every token of a scope that is bound to this resource id, compared as text; how many. NULL or empty arguments delete nothing. A token of a transaction that is still open is not seen.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_delete_by_scope(scope text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_by_scope(text) IS
'Deletes every token of a scope, registered or not; how many. NULL or empty deletes nothing. A token of a transaction that is still open is not seen.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_delete_expired(before timestamptz DEFAULT pg_catalog.clock_timestamp()) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_expired(timestamptz) IS
'Deletes every token with expires_at <= before, but for rows that others hold locked; how many. A time to come deletes tokens that are still live. NULL deletes nothing.
Errors: 25006 in a read-only transaction.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Life-cycle
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.temptoken_delete_by_resource_id_trigger() RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_by_resource_id_trigger() IS
'Trigger for a table of the application, AFTER DELETE OR UPDATE FOR EACH ROW: deletes the tokens of the row''s resource in the same transaction.
Arguments in CREATE TRIGGER: a scope, and the column of the table that holds the resource id, of type text, varchar, uuid, smallint, integer or bigint, and not a virtual generated one. The value before the change counts, as PostgreSQL writes it: mint with the column itself (id::text), since 042 or a UUID in capitals is another resource id. NULL and an empty text delete nothing. TRUNCATE fires no row trigger: call temptoken_delete_by_scope() with it. A replicated row fires it where it is enabled ALWAYS. A token of a transaction that is still open is not seen: mint under a lock of the row (SELECT ... FOR SHARE), and ask in it whether the resource is still open. An UPDATE that moves a row to another partition fires the trigger for DELETE.
The owner of the table needs EXECUTE on this function, which temptoken_grant(role, ''issue'') gives with more; where the table is a partition, the owners of its parents do too.
Errors: 42501 when the owner of the table may not execute this function; 39P01 when it is another kind of trigger; 22023 with other than two arguments; 42703 when the column does not fit.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Identity
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.temptoken_authenticate(
    token text,
    method text,
    path text,
    OUT id uuid,
    OUT scope text,
    OUT resource_id text,
    OUT expires_at timestamptz,
    OUT metadata jsonb,
    OUT uses_left integer
) RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_authenticate(text, text, text) IS
'As temptoken_validate, and binds the token to the transaction: temptoken_current_id() and its like answer for it until the transaction ends, or the savepoint in which it was bound is rolled back. Call it in a statement of its own: of the same statement, some rows may still be judged by the binding from before.
Errors: those of temptoken_validate.';

-- STABLE, so that a policy can use an index. RESTRICTED, since only the leader of a parallel query has the binding; in a
-- worker they fail.
CREATE FUNCTION @extschema@.temptoken_current_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_current_id() IS
'Id of the token that temptoken_authenticate has bound to this transaction, or NULL.
Errors: 25000 in a worker of a parallel query, which calls it where a function around it is declared PARALLEL SAFE.';

CREATE FUNCTION @extschema@.temptoken_current_scope() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_current_scope() IS
'Scope of the token that temptoken_authenticate has bound to this transaction, or NULL.
Errors: 25000 in a worker of a parallel query, which calls it where a function around it is declared PARALLEL SAFE.';

CREATE FUNCTION @extschema@.temptoken_current_resource_id() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_current_resource_id() IS
'Resource id of the token that temptoken_authenticate has bound to this transaction, or NULL. Compare the scope too: resource ids of different scopes may be alike.
Errors: 25000 in a worker of a parallel query, which calls it where a function around it is declared PARALLEL SAFE.';

CREATE FUNCTION @extschema@.temptoken_current_metadata() RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_current_metadata() IS
'Metadata of the token that temptoken_authenticate has bound to this transaction, or NULL.
Errors: 25000 in a worker of a parallel query, which calls it where a function around it is declared PARALLEL SAFE.';

CREATE FUNCTION @extschema@.temptoken_pre_request() RETURNS void
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_pre_request() IS
'For PostgREST''s db-pre-request: authenticates the request that PostgREST is about to serve, by its settings request.method, request.path and request.headers. The token is looked for in the header of temptoken.token_header, then in Authorization: Bearer. Without a token nothing is bound, unless temptoken.require_token is on. With one, response.headers becomes Cache-Control: no-store, unless it is set.
Errors: PGRST, which PostgREST answers as 401, for every refusal alike; 25006 when a use would be spent in a read-only transaction, as those of GET are.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Seeing tokens without secrets
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.temptoken_introspect(token text) RETURNS jsonb
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_introspect(text) IS
'Introspection as of RFC 7662, section 2.2: {"active": false} and nothing else, or active, scope, sub (resource id), jti (token id), iat and exp (seconds since 1970). Active is a token that has not expired, has uses left, and whose scope is registered. Never spends a use.';

CREATE FUNCTION @extschema@.temptoken_find_tokens(text text, OUT id uuid, OUT known boolean, OUT active boolean)
RETURNS SETOF record
LANGUAGE c VOLATILE CALLED ON NULL INPUT SUPPORT temptoken.planner_support
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_find_tokens(text) IS
'Every token that stands in a text as it was minted, such as a log (decode a mail before): its id, whether this database has it, whether it is active: not expired, with uses left, its scope registered. Do not paste a log between quotes: it has what strangers have sent. In psql, \set log `grep -aoE ''_[0-9a-f]{96}'' leaked.log | sed s/^/x/` and then :''log''.';

-- A barrier: whoever may read the view sees nothing of other tokens by a function of his own in WHERE.
CREATE VIEW temptoken.active_tokens WITH (security_barrier) AS
SELECT t.id, t.scope, t.resource_id, t.created_at, t.expires_at, t.uses_left, t.metadata
FROM temptoken.temp_tokens AS t
WHERE t.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
    AND (t.uses_left IS NULL OR t.uses_left OPERATOR(pg_catalog.>) 0)
    AND t.scope OPERATOR(pg_catalog.=) ANY (SELECT s.name FROM temptoken.scopes AS s);
COMMENT ON VIEW temptoken.active_tokens IS
'Tokens that have not expired, have uses left, and whose scope is registered: everything but their hashes';
COMMENT ON COLUMN temptoken.active_tokens.id IS 'Token id';
COMMENT ON COLUMN temptoken.active_tokens.scope IS 'Name of the scope';
COMMENT ON COLUMN temptoken.active_tokens.resource_id IS 'Resource id that the token is bound to';
COMMENT ON COLUMN temptoken.active_tokens.created_at IS 'Time of mint';
COMMENT ON COLUMN temptoken.active_tokens.expires_at IS 'The token is refused from this moment on';
COMMENT ON COLUMN temptoken.active_tokens.uses_left IS 'How many more times the token validates; NULL: without limit';
COMMENT ON COLUMN temptoken.active_tokens.metadata IS 'Whatever the application wants back with a validation';
