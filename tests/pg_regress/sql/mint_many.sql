-- Many at once: what an administrator has put on the table of tokens has the say that it has in an INSERT.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT public.temptoken_register_scope('report', ARRAY['GET /report'], '1 hour');

CREATE FUNCTION pg_temp.state_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;
    RETURN state;
END $$;
CREATE FUNCTION pg_temp.numbers() RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg('r' || i ORDER BY i) FROM generate_series(1, 2500) AS i
$$;

-- What is stored: each token's own row, in the order of the ids. What follows sees it.
CREATE TEMP TABLE minted AS SELECT * FROM public.temptoken_mint_many('files', pg_temp.numbers(), '1 hour', max_uses => 3);
SELECT count(*) AS tokens, bool_and(resource_id = 'r' || number) AS in_order FROM (SELECT *, row_number() OVER () AS number FROM minted) AS m;
SELECT count(*) AS rows, bool_and(t.token_hash = sha256(decode(substr(m.token, 4), 'hex')) AND t.resource_id = m.resource_id) AS belong,
       bool_and(scope = 'files' AND uses_left = 3 AND metadata IS NULL) AS shared,
       bool_and(expires_at - created_at BETWEEN '59 minutes 59.9 seconds' AND '1 hour'
           AND clock_timestamp() - created_at BETWEEN '0' AND '1 minute') AS times
FROM minted m JOIN temptoken.temp_tokens t ON t.id = substr(m.token, 4, 32)::uuid;
SELECT bool_and(id > before) AS in_order_of_ids FROM (SELECT id, lag(id) OVER (ORDER BY ctid) AS before FROM temptoken.temp_tokens) AS t;
SELECT status, count(*) FROM minted, LATERAL public.temptoken_try_validate(token, 'GET', '/files/' || resource_id) GROUP BY status;
DELETE FROM temptoken.temp_tokens;

-- Any text, the longest too, and with metadata of any size; whatever the client's encoding.
SELECT encode(convert_to(repeat('é', 1024), 'UTF8'), 'hex') AS longest \gset
SET client_encoding = 'LATIN1';
SELECT count(*) FROM public.temptoken_mint_many('report', ARRAY['', 'a', 'a b', E'\u00e9', E'\u20ac', E'a\nb', convert_from(decode(:'longest', 'hex'), 'UTF8')], '1 hour');
RESET client_encoding;
SELECT count(*) FROM public.temptoken_mint_many('report', ARRAY['', 'a', 'a b', E'\u00e9', E'\u20ac', E'a\nb', convert_from(decode(:'longest', 'hex'), 'UTF8')], '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('report', ARRAY['', 'a', 'a b', E'\u00e9', E'\u20ac', E'a\nb', convert_from(decode(:'longest', 'hex'), 'UTF8')], '1 hour',
    jsonb_build_object('big', repeat('x', 10000), E'\u00e9', E'\u20ac'));
SELECT encode(convert_to(left(resource_id, 8), 'UTF8'), 'escape') AS resource_id, length(resource_id), count(*), count(metadata) AS metadata
FROM temptoken.temp_tokens GROUP BY resource_id ORDER BY min(length(resource_id)), resource_id;
DELETE FROM temptoken.temp_tokens;

-- Triggers, of rows and of statements, with what they see; they run with the rights of the owner.
CREATE TABLE public.regress_fired (number serial, fired text, rows bigint);
CREATE FUNCTION public.regress_fire() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.regress_fired (fired, rows)
    SELECT concat_ws(' ', TG_WHEN, TG_LEVEL, TG_OP, NEW.resource_id, current_user), count(*) FROM temptoken.temp_tokens;
    RETURN NEW;
END $$;
CREATE FUNCTION public.regress_fire_with_table() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.regress_fired (fired, rows) SELECT 'new table', count(*) FROM fresh;
    RETURN NULL;
