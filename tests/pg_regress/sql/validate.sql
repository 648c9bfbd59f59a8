-- Validation of requests that are authorized, and of their nearest neighbours that are not.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}', 'put /files/{id}/', 'M-SEARCH /f-{id}.pdf'],
    '1 hour', '{id}');
SELECT public.temptoken_mint('files', '42', '1 hour', '{"user": 7}') AS token \gset

SELECT id = substr(:'token', 4, 32)::uuid AS id, scope, resource_id,
       expires_at > clock_timestamp() AND expires_at <= clock_timestamp() + '1 hour' AS expires_at, metadata
FROM public.temptoken_validate(:'token', 'GET', '/files/42');
SELECT status, id = substr(:'token', 4, 32)::uuid AS id, scope, resource_id,
       expires_at > clock_timestamp() AS expires_at, metadata
FROM public.temptoken_try_validate(:'token', 'GET', '/files/42');
SELECT status, id IS NOT NULL AS id, scope, resource_id, metadata FROM public.temptoken_peek(:'token', 'GET', '/files/42');
-- As a value in a target list and in PL/pgSQL.
SELECT (public.temptoken_validate(:'token', 'GET', '/files/42')).resource_id;
DO $$
DECLARE
    answer record;
BEGIN
    answer := public.temptoken_try_validate(NULL, 'GET', '/files/42');
    RAISE NOTICE '%', answer.status;
END $$;

-- Everything but the status is NULL on refusal.
SELECT status, id, scope, resource_id, expires_at, metadata FROM public.temptoken_try_validate(:'token', 'GET', '/files/43');
SELECT status, id, scope, resource_id, expires_at, metadata FROM public.temptoken_peek(:'token', 'GET', '/files/43');

SELECT method, path, status
FROM (VALUES ('GET', '/files/42'), ('get', '/files/42'), ('gEt', '/files/42'), ('PUT', '/files/42/'),
        ('m-search', '/f-42.pdf'),
        ('PUT', '/files/42'), ('GET', '/files/42/'), ('GET', '/f-42.pdf'), ('M-SEARCH', '/f-{id}.pdf'),
        ('HEAD', '/files/42'), ('', '/files/42'), ('*', '/files/42'), ('GET ', '/files/42'), (' GET', '/files/42'),
        ('GET /files/42', '/files/42'), ('GET', '/files/4'), ('GET', '/files/422'), ('GET', '/files/'), ('GET', '/files/{id}'),
        ('GET', '/Files/42')) AS v (method, path),
    LATERAL public.temptoken_try_validate(:'token', method, path);

-- A scope opens its own routes only: the id "me" does not make /a/me of another scope.
SELECT public.temptoken_register_scope('a', ARRAY['GET /a/{id}'], '1 hour', '{id}');
SELECT public.temptoken_register_scope('me', ARRAY['GET /a/me'], '1 hour');
SELECT public.temptoken_mint('a', 'me', '1 hour') AS by_id, public.temptoken_mint('me', 'x', '1 hour') AS by_scope,
       public.temptoken_mint('a', 'you', '1 hour') AS you \gset
SELECT (public.temptoken_try_validate(:'by_id', 'GET', '/a/me')).scope,
       (public.temptoken_try_validate(:'by_scope', 'GET', '/a/me')).scope,
       (public.temptoken_try_validate(:'by_scope', 'GET', '/a/x')).status,
       (public.temptoken_try_validate(:'you', 'GET', '/a/me')).status;

-- A placeholder need not be a whole segment, and stands wherever it occurs.
SELECT public.temptoken_register_scope('twice', ARRAY['GET /u/:u/x:u'], '1 hour', ':u');
SELECT public.temptoken_mint('twice', 'ab', '1 hour') AS twice \gset
SELECT path, (public.temptoken_try_validate(:'twice', 'GET', path)).status
FROM unnest(ARRAY['/u/ab/xab', '/u/ab/xcd', '/u/ab/x:u', '/u/:u/x:u']) AS path;

-- A scope that goes and comes back; tokens live and die with it.
SELECT public.temptoken_unregister_scope('files');
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
SELECT public.temptoken_register_scope('files', ARRAY['GET /elsewhere/{id}'], '1 minute', '{id}');
SELECT path, (public.temptoken_try_validate(:'token', 'GET', path)).status
FROM unnest(ARRAY['/files/42', '/elsewhere/42']) AS path;
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}', replace => true);
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;

