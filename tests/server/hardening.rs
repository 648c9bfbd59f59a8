//! What a caller, an administrator's code or the server's own settings could turn against the server: memory that runs out,
//! tokens that get into the log, settings of a session that change how a token is looked up.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{
    self, Cluster, REGISTER, as_server_user, pg_config, skipped, source_path, sqlstate, text, value, wait_until,
};
use postgres::Client;

/// Every call that a token, or a part of one, could be passed to, wherever in it.
fn calls_with(token: &str) -> Vec<String> {
    let (id, secret) = token[3..].split_at(32);
    let mut calls = Vec::new();
    for token in [token.to_owned(), format!("{token}x"), secret.to_owned(), format!("x{id}{secret}")] {
        calls.extend([
            format!("SELECT temptoken_validate('{token}', 'GET', '/files/43')"),
            format!("SELECT temptoken_validate('x', '{token}', '/files/43')"),
            format!("SELECT temptoken_validate('x', 'GET', '{token}')"),
            format!("SELECT temptoken_authenticate('{token}', 'GET', '/files/43')"),
            format!("SELECT temptoken_mint('{token}', '42', '1 hour')"),
            format!("SELECT temptoken_mint('files', '/{token}', '1 hour')"),
            format!("SELECT temptoken_mint_many('{token}', '{{42}}', '1 hour')"),
            format!("SELECT temptoken_mint_many('files', '{{/{token}}}', '1 hour')"),
            format!("SELECT temptoken_register_scope('{token}', ARRAY['GET'], '1 hour')"),
            format!("SELECT temptoken_register_scope('s', ARRAY['{token}'], '1 hour')"),
            format!("SELECT temptoken_register_scope('s', ARRAY['GET /{token}/{{x}}'], '1 hour', '{{id}}')"),
            format!("INSERT INTO temptoken.scopes VALUES ('{token}', '{{GET}}', '', '1 hour')"),
            format!("DO $$ BEGIN PERFORM temptoken_validate('{token}', 'GET', '/files/43'); END $$"),
            format!("SELECT set_config('request.headers', '{{\"x-temp-token\": \"{token}\"}}', false), temptoken_pre_request()"),
        ]);
    }
    calls
}

/// By default the server logs the statement of every error, and with it the token, where that is a literal. Nor does what
/// is said of an error repeat what could be a token.
#[test]
fn no_refusal_leaves_a_token_in_the_log_or_the_answer() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    // Parts of the secret that are long enough to be of use to a thief.
    let pieces: Vec<&str> = (35..99 - 24).map(|at| &token[at..at + 24]).collect();
    for call in calls_with(&token) {
        let said = match client.simple_query(&call) {
            Ok(_) => continue,
            Err(error) => format!("{:?}", error.as_db_error().unwrap()),
        };
        // PostgreSQL itself shows the row that breaks a constraint, and the text of a DO block, to whoever wrote them.
        let shown_by_postgres = call.starts_with("INSERT") || call.starts_with("DO");
        assert!(shown_by_postgres || !pieces.iter().any(|piece| said.contains(piece)), "{call}: {said}");
    }
    let log = cluster.log();
    assert!(log.contains("temptoken: token not found"), "errors are logged: {log}");
    let leaked = log.lines().find(|line| pieces.iter().any(|piece| line.contains(piece)));
    assert_eq!(leaked, None);
}

/// Neither the log nor a client gets to see a backtrace, whichever way an error comes.
#[test]
fn no_backtrace_is_shown_whatever_the_environment_of_the_server_says() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    drop(client);
    cluster.stop("fast");
    cluster.start_in(&[("RUST_BACKTRACE", "1"), ("RUST_LIB_BACKTRACE", "1")]);
    let mut client = cluster.connect("postgres");
    for (call, state) in [
        ("BEGIN READ ONLY; SELECT temptoken_mint('files', '42', '1 hour')", "25006"),
        ("SELECT temptoken_validate('x', 'GET', '/')", "TT001"),
        ("SET statement_timeout = 1; SELECT temptoken_find_tokens(repeat('_', 50000000))", "57014"),
        ("SELECT temptoken_mint('files', '42', '1 hour', metadata => NULL, max_uses => 0)", "22023"),
    ] {
        let error = client.batch_execute(call).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), state, "{call}");
        assert!(!format!("{error:?}").contains("backtrace") && error.detail().is_none(), "{error:?}");
        client.batch_execute("ROLLBACK; RESET ALL").unwrap();
    }
    assert!(!cluster.log().contains("rust_") && !cluster.log().contains("pgrx"), "{}", cluster.log());
}

/// What any role may set as it connects does not make a validation read the table.
#[test]
fn no_setting_of_a_session_keeps_the_lookup_from_its_index() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    client.batch_execute("CREATE ROLE ordinary LOGIN; SELECT temptoken_grant('ordinary', 'validate')").unwrap();
    let read = |client: &mut Client, column: &str| {
        client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
        let sql = format!("SELECT {column} FROM pg_stat_user_tables WHERE relname = 'temp_tokens'");
        text(client, &sql).parse::<u64>().unwrap()
    };
    let options =
        "-c ignore_system_indexes=on -c enable_indexscan=off -c enable_indexonlyscan=off -c enable_bitmapscan=off";
    let before = read(&mut client, "seq_scan");
    let mut ordinary = cluster.try_connect_with("ordinary", options).unwrap();
    assert_eq!(text(&mut ordinary, "SHOW ignore_system_indexes"), "on");
    let status = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    for _ in 0..100 {
        assert_eq!(text(&mut ordinary, &status), "ok");
    }
    drop(ordinary);
    common::wait_until("it is counted", || read(&mut client, "idx_scan") >= 100);
    assert_eq!(read(&mut client, "seq_scan"), before);
    // Without a key the answer is the same, from the table.
    client.batch_execute("ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT temp_tokens_pkey").unwrap();
    assert_eq!(text(&mut client, &status), "ok");
    // One that is not of the id alone is none.
    client.batch_execute("ALTER TABLE temptoken.temp_tokens ADD PRIMARY KEY (scope, id)").unwrap();
    assert_eq!(text(&mut client, &status), "ok");
}

