-- Identity: temptoken_authenticate binds the token to the transaction; policies ask temptoken_current_*.

SELECT public.temptoken_register_scope('flows', ARRAY['GET /flows/{id}', 'PUT /flows/{id}'], '1 hour', '{id}');
SELECT public.temptoken_mint('flows', 'f1', '1 hour', '{"user": 7}') AS one,
       public.temptoken_mint('flows', 'f2', '1 hour') AS two \gset
CREATE FUNCTION pg_temp.bound() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT concat_ws('|', public.temptoken_current_id() IS NOT NULL, public.temptoken_current_scope(),
        public.temptoken_current_resource_id(), public.temptoken_current_metadata())
$$;

-- Nothing is bound until it is, and no longer than the transaction.
SELECT pg_temp.bound();
SELECT scope, resource_id, metadata FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
SELECT pg_temp.bound();
BEGIN;
SELECT id = substr(:'one', 4, 32)::uuid AS id FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
SELECT pg_temp.bound();
SELECT public.temptoken_current_id() = substr(:'one', 4, 32)::uuid AS id;
COMMIT;
SELECT pg_temp.bound();
BEGIN;
SELECT scope FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
ROLLBACK;
SELECT pg_temp.bound();
-- Validation, peeks and refusals bind nothing.
BEGIN;
SELECT scope FROM public.temptoken_validate(:'one', 'GET', '/flows/f1');
SELECT status FROM public.temptoken_try_validate(:'one', 'GET', '/flows/f1');
SELECT status FROM public.temptoken_peek(:'one', 'GET', '/flows/f1');
SELECT pg_temp.bound();
SAVEPOINT s;
SELECT * FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f2');
ROLLBACK TO s;
SELECT * FROM public.temptoken_authenticate(NULL, 'GET', '/flows/f2');
ROLLBACK TO s;
SELECT pg_temp.bound();
COMMIT;

-- The last one bound counts; a savepoint that is rolled back takes its own with it.
BEGIN;
SELECT scope FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
SAVEPOINT a;
SELECT scope FROM public.temptoken_authenticate(:'two', 'GET', '/flows/f2');
SELECT pg_temp.bound();
SAVEPOINT b;
SELECT scope FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
RELEASE b;
SELECT pg_temp.bound();
ROLLBACK TO a;
SELECT pg_temp.bound();
SAVEPOINT c;
SELECT scope FROM public.temptoken_authenticate(:'two', 'GET', '/flows/f2');
RELEASE c;
SELECT pg_temp.bound();
COMMIT;
BEGIN;
SAVEPOINT a;
SELECT scope FROM public.temptoken_authenticate(:'two', 'GET', '/flows/f2');
ROLLBACK TO a;
SELECT pg_temp.bound();
DO $$
BEGIN
    PERFORM public.temptoken_authenticate(NULL, NULL, NULL);
EXCEPTION WHEN SQLSTATE 'TT001' THEN
    NULL;