-- The cache of scopes follows this session's own changes, and their undoing.
BEGIN;
UPDATE temptoken.scopes SET allowed_routes = ARRAY['GET /moved/{id}'] WHERE name = 'files';
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/moved/42')).status;
SAVEPOINT s;
DELETE FROM temptoken.scopes WHERE name = 'files';
SELECT (public.temptoken_try_validate(:'token', 'GET', '/moved/42')).status;
ROLLBACK TO s;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/moved/42')).status;
ROLLBACK;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/moved/42')).status;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
BEGIN;
TRUNCATE temptoken.scopes;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;
ROLLBACK;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status;

-- A resource id that could not stand in the path any more is judged again: its scope was replaced since.
SELECT public.temptoken_mint('me', 'x/start', '1 hour') AS slash, public.temptoken_mint('me', '..', '1 hour') AS dots \gset
SELECT public.temptoken_register_scope('me', ARRAY['GET /flows/{id}'], '1 hour', '{id}', replace => true);
SELECT (public.temptoken_try_validate(:'slash', 'GET', '/flows/x/start')).status,
       (public.temptoken_try_validate(:'dots', 'GET', '/flows/..')).status;

-- Validation reads: it takes no transaction id and works in a read-only transaction.
BEGIN READ ONLY;
SELECT count(*) FROM generate_series(1, 10000),
    LATERAL public.temptoken_validate(:'token', 'GET', '/files/42')
WHERE scope = 'files';
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
ROLLBACK;
BEGIN;
SELECT count((public.temptoken_validate(:'token', 'GET', '/files/42')).id) FROM generate_series(1, 10000);
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
COMMIT;

-- A limited token is spent by validation, not by a peek; its scope says by which methods.
SELECT public.temptoken_register_scope('once', ARRAY['GET /r/{id}', 'POST /r/{id}'], '1 hour', '{id}',
    max_uses => 1, spending_methods => '{POST}');
SELECT public.temptoken_mint('once', '1', '1 hour') AS once \gset
SELECT (public.temptoken_try_validate(:'once', 'GET', '/r/1')).status FROM generate_series(1, 3);
SELECT (public.temptoken_peek(:'once', 'POST', '/r/1')).status FROM generate_series(1, 3);
SELECT (public.temptoken_try_validate(:'once', 'POST', '/r/2')).status;
BEGIN READ ONLY;
SELECT (public.temptoken_try_validate(:'once', 'POST', '/r/1')).status;
ROLLBACK;
BEGIN;
SELECT (public.temptoken_try_validate(:'once', 'post', '/r/1')).status;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT (public.temptoken_try_validate(:'once', 'POST', '/r/1')).status;
SELECT (public.temptoken_try_validate(:'once', 'POST', '/r/1')).status;
ROLLBACK TO s;
SELECT (public.temptoken_try_validate(:'once', 'POST', '/r/1')).status;
COMMIT;
SELECT (public.temptoken_try_validate(:'once', 'POST', '/r/1')).status;
SELECT (public.temptoken_try_validate(:'once', 'GET', '/r/1')).status, (public.temptoken_peek(:'once', 'GET', '/r/1')).status;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;

-- A change of a scope that is rolled back before it was announced leaves nothing of it in memory.
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}', replace => true);
SELECT public.temptoken_mint('files', '77', '1 hour') AS token \gset
CREATE FUNCTION public.regress_probe() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.temptoken_mint(NEW.name, 'probe', '1 second');
    RAISE EXCEPTION 'not this one' USING ERRCODE = 'AB123';
END $$;
-- Before scopes_changed, by name.
CREATE TRIGGER probe AFTER INSERT OR UPDATE ON temptoken.scopes FOR EACH ROW EXECUTE FUNCTION public.regress_probe();
\set VERBOSITY sqlstate
SELECT public.temptoken_register_scope('files', ARRAY['GET /admin/{id}'], '1 hour', '{id}', replace => true);
\set VERBOSITY default
SELECT (public.temptoken_try_validate(:'token', 'GET', '/admin/77')).status AS admin,
       (public.temptoken_try_validate(:'token', 'GET', '/files/77')).status AS files;
DROP TRIGGER probe ON temptoken.scopes;
DROP FUNCTION public.regress_probe;
DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
