//! The background worker, driven from outside: what it removes and when, what it must not hold up, what it survives.

use std::time::Duration;

use crate::common::{
    self, Cluster, LAUNCHER, REGISTER, busy_worker, has_tokens, mint, slow_down, sqlstate, stays_for, text, value,
    wait_for, wait_until,
};
use postgres::Client;

/// Waits until the sweep of this database that begins next is over.
fn next_sweep(client: &mut Client) {
    let now = text(client, "SELECT clock_timestamp()");
    let over = format!("SELECT last_start > '{now}' AND last_finish >= last_start FROM temptoken_sweep_status()");
    wait_until("the next sweep is over", || value(client, &over).as_deref() == Some("t"));
}

#[test]
fn the_worker_sweeps_at_start_and_on_its_interval_and_leaves_what_lives() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 500, "1 millisecond");
    mint(&mut client, 7, "1 hour");
    drop(client);
    // At start: the interval is an hour off.
    cluster.stop("fast");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until("the worker has swept at start", || has_tokens(&mut client, 7));
    // On the interval, shortened by a reload.
    cluster.configure(&["temptoken.sweep_interval = 1s"]);
    cluster.reload();
    for _ in 0..3 {
        mint(&mut client, 10, "1 millisecond");
        wait_until("the worker has swept on its interval", || has_tokens(&mut client, 7));
    }
    assert!(cluster.log().contains("swept database \"postgres\": 500 rows in"), "{}", cluster.log());
}

#[test]
fn the_worker_sweeps_every_database_with_the_extension_and_no_other() {
    let cluster = Cluster::with_extension(&[]);
    let mut first = cluster.connect("postgres");
    first.batch_execute("CREATE DATABASE \"Se,cond \"\"db\"\"\"").unwrap();
    first.batch_execute("CREATE DATABASE without").unwrap();
    let mut second = cluster.connect("Se,cond \"db\"");
    second.batch_execute("CREATE EXTENSION temptoken").unwrap();
    for client in [&mut first, &mut second] {
        text(client, REGISTER);
        mint(client, 20, "1 millisecond");
        wait_until("the worker has swept", || has_tokens(client, 0));
    }
    // A database that an interrupted DROP has left invalid is left alone.
    first.batch_execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'without'").unwrap();
    // A worker that was on its way there when that was done is turned away; none is in the round after it.
    next_sweep(&mut first);
    next_sweep(&mut first);
    let before = cluster.log().len();
    // Named databases only; names with commas and quotes among them.
    cluster.configure(&["temptoken.sweep_databases = 'without, \"Se,cond \"\"db\"\"\"'"]);
    cluster.reload();
    wait_until("the setting holds", || text(&mut first, "SHOW temptoken.sweep_databases").starts_with("without"));
    mint(&mut first, 20, "1 millisecond");
    mint(&mut second, 20, "1 millisecond");
    for _ in 0..2 {
        wait_until("the named database is swept", || has_tokens(&mut second, 0));
        mint(&mut second, 20, "1 millisecond");
    }
    assert!(has_tokens(&mut first, 20));
    assert!(!cluster.log().contains("ERROR") && !cluster.log()[before..].contains("FATAL"), "{}", cluster.log());
}

