//! What `temptoken_sweep_status()` says, above all when sweeping is broken, and the two ways to be swept without
//! preloading: a worker started by hand, and pg_cron.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{
    Cluster, LAUNCHER, REGISTER, busy_worker, has_tokens, mint, pg_config, slow_down, sqlstate, text, value, wait_for,
    wait_until,
};
use postgres::Client;

/// A column of the status, or an expression over its columns. NULL is `None`.
fn status(client: &mut Client, column: &str) -> Option<String> {
    value(client, &format!("SELECT {column} FROM temptoken_sweep_status()"))
}

/// Whether an expression over the columns of the status is true.
fn holds(client: &mut Client, condition: &str) -> bool {
    status(client, condition).as_deref() == Some("t")
}

/// A table that refers to tokens and keeps them from being deleted: the error of a sweep.
const OBSTACLE: &str = "CREATE TABLE obstacle (token uuid REFERENCES temptoken.temp_tokens);
                        INSERT INTO obstacle SELECT id FROM temptoken.temp_tokens LIMIT 1";

#[test]
fn it_says_what_was_removed_what_waits_and_when_the_next_sweep_begins() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    wait_until("a worker waits", || holds(&mut client, "worker = 'waiting' AND preloaded AND cron_schedule IS NULL"));
    assert!(holds(&mut client, "next_start BETWEEN now() + interval '59 minutes' AND now() + interval '1 hour'"));
    mint(&mut client, 40, "1 millisecond");
    mint(&mut client, 2, "1 hour");
    wait_until("they have expired", || holds(&mut client, "rows_waiting = 40"));
    cluster.configure(&["temptoken.sweep_interval = 1s"]);
    cluster.reload();
    wait_until("they are swept", || holds(&mut client, "rows_removed_in_total = 40 AND rows_waiting = 0"));
    // The next sweeps find nothing, and the total stays.
    wait_until("another has been", || holds(&mut client, "rows_removed = 0 AND last_finish >= last_start"));
    assert!(holds(&mut client, "rows_removed_in_total = 40 AND last_error IS NULL AND last_error_at IS NULL"));
    wait_until("it waits for a second", || holds(&mut client, "next_start < clock_timestamp() + interval '1 second'"));
    // From a session that began before, under the strictest isolation, and with nothing but the right to call it.
    client.batch_execute("CREATE ROLE manager LOGIN; SELECT temptoken_grant('manager', 'manage')").unwrap();
    let mut manager = cluster.connect_as("manager", "postgres");
    manager.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; SELECT 1").unwrap();
    let before = status(&mut manager, "last_finish").unwrap();
    wait_until("it sees the next sweep", || status(&mut manager, "last_finish").unwrap() != before);
}

#[test]
fn what_it_knows_survives_the_death_of_a_worker_a_crash_and_a_restart() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 25, "1 millisecond");
    // Every launcher begins with a sweep.
    let launcher = wait_for("the launcher runs", || value(&mut client, LAUNCHER));
    text(&mut client, &format!("SELECT pg_terminate_backend({launcher})"));
    wait_until("they are swept", || holds(&mut client, "rows_removed_in_total = 25"));
    let first = status(&mut client, "last_finish").unwrap();
    let launcher = wait_for("the launcher runs", || value(&mut client, LAUNCHER));
    // A crash may undo what was removed a moment ago; it is removed, and counted, again then.
    client.batch_execute("CHECKPOINT").unwrap();
    cluster.kill_backend(&launcher);
    let mut client = wait_for("the cluster is back", || cluster.try_connect("postgres"));
    assert!(holds(&mut client, "rows_removed_in_total = 25"));
    wait_until("the next sweep has been", || holds(&mut client, &format!("last_finish > '{first}'")));
    cluster.crash();
    assert!(holds(&mut cluster.connect("postgres"), "rows_removed_in_total = 25"));
    cluster.stop("fast");
    cluster.start_again();
    assert!(holds(&mut cluster.connect("postgres"), "rows_removed_in_total = 25"));
}

