-- The schema, its tables, what keeps them right, who may use them, and what a dump carries.
--
-- CREATE without IF NOT EXISTS or OR REPLACE throughout: an object of the same name that was here before, whoever made
-- it, is an error and never adopted.

CREATE SCHEMA temptoken;
COMMENT ON SCHEMA temptoken IS 'tables of the extension temptoken';

-- The rules of a scope, raised as TT011 whichever way the row comes: function, INSERT, UPDATE, restore, replication.
CREATE FUNCTION temptoken.scope_is_valid(
    name text, allowed_routes text[], resource_id_in_path text, max_ttl interval, max_uses integer, spending_methods text[]
) RETURNS boolean
LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'temptoken_scope_is_valid';
COMMENT ON FUNCTION temptoken.scope_is_valid(text, text[], text, interval, integer, text[]) IS
'Constraint of the table temptoken.scopes: true, or an error TT011 that says which rule the scope breaks';

-- PostgreSQL would keep the answer of a function in FROM, VOLATILE or not, for rows with the same arguments (Memoize): one token
-- for several rows, one use for several, or what was so a while ago.
CREATE FUNCTION temptoken.planner_support(internal) RETURNS internal
LANGUAGE c PARALLEL SAFE
AS 'MODULE_PATHNAME', 'temptoken_planner_support';
COMMENT ON FUNCTION temptoken.planner_support(internal) IS
'What the planner asks about calls of the extension''s functions: where the statement has more in it than the call, sets enable_memoize off until the transaction ends, so that each row has a call of its own';

CREATE TABLE temptoken.scopes (
    name text COLLATE pg_catalog."C" NOT NULL,
    allowed_routes text[] NOT NULL,
    resource_id_in_path text COLLATE pg_catalog."C" NOT NULL DEFAULT '',
    max_ttl interval NOT NULL,
    max_uses integer,
    spending_methods text[],
    CONSTRAINT scopes_pkey PRIMARY KEY (name),
    CONSTRAINT scopes_valid CHECK (
        temptoken.scope_is_valid(name, allowed_routes, resource_id_in_path, max_ttl, max_uses, spending_methods)
    )
);
COMMENT ON TABLE temptoken.scopes IS
'Scopes: named classes of tokens.
Code that the administrator puts on this table (triggers, rules, CHECKs, defaults, index expressions) runs with the rights of the owner, so TRIGGER and REFERENCES are privileges for those who may act as the owner, and the functions that it calls belong to the owner or to a superuser. Where the owner is no superuser, calls from a session that has or can get a superuser''s rights are refused (42501). So is every call that writes while the function of a trigger on this table, or a table that foreign keys or partitions tie to it, or the function of a trigger there, belongs to another ordinary role. That helps against mistakes, and is no border: what else such a table uses is not looked at. Validation without limited uses and a sweep that sets off no code go on. What the extension''s functions set off runs under search_path = pg_catalog, pg_temp, and what others set off under theirs: give each of its functions a SET search_path of its own that ends in pg_temp, and qualify every name, those of types too. A constraint trigger that is deferred, or that a caller may defer, runs at commit under the search_path of the session, before PostgreSQL 18 with its rights and from then on with the owner''s: it must rely on neither, and its function needs that SET most.';
COMMENT ON COLUMN temptoken.scopes.name IS
'Name: 1 to 255 visible ASCII characters other than " and \ (a scope-token of RFC 6749)';
COMMENT ON COLUMN temptoken.scopes.allowed_routes IS 'Routes that a token of this scope opens, each ''METHOD /path''';
COMMENT ON COLUMN temptoken.scopes.resource_id_in_path IS
'Placeholder in the routes that stands for the token''s resource id, such as {id}; empty: none';
COMMENT ON COLUMN temptoken.scopes.max_ttl IS 'Longest time from mint to expiry; no months or years';
COMMENT ON COLUMN temptoken.scopes.max_uses IS 'How many times a token validates; NULL: without limit';
COMMENT ON COLUMN temptoken.scopes.spending_methods IS 'Methods whose requests spend a use of a limited token; NULL: all';
COMMENT ON CONSTRAINT scopes_valid ON temptoken.scopes IS 'The rules of a scope';

