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

-- A function of such a name that was here before could be called in the place of one of these, with other argument types too. So
-- could a type: f('...') is a cast to a type f, where no function has the very types of the arguments.
DO LANGUAGE plpgsql $$
DECLARE
    other text;
BEGIN
    SELECT found.name INTO other
    FROM pg_catalog.pg_extension AS e
    CROSS JOIN LATERAL (
        SELECT pg_catalog.format('function %s', p.oid::pg_catalog.regprocedure) AS name
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace OPERATOR(pg_catalog.=) e.extnamespace AND p.proname OPERATOR(pg_catalog.~) '^temptoken_'
            AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_depend AS d
                WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                    AND d.objid OPERATOR(pg_catalog.=) p.oid
                    AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
                    AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
        UNION ALL
        SELECT pg_catalog.format('type %s', t.oid::pg_catalog.regtype)
        FROM pg_catalog.pg_type AS t
        WHERE t.typnamespace OPERATOR(pg_catalog.=) e.extnamespace AND t.typname OPERATOR(pg_catalog.~) '^temptoken_'
    ) AS found
    WHERE e.extname OPERATOR(pg_catalog.=) 'temptoken'
    ORDER BY found.name LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'temptoken: % is in the schema already', other
            USING ERRCODE = 'duplicate_object',
                HINT = 'It could be called in the place of a function of the extension''s. '
                    'Install into a schema that you make for it.';
    END IF;
END
$$;

-- Whoever may create functions beside these can have a call find another: an overload whose argument types fit better, or one with
-- fewer defaults. The order of a search path only decides between the same argument types. The owner of the schema can grant itself
-- what it has revoked from itself, the owner of a type there may rename it, and that of a function or operator may replace it. In
-- schema public, the owner of the database may create; that is no news.
DO LANGUAGE plpgsql $$
DECLARE
    schema text;
    roles text;
    hint text;
BEGIN
    -- The owner of the database may have had it hidden.
    PERFORM pg_catalog.set_config('client_min_messages', 'warning', true);
    FOR schema, hint, roles IN
        SELECT pg_catalog.quote_ident(n.nspname),
            CASE WHEN n.oid OPERATOR(pg_catalog.=) e.extnamespace
                 THEN 'Drop the extension, and create it in a schema that you make for it. ' ELSE '' END,
            CASE WHEN pg_catalog.has_schema_privilege('public', n.oid, 'CREATE') THEN 'PUBLIC'
                 WHEN n.oid OPERATOR(pg_catalog.=) e.extnamespace THEN (
                     SELECT pg_catalog.string_agg(pg_catalog.quote_ident(r.rolname), ', ' ORDER BY r.rolname)
                     FROM pg_catalog.pg_roles AS r
                     WHERE NOT r.rolsuper AND r.rolname OPERATOR(pg_catalog.<>) 'pg_database_owner'
                         AND (pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')
                         OR pg_catalog.pg_has_role(r.oid, n.nspowner, 'USAGE') OR EXISTS (
                             -- Neither the row type of a table nor an array's, which are not called and not renamed.
                             SELECT FROM pg_catalog.pg_type AS t
                             WHERE t.typnamespace OPERATOR(pg_catalog.=) n.oid AND t.typowner OPERATOR(pg_catalog.=) r.oid
                                 AND t.typrelid OPERATOR(pg_catalog.=) 0 AND NOT EXISTS (
                                     SELECT FROM pg_catalog.pg_type AS element
                                     WHERE element.typarray OPERATOR(pg_catalog.=) t.oid))
                         OR EXISTS (
                             SELECT FROM pg_catalog.pg_proc AS p
                             WHERE p.pronamespace OPERATOR(pg_catalog.=) n.oid AND p.proowner OPERATOR(pg_catalog.=) r.oid)
                         OR EXISTS (
                             SELECT FROM pg_catalog.pg_operator AS o
                             WHERE o.oprnamespace OPERATOR(pg_catalog.=) n.oid AND o.oprowner OPERATOR(pg_catalog.=) r.oid)))
            END
        FROM pg_catalog.pg_namespace AS n, pg_catalog.pg_extension AS e
        WHERE e.extname OPERATOR(pg_catalog.=) 'temptoken'
            AND (n.oid OPERATOR(pg_catalog.=) e.extnamespace OR n.nspname OPERATOR(pg_catalog.=) 'public')
    LOOP
        CONTINUE WHEN roles IS NULL;
        RAISE WARNING 'temptoken: % may create or rename objects in schema %', roles, schema
            USING DETAIL = 'Whoever may can have a function or type there called in the place of a function of the extension''s, '
                      'with the rights of the caller.',
                  HINT = pg_catalog.format('%sKeep schema %s out of search paths.', hint, schema);
    END LOOP;
END
$$;
