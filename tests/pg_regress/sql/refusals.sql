-- Each refusal and error, with its own SQLSTATE, seen as a client sees it; and the order in which they are judged.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}', max_uses => 1);
SELECT public.temptoken_mint('files', '42', '1 hour') AS token, public.temptoken_mint('files', '43', '1 hour') AS expired,
       public.temptoken_mint('files', '44', '1 hour') AS used_up \gset
UPDATE temptoken.temp_tokens SET expires_at = now() - interval '1 second' WHERE resource_id = '43';
UPDATE temptoken.temp_tokens SET uses_left = 0 WHERE resource_id = '44';

SELECT * FROM public.temptoken_validate(NULL, 'GET', '/');
SELECT * FROM public.temptoken_validate(:'expired', 'GET', '/files/43');
SELECT * FROM public.temptoken_validate(:'token', 'GET', '/files/43');
SELECT * FROM public.temptoken_validate(:'used_up', 'GET', '/files/44');
SELECT public.temptoken_mint('files', '42', '2 hours');
SELECT public.temptoken_register_scope('files', ARRAY['GET /'], '1 hour');
SELECT public.temptoken_register_scope('others', ARRAY['GET'], '1 hour');
SELECT public.temptoken_mint('files', '..', '1 hour');
SELECT public.temptoken_mint('nothing', '42', '1 hour');

\set VERBOSITY sqlstate
SELECT * FROM public.temptoken_validate(NULL, 'GET', '/');
SELECT * FROM public.temptoken_validate('', 'GET', '/');
SELECT * FROM public.temptoken_validate('not a token', 'GET', '/');
SELECT * FROM public.temptoken_validate(:'expired', 'GET', '/files/43');
SELECT * FROM public.temptoken_validate(:'token', 'GET', '/files/43');
SELECT * FROM public.temptoken_validate(:'token', NULL, '/files/42');
SELECT * FROM public.temptoken_validate(:'token', 'GET', NULL);
SELECT * FROM public.temptoken_validate(:'used_up', 'GET', '/files/44');
SELECT public.temptoken_mint('files', '42', '2 hours');
SELECT public.temptoken_register_scope('files', ARRAY['GET /'], '1 hour');
SELECT public.temptoken_register_scope('others', ARRAY['GET'], '1 hour');
SELECT public.temptoken_mint('files', '..', '1 hour');
SELECT public.temptoken_mint('nothing', '42', '1 hour');
\set VERBOSITY default

-- A token that was passed in the wrong place is not repeated: by no message, detail or hint, in no case or surroundings.
CREATE TEMP TABLE regress_table (id text);
INSERT INTO regress_table VALUES ('x');
CREATE FUNCTION pg_temp.said(statement text, argument text, OUT state text, OUT message text, OUT repeated boolean)
LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement USING argument;
    state := 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    repeated := concat_ws(' ', message, detail, hint) ~* '[0-9a-f]{24}';
END $$;
CREATE TEMP TABLE wrong (number integer, statement text);
INSERT INTO wrong VALUES
    (1, 'SELECT public.temptoken_mint($1, ''x'', ''1 hour'')'),
    (2, 'SELECT public.temptoken_mint(''files'', $1 || ''/'', ''1 hour'')'),
    (3, 'SELECT public.temptoken_mint_many($1, ''{x}'', ''1 hour'')'),
    (4, 'SELECT public.temptoken_mint_many(''files'', ARRAY[''x'', $1 || ''/''], ''1 hour'')'),
    (5, 'SELECT public.temptoken_register_scope($1, ''{GET}'', ''1 hour'')'),
    (6, 'SELECT public.temptoken_register_scope($1 || repeat(''x'', 300), ''{GET /}'', ''1 hour'')'),
    (7, 'SELECT public.temptoken_register_scope(''x'', ARRAY[$1], ''1 hour'')'),
    (8, 'SELECT public.temptoken_register_scope(''x'', ARRAY[''GET /{'' || $1 || ''}''], ''1 hour'')'),
    (9, 'SELECT public.temptoken_register_scope(''x'', ARRAY[''GET /a''], ''1 hour'', left($1, 60))'),
    (10, 'SELECT public.temptoken_register_scope(''x'', ARRAY[''GET /{x}''], ''1 hour'', right($1, 60))'),
    (11, 'SELECT public.temptoken_register_scope(''x'', ARRAY[''GET /a''], ''1 hour'', spending_methods => ARRAY[$1])'),
    (12, 'SELECT public.temptoken_grant($1, ''issue'')'),
    (13, 'SELECT public.temptoken_grant(CURRENT_USER, $1)'),
    (14, 'SELECT public.temptoken_revoke_grant($1, ''issue'')'),
    (15, 'SELECT public.temptoken_schedule_sweep($1)'),
    (16, 'SELECT public.temptoken_validate($1, $1, $1)');
