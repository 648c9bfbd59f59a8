//! What on the tables is code of somebody else's: of their owner's, who may run anything when a statement of ours is planned or
//! executed.
//!
//! Lives here: questions to the catalogs. May not come in here: what follows from the answer.

use crate::pg::{OID, Statement};

/// Whether the table of oid $1, or a partition of it, is more than the extension has made. Each catalog that hangs
/// something on a table is asked, and what is not known is code: also what calls PostgreSQL's functions alone, since some of
/// these look names up when they run. Policies do not apply to the owner, and publications run elsewhere.
pub static HAS_CODE: Statement = Statement::asking(
    c"
    SELECT EXISTS (
            SELECT FROM pg_class AS c
            WHERE c.oid = ANY (t.oids) AND (c.relkind NOT IN ('r', 'p') OR c.relispartition AND c.oid = $1)
        ) OR EXISTS (
            -- Our statements name a value for each column of ours.
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = ANY (t.oids) AND NOT a.attisdropped
                AND a.attnum > CASE WHEN $1 = 'temptoken.scopes'::regclass THEN 6 ELSE 8 END
                AND (a.atthasdef OR a.attidentity <> '' OR a.atttypid >= 16384)
        ) OR EXISTS (
            -- OFFSET 0: other tables' constraints are not to be looked at, which waits for locks on those tables, and can fail.
            -- The second way of each is that of quote_all_identifiers.
            SELECT FROM (
                SELECT c.oid FROM pg_constraint AS c
                WHERE c.conrelid = ANY (t.oids) AND c.contype NOT IN ('p', 'u', 'n') OFFSET 0
            ) AS c
            WHERE pg_get_constraintdef(c.oid) NOT IN (
                'CHECK (isfinite(expires_at))', 'CHECK (\"isfinite\"(\"expires_at\"))',
                'CHECK (\"temptoken\".\"scope_is_valid\"(\"name\", \"allowed_routes\", \"resource_id_in_path\", \"max_ttl\", \"max_uses\", \"spending_methods\"))',
                'CHECK (temptoken.scope_is_valid(name, allowed_routes, resource_id_in_path, max_ttl, max_uses, spending_methods))')
        ) OR EXISTS (
            -- A foreign key has triggers on both tables.
            SELECT FROM pg_trigger AS g
            WHERE g.tgrelid = ANY (t.oids)
                AND (g.tgqual IS NOT NULL OR g.tgfoid <> 'temptoken.scopes_changed()'::regprocedure)
        ) OR EXISTS (
            SELECT FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
            WHERE i.indrelid = ANY (t.oids) AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL OR c.relam >= 16384
                OR 16384 <= ANY (i.indclass::oid[]))
        ) OR EXISTS (
            SELECT FROM pg_partitioned_table AS p
            WHERE p.partrelid = ANY (t.oids) AND (p.partexprs IS NOT NULL OR 16384 <= ANY (p.partclass::oid[]))
        ) OR EXISTS (
            SELECT FROM pg_statistic_ext AS s WHERE s.stxrelid = ANY (t.oids) AND s.stxexprs IS NOT NULL
        ) OR EXISTS (
            SELECT FROM pg_inherits AS i WHERE i.inhparent = ANY (t.oids) AND i.inhrelid <> ALL (t.oids)
        ) OR EXISTS (
            SELECT FROM pg_rewrite AS r WHERE r.ev_class = ANY (t.oids)
        ) OR EXISTS (
            -- The extension's own function in the check and the trigger, replaced.
            SELECT FROM pg_proc AS f JOIN pg_language AS l ON l.oid = f.prolang
            WHERE l.lanname <> 'c' AND f.oid IN (
                'temptoken.scopes_changed()'::regprocedure,
                'temptoken.scope_is_valid(text, text[], text, interval, integer, text[])'::regprocedure)
        )
    FROM (SELECT ARRAY(SELECT $1 UNION SELECT p.relid FROM pg_partition_tree($1) AS p) AS oids OFFSET 0) AS t",
    &[OID],
);

/// Whether the role of oid $1, that of oid $2, or that of the session is a superuser or a member of one.
pub static MAY_BE_SUPERUSER: Statement = Statement::asking(
    c"
    SELECT EXISTS (SELECT FROM pg_roles AS r
                   WHERE r.rolsuper AND (pg_has_role($1, r.oid, 'MEMBER') OR pg_has_role($2, r.oid, 'MEMBER')
                       OR pg_has_role(session_user, r.oid, 'MEMBER')))",
    &[OID, OID],
);