END $$;
CREATE TRIGGER a AFTER INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.regress_fire();
CREATE TRIGGER b BEFORE INSERT ON temptoken.temp_tokens FOR EACH STATEMENT EXECUTE FUNCTION public.regress_fire();
CREATE TRIGGER c AFTER INSERT ON temptoken.temp_tokens FOR EACH STATEMENT EXECUTE FUNCTION public.regress_fire();
CREATE TRIGGER d AFTER INSERT ON temptoken.temp_tokens REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION public.regress_fire_with_table();
CREATE CONSTRAINT TRIGGER e AFTER INSERT ON temptoken.temp_tokens DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION public.regress_fire();
CREATE ROLE regress_issuer LOGIN;
GRANT EXECUTE ON FUNCTION public.temptoken_mint_many(text, text[], interval, jsonb, integer, boolean) TO regress_issuer;
SET ROLE regress_issuer;
BEGIN;
SELECT count(*) FROM public.temptoken_mint_many('files', '{x,y}', '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('files', '{}', '1 hour');
SELECT current_user;
RESET ROLE;
COMMIT;
SELECT fired, rows, count(*) FROM public.regress_fired GROUP BY fired, rows ORDER BY min(number), fired;
TRUNCATE public.regress_fired;
-- One that comes before the row sees the rows before it, and has the last word on it.
CREATE FUNCTION public.regress_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.uses_left = (SELECT count(*) FROM temptoken.temp_tokens);
    RETURN CASE WHEN NEW.resource_id <> 'r7' THEN NEW END;
END $$;
CREATE TRIGGER f BEFORE INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.regress_change();
DELETE FROM temptoken.temp_tokens;
SELECT count(*) FROM public.temptoken_mint_many('files', pg_temp.numbers(), '1 hour');
SELECT count(*), count(DISTINCT uses_left) AS seen, max(uses_left) FROM temptoken.temp_tokens;
SELECT fired, rows FROM public.regress_fired WHERE fired NOT LIKE '% ROW %' ORDER BY number;
DROP TRIGGER f ON temptoken.temp_tokens;
DROP TRIGGER a ON temptoken.temp_tokens;
DROP TRIGGER b ON temptoken.temp_tokens;
DROP TRIGGER c ON temptoken.temp_tokens;
DROP TRIGGER d ON temptoken.temp_tokens;
DROP TRIGGER e ON temptoken.temp_tokens;
DROP TABLE public.regress_fired;
DELETE FROM temptoken.temp_tokens;

-- A trigger that mints, before and after the row; what it does fails now and then, which it survives.
CREATE FUNCTION public.regress_mint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.scope = 'report' THEN
        IF NEW.resource_id = 'bad' THEN
            RAISE EXCEPTION 'not this one' USING ERRCODE = 'AB123';
        END IF;
        RETURN NEW;
    END IF;
    IF substr(NEW.resource_id, 2)::int % 500 = 0 THEN
        PERFORM public.temptoken_mint_many('report', ARRAY[TG_WHEN || NEW.resource_id, 'again'], '1 hour');
        BEGIN
            PERFORM public.temptoken_mint_many('report', pg_temp.numbers() || ARRAY['bad'], '1 hour');
        EXCEPTION WHEN SQLSTATE 'AB123' THEN
            PERFORM public.temptoken_mint_many('report', '{caught}', '1 hour');
        END;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER before BEFORE INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.regress_mint();
CREATE TRIGGER after AFTER INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.regress_mint();
SELECT count(*) FROM public.temptoken_mint_many('files', pg_temp.numbers(), '1 hour');
SELECT scope, CASE WHEN resource_id IN ('again', 'caught') THEN resource_id ELSE rtrim(resource_id, '0123456789') END AS resource_id, count(*), count(DISTINCT resource_id) AS different
FROM temptoken.temp_tokens GROUP BY 1, 2 ORDER BY 1, 2;

-- Its error reaches the caller as it was raised; after the savepoint's rollback everything goes on.
BEGIN;
SAVEPOINT s;
\set SHOW_CONTEXT never
SELECT count(*) FROM public.temptoken_mint_many('report', '{good,bad}', '1 hour');
\set SHOW_CONTEXT errors
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT current_user = session_user AS self_again, count(*) FROM public.temptoken_mint_many('report', '{good}', '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('report', '{better}', '1 hour');
COMMIT;
SELECT resource_id, count(*) FROM temptoken.temp_tokens WHERE resource_id IN ('good', 'bad', 'better') GROUP BY resource_id ORDER BY resource_id;
DROP TRIGGER before ON temptoken.temp_tokens;
DROP TRIGGER after ON temptoken.temp_tokens;
DELETE FROM temptoken.temp_tokens;

-- Columns of their own: with a default, constant or not, and generated.
ALTER TABLE temptoken.temp_tokens ADD COLUMN note text DEFAULT 'n', ADD COLUMN number serial, ADD COLUMN gone integer,
    ADD COLUMN length integer GENERATED ALWAYS AS (length(resource_id)) STORED;
ALTER TABLE temptoken.temp_tokens DROP COLUMN gone;
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,bc}', '1 hour');
SELECT resource_id, note, length FROM temptoken.temp_tokens ORDER BY resource_id;
SELECT array_agg(number ORDER BY number) AS numbers, bool_and(next > id) AS in_order_of_ids
FROM (SELECT number, id, lead(id) OVER (ORDER BY number) AS next FROM temptoken.temp_tokens) AS t;
ALTER TABLE temptoken.temp_tokens DROP COLUMN note, DROP COLUMN number, DROP COLUMN length;
DELETE FROM temptoken.temp_tokens;

-- Constraints, all or none. Where the error is said, there is no hash; a row that breaks a CHECK is shown whole, by
-- PostgreSQL, which is left out here.
CREATE FUNCTION pg_temp.error_of(statement text) RETURNS TABLE (state text, context text, has_hash boolean) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
    has_hash := context ~ '[0-9a-f]{16}';
    context := split_part(context, E'\n', 1);
    RETURN NEXT;
END $$;
ALTER TABLE temptoken.temp_tokens ADD CONSTRAINT short CHECK (length(resource_id) < 5);
SELECT * FROM pg_temp.error_of($$SELECT public.temptoken_mint_many('files', '{a,b,longer}', '1 hour')$$);
ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT short;
CREATE UNIQUE INDEX once ON temptoken.temp_tokens (resource_id);
SELECT * FROM pg_temp.error_of($$SELECT public.temptoken_mint_many('files', '{a,b,a}', '1 hour')$$);
DROP INDEX temptoken.once;
ALTER TABLE temptoken.temp_tokens ADD CONSTRAINT once UNIQUE (resource_id) DEFERRABLE INITIALLY DEFERRED;
BEGIN;
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,b,a}', '1 hour');
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT once;
ALTER TABLE temptoken.temp_tokens ALTER COLUMN uses_left SET NOT NULL;
SELECT * FROM pg_temp.error_of($$SELECT public.temptoken_mint_many('files', '{a}', '1 hour')$$);
ALTER TABLE temptoken.temp_tokens ALTER COLUMN uses_left DROP NOT NULL;
CREATE TABLE public.regress_allowed (resource_id text COLLATE "C" PRIMARY KEY);
INSERT INTO public.regress_allowed VALUES ('a');
ALTER TABLE temptoken.temp_tokens ADD CONSTRAINT allowed FOREIGN KEY (resource_id) REFERENCES public.regress_allowed;
SELECT pg_temp.state_of($$SELECT public.temptoken_mint_many('files', '{a,b}', '1 hour')$$);
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,a}', '1 hour');
ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT allowed;
DROP TABLE public.regress_allowed;
SELECT count(*) FROM temptoken.temp_tokens;
DELETE FROM temptoken.temp_tokens;

