//! What only shows on real clusters, driven from outside by committing clients: the background worker, encodings,
//! standbys, a driver's view of errors.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, sqlstate, text, value, wait_until};
use postgres::Client;

const REGISTER: &str = "SELECT temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}')";
const TOKENS: &str = "SELECT count(*) FROM temptoken.temp_tokens";
const LAUNCHER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'temptoken sweep launcher'";

/// Mints tokens that live for `ttl`, one for each number up to `count`.
fn mint(client: &mut Client, count: u32, ttl: &str) {
    let ids = format!("ARRAY(SELECT i::text FROM generate_series(1, {count}) AS i)");
    text(client, &format!("SELECT count(*) FROM temptoken_mint_many('files', {ids}, '{ttl}')"));
}

fn has_tokens(client: &mut Client, count: u32) -> bool {
    text(client, TOKENS) == count.to_string()
}

// ---------------------------------------------------------------------------------------------------------------------
// The background worker
// ---------------------------------------------------------------------------------------------------------------------

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
fn the_worker_sweeps_in_batches() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h", "temptoken.sweep_batch_size = 100"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 1_050, "1 millisecond");
    // Each transaction that deletes notes how many rows it took.
    client
        .batch_execute(
            "CREATE TABLE noted (xid xid8, rows bigint);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.noted SELECT pg_current_xact_id(), count(*) FROM gone;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER note AFTER DELETE ON temptoken.temp_tokens REFERENCING OLD TABLE AS gone
             FOR EACH STATEMENT EXECUTE FUNCTION note()",
        )
        .unwrap();
    drop(client);
    cluster.stop("fast");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until("everything is swept", || has_tokens(&mut client, 0));
    let noted = "SELECT count(DISTINCT xid) || ' ' || max(rows) || ' ' || sum(rows) FROM noted WHERE rows > 0";
    assert_eq!(text(&mut client, noted), "11 100 1050");
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
    // Named databases only; names with commas and quotes among them.
    cluster.configure(&["temptoken.sweep_databases = 'without, \"Se,cond \"\"db\"\"\"'"]);
    cluster.reload();
    wait_until("the setting holds", || text(&mut first, "SHOW temptoken.sweep_databases").starts_with("without"));
    mint(&mut first, 20, "1 millisecond");
    mint(&mut second, 20, "1 millisecond");
    wait_until("the named database is swept", || has_tokens(&mut second, 0));
    std::thread::sleep(Duration::from_secs(2));
    assert!(has_tokens(&mut first, 20));
    assert!(!cluster.log().contains("ERROR") && !cluster.log().contains("FATAL"), "{}", cluster.log());
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
    std::thread::sleep(Duration::from_secs(3));
    assert!(has_tokens(&mut client, 2));
    assert_eq!(cluster.log(), before, "nothing to sweep, nothing to say");
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut other, REGISTER);
    mint(&mut other, 5, "1 millisecond");
    wait_until("the new extension is swept", || has_tokens(&mut other, 0));
    assert!(has_tokens(&mut client, 2));
}

#[test]
fn a_reload_changes_the_interval_and_the_batch_size_within_a_cycle() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 30, "1 millisecond");
    std::thread::sleep(Duration::from_secs(2));
    assert!(has_tokens(&mut client, 30), "an hour has not passed");
    client.batch_execute("ALTER SYSTEM SET temptoken.sweep_interval = '1s'").unwrap();
    client.batch_execute("ALTER SYSTEM SET temptoken.sweep_batch_size = 7").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_until("the shorter interval holds", || has_tokens(&mut client, 0));
    // Settings are checked, and an ordinary user has no say.
    for bad in ["sweep_interval = 0", "sweep_interval = '8d'", "sweep_batch_size = 0", "sweep_databases = '\"a'"] {
        assert_eq!(sqlstate(&mut client, &format!("ALTER SYSTEM SET temptoken.{bad}")), "22023", "{bad}");
    }
    client.batch_execute("CREATE ROLE ordinary LOGIN").unwrap();
    let mut ordinary = cluster.connect_as("ordinary", "postgres");
    let attempts = [
        ("sweep_interval", "55P02"),
        ("sweep_batch_size", "55P02"),
        ("sweep_databases", "55P02"),
        ("token_prefix", "42501"),
    ];
    for (setting, state) in attempts {
        text(&mut ordinary, &format!("SHOW temptoken.{setting}"));
        assert_eq!(sqlstate(&mut ordinary, &format!("SET temptoken.{setting} = '5'")), state, "{setting}");
    }
}

