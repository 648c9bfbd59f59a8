-- What an adversary presents: malformed tokens, encoded and rewritten paths, other alphabets, SQL. Never ok, never NULL.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT public.temptoken_mint('files', '42', '1 hour') AS token \gset

-- NULL in each place, also where a caller asks in a way that NULL would slip through.
SELECT token IS NULL AS token, method, path, status, NOT coalesce(status = 'ok', NULL) AS refused
FROM (VALUES (NULL, 'GET', '/files/42'), (:'token', NULL, '/files/42'), (:'token', 'GET', NULL), (NULL, NULL, NULL))
        AS v (token, method, path),
    LATERAL public.temptoken_try_validate(token, method, path);
DO $$
BEGIN
    IF NOT (public.temptoken_try_validate(NULL, 'GET', '/files/42')).status = 'ok' THEN
        RAISE NOTICE 'refused';
    END IF;
END $$;

-- Token texts. None touches the table.
CREATE FUNCTION pg_temp.scans() RETURNS numeric LANGUAGE sql AS $$
    SELECT sum(idx_scan) + sum(seq_scan) FROM pg_stat_xact_all_tables WHERE relid = 'temptoken.temp_tokens'::regclass
$$;
BEGIN;
SELECT pg_temp.scans() AS before \gset
SELECT count(*) AS presented, count(*) FILTER (WHERE status = 'token_not_found') AS refused
FROM (VALUES (''), ('tt'), ('tt_'), (left(:'token', -1)), (:'token' || '0'), (' ' || :'token'), (:'token' || ' '),
        (upper(:'token')), ('TT_' || substr(:'token', 4)), ('tt_' || upper(substr(:'token', 4))), (:'token' || E'\n'),
        (E'\n' || :'token'), (substr(:'token', 4)), (substr(:'token', 3)), ('tt' || :'token' || 'tt'),
        ('Bearer ' || :'token'), (replace(:'token', '_', '-')), (E'tt_\uff10' || substr(:'token', 5)),
        (overlay(:'token' PLACING 'g' FROM 50)), (overlay(:'token' PLACING '7' FROM 16)), (E'\u202e' || :'token'),
        (repeat('t', 1000)), (repeat(:'token', 100)), (repeat('0', 100000000))) AS v (token),
    LATERAL public.temptoken_try_validate(token, 'GET', '/files/42');
SELECT pg_temp.scans() - :before AS scans;
-- Well-formed but unknown, and known with a wrong secret: the same answer, found by index.
SELECT (public.temptoken_try_validate('tt_' || repeat('0', 12) || '8' || repeat('0', 3) || '8' || repeat('0', 79), 'GET', '/files/42')).status,
       (public.temptoken_try_validate(overlay(:'token' PLACING translate(substr(:'token', 99), '0123456789abcdef', '123456789abcdef0') FROM 99), 'GET', '/files/42')).status;
SELECT pg_temp.scans() - :before AS scans;
COMMIT;

-- Paths. The raw path is compared byte for byte: nothing is decoded, folded, trimmed or normalised.
CREATE TEMP TABLE paths (number serial, path text);
INSERT INTO paths (path) VALUES ('/files/42/../43'), ('/files/43/../42'), ('/files//42'), ('//files/42'), ('/files/./42'),
    ('/files/42/'), ('files/42'), (''), ('/'), ('/files/42/.'), ('/./files/42'), ('/../files/42'),
    ('/files/%34%32'), ('/files%2F42'), ('/files%2f42'), ('/%66iles/42'), ('/files/%2e%2e/files/42'), ('/files/%252e'),
    ('/files/%zz'), ('/files/42%00'), ('/files/42%20'), ('/files/42%2F'), ('/files/%2542'), ('/files/4%32'),
    ('/files/42?x'), ('/files/42?'), ('/files/42#f'), ('/files/42;v'), ('/files/42;'), ('/files/42 '), (E'/files/42\t'),
    (E'/files/42\n'), (E'/files/42\r\n'), (' /files/42'), ('http://host/files/42'), ('//host/files/42'),
    ('/files/42,43'), ('/files/42&id=43'), ('/files' || chr(92) || '42'), ('/FILES/42'), ('/files/42' || repeat('/', 1000000)),
    (E'/f\u0131les/42'), (E'/file\u017f/42'), (E'/files/\uff14\uff12'), (E'/files\u221542'), (E'/files\uff0f42'),
    (E'/files/4\u200b2'), (E'/files/42\u0301'), (E'/files/\u066442'), (E'\ufeff/files/42'), ('/files/{id}'), ('/files/'),
    ('/files/42/start'), ('/files/042'), ('/files/42.0'), ('GET /files/42');