#[test]
fn a_worker_that_dies_is_an_error_and_the_next_goes_on() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    slow_down(&mut client, 600.0);
    mint(&mut client, 3, "1 millisecond");
    let pid = busy_worker(&mut client);
    assert!(holds(&mut client, "worker = 'running' AND last_start > coalesce(last_finish, '-infinity')"));
    text(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    wait_until("its death is known", || {
        holds(&mut client, "last_error LIKE 'the worker ended before it was through%'")
    });
    client.batch_execute("DROP TRIGGER slow ON temptoken.temp_tokens").unwrap();
    let worker = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'temptoken sweep worker'";
    wait_until("the next goes on", || {
        value(&mut client, worker);
        has_tokens(&mut client, 0)
    });
}

#[test]
fn a_sweep_that_fails_shows_its_error_and_its_last_success_and_is_logged_once() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 1, "1 millisecond");
    wait_until("a first sweep has been", || holds(&mut client, "rows_removed_in_total = 1"));
    mint(&mut client, 12, "1 second");
    client.batch_execute(OBSTACLE).unwrap();
    wait_until("it fails", || holds(&mut client, "last_error LIKE '%violates foreign key constraint%'"));
    let error_at = status(&mut client, "last_error_at").unwrap();
    wait_until("it fails again", || status(&mut client, "last_error_at").unwrap() != error_at);
    assert!(holds(&mut client, "worker = 'waiting' AND last_finish < last_error_at AND last_start <= last_error_at"));
    assert!(holds(&mut client, "rows_waiting = 12 AND rows_removed_in_total = 1"));
    let log = cluster.log();
    assert_eq!(log.matches("sweeping database \"postgres\" failed").count(), 1, "{log}");
    assert_eq!(log.matches("It is tried again at every interval").count(), 1, "{log}");
    assert!(!log.contains("exited with exit code"), "{log}");
    client.batch_execute("DROP TABLE obstacle").unwrap();
    wait_until("it is through", || holds(&mut client, "rows_waiting = 0 AND rows_removed_in_total = 13"));
    wait_until("that is known", || holds(&mut client, "last_finish > last_error_at"));
    // What goes wrong anew is logged anew.
    mint(&mut client, 5, "1 second");
    client.batch_execute(OBSTACLE).unwrap();
    wait_until("it is logged", || cluster.log().matches("sweeping database \"postgres\" failed").count() == 2);
}

#[test]
fn it_waits_for_no_lock_and_says_that_one_is_held() {
    let cluster = Cluster::with_extension(&["max_prepared_transactions = 2"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 3, "1 millisecond");
    wait_until("they are swept", || has_tokens(&mut client, 0));
    client
        .batch_execute("BEGIN; LOCK TABLE temptoken.temp_tokens IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'held'")
        .unwrap();
    wait_until("the lock is noticed", || holds(&mut client, "last_error LIKE 'another session holds a lock%'"));
    assert!(holds(&mut client, "worker <> 'none' AND rows_waiting IS NULL AND last_finish < last_error_at"));
    // Whoever takes a lock knows that: the log is left alone.
    let begun = Instant::now();
    wait_until("it is noticed again", || holds(&mut client, "last_error_at > now() - interval '100 milliseconds'"));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!cluster.log().contains("holds a lock"), "{}", cluster.log());
    client.batch_execute("ROLLBACK PREPARED 'held'").unwrap();
    wait_until("it sweeps again", || holds(&mut client, "rows_waiting = 0 AND last_finish > last_error_at"));
}

#[test]
fn one_lock_is_nothing_to_speak_of() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    wait_until("a first sweep has been", || holds(&mut client, "last_finish IS NOT NULL"));
    cluster.configure(&["temptoken.sweep_interval = 1h"]);
    cluster.reload();
    wait_until("the next is far away", || holds(&mut client, "next_start > now() + interval '1 minute'"));
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE temptoken.temp_tokens IN SHARE MODE").unwrap();
    text(&mut client, &LAUNCHER.replace("pid", "pg_terminate_backend(pid)"));
    wait_until("a sweep was put off", || holds(&mut client, "last_start > last_finish AND worker = 'waiting'"));
    assert!(holds(&mut client, "last_error IS NULL AND rows_waiting = 0"));
}