#[test]
fn a_terminated_launcher_is_gone_within_a_second_and_comes_back() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    wait_until("the launcher runs", || value(&mut client, LAUNCHER).is_some());
    let before = text(&mut client, LAUNCHER);
    mint(&mut client, 3, "1 millisecond");
    text(&mut client, &format!("SELECT pg_terminate_backend({before})"));
    let begun = Instant::now();
    wait_until("it is gone", || value(&mut client, LAUNCHER).as_ref() != Some(&before));
    assert!(begun.elapsed() < Duration::from_secs(1));
    // Back, and with its sweep at start.
    wait_until("it is back", || value(&mut client, LAUNCHER).is_some());
    wait_until("it has swept", || has_tokens(&mut client, 0));
}

#[test]
fn a_busy_worker_ends_within_a_second_when_terminated_and_its_work_is_done_later() {
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
    let begun = Instant::now();
    wait_until("it is gone", || text(&mut client, &gone) == "0");
    assert!(begun.elapsed() < Duration::from_secs(1));
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
    drop(client);
    std::thread::sleep(Duration::from_secs(2));
    let took = cluster.stop("fast");
    assert!(took < Duration::from_secs(5), "{took:?}");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    client.batch_execute("ROLLBACK PREPARED 'held'").unwrap();
    wait_until("it sweeps again", || has_tokens(&mut client, 0));
}

#[test]
fn no_setting_of_a_database_stops_the_worker() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "ALTER DATABASE postgres SET default_transaction_read_only = on;
             ALTER DATABASE postgres SET statement_timeout = '1ms';
             ALTER DATABASE postgres SET lock_timeout = '1ms';
             ALTER DATABASE postgres SET search_path = nowhere;
             ALTER DATABASE postgres SET default_transaction_isolation = 'serializable';
             ALTER DATABASE postgres SET session_replication_role = 'replica'",
        )
        .unwrap();
    mint(&mut client, 50, "1 millisecond");
    wait_until("it has swept all the same", || has_tokens(&mut client, 0));
    assert!(!cluster.log().contains("ERROR"), "{}", cluster.log());
}

#[test]
fn a_row_that_is_locked_does_not_hold_up_the_others() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 50, "200 milliseconds");
    let mut locker = cluster.connect("postgres");
    locker.batch_execute("BEGIN").unwrap();
    text(&mut locker, "SELECT id FROM temptoken.temp_tokens WHERE resource_id = '7' FOR UPDATE");
    wait_until("the others are swept", || has_tokens(&mut client, 1));
    locker.batch_execute("ROLLBACK").unwrap();
    wait_until("it is swept too", || has_tokens(&mut client, 0));
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
    client
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(0.01); RETURN OLD; END $$;
             CREATE TRIGGER slow BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .unwrap();
    mint(&mut client, 2_000, "1 millisecond");
    drop(client);
    let busy =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'temptoken sweep worker' AND wait_event = 'PgSleep'";
    wait_until("the worker is busy", || value(&mut postgres, busy).is_some());
    postgres.batch_execute("ALTER DATABASE busy RENAME TO renamed").unwrap();
    wait_until("the next worker is busy", || value(&mut postgres, busy).is_some());
    postgres.batch_execute("CREATE DATABASE copy TEMPLATE renamed").unwrap();
    postgres.batch_execute("DROP DATABASE copy").unwrap();
    wait_until("the next worker is busy", || value(&mut postgres, busy).is_some());
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
    mint(&mut postgres, 1, "300 milliseconds");
    postgres.batch_execute("INSERT INTO child SELECT id FROM temptoken.temp_tokens").unwrap();
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN; UPDATE child SET token = token").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    mint(&mut other, 5, "1 millisecond");
    wait_until("the other database is swept", || has_tokens(&mut other, 0));
    assert!(has_tokens(&mut postgres, 1));
    holder.batch_execute("ROLLBACK").unwrap();
    wait_until("this one is swept too", || has_tokens(&mut postgres, 0));
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
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .unwrap();
    mint(&mut client, 1, "1 millisecond");
    wait_until("it is swept", || has_tokens(&mut client, 0));
    assert_eq!(text(&mut client, "SELECT acting FROM seen"), "powerless");
}

