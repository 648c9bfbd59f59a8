//! Sweeping when a worker crashes or hangs: that database is left for later and says so, the others are swept on time.

use std::time::{Duration, Instant};

use crate::common::{
    Cluster, LAUNCHER, REGISTER, busy_worker, has_tokens, mint, signal, slow_down, stays_for, text, value, wait_for,
    wait_until,
};
use postgres::Client;

const START: &str = "SELECT temptoken_sweep_worker_start()";
const STOP: &str = "SELECT temptoken_sweep_worker_stop()";

/// A trigger that kills the process which deletes a row.
const CRASH: &str = "CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN
                         COPY (SELECT 1) TO PROGRAM 'kill -KILL $PPID';
                         RETURN OLD;
                     END $$;
                     CREATE TRIGGER crash BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION crash()";

/// Whether an expression over the columns of the status is true.
fn holds(client: &mut Client, condition: &str) -> bool {
    value(client, &format!("SELECT {condition} FROM temptoken_sweep_status()")).as_deref() == Some("t")
}

/// A new database with the extension and a scope.
fn create(cluster: &Cluster, database: &str) -> Client {
    cluster.connect("postgres").batch_execute(&format!("CREATE DATABASE {database}")).unwrap();
    let mut client = cluster.connect(database);
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut client, REGISTER);
    client
}

fn crashes(cluster: &Cluster) -> usize {
    cluster.log().matches("terminated by signal 9").count()
}

/// What PostgreSQL says of the launcher's memory that lives as long as it does: used bytes.
fn lasting_memory(cluster: &Cluster, client: &mut Client) -> u64 {
    let said = || cluster.log().lines().rev().find(|line| line.contains("TopMemoryContext:")).map(str::to_owned);
    let before = said();
    let ask = format!("SELECT pg_log_backend_memory_contexts(({LAUNCHER})::integer)");
    client.batch_execute(&ask).unwrap();
    let line = wait_for("it says so", || said().filter(|line| Some(line) != before.as_ref()));
    line.split_once(" used").and_then(|(line, _)| line.rsplit_once(' ')).unwrap().1.parse().unwrap()
}

#[test]
fn the_launcher_keeps_nothing_of_workers_that_have_ended() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = '1s'"]);
    let mut client = cluster.connect("postgres");
    let sweeps = |client: &mut Client| {
        let last = value(client, "SELECT last_finish FROM temptoken_sweep_status()").unwrap_or("-infinity".into());
        wait_until("it has swept", || holds(client, &format!("last_finish > '{last}'")));
    };
    (0..3).for_each(|_| sweeps(&mut client));
    let before = lasting_memory(&cluster, &mut client);
    (0..3).for_each(|_| sweeps(&mut client));
    assert_eq!(lasting_memory(&cluster, &mut client), before);
}

/// Two databases whose workers crash every time: each at most once an interval.
#[test]
fn a_database_whose_worker_crashes_is_left_alone_for_an_interval() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 5s"]);
    text(&mut cluster.connect("postgres"), REGISTER);
    for database in ["bad", "worse"] {
        let mut client = create(&cluster, database);
        client.batch_execute(CRASH).unwrap();
        mint(&mut client, 3, "3 seconds");
    }
    wait_until("one has crashed", || crashes(&cluster) >= 1);
    let begun = Instant::now();
    let mut swept = 0;
    wait_until("there were six crashes", || {
        // The server may go down at any of these.
        let Some(mut client) = cluster.try_connect("postgres") else { return false };
        let has = |client: &mut Client, count: &str| {
            let sql = "SELECT count(*)::text FROM temptoken.temp_tokens";
            client.query_one(sql, &[]).is_ok_and(|row| row.get::<_, &str>(0) == count)
        };
        if has(&mut client, "0") {
            swept += 1;
            let _ = client.simple_query("SELECT temptoken_mint('files', '42', '1 millisecond')");
        }
        crashes(&cluster) >= 6
    });
    assert!(swept >= 2, "a database in which nothing is wrong is swept");
    // Three of each, with two intervals of five seconds between them; the first may have been seen late.
    assert!(begun.elapsed() > Duration::from_secs(8), "six crashes in {:?}", begun.elapsed());
    cluster.configure(&["temptoken.sweep_interval = 1h"]);
    cluster.reload();
    for database in ["bad", "worse"] {
        let mut client = wait_for("the server is back", || cluster.try_connect(database));
        assert!(holds(&mut client, "last_error LIKE 'the worker crashed%left alone for an interval'"));
        assert!(holds(&mut client, "worker = 'waiting' AND rows_waiting = 3"));
        client.batch_execute("DROP TRIGGER crash ON temptoken.temp_tokens").unwrap();
    }
    cluster.configure(&["temptoken.sweep_interval = 1s"]);
    cluster.reload();
    for database in ["bad", "worse"] {
        let mut client = cluster.connect(database);
        wait_until("it is swept", || holds(&mut client, "rows_waiting = 0 AND last_finish > last_error_at"));
    }
}