/// The address space of a process, in bytes.
fn address_space(pid: &str) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

/// A backend that gets no more memory says so, and goes on: no signal ends it, which would restart the server.
#[test]
fn a_backend_without_memory_says_so_and_the_server_goes_on() {
    if !as_server_user("prlimit").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skipped("the test of backends without memory: there is no prlimit here");
    }
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('report', ARRAY['GET /report'], '1 hour')");
    client
        .batch_execute(
            "CREATE TABLE large AS SELECT 'big' AS name,
                 (SELECT string_agg('tt_' || md5(i::text) || md5('a' || i) || md5('b' || i), ' ')
                  FROM generate_series(1, 200000) AS i) AS tokens;
             CREATE TABLE minted AS SELECT temptoken_mint('report', 'x', '1 hour') AS token;
             UPDATE temptoken.temp_tokens SET metadata = jsonb_build_object('x', repeat('x', 50000000))",
        )
        .unwrap();
    let calls = [
        "SELECT count(*) FROM temptoken_mint_many('report', array_fill('x'::text, ARRAY[1000000]), '1 hour')",
        "SELECT count(*) FROM temptoken_mint_many('report', ARRAY(SELECT i::text FROM generate_series(1, 1000000) AS i), '1 hour', replace => true)",
        "SELECT count(*) FROM large, temptoken_find_tokens(regexp_replace(tokens, '(tt_.{12}).(.{3}).', '\\18\\28', 'g'))",
        "SELECT count(*) FROM large, temptoken_find_tokens(tokens)",
        "SELECT set_config('request.headers', (SELECT json_object_agg('h' || i, repeat('x', 100))::text FROM generate_series(1, 250000) AS i), false) IS NULL;
         SELECT temptoken_pre_request()",
        "SELECT set_config('request.headers', (SELECT json_agg(i)::text FROM generate_series(1, 140000) AS i), false) IS NULL;
         SELECT temptoken_pre_request()",
        "SELECT (temptoken_authenticate(token, 'GET', '/report')).scope FROM minted",
        "BEGIN; SELECT (temptoken_authenticate(token, 'GET', '/report')).scope FROM minted; SELECT length(temptoken_current_metadata()::text); COMMIT",
        "SELECT length((temptoken_try_validate(token, 'GET', '/report')).metadata::text) FROM minted",
        "SELECT temptoken_introspect(token) FROM minted",
        "SELECT temptoken_introspect(repeat('x', 30000000))",
        "SELECT temptoken_register_scope('many', ARRAY(SELECT 'GET /' || repeat('x', 4000) || i FROM generate_series(1, 1000) AS i), '1 hour', replace => true)",
        "SELECT temptoken_register_scope('many', array_fill('GET /'::text, ARRAY[1000000]), '1 hour', replace => true)",
        "SELECT temptoken_mint('report', repeat('x', 30000000), '1 hour')",
        "SELECT temptoken_mint('report', 'x', '1 hour', jsonb_build_object('x', repeat('x', 30000000)))",
        "SELECT (temptoken_try_validate(repeat('x', 30000000), repeat('x', 30000000), repeat('x', 30000000))).status",
        "SELECT temptoken_delete_by_resource_id(repeat('x', 30000000), repeat('x', 30000000))",
        "SELECT temptoken_delete_by_scope('report' || repeat('x', 30000000))",
        "SELECT count(*) FROM temptoken_stats()",
        "SELECT count(*) FROM temptoken_sweep_status()",
        "SELECT temptoken_delete_expired()",
    ];
    let mut refused = 0;
    for megabytes in [1, 20, 80, 200] {
        for call in calls {
            let mut poor = cluster.connect("postgres");
            // What a session loads once is loaded before.
            text(&mut poor, "SELECT (temptoken_peek('x', 'GET', '/')).status FROM temptoken_sweep_status()");
            let pid = text(&mut poor, "SELECT pg_backend_pid()");
            let limit = address_space(&pid) + megabytes * 1_000_000;
            let set = as_server_user("prlimit").args(["--pid", &pid, &format!("--as={limit}")]).output().unwrap();
            assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
            let state = sqlstate(&mut poor, call);
            assert!(
                matches!(&*state, "ok" | "53200" | "54000" | "TT011" | "TT012" | "PGRST"),
                "{megabytes} MB: {call}: {state}\n{}",
                cluster.log()
            );
            refused += usize::from(state == "53200");
            let _ = poor.batch_execute("ROLLBACK");
            assert_eq!(value(&mut poor, "SELECT 1").as_deref(), Some("1"), "{megabytes} MB: {call}");
        }
    }
    assert!(refused > 10, "memory did run out: {refused} times");
    assert!(!cluster.log().contains("terminated by signal"), "{}", cluster.log());
}