/// What vanishes while a sweep of it has more to do than fits in a turn neither keeps the launcher busy nor the others
/// waiting.
#[test]
fn what_vanishes_between_two_turns_does_not_hold_up_the_others() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_batch_size = 5", "temptoken.sweep_interval = 5s"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let begin_long_sweep = |client: &mut Client| {
        text(client, REGISTER);
        slow_down(client, 0.1);
        mint(client, 1_000, "1 millisecond");
        wait_until("the first turn is over", || holds(client, "rows_removed > 25"));
    };
    // The last one in the database itself.
    for end in ["DROP DATABASE busy", "ALTER DATABASE busy ALLOW_CONNECTIONS false", "DROP EXTENSION temptoken"] {
        let _ = client.batch_execute("ALTER DATABASE busy ALLOW_CONNECTIONS true");
        client.batch_execute("DROP DATABASE IF EXISTS busy").unwrap();
        client.batch_execute("CREATE DATABASE busy").unwrap();
        let mut busy = cluster.connect("busy");
        busy.batch_execute("CREATE EXTENSION temptoken").unwrap();
        begin_long_sweep(&mut busy);
        if end.contains("DATABASE") {
            drop(busy);
            client.batch_execute(end).unwrap();
        } else {
            busy.batch_execute(end).unwrap();
        }
        mint(&mut client, 3, "1 millisecond");
        wait_until("the other database is swept", || has_tokens(&mut client, 0));
        assert!(cluster.log().matches("FATAL").count() <= 3, "{}", cluster.log());
    }
}

#[test]
fn a_success_that_removed_nothing_is_kept_when_it_follows_an_error() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE temptoken.temp_tokens IN SHARE MODE").unwrap();
    wait_until("the lock is an error", || holds(&mut client, "last_error IS NOT NULL"));
    holder.batch_execute("ROLLBACK").unwrap();
    wait_until("a sweep is through", || holds(&mut client, "last_finish > last_error_at"));
    cluster.stop("fast");
    cluster.configure(&["temptoken.sweep_databases = 'none'"]);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    assert!(holds(&mut client, "last_finish > last_error_at"));
}

#[test]
fn it_answers_whatever_was_done_to_the_tables() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    for damage in [
        "ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT temp_tokens_pkey",
        "ALTER TABLE temptoken.temp_tokens RENAME TO moved",
        "ALTER SCHEMA temptoken RENAME TO moved",
    ] {
        client.batch_execute(damage).unwrap();
        if !damage.contains("SCHEMA") {
            assert!(holds(&mut client, "rows_waiting IS NULL"), "{damage}");
        }
    }
    client.batch_execute("ALTER SCHEMA moved RENAME TO temptoken").unwrap();
    let mut holder = cluster.connect("postgres");
    client.batch_execute("ALTER TABLE temptoken.moved RENAME TO temp_tokens").unwrap();
    mint(&mut client, 5, "1 millisecond");
    wait_until("what is left of the table is swept", || has_tokens(&mut client, 0));
    // A key that does not begin with the id is not walked.
    client.batch_execute("ALTER TABLE temptoken.temp_tokens ADD PRIMARY KEY (scope, id)").unwrap();
    assert!(holds(&mut client, "rows_waiting IS NULL"));
    text(&mut client, "SELECT temptoken_register_scope('another', ARRAY['GET /'], '1 hour')");
    mint(&mut client, 12_000, "1 second");
    let more = "temptoken_mint_many('another', array_fill('x'::text, ARRAY[12000]), '1 second')";
    text(&mut client, &format!("SELECT count(*) FROM {more}"));
    wait_until("all are swept", || has_tokens(&mut client, 0));
    client.batch_execute("ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT temp_tokens_pkey").unwrap();
    client.batch_execute("ALTER TABLE temptoken.temp_tokens ADD PRIMARY KEY (id)").unwrap();
    holder.batch_execute("BEGIN; REINDEX INDEX temptoken.temp_tokens_pkey").unwrap();
    assert!(holds(&mut client, "rows_waiting IS NULL"), "it does not wait for the index either");
    holder.batch_execute("ROLLBACK").unwrap();
    // Row-level security that hides every row, even from the owner, hides nothing from the sweep or its status.
    client
        .batch_execute(
            "ALTER TABLE temptoken.temp_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE ROLE ordinary; GRANT USAGE ON SCHEMA temptoken TO ordinary;
             GRANT EXECUTE ON FUNCTION temptoken.scope_is_valid TO ordinary;
             ALTER TABLE temptoken.temp_tokens OWNER TO ordinary",
        )
        .unwrap();
    mint(&mut client, 5, "1 second");
    wait_until("they wait", || holds(&mut client, "rows_waiting = 5"));
    wait_until("they are swept", || has_tokens(&mut client, 0));
}

