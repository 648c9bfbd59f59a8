-- What spending does to the row, whatever an administrator has made of the table.
\set VERBOSITY terse
SELECT public.temptoken_register_scope('limited', ARRAY['GET /r/{id}'], '1 hour', '{id}', max_uses => 1000);
CREATE TEMP TABLE minted AS
SELECT resource_id, token FROM public.temptoken_mint_many('limited', ARRAY(SELECT i::text FROM generate_series(1, 200) AS i), '1 hour');

-- So often that rows move from page to page: each stays one row, and every index has it.
SELECT count((public.temptoken_validate(token, 'GET', '/r/' || resource_id)).id) FROM generate_series(1, 20), minted;
SELECT count(*), min(uses_left), max(uses_left) FROM temptoken.temp_tokens;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*), min(uses_left), max(uses_left) FROM minted AS m, LATERAL (
    SELECT uses_left FROM temptoken.temp_tokens AS t
    WHERE t.scope COLLATE "C" = 'limited' AND t.resource_id = m.resource_id OFFSET 0
) AS by_resource;
SELECT count(*) FROM (SELECT id FROM temptoken.temp_tokens ORDER BY id) AS by_key;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- In one statement and in one transaction, every use counts.
SELECT token, resource_id FROM minted WHERE resource_id = '7' \gset
UPDATE temptoken.temp_tokens SET uses_left = 3 WHERE resource_id = '7';
SELECT (public.temptoken_try_validate(:'token', 'GET', '/r/7')).status FROM generate_series(1, 4);
UPDATE temptoken.temp_tokens SET uses_left = 2 WHERE resource_id = '7';
WITH changed AS (UPDATE temptoken.temp_tokens SET metadata = '{}' WHERE resource_id = '7' RETURNING resource_id)
SELECT (public.temptoken_try_validate(:'token', 'GET', '/r/' || resource_id)).status FROM changed;
SELECT uses_left, metadata FROM temptoken.temp_tokens WHERE resource_id = '7';

-- An index of any kind, of which only the owner may compute the expression. One at a time, so that it is the one asked.
CREATE FUNCTION public.parity(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 % 2; END';
REVOKE ALL ON FUNCTION public.parity(integer) FROM PUBLIC;
CREATE ROLE regress_spender;
GRANT EXECUTE ON FUNCTION public.temptoken_validate(text, text, text), public.temptoken_try_validate(text, text, text)
    TO regress_spender;
GRANT SELECT ON minted TO regress_spender;
-- Spends a use of every token but one as that role; how many rows the condition finds by the index, and without it.
CREATE FUNCTION pg_temp.spend_and_count(definition text, condition text, OUT by_index bigint, OUT by_reading_all bigint)
LANGUAGE plpgsql AS $$
DECLARE
    query text := 'SELECT count(*) FROM temptoken.temp_tokens WHERE ' || condition;
    line text;
    plan text := '';
BEGIN
    EXECUTE 'CREATE ' || definition;
    SET LOCAL ROLE regress_spender;
    PERFORM (public.temptoken_validate(token, 'GET', '/r/' || resource_id)).id FROM minted WHERE resource_id <> '7';
    RESET ROLE;
    SET LOCAL enable_seqscan = off;
    SET LOCAL enable_indexscan = on;
    SET LOCAL enable_bitmapscan = on;
    FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP plan := plan || line; END LOOP;
    IF plan NOT LIKE '%by_its_own%' THEN RAISE 'not by the index: %', plan; END IF;
    EXECUTE query INTO by_index;
    DROP INDEX temptoken.by_its_own;
    SET LOCAL enable_seqscan = on;
    SET LOCAL enable_indexscan = off;
    SET LOCAL enable_bitmapscan = off;
    EXECUTE query INTO by_reading_all;
END $$;
SELECT uses_left AS n FROM temptoken.temp_tokens WHERE resource_id = '8' \gset
BEGIN;
SELECT * FROM pg_temp.spend_and_count('INDEX by_its_own ON temptoken.temp_tokens (uses_left)', format('uses_left = %s', :n - 1));
SELECT * FROM pg_temp.spend_and_count('UNIQUE INDEX by_its_own ON temptoken.temp_tokens (uses_left, resource_id)',
    format('uses_left = %s', :n - 2));
SELECT * FROM pg_temp.spend_and_count(
    'INDEX by_its_own ON temptoken.temp_tokens (public.parity(uses_left)) WHERE uses_left > 0',
    format('public.parity(uses_left) = %s AND uses_left > 0', (:n - 3) % 2));
SELECT * FROM pg_temp.spend_and_count('INDEX by_its_own ON temptoken.temp_tokens USING brin (uses_left)',
    format('uses_left = %s', :n - 4));
SELECT * FROM pg_temp.spend_and_count('INDEX by_its_own ON temptoken.temp_tokens USING hash (uses_left)',
    format('uses_left = %s', :n - 5));
SELECT * FROM pg_temp.spend_and_count('INDEX by_its_own ON temptoken.temp_tokens USING hash (resource_id)',
    'resource_id = ''8''');
COMMIT;
ALTER TABLE temptoken.temp_tokens ADD CONSTRAINT no_two EXCLUDE (resource_id WITH =, uses_left WITH =);
SELECT count((public.temptoken_validate(token, 'GET', '/r/' || resource_id)).id) FROM minted WHERE resource_id = '9';
ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT no_two;
DROP FUNCTION public.parity(integer);

-- A constraint of one's own holds, whatever it is called; so do the bounds of a partition.
SELECT token FROM minted WHERE resource_id = '8' \gset
SELECT uses_left - 1 AS next FROM temptoken.temp_tokens WHERE resource_id = '8' \gset
ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT temp_tokens_expire,
    ADD CONSTRAINT temp_tokens_expire CHECK (isfinite(expires_at) AND uses_left <> :next) NOT VALID;
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT temp_tokens_expire,
    ADD CONSTRAINT temp_tokens_expire CHECK ((temp_tokens).uses_left <> :next) NOT VALID;
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT temp_tokens_expire,
    ADD CONSTRAINT temp_tokens_expire CHECK (pg_catalog.isfinite(expires_at));
CREATE TABLE public.parent (LIKE temptoken.temp_tokens) PARTITION BY RANGE (uses_left);
UPDATE temptoken.temp_tokens SET uses_left = 500;
ALTER TABLE public.parent ATTACH PARTITION temptoken.temp_tokens FOR VALUES FROM (500) TO (1000);
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
ALTER TABLE public.parent DETACH PARTITION temptoken.temp_tokens;
DROP TABLE public.parent;

-- So does a column that is computed, a trigger, a rule, a foreign key.
ALTER TABLE temptoken.temp_tokens ADD COLUMN twice integer GENERATED ALWAYS AS (uses_left * 2) STORED;
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
SELECT uses_left, twice FROM temptoken.temp_tokens WHERE resource_id = '8';
ALTER TABLE temptoken.temp_tokens DROP COLUMN twice;

CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% % %: % to %', TG_WHEN, TG_OP, TG_LEVEL, OLD.uses_left, NEW.uses_left;
    RETURN NEW;
END $$;
CREATE TRIGGER before_row BEFORE UPDATE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.note();
CREATE TRIGGER after_row AFTER UPDATE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.note();
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
DROP TRIGGER before_row ON temptoken.temp_tokens;
DROP TRIGGER after_row ON temptoken.temp_tokens;
DROP FUNCTION public.note();

CREATE RULE noted AS ON UPDATE TO temptoken.temp_tokens DO ALSO INSERT INTO minted VALUES ('by rule');
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
DROP RULE noted ON temptoken.temp_tokens;
SELECT count(*) FROM minted WHERE resource_id = 'by rule';

CREATE TABLE public.uses (token_id uuid REFERENCES temptoken.temp_tokens (id));
INSERT INTO public.uses SELECT id FROM temptoken.temp_tokens WHERE resource_id = '8';
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
DROP TABLE public.uses;

-- A large value beside the row stays what it is.
UPDATE temptoken.temp_tokens SET metadata = (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 1000) AS i)
WHERE resource_id = '8';
SELECT status, jsonb_array_length(metadata) FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
SELECT uses_left, jsonb_array_length(metadata), md5(metadata::text) = md5((SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 1000) AS i)::text) AS same
FROM temptoken.temp_tokens WHERE resource_id = '8';