/// The postmaster starts it again after the crash. It ends at once, and the worker of its database crashes no second time.
#[test]
fn a_launcher_started_by_hand_does_not_outlive_a_crash() {
    let cluster = Cluster::start(&["temptoken.sweep_interval = 1s"]);
    let mut client = create(&cluster, "bad");
    client.batch_execute(CRASH).unwrap();
    mint(&mut client, 3, "1 millisecond");
    assert_eq!(text(&mut client, START), "t");
    wait_until("it has crashed", || crashes(&cluster) == 1);
    let mut client = wait_for("the server is back", || cluster.try_connect("bad"));
    wait_until("the launcher has ended", || value(&mut client, LAUNCHER).is_none());
    stays_for(Duration::from_secs(6), "it does not come back", || {
        value(&mut client, LAUNCHER).is_none() && holds(&mut client, "worker = 'none' AND last_start IS NULL")
    });
    assert_eq!(crashes(&cluster), 1);
    client.batch_execute("DROP TRIGGER crash ON temptoken.temp_tokens").unwrap();
    assert_eq!(text(&mut client, STOP), "f");
    assert_eq!(text(&mut client, START), "t");
    wait_until("it is swept", || has_tokens(&mut client, 0));
    assert_eq!(text(&mut client, START), "f");
}

#[test]
fn a_worker_that_hangs_is_ended_and_the_others_are_swept() {
    let cluster = Cluster::with_extension(&[]);
    let mut postgres = cluster.connect("postgres");
    text(&mut postgres, REGISTER);
    let mut hangs = create(&cluster, "hangs");
    slow_down(&mut hangs, 600.0);
    mint(&mut hangs, 3, "1 millisecond");
    busy_worker(&mut postgres);
    for _ in 0..2 {
        mint(&mut postgres, 5, "1 millisecond");
        wait_until("the other database is swept", || has_tokens(&mut postgres, 0));
    }
    assert!(holds(&mut postgres, "last_error IS NULL"));
    wait_until("that is known", || holds(&mut hangs, "last_error LIKE 'the worker was ended after 4 s%'"));
    assert!(has_tokens(&mut hangs, 3));
    let log = cluster.log();
    assert_eq!(log.matches("sweeping database \"hangs\" failed: the worker was ended after 4 s").count(), 1, "{log}");
    // DROP DATABASE waits five seconds for a worker.
    drop(hangs);
    busy_worker(&mut postgres);
    postgres.batch_execute("DROP DATABASE hangs").unwrap();
}