/// Memory ends while a call goes from one row to the next, and not where it begins.
#[test]
fn a_call_of_many_steps_that_runs_out_of_memory_is_answered() {
    if !as_server_user("prlimit").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skipped("the test of calls that run out of memory: there is no prlimit here");
    }
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "SELECT temptoken_register_scope('s' || i, ARRAY['GET /'], '1 hour') FROM generate_series(1, 900) AS i;
             CREATE TABLE large (tokens text);
             ALTER TABLE large ALTER tokens SET STORAGE EXTERNAL;
             INSERT INTO large SELECT string_agg('tt_' || overlay(md5(i::text) PLACING '88' FROM 13)
                 || md5('a' || i) || md5('b' || i), ' ') FROM generate_series(1, 20000) AS i;",
        )
        .unwrap();
    let fill = "DO $$ DECLARE i int := 0; n int := 16000000; BEGIN
        WHILE n > 40000 LOOP
            BEGIN
                i := i + 1;
                PERFORM set_config('my.v' || i, repeat('x', n), false);
            EXCEPTION WHEN out_of_memory THEN n := n / 2;
            END;
        END LOOP;
        PERFORM set_config('my.spare', '', false);
    END $$";
    let mut refused = 0;
    let calls = [
        "count(*) FROM large, temptoken_find_tokens(tokens)",
        "count(outcomes) FROM temptoken_stats()",
        "temptoken_pre_request()",
    ];
    for call in calls {
        for spare in (0..8).map(|step| 600_000 * (step + 1)) {
            let mut poor = cluster.connect("postgres");
            text(&mut poor, "SELECT count(*) FROM temptoken_stats(), temptoken_find_tokens('tt_')");
            let pid = text(&mut poor, "SELECT pg_backend_pid()");
            let limit = address_space(&pid) + 100_000_000;
            let set = as_server_user("prlimit").args(["--pid", &pid, &format!("--as={limit}")]).output().unwrap();
            assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
            let no_json = "SELECT set_config('request.headers', '[' || repeat('1,', 20000), false) IS NULL";
            text(&mut poor, no_json);
            // Of the headers there is less than of tokens and scopes.
            let spare = if call.contains("pre_request") { spare / 10 } else { spare };
            text(&mut poor, &format!("SELECT set_config('my.spare', repeat('x', {spare}), false) IS NULL"));
            poor.batch_execute(fill).unwrap();
            let state = sqlstate(&mut poor, &format!("SELECT {call}"));
            assert!(matches!(&*state, "ok" | "53200" | "PGRST"), "{spare}: {call}: {state}\n{}", cluster.log());
            refused += usize::from(state == "53200");
        }
    }
    assert!(refused > 3, "memory did run out: {refused} times");
    assert!(!cluster.log().contains("terminated by signal"), "{}", cluster.log());
}

/// A session takes all the memory that it may have, in pieces that get smaller and smaller, and then calls.
#[test]
fn a_call_at_the_very_end_of_memory_is_answered() {
    if !as_server_user("prlimit").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skipped("the test of calls at the very end of memory: there is no prlimit here");
    }
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    text(&mut cluster.connect("postgres"), REGISTER);
    let many =
        "SELECT count(temptoken_register_scope('s' || i, ARRAY['GET /'], '1 hour')) FROM generate_series(1, 300) AS i";
    text(&mut cluster.connect("postgres"), many);
    let calls = [
        "(temptoken_try_validate(token, 'GET', '/files/1')).status",
        "(temptoken_validate(token, 'GET', '/files/2')).scope",
        "(temptoken_authenticate(token, 'GET', '/files/1')).scope",
        "temptoken_introspect(token)::text",
        "temptoken_mint('files', '1', '1 hour')",
        "temptoken_mint('unknown', '1', '1 hour')",
        "temptoken_register_scope('new', ARRAY['GET nothing'], '1 hour')::text",
        "temptoken_pre_request()::text",
        "temptoken_pre_request()::text /* no JSON */",
        "temptoken_delete_by_resource_id('files', '1')::text",
        "(SELECT count(*) FROM temptoken_stats())::text",
        "(SELECT worker FROM temptoken_sweep_status())",
    ];
    let mut refused = 0;
    for call in calls {
        let mut client = cluster.connect("postgres");
        let headers = if call.contains("no JSON") {
            "repeat('a', 1000000)"
        } else {
            "json_build_object('x', repeat('\\\\', 900000))::text"
        };
        client
            .batch_execute(&format!(
                "SELECT set_config('request.headers', {headers}, false) IS NULL;
                 CREATE FUNCTION pg_temp.call_it(eat boolean, token text) RETURNS text LANGUAGE plpgsql AS $$
                 DECLARE
                     pieces int := 0;
                     size int;
                     failures int;
                 BEGIN
                     FOREACH size IN ARRAY ARRAY[500000, 100000, 30000, 10000, 3000, 1000, 400, 200, 120, 80, 64, 40, 24, 16] LOOP
                         failures := 0;
                         WHILE eat AND failures < 3 AND pieces < 60000 LOOP
                             BEGIN
                                 pieces := pieces + 1;
                                 PERFORM set_config('eaten.a' || pieces, repeat('z', size), false);
                             EXCEPTION WHEN out_of_memory THEN
                                 failures := failures + 1;
                             END;
                         END LOOP;
                     END LOOP;
                     RETURN {call};
                 EXCEPTION WHEN OTHERS THEN
                     RETURN sqlstate;
                 END $$"
            ))
            .unwrap();
        let token = text(&mut client, "SELECT temptoken_mint('files', '1', '1 hour')");
        // What a session loads once is loaded before.
        for _ in 0..2 {
            value(&mut client, &format!("SELECT pg_temp.call_it(false, '{token}')"));
        }
        let pid = text(&mut client, "SELECT pg_backend_pid()");
        let limit = address_space(&pid) + 1_000_000;
        let set = as_server_user("prlimit").args(["--pid", &pid, &format!("--as={limit}")]).output().unwrap();
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        let answer = value(&mut client, &format!("SELECT pg_temp.call_it(true, '{token}')"));
        refused += usize::from(answer.as_deref() == Some("53200"));
    }
    assert!(refused > 0, "memory did run out");
    assert!(!cluster.log().contains("terminated by signal"), "{}", cluster.log());
}