-- A table whose publication could not tell which row it was.
ALTER TABLE temptoken.temp_tokens REPLICA IDENTITY NOTHING;
SET client_min_messages = error;
CREATE PUBLICATION regress_tokens FOR TABLE temptoken.temp_tokens;
RESET client_min_messages;
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/8');
DROP PUBLICATION regress_tokens;
ALTER TABLE temptoken.temp_tokens REPLICA IDENTITY DEFAULT;

SELECT public.temptoken_delete_by_scope('limited');
SELECT public.temptoken_unregister_scope('limited');
REVOKE ALL ON FUNCTION public.temptoken_validate(text, text, text), public.temptoken_try_validate(text, text, text)
    FROM regress_spender;
DROP TABLE minted;
DROP ROLE regress_spender;

-- What keeps a row from being deleted or updated: its error keeps its SQLSTATE, and a spend that is kept is refused, not
-- tried for ever.
SELECT public.temptoken_register_scope('once', ARRAY['POST /r/{id}'], '1 hour', '{id}', max_uses => 1);
SELECT public.temptoken_mint('once', '2', '1 hour') AS once \gset
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'kept for the record' USING ERRCODE = 'QQ123';
END $$;
CREATE TRIGGER refuse BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse();
\set VERBOSITY sqlstate
SELECT public.temptoken_delete(:'once');
\set VERBOSITY default
DROP TRIGGER refuse ON temptoken.temp_tokens;
CREATE FUNCTION pg_temp.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE UPDATE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION pg_temp.keep();
SELECT (public.temptoken_try_validate(:'once', 'POST', '/r/2')).status;
DROP TRIGGER keep ON temptoken.temp_tokens;
SELECT (public.temptoken_try_validate(:'once', 'POST', '/r/2')).status;
SELECT public.temptoken_delete(:'once'), public.temptoken_unregister_scope('once');

-- Rows that the transaction itself holds locked, and rows in savepoints, go like all others.
SELECT public.temptoken_register_scope('brief', ARRAY['GET /brief'], '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('brief', ARRAY['a', 'b', 'c'], '1 millisecond');
SELECT pg_sleep(0.01);
BEGIN;
SELECT count(*) FROM (SELECT FROM temptoken.temp_tokens WHERE scope = 'brief' FOR UPDATE) AS locked;
SAVEPOINT s;
SELECT public.temptoken_delete_expired(), (SELECT count(*) FROM temptoken.temp_tokens WHERE scope = 'brief') AS before;
SELECT count(*) AS after FROM temptoken.temp_tokens WHERE scope = 'brief';
ROLLBACK TO s;
SELECT count(*) AS back FROM temptoken.temp_tokens WHERE scope = 'brief';
SELECT public.temptoken_delete_expired();
COMMIT;
SELECT count(*) AS gone FROM temptoken.temp_tokens WHERE scope = 'brief';
SELECT public.temptoken_unregister_scope('brief');
