//! What `temptoken_sweep_status()` says, above all when sweeping is broken, and being swept without preloading by a worker that
//! is started by hand.

use std::time::Duration;

use crate::common::{
    Cluster, LAUNCHER, REGISTER, busy_worker, has_tokens, mint, slow_down, sqlstate, stays_for, text, value, wait_for,
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
fn what_it_knows_survives_a_crash_of_the_server_and_begins_anew_with_a_new_one() {
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
    // A new server sweeps first of all, and knows nothing of what was before.
    for end in ["immediate", "fast"] {
        cluster.stop(end);
        cluster.start_again();
        let mut client = cluster.connect("postgres");
        wait_until("it has swept", || holds(&mut client, "last_finish IS NOT NULL AND worker = 'waiting'"));
        assert!(holds(&mut client, "rows_removed_in_total = 0 AND last_error IS NULL"));
    }
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
    mint(&mut client, 12, "3 seconds");
    client.batch_execute(OBSTACLE).unwrap();
    wait_until("it fails", || holds(&mut client, "last_error LIKE '%violates foreign key constraint%'"));
    let fails = "worker = 'waiting' AND last_finish < last_start AND last_start <= last_error_at";
    let leaves = "rows_waiting = 1 AND rows_removed_in_total = 12";
    wait_until("the others are swept", || holds(&mut client, &format!("{fails} AND {leaves}")));
    let started = status(&mut client, "last_start").unwrap();
    let again = format!("last_start > '{started}' AND {fails} AND {leaves}");
    wait_until("it fails again", || holds(&mut client, &again));
    let log = cluster.log();
    assert_eq!(log.matches("sweeping database \"postgres\" failed").count(), 1, "{log}");
    assert_eq!(log.matches("It is tried again at every interval").count(), 1, "{log}");
    assert!(!log.contains("exited with exit code"), "{log}");
    // Truncated, not dropped: that locks both tables, as the sweep does.
    client.batch_execute("TRUNCATE obstacle").unwrap();
    wait_until("it is through", || holds(&mut client, "rows_waiting = 0 AND rows_removed_in_total = 13"));
    wait_until("that is known", || holds(&mut client, "last_finish > last_error_at"));
    // What goes wrong anew is logged anew.
    mint(&mut client, 5, "3 seconds");
    client.batch_execute("INSERT INTO obstacle SELECT id FROM temptoken.temp_tokens LIMIT 1").unwrap();
    wait_until("it is logged", || cluster.log().matches("sweeping database \"postgres\" failed").count() == 2);
}

#[test]
fn it_can_be_cancelled_while_it_counts() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "INSERT INTO temptoken.temp_tokens
             SELECT overlay(gen_random_uuid()::text PLACING '00000000-0000-8000' FROM 1)::uuid, '', 'files', '1', now(), 'epoch'
             FROM generate_series(1, 300000);
             SET statement_timeout = '10ms'",
        )
        .unwrap();
    assert_eq!(sqlstate(&mut client, "SELECT * FROM temptoken_sweep_status()"), "57014");
    client.batch_execute("RESET statement_timeout").unwrap();
    assert_eq!(text(&mut client, "SELECT rows_waiting FROM temptoken_sweep_status()"), "300000");
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
    let noticed = status(&mut client, "last_error_at").unwrap();
    wait_until("it is noticed again", || status(&mut client, "last_error_at").unwrap() != noticed);
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
fn it_answers_whatever_was_done_to_the_tables() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    for (damage, rows_waiting) in [
        ("ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT temp_tokens_pkey", "rows_waiting = 0"),
        ("ALTER TABLE temptoken.temp_tokens RENAME TO moved", "rows_waiting IS NULL"),
    ] {
        client.batch_execute(damage).unwrap();
        assert!(holds(&mut client, rows_waiting), "{damage}");
    }
    client.batch_execute("ALTER SCHEMA temptoken RENAME TO moved").unwrap();
    client.batch_execute("ALTER SCHEMA moved RENAME TO temptoken").unwrap();
    let mut holder = cluster.connect("postgres");
    client.batch_execute("ALTER TABLE temptoken.moved RENAME TO temp_tokens").unwrap();
    mint(&mut client, 5, "1 millisecond");
    wait_until("what is left of the table is swept", || has_tokens(&mut client, 0));
    // A key that does not begin with the id is not walked.
    client.batch_execute("ALTER TABLE temptoken.temp_tokens ADD PRIMARY KEY (scope, id)").unwrap();
    text(&mut client, "SELECT temptoken_register_scope('another', ARRAY['GET /'], '1 hour')");
    mint(&mut client, 12_000, "1 second");
    let more = "temptoken_mint_many('another', array_fill('x'::text, ARRAY[12000]), '1 second')";
    text(&mut client, &format!("SELECT count(*) FROM {more}"));
    wait_until("all are swept", || has_tokens(&mut client, 0));
    client.batch_execute("ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT temp_tokens_pkey").unwrap();
    client.batch_execute("ALTER TABLE temptoken.temp_tokens ADD PRIMARY KEY (id)").unwrap();
    holder.batch_execute("BEGIN; REINDEX INDEX temptoken.temp_tokens_pkey").unwrap();
    assert!(holds(&mut client, "rows_waiting IS NULL"), "nor does it wait for an index for long");
    holder.batch_execute("ROLLBACK").unwrap();
    // Row-level security that hides every row, even from the owner, hides nothing from the sweep or its status.
    client
        .batch_execute(
            "ALTER TABLE temptoken.temp_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE ROLE ordinary LOGIN; GRANT USAGE ON SCHEMA temptoken TO ordinary;
             SELECT temptoken_grant('ordinary', 'issue'); SELECT temptoken_grant('ordinary', 'monitor');
             GRANT EXECUTE ON FUNCTION temptoken.scope_is_valid TO ordinary;
             ALTER TABLE temptoken.temp_tokens OWNER TO ordinary",
        )
        .unwrap();
    cluster.configure(&["temptoken.sweep_interval = 1h"]);
    cluster.reload();
    wait_until("the next is far away", || holds(&mut client, "next_start > now() + interval '1 minute'"));
    let mut ordinary = cluster.connect_as("ordinary", "postgres");
    mint(&mut ordinary, 5, "1 millisecond");
    // The status is asked as a superuser, who does nothing as an ordinary owner.
    assert!(has_tokens(&mut client, 5) && holds(&mut ordinary, "rows_waiting IS NULL"));
    cluster.configure(&["temptoken.sweep_interval = 1s"]);
    cluster.reload();
    wait_until("they are swept", || has_tokens(&mut client, 0));
}