/// Whatever is called deepest in the stack raises the error, be it PostgreSQL, the extension or a hook of its own.
#[test]
fn a_call_at_the_end_of_the_stack_is_answered() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "CREATE TABLE audit_log (id uuid);
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.resource_id = 'audited' THEN
                     INSERT INTO public.audit_log VALUES (NEW.id);
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER audit AFTER INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION audit();
             CREATE FUNCTION deep(n int) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN
                 RETURN CASE WHEN n = 0 THEN temptoken_mint('files', 'audited', '1 hour') ELSE deep(n - 1) END;
             END $$",
        )
        .unwrap();
    // A session of its own each: what is planned once is planned at the depth that is tried.
    let at_depth = |depth: i32, warm: bool| {
        let mut client = cluster.connect("postgres");
        if warm {
            text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
        }
        sqlstate(&mut client, &format!("SELECT deep({depth})"))
    };
    for warm in [false, true] {
        let (mut works, mut fails) = (0, 10_000);
        while fails - works > 1 {
            let middle = (works + fails) / 2;
            match at_depth(middle, warm).as_str() {
                "ok" => works = middle,
                "54001" => fails = middle,
                state => panic!("{state} at depth {middle}"),
            }
        }
        for depth in works - 2..works + 12 {
            let state = at_depth(depth, warm);
            assert!(state == "ok" || state == "54001", "{state} at depth {depth}");
        }
    }
    assert!(!cluster.log().contains("terminated by signal"), "{}", cluster.log());
}