#[test]
fn on_a_standby_it_says_so_and_after_promotion_it_sweeps() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 9, "1 millisecond");
    let standby = cluster.standby();
    let mut reader = standby.connect("postgres");
    wait_until("the rows have come", || has_tokens(&mut reader, 9));
    assert!(holds(
        &mut reader,
        "worker = 'standby' AND rows_waiting = 9 AND last_start IS NULL AND next_start IS NULL"
    ));
    assert_eq!(sqlstate(&mut reader, "SELECT temptoken_schedule_sweep()"), "25006");
    text(&mut reader, "SELECT pg_promote()");
    wait_until("it is swept there", || holds(&mut reader, "worker = 'waiting' AND rows_removed_in_total = 9"));
}

#[test]
fn a_database_that_is_passed_over_and_a_lack_of_slots_show() {
    let cluster = Cluster::with_extension(&["max_worker_processes = 1", "max_logical_replication_workers = 0"]);
    let mut client = cluster.connect("postgres");
    wait_until("it says so", || holds(&mut client, "last_error LIKE 'no background worker slot is free%'"));
    assert!(holds(&mut client, "worker = 'waiting' AND last_start IS NULL AND last_finish IS NULL"));
    cluster.configure(&["temptoken.sweep_databases = 'another'"]);
    cluster.reload();
    wait_until("it is passed over", || holds(&mut client, "worker = 'excluded' AND next_start IS NULL"));
    cluster.configure(&["temptoken.sweep_databases = ''"]);
    cluster.reload();
    wait_until("it is not any more", || holds(&mut client, "worker = 'waiting'"));
    client.batch_execute("ALTER DATABASE postgres IS_TEMPLATE true").unwrap();
    assert!(holds(&mut client, "worker = 'excluded'"));
}