#[test]
fn a_database_that_is_passed_over_shows() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
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
    for bad in ["sweep_interval = 0", "sweep_interval = '8d'", "sweep_batch_size = 0", "sweep_databases = '\"a'"] {
        assert_eq!(sqlstate(&mut client, &format!("ALTER SYSTEM SET temptoken.{bad}")), "22023", "{bad}");
    }
    client.batch_execute("CREATE ROLE ordinary LOGIN").unwrap();
    let mut ordinary = cluster.connect_as("ordinary", "postgres");
    for (setting, state) in [
        ("sweep_interval", "55P02"),
        ("sweep_batch_size", "55P02"),
        ("sweep_databases", "55P02"),
        ("token_prefix", "42501"),
    ] {
        assert_eq!(sqlstate(&mut ordinary, &format!("SET temptoken.{setting} = '5'")), state, "{setting}");
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
    assert_eq!(text(&mut client, START), "t");
    assert_eq!(text(&mut client, START), "f", "it runs already");
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
    assert_eq!(text(&mut client, START), "t");
    // It outlives no restart.
    cluster.stop("fast");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    assert!(holds(&mut client, "worker = 'none' AND last_start IS NULL"));
}

#[test]
fn starting_a_worker_fails_with_a_reason_where_it_would_be_of_no_use() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    assert_eq!(sqlstate(&mut client, START), "55000");
    assert_eq!(sqlstate(&mut client, STOP), "55000");
    let settings = ["max_worker_processes = 2", "max_logical_replication_workers = 0"];
    let cluster = not_preloaded(&["postgres", "other"], &settings);
    let mut client = cluster.connect("postgres");
    let mut other = cluster.connect("other");
    assert_eq!(sqlstate(&mut client, &format!("BEGIN READ ONLY; {START}")), "25006");
    client.batch_execute("ROLLBACK").unwrap();
    text(&mut client, START);
    wait_until("it sweeps", || holds(&mut client, "worker = 'waiting' AND last_finish IS NOT NULL"));
    // The slot that is free is the workers', of whatever database.
    assert_eq!(sqlstate(&mut other, START), "53000");
    assert_eq!(launchers(&mut client), "1");
    mint(&mut client, 5, "1 millisecond");
    wait_until("it goes on", || has_tokens(&mut client, 0));
    assert_eq!(text(&mut client, STOP), "t");
    wait_until("the slots are free", || sqlstate(&mut other, START) == "ok");
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
    slow_down(&mut client, 0.3);
    mint(&mut client, 6, "1 millisecond");
    text(&mut client, START);
    wait_until("the worker is busy", || holds(&mut client, "worker = 'running'"));
    client.batch_execute("SET statement_timeout = '100ms'").unwrap();
    assert_eq!(sqlstate(&mut client, STOP), "57014");
    client.batch_execute("SET statement_timeout = '60s'").unwrap();
    assert_eq!(text(&mut client, START), "f", "the launcher that was told to stop goes on");
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
    // The postmaster starts again what has not ended for good, after five seconds.
    stays_for(Duration::from_secs(6), "no launcher", || launchers(&mut client) == "0");
    // It ends with the extension, whose functions could not stop it any more.
    text(&mut client, START);
    wait_until("it waits", || holds(&mut client, "last_finish IS NOT NULL AND worker = 'waiting'"));
    client.batch_execute("DROP EXTENSION temptoken").unwrap();
    wait_until("it has ended", || launchers(&mut client) == "0");
}
