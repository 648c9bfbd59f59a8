-- The functions that applications call, in the schema that CREATE EXTENSION names.
--
-- None is STRICT: every one sees NULL and answers it. None is IMMUTABLE or STABLE but the list of reserved names: an
-- answer depends on the clock, and on tokens that others may delete. Nothing is granted to PUBLIC: see the end.

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
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_register_scope(text, text[], interval, text, integer, text[], boolean) IS
'Registers a scope.
name: 1 to 255 bytes. allowed_routes: at least one ''METHOD /path''; METHOD is an RFC 9110 token, the path is made of RFC 3986 path characters without percent-encoding. max_ttl: positive, finite, without months or years. resource_id_in_path: the placeholder, in every route, or empty for none. max_uses: positive, or NULL for no limit. spending_methods: methods of the routes, or NULL for all. replace: take the place of a scope of this name.
Errors: TT010 scope_already_registered; TT011 invalid_scope; 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_lookup_scope(name text) RETURNS temptoken.scopes
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_lookup_scope(text) IS
'The scope of this name, or NULL when there is none';

CREATE FUNCTION @extschema@.temptoken_unregister_scope(name text) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT
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
    scope text, resource_id text, ttl interval, metadata jsonb DEFAULT NULL, max_uses integer DEFAULT NULL
) RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_mint(text, text, interval, jsonb, integer) IS
'Mints a token and returns it, the only time that it can be seen.
scope: a registered one. resource_id: at most 2048 bytes; where the scope has a placeholder, RFC 3986 path characters without percent-encoding, and neither . nor .. (two dots). ttl: greater than zero and at most the scope''s max_ttl, without months or years; the expiry is cut to the millisecond. metadata: returned by validation. max_uses: positive; lowers the scope''s limit, does not raise it.
Errors: TT003 scope_unknown; TT005 ttl_exceeds_max; TT012 invalid_resource_id; 22023 max_uses not positive; 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_mint_many(
    scope text,
    resource_ids text[],
    ttl interval,
    metadata jsonb DEFAULT NULL,
    max_uses integer DEFAULT NULL,
    OUT resource_id text,
    OUT token text
) RETURNS SETOF record
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_mint_many(text, text[], interval, jsonb, integer) IS
'Mints a token for each resource id, all or none, in one statement and in the order given. Arguments as of temptoken_mint.
Errors: those of temptoken_mint; 2202E when resource_ids is NULL or not one-dimensional.';

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
    OUT metadata jsonb
) RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_validate(text, text, text) IS
'Authenticates a request: the token''s row, or an error. Spends a use of a limited token.
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
    OUT metadata jsonb
) RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_try_validate(text, text, text) IS
'As temptoken_validate, with the refusal as a value: status is ok, or the refusal''s name and everything else NULL. The transaction goes on.
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
    OUT metadata jsonb
) RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_peek(text, text, text) IS
'As temptoken_try_validate, without spending a use: what a validation would answer now';

-- ---------------------------------------------------------------------------------------------------------------------
-- Delete
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.temptoken_delete(token text) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete(text) IS
'Deletes the token whose text this is; whether there was one.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_delete_by_id(id uuid) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_by_id(uuid) IS
'Deletes the token with this id; whether there was one.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_delete_by_resource_id(scope text, resource_id text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_by_resource_id(text, text) IS
'Deletes every token of a scope that is bound to this resource id; how many. NULL or empty arguments delete nothing.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_delete_by_scope(scope text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_by_scope(text) IS
'Deletes every token of a scope, registered or not; how many. NULL or empty deletes nothing.
Errors: 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_delete_expired(before timestamptz DEFAULT pg_catalog.clock_timestamp()) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_delete_expired(timestamptz) IS
'Deletes every token with expires_at <= before, but for rows that others hold locked; how many. A time to come deletes tokens that are still live. NULL deletes nothing.
Errors: 25006 in a read-only transaction.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Privileges
-- ---------------------------------------------------------------------------------------------------------------------

-- Functions are executable by PUBLIC unless that is taken back. The functions reach the tables on their own: whoever may
-- call one needs no right on a table.
REVOKE ALL ON FUNCTION
    @extschema@.temptoken_register_scope(text, text[], interval, text, integer, text[], boolean),
    @extschema@.temptoken_lookup_scope(text),
    @extschema@.temptoken_unregister_scope(text),
    @extschema@.temptoken_well_known_scopes(),
    @extschema@.temptoken_mint(text, text, interval, jsonb, integer),
    @extschema@.temptoken_mint_many(text, text[], interval, jsonb, integer),
    @extschema@.temptoken_validate(text, text, text),
    @extschema@.temptoken_try_validate(text, text, text),
    @extschema@.temptoken_peek(text, text, text),
    @extschema@.temptoken_delete(text),
    @extschema@.temptoken_delete_by_id(uuid),
    @extschema@.temptoken_delete_by_resource_id(text, text),
    @extschema@.temptoken_delete_by_scope(text),
    @extschema@.temptoken_delete_expired(timestamptz)
FROM PUBLIC;