/// The schema is renamed under sessions in use, and another one with the same tables and a trigger takes its name.
#[test]
fn no_table_that_takes_the_name_of_ours_is_written_to() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "CREATE TABLE caught (by text);
             CREATE SCHEMA other;
             CREATE TABLE other.temp_tokens (LIKE temptoken.temp_tokens INCLUDING ALL);
             CREATE TABLE other.scopes (LIKE temptoken.scopes INCLUDING ALL);
             INSERT INTO other.scopes SELECT * FROM temptoken.scopes;
             CREATE FUNCTION catch() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.caught VALUES (current_user);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER catch AFTER INSERT OR UPDATE OR DELETE ON other.temp_tokens
                 FOR EACH ROW EXECUTE FUNCTION catch()",
        )
        .unwrap();
    let stop = AtomicBool::new(false);
    let outcomes = thread::scope(|scope| {
        let mint = || {
            let mut client = cluster.connect("postgres");
            let mut outcomes = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                let outcome = sqlstate(
                    &mut client,
                    "SELECT temptoken_mint('files', '42', '1 hour'), temptoken_delete_by_resource_id('files', '42')",
                );
                *outcomes.entry(outcome).or_insert(0) += 1;
            }
            outcomes
        };
        let minters: Vec<_> = (0..3).map(|_| scope.spawn(mint)).collect();
        for _ in 0..150 {
            for (from, to) in
                [("temptoken", "ours"), ("other", "temptoken"), ("temptoken", "other"), ("ours", "temptoken")]
            {
                client.batch_execute(&format!("ALTER SCHEMA {from} RENAME TO {to}")).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        }
        stop.store(true, Ordering::Relaxed);
        minters.into_iter().map(|minter| minter.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(value(&mut client, "SELECT by FROM caught"), None, "{outcomes:?}");
    for outcomes in outcomes {
        let known = |state: &String| matches!(state.as_str(), "ok" | "42P01" | "3F000");
        assert!(outcomes.keys().all(known), "{outcomes:?}");
        assert!(outcomes.len() > 1, "{outcomes:?}");
    }
}

/// The text that is looked through may be long, and whoever asked may give up.
#[test]
fn finding_tokens_can_be_cancelled() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    client.batch_execute("SET statement_timeout = '300ms'").unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(sqlstate(&mut client, "SELECT count(*) FROM temptoken_find_tokens(repeat('a_', 300000000))"), "57014");
    assert!(begun.elapsed() < common::PATIENCE, "{:?}", begun.elapsed());
}

/// What the README says of tokens that PostgreSQL itself writes to its log, and of the remedy for each.
#[test]
fn what_else_logs_a_token_has_the_remedy_that_is_said() {
    if !std::path::Path::new(&pg_config("--pkglibdir")).join("auto_explain.so").exists() {
        return skipped("the test of auto_explain: this PostgreSQL comes without it");
    }
    let cluster = Cluster::with_extension(&[
        "temptoken.sweep_interval = 1h",
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_verbose = on",
        "auto_explain.log_nested_statements = on",
        "log_parameter_max_length = 0",
    ]);
    let mut client = cluster.connect("postgres");
    // From PostgreSQL 16 on it logs parameters too.
    let has_setting = "SELECT count(*) FROM pg_settings WHERE name = 'auto_explain.log_parameter_max_length'";
    if text(&mut client, has_setting) == "1" {
        client.batch_execute("SET auto_explain.log_parameter_max_length = 0").unwrap();
    }
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('once', ARRAY['GET /once'], '1 hour', max_uses => 1)");
    let token = text(&mut client, "SELECT temptoken_mint('once', 'x', '1 hour')");
    let secret = &token[35..];
    let validate = client.prepare("SELECT (temptoken_validate($1, 'GET', '/once')).scope").unwrap();
    // A plan shows the value of a bound parameter, unless it is one for all values.
    client.batch_execute("SET plan_cache_mode = force_generic_plan").unwrap();
    // Bound, a token stays out of the log: in an error of PostgreSQL's, and where each statement is explained.
    client.batch_execute("BEGIN READ ONLY").unwrap();
    let error = client.query(&validate, &[&token]).unwrap_err();
    assert_eq!(error.code().unwrap().code(), "25006");
    client.batch_execute("ROLLBACK").unwrap();
    client.query(&validate, &[&token]).unwrap();
    assert!(cluster.log().contains("Query Text: SELECT (temptoken_validate($1"), "{}", cluster.log());
    assert!(cluster.log().contains("UPDATE temptoken.temp_tokens"), "what watches statements sees spends");
    assert!(!cluster.log().contains(secret), "{}", cluster.log());
    client.batch_execute("RESET plan_cache_mode").unwrap();
    let peek = client.prepare("SELECT (temptoken_peek($1, 'GET', '/once')).scope").unwrap();
    client.query(&peek, &[&token]).unwrap();
    assert!(cluster.log().contains(secret), "as a value in a plan it is logged");
    // As a literal it is logged.
    let token = text(&mut client, "SELECT temptoken_mint('once', 'x', '1 hour')");
    assert!(!cluster.log().contains(&token[35..]));
    client.batch_execute("BEGIN READ ONLY").unwrap();
    let literal = format!("SELECT (temptoken_delete('{token}'))");
    assert_eq!(sqlstate(&mut client, &literal), "25006");
    assert!(cluster.log().contains(&token[35..]));
}

/// Tokens that a query sorts are spilled to temporary files beyond work_mem, and not with enough of it.
#[test]
fn sorted_tokens_are_spilled_to_disk_unless_there_is_memory() {
    for (work_mem, spilled) in [("64kB", true), ("64MB", false)] {
        let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h", &format!("work_mem = '{work_mem}'")]);
        let mut client = cluster.connect("postgres");
        text(&mut client, REGISTER);
        let ids = "ARRAY(SELECT i::text FROM generate_series(1, 20000) AS i)";
        let sorted = format!("SELECT token FROM temptoken_mint_many('files', {ids}, '1 hour') ORDER BY token");
        client.batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR {sorted}")).unwrap();
        let token = text(&mut client, "FETCH 1 FROM c");
        assert_eq!(cluster.files_contain(&token.as_bytes()[35..]), spilled, "{work_mem}");
    }
}

/// An administrator attaches a partition with code that names a table without its schema. The caller, who has a temporary table of
/// that name, has begun to mint before, and waits for the table.
#[test]
fn code_that_comes_with_a_partition_while_a_call_waits_is_seen() {
    let cluster = Cluster::with_extension(&[]);
    cluster.run_script("postgres", &common::partitioning());
    let mut admin = cluster.connect("postgres");
    text(&mut admin, REGISTER);
    let prepare = "CREATE ROLE issuer LOGIN; SELECT temptoken_grant('issuer', 'issue'); CREATE SCHEMA audit;
                   CREATE TABLE audit.audit_log (id uuid)";
    admin.batch_execute(prepare).unwrap();
    let mut issuer = cluster.connect_as("issuer", "postgres");
    issuer.batch_execute("CREATE TEMP TABLE audit_log (id uuid); GRANT ALL ON audit_log TO PUBLIC").unwrap();
    let mint = "SELECT temptoken_mint('files', '1', '1 hour')";
    assert_eq!(sqlstate(&mut issuer, mint), "ok");
    admin
        .batch_execute(
            "DELETE FROM temptoken.temp_tokens;
             BEGIN;
             CREATE TABLE temptoken.p (LIKE temptoken.temp_tokens INCLUDING ALL);
             CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO audit_log VALUES (NEW.id); RETURN NEW; END $$;
             CREATE TRIGGER note BEFORE INSERT ON temptoken.p FOR EACH ROW EXECUTE FUNCTION audit.note();
             ALTER TABLE temptoken.temp_tokens ATTACH PARTITION temptoken.p
             FOR VALUES FROM (MINVALUE) TO ('f0000000-0000-0000-0000-000000000000')",
        )
        .unwrap();
    let state = thread::scope(|scope| {
        let call = scope.spawn(|| sqlstate(&mut issuer, mint));
        let waits = "SELECT pid FROM pg_stat_activity WHERE usename = 'issuer' AND wait_event_type = 'Lock'";
        common::wait_for("it waits", || value(&mut admin, waits));
        admin.batch_execute("COMMIT").unwrap();
        call.join().unwrap()
    });
    assert_eq!(state, "42501");
    assert_eq!(text(&mut issuer, "SELECT count(*) FROM audit_log"), "0");
    // A superuser's temporary table in the session of an ordinary role, who may have rights on it.
    admin
        .batch_execute(
            "CREATE FUNCTION public.scratch() RETURNS void LANGUAGE sql SECURITY DEFINER AS
             'CREATE TEMP TABLE audit_log (id uuid); GRANT ALL ON audit_log TO PUBLIC'",
        )
        .unwrap();
    issuer.batch_execute("DISCARD TEMP; SELECT public.scratch()").unwrap();
    assert_eq!(sqlstate(&mut issuer, mint), "42501");
}

/// A CHECK of a partition's is simplified when a statement on the whole table is planned, whatever that does.
#[test]
fn the_owner_of_a_partition_gets_no_rights_of_whoever_reads() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1s"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '1', '1 hour')");
    cluster.run_script("postgres", &common::partitioning());
    let prepare = "CREATE ROLE eve; CREATE SCHEMA eve AUTHORIZATION eve; GRANT USAGE ON SCHEMA temptoken TO eve;
                   CREATE ROLE app LOGIN;
                   SELECT temptoken_grant('app', p) FROM unnest('{validate,manage,monitor}'::text[]) AS p;
                   ALTER TABLE temptoken.temp_tokens_rest OWNER TO eve;
                   SET SESSION AUTHORIZATION eve;
                   CREATE TABLE eve.acting (role text);
                   CREATE FUNCTION eve.note() RETURNS boolean LANGUAGE plpgsql AS $$
                   BEGIN INSERT INTO eve.acting VALUES (current_user); RETURN true; END $$;
                   CREATE FUNCTION eve.holds(integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
                   $$ BEGIN RETURN eve.note(); END $$;
                   ALTER TABLE temptoken.temp_tokens_rest ADD CHECK (eve.holds(1));
                   TRUNCATE eve.acting;
                   RESET SESSION AUTHORIZATION";
    client.batch_execute(prepare).unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    for call in [
        format!("temptoken_try_validate('{token}', 'GET', '/files/1')"),
        format!("temptoken_peek('{token}', 'GET', '/files/1')"),
        format!("temptoken_introspect('{token}')"),
        "temptoken_stats()".to_owned(),
        "temptoken_delete_by_resource_id('files', '1')".to_owned(),
    ] {
        assert_eq!(sqlstate(&mut app, &format!("SELECT * FROM {call}")), "42501", "{call}");
    }
    let status = "SELECT rows_waiting IS NULL FROM temptoken_sweep_status() WHERE last_error LIKE '%ordinary role%'";
    assert_eq!(common::wait_for("the worker says so", || value(&mut app, status)), "t");
    assert_eq!(text(&mut client, "SELECT count(*) FROM eve.acting"), "0");
    let take_back = "BEGIN;
                     LOCK TABLE temptoken.temp_tokens, temptoken.temp_tokens_rest IN ACCESS EXCLUSIVE MODE;
                     ALTER TABLE temptoken.temp_tokens_rest DROP CONSTRAINT temp_tokens_rest_check, OWNER TO CURRENT_USER;
                     COMMIT";
    client.batch_execute(take_back).unwrap();
    let validate = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/1')).status");
    assert_eq!(text(&mut app, &validate), "ok");
}

