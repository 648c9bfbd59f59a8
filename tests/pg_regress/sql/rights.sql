-- Whoever may call a function becomes nobody else by it. Code that an administrator has put on the tables runs with the
-- owner's rights; what it names is not the caller's choice.

-- Without what was left of columns that are gone: a rule has to return as many as there have ever been.
DROP EXTENSION temptoken;
CREATE EXTENSION temptoken SCHEMA public;
CREATE ROLE regress_thief;
GRANT ALL ON SCHEMA public TO regress_thief;
SELECT public.temptoken_grant('regress_thief', privilege) FROM unnest(ARRAY['issue', 'validate', 'manage']) AS privilege;
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}', max_uses => 100);
CREATE TABLE public.audit_log (operation text, acting text);
CREATE TABLE public.stolen (acting text, operation text);
GRANT INSERT ON public.stolen TO PUBLIC;

-- What the thief has: tables, functions, operators and types of the same names, first on the path.
CREATE SCHEMA regress_thief AUTHORIZATION regress_thief;
SET ROLE regress_thief;
GRANT ALL ON SCHEMA regress_thief TO PUBLIC;
CREATE FUNCTION regress_thief.steal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.stolen VALUES (current_user, TG_OP);
    RETURN NEW;
END $$;
CREATE FUNCTION regress_thief.called(text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.stolen VALUES (current_user, $1);
    RETURN true;
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA regress_thief TO PUBLIC;
CREATE TABLE regress_thief.audit_log (operation text, acting text);
CREATE TRIGGER steal BEFORE INSERT ON regress_thief.audit_log FOR EACH ROW EXECUTE FUNCTION regress_thief.steal();
GRANT ALL ON regress_thief.audit_log TO PUBLIC;
CREATE FUNCTION regress_thief.is_fine(text) RETURNS boolean LANGUAGE sql AS $$ SELECT regress_thief.called('function') $$;
CREATE FUNCTION regress_thief.lower(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM regress_thief.called('lower');
    RETURN $1;
END $$;
RESET ROLE;

-- One call of everything that writes; which errors came of it.
CREATE FUNCTION public.regress_each_call() RETURNS TABLE (call text, state text, message text) LANGUAGE plpgsql AS $body$
DECLARE
    token text := current_setting('regress.token');
BEGIN
    FOREACH call IN ARRAY ARRAY[
        $$SELECT length(public.temptoken_mint('files', '1', '1 hour'))$$,
        $$SELECT length(public.temptoken_mint('files', '1', '1 hour', replace => true))$$,
        $$SELECT count(*) FROM public.temptoken_mint_many('files', '{2,3}', '1 hour')$$,
        $$SELECT count(*) FROM public.temptoken_mint_many('files', '{2,3}', '1 hour', replace => true)$$,
        $$SELECT (public.temptoken_validate($1, 'GET', '/files/42')).scope$$,
        $$SELECT (public.temptoken_try_validate($1, 'GET', '/files/42')).status$$,
        $$SELECT (public.temptoken_authenticate($1, 'GET', '/files/42')).scope$$,
        $$SELECT public.temptoken_delete_by_resource_id('files', '1')$$,
        $$SELECT public.temptoken_delete_by_id(id) FROM public.temptoken_find_tokens($1)$$,
        $$SELECT public.temptoken_delete($1)$$,
        $$SELECT public.temptoken_delete_expired('2222-02-02')$$,
        $$SELECT public.temptoken_delete_by_scope('files')$$,
        $$SELECT public.temptoken_register_scope('other', ARRAY['GET /other'], '1 hour')$$,
        $$SELECT public.temptoken_register_scope('other', ARRAY['GET /other'], '1 hour', replace => true)$$,
        $$SELECT public.temptoken_unregister_scope('other')$$,
        $$SELECT count(*) FROM public.temptoken_stats()$$
    ] LOOP
        message := NULL;
        BEGIN
            EXECUTE call USING token;
            state := 'ok';
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
        END;
        call := substring(call FROM 'temptoken_[a-z_]+');
        RETURN NEXT;
    END LOOP;
END $body$;
-- The thief's session: its path, its temporary tables, each with a trigger.
CREATE FUNCTION public.regress_as_thief() RETURNS TABLE (state text, message text, calls bigint) LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM set_config('regress.token', public.temptoken_mint('files', '42', '1 hour'), false);
    EXECUTE 'SET LOCAL ROLE regress_thief';
    EXECUTE 'SET LOCAL search_path = regress_thief, pg_catalog, public';
    RETURN QUERY SELECT c.state, c.message, count(*) FROM public.regress_each_call() AS c GROUP BY 1, 2 ORDER BY 1, 2;
    EXECUTE 'RESET ROLE';
END $body$;

-- An audit trigger that qualifies what it names: everything works, as the owner.
CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.audit_log VALUES (TG_OP, current_user || ' ' || current_setting('search_path'));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.audit();
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON temptoken.scopes FOR EACH ROW EXECUTE FUNCTION public.audit();
SELECT * FROM public.regress_as_thief();
SELECT operation, acting, count(*) FROM public.audit_log GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) AS stolen FROM public.stolen;
TRUNCATE public.audit_log;

-- One that does not qualify: without the thief's help it finds nothing.
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_log VALUES (TG_OP, current_user);
    RETURN NULL;
END $$;
ALTER TABLE temptoken.temp_tokens DISABLE TRIGGER audit;
DELETE FROM temptoken.temp_tokens;
SELECT public.temptoken_mint('files', '42', '1 hour') AS token \gset
SELECT set_config('regress.token', :'token', false) = '' AS empty;
CREATE FUNCTION public.regress_mint_as_thief() RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    SET LOCAL ROLE regress_thief;
    SET LOCAL search_path = regress_thief, pg_catalog, public;
    RETURN length(public.temptoken_mint('files', '1', '1 hour'));
END $body$;
ALTER TABLE temptoken.temp_tokens ENABLE TRIGGER audit;
\set VERBOSITY terse
SELECT public.regress_mint_as_thief();
-- And with it, nothing of the thief's: a temporary table with a trigger, and a temporary view.
SET ROLE regress_thief;
CREATE TEMP TABLE audit_log (operation text, acting text);
CREATE TRIGGER steal BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION regress_thief.steal();
GRANT ALL ON audit_log TO PUBLIC;
RESET ROLE;
SELECT public.regress_mint_as_thief();
SELECT count(*) AS stolen FROM public.stolen;
SELECT count(*) AS touched FROM pg_temp.audit_log;
SET ROLE regress_thief;
SET search_path = regress_thief, pg_catalog, public;
SELECT state, message, count(*) FROM public.regress_each_call() GROUP BY 1, 2 ORDER BY 1, 2;
RESET search_path;
RESET ROLE;
SELECT count(*) AS stolen FROM public.stolen;
SELECT count(*) AS touched FROM pg_temp.audit_log;
DROP TABLE pg_temp.audit_log;
SET ROLE regress_thief;
CREATE TEMP VIEW audit_log AS SELECT 'x'::text AS operation, 'x'::text AS acting WHERE regress_thief.called('view');
GRANT ALL ON audit_log TO PUBLIC;
RESET ROLE;
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM * FROM audit_log;
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
DROP VIEW pg_temp.audit_log;
SELECT count(*) AS stolen FROM public.stolen;
-- What the planner computes before it looks at a statement's tables is not the thief's either: the default of a temporary
-- table, a temporary domain's check, a view of constants.
SET ROLE regress_thief;
CREATE FUNCTION regress_thief.constant() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM regress_thief.called('planner');
    RETURN current_user;
END $$;
CREATE FUNCTION regress_thief.checked(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN regress_thief.called('domain');
END $$;
CREATE TEMP TABLE audit_log (operation text, acting text DEFAULT regress_thief.constant());
GRANT ALL ON audit_log TO PUBLIC;
CREATE DOMAIN pg_temp.audited AS text CHECK (regress_thief.checked(VALUE));
RESET ROLE;
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_log (operation) VALUES (TG_OP);
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 'x'::audited;
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    operation text := TG_OP::audited;
BEGIN
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
-- Prepared in the same transaction, as the thief.
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    entry audited;
BEGIN
    SELECT TG_OP INTO entry;
    RETURN NULL;
END $$;
CREATE FUNCTION regress_thief.prime() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    entry pg_temp.audited;
BEGIN
    SELECT 'x'::text INTO entry;
END $$;
BEGIN;
SET LOCAL ROLE regress_thief;
SELECT regress_thief.prime();
RESET ROLE;
SELECT public.regress_mint_as_thief();
ROLLBACK;
SET ROLE regress_thief;
DROP TABLE pg_temp.audit_log;
DROP DOMAIN pg_temp.audited;
CREATE TEMP VIEW audit_log AS SELECT 'x'::text AS operation WHERE regress_thief.constant() = 'x';
GRANT ALL ON audit_log TO PUBLIC;
RESET ROLE;
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count(*) FROM audit_log;
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
DROP VIEW pg_temp.audit_log;
-- Nor is it planned with: planning estimates what the operators of a view or rule say.
SET ROLE regress_thief;
CREATE TABLE regress_thief.estimated AS SELECT 'a'::text AS c FROM generate_series(1, 1000);
ANALYZE regress_thief.estimated;
CREATE FUNCTION regress_thief.equal(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN regress_thief.called('estimate');
END $$;
CREATE OPERATOR regress_thief.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = regress_thief.equal, RESTRICT = eqsel);
CREATE TEMP VIEW audit_log AS SELECT 'x'::text AS operation FROM regress_thief.estimated WHERE c OPERATOR(regress_thief.===) 'b';
GRANT ALL ON audit_log TO PUBLIC;
RESET ROLE;
SELECT public.regress_mint_as_thief();
DROP VIEW pg_temp.audit_log;
SET ROLE regress_thief;
CREATE TEMP TABLE audit_log (operation text);
CREATE RULE estimated AS ON INSERT TO audit_log DO ALSO
    SELECT count(*) FROM regress_thief.estimated WHERE c OPERATOR(regress_thief.===) 'b';
GRANT ALL ON audit_log TO PUBLIC;
RESET ROLE;
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_log VALUES (TG_OP);
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
SELECT count(*) AS stolen FROM public.stolen;
DROP TABLE pg_temp.audit_log;
-- Nor is a plan run that the thief has made before, under the same search path.
CREATE FUNCTION public.collect(operation text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_log (operation) VALUES (collect.operation);
END $$;
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.collect(TG_OP);
    RETURN NULL;
END $$;
SET ROLE regress_thief;
CREATE TEMP TABLE audit_log (operation text, acting text DEFAULT regress_thief.constant());
SET search_path = pg_catalog, pg_temp;
SELECT public.collect('prepared') FROM generate_series(1, 10);
RESET search_path;
RESET ROLE;
SELECT public.regress_mint_as_thief();
SELECT acting, count(*) FROM audit_log GROUP BY acting;
DROP TABLE audit_log;
DELETE FROM public.stolen WHERE acting = 'regress_thief';
-- TRUNCATE is no statement that is planned, and calls triggers too.
SET ROLE regress_thief;
CREATE TEMP TABLE audit_log (operation text);
CREATE TRIGGER steal BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION regress_thief.steal();
RESET ROLE;
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE audit_log;
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
SELECT count(*) AS stolen FROM public.stolen;
DROP TABLE pg_temp.audit_log;
-- A row type with a domain is a type too, and whoever calls on the way makes no difference.
SET ROLE regress_thief;
CREATE DOMAIN regress_thief.audited AS text CHECK (regress_thief.checked(VALUE));
CREATE TEMP TABLE audit_log (operation regress_thief.audited[]);
RESET ROLE;
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    entry audit_log%ROWTYPE;
BEGIN
    SELECT TG_OP INTO entry;
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
CREATE FUNCTION public.regress_mint_for_thief() RETURNS integer LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$ SELECT length(public.temptoken_mint('files', '1', '1 hour')) $$;
SET ROLE regress_thief;
SELECT public.regress_mint_for_thief();
RESET ROLE;
-- So is a temporary type with a cast, in the place of a type that is not qualified; and so is a table's row type.
SET ROLE regress_thief;
CREATE TYPE pg_temp.audit_kind AS ENUM ('insert');
CREATE TEMP TABLE audit_entry (operation text);
CREATE FUNCTION regress_thief.kind(text) RETURNS pg_temp.audit_kind LANGUAGE plpgsql AS $$
BEGIN
    PERFORM regress_thief.called('cast');
    RETURN NULL;
END $$;
CREATE FUNCTION regress_thief.entry(text) RETURNS pg_temp.audit_entry LANGUAGE plpgsql AS $$
BEGIN
    PERFORM regress_thief.called('cast');
    RETURN ROW('insert'::text);
END $$;
CREATE CAST (text AS pg_temp.audit_kind) WITH FUNCTION regress_thief.kind(text) AS ASSIGNMENT;
CREATE CAST (text AS pg_temp.audit_entry) WITH FUNCTION regress_thief.entry(text);
DROP TABLE pg_temp.audit_log;
RESET ROLE;
CREATE FUNCTION public.regress_named(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    kind audit_kind;
BEGIN
    kind := $1;
    RETURN $1;
END $$;
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.regress_named(TG_OP);
    RETURN NULL;
END $$;
SELECT public.regress_mint_as_thief();
CREATE OR REPLACE FUNCTION public.regress_named(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF pg_catalog.current_setting('regress.armed', true) = 'on' THEN
        PERFORM $1::audit_entry;
    END IF;
    RETURN $1;
END $$;
DROP TYPE pg_temp.audit_kind CASCADE;
SET regress.armed = on;
SELECT public.regress_mint_as_thief();
SELECT count(*) AS stolen FROM public.stolen;
-- Whatever code the table has: none of it is taken for the extension's own.
DROP TRIGGER audit ON temptoken.temp_tokens;
CREATE DOMAIN public.regress_note AS text CHECK (public.regress_named('x') = VALUE IS NOT TRUE);
CREATE FUNCTION public.regress_each_code() RETURNS TABLE (code text, answer text) LANGUAGE plpgsql AS $body$
DECLARE
    codes CONSTANT text[] := ARRAY[
        'ADD note text DEFAULT public.regress_named($$x$$)', 'DROP note',
        'ADD note text GENERATED ALWAYS AS (public.regress_named(resource_id)) STORED', 'DROP note',
        'ADD note public.regress_note', 'DROP note',
        'DROP CONSTRAINT temp_tokens_expire, ADD CONSTRAINT fine CHECK (public.regress_named(resource_id) = resource_id)',
        'DROP CONSTRAINT fine, ADD CONSTRAINT temp_tokens_expire CHECK (pg_catalog.isfinite(expires_at))',
        'DROP CONSTRAINT temp_tokens_expire, ADD CONSTRAINT temp_tokens_expire CHECK (public.regress_named(resource_id) = resource_id)',
        'DROP CONSTRAINT temp_tokens_expire, ADD CONSTRAINT temp_tokens_expire CHECK (pg_catalog.isfinite(expires_at))',
        'ADD resource_id_in_path text DEFAULT public.regress_named($$x$$)', 'DROP resource_id_in_path',
        'ADD FOREIGN KEY (scope) REFERENCES temptoken.scopes', 'DROP CONSTRAINT temp_tokens_scope_fkey',
        'ADD CONSTRAINT sole EXCLUDE ((public.regress_named(resource_id)) WITH =)', 'DROP CONSTRAINT sole',
        'ADD CONSTRAINT sole EXCLUDE (id WITH =) WHERE (public.regress_named($$x$$) = $$x$$)', 'DROP CONSTRAINT sole',
        'ADD note tsquery DEFAULT pg_catalog.ts_rewrite($$a$$, $$SELECT ''a''::tsquery, ''b''::tsquery$$)', 'DROP note'];
BEGIN
    FOR at IN 1 .. cardinality(codes) BY 2 LOOP
        code := codes[at];
        PERFORM set_config('regress.armed', 'off', false);
        EXECUTE 'ALTER TABLE temptoken.temp_tokens ' || code;
        PERFORM set_config('regress.armed', 'on', false);
        BEGIN
            answer := public.regress_mint_as_thief();
        EXCEPTION WHEN OTHERS THEN
            answer := SQLSTATE;
        END;
        RETURN NEXT;
        PERFORM set_config('regress.armed', 'off', false);
        EXECUTE 'ALTER TABLE temptoken.temp_tokens ' || codes[at + 1];
    END LOOP;
END $body$;
BEGIN;
SELECT * FROM public.regress_each_code();
SELECT count(*) AS stolen FROM public.stolen;
ROLLBACK;
SET regress.armed = off;
CREATE INDEX named ON temptoken.scopes (public.regress_named(name));
SET regress.armed = on;
SET ROLE regress_thief;
SELECT public.temptoken_register_scope('other', ARRAY['GET /other'], '1 hour');
RESET ROLE;
DROP INDEX temptoken.named;
CREATE TABLE public.regress_child () INHERITS (temptoken.temp_tokens);
SELECT public.regress_mint_as_thief();
DROP TABLE public.regress_child;
SET regress.armed = off;
DROP INDEX temptoken.temp_tokens_scope_resource_id_idx;
CREATE INDEX temp_tokens_scope_resource_id_idx ON temptoken.temp_tokens (scope, resource_id)
    WHERE public.regress_named(resource_id) <> 'x';
SET regress.armed = on;
SELECT public.regress_mint_as_thief();
SELECT count(*) AS stolen FROM public.stolen;
DROP INDEX temptoken.temp_tokens_scope_resource_id_idx;
CREATE INDEX temp_tokens_scope_resource_id_idx ON temptoken.temp_tokens (scope, resource_id);
SET regress.armed = off;
CREATE FUNCTION public.regress_compared(text, text) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM public.regress_named($1);
    RETURN pg_catalog.bttextcmp($1, $2);
END $$;
CREATE OPERATOR CLASS public.regress_text FOR TYPE text USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 public.regress_compared(text, text);
CREATE INDEX named ON temptoken.temp_tokens (resource_id public.regress_text);
SET regress.armed = on;
SELECT public.regress_mint_as_thief();
DROP INDEX temptoken.named;
DROP OPERATOR FAMILY public.regress_text USING btree;
CREATE TRIGGER scopes_changed AFTER INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.audit();
SELECT public.regress_mint_as_thief();
ALTER EXTENSION temptoken ADD FUNCTION public.audit();
SELECT public.regress_mint_as_thief();
ALTER EXTENSION temptoken DROP FUNCTION public.audit();
DROP TRIGGER scopes_changed ON temptoken.temp_tokens;
BEGIN;
CREATE OR REPLACE FUNCTION temptoken.scopes_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.regress_named('x');
    RETURN NULL;
END $$;
SET LOCAL ROLE regress_thief;
SELECT public.temptoken_register_scope('other', ARRAY['GET /other'], '1 hour');
ROLLBACK;
CREATE TABLE public.regress_parent (LIKE temptoken.temp_tokens) PARTITION BY LIST (public.regress_named(scope));
SET regress.armed = off;
ALTER TABLE public.regress_parent ATTACH PARTITION temptoken.temp_tokens FOR VALUES IN ('files');
SET regress.armed = on;
SELECT public.regress_mint_as_thief();
SET regress.armed = off;
ALTER TABLE public.regress_parent DETACH PARTITION temptoken.temp_tokens;
DROP TABLE public.regress_parent;
-- Planning runs code too, of a statement that only reads: constants in conditions, statistics on expressions.
CREATE STATISTICS temptoken.named (ndistinct) ON (scope = public.regress_named('files')), resource_id FROM temptoken.temp_tokens;
SET regress.armed = on;
SET ROLE regress_thief;
SELECT public.temptoken_delete_by_resource_id('files', '1');
SELECT count(*) FROM public.temptoken_stats();
RESET ROLE;
SET regress.armed = off;
DROP STATISTICS temptoken.named;
CREATE INDEX named ON temptoken.temp_tokens (expires_at) WHERE scope = public.regress_named('files');
SET regress.armed = on;
SET ROLE regress_thief;
SELECT count(*) FROM public.temptoken_stats();
RESET ROLE;
SET regress.armed = off;
DROP INDEX temptoken.named;
SELECT count(*) AS stolen FROM public.stolen;
-- What does not run with a statement of ours is no code: plain indexes, views, policies, publications.
CREATE INDEX named ON temptoken.temp_tokens (created_at);
CREATE VIEW public.regress_view AS SELECT public.regress_named(scope) FROM temptoken.temp_tokens;
CREATE POLICY named ON temptoken.temp_tokens USING (public.regress_named(scope) IS NOT NULL);
ALTER TABLE temptoken.temp_tokens ENABLE ROW LEVEL SECURITY;
SET client_min_messages = error;
CREATE PUBLICATION regress_named FOR TABLE temptoken.temp_tokens;
RESET client_min_messages;
SET regress.armed = on;
SELECT public.regress_mint_as_thief();
SET regress.armed = off;
DROP PUBLICATION regress_named;
ALTER TABLE temptoken.temp_tokens DISABLE ROW LEVEL SECURITY;
DROP POLICY named ON temptoken.temp_tokens;
DROP VIEW public.regress_view;
DROP INDEX temptoken.named;
SELECT count(*) AS stolen FROM public.stolen;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.audit();
DROP TABLE pg_temp.audit_entry CASCADE;
DROP FUNCTION public.regress_each_code;
DROP DOMAIN public.regress_note;
DROP FUNCTION public.regress_mint_for_thief, public.collect, public.regress_compared, public.regress_named;
SELECT count(*) AS stolen FROM public.stolen;
-- The owner's own temporary table is the owner's.
CREATE OR REPLACE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE IF NOT EXISTS regress_own (operation text);
    INSERT INTO regress_own VALUES (TG_OP);
    RETURN NULL;
END $$;
SET client_min_messages = warning;
SELECT public.regress_mint_as_thief();
RESET client_min_messages;
SELECT * FROM regress_own;
DROP TABLE regress_own;
DROP TRIGGER audit ON temptoken.temp_tokens;
DROP TRIGGER audit ON temptoken.scopes;
-- The session's own temporary tables are in nobody's way, where nothing of the owner's names them.
CREATE TEMP TABLE temp_tokens (id uuid);
SELECT public.regress_mint_as_thief();
SET quote_all_identifiers = on;
SELECT public.regress_mint_as_thief();
RESET quote_all_identifiers;
DROP TABLE pg_temp.temp_tokens;

-- A rule that returns no id leads no sweep astray.
UPDATE temptoken.temp_tokens SET expires_at = 'epoch';
CREATE TABLE public.regress_null AS SELECT id FROM temptoken.temp_tokens;
CREATE RULE nulls AS ON DELETE TO temptoken.temp_tokens DO INSTEAD
    DELETE FROM public.regress_null WHERE id = OLD.id
    RETURNING NULL::uuid, NULL::bytea, NULL::text, NULL::text, NULL::timestamptz, NULL::timestamptz, NULL::integer, NULL::jsonb;
SELECT public.temptoken_delete_expired('2222-02-02') > 0 AS removed;
DROP RULE nulls ON temptoken.temp_tokens;

-- A CHECK, a default and an index expression that name what the thief has too.
CREATE FUNCTION public.is_fine(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 IS NOT NULL $$;
CREATE FUNCTION public.checked(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN is_fine($1); END $$;
CREATE FUNCTION public.lowered(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN lower($1); END $$;
CREATE INDEX lowered ON temptoken.temp_tokens (public.lowered(resource_id));
ALTER TABLE temptoken.temp_tokens ADD COLUMN note text DEFAULT public.lowered('Default');
SELECT * FROM public.regress_as_thief();
SELECT count(*) AS stolen FROM public.stolen;
ALTER TABLE temptoken.temp_tokens DROP COLUMN note, ADD CONSTRAINT fine CHECK (public.checked(resource_id)) NOT VALID;
SELECT public.regress_mint_as_thief();
SELECT count(*) AS stolen FROM public.stolen;
ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT fine;
DROP INDEX temptoken.lowered;

-- The path and the user are the caller's again on every way out: an answer, a refusal, an error, one that is caught.
SET search_path = regress_thief, public;
CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'AB123'; END $$;
SELECT length(public.temptoken_mint('files', '1', '1 hour')), current_setting('search_path'), current_user = session_user AS self;
CREATE TRIGGER fail BEFORE INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.fail();
SELECT public.temptoken_mint('files', '1', '1 hour');
SELECT current_setting('search_path'), current_user = session_user AS self;
DO $$
BEGIN
    PERFORM public.temptoken_mint('files', '1', '1 hour');
EXCEPTION WHEN SQLSTATE 'AB123' THEN
    RAISE NOTICE '% %', current_setting('search_path'), current_user = session_user;
END $$;
BEGIN;
SAVEPOINT s;
SELECT public.temptoken_mint('files', '1', '1 hour');
ROLLBACK TO s;
SELECT current_setting('search_path'), current_user = session_user AS self;
COMMIT;
DROP TRIGGER fail ON temptoken.temp_tokens;
RESET search_path;

-- Tables that are not the extension's own are refused, whatever they are called.
CREATE FUNCTION pg_temp.states() RETURNS TABLE (state text, calls bigint) LANGUAGE sql AS
    'SELECT state, count(*) FROM public.regress_each_call() GROUP BY 1 ORDER BY 1';
BEGIN;
ALTER SCHEMA temptoken RENAME TO elsewhere;
CREATE SCHEMA temptoken;
CREATE TABLE temptoken.temp_tokens (LIKE elsewhere.temp_tokens INCLUDING ALL);
CREATE TABLE temptoken.scopes (LIKE elsewhere.scopes INCLUDING ALL);
INSERT INTO temptoken.scopes SELECT * FROM elsewhere.scopes;
SELECT * FROM pg_temp.states();
SELECT (public.temptoken_peek(current_setting('regress.token'), 'GET', '/files/42')).status;
ROLLBACK;
BEGIN;
ALTER SCHEMA temptoken RENAME TO elsewhere;
CREATE SCHEMA temptoken;
CREATE FUNCTION temptoken.sweep_state(OUT worker text) LANGUAGE sql AS 'SELECT ''stolen''';
SELECT worker FROM public.temptoken_sweep_status();
ROLLBACK;
BEGIN;
ALTER SCHEMA temptoken RENAME TO elsewhere;
CREATE SCHEMA temptoken;
CREATE FUNCTION temptoken.change_privilege(text, text, text) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE ''stolen''; END';
SELECT public.temptoken_grant('regress_thief', 'issue');
ROLLBACK;
-- Nor is one whose columns were renamed: they are read by position, and written by name.
BEGIN;
ALTER TABLE temptoken.temp_tokens RENAME uses_left TO uses_before;
ALTER TABLE temptoken.temp_tokens ADD uses_left integer;
SELECT * FROM pg_temp.states();
ROLLBACK;
BEGIN;
ALTER TABLE temptoken.scopes RENAME max_uses TO max_before;
ALTER TABLE temptoken.scopes ADD max_uses integer;
SELECT * FROM pg_temp.states();
ROLLBACK;
BEGIN;
ALTER TABLE temptoken.temp_tokens RENAME TO away;
CREATE VIEW temptoken.temp_tokens AS SELECT * FROM temptoken.away WHERE regress_thief.called('as a view') IS NOT NULL;
SELECT count(*) FROM public.temptoken_stats();
ROLLBACK;
-- With an ordinary owner, a session that has or can get a superuser's rights is refused: the owner's code could leave something
-- behind there, or be made while a statement waits.
CREATE ROLE regress_owner;
CREATE ROLE regress_issuer LOGIN;
GRANT USAGE ON SCHEMA temptoken TO regress_owner;
SELECT public.temptoken_grant('regress_issuer', 'issue');
SELECT public.temptoken_grant('regress_issuer', 'monitor');
ALTER TABLE temptoken.temp_tokens OWNER TO regress_owner;
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
SELECT scope, live FROM public.temptoken_stats();
SET ROLE regress_issuer;
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
RESET ROLE;
SET SESSION AUTHORIZATION regress_issuer;
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
RESET SESSION AUTHORIZATION;
-- Also as the owner: it can go back.
SELECT public.temptoken_grant('regress_owner', 'issue');
SET ROLE regress_owner;
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
RESET ROLE;
SET SESSION AUTHORIZATION regress_owner;
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
RESET SESSION AUTHORIZATION;
SELECT public.temptoken_revoke_grant('regress_owner', 'issue');
GRANT postgres TO regress_issuer;
\c - regress_issuer
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
\c - postgres
REVOKE postgres FROM regress_issuer;
-- Statistics are read with the rights of the table's owner, not of whoever made the extension.
\c - regress_issuer
SELECT scope, live FROM public.temptoken_stats() ORDER BY scope;
\c - postgres
REVOKE SELECT ON temptoken.temp_tokens FROM regress_owner;
\c - regress_issuer
SELECT scope, live FROM public.temptoken_stats() ORDER BY scope;
\c - postgres
GRANT SELECT ON temptoken.temp_tokens TO regress_owner;
-- Nor does the owner's code get at the rights of whoever calls: nothing of it is left to run when the transaction commits.
CREATE FUNCTION public.regress_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT current_user';
    RETURN NULL;
END $$;
ALTER FUNCTION public.regress_hold() OWNER TO regress_owner;
CREATE TRIGGER hold AFTER INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.regress_hold();
\c - regress_issuer
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
\c - postgres
DROP TRIGGER hold ON temptoken.temp_tokens;
CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON temptoken.temp_tokens DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION public.regress_hold();
\c - regress_issuer
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
\c - postgres
SET client_min_messages = warning;
DROP TRIGGER hold ON temptoken.temp_tokens;
SELECT public.temptoken_revoke_grant('regress_issuer', 'issue');
SELECT public.temptoken_revoke_grant('regress_issuer', 'monitor');
DROP FUNCTION public.regress_hold();
ALTER TABLE temptoken.temp_tokens OWNER TO postgres;
-- A table of another role that refers to tokens has triggers, which run with the owner's rights when a token is deleted.
CREATE SCHEMA regress_app AUTHORIZATION regress_issuer;
GRANT USAGE ON SCHEMA temptoken TO regress_issuer;
GRANT REFERENCES ON temptoken.temp_tokens TO regress_issuer;
SET SESSION AUTHORIZATION regress_issuer;
CREATE TABLE regress_app.session (token uuid REFERENCES temptoken.temp_tokens ON DELETE CASCADE);
CREATE FUNCTION regress_app.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'late as %', current_user; RETURN NULL; END $$;
CREATE TRIGGER late AFTER DELETE ON regress_app.session FOR EACH ROW EXECUTE FUNCTION regress_app.late();
RESET SESSION AUTHORIZATION;
INSERT INTO regress_app.session SELECT id FROM temptoken.temp_tokens LIMIT 1;
SELECT public.temptoken_delete_by_scope('files');
SELECT count(*) > 0 AS there FROM temptoken.temp_tokens;
ALTER TABLE regress_app.session OWNER TO postgres;
SELECT public.temptoken_delete_by_scope('files') > 0 AS deleted;
ALTER FUNCTION regress_app.late() OWNER TO postgres;
SELECT public.temptoken_delete_by_scope('files') > 0 AS deleted;
-- Nor by a table that refers to a table of the administrator's that refers to tokens, nor as a partition of such a table.
DROP TABLE regress_app.session;
CREATE TABLE public.regress_session (token uuid PRIMARY KEY REFERENCES temptoken.temp_tokens ON DELETE CASCADE);
GRANT REFERENCES ON public.regress_session TO regress_issuer;
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
SET SESSION AUTHORIZATION regress_issuer;
CREATE TABLE regress_app.session (token uuid REFERENCES public.regress_session ON DELETE CASCADE);
RESET SESSION AUTHORIZATION;
SELECT public.temptoken_delete_by_scope('files');
DROP TABLE regress_app.session, public.regress_session;
CREATE TABLE public.regress_session (token uuid REFERENCES temptoken.temp_tokens ON DELETE CASCADE, n integer) PARTITION BY LIST (n);
CREATE TABLE regress_app.session PARTITION OF public.regress_session FOR VALUES IN (1);
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
ALTER TABLE regress_app.session OWNER TO regress_issuer;
SELECT public.temptoken_delete_by_scope('files');
DROP TABLE public.regress_session;
-- Nor as the parent of one of the administrator's, nor by a function of theirs that a trigger on one calls.
SET SESSION AUTHORIZATION regress_issuer;
CREATE TABLE regress_app.sessions (token uuid, n integer) PARTITION BY LIST (n);
CREATE FUNCTION regress_app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN NULL; END $$;
RESET SESSION AUTHORIZATION;
CREATE TABLE public.regress_session PARTITION OF regress_app.sessions FOR VALUES IN (1);
ALTER TABLE public.regress_session ADD FOREIGN KEY (token) REFERENCES temptoken.temp_tokens ON DELETE CASCADE;
SELECT public.temptoken_delete_by_scope('files');
DROP TABLE regress_app.sessions;
CREATE TABLE public.regress_session (token uuid REFERENCES temptoken.temp_tokens ON DELETE CASCADE);
CREATE TRIGGER note AFTER DELETE ON public.regress_session FOR EACH ROW EXECUTE FUNCTION regress_app.note();
SELECT public.temptoken_delete_by_scope('files');
ALTER FUNCTION regress_app.note() OWNER TO postgres;
SELECT public.temptoken_delete_by_scope('no files');
DROP TABLE public.regress_session;
-- Nor by such a function on the tokens or the scopes themselves, when anything is written.
ALTER FUNCTION regress_app.note() OWNER TO regress_issuer;
CREATE TRIGGER note AFTER INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION regress_app.note();
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
DROP TRIGGER note ON temptoken.temp_tokens;
CREATE TRIGGER note AFTER INSERT ON temptoken.scopes FOR EACH ROW EXECUTE FUNCTION regress_app.note();
SELECT public.temptoken_register_scope('noted', ARRAY['GET /noted'], '1 hour');
DROP TRIGGER note ON temptoken.scopes;
ALTER FUNCTION regress_app.note() OWNER TO postgres;
CREATE TRIGGER note AFTER INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION regress_app.note();
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
DROP TRIGGER note ON temptoken.temp_tokens;
-- So it is with a table of theirs that tokens refer to: it is read as its owner meanwhile.
SET SESSION AUTHORIZATION regress_issuer;
CREATE TABLE regress_app.file (name text PRIMARY KEY);
INSERT INTO regress_app.file VALUES ('1');
RESET SESSION AUTHORIZATION;
ALTER TABLE temptoken.temp_tokens ADD FOREIGN KEY (resource_id) REFERENCES regress_app.file ON DELETE CASCADE;
SELECT length(public.temptoken_mint('files', '1', '1 hour'));
DROP SCHEMA regress_app CASCADE;
REVOKE ALL ON SCHEMA temptoken FROM regress_issuer;
REVOKE ALL ON temptoken.temp_tokens FROM regress_issuer;
DROP ROLE regress_issuer;

SET client_min_messages = warning;
DROP SCHEMA regress_thief CASCADE;
DROP TABLE public.audit_log, public.stolen, public.regress_null;
DROP FUNCTION public.audit, public.regress_each_call, public.regress_as_thief, public.regress_mint_as_thief, public.checked, public.is_fine,
    public.lowered, public.fail;
RESET client_min_messages;
SELECT public.temptoken_revoke_grant('regress_thief', privilege) FROM unnest(ARRAY['issue', 'validate', 'manage']) AS privilege;
REVOKE ALL ON SCHEMA public FROM regress_thief;
REVOKE ALL ON SCHEMA temptoken FROM regress_owner;
DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
DROP ROLE regress_thief, regress_owner;