#[test]
fn no_worker_runs_under_pg_upgrade() {
    let cluster = Cluster::with_extension(&[]);
    cluster.stop("fast");
    cluster.start_with("-b");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(value(&mut cluster.connect("postgres"), LAUNCHER), None);
    cluster.stop("fast");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until("the launcher runs", || value(&mut client, LAUNCHER).is_some());
}

#[test]
fn validations_are_counted_by_scope_and_outcome() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('once', ARRAY['GET /once'], '1 hour', max_uses => 1)");
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    let once = text(&mut client, "SELECT temptoken_mint('once', 'x', '1 hour')");
    let calls = [(&*token, "/files/42", 3), (&*token, "/files/43", 2), (&*once, "/once", 2), ("nonsense", "/", 4)];
    for (token, path, times) in calls {
        for _ in 0..times {
            // Each in a session of its own: what is counted is counted for all.
            let mut other = cluster.connect("postgres");
            text(&mut other, &format!("SELECT (temptoken_try_validate('{token}', 'GET', '{path}')).status"));
            text(&mut other, &format!("SELECT (temptoken_peek('{token}', 'GET', '{path}')).status"));
            sqlstate(&mut other, &format!("SELECT temptoken_validate('{token}', 'PUT', '{path}')"));
        }
    }
    let mut outcomes = |scope: &str, outcome: &str| {
        let sql =
            format!("SELECT outcomes -> '{outcome}' FROM temptoken_stats() WHERE scope IS NOT DISTINCT FROM {scope}");
        text(&mut client, &sql)
    };
    let counted = [
        ("'files'", "ok", "3"),
        ("'files'", "route_not_allowed", "7"),
        ("'files'", "token_used_up", "0"),
        ("'once'", "ok", "1"),
        ("'once'", "token_used_up", "1"),
        ("'once'", "route_not_allowed", "2"),
        ("NULL", "token_not_found", "8"),
        ("NULL", "ok", "0"),
    ];
    for (scope, outcome, count) in counted {
        assert_eq!(outcomes(scope, outcome), count, "{scope} {outcome}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Without preloading
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn validation_is_right_without_preloading_and_expired_tokens_stay_until_deleted() {
    let cluster = Cluster::start(&[]);
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '300 milliseconds')");
    let status = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    assert_eq!(text(&mut client, &status), "ok");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(text(&mut client, &status), "token_expired");
    assert!(has_tokens(&mut client, 1));
    assert_eq!(text(&mut client, "SELECT temptoken_delete_expired()"), "1");
    assert_eq!(text(&mut client, &status), "token_not_found");
    assert_eq!(value(&mut client, LAUNCHER), None);
}

// ---------------------------------------------------------------------------------------------------------------------
// Clients, encodings, standbys
// ---------------------------------------------------------------------------------------------------------------------

/// Neither SET nor ALTER ROLE nor the connection's options give an ordinary user a say in a setting, whether the library is
/// loaded before or after.
#[test]
fn an_ordinary_user_cannot_change_a_setting() {
    for preload in ["", "temptoken"] {
        let cluster = Cluster::start(&[&format!("shared_preload_libraries = '{preload}'")]);
        let mut client = cluster.connect("postgres");
        client.batch_execute("CREATE EXTENSION temptoken; CREATE ROLE ordinary LOGIN").unwrap();
        text(&mut client, REGISTER);
        text(&mut client, "SELECT temptoken_grant('ordinary', 'issue')");
        let mint = "SELECT temptoken_mint('files', '42', '1 hour')";
        let mut ordinary = cluster.connect_as("ordinary", "postgres");
        // Where the name is not known yet, it may be set, and is set back when the library is loaded.
        let _ = ordinary.batch_execute("SET temptoken.token_prefix = 'evil'");
        let _ = ordinary.batch_execute("ALTER ROLE ordinary SET temptoken.token_prefix = 'evil'");
        assert!(text(&mut ordinary, mint).starts_with("tt_"));
        assert_eq!(sqlstate(&mut ordinary, "SET temptoken.token_prefix = 'evil'"), "42501");
        assert_eq!(sqlstate(&mut ordinary, "ALTER ROLE ordinary SET temptoken.token_prefix = 'evil'"), "42501");
        let mut again = cluster.connect_as("ordinary", "postgres");
        assert!(text(&mut again, mint).starts_with("tt_"));
        if let Some(mut optioned) = cluster.try_connect_with("ordinary", "-c temptoken.token_prefix=evil") {
            assert!(text(&mut optioned, mint).starts_with("tt_"));
        }
    }
}

/// Every refusal and error of the table, as a driver's error object carries it.
#[test]
fn a_driver_sees_each_sqlstate() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('once', ARRAY['GET /once'], '1 hour', max_uses => 1)");
    text(&mut client, "SELECT temptoken_register_scope('gone', ARRAY['GET /gone'], '1 hour')");
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    let expired = text(&mut client, "SELECT temptoken_mint('files', '43', '1 millisecond')");
    let used_up = text(&mut client, "SELECT temptoken_mint('once', 'x', '1 hour')");
    let gone = text(&mut client, "SELECT temptoken_mint('gone', 'x', '1 hour')");
    text(&mut client, &format!("SELECT temptoken_validate('{used_up}', 'GET', '/once')"));
    text(&mut client, "SELECT temptoken_unregister_scope('gone')");
    let validate = |token: &str, path: &str| format!("SELECT * FROM temptoken_validate('{token}', 'GET', '{path}')");
    let cases = [
        ("SELECT * FROM temptoken_validate(null, 'GET', '/')".to_owned(), "TT001"),
        (validate("nonsense", "/"), "TT001"),
        (validate(&expired, "/files/43"), "TT002"),
        (validate(&gone, "/gone"), "TT003"),
        ("SELECT temptoken_mint('gone', 'x', '1 hour')".to_owned(), "TT003"),
        (validate(&token, "/files/43"), "TT004"),
        ("SELECT temptoken_mint('files', '42', '2 hours')".to_owned(), "TT005"),
        (validate(&used_up, "/once"), "TT006"),
        (REGISTER.to_owned(), "TT010"),
        ("SELECT temptoken_register_scope('bad', ARRAY['GET'], '1 hour')".to_owned(), "TT011"),
        ("SELECT temptoken_mint('files', '..', '1 hour')".to_owned(), "TT012"),
        (validate(&token, "/files/42"), "ok"),
    ];
    for (sql, expected) in cases {
        assert_eq!(sqlstate(&mut client, &sql), expected, "{expected}");
        // And by the extended protocol, where the message must not carry what was presented either.
        match client.query(&sql, &[]) {
            Ok(_) => assert_eq!(expected, "ok"),
            Err(error) => {
                let error = error.as_db_error().unwrap();
                assert_eq!(error.code().code(), expected);
                assert!(error.message().starts_with("temptoken: "), "{error:?}");
                assert!(error.hint().is_some(), "{error:?}");
                let said = format!("{error:?}");
                for token in [&token, &expired, &used_up, &gone] {
                    assert!(!said.contains(&token[35..]), "a secret in {said}");
                }
            }
        }
    }
}

