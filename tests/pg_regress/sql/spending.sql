-- Limited uses: each answer says how many are left.

SELECT public.temptoken_register_scope('limited', ARRAY['GET /r/{id}', 'POST /r/{id}'], '1 hour', '{id}', max_uses => 3);
SELECT public.temptoken_register_scope('clicked', ARRAY['GET /r/{id}', 'POST /r/{id}'], '1 hour', '{id}', max_uses => 2,
    spending_methods => '{POST}');
SELECT public.temptoken_mint('limited', '1', '1 hour', '{"a": 1}') AS token, public.temptoken_mint('clicked', '1', '1 hour') AS clicked,
       public.temptoken_mint('limited', '1', '1 hour', max_uses => 1) AS once \gset
SELECT status, uses_left, metadata FROM public.temptoken_peek(:'token', 'GET', '/r/1');
SELECT scope, resource_id, uses_left, metadata FROM public.temptoken_validate(:'token', 'GET', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/1');
-- A refusal spends nothing.
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'PUT', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/2');
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/1');
SELECT id FROM public.temptoken_validate(:'token', 'GET', '/r/1');
SELECT status, uses_left FROM public.temptoken_peek(:'token', 'GET', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'once', 'GET', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'once', 'GET', '/r/1');

-- Methods that spend nothing need a use all the same.
SELECT status, uses_left FROM public.temptoken_try_validate(:'clicked', 'GET', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'clicked', 'POST', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'clicked', 'GET', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'clicked', 'POST', '/r/1');
SELECT status, uses_left FROM public.temptoken_try_validate(:'clicked', 'GET', '/r/1');

-- A use that is rolled back was not spent.
SELECT public.temptoken_mint('limited', '2', '1 hour') AS token \gset
BEGIN;
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/2');
SAVEPOINT s;
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/2');
ROLLBACK TO s;
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/2');
ROLLBACK;
SELECT status, uses_left FROM public.temptoken_peek(:'token', 'GET', '/r/2');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/2');
COMMIT;
BEGIN READ ONLY;
SELECT status FROM public.temptoken_try_validate(:'token', 'GET', '/r/2');
ROLLBACK;
-- Only the newest of a resource.
SELECT public.temptoken_mint('limited', '2', '1 hour', replace => true) AS newest \gset
SELECT (public.temptoken_peek(:'token', 'GET', '/r/2')).status AS before, (public.temptoken_peek(:'newest', 'GET', '/r/2')).status AS newest;

-- Each row has a call of its own, also where the planner would keep the answer for rows with the same arguments (Memoize).
CREATE FUNCTION public.regress_costly(jsonb) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN true; END $$;
CREATE TABLE public.regress_queue AS SELECT public.temptoken_mint('limited', '3', '1 hour') AS token FROM generate_series(1, 1) AS one;
INSERT INTO public.regress_queue SELECT token FROM public.regress_queue, generate_series(1, 99);
ANALYZE public.regress_queue;
SELECT count(*) FROM public.regress_queue, public.temptoken_try_validate(token, 'GET', '/r/3') AS t
WHERE t.status = 'ok' AND public.regress_costly(t.metadata);
SELECT public.temptoken_mint('limited', '3', '1 hour') AS third \gset
UPDATE public.regress_queue SET token = :'third';
SELECT count(*) FROM public.regress_queue, LATERAL (SELECT * FROM public.temptoken_try_validate(token, 'GET', '/r/3')) AS t
WHERE t.status = 'ok' AND public.regress_costly(t.metadata);
UPDATE public.regress_queue SET token = :'newest';
BEGIN;
\set VERBOSITY sqlstate
SAVEPOINT s;
SELECT count(*) FROM public.regress_queue, LATERAL (SELECT * FROM public.temptoken_validate(token, 'GET', '/r/2') OFFSET 0) AS t
WHERE public.regress_costly(t.metadata);
ROLLBACK TO s;
SELECT count(*) FROM public.regress_queue, LATERAL (SELECT * FROM public.temptoken_authenticate(token, 'GET', '/r/2') OFFSET 0) AS t
WHERE public.regress_costly(t.metadata);
ROLLBACK TO s;
\set VERBOSITY default
SELECT status FROM public.temptoken_try_validate(:'newest', 'GET', '/r/2');
SHOW enable_memoize;
SELECT status FROM (VALUES (:'newest')) AS v (token), public.temptoken_try_validate(token, 'GET', '/r/2');
SHOW enable_memoize;
COMMIT;
SHOW enable_memoize;
DROP TABLE public.regress_queue;
DROP FUNCTION public.regress_costly;

-- A spend goes by the primary key, also where no statistics say that the token's resource has many others.
\c -
BEGIN;
DELETE FROM pg_statistic WHERE starelid = 'temptoken.temp_tokens'::regclass;
SELECT token FROM public.temptoken_mint_many('limited', array_fill('3'::text, '{3000}'), '1 hour') LIMIT 1 \gset
SELECT status, uses_left FROM public.temptoken_try_validate(:'token', 'GET', '/r/3');
SELECT sum(pg_stat_get_xact_numscans(indexrelid)) AS scans FROM pg_index
WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'temptoken'::regnamespace) AND NOT indisprimary;
ROLLBACK;

SELECT public.temptoken_delete_by_scope('limited'), public.temptoken_delete_by_scope('clicked');
SELECT public.temptoken_unregister_scope('limited'), public.temptoken_unregister_scope('clicked');
