-- Privileges by job: temptoken_grant, and what each covers. Every function and table for every role.

CREATE ROLE regress_issue;
CREATE ROLE regress_validate;
CREATE ROLE regress_manage;
CREATE ROLE regress_monitor;
CREATE ROLE regress_watcher IN ROLE pg_monitor;
SELECT public.temptoken_grant('regress_' || privilege, privilege) FROM unnest(ARRAY['issue', 'validate', 'manage', 'monitor']) AS privilege;

-- Everything that the extension has, and which of the roles may use it.
CREATE FUNCTION pg_temp.may() RETURNS TABLE (object text, issue boolean, validate boolean, manage boolean, monitor boolean, watcher boolean) LANGUAGE sql AS $$
    SELECT p.proname::text, has_function_privilege('regress_issue', p.oid, 'EXECUTE'),
           has_function_privilege('regress_validate', p.oid, 'EXECUTE'),
           has_function_privilege('regress_manage', p.oid, 'EXECUTE'), has_function_privilege('regress_monitor', p.oid, 'EXECUTE'),
           has_function_privilege('regress_watcher', p.oid, 'EXECUTE')
    FROM pg_depend AS d JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
        AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'temptoken')
    UNION ALL
    SELECT c.relname || ' ' || privilege, has_table_privilege('regress_issue', c.oid, privilege),
           has_table_privilege('regress_validate', c.oid, privilege), has_table_privilege('regress_manage', c.oid, privilege),
           has_table_privilege('regress_monitor', c.oid, privilege), has_table_privilege('regress_watcher', c.oid, privilege)
    FROM pg_class AS c,
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
    WHERE relnamespace = 'temptoken'::regnamespace AND relkind IN ('r', 'v')
    UNION ALL
    SELECT 'schema ' || privilege, has_schema_privilege('regress_issue', 'temptoken', privilege),
           has_schema_privilege('regress_validate', 'temptoken', privilege),
           has_schema_privilege('regress_manage', 'temptoken', privilege),
           has_schema_privilege('regress_monitor', 'temptoken', privilege),
           has_schema_privilege('regress_watcher', 'temptoken', privilege)
    FROM unnest(ARRAY['USAGE', 'CREATE']) AS privilege
$$;
SELECT * FROM pg_temp.may() WHERE issue OR validate OR manage OR monitor OR watcher ORDER BY object COLLATE "C";
SELECT object FROM pg_temp.may() WHERE NOT (issue OR validate OR manage OR monitor OR watcher) ORDER BY object COLLATE "C";

-- What is granted works.
SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
\c -
SET ROLE regress_issue;
SELECT public.temptoken_mint('files', '42', '1 hour') AS token \gset
SET ROLE regress_validate;
SELECT (public.temptoken_try_validate(:'token', 'GET', '/files/42')).status, public.temptoken_introspect(:'token') -> 'active' AS active;
SET ROLE regress_manage;
SELECT scope, resource_id FROM temptoken.active_tokens;
SELECT scope, live FROM public.temptoken_stats();
SET ROLE regress_monitor;
SELECT scope, live FROM public.temptoken_stats();
SELECT preloaded FROM public.temptoken_sweep_status();
SET ROLE regress_watcher;
SELECT scope, live FROM public.temptoken_stats();
SELECT preloaded FROM public.temptoken_sweep_status();
SELECT count(*) FROM temptoken.active_tokens;
SET ROLE regress_manage;
SELECT known, active FROM public.temptoken_find_tokens(:'token');
SELECT public.temptoken_delete_by_scope('files'), public.temptoken_unregister_scope('files');
RESET ROLE;

-- And what is taken back does not.
SELECT public.temptoken_revoke_grant('regress_' || privilege, privilege) FROM unnest(ARRAY['issue', 'validate', 'manage', 'monitor']) AS privilege;
SELECT count(*) FROM pg_depend AS d, aclexplode((SELECT proacl FROM pg_proc WHERE oid = d.objid)) AS a
WHERE d.classid = 'pg_proc'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'temptoken')
    AND a.grantee::regrole::text LIKE 'regress%';

