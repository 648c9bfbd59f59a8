-- Each refusal and error, with its own SQLSTATE, seen as a client sees it; and the order in which they are judged.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}', max_uses => 1);
SELECT public.temptoken_mint('files', '42', '1 hour') AS token, public.temptoken_mint('files', '43', '1 hour') AS expired,
       public.temptoken_mint('files', '44', '1 hour') AS used_up \gset
UPDATE temptoken.temp_tokens SET expires_at = clock_timestamp() - interval '1 second' WHERE resource_id = '43';
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
UPDATE temptoken.temp_tokens SET uses_left = 0, expires_at = clock_timestamp() - interval '1 second'
WHERE resource_id = 'order';
SELECT public.temptoken_unregister_scope('files');
SELECT (public.temptoken_try_validate(overlay(:'token' PLACING 'ffff' FROM 90), 'GET', '/no')).status;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/no')).status;
UPDATE temptoken.temp_tokens SET expires_at = clock_timestamp() + interval '1 hour' WHERE resource_id = 'order';
SELECT (public.temptoken_try_validate(:'token', 'GET', '/no')).status;
SELECT * FROM public.temptoken_validate(:'token', 'GET', '/no');
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT (public.temptoken_try_validate(:'token', 'GET', '/no')).status;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/order')).status;
UPDATE temptoken.temp_tokens SET uses_left = 1 WHERE resource_id = 'order';
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/order')).status;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