/// A worker that cannot be ended, here because it is stopped, keeps its own database only.
#[test]
fn a_worker_that_does_not_end_is_left_behind() {
    let cluster = Cluster::with_extension(&[]);
    let mut postgres = cluster.connect("postgres");
    text(&mut postgres, REGISTER);
    let mut hangs = create(&cluster, "hangs");
    slow_down(&mut hangs, 600.0);
    mint(&mut hangs, 3, "1 millisecond");
    let worker = busy_worker(&mut postgres);
    signal(&worker, "STOP");
    for _ in 0..2 {
        mint(&mut postgres, 5, "1 millisecond");
        wait_until("the other database is swept", || has_tokens(&mut postgres, 0));
    }
    assert!(holds(
        &mut hangs,
        "worker = 'running' AND last_error LIKE 'the worker was told to end after 4 s, and has not%'"
    ));
    let workers = "SELECT count(*) FROM pg_stat_activity
                   WHERE backend_type = 'temptoken sweep worker' AND datname = 'hangs'";
    assert_eq!(text(&mut hangs, workers), "1", "no other is started there");
    signal(&worker, "CONT");
    hangs.batch_execute("DROP TRIGGER slow ON temptoken.temp_tokens").unwrap();
    wait_until("it is swept too", || has_tokens(&mut hangs, 0));
}

/// More rows in a batch than a worker gets through in its time: smaller batches follow.
#[test]
fn tokens_that_a_trigger_keeps_hold_up_no_others() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h", "temptoken.sweep_batch_size = 2"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 RETURN CASE WHEN OLD.resource_id = 'kept' THEN NULL ELSE OLD END;
             END $$;
             CREATE TRIGGER keep BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION keep();
             SELECT temptoken_mint('files', 'kept', '1 millisecond') FROM generate_series(1, 4)",
        )
        .unwrap();
    mint(&mut client, 5, "1 second");
    wait_until("all have expired", || {
        text(&mut client, "SELECT bool_and(expires_at < now()) FROM temptoken.temp_tokens") == "t"
    });
    begin_round(&mut client);
    wait_until("those that are not kept are swept", || has_tokens(&mut client, 4));
    assert_eq!(text(&mut client, "SELECT temptoken_delete_expired()"), "0");
}

#[test]
fn a_batch_that_is_too_large_for_a_slow_trigger_shrinks() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    slow_down(&mut client, 0.02);
    mint(&mut client, 300, "1 millisecond");
    begin_round(&mut client);
    wait_until("all are swept, in one round", || has_tokens(&mut client, 0));
    wait_until("that is known", || holds(&mut client, "last_finish > last_error_at AND rows_removed_in_total = 300"));
}

/// Has the launcher begin a round, as it does whenever it starts.
fn begin_round(client: &mut Client) {
    let launcher = wait_for("the launcher runs", || value(client, LAUNCHER));
    text(client, &format!("SELECT pg_terminate_backend({launcher})"));
}

/// The same, and waits until this database's sweep is over.
fn do_round(client: &mut Client) {
    wait_until("no round is going on", || holds(client, "worker = 'waiting'"));
    let started = value(client, "SELECT last_start FROM temptoken_sweep_status()").unwrap_or("-infinity".into());
    begin_round(client);
    wait_until("a sweep is over", || {
        holds(client, &format!("last_start > '{started}' AND worker = 'waiting' AND next_start > now() + '1 minute'"))
    });
}

