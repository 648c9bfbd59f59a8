-- Sweeping: how it stands, and how it is had where the library is not preloaded.

CREATE FUNCTION temptoken.sweep_state(
    OUT worker text,
    OUT next_start timestamptz,
    OUT last_start timestamptz,
    OUT last_finish timestamptz,
    OUT rows_removed bigint,
    OUT rows_removed_in_total bigint,
    OUT last_error text,
    OUT last_error_at timestamptz,
    OUT preloaded boolean
) RETURNS record
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'temptoken_sweep_state';
COMMENT ON FUNCTION temptoken.sweep_state() IS
'What temptoken_sweep_status() says of the background worker, from shared memory';

CREATE FUNCTION temptoken.rows_waiting() RETURNS bigint
LANGUAGE c VOLATILE SET lock_timeout = '100ms'
AS 'MODULE_PATHNAME', 'temptoken_rows_waiting';
COMMENT ON FUNCTION temptoken.rows_waiting() IS
'Tokens that have expired and are not removed yet; NULL when the table or an index of it is locked for longer than 0.1 s, or cannot be read';

CREATE FUNCTION temptoken.cron_schedule(command text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' SET row_security = on
AS $$
DECLARE
    schedule text;
BEGIN
    -- What has that name and is no table of pg_cron's is not read, nor what an ordinary role has made as an extension of that name.
    IF EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
        JOIN pg_catalog.pg_class AS c ON c.oid = d.objid
        JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner AND r.oid = e.extowner
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.objid = pg_catalog.to_regclass('cron.job')
            AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
            AND d.deptype = 'e' AND e.extname = 'pg_cron' AND c.relkind = 'r' AND r.rolsuper
    ) THEN
        -- A job of another role may fail for want of rights, or be a trap: its role can change it at any time.
        EXECUTE 'SELECT j.schedule FROM cron.job AS j
                 JOIN pg_catalog.pg_roles AS r ON r.rolname = j.username
                 WHERE j.active AND j.database = pg_catalog.current_database() AND j.command = $1
                     AND (r.rolsuper OR r.oid = (
                         SELECT c.relowner FROM pg_catalog.pg_class AS c
                         WHERE c.oid = pg_catalog.to_regclass(''temptoken.temp_tokens'')))
                 ORDER BY j.jobid LIMIT 1'
        INTO schedule USING command;
    END IF;
    RETURN schedule;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION temptoken.cron_schedule(text) IS
'The schedule of the job of this database''s pg_cron that runs this command; NULL when there is none, or it cannot be read';

-- The body is parsed here and now, as those of temptoken_grant are, so that it calls these very functions: a schema can be
-- renamed, and another role can make one of the old name.
CREATE FUNCTION @extschema@.temptoken_sweep_status(
    OUT worker text,
    OUT next_start timestamptz,
    OUT last_start timestamptz,
    OUT last_finish timestamptz,
    OUT rows_removed bigint,
    OUT rows_removed_in_total bigint,
    OUT last_error text,
    OUT last_error_at timestamptz,
    OUT rows_waiting bigint,
    OUT preloaded boolean,
    OUT cron_schedule text
) RETURNS record
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
BEGIN ATOMIC
    SELECT s.worker, s.next_start, s.last_start, s.last_finish, s.rows_removed, s.rows_removed_in_total, s.last_error,
        s.last_error_at, temptoken.rows_waiting(), s.preloaded,
        temptoken.cron_schedule(
            pg_catalog.format('SELECT %I.temptoken_delete_expired(pg_catalog.clock_timestamp())', n.nspname))
    FROM temptoken.sweep_state() AS s, pg_catalog.pg_extension AS e
    JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
    WHERE e.extname OPERATOR(pg_catalog.=) 'temptoken';
END;
COMMENT ON FUNCTION @extschema@.temptoken_sweep_status() IS
'How sweeping stands in this database. Waits at most 0.1 s for a lock on the tokens and a second for one on the jobs of pg_cron, and answers also when sweeping is broken.
worker: running (a sweep is going on), waiting (the next one begins at next_start), excluded (a launcher runs, but passes this database over: it is a template, takes no connections, or is not named by temptoken.sweep_databases), standby (this server is one, and sweeps once it is promoted), none (no launcher runs). next_start: when the next sweep is due, for a worker that waits. last_start, last_finish: of the background worker''s last sweep; a sweep that goes on, or has failed, started after it finished last. rows_removed: by the sweep that began at last_start. rows_removed_in_total: by background workers in this database; temptoken_delete_expired(), which pg_cron calls, is not counted. last_error, last_error_at: what last went wrong, and when; it stays when later sweeps go well. A table that is locked counts from the second time in a row; a worker that takes longer than 4 s is ended, and counts; a sweep that leaves rows which cannot be removed has failed, with the first error; where one has crashed, the database is left alone for an interval. rows_waiting: tokens that have expired and are not removed yet; NULL when the table or an index of it is locked for longer, belongs to an ordinary role, or cannot be read. preloaded: whether shared_preload_libraries names the library. cron_schedule: of an active job of the pg_cron in this database, as temptoken_schedule_sweep() makes it, that belongs to the owner of temptoken.temp_tokens or to a superuser; NULL when there is none. Jobs of a pg_cron in another database are not seen.
What is known of past sweeps begins anew when the server starts. Where the library is preloaded, it survives a crash of a server process.';