#[test]
fn every_setting_can_be_changed_by_a_reload() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    for (setting, value, shown) in [
        ("sweep_interval", "90", "90s"),
        ("sweep_batch_size", "77", "77"),
        ("sweep_databases", "postgres", "postgres"),
        ("token_prefix", "acme", "acme"),
        ("token_header", "X-Other", "X-Other"),
        ("require_token", "on", "on"),
    ] {
        client.batch_execute(&format!("ALTER SYSTEM SET temptoken.{setting} = '{value}'")).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        wait_until(setting, || text(&mut client, &format!("SHOW temptoken.{setting}")) == shown);
    }
    wait_until("the launcher has read it", || {
        holds(&mut client, "next_start BETWEEN now() + interval '1 second' AND now() + interval '90 seconds'")
    });
    text(&mut client, REGISTER);
    assert!(text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')").starts_with("acme_"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Without preloading
// ---------------------------------------------------------------------------------------------------------------------

const START: &str = "SELECT temptoken_sweep_worker_start()";
const STOP: &str = "SELECT temptoken_sweep_worker_stop()";

/// A cluster that does not preload the library, with the extension and a scope in these databases.
fn not_preloaded(databases: &[&str], settings: &[&str]) -> Cluster {
    let cluster = Cluster::start(&[&["temptoken.sweep_interval = 1s"], settings].concat());
    let mut postgres = cluster.connect("postgres");
    for database in databases {
        if *database != "postgres" {
            postgres.batch_execute(&format!("CREATE DATABASE \"{database}\"")).unwrap();
        }
        let mut client = cluster.connect(database);
        client.batch_execute("CREATE EXTENSION temptoken").unwrap();
        text(&mut client, REGISTER);
    }
    cluster
}

fn launchers(client: &mut Client) -> String {
    text(client, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'temptoken sweep launcher'")
}

#[test]
fn without_preloading_a_worker_can_be_started_and_stopped_for_each_database() {
    let cluster = not_preloaded(&["postgres", "other one"], &[]);
    let mut client = cluster.connect("postgres");
    let mut other = cluster.connect("other one");
    assert!(holds(&mut client, "worker = 'none' AND NOT preloaded AND next_start IS NULL AND rows_waiting = 0"));
    assert_eq!(text(&mut client, STOP), "f");
    let started = text(&mut client, START);
    assert!(started.starts_with("started; it ends when the server is restarted"), "{started}");
    let again = text(&mut client, START);
    assert!(again.starts_with("already running; it ends when"), "{again}");
    for _ in 0..2 {
        mint(&mut client, 10, "1 millisecond");
        wait_until("they are swept", || has_tokens(&mut client, 0));
    }
    wait_until("that is known", || holds(&mut client, "rows_removed_in_total = 20 AND next_start IS NOT NULL"));
    // The other database has not asked for it.
    mint(&mut other, 10, "1 millisecond");
    assert!(holds(&mut other, "worker = 'none'"));
    assert_eq!(text(&mut other, STOP), "f");
    text(&mut other, START);
    wait_until("it is swept too", || has_tokens(&mut other, 0));
    // Each by itself; both come back when they are terminated; and their databases can be dropped or copied.
    text(
        &mut client,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE backend_type = 'temptoken sweep launcher'",
    );
    wait_until("they are gone", || launchers(&mut client) == "0");
    assert_eq!(text(&mut client, STOP), "t", "also while it is about to come back");
    assert_eq!(text(&mut client, STOP), "f");
    wait_until("the other is back", || holds(&mut other, "worker = 'waiting'"));
    assert_eq!(launchers(&mut client), "1");
    assert!(holds(&mut client, "worker = 'none'"));
    drop(other);
    client.batch_execute("CREATE DATABASE copy TEMPLATE \"other one\"").unwrap();
    client.batch_execute("DROP DATABASE \"other one\"").unwrap();
    wait_until("its launcher has ended for good", || launchers(&mut client) == "0");
    assert!(text(&mut client, START).starts_with("started"));
    // It does not outlive a restart, but a crash.
    cluster.kill_backend(&wait_for("it runs", || value(&mut client, LAUNCHER)));
    let mut client = wait_for("the cluster is back", || cluster.try_connect("postgres"));
    mint(&mut client, 10, "1 millisecond");
    wait_until("they are swept", || has_tokens(&mut client, 0));
    cluster.stop("fast");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    assert!(holds(&mut client, "worker = 'none' AND rows_removed_in_total = 30"));
}

#[test]
fn starting_a_worker_fails_with_a_reason_where_it_would_be_of_no_use() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    assert_eq!(sqlstate(&mut client, START), "55000");
    assert_eq!(sqlstate(&mut client, STOP), "55000");
    let settings = ["max_worker_processes = 1", "max_logical_replication_workers = 0"];
    let cluster = not_preloaded(&["postgres", "other"], &settings);
    let mut client = cluster.connect("postgres");
    let mut other = cluster.connect("other");
    assert_eq!(sqlstate(&mut client, &format!("BEGIN READ ONLY; {START}")), "25006");
    client.batch_execute("ROLLBACK").unwrap();
    text(&mut client, START);
    assert_eq!(sqlstate(&mut other, START), "53000");
    assert_eq!(text(&mut client, STOP), "t");
    wait_until("the slot is free", || sqlstate(&mut other, START) == "ok");
    cluster.configure(&["temptoken.sweep_databases = 'other'"]);
    cluster.reload();
    wait_until("the setting holds", || sqlstate(&mut client, START) == "55000");
}

/// A stop that was given up before the launcher could heed it, and a start after it, leave one launcher; that one can be
/// stopped.
#[test]
fn however_starts_and_stops_follow_each_other_there_is_one_launcher_or_none() {
    let cluster = not_preloaded(&["postgres"], &[]);
    let mut client = cluster.connect("postgres");
    slow_down(&mut client, 0.5);
    mint(&mut client, 6, "1 millisecond");
    text(&mut client, START);
    wait_until("the worker is busy", || holds(&mut client, "worker = 'running'"));
    client.batch_execute("SET statement_timeout = '100ms'").unwrap();
    assert_eq!(sqlstate(&mut client, STOP), "57014");
    client.batch_execute("SET statement_timeout = '60s'").unwrap();
    assert!(text(&mut client, START).starts_with("already running"));
    assert_eq!(launchers(&mut client), "1");
    wait_until("it goes on", || has_tokens(&mut client, 0));
    // Many who start and stop it, and one who kills it.
    std::thread::scope(|scope| {
        for number in 0..6 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut client = cluster.connect("postgres");
                for round in 0..20 {
                    text(&mut client, if (number + round) % 3 == 0 { STOP } else { START });
                    if number == 0 && round % 5 == 0 {
                        value(&mut client, &LAUNCHER.replace("pid", "pg_terminate_backend(pid)"));
                    }
                }
            });
        }
    });
    text(&mut client, START);
    wait_until("one is left", || launchers(&mut client) == "1" && holds(&mut client, "worker <> 'none'"));
    assert_eq!(text(&mut client, STOP), "t");
    assert_eq!(launchers(&mut client), "0");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(launchers(&mut client), "0", "none comes back");
    // It ends with the extension, whose functions could not stop it any more.
    text(&mut client, START);
    wait_until("it waits", || holds(&mut client, "last_finish IS NOT NULL AND worker = 'waiting'"));
    client.batch_execute("DROP EXTENSION temptoken").unwrap();
    wait_until("it has ended", || launchers(&mut client) == "0");
}