END $$;
SELECT pg_temp.bound();
COMMIT;
-- A procedure that commits begins a transaction in which nothing is bound.
CREATE PROCEDURE pg_temp.commits(token text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.temptoken_authenticate(token, 'GET', '/flows/f1');
    RAISE NOTICE 'before: %', public.temptoken_current_resource_id();
    COMMIT;
    RAISE NOTICE 'after: %', public.temptoken_current_resource_id();
END $$;
CALL pg_temp.commits(:'one');

-- Nobody can set it: not by settings of any name, not by SET ROLE, not by a function of another user.
BEGIN;
DO $$
BEGIN
    PERFORM set_config('temptoken.current_resource_id', 'f2', true);
EXCEPTION WHEN OTHERS THEN
    NULL; -- a name of this prefix that is no setting, from PostgreSQL 15 on
END $$;
SELECT pg_temp.bound();
ROLLBACK;
BEGIN;
SELECT scope FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
RESET ALL;
SELECT pg_temp.bound();
ROLLBACK;
DISCARD ALL;

-- Policies are what this is about, whatever the session had set.
SET row_security = on;

-- A worked example: each token sees the row of its own flow, and nothing else.
CREATE TABLE public.regress_flow (id text PRIMARY KEY, tenant text, answer text);
INSERT INTO public.regress_flow VALUES ('f1', 'first', 'none'), ('f2', 'second', 'none');
ALTER TABLE public.regress_flow ENABLE ROW LEVEL SECURITY;
CREATE POLICY by_token ON public.regress_flow
    USING (public.temptoken_current_scope() = 'flows' AND id = public.temptoken_current_resource_id());
CREATE ROLE regress_bearer;
GRANT SELECT, UPDATE, INSERT, DELETE ON public.regress_flow TO regress_bearer;
SELECT public.temptoken_grant('regress_bearer', 'validate');

SET ROLE regress_bearer;
SELECT * FROM public.regress_flow;
BEGIN;
SELECT scope FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
SELECT * FROM public.regress_flow;
UPDATE public.regress_flow SET answer = 'yes';
SELECT * FROM public.regress_flow;
DELETE FROM public.regress_flow WHERE id = 'f2';
SAVEPOINT s;
INSERT INTO public.regress_flow VALUES ('f3', 'first', 'none');
ROLLBACK TO s;
UPDATE public.regress_flow SET id = 'f2' WHERE id = 'f1';
ROLLBACK TO s;
COMMIT;
BEGIN;
SELECT scope FROM public.temptoken_authenticate(:'two', 'PUT', '/flows/f2');
SELECT id FROM public.regress_flow;
COMMIT;
-- Forging.
CREATE FUNCTION pg_temp.temptoken_current_resource_id() RETURNS text LANGUAGE sql AS 'SELECT ''f2''';
BEGIN;
SELECT scope FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
SET LOCAL search_path = pg_temp, public;
SET LOCAL app.resource_id = 'f2';
SELECT set_config('request.path', '/flows/f2', true) IS NOT NULL AS set;
SELECT id FROM public.regress_flow;
SELECT id FROM public.regress_flow WHERE id = 'f2';
UPDATE public.regress_flow SET answer = 'forged' WHERE id = 'f2';
SAVEPOINT s;
SELECT * FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f2');
ROLLBACK TO s;
SELECT public.temptoken_mint('flows', 'f2', '1 hour');
ROLLBACK TO s;
SELECT count(*) FROM temptoken.temp_tokens;
ROLLBACK TO s;
ALTER TABLE public.regress_flow DISABLE ROW LEVEL SECURITY;
ROLLBACK TO s;
CREATE POLICY mine ON public.regress_flow USING (true);
ROLLBACK TO s;
SET LOCAL row_security = off;
SELECT id FROM public.regress_flow;
ROLLBACK TO s;
SELECT id FROM public.regress_flow;
COMMIT;
RESET ROLE;
-- The policy holds in functions of another user too.
CREATE FUNCTION public.regress_read() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT id FROM public.regress_flow';
ALTER FUNCTION public.regress_read() OWNER TO regress_bearer;
BEGIN;
SELECT scope FROM public.temptoken_authenticate(:'two', 'GET', '/flows/f2');
SELECT public.regress_read();
COMMIT;
SELECT public.regress_read();

-- Parallel plans leave the question to the leader.
BEGIN;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SELECT scope FROM public.temptoken_authenticate(:'one', 'GET', '/flows/f1');
SELECT count(*) FROM pg_class WHERE public.temptoken_current_resource_id() IS DISTINCT FROM 'f1';
COMMIT;

-- Behind a function that is declared safe and is not, no function runs in a parallel operation: a worker has no binding, and neither
-- it nor the leader can write.
CREATE FUNCTION public.regress_run(statement text) RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN
    EXECUTE statement;
    RETURN true;
END $$;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
\set SHOW_CONTEXT never
SELECT count(*) FROM pg_proc WHERE public.regress_run('SELECT public.temptoken_current_scope()');
\set SHOW_CONTEXT errors
\set VERBOSITY sqlstate
\set ECHO queries
SELECT format('SELECT count(*) FROM pg_proc WHERE public.regress_run(%L)', format('SELECT %I.%I(%s)', pronamespace::regnamespace, proname,
    (SELECT string_agg('NULL::' || format_type(argument, NULL), ', ') FROM unnest(proargtypes) AS argument)))
FROM pg_proc WHERE probin LIKE '%temptoken%' AND prorettype <> 'trigger'::regtype AND proname <> 'planner_support'
ORDER BY proparallel = 's', proname COLLATE "C" \gexec
ALTER FUNCTION public.regress_run PARALLEL RESTRICTED;
SELECT public.regress_run('SELECT public.temptoken_current_scope()'), count(prosrc) > 1 FROM pg_proc;
SELECT public.regress_run('SELECT public.temptoken_peek(NULL, NULL, NULL)'), count(prosrc) > 1 FROM pg_proc;
SELECT public.regress_run('SELECT public.temptoken_validate(NULL, NULL, NULL)'), count(prosrc) > 1 FROM pg_proc;
\set ECHO all
\set VERBOSITY default
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET parallel_leader_participation;

DROP FUNCTION public.regress_run(text);
DROP FUNCTION public.regress_read();
DROP TABLE public.regress_flow;
DROP OWNED BY regress_bearer;
DROP ROLE regress_bearer;
DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