/// The tables that a deletion from the table of oid $1 may reach by foreign keys, also those of its partitions, and the parents of
/// all, whose owners make triggers and checks for their partitions: the oid, and whether code of others runs amid ours. That is so
/// where one of these tables, or one that they refer to, which is read as its owner, or a partition or parent of that
/// - belongs to an ordinary role other than the owner of $1, or
/// - has something that hangs on it, as triggers, rules, constraints, defaults and indexes do, which uses a function, type, operator
///   or operator class of an ordinary role other than the owner of the table, as whom it runs, or a rule that uses a table of one.
///   What is used is looked at in the same way.
///
/// What the text of a function calls is not looked at, nor are policies.
pub static REACHED: Statement = Statement::asking(
    c"
    -- OFFSET 0, here and below: by index, however large the catalogs are.
    WITH RECURSIVE reached (oid) AS (
        SELECT $1
        UNION
        SELECT next.oid FROM reached CROSS JOIN LATERAL (
            -- Foreign keys to it have triggers on it. No index of pg_constraint leads there.
            SELECT c.conrelid FROM pg_trigger AS g CROSS JOIN LATERAL (
                SELECT c.conrelid FROM pg_constraint AS c
                WHERE c.oid = g.tgconstraint AND c.contype = 'f' AND c.confrelid = reached.oid OFFSET 0
            ) AS c WHERE g.tgrelid = reached.oid
            UNION ALL SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = reached.oid
            UNION ALL SELECT i.inhparent FROM pg_inherits AS i WHERE i.inhrelid = reached.oid
            OFFSET 0
        ) AS next (oid)
    ), referred (oid) AS (
        -- Arrays, here and below, keep the estimates small, and so the memory that is prepared.
        SELECT c.confrelid FROM unnest(ARRAY(SELECT oid FROM reached)) AS r (oid) CROSS JOIN LATERAL (
            SELECT c.confrelid FROM pg_constraint AS c WHERE c.conrelid = r.oid AND c.contype = 'f' OFFSET 0
        ) AS c
        UNION
        SELECT next.oid FROM referred CROSS JOIN LATERAL (
            SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = referred.oid
            UNION ALL SELECT i.inhparent FROM pg_inherits AS i WHERE i.inhrelid = referred.oid
            OFFSET 0
        ) AS next (oid)
    ), tables (oid, owner) AS (
        SELECT c.oid, c.relowner
        FROM unnest(ARRAY(SELECT oid FROM reached UNION SELECT oid FROM referred)) AS t (oid)
        CROSS JOIN LATERAL (SELECT c.oid, c.relowner FROM pg_class AS c WHERE c.oid = t.oid OFFSET 0) AS c
    ), used (for_owner, classid, objid) AS (
        SELECT t.owner, 'pg_class'::regclass::oid, t.oid FROM tables AS t
        UNION
        SELECT u.for_owner, next.classid, next.objid FROM used AS u CROSS JOIN LATERAL (
            -- What hangs on it
            SELECT d.classid, d.objid FROM pg_depend AS d
            WHERE d.refclassid = u.classid AND d.refobjid = u.objid AND d.deptype IN ('a', 'i')
                AND d.classid <> 'pg_policy'::regclass
            UNION ALL
            -- What it uses
            SELECT d.refclassid, d.refobjid FROM pg_depend AS d
            WHERE d.classid = u.classid AND d.objid = u.objid
                AND (d.refclassid IN ('pg_proc'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass,
                        'pg_opfamily'::regclass)
                    OR u.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass)
            OFFSET 0
        ) AS next
    ), owners (for_owner, by) AS (
        SELECT t.relowner, tables.owner FROM pg_class AS t, tables WHERE t.oid = $1
        UNION ALL
        SELECT u.for_owner, CASE u.classid
            WHEN 'pg_proc'::regclass THEN (SELECT f.proowner FROM pg_proc AS f WHERE f.oid = u.objid)
            WHEN 'pg_type'::regclass THEN (SELECT y.typowner FROM pg_type AS y WHERE y.oid = u.objid)
            WHEN 'pg_operator'::regclass THEN (SELECT o.oprowner FROM pg_operator AS o WHERE o.oid = u.objid)
            WHEN 'pg_class'::regclass THEN (SELECT c.relowner FROM pg_class AS c WHERE c.oid = u.objid)
            WHEN 'pg_opclass'::regclass THEN (SELECT o.opcowner FROM pg_opclass AS o WHERE o.oid = u.objid)
            END
        FROM used AS u
    )
    SELECT c.oid::bigint, EXISTS (
        SELECT FROM owners AS o JOIN pg_roles AS r ON r.oid = o.by WHERE NOT r.rolsuper AND r.oid <> o.for_owner)
    FROM reached AS c
    ORDER BY c.oid",
    &[OID],
);