/// Mints tokens that have expired by now, and four that end first, in the middle and last, with `{"user": "none"}`.
fn mint_around_poison(client: &mut Client, count: u32) {
    for (many, ttl) in [(true, 200), (false, 100), (false, 101), (false, 250), (true, 300), (false, 350)] {
        let call = if many { "temptoken_mint_many" } else { "temptoken_mint" };
        let ids =
            if many { format!("ARRAY(SELECT i::text FROM generate_series(1, {count}) AS i)") } else { "'x'".into() };
        let user = if many { "7" } else { "none" };
        let metadata = format!(r#"{{"user": "{user}"}}"#);
        text(client, &format!("SELECT count(*) FROM {call}('files', {ids}, '{ttl} milliseconds', '{metadata}')"));
    }
    wait_until("all have expired", || {
        text(client, "SELECT bool_and(expires_at < clock_timestamp()) FROM temptoken.temp_tokens") == "t"
    });
}

/// A trigger that fails for what the row holds; a deferred one; a row that another table refers to.
#[test]
fn rows_that_cannot_be_removed_hold_up_no_others() {
    const CAST: &str = "CREATE FUNCTION log_user() RETURNS trigger LANGUAGE plpgsql AS $$
                        BEGIN PERFORM (OLD.metadata->>'user')::integer; RETURN NULL; END $$";
    const NO_INTEGER: &str = "invalid input syntax for type integer%";
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut databases = [
        (
            "at_once",
            format!(
                "{CAST}; CREATE TRIGGER log_user AFTER DELETE ON temptoken.temp_tokens
                 FOR EACH ROW EXECUTE FUNCTION log_user()"
            ),
            "DROP TRIGGER log_user ON temptoken.temp_tokens",
            NO_INTEGER,
        ),
        (
            "at_commit",
            format!(
                "{CAST}; CREATE CONSTRAINT TRIGGER log_user AFTER DELETE ON temptoken.temp_tokens
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION log_user()"
            ),
            "DROP TRIGGER log_user ON temptoken.temp_tokens",
            NO_INTEGER,
        ),
        (
            "referred_to",
            "CREATE TABLE logins (token_id uuid REFERENCES temptoken.temp_tokens);
             INSERT INTO logins SELECT id FROM temptoken.temp_tokens WHERE metadata->>'user' = 'none'"
                .to_owned(),
            "DROP TABLE logins",
            "update or delete on table \"temp_tokens\" violates%foreign key%",
        ),
    ]
    .map(|(database, code, end, error)| {
        let mut client = create(&cluster, database);
        mint_around_poison(&mut client, 500);
        client.batch_execute(&code).unwrap();
        (database, client, end, error)
    });
    for _ in 0..2 {
        do_round(&mut databases[0].1);
        for (database, client, _, error) in &mut databases {
            let left = "SELECT count(*) || ', ' || bool_and(metadata->>'user' = 'none') FROM temptoken.temp_tokens";
            assert_eq!(text(client, left), "4, true", "{database}");
            let is_known = "last_finish IS NULL AND last_error_at > last_start AND rows_waiting = 4";
            assert!(holds(client, &format!("{is_known} AND last_error LIKE '{error}'")), "{database}");
        }
    }
    for (database, client, end, _) in &mut databases {
        let log = cluster.log();
        assert_eq!(log.matches(&format!("sweeping database \"{database}\" failed")).count(), 1, "{log}");
        assert!(!log.contains("DETAIL"), "what is in a row is not logged: {log}");
        client.batch_execute(end).unwrap();
    }
    do_round(&mut databases[0].1);
    for (database, client, ..) in &mut databases {
        assert!(has_tokens(client, 0), "{database}");
        assert!(holds(client, "last_finish > last_error_at AND rows_waiting = 0"), "{database}");
    }
}

/// Behind more rows that fail than are tried one by one. Whatever a sweep passes over by chance, another one removes. The owner of a
/// database can have each error end the session, as a setting of it.
#[test]
fn rows_behind_many_that_cannot_be_removed_are_swept() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = create(&cluster, "many");
    client
        .batch_execute(
            "ALTER DATABASE many SET exit_on_error = on;
             CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF OLD.metadata IS NOT NULL THEN RAISE 'kept'; END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER fail AFTER DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        .unwrap();
    for (count, ttl, metadata) in [(20_000, 1, "'{}'"), (200, 100, "NULL")] {
        let ids = format!("ARRAY(SELECT i::text FROM generate_series(1, {count}) AS i)");
        let call = format!("temptoken_mint_many('files', {ids}, '{ttl} milliseconds', {metadata})");
        text(&mut client, &format!("SELECT count(*) FROM {call}"));
    }
    let left = |client: &mut Client| text(client, "SELECT count(*) FROM temptoken.temp_tokens WHERE metadata IS NULL");
    cluster.configure(&["temptoken.sweep_interval = 1s"]);
    cluster.reload();
    wait_until("they are swept", || left(&mut client) == "0");
    assert!(has_tokens(&mut client, 20_000));
    assert!(holds(&mut client, "last_error = 'kept'"));
}

#[test]
fn a_row_whose_removal_hangs_holds_up_no_others() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h", "temptoken.sweep_batch_size = 1"]);
    let mut client = create(&cluster, "hangs");
    mint_around_poison(&mut client, 20);
    client
        .batch_execute(
            "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM pg_sleep(600) WHERE OLD.metadata->>'user' = 'none';
                 RETURN OLD;
             END $$;
             CREATE TRIGGER hang BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION hang()",
        )
        .unwrap();
    do_round(&mut client);
    assert!(has_tokens(&mut client, 4));
    assert!(holds(&mut client, "last_finish IS NULL AND last_error LIKE 'the worker was ended after 4 s%'"));
}