#[test]
fn the_worker_is_silent_where_the_extension_is_absent_and_starts_with_it() {
    let cluster = Cluster::start(&["shared_preload_libraries = 'temptoken'", "temptoken.sweep_interval = 1s"]);
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE DATABASE other").unwrap();
    // A schema of its name that is somebody else's, with a table that looks the same.
    client
        .batch_execute(
            "CREATE SCHEMA temptoken;
             CREATE TABLE temptoken.temp_tokens (id uuid PRIMARY KEY, token_hash bytea, scope text, resource_id text,
                 created_at timestamptz, expires_at timestamptz, uses_left integer, metadata jsonb);
             INSERT INTO temptoken.temp_tokens VALUES (gen_random_uuid(), '', 's', 'r', 'epoch', 'epoch');
             INSERT INTO temptoken.temp_tokens VALUES ('00000000-0000-8000-8000-000000000001', '', 's', 'r', 'epoch', 'epoch')",
        )
        .unwrap();
    let before = cluster.log();
    stays_for(Duration::from_secs(3), "nothing to sweep, nothing to say", || {
        has_tokens(&mut client, 2) && cluster.log() == before
    });
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut other, REGISTER);
    mint(&mut other, 5, "1 millisecond");
    wait_until("the new extension is swept", || has_tokens(&mut other, 0));
    assert!(has_tokens(&mut client, 2));
}

#[test]
fn a_terminated_launcher_ends_and_comes_back() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    wait_until("the launcher runs", || value(&mut client, LAUNCHER).is_some());
    let before = text(&mut client, LAUNCHER);
    mint(&mut client, 3, "1 millisecond");
    text(&mut client, &format!("SELECT pg_terminate_backend({before})"));
    wait_until("it is gone", || value(&mut client, LAUNCHER).as_ref() != Some(&before));
    // Back, and with its sweep at start.
    wait_until("it is back", || value(&mut client, LAUNCHER).is_some());
    wait_until("it has swept", || has_tokens(&mut client, 0));
}

#[test]
fn a_busy_worker_ends_when_terminated_and_its_work_is_done_later() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    // A trigger holds the worker up in the middle of its batch.
    client
        .batch_execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(600); RETURN OLD; END $$;
             CREATE TRIGGER wait BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .unwrap();
    mint(&mut client, 3, "1 millisecond");
    let worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'temptoken sweep worker' AND state = 'active'
                      AND query = 'temptoken: sweeping' AND wait_event = 'PgSleep'";
    wait_until("the worker is busy", || value(&mut client, worker).is_some());
    let pid = text(&mut client, worker);
    text(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    wait_until("it is gone", || text(&mut client, &gone) == "0");
    client.batch_execute("DROP TRIGGER wait ON temptoken.temp_tokens").unwrap();
    wait_until("another has swept", || has_tokens(&mut client, 0));
}

#[test]
fn a_fast_stop_does_not_wait_for_the_worker() {
    let cluster = Cluster::with_extension(&["max_prepared_transactions = 2"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 3, "1 millisecond");
    // A lock that outlives every session.
    client
        .batch_execute("BEGIN; LOCK TABLE temptoken.temp_tokens IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'held'")
        .unwrap();
    let met = "SELECT last_error LIKE 'another session holds a lock%' FROM temptoken_sweep_status()";
    wait_until("a worker has met the lock", || value(&mut client, met).as_deref() == Some("t"));
    drop(client);
    cluster.stop("fast");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    client.batch_execute("ROLLBACK PREPARED 'held'").unwrap();
    wait_until("it sweeps again", || has_tokens(&mut client, 0));
}

#[test]
fn a_row_that_is_locked_does_not_hold_up_the_others() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let mut locker = cluster.connect("postgres");
    locker.batch_execute("BEGIN").unwrap();
    mint(&mut client, 50, "2 seconds");
    text(&mut locker, "SELECT id FROM temptoken.temp_tokens WHERE resource_id = '7' FOR UPDATE");
    wait_until("the others are swept", || has_tokens(&mut client, 1));
    locker.batch_execute("ROLLBACK").unwrap();
    wait_until("it is swept too", || has_tokens(&mut client, 0));
}

#[test]
fn what_a_row_has_outside_the_table_goes_with_it() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    // Large and random, so that it is not compressed into the row.
    let metadata = "(SELECT jsonb_agg(random()) FROM generate_series(1, 2000))";
    text(&mut client, &format!("SELECT temptoken_mint('files', '42', '2 seconds', {metadata})"));
    let toast =
        text(&mut client, "SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'temptoken.temp_tokens'::regclass");
    let chunks = format!("SELECT count(*) FROM {toast}");
    assert_ne!(text(&mut client, &chunks), "0");
    wait_until("it is swept", || has_tokens(&mut client, 0));
    assert_eq!(text(&mut client, &chunks), "0");
}