/// There is a place for a database whatever is remembered of others, which may be no more.
#[test]
fn what_is_remembered_of_other_databases_leaves_room() {
    let cluster = not_preloaded(&["postgres"], &[]);
    let file =
        format!("{}/pg_stat_tmp/temptoken_sweep.json", text(&mut cluster.connect("postgres"), "SHOW data_directory"));
    let place = |database| {
        format!(
            r#"{{"database": {database}, "last_start": 1, "last_finish": 2, "removed": 3, "removed_in_total": 4,
                "last_error_at": 5, "last_error": "x"}}"#
        )
    };
    let many: Vec<String> = (900_000..900_100).map(place).collect();
    for content in [format!("[{}]", many.join(",")), "[{\"database\": -1e400}]".to_owned(), "not JSON".to_owned()] {
        cluster.stop("fast");
        std::fs::write(&file, &content).unwrap();
        cluster.start_again();
        let mut client = cluster.connect("postgres");
        assert!(holds(&mut client, "worker = 'none' AND last_start IS NULL"));
        assert!(text(&mut client, START).starts_with("started"));
        wait_until("it has swept", || holds(&mut client, "worker = 'waiting' AND last_finish IS NOT NULL"));
        assert_eq!(text(&mut client, STOP), "t");
        assert_eq!(launchers(&mut client), "0");
    }
}

#[test]
fn a_started_worker_is_not_in_the_way_of_a_fast_stop_or_of_many_who_start_it_at_once() {
    let cluster = not_preloaded(&["postgres"], &["temptoken.sweep_interval = 1h"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| text(&mut cluster.connect("postgres"), START));
        }
    });
    let mut client = cluster.connect("postgres");
    wait_until("one is left", || launchers(&mut client) == "1");
    wait_until("and that is known", || holds(&mut client, "worker = 'waiting'"));
    let took = cluster.stop("fast");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

// ---------------------------------------------------------------------------------------------------------------------
// pg_cron
// ---------------------------------------------------------------------------------------------------------------------

const SCHEDULE: &str = "SELECT temptoken_schedule_sweep('* * * * *')";
const UNSCHEDULE: &str = "SELECT temptoken_unschedule_sweep()";