/// Each try takes a transaction id, so there are few.
#[test]
fn a_trigger_that_always_fails_is_tried_a_few_times() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = create(&cluster, "broken");
    // What nextval counts is not rolled back.
    client
        .batch_execute(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM nextval('public.tries'); RAISE 'broken'; END $$;
             CREATE TRIGGER fail AFTER DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        .unwrap();
    mint(&mut client, 20_000, "1 millisecond");
    do_round(&mut client);
    let tries: u32 = text(&mut client, "SELECT last_value FROM tries").parse().unwrap();
    assert!((10..80).contains(&tries), "{tries} tries");
    assert!(has_tokens(&mut client, 20_000));
    assert!(holds(&mut client, "last_error = 'broken' AND last_finish IS NULL"));
    let log = cluster.log();
    assert_eq!(log.matches("sweeping database \"broken\" failed").count(), 1, "{log}");
}

/// The database of a launcher that ends while its worker hangs.
#[test]
fn a_worker_does_not_outlive_its_launcher() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    slow_down(&mut client, 600.0);
    mint(&mut client, 3, "1 millisecond");
    // Told to end, and with an error.
    for end in ["pg_terminate_backend", "pg_cancel_backend"] {
        let worker = busy_worker(&mut client);
        let launcher = text(&mut client, LAUNCHER);
        text(&mut client, &format!("SELECT {end}({launcher})"));
        // The next launcher comes after five seconds.
        let look = format!(
            "SELECT CASE WHEN bool_or(backend_type = 'temptoken sweep launcher' AND pid <> {launcher}) THEN 'outlived'
                         WHEN bool_or(pid = {worker}) THEN 'there' ELSE 'gone' END
             FROM pg_stat_activity"
        );
        let seen = wait_for("it is gone", || Some(text(&mut client, &look)).filter(|seen| seen != "there"));
        assert_eq!(seen, "gone", "{end}");
    }
}

#[test]
fn names_of_no_database_are_logged_once() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_databases = 'postgres, \"No such\"'"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let logged = |name: &str| cluster.log().matches(&format!("there is no database \"{name}\"")).count();
    for _ in 0..3 {
        mint(&mut client, 3, "1 millisecond");
        wait_until("a round has been", || has_tokens(&mut client, 0));
    }
    assert_eq!((logged("No such"), logged("postgres")), (1, 0), "{}", cluster.log());
    cluster.configure(&["temptoken.sweep_databases = 'postgres, \"No such\", other'"]);
    cluster.reload();
    wait_until("what is new is logged", || logged("other") == 1);
    assert_eq!(logged("No such"), 2);
}