/// Texts that look like tokens, made so that PostgreSQL's own hash of their bytes (hashfn.c, hash_bytes) is the same for all.
fn tokens_of_one_hash(count: u32) -> String {
    fn mix([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
        for (by, then) in [(4, 6), (8, 16), (19, 4)] {
            a = a.wrapping_sub(c) ^ c.rotate_left(by);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(then);
            a = a.wrapping_add(c);
            (a, b, c) = (c, a, b);
        }
        [a, b, c]
    }
    let one = |number: u32| {
        let mut words = [number, 0x0080_0000, 0x80, number, 0, 0, number, 0, 0, 0, 0, 0];
        let mut state = [0x9e37_79b9_u32.wrapping_add(48).wrapping_add(3_923_095); 3];
        for block in 0..3 {
            state = mix(std::array::from_fn(|at| state[at].wrapping_add(words[3 * block + at])));
        }
        // The last block brings the state to 1, 2, 3.
        (0..3).for_each(|at| words[9 + at] = (at as u32 + 1).wrapping_sub(state[at]));
        words.iter().fold("x_".to_owned(), |text, word| {
            word.to_le_bytes().iter().fold(text, |text, byte| format!("{text}{byte:02x}"))
        })
    };
    (0..count).map(one).collect::<Vec<_>>().join(" ")
}

/// A log has what strangers have sent. Made-up tokens in it do not take time by the square of their number.
#[test]
fn a_log_full_of_made_up_tokens_is_looked_through_in_time() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    client.batch_execute("SET statement_timeout = '20s'").unwrap();
    let log = tokens_of_one_hash(100_000);
    let found = client.query_one("SELECT count(*) FROM temptoken_find_tokens($1)", &[&log]).unwrap();
    assert_eq!(found.get::<_, i64>(0), 100_000);
}

/// With partitions the lookup is a statement, which is planned once its lock is there. A column may have another type by then.
#[test]
fn a_column_gets_another_type_while_a_lookup_waits() {
    let cluster = Cluster::with_extension(&[]);
    let [mut client, mut other] = [(), ()].map(|()| cluster.connect("postgres"));
    text(&mut client, REGISTER);
    cluster.run_script("postgres", &common::partitioning());
    let token = text(&mut client, "SELECT temptoken_mint('files', '1', '1 hour')");
    let validate = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/1')).status");
    assert_eq!(text(&mut client, &validate), "ok");
    let pid = text(&mut client, "SELECT pg_backend_pid()");
    let change = "BEGIN; ALTER TABLE temptoken.temp_tokens ALTER token_hash TYPE bigint USING 77";
    other.batch_execute(change).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| sqlstate(&mut client, &validate));
        let is_waiting = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
        wait_until("it waits", || text(&mut other, &is_waiting) == "1");
        other.batch_execute("COMMIT").unwrap();
        assert_eq!(waits.join().unwrap(), "42P01");
    });
}

/// A foreign key of the tokens' own is checked as the owner of the table that it leads to, in the midst of a statement of ours.
#[test]
fn the_owner_of_a_table_that_tokens_refer_to_gets_no_rights() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "CREATE ROLE eve LOGIN; CREATE SCHEMA eve AUTHORIZATION eve; SELECT temptoken_grant('eve', 'issue');
             CREATE TABLE public.audit_log (id uuid);
             CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO audit_log VALUES (NEW.id); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.note();
             SET SESSION AUTHORIZATION eve;
             CREATE TABLE eve.files (id text) PARTITION BY LIST (id);
             CREATE TABLE eve.file PARTITION OF eve.files FOR VALUES IN ('42');
             ALTER TABLE eve.files ADD PRIMARY KEY (id);
             INSERT INTO eve.files VALUES ('42');
             CREATE FUNCTION eve.go() RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN CREATE TEMP TABLE audit_log (id uuid); RETURN true; END $$;
             CREATE FUNCTION eve.holds(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN RETURN true; END $$;
             CREATE INDEX ON eve.file (id) WHERE eve.holds('x');
             CREATE OR REPLACE FUNCTION eve.holds(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN RETURN eve.go(); END $$;
             RESET SESSION AUTHORIZATION;
             ALTER TABLE temptoken.temp_tokens ADD FOREIGN KEY (resource_id) REFERENCES eve.files ON DELETE CASCADE",
        )
        .unwrap();
    let mint = "SELECT temptoken_mint('files', '42', '1 hour')";
    let temporary = "SELECT to_regclass('pg_temp.audit_log') IS NULL";
    for give in ["", "ALTER TABLE eve.files OWNER TO CURRENT_USER"] {
        client.batch_execute(give).unwrap();
        let mut eve = cluster.connect_as("eve", "postgres");
        assert_eq!(sqlstate(&mut eve, mint), "42501", "{give}");
        assert_eq!(text(&mut eve, temporary), "t", "{give}");
    }
    client.batch_execute("ALTER TABLE eve.file OWNER TO CURRENT_USER; DROP INDEX eve.file_id_idx").unwrap();
    client.batch_execute("DROP TRIGGER note ON temptoken.temp_tokens").unwrap();
    assert_eq!(sqlstate(&mut cluster.connect_as("eve", "postgres"), mint), "ok");
}