#[test]
fn sweeping_shows_in_the_statistics_that_autovacuum_reads() {
    let cluster = Cluster::with_extension(&["autovacuum = off"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 400, "1 millisecond");
    wait_until("it has swept", || has_tokens(&mut client, 0));
    let dead = "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'temp_tokens'";
    wait_until("the rows are counted", || text(&mut client, dead) == "400");
}

#[test]
fn a_long_sweep_does_not_hold_up_what_needs_the_database_for_itself() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_batch_size = 10"]);
    let mut postgres = cluster.connect("postgres");
    postgres.batch_execute("CREATE DATABASE busy").unwrap();
    let mut client = cluster.connect("busy");
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut client, REGISTER);
    // Some twenty seconds of work.
    slow_down(&mut client, 0.01);
    mint(&mut client, 2_000, "1 millisecond");
    drop(client);
    busy_worker(&mut postgres);
    postgres.batch_execute("ALTER DATABASE busy RENAME TO renamed").unwrap();
    busy_worker(&mut postgres);
    postgres.batch_execute("CREATE DATABASE copy TEMPLATE renamed").unwrap();
    postgres.batch_execute("DROP DATABASE copy").unwrap();
    busy_worker(&mut postgres);
    postgres.batch_execute("DROP DATABASE renamed").unwrap();
}

#[test]
fn a_database_whose_rows_cannot_be_removed_does_not_hold_up_the_others() {
    let cluster = Cluster::with_extension(&[]);
    let mut postgres = cluster.connect("postgres");
    postgres.batch_execute("CREATE DATABASE zz").unwrap();
    let mut other = cluster.connect("zz");
    other.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut postgres, REGISTER);
    text(&mut other, REGISTER);
    postgres
        .batch_execute("CREATE TABLE child (token uuid REFERENCES temptoken.temp_tokens ON DELETE CASCADE)")
        .unwrap();
    let mut holder = cluster.connect("postgres");
    for lock in ["UPDATE child SET token = token", "LOCK TABLE temptoken.temp_tokens", "LOCK TABLE child"] {
        mint(&mut postgres, 1, "2 seconds");
        postgres.batch_execute("INSERT INTO child SELECT id FROM temptoken.temp_tokens").unwrap();
        holder.batch_execute(&format!("BEGIN; {lock}")).unwrap();
        wait_until("it is in the way", || {
            let failed = "SELECT last_error_at > now() - interval '1 second' FROM temptoken_sweep_status()";
            value(&mut postgres, failed).as_deref() == Some("t")
        });
        for _ in 0..2 {
            mint(&mut other, 5, "1 millisecond");
            wait_until("the other database is swept", || has_tokens(&mut other, 0));
        }
        assert!(has_tokens(&mut holder, 1), "{lock}");
        holder.batch_execute("ROLLBACK").unwrap();
        wait_until("this one is swept too", || has_tokens(&mut postgres, 0));
    }
}

#[test]
fn a_deferred_trigger_acts_for_the_owner_of_the_table_and_not_for_the_worker() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "CREATE ROLE powerless;
             GRANT USAGE ON SCHEMA temptoken TO powerless;
             GRANT EXECUTE ON FUNCTION temptoken.scope_is_valid TO powerless;
             ALTER TABLE temptoken.temp_tokens OWNER TO powerless;
             CREATE TABLE seen (acting text);
             GRANT INSERT ON seen TO powerless;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER note AFTER DELETE ON temptoken.temp_tokens
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
             CREATE ROLE issuer LOGIN;
             SELECT temptoken_grant('issuer', 'issue')",
        )
        .unwrap();
    mint(&mut cluster.connect_as("issuer", "postgres"), 1, "1 millisecond");
    wait_until("it is swept", || has_tokens(&mut client, 0));
    assert_eq!(text(&mut client, "SELECT acting FROM seen"), "powerless");
}