#[test]
fn starting_and_stopping_say_what_a_restart_does() {
    let cluster = Cluster::start(&[]);
    drop(create(&cluster, "one"));
    let say = |call: &str| {
        let output = cluster.psql("one").args(["-A", "-t", "-c", call]).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    for (call, answer, notice) in [
        (STOP, "f", "no sweep worker is running"),
        (START, "t", "the sweep worker is started"),
        (START, "f", "the sweep worker is running already"),
        (STOP, "t", "the sweep worker is stopped"),
    ] {
        let said = say(call);
        assert!(said.starts_with(answer) && said.contains(&format!("NOTICE:  temptoken: {notice}")), "{said}");
        assert!(said.contains("HINT:  A restart of the server"), "{said}");
    }
}

/// A session starts the launcher of database `one`, and waits for it, while the postmaster is stopped. `meanwhile` is called
/// then, with the pids of session and postmaster, and lets the postmaster go on. What the session was answered.
fn start_while(cluster: &Cluster, mut starter: Client, meanwhile: impl FnOnce(&mut Client, &str, &str)) -> String {
    let mut client = cluster.connect("one");
    let session = text(&mut starter, "SELECT pg_backend_pid()");
    let postmaster = cluster.postmaster_pid();
    signal(&postmaster, "STOP");
    // Its name is written in another way from PostgreSQL 17 on.
    let waiting = format!(
        "SELECT wait_event FROM pg_stat_activity WHERE pid = {session} AND lower(wait_event) = 'bgworkerstartup'"
    );
    std::thread::scope(|scope| {
        let start = scope.spawn(|| text(&mut starter, START));
        wait_until("it waits for the launcher", || value(&mut client, &waiting).is_some());
        meanwhile(&mut client, &session, &postmaster);
        start.join().unwrap()
    })
}

/// The launcher is terminated before the session that starts it has looked whether it came: the session is stopped meanwhile.
#[test]
fn a_launcher_that_is_terminated_while_it_starts_is_started_all_the_same() {
    let cluster = Cluster::start(&["temptoken.sweep_interval = 1s"]);
    let starter = create(&cluster, "one");
    let mut other = cluster.connect("one");
    let answer = start_while(&cluster, starter, |client, session, postmaster| {
        signal(session, "STOP");
        signal(postmaster, "CONT");
        let launcher = wait_for("the launcher runs", || value(client, LAUNCHER));
        text(client, &format!("SELECT pg_terminate_backend({launcher})"));
        wait_until("it is gone", || !std::path::Path::new(&format!("/proc/{launcher}")).exists());
        signal(session, "CONT");
    });
    assert_eq!(answer, "t");
    mint(&mut other, 3, "1 millisecond");
    wait_until("it comes back, and sweeps", || has_tokens(&mut other, 0));
}

#[test]
fn a_launcher_that_is_stopped_while_it_starts_ends() {
    let cluster = Cluster::start(&[]);
    let starter = create(&cluster, "one");
    let mut other = cluster.connect("one");
    let answer = start_while(&cluster, starter, |client, _, postmaster| {
        assert_eq!(text(client, START), "f", "it is on its way");
        assert_eq!(text(client, STOP), "t");
        assert_eq!(text(client, STOP), "f", "it was told, and has no process");
        signal(postmaster, "CONT");
    });
    assert_eq!(answer, "t");
    wait_until("it has ended", || value(&mut other, LAUNCHER).is_none());
    stays_for(Duration::from_secs(6), "it does not come back", || value(&mut other, LAUNCHER).is_none());
    assert!(holds(&mut other, "worker = 'none' AND last_start IS NULL"));
    assert_eq!(text(&mut other, START), "t", "another can be started");
    wait_until("it sweeps", || holds(&mut other, "last_finish IS NOT NULL"));
}

/// Told to stop and wanted again, before it has a process; and again while it has none because it was terminated.
#[test]
fn a_launcher_that_is_wanted_again_before_it_has_noticed_goes_on() {
    let cluster = Cluster::start(&["temptoken.sweep_interval = 1s"]);
    let starter = create(&cluster, "one");
    let mut other = cluster.connect("one");
    let again = |client: &mut Client| {
        assert_eq!(text(client, STOP), "t");
        assert_eq!(text(client, START), "f");
    };
    let answer = start_while(&cluster, starter, |client, _, postmaster| {
        again(client);
        signal(postmaster, "CONT");
    });
    assert_eq!(answer, "t");
    wait_until("it sweeps", || holds(&mut other, "last_finish IS NOT NULL"));
    let launcher = text(&mut other, LAUNCHER);
    text(&mut other, &format!("SELECT pg_terminate_backend({launcher})"));
    wait_until("it is gone", || value(&mut other, LAUNCHER).is_none());
    again(&mut other);
    mint(&mut other, 3, "1 millisecond");
    wait_until("it comes back, and sweeps", || has_tokens(&mut other, 0));
    let launchers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'temptoken sweep launcher'";
    assert_eq!(text(&mut other, launchers), "1");
    // Nobody tells one to stop that has been told in vain, as it had no process, and comes back.
    let launcher = text(&mut other, LAUNCHER);
    text(&mut other, &format!("SELECT pg_terminate_backend({launcher})"));
    wait_until("it is gone", || value(&mut other, LAUNCHER).is_none());
    assert_eq!(text(&mut other, STOP), "t");
    stays_for(Duration::from_secs(7), "it sweeps no more", || holds(&mut other, "worker = 'none'"));
    assert_eq!(text(&mut other, START), "t");
}

/// While a session keeps an old snapshot, no vacuum removes the rows that earlier sweeps have deleted. A sweep passes them in steps, and
/// so does not come to its end by their number.
#[test]
fn dead_rows_are_passed_in_steps() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h", "autovacuum = off"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let mut old = cluster.connect("postgres");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT").unwrap();
    let mut expect_swept = |preparation: &str, prefix: &str, rows: u64| {
        let before = cluster.rows_logged("postgres");
        client
            .batch_execute(&format!(
                "{preparation};
                 INSERT INTO temptoken.temp_tokens (id, token_hash, scope, resource_id, created_at, expires_at)
                 SELECT overlay(gen_random_uuid()::text PLACING '{prefix}-8000' FROM 1)::uuid, '', 'files', '1', now(), 'epoch'
                 FROM generate_series(1, {rows})"
            ))
            .unwrap();
        index_scans_once_swept(&cluster, before + rows)
    };
    let mut scans = expect_swept("SELECT", "00000000-0001", 130_000);
    let steps = 130_000 / 30_000;
    // Behind 130,000 dead rows, and before them. With a trigger a step is a walk and a statement. One row, since a DELETE by ids
    // counts a scan for each.
    for (preparation, prefix, steps) in
        [("SELECT", "00000000-0002", steps), (KEEP, "00000000-0003", 2 * steps), ("SELECT", "00000000-0000", 2 * steps)]
    {
        let later = expect_swept(preparation, prefix, 1);
        assert!(later - scans >= steps, "{scans}, then {later} index scans");
        scans = later;
    }
}