/// A call locks no table that refers to tokens. PostgreSQL locks one that a token leads to as it deletes the token, and no further.
#[test]
fn a_lock_on_a_table_that_refers_to_tokens_holds_up_who_deletes_from_it_alone() {
    let cluster = Cluster::with_extension(&[]);
    let [mut client, mut holder] = [(), ()].map(|()| cluster.connect("postgres"));
    text(&mut client, "SELECT temptoken_register_scope('once', ARRAY['GET /once'], '1 hour', max_uses => 1)");
    client
        .batch_execute(
            "CREATE TABLE opened (token uuid PRIMARY KEY REFERENCES temptoken.temp_tokens ON DELETE CASCADE);
             CREATE TABLE noted (token uuid REFERENCES opened ON DELETE CASCADE)",
        )
        .unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE noted IN SHARE MODE").unwrap();
    client.batch_execute("SET statement_timeout = '10s'").unwrap();
    let mint = "SELECT temptoken_mint('once', '1', '1 hour')";
    let delete = |token: &str| format!("SELECT temptoken_delete('{token}')");
    let token = text(&mut client, mint);
    assert_eq!(sqlstate(&mut client, &delete(&token)), "ok");
    holder.batch_execute("LOCK TABLE opened IN SHARE MODE").unwrap();
    let token = text(&mut client, mint);
    let spend = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/once')).status");
    assert_eq!(text(&mut client, &spend), "ok");
    assert_eq!(text(&mut client, "SELECT temptoken_delete_by_resource_id('once', 'another')"), "0");
    client.batch_execute("SET statement_timeout = '100ms'").unwrap();
    assert_eq!(sqlstate(&mut client, &delete(&token)), "57014");
}

/// The tables belong to the owner of the tokens. A trigger's function of another role's is that role's code.
#[test]
fn the_owner_of_a_function_on_a_table_tied_to_tokens_gets_no_rights() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "CREATE ROLE eve; CREATE SCHEMA eve AUTHORIZATION eve;
             SET SESSION AUTHORIZATION eve;
             CREATE FUNCTION eve.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TABLE eve.other (id integer PRIMARY KEY);
             RESET SESSION AUTHORIZATION",
        )
        .unwrap();
    let mint = "SELECT temptoken_mint('files', '42', '1 hour')";
    let opened =
        "CREATE TABLE public.opened (token uuid PRIMARY KEY REFERENCES temptoken.temp_tokens ON DELETE CASCADE)";
    let noted = "CREATE TABLE public.noted (token uuid REFERENCES public.opened ON DELETE CASCADE)";
    let trigger =
        |table: &str| format!("CREATE TRIGGER note AFTER DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION eve.note()");
    for code in [
        trigger("public.opened"),
        format!("{noted}; {}", trigger("public.noted")),
        // ON DELETE SET NULL checks the row anew.
        "ALTER TABLE public.opened ADD COLUMN other integer REFERENCES eve.other".into(),
    ] {
        client.batch_execute(opened).unwrap();
        assert_eq!(sqlstate(&mut client, mint), "ok", "{code}");
        client.batch_execute(&code).unwrap();
        assert_eq!(sqlstate(&mut client, mint), "42501", "{code}");
        client.batch_execute("DROP TABLE public.opened CASCADE; DROP TABLE IF EXISTS public.noted").unwrap();
    }
    assert_eq!(sqlstate(&mut client, mint), "ok");
}

/// Any role may make functions of a table's row type. What a call reads of the catalogs does not grow with them.
#[test]
fn what_others_make_of_a_table_that_refers_to_tokens_is_not_read() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "CREATE TABLE public.opened (token uuid REFERENCES temptoken.temp_tokens ON DELETE CASCADE);
             CREATE ROLE eve LOGIN; GRANT TEMP ON DATABASE postgres TO eve",
        )
        .unwrap();
    let mut eve = cluster.connect_as("eve", "postgres");
    eve.batch_execute(
        "DO $$ BEGIN FOR i IN 1 .. 2000 LOOP
             EXECUTE format('CREATE FUNCTION pg_temp.f%s(public.opened) RETURNS integer LANGUAGE sql RETURN 1', i);
         END LOOP; END $$",
    )
    .unwrap();
    let mint = "SELECT temptoken_mint('files', '42', '1 hour')";
    text(&mut client, mint);
    client.batch_execute("BEGIN").unwrap();
    let read = |client: &mut Client| {
        let read = "SELECT sum(pg_stat_get_xact_tuples_fetched(c) + pg_stat_get_xact_tuples_returned(c))::bigint
                    FROM (VALUES ('pg_depend'::regclass), ('pg_proc')) AS catalogs (c)";
        client.query_one(read, &[]).unwrap().get::<_, i64>(0)
    };
    _ = read(&mut client);
    let before = read(&mut client);
    text(&mut client, mint);
    assert!(read(&mut client) - before < 1000);
}

/// PL/pgSQL plans a cast as an expression without a statement. The type is like text, so that a function of ours can be the cast.
#[test]
fn a_cast_by_a_function_of_ours_is_planned() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "SET client_min_messages = warning; CREATE TYPE presented;
             CREATE FUNCTION read(cstring) RETURNS presented LANGUAGE internal IMMUTABLE STRICT AS 'textin';
             CREATE FUNCTION write(presented) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
             CREATE TYPE presented (LIKE = text, INPUT = read, OUTPUT = write);
             CREATE CAST (presented AS text) WITHOUT FUNCTION AS IMPLICIT;
             CREATE CAST (presented AS jsonb) WITH FUNCTION temptoken_introspect(text) AS ASSIGNMENT",
        )
        .unwrap();
    let cast = "DO $$ DECLARE answer jsonb; BEGIN SELECT 'a guess'::presented INTO answer; ASSERT answer = '{\"active\": false}'; END $$";
    assert_eq!(sqlstate(&mut client, cast), "ok");
}