#[test]
fn a_table_of_another_role_that_refers_to_tokens_gets_no_rights_of_the_worker() {
    for (preparation, table) in [("", "temp_tokens"), (&*common::partitioning(), "temp_tokens_rest")] {
        let cluster = Cluster::with_extension(&[]);
        cluster.run_script("postgres", preparation);
        refuse_referring_table(&cluster, table);
    }
}

/// `table` is that of the tokens, or a partition of it.
fn refuse_referring_table(cluster: &Cluster, table: &str) {
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(&format!(
            "CREATE ROLE app;
             CREATE SCHEMA app AUTHORIZATION app;
             GRANT USAGE ON SCHEMA temptoken TO app;
             GRANT REFERENCES ON temptoken.{table} TO app;
             SET SESSION AUTHORIZATION app;
             CREATE TABLE app.session (token uuid REFERENCES temptoken.{table} ON DELETE CASCADE);
             CREATE TABLE app.seen (acting text);
             CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO app.seen VALUES (current_user); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER note AFTER DELETE ON app.session
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.note();
             RESET SESSION AUTHORIZATION"
        ))
        .unwrap();
    // Minting is refused too. So the row is written by hand: its id leads with its expiry, 1970.
    let mint = "SELECT temptoken_mint('files', '1', '1 hour')";
    assert_eq!(sqlstate(&mut client, mint), "42501");
    client
        .batch_execute(
            "BEGIN;
             INSERT INTO temptoken.temp_tokens (id, token_hash, scope, resource_id, created_at, expires_at)
             VALUES ('00000000-0000-8000-8000-000000000001', sha256('x'), 'files', '1', now(), now());
             INSERT INTO app.session SELECT id FROM temptoken.temp_tokens;
             COMMIT",
        )
        .unwrap();
    let error = "SELECT last_error FROM temptoken_sweep_status()";
    let said = wait_for("the sweep is refused", || value(&mut client, error));
    assert!(said.contains("a table that foreign keys or partitions tie to the extension"), "{said}");
    let give = "ALTER TABLE app.session OWNER TO postgres; ALTER FUNCTION app.note OWNER TO postgres";
    client.batch_execute(give).unwrap();
    wait_until("it is swept", || has_tokens(&mut client, 0));
    if table != "temp_tokens" {
        client.batch_execute(&format!("ALTER TABLE temptoken.{table} OWNER TO app")).unwrap();
        assert_eq!(sqlstate(&mut client, mint), "42501");
    }
}

#[test]
fn no_worker_runs_under_pg_upgrade() {
    let cluster = Cluster::with_extension(&[]);
    cluster.stop("fast");
    cluster.start_with("-b");
    let mut client = cluster.connect("postgres");
    stays_for(Duration::from_secs(1), "no launcher", || value(&mut client, LAUNCHER).is_none());
    drop(client);
    cluster.stop("fast");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until("the launcher runs", || value(&mut client, LAUNCHER).is_some());
}

#[test]
fn the_extension_can_be_dropped_while_the_worker_deletes_and_made_again() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_batch_size = 10"]);
    let mut client = cluster.connect("postgres");
    for _ in 0..3 {
        text(&mut client, REGISTER);
        slow_down(&mut client, 0.01);
        mint(&mut client, 200, "1 millisecond");
        busy_worker(&mut client);
        client.batch_execute("DROP EXTENSION temptoken; DROP FUNCTION slow; CREATE EXTENSION temptoken").unwrap();
    }
    text(&mut client, REGISTER);
    mint(&mut client, 20, "1 millisecond");
    wait_until("the new one is swept", || has_tokens(&mut client, 0));
    assert!(!cluster.log().contains("ERROR"), "{}", cluster.log());
}

