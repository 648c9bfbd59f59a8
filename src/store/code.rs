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

/// Whether what writes to the table of oid $1 may run code of ordinary roles: whether a table that foreign keys tie to it, or a
/// partition or parent of one or of its own, belongs to one other than its owner, or the function of a trigger there to one other
/// than the owner of the table. Tied to it are the tables that refer to it, those that refer to these, and so on, whose triggers a
/// deletion may run; and the tables that one of all these refers to, which are read as their owner.
///
/// What else these tables use is not looked at.
pub static REACHES_CODE: Statement = Statement::asking(
    c"
    -- An array for each table: that keeps the estimates small, whatever the statistics are, and so the memory that is prepared.
    WITH RECURSIVE tied (oid, is_reached) AS (
        SELECT $1, true
        UNION
        SELECT next.oid, next.is_reached FROM tied CROSS JOIN LATERAL (
            -- Foreign keys to it have triggers on it. No index of pg_constraint leads there. OFFSET 0: by index.
            SELECT refers.oid, true FROM unnest(ARRAY(
                SELECT c.conrelid FROM pg_trigger AS g CROSS JOIN LATERAL (
                    SELECT c.conrelid FROM pg_constraint AS c
                    WHERE c.oid = g.tgconstraint AND c.contype = 'f' AND c.confrelid = tied.oid OFFSET 0
                ) AS c WHERE tied.is_reached AND g.tgrelid = tied.oid
            )) AS refers (oid)
            UNION ALL
            SELECT referred.oid, false FROM unnest(ARRAY(
                SELECT c.confrelid FROM pg_constraint AS c
                WHERE tied.is_reached AND c.conrelid = tied.oid AND c.contype = 'f'
            )) AS referred (oid)
            UNION ALL
            SELECT relative.oid, tied.is_reached FROM unnest(ARRAY(
                SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = tied.oid
                UNION ALL SELECT i.inhparent FROM pg_inherits AS i WHERE i.inhrelid = tied.oid
            )) AS relative (oid)
        ) AS next (oid, is_reached)
    ), tables (oid, owner) AS (
        SELECT t.oid, (SELECT c.relowner FROM pg_class AS c WHERE c.oid = t.oid)
        FROM unnest(ARRAY(SELECT oid FROM tied)) AS t (oid)
    ), owners (for_owner, by) AS (
        SELECT (SELECT c.relowner FROM pg_class AS c WHERE c.oid = $1), t.owner FROM tables AS t
        UNION ALL
        SELECT t.owner, (SELECT f.proowner FROM pg_proc AS f WHERE f.oid = g.function)
        FROM tables AS t CROSS JOIN LATERAL unnest(ARRAY(
            SELECT g.tgfoid FROM pg_trigger AS g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal
        )) AS g (function)
    )
    SELECT EXISTS (
        SELECT FROM owners AS o
        WHERE o.by <> o.for_owner AND NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = o.by))",
    &[OID],
);