-- What a role has as a member of another stays, and it says so.
SELECT public.temptoken_grant('regress_issue', 'issue');
GRANT regress_issue TO regress_monitor;
SELECT public.temptoken_revoke_grant('regress_monitor', 'issue');
REVOKE regress_issue FROM regress_monitor;
-- Also where it inherits nothing, and SET ROLE leads there, or to what is no function.
CREATE ROLE regress_outsider NOINHERIT IN ROLE regress_issue;
SET client_min_messages = error;
SELECT public.temptoken_revoke_grant('regress_outsider', 'issue');
RESET client_min_messages;
SELECT public.temptoken_revoke_grant('regress_issue', 'issue');
SELECT public.temptoken_revoke_grant('regress_outsider', 'issue');
GRANT SELECT ON temptoken.active_tokens TO regress_issue;
SELECT public.temptoken_revoke_grant('regress_outsider', 'manage');
REVOKE SELECT ON temptoken.active_tokens FROM regress_issue;
GRANT SELECT (id) ON temptoken.active_tokens TO regress_issue;
SELECT public.temptoken_revoke_grant('regress_outsider', 'manage');
REVOKE SELECT (id) ON temptoken.active_tokens FROM regress_issue;
DROP ROLE regress_outsider;

-- Mistakes.
\set SHOW_CONTEXT never
SELECT public.temptoken_grant('regress_issue', 'everything');
SELECT public.temptoken_grant('regress_issue', NULL);
SELECT public.temptoken_grant(NULL, 'issue');
SELECT public.temptoken_grant('regress nobody"', 'issue');
SELECT public.temptoken_revoke_grant('regress nobody"', 'issue');
-- What is meant is the extension's own functions, also when their schema was renamed and another has the old name.
BEGIN;
ALTER SCHEMA public RENAME TO regress_renamed;
CREATE SCHEMA public;
CREATE FUNCTION public.temptoken_stats() RETURNS text LANGUAGE sql AS $$ SELECT 'another' $$;
CREATE FUNCTION public.temptoken_sweep_status() RETURNS text LANGUAGE sql AS $$ SELECT 'another' $$;
SELECT regress_renamed.temptoken_revoke_grant('regress_monitor', 'monitor');
SELECT has_function_privilege('regress_monitor', 'regress_renamed.temptoken_stats()', 'EXECUTE') AS still;
SELECT regress_renamed.temptoken_grant('regress_monitor', 'monitor');
SELECT has_function_privilege('regress_monitor', 'regress_renamed.temptoken_stats()', 'EXECUTE') AS again,
       has_schema_privilege('regress_monitor', 'public', 'USAGE') AS in_another;
ROLLBACK;
-- Not to everybody, however it is written; but what somebody has granted to PUBLIC can be taken back.
SELECT public.temptoken_grant('public', 'validate');
SELECT public.temptoken_grant('PUBLIC', 'validate');
SELECT public.temptoken_grant('"public"', 'validate');
GRANT EXECUTE ON FUNCTION public.temptoken_peek(text, text, text) TO PUBLIC;
SELECT public.temptoken_revoke_grant('public', 'validate');
SELECT has_function_privilege('public', 'public.temptoken_peek(text, text, text)', 'EXECUTE');
-- A role may have that name in capitals.
CREATE ROLE "PUBLIC";
SELECT public.temptoken_grant('PUBLIC', 'validate');
SELECT has_function_privilege('public', 'public.temptoken_peek(text, text, text)', 'EXECUTE'),
       has_function_privilege('PUBLIC', 'public.temptoken_peek(text, text, text)', 'EXECUTE');
SELECT public.temptoken_revoke_grant('PUBLIC', 'validate');
DROP ROLE "PUBLIC";
SET ROLE regress_issue;
SELECT public.temptoken_grant('regress_issue', 'manage');
RESET ROLE;
-- USAGE on the schema is the role's own, whatever it is a member of.
BEGIN;
REVOKE USAGE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO regress_issue;
GRANT regress_issue TO regress_monitor;
SELECT public.temptoken_grant('regress_monitor', 'validate');
REVOKE regress_issue FROM regress_monitor;
SELECT has_schema_privilege('regress_monitor', 'public', 'USAGE') AS still;
ROLLBACK;
-- Who may call it and may not grant is refused.
GRANT USAGE ON SCHEMA temptoken TO regress_issue;
GRANT EXECUTE ON FUNCTION public.temptoken_grant, public.temptoken_revoke_grant, temptoken.change_privilege TO regress_issue;
GRANT SELECT ON temptoken.privileges TO regress_issue;
SELECT public.temptoken_grant('regress_issue', 'validate');
SET ROLE regress_issue;
SELECT public.temptoken_grant('regress_monitor', 'validate');
SELECT public.temptoken_revoke_grant('regress_monitor', 'validate');
RESET ROLE;
DROP OWNED BY regress_issue;
DROP ROLE regress_issue, regress_validate, regress_manage, regress_monitor, regress_watcher;
