-- The extension as an object: what it owns, what it says of it, where it can live, what it never adopts.

CREATE FUNCTION pg_temp.of_extension() RETURNS SETOF pg_depend LANGUAGE sql AS $$
    SELECT * FROM pg_depend
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
        AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'temptoken')
$$;

-- Every object, by name: a change of this list is a change of the interface.
SELECT i.type, i.identity COLLATE "C" AS identity
FROM pg_temp.of_extension(), pg_identify_object(classid, objid, objsubid) AS i
WHERE classid <> 'pg_type'::regclass ORDER BY 1, 2;
-- Each has its COMMENT.
SELECT objid AS without_comment FROM pg_temp.of_extension()
WHERE classid <> 'pg_type'::regclass AND obj_description(objid, classid::regclass::name) IS NULL;
SELECT attrelid::regclass AS relation, attname AS without_comment FROM pg_attribute
WHERE attrelid IN ('temptoken.scopes'::regclass, 'temptoken.temp_tokens'::regclass) AND attnum > 0
    AND col_description(attrelid, attnum) IS NULL;
-- No function is STRICT, or of a volatility that would let an answer be kept.
SELECT proname, proisstrict, provolatile FROM pg_temp.of_extension() JOIN pg_proc p ON p.oid = objid
WHERE classid = 'pg_proc'::regclass AND (proisstrict OR provolatile <> 'v') ORDER BY 1;

-- Nor are answers kept for another row.
SELECT proname, pronargs FROM pg_temp.of_extension() JOIN pg_proc p ON p.oid = objid
WHERE classid = 'pg_proc'::regclass AND pronamespace = 'public'::regnamespace AND provolatile = 'v' AND prosupport = 0 ORDER BY 1;
-- It does not move: the functions' home is chosen once.
CREATE SCHEMA regress_elsewhere;
ALTER EXTENSION temptoken SET SCHEMA regress_elsewhere;

DROP EXTENSION temptoken;
SELECT count(*) FROM pg_namespace WHERE nspname = 'temptoken';