#[test]
fn a_worker_killed_in_the_middle_of_a_batch_loses_nothing_that_lives() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_batch_size = 50"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 30, "1 hour");
    slow_down(&mut client, 0.005);
    mint(&mut client, 300, "1 millisecond");
    let pid = busy_worker(&mut client);
    cluster.kill_backend(&pid);
    let mut client = wait_for("the cluster is back", || cluster.try_connect("postgres"));
    wait_until("the sweep is done", || has_tokens(&mut client, 30));
}

#[test]
fn the_worker_ends_with_its_postmaster() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_batch_size = 10"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    // Busy, and not in a wait that would notice by itself.
    client
        .batch_execute(
            "CREATE FUNCTION spin() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE until timestamptz := clock_timestamp() + interval '20 milliseconds';
             BEGIN WHILE clock_timestamp() < until LOOP END LOOP; RETURN OLD; END $$;
             CREATE TRIGGER spin BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION spin()",
        )
        .unwrap();
    // Some minutes of work.
    mint(&mut client, 10_000, "1 millisecond");
    let working = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'temptoken sweep worker' AND state = 'active'";
    let worker = wait_for("the worker is busy", || value(&mut client, working));
    let launcher = text(&mut client, LAUNCHER);
    drop(client);
    cluster.kill_postmaster();
    for pid in [worker, launcher] {
        wait_until("it is gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    wait_until("the cluster starts again", || cluster.try_start(""));
}

/// A parallel query, of any role, takes the last slot.
#[test]
fn where_no_slot_was_free_it_tries_again_before_the_interval_is_over() {
    let cluster = Cluster::with_extension(&["max_worker_processes = 2", "max_logical_replication_workers = 0"]);
    let mut client = cluster.connect("postgres");
    let mut is = |what: &str, condition: &str| {
        wait_until(what, || {
            value(&mut client, &format!("SELECT ({condition})::text FROM temptoken_sweep_status()")).as_deref()
                == Some("true")
        });
    };
    // Its process too, whose slot is wanted.
    let is_over = "worker = 'waiting' AND last_finish IS NOT NULL
                   AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'temptoken sweep worker')";
    is("the sweep at start is over", is_over);
    std::thread::sleep(Duration::from_millis(500));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut taker = cluster.connect("postgres");
            let settings =
                "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0";
            taker.batch_execute(settings).unwrap();
            // Until it is ended, with its parallel worker.
            _ = taker.batch_execute("SELECT count(*) FROM pg_attribute WHERE pg_sleep(600)::text = 'x'");
        });
        is("the slot is taken", "EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'parallel worker')");
        cluster.configure(&["temptoken.sweep_interval = 1s"]);
        cluster.reload();
        is("the launcher has found none", "last_error ~ 'no background worker slot is free'");
        cluster.configure(&["temptoken.sweep_interval = 7d"]);
        cluster.reload();
        let end = "SELECT pg_terminate_backend(leader_pid)::text FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
        assert_eq!(text(&mut cluster.connect("postgres"), end), "true");
        is("it sweeps", "last_finish > last_error_at");
    });
}

#[test]
fn without_a_free_worker_slot_it_says_so_once_and_goes_on_when_there_is_one() {
    let cluster = Cluster::with_extension(&["max_worker_processes = 1", "max_logical_replication_workers = 0"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    mint(&mut client, 5, "1 millisecond");
    let said = || cluster.log().matches("no background worker slot is free").count();
    wait_until("it says so", || said() > 0);
    stays_for(Duration::from_secs(3), "it says so once", || said() == 1);
    let status = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    assert_eq!(text(&mut client, &status), "ok");
    drop(client);
    cluster.stop("fast");
    cluster.configure(&["max_worker_processes = 8"]);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until("it sweeps", || has_tokens(&mut client, 1));
}
