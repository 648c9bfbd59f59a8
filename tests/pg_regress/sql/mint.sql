-- Minting: the token's text, what is stored, TTLs, resource ids, metadata, many at once.

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

-- The token: prefix, id, secret. What is stored: the id, and SHA-256 over id and secret.
SELECT public.temptoken_mint('files', '42', '15 minutes', '{"a": 1}') AS token \gset
SELECT :'token' ~ '^tt_[0-9a-f]{96}$' AS shape;
SELECT id = substr(:'token', 4, 32)::uuid AS id,
       token_hash = sha256(decode(substr(:'token', 4), 'hex')) AS token_hash,
       scope, resource_id, uses_left, metadata,
       expires_at - created_at BETWEEN '14 minutes 59.9 seconds' AND '15 minutes' AS ttl,
       clock_timestamp() - created_at BETWEEN '0' AND '1 minute' AS created_at,
       expires_at = date_trunc('milliseconds', expires_at) AS cut,
       substr(id::text, 15, 1) AS version, substr(id::text, 20, 1) BETWEEN '8' AND 'b' AS variant,
       ('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint
           = (extract(epoch FROM expires_at) * 1000)::bigint AS leads_with_expiry
FROM temptoken.temp_tokens;
DELETE FROM temptoken.temp_tokens;

-- TTL. Days have 24 hours in every time zone, and a month has no length.
SELECT ttl, pg_temp.state_of(format('SELECT public.temptoken_mint(''files'', ''42'', %L::interval)', ttl)) AS state
FROM unnest(ARRAY['1 hour', '1 microsecond', '3599.999999 seconds', '1 day -23 hours', NULL, '0', '-1 second',
    '1 hour 0.000001 seconds', '1 day', '1 month', '100000 years', '-1 month 31 days', '2147483647 days',
    '2147483647 days 2562047788 hours', '-178000000 years']) AS ttl;
SELECT count(*), count(*) FILTER (WHERE expires_at > clock_timestamp() + '1 hour') AS too_long
FROM temptoken.temp_tokens;
DELETE FROM temptoken.temp_tokens;
SELECT public.temptoken_mint('files', '42', '2 hours');
SELECT public.temptoken_mint('files', '42', NULL);
SELECT public.temptoken_mint('files', '42', '0');
SELECT public.temptoken_mint('files', '42', '-1.5 seconds');
SELECT public.temptoken_mint('files', '42', '1 month');
SELECT public.temptoken_mint('files', '42', '-1 year +1 day');
-- The nanoseconds of fifteen minutes, as a driver may pass its own kind of duration.
SELECT public.temptoken_mint('files', '42', '900000000000');
SELECT public.temptoken_mint('nothing', '42', '1 hour');
SELECT public.temptoken_mint(NULL, '42', '1 hour');
SELECT public.temptoken_mint(repeat('n', 1000000), '42', '1 hour');

-- An expiry that an id cannot carry.
SELECT public.temptoken_register_scope('long', ARRAY['GET /'], '100000000 days');
SELECT public.temptoken_mint('long', 'x', '3652500 days');
SELECT pg_temp.state_of('SELECT public.temptoken_mint(''long'', ''x'', ''36525 days'')');
SELECT public.temptoken_unregister_scope('long'), public.temptoken_delete_by_scope('long');

-- Resource ids: in a scope with a placeholder they must stand in a path; elsewhere any text does.
CREATE TEMP TABLE ids (number serial, resource_id text);
INSERT INTO ids (resource_id) VALUES (NULL), (''), ('.'), ('..'), ('a/b'), ('{id}'), ('%2F'), ('%41'), ('?'), ('#'),
    (chr(92)), (E'a\nb'), (' '), ('a b'), (E'\t'), ('é'), (E'e\u0301'), (E'\uff14\uff12'), (E'\u2215'),
    (E'4\u200b2'), ('"'), ('<'), ('|'), ('^'), ('`'), (E'\x7f'), (repeat('a', 2049)), (repeat('a', 1000000)),
    (repeat('a', 2048)), ('42'), ('...'), ('.a'), (';'), ('..;'), ('.;'), ('.;x'), ('..;/'), (';..'), ('a;'), ('a;..'), ('a.'), ('-._~!$&''()*+,=:@aZ09');
SELECT number, left(encode(convert_to(resource_id, 'UTF8'), 'escape'), 30) AS resource_id,
       pg_temp.state_of(format('SELECT public.temptoken_mint(''files'', %L, ''1 hour'')', resource_id)) AS files,
       pg_temp.state_of(format('SELECT public.temptoken_mint(''report'', %L, ''1 hour'')', resource_id)) AS report
FROM ids ORDER BY number;
SELECT scope, count(*) FROM temptoken.temp_tokens GROUP BY scope ORDER BY scope;
SELECT public.temptoken_mint('files', 'a/b', '1 hour');
DELETE FROM temptoken.temp_tokens;

-- Metadata comes back as it went in, at most 65536 bytes as a text and 64 levels, whatever stands in its strings.
CREATE TEMP TABLE data (number serial, metadata jsonb);
INSERT INTO data (metadata) VALUES (NULL), ('null'), ('1'), ('"text"'), ('[]'), ('{"a": {"b": [1, 2, null]}}'),
    (jsonb_build_object('big', repeat('x', 65525))), ((repeat('[{"a":', 32) || '1' || repeat('}]', 32))::jsonb),
    (to_jsonb(repeat('["' || chr(92), 100))), ((repeat('[[],', 63) || to_jsonb(']"['::text) || repeat(']', 63))::jsonb);
SELECT number, (v).status, (v).metadata IS NOT DISTINCT FROM metadata AS same
FROM (SELECT number, metadata, public.temptoken_try_validate(
    public.temptoken_mint('files', '42', '1 hour', metadata), 'GET', '/files/42') AS v FROM data) AS it
ORDER BY number;
INSERT INTO data (metadata) VALUES (jsonb_build_object('big', repeat('x', 65526))), ((repeat('[{"a":', 32) || '[]' || repeat('}]', 32))::jsonb);
SELECT public.temptoken_mint('files', '42', '1 hour', metadata) FROM data WHERE number = 11;
SELECT public.temptoken_mint('files', '42', '1 hour', metadata) FROM data WHERE number = 12;
SELECT count(*) FROM data, public.temptoken_mint_many('files', '{a,b}', '1 hour', metadata) WHERE number = 11;
-- 16 bytes as a jsonb.
SELECT public.temptoken_mint('files', '42', '1 hour', '1e131071');
-- Not even a row written by hand lives for ever.
\set VERBOSITY sqlstate
UPDATE temptoken.temp_tokens SET expires_at = 'infinity';
\set VERBOSITY default
DELETE FROM temptoken.temp_tokens;

-- Uses: the scope's limit can be lowered, not raised.
SELECT public.temptoken_register_scope('limited', ARRAY['GET /'], '1 hour', max_uses => 3);
SELECT length(public.temptoken_mint(scope, coalesce('r' || max_uses, 'none'), '1 hour', max_uses => max_uses)) AS length
FROM (VALUES ('limited', NULL), ('limited', 2), ('limited', 3), ('report', NULL), ('report', 5)) AS v (scope, max_uses);
SELECT scope, resource_id, uses_left FROM temptoken.temp_tokens ORDER BY scope, uses_left, resource_id;
SELECT public.temptoken_mint('limited', 'x', '1 hour', max_uses => 4);
SELECT public.temptoken_mint('report', 'x', '1 hour', max_uses => 0);
SELECT public.temptoken_unregister_scope('limited');
DELETE FROM temptoken.temp_tokens;

-- Many at once: one for each resource id, in order, duplicates too; all or none.
SELECT resource_id, token ~ '^tt_[0-9a-f]{96}$' AS shape,
       (public.temptoken_try_validate(token, 'GET', '/files/' || resource_id)).status
FROM public.temptoken_mint_many('files', '{a,b,a}', '1 hour', '{"batch": 1}');
SELECT (it).resource_id, length((it).token)
FROM (SELECT public.temptoken_mint_many('files', '{c,d}', '1 hour') AS it) AS targetlist;
SELECT (it).resource_id, length((it).token)
FROM (SELECT public.temptoken_mint_many('files', '{e}', '1 hour') AS it FROM generate_series(1, 3)) AS again;
SELECT resource_id, count(*), count(DISTINCT token_hash) AS hashes, bool_and(metadata = '{"batch": 1}') AS metadata
FROM temptoken.temp_tokens GROUP BY resource_id ORDER BY resource_id;
DELETE FROM temptoken.temp_tokens;
SELECT count(*) FROM public.temptoken_mint_many('files', '{}', '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('report', ARRAY(SELECT i::text FROM generate_series(1, 10000) i), '1 hour');
SELECT count(*), count(DISTINCT id) AS ids FROM temptoken.temp_tokens;
DELETE FROM temptoken.temp_tokens;
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,b/c}', '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,NULL}', '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('files', NULL, '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('files', '{{a,b},{c,d}}', '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('files', array_fill(NULL::text, ARRAY[1000001]), '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('files', '{a}', '2 hours');
SELECT count(*) FROM public.temptoken_mint_many('nothing', '{a}', '1 hour');
SELECT count(*) FROM temptoken.temp_tokens;

-- The prefix: for new tokens; what was minted under another stays valid.
SELECT public.temptoken_mint('files', '42', '1 hour') AS old \gset
SET temptoken.token_prefix = 'acme_1';
SELECT public.temptoken_mint('files', '42', '1 hour') AS new \gset
SELECT :'new' ~ '^acme_1_[0-9a-f]{96}$' AS shape;
SELECT (public.temptoken_try_validate(token, 'GET', '/files/42')).status
FROM unnest(ARRAY[:'old', :'new', 'zz' || substr(:'old', 3)]) AS token;
SET temptoken.token_prefix = '';
SET temptoken.token_prefix = 'Acme';
SET temptoken.token_prefix = 'seventeen_letters';
SET temptoken.token_prefix = 'a-b';
SHOW temptoken.token_prefix;
RESET temptoken.token_prefix;

-- In a read-only transaction nothing is minted.
BEGIN READ ONLY;
SELECT public.temptoken_mint('files', '42', '1 hour');
ROLLBACK;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