CREATE TABLE temptoken.temp_tokens (
    id uuid NOT NULL,
    token_hash bytea NOT NULL,
    scope text COLLATE pg_catalog."C" NOT NULL,
    resource_id text COLLATE pg_catalog."C" NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    uses_left integer,
    metadata jsonb,
    CONSTRAINT temp_tokens_pkey PRIMARY KEY (id),
    CONSTRAINT temp_tokens_expire CHECK (pg_catalog.isfinite(expires_at))
);
CREATE INDEX temp_tokens_scope_resource_id_idx ON temptoken.temp_tokens (scope, resource_id);
COMMENT ON TABLE temptoken.temp_tokens IS
'Tokens that were minted and neither deleted nor swept; never their secrets.
Code that the administrator puts on this table (triggers, rules, CHECKs, defaults, index expressions) runs with the rights of the owner, so TRIGGER and REFERENCES are privileges for those who may act as the owner, and the functions that it calls belong to the owner or to a superuser. Where the owner is no superuser, calls from a session that has or can get a superuser''s rights are refused (42501). So is every call that writes while the function of a trigger on this table, or a table that foreign keys or partitions tie to it, or the function of a trigger there, belongs to another ordinary role. That helps against mistakes, and is no border: what else such a table uses is not looked at. Validation without limited uses and a sweep that sets off no code go on. What the extension''s functions set off runs under search_path = pg_catalog, pg_temp, and what others set off under theirs: give each of its functions a SET search_path of its own that ends in pg_temp, and qualify every name, those of types too. A constraint trigger that is deferred, or that a caller may defer, runs at commit under the search_path of the session, before PostgreSQL 18 with its rights and from then on with the owner''s: it must rely on neither, and its function needs that SET most.';
COMMENT ON COLUMN temptoken.temp_tokens.id IS
'Token id: a version 8 UUID that leads with the expiry time, so that this index is also the one on expiry';
COMMENT ON COLUMN temptoken.temp_tokens.token_hash IS 'SHA-256 over the id''s bytes and the secret''s';
COMMENT ON COLUMN temptoken.temp_tokens.scope IS
'Name of the scope; no foreign key: a token whose scope is not registered is refused, and lives again with it';
COMMENT ON COLUMN temptoken.temp_tokens.resource_id IS 'Resource id that the token is bound to';
COMMENT ON COLUMN temptoken.temp_tokens.created_at IS 'Time of mint';
COMMENT ON COLUMN temptoken.temp_tokens.expires_at IS 'The token is refused from this moment on, swept or not';
COMMENT ON COLUMN temptoken.temp_tokens.uses_left IS 'How many more times the token validates; NULL: without limit';
COMMENT ON COLUMN temptoken.temp_tokens.metadata IS 'Whatever the application wants back with a validation';
COMMENT ON CONSTRAINT temp_tokens_expire ON temptoken.temp_tokens IS 'No token lives for ever';
COMMENT ON INDEX temptoken.temp_tokens_scope_resource_id_idx IS 'For deletion by resource id and by scope';

-- Sessions keep scopes in memory. A row trigger, enabled ALWAYS, because the workers of logical replication fire no
-- other kind.
CREATE FUNCTION temptoken.scopes_changed() RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'temptoken_scopes_changed';
COMMENT ON FUNCTION temptoken.scopes_changed() IS
'Trigger of the table temptoken.scopes: has every session forget the scopes that it keeps in memory';

CREATE TRIGGER scopes_changed AFTER INSERT OR UPDATE OR DELETE ON temptoken.scopes
    FOR EACH ROW EXECUTE FUNCTION temptoken.scopes_changed();
CREATE TRIGGER scopes_truncated AFTER TRUNCATE ON temptoken.scopes
    FOR EACH STATEMENT EXECUTE FUNCTION temptoken.scopes_changed();
ALTER TABLE temptoken.scopes ENABLE ALWAYS TRIGGER scopes_changed;
ALTER TABLE temptoken.scopes ENABLE ALWAYS TRIGGER scopes_truncated;
COMMENT ON TRIGGER scopes_changed ON temptoken.scopes IS 'Empties the scope caches of all sessions';
COMMENT ON TRIGGER scopes_truncated ON temptoken.scopes IS 'Empties the scope caches of all sessions';

-- A dump carries scopes, which are configuration, and no tokens: restoring yesterday's would bring revoked and spent
-- ones back to life.
SELECT pg_catalog.pg_extension_config_dump('temptoken.scopes', '');