/// A trigger that keeps nothing, but has a sweep go by statements.
const KEEP: &str = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
                    CREATE TRIGGER keep BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION keep()";

/// The worker has logged in as nobody. What the owner's trigger makes there is the owner's.
#[test]
fn a_trigger_that_makes_a_temporary_table_does_not_stop_the_sweep() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h", "temptoken.sweep_batch_size = 100"]);
    let mut client = cluster.connect("postgres");
    insert(&mut client, "temp_tokens", "00000000-0000", 1_000);
    client
        .batch_execute(
            "CREATE SCHEMA audit;
             CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
                 CREATE TEMP TABLE IF NOT EXISTS seen (id uuid);
                 INSERT INTO seen VALUES (OLD.id);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER note AFTER DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION audit.note()",
        )
        .unwrap();
    index_scans_once_swept(&cluster, 1_000);
    assert_eq!(value(&mut client, "SELECT last_error FROM temptoken_sweep_status()"), None);
}

/// Dead rows, as many as a step passes but for one, and then a token that was updated: both of its versions are in the index. A step that
/// ended between the two would leave it.
#[test]
fn a_step_does_not_end_between_two_versions_of_a_row() {
    for preparation in ["SELECT", KEEP] {
        let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h", "autovacuum = off"]);
        let mut client = cluster.connect("postgres");
        let mut old = cluster.connect("postgres");
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT").unwrap();
        insert(&mut client, "temp_tokens", "00000000-0000", 29_999);
        client.batch_execute("DELETE FROM temptoken.temp_tokens").unwrap();
        insert(&mut client, "temp_tokens", "00000000-0001", 1);
        client.batch_execute(&format!("UPDATE temptoken.temp_tokens SET resource_id = '2'; {preparation}")).unwrap();
        assert_eq!(text(&mut client, "SELECT temptoken_delete_expired()"), "1", "{preparation}");
    }
}