SELECT status, count(*) FROM paths, LATERAL public.temptoken_try_validate(:'token', 'GET', path) GROUP BY status;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;

-- A resource id that a server would resolve opens nothing, though the row says so: it is judged again.
SELECT public.temptoken_mint('files', 'by-hand', '1 hour') AS by_hand \gset
CREATE FUNCTION pg_temp.by_hand(token text, stored text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE temptoken.temp_tokens SET resource_id = stored WHERE id = substr(token, 4, 32)::uuid;
    RETURN (public.temptoken_try_validate(token, 'GET', '/files/' || stored)).status;
END $$;
SELECT stored, pg_temp.by_hand(:'by_hand', stored) AS status
FROM unnest(ARRAY['..;', '.;x', ';', '..;/', '..', '', 'a/b', 'a;..', '42;x']) AS stored;
DELETE FROM temptoken.temp_tokens WHERE id = substr(:'by_hand', 4, 32)::uuid;

-- Methods.
SELECT number, left(method, 20) AS method, status
FROM (VALUES (1, 'get'), (2, 'GeT'), (3, ' GET'), (4, 'GET '), (5, 'HEAD'), (6, '*'), (7, ''), (8, E'GET\n'), (9, 'GET,POST'),
        (10, repeat('GET', 350000)), (11, E'\uff27ET'), (12, 'G%45T'), (13, 'GET|POST')) AS v (number, method),
    LATERAL public.temptoken_try_validate(:'token', method, '/files/42')
ORDER BY number;
-- Folding is ASCII's alone: ſ is no S, and the Kelvin sign no K.
SELECT public.temptoken_register_scope('fold', ARRAY['MASK /', 'I /i'], '1 hour');
SELECT public.temptoken_mint('fold', 'x', '1 hour') AS fold \gset
SELECT method, status
FROM (VALUES ('mask', '/'), (E'MA\u017fK', '/'), (E'MAS\u212a', '/'), ('i', '/i'), (E'\u0131', '/i'), (E'\u0130', '/i')) AS v (method, path),
    LATERAL public.temptoken_try_validate(:'fold', method, path);

-- SQL in every argument.
CREATE TEMP TABLE sql (text text);
INSERT INTO sql VALUES (''''), ('''; DROP TABLE temptoken.temp_tokens; --'), (chr(92) || ''''), (chr(92) || chr(92)),
    ('$$'), ('$1'), ('" OR "1"="1'), ('%s%n%d'), ('{}'), ('{"x": 1}'), (E'a\x01b'), ('NULL'), ('E''' || chr(92) || ''''''),
    ('../../etc/passwd'), ('*'), ('_%');
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
SELECT status, count(*) FROM sql, LATERAL public.temptoken_try_validate(text, text, text) GROUP BY status;
SELECT status, count(*) FROM sql, LATERAL public.temptoken_try_validate(:'token', text, '/files/42') GROUP BY status;
SELECT status, count(*) FROM sql, LATERAL public.temptoken_try_validate(:'token', 'GET', text) GROUP BY status;
SELECT sum(public.temptoken_delete_by_resource_id(text, text)) AS by_resource_id,
       sum(public.temptoken_delete_by_scope(text)) AS by_scope,
       bool_or(public.temptoken_delete(text)) AS by_token,
       bool_or(public.temptoken_unregister_scope(text)) AS unregistered,
       bool_or(public.temptoken_lookup_scope(text) IS NOT NULL) AS found
FROM sql;
SELECT pg_temp.state_of(format('SELECT public.temptoken_mint(%L, %L, ''1 hour'')', text, text)) AS state, count(*)
FROM sql GROUP BY state;
SELECT pg_temp.state_of(format('SELECT public.temptoken_register_scope(%L, ARRAY[%L], ''1 hour'')', text, text)) AS state, count(*)
FROM sql GROUP BY state;
SELECT pg_temp.state_of(format('SELECT public.temptoken_register_scope(%L, ARRAY[''GET /x''], ''1 hour'')', text)) AS state, count(*)
FROM sql GROUP BY state;
-- Those of them that are scope-tokens are names.
SELECT count(*) AS registered, count(*) FILTER (WHERE (public.temptoken_lookup_scope(name)).name = name) AS found,
       count(length(public.temptoken_mint(name, name, '1 hour'))) AS minted,
       sum(public.temptoken_delete_by_resource_id(name, name)) AS deleted,
       count(*) FILTER (WHERE public.temptoken_unregister_scope(name)) AS unregistered
FROM (SELECT name FROM temptoken.scopes WHERE name IN (SELECT text FROM sql) OFFSET 0) AS names;
SELECT name FROM temptoken.scopes ORDER BY name;
SELECT scope, resource_id FROM temptoken.temp_tokens ORDER BY scope;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
