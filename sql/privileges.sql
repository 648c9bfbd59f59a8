-- Nothing is granted to anybody but the owner, but for the privilege 'monitor' to pg_monitor: neither what PUBLIC has by
-- default, nor what ALTER DEFAULT PRIVILEGES has given to named roles. The functions reach the tables on their own:
-- whoever may call one needs no right on a table.

DO LANGUAGE plpgsql $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_catalog.pg_depend AS d
            JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
            WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
                AND d.deptype OPERATOR(pg_catalog.=) 'e' AND e.extname OPERATOR(pg_catalog.=) 'temptoken'
        ), granted AS (
            SELECT pg_catalog.format('FUNCTION %s', p.oid::pg_catalog.regprocedure) AS object, a.grantee
            FROM member AS m
            JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) m.objid
            CROSS JOIN LATERAL pg_catalog.aclexplode(
                coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
            UNION
            SELECT pg_catalog.format('TABLE %s', c.oid::pg_catalog.regclass), a.grantee
            FROM member AS m
            JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) m.objid
            CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
            UNION
            SELECT pg_catalog.format('SCHEMA %I', n.nspname), a.grantee
            FROM member AS m
            JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) m.objid
            CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) AS a
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
                AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner
        )
        SELECT pg_catalog.format('REVOKE ALL ON %s FROM %s', object,
            coalesce(
                (SELECT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_roles AS r
                 WHERE r.oid OPERATOR(pg_catalog.=) grantee),
                'PUBLIC'))
        FROM granted
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

-- After the revocations: what the privilege 'monitor' covers.
GRANT EXECUTE ON FUNCTION @extschema@.temptoken_stats(), @extschema@.temptoken_sweep_status() TO pg_monitor;

-- A function of such a name that was here before could be called in the place of one of these, with other argument types too.
DO LANGUAGE plpgsql $$
DECLARE
    other text;
BEGIN
    SELECT p.oid::pg_catalog.regprocedure INTO other
    FROM pg_catalog.pg_extension AS e
    JOIN pg_catalog.pg_proc AS p ON p.pronamespace OPERATOR(pg_catalog.=) e.extnamespace
    WHERE e.extname OPERATOR(pg_catalog.=) 'temptoken' AND p.proname OPERATOR(pg_catalog.~) '^temptoken_'
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_depend AS d
            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                AND d.objid OPERATOR(pg_catalog.=) p.oid
                AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
                AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    ORDER BY p.oid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'temptoken: function % is in the schema already', other
            USING ERRCODE = 'duplicate_function',
                HINT = 'It could be called in the place of one of the extension''s. Drop it, or install into a schema of its own.';
    END IF;
END
$$;

-- Whoever may create functions beside these can have a call find another: an overload whose argument types fit better, or one with
-- fewer defaults. The order of a search path only decides between the same argument types. In schema public, the owner of the database
-- may create; that is no news.
DO LANGUAGE plpgsql $$
DECLARE
    schema text;
    roles text;
BEGIN
    -- The owner of the database may have had it hidden.
    PERFORM pg_catalog.set_config('client_min_messages', 'warning', true);
    FOR schema, roles IN
        SELECT pg_catalog.quote_ident(n.nspname),
            CASE WHEN pg_catalog.has_schema_privilege('public', n.oid, 'CREATE') THEN 'PUBLIC'
                 WHEN n.oid OPERATOR(pg_catalog.=) e.extnamespace THEN (
                     SELECT pg_catalog.string_agg(pg_catalog.quote_ident(r.rolname), ', ' ORDER BY r.rolname)
                     FROM pg_catalog.pg_roles AS r
                     WHERE NOT r.rolsuper AND r.rolname OPERATOR(pg_catalog.<>) 'pg_database_owner'
                         AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE'))
            END
        FROM pg_catalog.pg_namespace AS n, pg_catalog.pg_extension AS e
        WHERE e.extname OPERATOR(pg_catalog.=) 'temptoken'
            AND (n.oid OPERATOR(pg_catalog.=) e.extnamespace OR n.nspname OPERATOR(pg_catalog.=) 'public')
    LOOP
        CONTINUE WHEN roles IS NULL;
        RAISE WARNING 'temptoken: % may create objects in schema %', roles, schema
            USING DETAIL = 'Whoever may can put a function there that is called in the place of one of the extension''s, with the '
                      'rights of the caller.',
                  HINT = pg_catalog.format('Drop the extension, let a superuser own schema %s and REVOKE CREATE ON it, and create the '
                      'extension again. Or install into a schema of its own, and keep this one out of search paths.', schema);
    END LOOP;
END
$$;