/// A batch that was made small because it took long is not to pass over many dead rows either.
#[test]
fn a_small_batch_passes_few_dead_rows() {
    let cluster = Cluster::with_extension(&[
        "temptoken.sweep_interval = 1h",
        "temptoken.sweep_batch_size = 1",
        "autovacuum = off",
    ]);
    let mut client = cluster.connect("postgres");
    let mut old = cluster.connect("postgres");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT").unwrap();
    insert(&mut client, "temp_tokens", "00000000-0000", 1_000);
    client.batch_execute("DELETE FROM temptoken.temp_tokens").unwrap();
    insert(&mut client, "temp_tokens", "00000000-0001", 1);
    let scans = index_scans_once_swept(&cluster, 1);
    assert!(scans >= 1_000 / 21, "{scans} index scans");
}

/// Has the worker sweep, until it has logged so many rows in all, and no longer; how often the primary key was scanned by then.
fn index_scans_once_swept(cluster: &Cluster, rows: u64) -> u64 {
    let mut client = cluster.connect("postgres");
    let mut every = |interval| {
        client.batch_execute(&format!("ALTER SYSTEM SET temptoken.sweep_interval = '{interval}'")).unwrap();
        cluster.reload();
    };
    every("1s");
    wait_until("they are swept", || cluster.rows_logged("postgres") == rows);
    every("1h");
    let worker = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'temptoken sweep worker'";
    wait_until("the worker has gone", || text(&mut client, worker) == "0");
    let scans = "SELECT idx_scan FROM pg_stat_all_indexes WHERE indexrelname = 'temp_tokens_pkey'";
    text(&mut client, scans).parse().unwrap()
}

/// More dead rows than a step passes, and a token in a child table whose id comes before theirs.
#[test]
fn dead_rows_of_a_table_hide_no_token_of_its_child() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h", "autovacuum = off"]);
    let mut client = cluster.connect("postgres");
    let mut old = cluster.connect("postgres");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT").unwrap();
    client.batch_execute("CREATE TABLE temptoken.child () INHERITS (temptoken.temp_tokens)").unwrap();
    insert(&mut client, "temp_tokens", "00000000-0001", 25_000);
    client.batch_execute("DELETE FROM temptoken.temp_tokens").unwrap();
    insert(&mut client, "child", "00000000-0000", 1);
    assert_eq!(text(&mut client, "SELECT temptoken_delete_expired()"), "1");
}

/// Inserts expired rows, with ids of this prefix.
fn insert(client: &mut Client, table: &str, prefix: &str, rows: u32) {
    let sql = format!(
        "INSERT INTO temptoken.{table} (id, token_hash, scope, resource_id, created_at, expires_at)
         SELECT overlay(gen_random_uuid()::text PLACING '{prefix}-8000' FROM 1)::uuid, '', 'files', '1', now(), 'epoch'
         FROM generate_series(1, {rows})"
    );
    client.batch_execute(&sql).unwrap();
}
