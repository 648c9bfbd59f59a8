-- Nothing is granted to PUBLIC. A role that may call a function needs no right on a table, and gets none by it.

CREATE ROLE regress_fresh;
CREATE ROLE regress_validator LOGIN;
CREATE ROLE regress_issuer LOGIN;
CREATE ROLE regress_reader;
GRANT pg_read_all_data TO regress_reader;
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT public.temptoken_mint('files', '42', '1 hour') AS token \gset

CREATE SCHEMA regress_uses;
GRANT USAGE ON SCHEMA regress_uses TO PUBLIC;
CREATE FUNCTION regress_uses.state_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;
    RETURN state;
END $$;
-- Every object of the extension, as a statement that uses it. No statement can call what takes an internal value.
CREATE TABLE regress_uses.uses AS
SELECT p.proname AS object,
       format('SELECT %s(%s)', p.oid::regproc,
           (SELECT string_agg('NULL::' || format_type(type, NULL), ', ' ORDER BY at)
            FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, at))) AS statement
FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'temptoken') AND p.prorettype <> 'internal'::regtype
UNION ALL
SELECT c.relname || ' ' || command, format(statement, c.oid::regclass)
FROM pg_depend d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind IN ('r', 'v'),
    (VALUES ('SELECT', 'TABLE %s'), ('INSERT', 'INSERT INTO %s DEFAULT VALUES'), ('DELETE', 'DELETE FROM %s'),
        ('TRUNCATE', 'TRUNCATE %s'), ('LOCK', 'LOCK TABLE %s')) AS v (command, statement)
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'temptoken');
GRANT SELECT ON regress_uses.uses TO PUBLIC;
GRANT EXECUTE ON FUNCTION regress_uses.state_of(text) TO PUBLIC;

SET ROLE regress_fresh;
SELECT object, regress_uses.state_of(statement) FROM regress_uses.uses ORDER BY object COLLATE "C";
RESET ROLE;

-- Validation granted, and nothing else.
GRANT EXECUTE ON FUNCTION public.temptoken_validate(text, text, text), public.temptoken_try_validate(text, text, text)
TO regress_validator;
SET ROLE regress_validator;
SELECT scope, resource_id FROM public.temptoken_validate(:'token', 'GET', '/files/42');
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/43')).status;
SELECT object, regress_uses.state_of(statement) FROM regress_uses.uses
WHERE object NOT IN ('temptoken_validate', 'temptoken_try_validate') AND regress_uses.state_of(statement) <> '42501';
RESET ROLE;

-- Issuing granted: it writes the table for the role, which cannot. In a session in which nobody else has: what is
-- looked up once a session must not depend on who came first.
GRANT EXECUTE ON FUNCTION public.temptoken_mint(text, text, interval, jsonb, integer, boolean),
    public.temptoken_delete_by_resource_id(text, text) TO regress_issuer;
\c -
SET ROLE regress_issuer;
SELECT length(public.temptoken_mint('files', 'issued', '1 hour'));
SELECT public.temptoken_delete_by_resource_id('files', 'issued');
SELECT current_user;
SELECT object FROM regress_uses.uses
WHERE object NOT IN ('temptoken_mint', 'temptoken_delete_by_resource_id') AND regress_uses.state_of(statement) <> '42501';
RESET ROLE;

-- Who may read everything reads hashes, and a hash opens nothing.
SET ROLE regress_reader;
SELECT count(*) FROM temptoken.temp_tokens;
RESET ROLE;
GRANT EXECUTE ON FUNCTION public.temptoken_try_validate(text, text, text) TO regress_reader;
SET ROLE regress_reader;
SELECT (public.temptoken_try_validate('tt_' || replace(id::text, '-', '') || encode(token_hash, 'hex'), 'GET', '/files/42')).status,
       (public.temptoken_try_validate(encode(token_hash, 'hex'), 'GET', '/files/42')).status,
       (public.temptoken_try_validate(id::text, 'GET', '/files/42')).status
FROM temptoken.temp_tokens;
RESET ROLE;

-- Row-level security on the tables, forced even, has no say in what the functions see and do.
ALTER TABLE temptoken.temp_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE temptoken.scopes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE ROLE regress_owner;
GRANT USAGE ON SCHEMA temptoken TO regress_owner;
GRANT EXECUTE ON FUNCTION temptoken.scope_is_valid(text, text[], text, interval, integer, text[]) TO regress_owner;
ALTER TABLE temptoken.temp_tokens OWNER TO regress_owner;
ALTER TABLE temptoken.scopes OWNER TO regress_owner;
\c - regress_issuer
SELECT length(public.temptoken_mint('files', 'issued', '1 hour'));
SELECT public.temptoken_delete_by_resource_id('files', 'issued');
\c - regress_validator
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
\c - postgres
ALTER TABLE temptoken.temp_tokens OWNER TO postgres;
ALTER TABLE temptoken.scopes OWNER TO postgres;
ALTER TABLE temptoken.temp_tokens DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
ALTER TABLE temptoken.scopes DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;