CREATE FUNCTION @extschema@.temptoken_sweep_worker_start() RETURNS boolean
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_sweep_worker_start() IS
'Has this database swept by a background worker, at once and at every temptoken.sweep_interval, where the library is not preloaded; true when it was started, false when it was running already. A restart of the server ends it, as a NOTICE says, and so do a crash of the server and DROP EXTENSION. Takes effect at once, also when the transaction is rolled back. Keeps a slot of max_worker_processes. Each sweep needs another for a moment, so that the last free one is never kept.
Errors: 55000 when the library is preloaded, or temptoken.sweep_databases leaves this database out; 53000 when no two background worker slots are free; 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_sweep_worker_stop() RETURNS boolean
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_sweep_worker_stop() IS
'Ends what temptoken_sweep_worker_start() has started, once the worker has come to the end of its transaction; true when it was stopped, false when there was none. A restart of the server does not start it again, as a NOTICE says. Takes effect at once, also when the transaction is rolled back.
Errors: 55000 when the library is preloaded.';

CREATE FUNCTION @extschema@.temptoken_schedule_sweep(schedule text DEFAULT '*/5 * * * *') RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
DECLARE
    name CONSTANT text := 'temptoken sweep of ' || pg_catalog.current_database();
    -- The argument is written out: without it, a function without arguments that somebody else has made would be called. The
    -- schema may have been renamed.
    command CONSTANT text := (
        SELECT pg_catalog.format('SELECT %I.temptoken_delete_expired(pg_catalog.clock_timestamp())', n.nspname)
        FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
        WHERE e.extname = 'temptoken');
    job bigint;
BEGIN
    IF schedule IS NULL THEN
        RAISE EXCEPTION 'temptoken: schedule must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass a schedule of pg_cron, such as ''*/5 * * * *''.';
    ELSIF NOT EXISTS (
        SELECT FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_roles AS r ON r.oid = e.extowner
        WHERE e.extname = 'pg_cron' AND r.rolsuper
    ) THEN
        RAISE EXCEPTION 'temptoken: pg_cron is not in this database'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                DETAIL = 'A superuser installs pg_cron in one database of a server, which cron.database_name names.'
                    || CASE WHEN (SELECT r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname = CURRENT_USER)
                        THEN ' A superuser''s job runs with those rights whatever later has these names: '
                            'call this as a role that has ''manage'' and nothing else.'
                        ELSE '' END,
                -- What may be a token that was passed by mistake is not repeated.
                HINT = pg_catalog.format('In that database run: SELECT cron.schedule_in_database(%L, %L, %L, %L, %L)', name,
                    CASE WHEN schedule ~ '^[-0-9A-Za-z*/,$ ]{1,64}$' AND schedule !~* '[0-9a-f]{16}' THEN schedule
                         ELSE '*/5 * * * *' END,
                    command, pg_catalog.current_database(), CURRENT_USER);
    END IF;
    EXECUTE 'SELECT cron.schedule($1, $2, $3)' INTO job USING name, schedule, command;
    RETURN job;
END
$$;
COMMENT ON FUNCTION @extschema@.temptoken_schedule_sweep(text) IS
'Schedules a job of the pg_cron in this database, which calls temptoken_delete_expired() here, as the caller; the id of the job. Another call changes its schedule.
schedule: as pg_cron takes it, such as ''*/5 * * * *''. The job names the database and the schema of the functions, and calls what has these names when it runs: unschedule it before one of them is renamed or dropped.
Errors: 55000 when pg_cron is not in this database, with a HINT that is the statement to run where it is, for a job of the caller''s; 22004 for NULL; those of cron.schedule().';

CREATE FUNCTION @extschema@.temptoken_unschedule_sweep() RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name CONSTANT text := 'temptoken sweep of ' || pg_catalog.current_database();
    jobs bigint;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_roles AS r ON r.oid = e.extowner
        WHERE e.extname = 'pg_cron' AND r.rolsuper
    ) THEN
        RAISE EXCEPTION 'temptoken: pg_cron is not in this database'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                DETAIL = 'A superuser installs pg_cron in one database of a server, which cron.database_name names.',
                HINT = pg_catalog.format(
                    'In that database run: SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname = %L', name);
    END IF;
    EXECUTE 'SELECT pg_catalog.count(cron.unschedule(j.jobid)) FROM cron.job AS j
             WHERE j.jobname = $1 AND j.username = CURRENT_USER'
    INTO jobs USING name;
    RETURN jobs > 0;
END
$$;
COMMENT ON FUNCTION @extschema@.temptoken_unschedule_sweep() IS
'Unschedules the caller''s job that temptoken_schedule_sweep() has made; whether there was one. DROP EXTENSION does not.
Errors: 55000 when pg_cron is not in this database, with a HINT that is the statement to run where it is.';
