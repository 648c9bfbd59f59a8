-- Privileges for roles, by the job that a role has: one call grants all that the job needs, and nothing else.

-- By the name that the schema of the functions has now: it can be renamed, and another role can make one of the old name.
CREATE VIEW temptoken.privileges AS
SELECT v.privilege, pg_catalog.format(v.granted, n.nspname) AS granted
FROM pg_catalog.pg_extension AS e
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
CROSS JOIN (VALUES
    ('issue', 'EXECUTE ON FUNCTION %I.temptoken_mint(text, text, interval, jsonb, integer, boolean)'),
    ('issue', 'EXECUTE ON FUNCTION %I.temptoken_mint_many(text, text[], interval, jsonb, integer, boolean)'),
    ('issue', 'EXECUTE ON FUNCTION %I.temptoken_delete(text)'),
    ('issue', 'EXECUTE ON FUNCTION %I.temptoken_delete_by_id(uuid)'),
    ('issue', 'EXECUTE ON FUNCTION %I.temptoken_delete_by_resource_id(text, text)'),
    ('issue', 'EXECUTE ON FUNCTION %I.temptoken_delete_by_resource_id_trigger()'),
    ('issue', 'EXECUTE ON FUNCTION %I.temptoken_lookup_scope(text)'),
    ('issue', 'EXECUTE ON FUNCTION %I.temptoken_well_known_scopes()'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_validate(text, text, text)'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_try_validate(text, text, text)'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_peek(text, text, text)'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_introspect(text)'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_authenticate(text, text, text)'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_current_id()'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_current_scope()'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_current_resource_id()'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_current_metadata()'),
    ('validate', 'EXECUTE ON FUNCTION %I.temptoken_pre_request()'),
    ('monitor', 'EXECUTE ON FUNCTION %I.temptoken_stats()'),
    ('monitor', 'EXECUTE ON FUNCTION %I.temptoken_sweep_status()'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_register_scope(text, text[], interval, text, integer, text[], boolean)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_lookup_scope(text)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_unregister_scope(text)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_well_known_scopes()'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_delete_by_id(uuid)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_delete_by_resource_id(text, text)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_delete_by_scope(text)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_delete_expired(timestamptz)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_find_tokens(text)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_stats()'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_sweep_status()'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_sweep_worker_start()'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_sweep_worker_stop()'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_schedule_sweep(text)'),
    ('manage', 'EXECUTE ON FUNCTION %I.temptoken_unschedule_sweep()')
) AS v (privilege, granted)
WHERE e.extname OPERATOR(pg_catalog.=) 'temptoken'
UNION ALL SELECT 'manage', pg_catalog.concat('USAGE ON SCHEMA ', 'temptoken'::pg_catalog.regnamespace)
UNION ALL SELECT 'manage', pg_catalog.concat('SELECT ON ', 'temptoken.active_tokens'::pg_catalog.regclass);
COMMENT ON VIEW temptoken.privileges IS 'What temptoken_grant grants: a row for each privilege and what it covers';
COMMENT ON COLUMN temptoken.privileges.privilege IS 'issue, validate, manage or monitor';
COMMENT ON COLUMN temptoken.privileges.granted IS 'What stands between GRANT and TO';

CREATE FUNCTION temptoken.change_privilege(statement text, role text, privilege text, objects text[], scopes regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
    object text;
    functions CONSTANT name := (SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
                                WHERE e.extname = 'temptoken');
BEGIN
    IF role IS NULL OR privilege IS NULL OR privilege NOT IN ('issue', 'validate', 'manage', 'monitor') THEN
        RAISE EXCEPTION 'temptoken: unknown role or privilege'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A privilege is issue, validate, manage or monitor.';
    END IF;
    -- GRANT takes a role of this name, quoted or not, for PUBLIC.
    IF lower(role) = 'public' AND statement ~ '^GRANT' AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'temptoken: nothing is granted to PUBLIC'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'PUBLIC is every role of the server, those of other applications and later ones too.',
                  HINT = 'Name a role. For several, create one, grant to it, and make the others its members.';
    END IF;
    -- Looked up here, since the error of GRANT would repeat the argument, which may be a token that was passed by mistake.
    IF role <> 'public' AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'temptoken: there is no such role'
            USING ERRCODE = 'undefined_object', HINT = 'Pass its name as pg_roles.rolname has it: case counts, no quotes.';
    END IF;
    -- PostgreSQL's GRANT has a WARNING for this, and changes nothing.
    IF EXISTS (SELECT FROM unnest(objects) AS o
        WHERE NOT has_function_privilege(substring(o FROM '^EXECUTE ON FUNCTION (.*)$'), 'EXECUTE WITH GRANT OPTION')) THEN
        RAISE EXCEPTION 'temptoken: permission denied to change privileges'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Call it as the owner of the extension.';
    END IF;
    -- As the other functions: no crash gives back what was taken.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    -- One at a time: two GRANTs of one object at once fail with XX000. It holds up no use of the table, and needs a right to write to it.
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', scopes);
    FOREACH object IN ARRAY objects LOOP
        EXECUTE format(statement, object, role);
    END LOOP;
    -- Whether it inherits from what it is a member of or not: SET ROLE leads there.
    IF statement ~ '^REVOKE' AND EXISTS (
        SELECT FROM unnest(objects) AS o, pg_roles AS r
        WHERE (r.rolname = role OR pg_has_role((SELECT m.oid FROM pg_roles AS m WHERE m.rolname = role), r.oid, 'MEMBER'))
            AND (has_function_privilege(r.oid, substring(o FROM '^EXECUTE ON FUNCTION (.*)$'), 'EXECUTE')
                OR has_any_column_privilege(r.oid, substring(o FROM '^SELECT ON (.*)$'), 'SELECT'))) THEN
        RAISE WARNING 'temptoken: role % may still do some of this', quote_ident(role)
            USING DETAIL = 'It is a superuser or the owner, or what it is a member of may, perhaps PUBLIC, or another role has granted it.',
                  HINT = 'Take the privilege from that role, or the membership from this one.';
    END IF;
    -- Not taken back by REVOKE: other objects there may need it, and it grants nothing by itself. What the role has as a member of
    -- another can go.
    IF statement ~ '^GRANT' AND NOT has_schema_privilege('public', functions, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', functions, role);
    END IF;
END
$$;
COMMENT ON FUNCTION temptoken.change_privilege(text, text, text, text[], regclass) IS
'What temptoken_grant and temptoken_revoke_grant have in common';

CREATE FUNCTION @extschema@.temptoken_grant(role text, privilege text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT temptoken.change_privilege('GRANT %s TO %I', temptoken_grant.role, temptoken_grant.privilege,
        ARRAY(SELECT p.granted FROM temptoken.privileges AS p
              WHERE p.privilege OPERATOR(pg_catalog.=) temptoken_grant.privilege),
        'temptoken.scopes'::pg_catalog.regclass);
END;
COMMENT ON FUNCTION @extschema@.temptoken_grant(text, text) IS
'Grants a role all that one job needs: issue (mint, delete by token, id and resource), validate (validate, peek, introspect, authenticate and the identity), manage (scopes, deletions, what is active, statistics, sweeping), monitor (statistics and how sweeping stands, which pg_monitor has from the start). The view temptoken.privileges lists each. USAGE on the schema of the functions comes with it, and stays when the privilege is taken back.
role: as pg_roles.rolname has it. Errors: 22023 for another privilege, and for PUBLIC; 42704 when there is no such role; 42501 for a caller who may not grant.';

CREATE FUNCTION @extschema@.temptoken_revoke_grant(role text, privilege text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT temptoken.change_privilege('REVOKE %s FROM %I', temptoken_revoke_grant.role, temptoken_revoke_grant.privilege,
        ARRAY(SELECT p.granted FROM temptoken.privileges AS p
              WHERE p.privilege OPERATOR(pg_catalog.=) temptoken_revoke_grant.privilege),
        'temptoken.scopes'::pg_catalog.regclass);
END;
COMMENT ON FUNCTION @extschema@.temptoken_revoke_grant(text, text) IS
'Takes back what temptoken_grant has granted to this role; what another privilege of the role covers too goes as well. What it has as a member of another role, or was granted by one that had the grant option, stays, with a WARNING.
Errors: those of temptoken_grant, but PUBLIC is a role here, written public; 2BP01 when the role had the grant option and has granted some of it to others: revoke that first, with CASCADE.';
