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

SELECT public.temptoken_delete_by_scope('limited'), public.temptoken_delete_by_scope('clicked');
SELECT public.temptoken_unregister_scope('limited'), public.temptoken_unregister_scope('clicked');