-- Rules.
CREATE TABLE public.regress_log (resource_id text);
CREATE RULE also AS ON INSERT TO temptoken.temp_tokens DO ALSO INSERT INTO public.regress_log VALUES (NEW.resource_id);
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,b}', '1 hour');
CREATE RULE instead AS ON INSERT TO temptoken.temp_tokens WHERE NEW.resource_id = 'never' DO INSTEAD NOTHING;
SELECT count(*) FROM public.temptoken_mint_many('files', '{c,never}', '1 hour');
DROP RULE also ON temptoken.temp_tokens;
DROP RULE instead ON temptoken.temp_tokens;
SELECT count(*) FROM public.temptoken_mint_many('files', '{d}', '1 hour');
SELECT resource_id FROM public.regress_log ORDER BY resource_id;
SELECT resource_id FROM temptoken.temp_tokens ORDER BY resource_id;
DROP TABLE public.regress_log;
DELETE FROM temptoken.temp_tokens;

-- Row-level security has no say, forced on the owner even, as nothing else of an INSERT's privileges has.
ALTER TABLE temptoken.temp_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE ROLE regress_owner;
GRANT USAGE ON SCHEMA temptoken TO regress_owner;
ALTER TABLE temptoken.temp_tokens OWNER TO regress_owner;
\c - regress_issuer
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,b}', '1 hour');
\c - postgres
SELECT count(*) FROM temptoken.temp_tokens;
CREATE FUNCTION pg_temp.numbers() RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg('r' || i ORDER BY i) FROM generate_series(1, 2500) AS i
$$;
ALTER TABLE temptoken.temp_tokens OWNER TO postgres;
ALTER TABLE temptoken.temp_tokens DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
REVOKE ALL ON SCHEMA temptoken FROM regress_owner;
REVOKE ALL ON FUNCTION public.temptoken_mint_many(text, text[], interval, jsonb, integer, boolean) FROM regress_issuer;
DROP ROLE regress_owner, regress_issuer;

