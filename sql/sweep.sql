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
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'temptoken_rows_waiting';
COMMENT ON FUNCTION temptoken.rows_waiting() IS
'Tokens that have expired and are not removed yet; NULL when the table or its primary key is locked, or is not as the extension made it';

CREATE FUNCTION temptoken.cron_schedule_of(command text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schedule text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'pg_cron') THEN
        RETURN temptoken.cron_find(command);
    END IF;
    EXECUTE 'SELECT j.schedule FROM cron.job AS j
             WHERE j.database = current_database() AND j.command LIKE $1 AND j.active LIMIT 1'
    INTO schedule USING command;
    RETURN schedule;
END
$$;
COMMENT ON FUNCTION temptoken.cron_schedule_of(text) IS
'The schedule of an active job of this database whose command is like this, wherever pg_cron is; NULL when there is none';

CREATE FUNCTION temptoken.cron_find(command text) RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'temptoken_cron_find';
COMMENT ON FUNCTION temptoken.cron_find(text) IS
'The schedule of an active job of this database whose command is like this, where pg_cron is in another database; NULL when there is none, or it cannot be asked';

CREATE FUNCTION temptoken.cron_schedule(name text, schedule text, command text) RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'temptoken_cron_schedule';
COMMENT ON FUNCTION temptoken.cron_schedule(text, text, text) IS
'Schedules a job for this database, where pg_cron is in another database, with the caller''s rights there; its id.
Errors: those of temptoken_schedule_sweep.';

CREATE FUNCTION temptoken.cron_unschedule(name text) RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'temptoken_cron_unschedule';
COMMENT ON FUNCTION temptoken.cron_unschedule(text) IS
'Unschedules the caller''s job of this name, where pg_cron is in another database; whether there was one.
Errors: those of temptoken_unschedule_sweep.';

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
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $$
BEGIN
    SELECT s.* FROM temptoken.sweep_state() AS s
    INTO worker, next_start, last_start, last_finish, rows_removed, rows_removed_in_total, last_error, last_error_at, preloaded;
    -- Whatever is broken there, the rest is told.
    BEGIN
        rows_waiting := temptoken.rows_waiting();
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    BEGIN
        cron_schedule := temptoken.cron_schedule_of('%temptoken_delete_expired%');
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
END
$$;
COMMENT ON FUNCTION @extschema@.temptoken_sweep_status() IS
'How sweeping stands in this database. Waits for no lock on the tokens and at most a second for one on the jobs of pg_cron, and answers also when sweeping is broken.
worker: running (a sweep is going on), waiting (the next one begins at next_start), excluded (a launcher runs, but passes this database over: it is a template, takes no connections, or is not named by temptoken.sweep_databases), standby (this server is one, and sweeps once it is promoted), none (no launcher runs). next_start: when the next sweep is due, for a worker that waits. last_start, last_finish: of the background worker''s last sweep; a sweep that goes on, or has failed, started after it finished last. rows_removed: by the sweep that began at last_start. rows_removed_in_total: by background workers in this database; temptoken_delete_expired(), which pg_cron calls, is not counted. last_error, last_error_at: what last went wrong, and when; it stays when later sweeps go well. A table that is locked counts from the second time in a row. rows_waiting: tokens that have expired and are not removed yet; NULL when the table or its primary key is locked or damaged. preloaded: whether shared_preload_libraries names the library. cron_schedule: of an active pg_cron job that calls temptoken_delete_expired() in this database; NULL when there is none.
What is known of past sweeps survives restarts and crashes, but for the times of sweeps that found nothing; it is not in base backups, nor moved by pg_upgrade.';

CREATE FUNCTION @extschema@.temptoken_sweep_worker_start() RETURNS text
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_sweep_worker_start() IS
'Has this database swept by a background worker, at once and at every temptoken.sweep_interval, where the library is not preloaded; says that a restart of the server ends it. DROP EXTENSION ends it too. Takes effect at once, also when the transaction is rolled back.
Errors: 55000 when the library is preloaded, or temptoken.sweep_databases leaves this database out; 53000 when no background worker slot is free; 25006 in a read-only transaction.';

CREATE FUNCTION @extschema@.temptoken_sweep_worker_stop() RETURNS boolean
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_sweep_worker_stop() IS
'Ends what temptoken_sweep_worker_start() has started, once the transaction is done that the worker is in; whether there was one. Takes effect at once, also when the transaction is rolled back.
Errors: 55000 when the library is preloaded.';

CREATE FUNCTION @extschema@.temptoken_schedule_sweep(schedule text DEFAULT '*/5 * * * *') RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name CONSTANT text := 'temptoken sweep of ' || current_database();
    command CONSTANT text := 'SELECT @extschema@.temptoken_delete_expired()';
    job bigint;
BEGIN
    IF schedule IS NULL THEN
        RAISE EXCEPTION 'temptoken: schedule must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass a schedule of pg_cron, such as ''*/5 * * * *''.';
    ELSIF EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'pg_cron') THEN
        EXECUTE 'SELECT cron.schedule($1, $2, $3)' INTO job USING name, schedule, command;
        RETURN job;
    END IF;
    RETURN temptoken.cron_schedule(name, schedule, command);
END
$$;
COMMENT ON FUNCTION @extschema@.temptoken_schedule_sweep(text) IS
'Has pg_cron call temptoken_delete_expired() in this database, as the caller; the id of the job. Another call changes its schedule. pg_cron may be in another database, in which case this takes effect at once, also when the transaction is rolled back.
schedule: as pg_cron takes it, such as ''*/5 * * * *''.
Errors: 55000 when pg_cron is not installed; 38000 when the pg_cron of another database refuses; 22004 for NULL; 53000 when no background worker slot is free; those of cron.schedule().';

CREATE FUNCTION @extschema@.temptoken_unschedule_sweep() RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name CONSTANT text := 'temptoken sweep of ' || current_database();
    jobs bigint;
BEGIN
    IF EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'pg_cron') THEN
        EXECUTE 'SELECT count(cron.unschedule(j.jobid)) FROM cron.job AS j
                 WHERE j.jobname = $1 AND j.username = CURRENT_USER'
        INTO jobs USING name;
        RETURN jobs > 0;
    END IF;
    RETURN temptoken.cron_unschedule(name);
END
$$;
COMMENT ON FUNCTION @extschema@.temptoken_unschedule_sweep() IS
'Ends what the caller has scheduled by temptoken_schedule_sweep(); whether there was anything. Where pg_cron is in another database, this takes effect at once, also when the transaction is rolled back.
Errors: 55000 when pg_cron is not installed; 38000 when the pg_cron of another database refuses; 53000 when no background worker slot is free.';
