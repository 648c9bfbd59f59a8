-- Expiry is judged by the clock at the moment of the call.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');

-- In a transaction that began before, and whether or not anything has swept.
BEGIN;
SELECT public.temptoken_mint('files', '42', '1 second') AS token \gset
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
SELECT pg_sleep(1.1);
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
SELECT public.temptoken_validate(:'token', 'GET', '/files/42');
ROLLBACK;

-- Within one statement.
WITH minted AS MATERIALIZED (SELECT public.temptoken_mint('files', '42', '200 milliseconds') AS token),
     before AS MATERIALIZED (SELECT token, (public.temptoken_try_validate(token, 'GET', '/files/42')).status FROM minted),
     slept AS MATERIALIZED (SELECT token, status, pg_sleep(0.3) FROM before)
SELECT status AS before, (public.temptoken_try_validate(token, 'GET', '/files/42')).status AS after FROM slept;

-- The instant itself is past it.
SELECT public.temptoken_mint('files', '42', '1 hour') AS token \gset
UPDATE temptoken.temp_tokens SET expires_at = now();
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;

-- A token whose TTL is cut to nothing has expired when it is handed out.
SELECT (public.temptoken_try_validate(public.temptoken_mint('files', '42', '1 microsecond'), 'GET', '/files/42')).status;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