/// What a partition holds is checked by the key of the table that it is a partition of.
#[test]
fn the_owner_of_a_table_that_ours_is_a_partition_of_gets_no_rights() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client
        .batch_execute(
            "CREATE ROLE eve; CREATE SCHEMA eve AUTHORIZATION eve; GRANT USAGE ON SCHEMA temptoken TO eve;
             CREATE TABLE eve.acting (role text); ALTER TABLE eve.acting OWNER TO eve;
             CREATE TABLE eve.tokens (LIKE temptoken.temp_tokens); ALTER TABLE eve.tokens OWNER TO eve;
             SET SESSION AUTHORIZATION eve;
             CREATE FUNCTION eve.note() RETURNS integer LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO eve.acting VALUES (current_user); RETURN 1; END $$;
             CREATE FUNCTION eve.key(text) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN eve.note(); END $$;
             CREATE TABLE eve.all_tokens (LIKE eve.tokens) PARTITION BY LIST (eve.key(scope));
             RESET SESSION AUTHORIZATION;
             ALTER TABLE eve.all_tokens ATTACH PARTITION temptoken.temp_tokens FOR VALUES IN (1);
             SET constraint_exclusion = on",
        )
        .unwrap();
    for call in ["SELECT temptoken_mint('files', '1', '1 hour')", "SELECT count(*) FROM temptoken_stats()"] {
        assert_eq!(sqlstate(&mut client, call), "42501", "{call}");
    }
    assert_eq!(text(&mut client, "SELECT count(*) FROM eve.acting"), "0");
}

/// A call asks the catalogs about its own tables alone: a lock that any role can take on a table with a CHECK is in nobody's way.
#[test]
fn no_lock_on_another_table_holds_up_a_session_with_a_temporary_table() {
    let cluster = Cluster::with_extension(&[]);
    let mut eve = cluster.connect("postgres");
    text(&mut eve, REGISTER);
    eve.batch_execute(
        "CREATE ROLE app LOGIN; SELECT temptoken_grant('app', 'issue'), temptoken_grant('app', 'manage');
         CREATE TABLE hers (i integer CHECK (i > 0))",
    )
    .unwrap();
    eve.batch_execute("BEGIN; LOCK TABLE hers").unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    app.batch_execute("CREATE TEMP TABLE mine (i integer); SET statement_timeout = '10s'").unwrap();
    for call in [
        "SELECT temptoken_mint('files', '1', '1 hour')",
        "SELECT temptoken_delete_by_resource_id('files', '1')",
        "SELECT temptoken_register_scope('other', ARRAY['GET /other/{id}'], '1 hour', '{id}')",
    ] {
        assert_eq!(sqlstate(&mut app, call), "ok", "{call}");
    }
}

/// What strangers have sent stands in a log too: quotes, commands of psql, zero bytes, bytes of no encoding. The lines are those of
/// the pages, which read files of these names.
#[test]
fn tokens_in_logs_and_mails_are_found_whatever_else_is_there() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let directory = tempfile::tempdir().unwrap();
    let put = |name, text: &[u8]| fs::write(directory.path().join(name), text).unwrap();
    let end = "SELECT temptoken_delete_by_id(id) FROM temptoken_find_tokens(:'log') WHERE known";
    for page in ["README.md", "docs/operations.md", "docs/how-to/incident-response.md"] {
        let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
        let (start, rest) = token.split_at(20);
        let hostile: &[u8] = b"\0\0 GET / 404 \xff' \\! touch ran\n' ";
        if page.ends_with("incident-response.md") {
            put("leaked.eml", &[hostile, format!("https://example.com/#{start}=\r\n{rest}\r\n").as_bytes()].concat());
        } else {
            put("leaked.log", &[hostile, format!("GET /files/42?t={token} 200 '").as_bytes()].concat());
        }
        let page = fs::read_to_string(source_path(page)).unwrap();
        let read = page.lines().rfind(|line| line.starts_with("\\set log")).unwrap();
        let mut psql = cluster.psql("postgres");
        psql.current_dir(&directory).args(["-v", "ON_ERROR_STOP=1"]).stdin(Stdio::piped());
        let mut psql = psql.stdout(Stdio::null()).spawn().unwrap();
        psql.stdin.take().unwrap().write_all(format!("{read}\n{end};\n").as_bytes()).unwrap();
        assert!(psql.wait().unwrap().success(), "{read}");
        let status = format!("SELECT (temptoken_peek('{token}', 'GET', '/files/42')).status");
        assert_eq!(text(&mut client, &status), "token_not_found", "{read}");
    }
    assert!(!directory.path().join("ran").exists());
}

/// Every role can read pg_locks. What it shows of a resource id is of no use to who tries ids on a server of their own.
#[test]
fn locks_of_replace_are_named_otherwise_on_every_server() {
    let shown = |cluster: &Cluster| {
        let mut client = cluster.connect("postgres");
        text(&mut client, &REGISTER.replace("'{id}')", "'{id}', replace => true)"));
        client.batch_execute("BEGIN; SELECT temptoken_mint('files', '42', '1 hour', replace => true)").unwrap();
        let locks = "SELECT string_agg(format('%s %s', classid, objid), ', ' ORDER BY objsubid) FROM pg_locks
                     WHERE locktype = 'advisory'";
        text(&mut client, locks)
    };
    let cluster = Cluster::with_extension(&[]);
    assert_eq!(shown(&cluster), shown(&cluster));
    assert_ne!(shown(&cluster), shown(&Cluster::of_its_own()));
}