-- Stopped in the middle: nothing is stored, and the session goes on.
CREATE FUNCTION public.regress_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.resource_id = 'r1234' THEN
        PERFORM pg_sleep(600);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER wait BEFORE INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.regress_wait();
DELETE FROM temptoken.temp_tokens;
SET statement_timeout = '500ms';
\set VERBOSITY sqlstate
SELECT public.temptoken_mint_many('files', pg_temp.numbers(), '1 hour');
\set VERBOSITY default
RESET statement_timeout;
DROP TRIGGER wait ON temptoken.temp_tokens;
SELECT count(*) FROM temptoken.temp_tokens;
SELECT count(*) FROM public.temptoken_mint_many('files', pg_temp.numbers(), '1 hour');

-- Into a table that is new to the transaction, and into one without WAL.
BEGIN;
TRUNCATE temptoken.temp_tokens;
SELECT count(*) FROM public.temptoken_mint_many('files', pg_temp.numbers(), '1 hour');
COMMIT;
ALTER TABLE temptoken.temp_tokens SET UNLOGGED;
SELECT count(*) FROM public.temptoken_mint_many('files', pg_temp.numbers(), '1 hour');
ALTER TABLE temptoken.temp_tokens SET LOGGED;
SELECT count(*) FROM temptoken.temp_tokens;

-- A domain that takes no NULL, for a column that is not given.
CREATE DOMAIN public.regress_domain AS integer NOT NULL;
ALTER TABLE temptoken.temp_tokens ADD COLUMN given public.regress_domain DEFAULT 1;
ALTER TABLE temptoken.temp_tokens ALTER COLUMN given DROP DEFAULT;
\set VERBOSITY sqlstate
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,b}', '1 hour');
\set VERBOSITY default
ALTER TABLE temptoken.temp_tokens DROP COLUMN given;
DROP DOMAIN public.regress_domain;

-- Each row has tokens of its own, also where the planner would keep the answer for rows with the same arguments (Memoize).
BEGIN;
CREATE TABLE public.regress_order AS SELECT ARRAY[(n % 2)::text] AS files FROM generate_series(1, 1000) AS n;
ANALYZE public.regress_order;
SELECT count(DISTINCT m.token) FROM public.regress_order, public.temptoken_mint_many('files', files, '1 hour') AS m;
SELECT count(DISTINCT m.token) FROM public.regress_order, LATERAL (SELECT public.temptoken_mint('files', files[1], '1 hour') AS token OFFSET 0) AS m;
-- A plan that is made in a parallel operation, where none of these can run, is not kept for later either.
CREATE FUNCTION public.regress_restricted() RETURNS bigint LANGUAGE plpgsql PARALLEL RESTRICTED AS $$
DECLARE
    minted text;
    all_minted text[];
BEGIN
    FOR minted IN SELECT m.token FROM public.regress_order, public.temptoken_mint_many('files', files, '1 hour') AS m LOOP
        all_minted := all_minted || minted;
    END LOOP;
    RETURN (SELECT count(DISTINCT token) FROM unnest(all_minted) AS token);
END $$;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL enable_memoize = on;
SAVEPOINT s;
\set SHOW_CONTEXT never
SELECT public.regress_restricted(), count(prosrc) FROM pg_proc;
\set SHOW_CONTEXT errors
ROLLBACK TO s;
SELECT public.regress_restricted();
ROLLBACK;

-- In a read-only transaction nothing is minted.
BEGIN READ ONLY;
\set VERBOSITY sqlstate
SELECT public.temptoken_mint_many('files', '{a}', '1 hour');
\set VERBOSITY default
ROLLBACK;
SELECT count(*) FROM temptoken.temp_tokens;

DROP FUNCTION public.regress_fire(), public.regress_fire_with_table(), public.regress_change(), public.regress_mint(), public.regress_wait();
DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
