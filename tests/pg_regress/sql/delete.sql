-- Deletion by token, id, resource id, scope and expiry. None and many are both success.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT public.temptoken_register_scope('other', ARRAY['GET /other'], '1 hour');
SELECT public.temptoken_mint('files', '42', '1 hour') AS token, public.temptoken_mint('files', '42', '1 hour') AS second \gset

-- By token: only the whole token will do; its id alone is worth nothing.
SELECT public.temptoken_delete(overlay(:'token' PLACING 'ffff' FROM 90));
SELECT public.temptoken_delete(left(:'token', 35));
SELECT public.temptoken_delete(NULL), public.temptoken_delete('');
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
SELECT public.temptoken_delete(:'token');
SELECT public.temptoken_delete(:'token');
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status,
       (public.temptoken_try_validate(:'second', 'GET', '/files/42')).status;

-- Each row of a statement deletes for itself, and counts what it has deleted.
BEGIN;
CREATE TABLE public.regress_gone AS SELECT '7'::text AS file FROM generate_series(1, 10000);
ANALYZE public.regress_gone;
SELECT count(public.temptoken_mint('files', '7', '1 hour')) FROM generate_series(1, 2);
SELECT sum(deleted) FROM public.regress_gone,
    LATERAL (SELECT sum(n) AS deleted FROM public.temptoken_delete_by_resource_id('files', file) AS n) AS d;
ROLLBACK;

-- By id.
SELECT public.temptoken_delete_by_id(substr(:'second', 4, 32)::uuid);
SELECT public.temptoken_delete_by_id(substr(:'second', 4, 32)::uuid);
SELECT public.temptoken_delete_by_id(NULL);
SELECT (public.temptoken_try_validate(:'second', 'GET', '/files/42')).status;

-- By resource id: of that scope only; NULL and empty delete nothing.
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,a,a,b}', '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('other', ARRAY['a', ''], '1 hour');
SELECT public.temptoken_delete_by_resource_id('files', 'a');
SELECT public.temptoken_delete_by_resource_id('files', 'a');
SELECT public.temptoken_delete_by_resource_id('files', '%'), public.temptoken_delete_by_resource_id('%', 'b');
SELECT public.temptoken_delete_by_resource_id('files', NULL), public.temptoken_delete_by_resource_id(NULL, 'a'),
       public.temptoken_delete_by_resource_id('other', ''), public.temptoken_delete_by_resource_id('', 'a'),
       public.temptoken_delete_by_resource_id(NULL, NULL);
SELECT scope, resource_id FROM temptoken.temp_tokens ORDER BY scope, resource_id;

-- By scope, registered or not.
SELECT public.temptoken_unregister_scope('other');
SELECT public.temptoken_delete_by_scope('other');
SELECT public.temptoken_delete_by_scope('other'), public.temptoken_delete_by_scope(NULL), public.temptoken_delete_by_scope('');
SELECT scope, resource_id FROM temptoken.temp_tokens;

-- By expiry. A time to come is taken at its word.
SELECT count(*) FROM public.temptoken_mint_many('files', ARRAY(SELECT 'x' || i FROM generate_series(1, 12345) i), '1 millisecond');
SELECT count(*) FROM public.temptoken_mint_many('files', '{live}', '30 minutes');
SELECT pg_sleep(0.01);
SELECT public.temptoken_delete_expired('2000-01-01'), public.temptoken_delete_expired('-infinity'),
       public.temptoken_delete_expired(NULL);
SELECT public.temptoken_delete_expired();
SELECT public.temptoken_delete_expired();
SELECT resource_id FROM temptoken.temp_tokens ORDER BY resource_id;
-- The column decides, not the id: this one was given more time.
SELECT count(*) FROM public.temptoken_mint_many('files', '{given}', '1 millisecond');
UPDATE temptoken.temp_tokens SET expires_at = now() + interval '1 minute' WHERE resource_id = 'given';
SELECT pg_sleep(0.01);
SELECT public.temptoken_delete_expired();
SELECT public.temptoken_delete_expired(clock_timestamp() + interval '10 minutes');
SELECT resource_id FROM temptoken.temp_tokens ORDER BY resource_id;
SELECT public.temptoken_delete_expired('infinity');
SELECT count(*) FROM temptoken.temp_tokens;

-- Deletions belong to their transaction.
SELECT public.temptoken_mint('files', '42', '1 hour') AS token \gset
BEGIN;
SELECT public.temptoken_delete(:'token');
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
ROLLBACK;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;

-- None in a read-only transaction, not even of nothing.
\set VERBOSITY sqlstate
BEGIN READ ONLY;
SELECT public.temptoken_delete(NULL);
ROLLBACK;
BEGIN READ ONLY;
SELECT public.temptoken_delete_by_id(NULL);
ROLLBACK;
BEGIN READ ONLY;
SELECT public.temptoken_delete_by_resource_id('files', 'none');
ROLLBACK;
BEGIN READ ONLY;
SELECT public.temptoken_delete_by_scope('none');
ROLLBACK;
BEGIN READ ONLY;
SELECT public.temptoken_delete_expired();
ROLLBACK;
\set VERBOSITY default

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