/// Whether pg_cron is there for the PostgreSQL under test. `make test` installs it for the distribution's.
fn has_pg_cron() -> bool {
    let there = Path::new(&pg_config("--sharedir")).join("extension/pg_cron.control").exists();
    if !there {
        common::skipped("pg_cron is not tested: this PostgreSQL comes without it");
    }
    there
}

#[test]
fn without_pg_cron_scheduling_says_what_to_do() {
    let cluster = not_preloaded(&["postgres"], &[]);
    let mut client = cluster.connect("postgres");
    for call in [SCHEDULE, UNSCHEDULE] {
        let error = client.simple_query(call).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "55000");
        assert_eq!(error.message(), "temptoken: pg_cron is not installed");
        assert!(error.hint().unwrap().contains("CREATE EXTENSION pg_cron"), "{error:?}");
    }
    assert_eq!(sqlstate(&mut client, "SELECT temptoken_schedule_sweep(NULL)"), "22004");
    assert!(holds(&mut client, "cron_schedule IS NULL"));
}

/// Sweeping through pg_cron in its own database and from another one, with quotes in its name; both jobs run.
#[test]
fn pg_cron_sweeps_its_own_database_and_others() {
    if !has_pg_cron() {
        return;
    }
    let settings = [
        "shared_preload_libraries = 'pg_cron'",
        "cron.database_name = 'cron''s \"db\"'",
        "cron.use_background_workers = on",
    ];
    let cluster = Cluster::start(&settings);
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE EXTENSION temptoken; CREATE ROLE manager LOGIN").unwrap();
    assert_eq!(sqlstate(&mut client, SCHEDULE), "38000", "there is no such database yet");
    client.batch_execute("CREATE DATABASE \"cron's \"\"db\"\"\"").unwrap();
    assert_eq!(sqlstate(&mut client, SCHEDULE), "38000", "there is no pg_cron in it yet");
    assert!(holds(&mut client, "cron_schedule IS NULL"));
    let mut cron = cluster.connect("cron's \"db\"");
    cron.batch_execute("CREATE EXTENSION pg_cron; CREATE EXTENSION temptoken").unwrap();
    for client in [&mut client, &mut cron] {
        text(client, REGISTER);
        mint(client, 5, "1 millisecond");
        assert_eq!(text(client, UNSCHEDULE), "f");
        text(client, "SELECT temptoken_schedule_sweep()");
        assert!(holds(client, "cron_schedule = '*/5 * * * *' AND worker = 'none'"));
        text(client, SCHEDULE);
        assert!(holds(client, "cron_schedule = '* * * * *'"));
        assert_ne!(sqlstate(client, "SELECT temptoken_schedule_sweep('whenever')"), "ok");
        assert_ne!(sqlstate(client, "SELECT temptoken_schedule_sweep(repeat('*', 10000))"), "ok");
    }
    assert_eq!(text(&mut cron, "SELECT count(*) FROM cron.job"), "2", "a second call changes the first one's job");
    // What another session keeps locked there is waited for a second, and no worker stays behind, whoever gives up.
    let mut holder = cluster.connect("cron's \"db\"");
    holder.batch_execute("BEGIN; LOCK TABLE cron.job").unwrap();
    let begun = Instant::now();
    for client in [&mut client, &mut cron] {
        assert!(holds(client, "cron_schedule IS NULL"));
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    client.batch_execute("SET statement_timeout = '100ms'").unwrap();
    for _ in 0..10 {
        assert_eq!(sqlstate(&mut client, "SELECT temptoken_sweep_status()"), "57014");
    }
    client.batch_execute("SET statement_timeout = '60s'").unwrap();
    let asking = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE '%for pg_cron'";
    wait_until("none is left behind", || text(&mut client, asking) == "0");
    holder.batch_execute("ROLLBACK").unwrap();
    // A role has no more rights through this than on its own.
    text(&mut client, "SELECT temptoken_grant('manager', 'manage')");
    let mut manager = cluster.connect_as("manager", "postgres");
    let error = manager.simple_query(SCHEDULE).unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("permission denied"), "{error:?}");
    cron.batch_execute(
        "GRANT USAGE ON SCHEMA cron TO manager; GRANT EXECUTE ON FUNCTION cron.schedule_in_database TO manager",
    )
    .unwrap();
    text(&mut manager, SCHEDULE);
    assert_eq!(text(&mut cron, "SELECT count(*) FROM cron.job WHERE username = 'manager'"), "1");
    assert_eq!(text(&mut manager, UNSCHEDULE), "t", "its own job, not the superuser's of the same name");
    assert_eq!(text(&mut cron, "SELECT count(*) FROM cron.job"), "2");
    // The clock strikes.
    let begun = Instant::now();
    while !(has_tokens(&mut client, 0) && has_tokens(&mut cron, 0)) {
        assert!(begun.elapsed() < Duration::from_secs(100), "pg_cron has not swept\n{}", cluster.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    for client in [&mut client, &mut cron] {
        assert_eq!(text(client, UNSCHEDULE), "t");
        assert!(holds(client, "cron_schedule IS NULL"));
        assert_eq!(text(client, UNSCHEDULE), "f");
    }
    // In its own database scheduling is part of the transaction.
    cron.batch_execute(&format!("BEGIN; {SCHEDULE}; ROLLBACK")).unwrap();
    assert!(holds(&mut cron, "cron_schedule IS NULL"));
}

/// What a database of another encoding asks for arrives in pg_cron's encoding, or not at all.
#[test]
fn pg_cron_gets_no_text_that_its_database_cannot_have() {
    if !has_pg_cron() {
        return;
    }
    let cluster = Cluster::start(&["shared_preload_libraries = 'pg_cron'"]);
    let mut cron = cluster.connect("postgres");
    cron.batch_execute("CREATE EXTENSION pg_cron").unwrap();
    for (encoding, arrives) in [("LATIN1", true), ("SQL_ASCII", false)] {
        let create = format!("CREATE DATABASE {encoding} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        cron.batch_execute(&create).unwrap();
        let mut client = cluster.connect(&encoding.to_lowercase());
        client.batch_execute("CREATE EXTENSION temptoken").unwrap();
        let command = format!(r"convert_from('select \047caf\351\047'::bytea, '{encoding}')");
        let ask = format!("SELECT temptoken.cron_schedule('job', '* * * * *', {command})");
        assert_eq!(sqlstate(&mut client, &ask) == "ok", arrives, "{encoding}");
    }
    assert_eq!(text(&mut cron, "SELECT command FROM cron.job"), "select 'café'");
}

/// Somebody else's schema of pg_cron's name is not called, and nobody but the server's configuration says where pg_cron is.
#[test]
fn a_schema_that_only_looks_like_pg_cron_is_not_called() {
    if !has_pg_cron() {
        return;
    }
    let cluster = Cluster::start(&["shared_preload_libraries = 'pg_cron'", "cron.database_name = 'evil'"]);
    cluster.connect("postgres").batch_execute("CREATE DATABASE evil").unwrap();
    for database in ["postgres", "evil"] {
        cluster.connect(database).batch_execute("CREATE EXTENSION temptoken").unwrap();
    }
    let unloaded = not_preloaded(&["postgres"], &["cron.database_name = 'postgres'"]);
    assert_eq!(sqlstate(&mut unloaded.connect("postgres"), SCHEDULE), "55000");
    cluster
        .connect("evil")
        .batch_execute(
            "CREATE TABLE called (by name);
             CREATE SCHEMA cron;
             CREATE FUNCTION cron.schedule_in_database(text, text, text, text) RETURNS bigint LANGUAGE sql AS
             'INSERT INTO public.called VALUES (current_user); SELECT 1::bigint';
             CREATE FUNCTION cron.job() RETURNS SETOF text LANGUAGE sql AS
             'INSERT INTO public.called VALUES (current_user); SELECT ''x''';
             CREATE VIEW cron.job AS SELECT job AS schedule, job AS command, job AS database, true AS active FROM cron.job()",
        )
        .unwrap();
    let mut client = cluster.connect("postgres");
    assert_eq!(sqlstate(&mut client, SCHEDULE), "38000");
    assert!(holds(&mut client, "cron_schedule IS NULL"));
    assert_eq!(text(&mut cluster.connect("evil"), "SELECT count(*) FROM called"), "0");
}