\set SHOW_CONTEXT never
-- Objects of its names that were here before are an error, and stay what they are.
CREATE SCHEMA temptoken;
CREATE EXTENSION temptoken SCHEMA public;
DROP SCHEMA temptoken;
CREATE FUNCTION public.temptoken_validate(text, text, text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE EXTENSION temptoken SCHEMA public;
SELECT public.temptoken_validate('a', 'b', 'c');
DROP FUNCTION public.temptoken_validate(text, text, text);
-- With other arguments, such as would fit a call better.
CREATE FUNCTION public.temptoken_register_scope(text, text[], text, text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE EXTENSION temptoken SCHEMA public;
SELECT count(*) FROM pg_namespace WHERE nspname = 'temptoken';
DROP FUNCTION public.temptoken_register_scope(text, text[], text, text);
-- A call with a literal is a cast where a type has the name.
CREATE DOMAIN public.temptoken_delete_by_scope AS text;
CREATE EXTENSION temptoken SCHEMA public;
DROP DOMAIN public.temptoken_delete_by_scope;

-- Schemas of difficult names: it works, or says why not.
CREATE SCHEMA "Mixed 1% Case";
CREATE EXTENSION temptoken SCHEMA "Mixed 1% Case";
SELECT (("Mixed 1% Case".temptoken_try_validate(NULL, NULL, NULL))).status;
CREATE ROLE regress_web;
SELECT "Mixed 1% Case".temptoken_grant('regress_web', 'validate');
SELECT has_function_privilege('regress_web', '"Mixed 1% Case".temptoken_peek(text, text, text)', 'EXECUTE') AS granted;
SELECT "Mixed 1% Case".temptoken_revoke_grant('regress_web', 'validate');
DROP EXTENSION temptoken;
REVOKE ALL ON SCHEMA "Mixed 1% Case" FROM regress_web;
DROP ROLE regress_web;
CREATE SCHEMA "a'b$c";
CREATE EXTENSION temptoken SCHEMA "a'b$c";
CREATE EXTENSION temptoken SCHEMA temptoken;
DROP SCHEMA "Mixed 1% Case", "a'b$c", regress_elsewhere;

-- A schema in which any role may create is one in which any role may put a better match for a call.
CREATE SCHEMA "Regress Open";
GRANT CREATE ON SCHEMA "Regress Open" TO PUBLIC;
-- The owner of the database may have set this for it.
SET client_min_messages = error;
CREATE EXTENSION temptoken SCHEMA "Regress Open";
SHOW client_min_messages;
RESET client_min_messages;
-- As is public, where a search path has it, and a schema that belongs to an ordinary role, here that of the database.
CREATE ROLE regress_owner_of_database;
CREATE ROLE regress_member_of_owner IN ROLE regress_owner_of_database;
BEGIN;
DROP EXTENSION temptoken;
CREATE SCHEMA regress_owned AUTHORIZATION regress_owner_of_database;
CREATE EXTENSION temptoken SCHEMA regress_owned;
DROP EXTENSION temptoken;
-- What the owner has revoked from itself, it can grant itself again.
REVOKE CREATE ON SCHEMA regress_owned FROM regress_owner_of_database;
CREATE EXTENSION temptoken SCHEMA regress_owned;
DROP EXTENSION temptoken;
-- Whoever owns a type in a schema can rename it, without CREATE. A table is none.
CREATE SCHEMA regress_taken;
CREATE TABLE regress_taken.harmless (id integer);
ALTER TABLE regress_taken.harmless OWNER TO regress_owner_of_database;
CREATE EXTENSION temptoken SCHEMA regress_taken;
DROP EXTENSION temptoken;
CREATE DOMAIN regress_taken.renamed AS text;
ALTER DOMAIN regress_taken.renamed OWNER TO regress_owner_of_database;
CREATE EXTENSION temptoken SCHEMA regress_taken;
DROP EXTENSION temptoken;
-- So it is with a function or operator of any name, which the owner can replace or has made as a trap.
DROP DOMAIN regress_taken.renamed;
CREATE FUNCTION regress_taken.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT pg_catalog.unnest($1)';
ALTER FUNCTION regress_taken.unnest OWNER TO regress_owner_of_database;
CREATE EXTENSION temptoken SCHEMA regress_taken;
DROP EXTENSION temptoken;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO regress_owner_of_database', current_database()); END $$;
CREATE EXTENSION temptoken SCHEMA public;
ROLLBACK;
DROP ROLE regress_member_of_owner, regress_owner_of_database;
BEGIN;
DROP EXTENSION temptoken;
GRANT CREATE ON SCHEMA public TO PUBLIC;
CREATE SCHEMA regress_own;
CREATE EXTENSION temptoken SCHEMA regress_own;
ROLLBACK;
DROP EXTENSION temptoken;
DROP SCHEMA "Regress Open";

-- What default privileges give to named roles is taken back: nobody but the owner may do anything, and pg_monitor what the
-- privilege 'monitor' covers.
CREATE ROLE regress_web;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO pg_monitor;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_web;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_web;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO regress_web;
CREATE EXTENSION temptoken SCHEMA public;
SELECT grantee::regrole, i.identity COLLATE "C" AS identity
FROM pg_temp.of_extension() AS d,
    LATERAL (SELECT coalesce(proacl, acldefault('f', proowner)), proowner FROM pg_proc WHERE oid = d.objid AND d.classid = 'pg_proc'::regclass
             UNION ALL
             SELECT relacl, relowner FROM pg_class WHERE oid = d.objid AND d.classid = 'pg_class'::regclass
             UNION ALL
             SELECT nspacl, nspowner FROM pg_namespace WHERE oid = d.objid AND d.classid = 'pg_namespace'::regclass)
        AS object (acl, owner),
    LATERAL (SELECT grantee FROM aclexplode(acl)) AS a,
    pg_identify_object(d.classid, d.objid, d.objsubid) AS i
WHERE grantee <> owner ORDER BY 1, 2;
DROP EXTENSION temptoken;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_web, pg_monitor;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_web;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM regress_web;
DROP ROLE regress_web;

-- Dropped and made again in a session that has used it.
CREATE EXTENSION temptoken SCHEMA public;
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT public.temptoken_mint('files', '42', '1 hour') AS token \gset
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
DROP EXTENSION temptoken;
CREATE EXTENSION temptoken SCHEMA public;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
SELECT public.temptoken_mint('files', '42', '1 hour');
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT (public.temptoken_try_validate(public.temptoken_mint('files', '42', '1 hour'), 'GET', '/files/42')).status;

-- Tables that were altered beyond recognition are refused, not misread.
BEGIN;
ALTER TABLE temptoken.temp_tokens ALTER COLUMN token_hash TYPE text USING '';
SELECT (public.temptoken_try_validate(public.temptoken_mint('files', '42', '1 hour'), 'GET', '/files/42')).status;
ROLLBACK;
BEGIN;
ALTER TABLE temptoken.temp_tokens RENAME TO gone;
SELECT (public.temptoken_try_validate('tt_' || repeat('0', 12) || '8' || repeat('0', 3) || '8' || repeat('0', 79), 'GET', '/')).status;
ROLLBACK;
-- A column of one's own is no harm.
ALTER TABLE temptoken.temp_tokens ADD COLUMN note text DEFAULT 'mine';
SELECT (public.temptoken_try_validate(public.temptoken_mint('files', '42', '1 hour'), 'GET', '/files/42')).status;
ALTER TABLE temptoken.temp_tokens DROP COLUMN note;
SELECT (public.temptoken_try_validate(public.temptoken_mint('files', '42', '1 hour'), 'GET', '/files/42')).status;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;

-- In a schema of its own, a grant brings what it takes to call the functions.
DROP EXTENSION temptoken;
CREATE SCHEMA regress_auth;
CREATE ROLE regress_caller;
CREATE EXTENSION temptoken SCHEMA regress_auth;
SELECT regress_auth.temptoken_grant('regress_caller', 'validate');
SET ROLE regress_caller;
SELECT (regress_auth.temptoken_try_validate('x', 'GET', '/')).status;
RESET ROLE;
DROP EXTENSION temptoken;
DROP SCHEMA regress_auth;
DROP ROLE regress_caller;
CREATE EXTENSION temptoken SCHEMA public;