SELECT statement, said.* FROM wrong, pg_temp.said(statement, :'token') AS said ORDER BY number;
SELECT other <> '' AS other, said.state, count(*), bool_or(repeated) AS repeated
FROM wrong, unnest(ARRAY[upper(:'token'), substr(:'token', 4), substr(:'token', 36), ' ' || :'token', :'token' || E'\nx', '"' || :'token']) AS other,
    pg_temp.said(statement, other) AS said
GROUP BY 1, 2 ORDER BY 2;
-- Such a name can be registered, and is still not repeated.
TRUNCATE wrong;
INSERT INTO wrong VALUES
    (20, 'SELECT public.temptoken_register_scope($1, ''{GET /}'', ''1 hour'')'),
    (21, 'SELECT public.temptoken_register_scope($1, ''{GET /}'', ''1 hour'')'),
    (22, 'SELECT public.temptoken_mint($1, ''x'', ''2 hours'')'),
    (23, 'SELECT public.temptoken_validate(public.temptoken_mint($1, ''x'', ''1 hour''), ''GET'', ''/no'')'),
    (24, 'WITH t AS MATERIALIZED (SELECT public.temptoken_mint($1, ''x'', ''1 hour'') AS token, public.temptoken_unregister_scope($1))
        SELECT public.temptoken_validate(token, ''GET'', ''/'') FROM t');
SELECT statement, said.* FROM wrong, pg_temp.said(statement, :'token') AS said ORDER BY number;
SELECT public.temptoken_register_scope(:'token', '{GET /:id}', '1 hour', replace => true);
DO $$ BEGIN EXECUTE format('CREATE TRIGGER ended AFTER DELETE ON regress_table FOR EACH ROW
    EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger(''files'', %L)', 'tt_' || repeat('01234567', 12)); END $$;
DELETE FROM regress_table;
DROP TRIGGER ended ON regress_table;
CREATE TRIGGER ended AFTER DELETE ON regress_table FOR EACH ROW
    EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('files', 'name');
DELETE FROM regress_table;
DROP TABLE regress_table;
SELECT public.temptoken_register_scope('warned', ARRAY['GET /:' || :'token'], '1 hour');

-- PL/pgSQL can catch them by code.
DO $$
BEGIN
    PERFORM public.temptoken_validate('x', 'GET', '/');
EXCEPTION WHEN SQLSTATE 'TT001' THEN
    RAISE NOTICE 'caught %: %', SQLSTATE, SQLERRM;
END $$;

-- A refusal as a value leaves the transaction as it is; as an error it aborts it, as errors do.
BEGIN;
SELECT (public.temptoken_try_validate('x', 'GET', '/')).status;
SELECT 1 AS goes_on;
SELECT public.temptoken_validate('x', 'GET', '/');
SELECT 1 AS goes_on;
ROLLBACK;

-- The order: not found, expired, scope unknown, route, uses. Each line mends the first thing wrong of the one before.
SELECT public.temptoken_mint('files', 'order', '1 hour') AS token \gset
UPDATE temptoken.temp_tokens SET uses_left = 0, expires_at = now() - interval '1 second'
WHERE resource_id = 'order';
SELECT public.temptoken_unregister_scope('files');
SELECT (public.temptoken_try_validate(overlay(:'token' PLACING 'ffff' FROM 90), 'GET', '/no')).status;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/no')).status;
UPDATE temptoken.temp_tokens SET expires_at = now() + interval '1 hour' WHERE resource_id = 'order';
SELECT (public.temptoken_try_validate(:'token', 'GET', '/no')).status;
SELECT * FROM public.temptoken_validate(:'token', 'GET', '/no');
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT (public.temptoken_try_validate(:'token', 'GET', '/no')).status;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/order')).status;
UPDATE temptoken.temp_tokens SET uses_left = 1 WHERE resource_id = 'order';
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/order')).status;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