-- A schema that comes first in the search path, with operators, functions and tables of its own.
CREATE SCHEMA regress_hostile;
CREATE FUNCTION regress_hostile.called() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a hostile function was called';
END $$;
DO $$
DECLARE
    operator text;
    type text;
BEGIN
    FOREACH operator IN ARRAY ARRAY['=', '<', '<=', '>', '>=', '-', '<>'] LOOP
        FOREACH type IN ARRAY ARRAY['text', 'uuid', 'timestamptz', 'integer', 'bytea', 'interval'] LOOP
            EXECUTE format('CREATE FUNCTION regress_hostile.op(%1$s, %1$s) RETURNS boolean LANGUAGE sql '
                'AS ''SELECT regress_hostile.called()''', type);
            EXECUTE format('CREATE OPERATOR regress_hostile.%s (LEFTARG = %s, RIGHTARG = %2$s, FUNCTION = regress_hostile.op)',
                operator, type);
            EXECUTE format('ALTER FUNCTION regress_hostile.op(%1$s, %1$s) RENAME TO %2$I', type, 'op_' || operator);
        END LOOP;
    END LOOP;
END $$;
CREATE FUNCTION regress_hostile.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''epoch''::timestamptz WHERE regress_hostile.called()';
CREATE FUNCTION regress_hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''epoch''::timestamptz WHERE regress_hostile.called()';
CREATE FUNCTION regress_hostile.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea WHERE regress_hostile.called()';
CREATE FUNCTION regress_hostile.upper(text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text WHERE regress_hostile.called()';
CREATE FUNCTION regress_hostile.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE sql AS 'SELECT $1[1] WHERE regress_hostile.called()';
CREATE FUNCTION regress_hostile.scope_is_valid(text, text[], text, interval, integer, text[]) RETURNS boolean LANGUAGE sql AS 'SELECT regress_hostile.called()';
CREATE TABLE regress_hostile.temp_tokens (LIKE temptoken.temp_tokens);
CREATE TABLE regress_hostile.scopes (LIKE temptoken.scopes);
CREATE TEMP TABLE temp_tokens (LIKE temptoken.temp_tokens);
CREATE TEMP TABLE scopes (LIKE temptoken.scopes);
-- A session of its own, so that every statement is planned under that path.
\c -
SET search_path = regress_hostile, pg_temp, pg_catalog, public;
SELECT public.temptoken_register_scope('hostile', ARRAY['GET /h/{id}'], '1 hour', '{id}', max_uses => 2);
SELECT public.temptoken_register_scope('hostile', ARRAY['GET /h/{id}'], '1 hour', '{id}', max_uses => 2, replace => true);
SELECT public.temptoken_mint('hostile', '1', '1 hour') AS token \gset
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/h/1');
SELECT count(*) FROM public.temptoken_mint_many('hostile', '{1,2}', '1 hour');
SELECT public.temptoken_delete(:'token');
SELECT public.temptoken_delete_by_resource_id('hostile', '1');
SELECT public.temptoken_delete_expired(pg_catalog.clock_timestamp());
SELECT public.temptoken_delete_by_scope('hostile');
SELECT public.temptoken_unregister_scope('hostile');
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA regress_hostile CASCADE;
DROP SCHEMA regress_uses CASCADE;
RESET client_min_messages;

-- Whoever may read active_tokens learns nothing of other tokens by a function of his own, however cheap that says it is.
SELECT public.temptoken_register_scope('listed', ARRAY['GET /l/{id}'], '1 hour', '{id}');
SELECT count(*) FROM public.temptoken_mint_many('listed', '{1,2}', '1 hour');
UPDATE temptoken.temp_tokens SET expires_at = created_at WHERE resource_id = '2';
CREATE FUNCTION pg_temp.leak(text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$;
SELECT count(*) FROM temptoken.active_tokens WHERE scope = 'listed' AND pg_temp.leak(resource_id);

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
REVOKE ALL ON FUNCTION public.temptoken_validate(text, text, text), public.temptoken_try_validate(text, text, text),
    public.temptoken_mint(text, text, interval, jsonb, integer, boolean), public.temptoken_delete_by_resource_id(text, text),
    temptoken.scope_is_valid(text, text[], text, interval, integer, text[])
FROM regress_validator, regress_issuer, regress_reader, regress_owner;
REVOKE ALL ON SCHEMA temptoken FROM regress_owner;
DROP ROLE regress_fresh, regress_validator, regress_issuer, regress_reader, regress_owner;