/// No secret is in what the server stores or logs on its own.
#[test]
fn no_secret_is_written_anywhere() {
    let cluster = Cluster::with_extension(&["log_min_messages = debug1"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let mint = client.prepare("SELECT temptoken_mint('files', '42', '1 hour', '{\"mark\": \"findable\"}')").unwrap();
    let token: String = client.query_one(&mint, &[]).unwrap().get(0);
    let validate = client.prepare("SELECT (temptoken_validate($1, 'GET', $2)).scope").unwrap();
    for path in ["/files/42", "/files/43"] {
        let _ = client.query(&validate, &[&token, &path]);
    }
    client.batch_execute("CHECKPOINT").unwrap();
    assert!(cluster.files_contain(b"findable"), "the search finds what is there");
    assert!(!cluster.files_contain(&token.as_bytes()[35..]));
    let secret: Vec<u8> = (35..99).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect();
    assert!(!cluster.files_contain(&secret));
    if !common::has_program("pg_dump") {
        return eprintln!("skipped in part: this PostgreSQL comes without pg_dump");
    }
    let dump = cluster.dump("postgres");
    assert!(dump.contains("GET /files/{id}"), "a dump carries scopes");
    assert!(!dump.contains("findable"), "and no tokens");
}

/// A set of tokens that is larger than work_mem is not spilled to a temporary file.
#[test]
fn no_token_is_spilled_to_disk() {
    let cluster = Cluster::with_extension(&["work_mem = '64kB'"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let ids = "ARRAY(SELECT 'findable' || i FROM generate_series(1, 20000) AS i)";
    let declare = format!("DECLARE c CURSOR FOR SELECT token FROM temptoken_mint_many('files', {ids}, '1 hour')");
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(&declare).unwrap();
    let token = text(&mut client, "FETCH 1 FROM c");
    client.batch_execute("CHECKPOINT").unwrap();
    assert!(cluster.files_contain(b"findable20000"), "the search finds what is there");
    assert!(!cluster.files_contain(&token.as_bytes()[35..]));
}

/// What was taken from a token stays taken, whatever the caller's session says of synchronous_commit.
#[test]
fn no_crash_undoes_a_deletion_a_spending_or_a_change_of_scope() {
    let cluster =
        Cluster::with_extension(&["wal_writer_delay = 10s", "autovacuum = off", "temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    let scope = |name: &str, uses: &str| {
        format!("SELECT temptoken_register_scope('{name}', ARRAY['GET /x'], '1 hour', max_uses => {uses})")
    };
    for (name, uses) in [("s", "NULL"), ("once", "1"), ("gone", "NULL"), ("narrowed", "NULL")] {
        text(&mut client, &scope(name, uses));
    }
    let mut mint =
        |scope: &str, id: &str| text(&mut client, &format!("SELECT temptoken_mint('{scope}', '{id}', '1 hour')"));
    let tokens =
        [mint("s", "1"), mint("s", "2"), mint("s", "3"), mint("once", "4"), mint("gone", "5"), mint("narrowed", "6")];
    let status = |client: &mut Client, token: &str| {
        text(client, &format!("SELECT (temptoken_peek('{token}', 'GET', '/x')).status"))
    };
    client.batch_execute("CHECKPOINT; SET synchronous_commit = off").unwrap();
    let mut taken = Vec::new();
    for sql in [
        format!("SELECT temptoken_delete('{}')", tokens[0]),
        "SELECT temptoken_delete_by_id(id) FROM temptoken.temp_tokens WHERE resource_id = '2'".to_owned(),
        "SELECT temptoken_delete_by_resource_id('s', '3')".to_owned(),
        format!("SELECT (temptoken_validate('{}', 'GET', '/x')).scope", tokens[3]),
        "SELECT temptoken_unregister_scope('gone')".to_owned(),
        "SELECT temptoken_register_scope('narrowed', ARRAY['GET /y'], '1 hour', replace => true)".to_owned(),
    ] {
        // Each alone: the commit of a later one would carry the WAL of those before.
        text(&mut client, &sql);
        cluster.crash();
        client = cluster.connect("postgres");
        client.batch_execute("SET synchronous_commit = off").unwrap();
        taken.push(status(&mut client, &tokens[taken.len()]));
    }
    let not_found = "token_not_found";
    assert_eq!(taken, [not_found, not_found, not_found, "token_used_up", "scope_unknown", "route_not_allowed"]);
}

#[test]
fn any_encoding_and_any_bytes() {
    let cluster = Cluster::with_extension(&[]);
    let mut postgres = cluster.connect("postgres");
    for encoding in ["SQL_ASCII", "LATIN1", "UTF8"] {
        let database = encoding.to_lowercase();
        postgres
            .batch_execute(&format!("CREATE DATABASE {database} ENCODING '{encoding}' TEMPLATE template0"))
            .unwrap();
        let mut client = cluster.connect(&database);
        client.batch_execute("CREATE EXTENSION temptoken").unwrap();
        text(&mut client, REGISTER);
        text(&mut client, "SELECT temptoken_register_scope('plain', ARRAY['GET /plain'], '1 hour')");
        let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
        let bad = r"E'/files/42\xff'";
        let expect = |sql: String, client: &mut Client, answer: &str| {
            if encoding == "UTF8" {
                assert_eq!(sqlstate(client, &sql), "22021", "{encoding}: {sql}");
            } else {
                assert_eq!(text(client, &sql), answer, "{encoding}: {sql}");
            }
            // The session survives.
            assert_eq!(text(client, &format!("SELECT (temptoken_peek('{token}', 'GET', '/files/42')).status")), "ok");
        };
        for arguments in [format!("{bad}, 'GET', '/'"), format!("'{token}' || {bad}, 'GET', '/files/42'")] {
            let sql = format!("SELECT (temptoken_try_validate({arguments})).status");
            expect(sql, &mut client, "token_not_found");
        }
        for arguments in [format!("'{token}', {bad}, '/files/42'"), format!("'{token}', 'GET', {bad}")] {
            let sql = format!("SELECT (temptoken_try_validate({arguments})).status");
            expect(sql, &mut client, "route_not_allowed");
        }
        expect(format!("SELECT length(temptoken_mint('plain', {bad}, '1 hour'))"), &mut client, "99");
        expect(format!("SELECT temptoken_delete_by_resource_id('plain', {bad})"), &mut client, "1");
        expect(format!("SELECT temptoken_register_scope({bad}, ARRAY['GET /x'], '1 hour') IS NULL"), &mut client, "f");
        expect(format!("SELECT temptoken_unregister_scope({bad})"), &mut client, "t");
        for (call, state) in [
            (format!("temptoken_mint('files', {bad}, '1 hour')"), "TT012"),
            (format!("temptoken_mint({bad}, '42', '1 hour')"), "TT003"),
            (format!("temptoken_register_scope('x', ARRAY['GET ' || {bad}], '1 hour')"), "TT011"),
            (format!("temptoken_register_scope('x', ARRAY['GET /x'], '1 hour', {bad})"), "TT011"),
        ] {
            let state = if encoding == "UTF8" { "22021" } else { state };
            // An answer that quotes such bytes cannot be read by this driver in SQL_ASCII: PL/pgSQL looks at it.
            let caught = format!(
                "DO $do$ BEGIN PERFORM {call}; EXCEPTION WHEN SQLSTATE '{state}' THEN PERFORM set_config('t.s', 'caught', false); END $do$"
            );
            client.batch_execute("SET t.s = ''").unwrap();
            let outcome = sqlstate(&mut client, &caught);
            assert!(outcome == "22021" || text(&mut client, "SHOW t.s") == "caught", "{encoding}: {call}: {outcome}");
        }
    }
}

/// A locale in which the capital of i is not I changes nothing.
#[test]
fn a_turkish_database_gives_the_same_answers() {
    let cluster = Cluster::with_extension(&[]);
    let create = "CREATE DATABASE turkish TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' ENCODING 'UTF8'";
    match &*sqlstate(&mut cluster.connect("postgres"), create) {
        "ok" => {}
        // Before PostgreSQL 15, or built without ICU.
        "42601" | "0A000" => return eprintln!("skipped: this PostgreSQL has no databases with ICU locales"),
        state => panic!("{state}"),
    }
    let mut client = cluster.connect("turkish");
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut client, "SELECT temptoken_register_scope('list', ARRAY['LIST /files/{id}'], '1 hour', '{id}')");
    assert_eq!(text(&mut client, "SELECT upper('i')"), "İ", "the database is Turkish");
    let token = text(&mut client, "SELECT temptoken_mint('list', 'i', '1 hour')");
    for (method, path, status) in [
        ("list", "/files/i", "ok"),
        ("LIST", "/files/i", "ok"),
        ("LİST", "/files/i", "route_not_allowed"),
        ("lıst", "/files/i", "route_not_allowed"),
        ("LIST", "/files/I", "route_not_allowed"),
        ("LIST", "/files/ı", "route_not_allowed"),
        ("LIST", "/files/İ", "route_not_allowed"),
        ("LIST", "/FILES/i", "route_not_allowed"),
    ] {
        let sql = format!("SELECT (temptoken_try_validate('{token}', '{method}', '{path}')).status");
        assert_eq!(text(&mut client, &sql), status, "{method} {path}");
    }
    assert_eq!(text(&mut client, "SELECT temptoken_delete_by_resource_id('LIST', 'i')"), "0");
    assert_eq!(text(&mut client, "SELECT temptoken_delete_by_resource_id('list', 'I')"), "0");
}

#[test]
fn a_standby_validates_and_follows_changes_and_sweeps_only_once_promoted() {
    if !common::has_program("pg_basebackup") {
        return eprintln!("skipped: this PostgreSQL comes without pg_basebackup");
    }
    let primary = Cluster::with_extension(&[]);
    let mut client = primary.connect("postgres");
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('once', ARRAY['GET /once'], '1 hour', max_uses => 1)");
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    let once = text(&mut client, "SELECT temptoken_mint('once', 'x', '1 hour')");
    let standby = primary.standby();
    let mut reader = standby.connect("postgres");
    let status = |path: &str| format!("SELECT (temptoken_try_validate('{token}', 'GET', '{path}')).status");
    let answers = |client: &mut Client, path: &str, answer: &str| {
        wait_until(&format!("the standby answers {answer}"), || text(client, &status(path)) == answer);
    };
    answers(&mut reader, "/files/42", "ok");
    // Scopes replaced, unregistered and registered again, in a session that has them in memory.
    let change =
        "SELECT temptoken_register_scope('files', ARRAY['GET /moved/{id}'], '1 hour', '{id}', replace => true)";
    text(&mut client, change);
    answers(&mut reader, "/moved/42", "ok");
    assert_eq!(text(&mut reader, &status("/files/42")), "route_not_allowed");
    text(&mut client, "SELECT temptoken_unregister_scope('files')");
    answers(&mut reader, "/moved/42", "scope_unknown");
    text(&mut client, REGISTER);
    answers(&mut reader, "/files/42", "ok");
    // What writes says that it cannot.
    for call in [
        "temptoken_mint('files', '42', '1 hour')".to_owned(),
        "temptoken_mint_many('files', '{a}', '1 hour')".to_owned(),
        format!("temptoken_validate('{once}', 'GET', '/once')"),
        format!("temptoken_try_validate('{once}', 'GET', '/once')"),
        format!("temptoken_delete('{token}')"),
        "temptoken_delete_by_id(gen_random_uuid())".to_owned(),
        "temptoken_delete_by_resource_id('files', '42')".to_owned(),
        "temptoken_delete_by_scope('files')".to_owned(),
        "temptoken_delete_expired()".to_owned(),
        "temptoken_register_scope('new', ARRAY['GET /'], '1 hour')".to_owned(),
        "temptoken_unregister_scope('files')".to_owned(),
    ] {
        assert_eq!(sqlstate(&mut reader, &format!("SELECT {call}")), "25006", "{call}");
    }
    assert_eq!(text(&mut reader, &format!("SELECT (temptoken_peek('{once}', 'GET', '/once')).status")), "ok");
    // A deletion is seen as soon as it is replayed, in a transaction that began before it.
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_eq!(text(&mut reader, &status("/files/42")), "ok");
    text(&mut client, &format!("SELECT temptoken_delete('{token}')"));
    answers(&mut reader, "/files/42", "token_not_found");
    reader.batch_execute("COMMIT").unwrap();
    // Expired tokens stay where they are on the standby, until it is promoted.
    assert_eq!(value(&mut reader, LAUNCHER), None);
    primary.stop("immediate");
    reader.batch_execute("SELECT pg_promote()").unwrap();
    mint(&mut reader, 5, "1 millisecond");
    wait_until("the promoted server sweeps", || has_tokens(&mut reader, 1));
    assert!(!standby.log().contains("ERROR:  temptoken"), "{}", standby.log());
}
