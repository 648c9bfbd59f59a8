//! The table of tokens in shards, by Citus. What the regression files say is run there by tests/sql.rs.

use crate::common::citus::Citus;
use crate::common::{Cluster, REGISTER, has_tokens, mint, scale_out, sqlstate, text, value, wait_until};

/// On the coordinator alone: two that sweep the same shards may meet in a deadlock, of which Citus cancels one.
const PRELOADED: &str = "shared_preload_libraries = 'citus, temptoken'";

#[test]
fn the_worker_sweeps_shards() {
    let Some(citus) = Citus::start("postgres", &[PRELOADED, "temptoken.sweep_interval = 1s"]) else { return };
    let mut client = citus.coordinator.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 25_000, "1 millisecond");
    let kept = text(&mut client, "SELECT temptoken_mint('files', 'kept', '1 hour')");
    wait_until("the worker has swept", || has_tokens(&mut client, 1));
    let validated = format!("SELECT (temptoken_try_validate('{kept}', 'GET', '/files/kept')).status");
    assert_eq!(text(&mut client, &validated), "ok");
    wait_until("the status says so", || {
        let status = "SELECT (rows_waiting, last_error) FROM temptoken_sweep_status() WHERE last_finish IS NOT NULL";
        value(&mut client, status).as_deref() == Some("(0,)")
    });
}

/// Each batch is a range of ids, so that no transaction holds all shards for long.
#[test]
fn delete_expired_removes_all_batches() {
    let Some(citus) = Citus::start("postgres", &[]) else { return };
    let mut client = citus.coordinator.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 25_000, "1 millisecond");
    mint(&mut client, 10, "1 hour");
    assert_eq!(text(&mut client, "SELECT temptoken_delete_expired()"), "25000");
    assert_eq!(text(&mut client, "SELECT temptoken_delete_expired()"), "0");
    assert!(has_tokens(&mut client, 10));
    assert_eq!(text(&mut client, "SELECT count(*) FROM temptoken.active_tokens"), "10");
    assert_eq!(text(&mut client, "SELECT live FROM temptoken_stats() WHERE scope = 'files'"), "10");
}

/// Never "not found" for a token that cannot be looked up.
#[test]
fn a_worker_that_is_down_is_an_error() {
    let Some(citus) = Citus::start("postgres", &[]) else { return };
    let mut client = citus.coordinator.connect("postgres");
    text(&mut client, REGISTER);
    let tokens: Vec<String> =
        (0..20).map(|_| text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')")).collect();
    let ask = |token: &String| format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    let down = &citus.workers[0];
    down.stop("immediate");
    let mut refused = 0;
    for token in &tokens {
        // After a lost connection the session is told once, and connects anew for the next.
        match sqlstate(&mut client, &ask(token)).as_str() {
            "ok" => assert_eq!(text(&mut client, &ask(token)), "ok"),
            state => {
                assert!(state.starts_with("08"), "{state}");
                refused += 1;
            }
        }
    }
    assert!((1..tokens.len()).contains(&refused), "{refused}");
    down.start_again();
    wait_until("the worker is back", || sqlstate(&mut client, &ask(&tokens[0])) == "ok");
    for token in &tokens {
        assert_eq!(text(&mut client, &ask(token)), "ok");
    }
}

/// A session that knew the table when it was plain looks in the shards once it is distributed.
#[test]
fn sessions_notice_that_the_table_was_distributed() {
    let Some(citus) = Citus::start("postgres", &[]) else { return };
    let mut client = citus.coordinator.connect("postgres");
    client.batch_execute("DROP EXTENSION temptoken").unwrap();
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    let mut warm = citus.coordinator.connect("postgres");
    text(&mut warm, REGISTER);
    let token = text(&mut warm, "SELECT temptoken_mint('files', '42', '1 hour')");
    let ask = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    assert_eq!(text(&mut warm, &ask), "ok");
    client.batch_execute("SELECT create_distributed_table('temptoken.temp_tokens', 'id')").unwrap();
    assert_eq!(text(&mut client, "SELECT count(*) FROM temptoken.temp_tokens"), "1", "its rows moved");
    assert_eq!(text(&mut warm, &ask), "ok");
    assert_eq!(text(&mut client, &ask), "ok");
    // The scopes are the coordinator's.
    let mut on_worker = citus.workers[1].connect("postgres");
    assert_eq!(text(&mut on_worker, &ask), "scope_unknown");
    text(&mut on_worker, REGISTER);
    assert_eq!(text(&mut on_worker, &ask), "ok");
}

/// As scale-out.md says, where whoever makes tables grants everything on them.
#[test]
fn the_table_comes_back_from_its_shards() {
    let Some(citus) = Citus::start("postgres", &[]) else { return };
    let mut client = citus.coordinator.connect("postgres");
    client
        .batch_execute(
            "CREATE ROLE app; CREATE ROLE manager; SELECT temptoken_grant('manager', 'manage');
             ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app; CREATE TABLE usual ()",
        )
        .unwrap();
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    let ask = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    assert_eq!(text(&mut client, &ask), "ok");
    let shards = "SELECT count(*) FROM pg_dist_partition";
    assert_eq!(text(&mut client, shards), "1");
    citus.coordinator.run_script("postgres", &scale_out("undistribute_table"));
    assert_eq!(text(&mut client, shards), "0");
    assert_eq!(text(&mut client, &ask), "ok");
    mint(&mut client, 9, "1 hour");
    assert_eq!(text(&mut client, "SELECT count(*) FROM temptoken.active_tokens"), "10");
    let granted = |role: &str| {
        format!(
            "SELECT string_agg(c.relname, ' ') FROM pg_class AS c
             WHERE (c.relnamespace = 'temptoken'::regnamespace OR c.relname = 'usual')
                 AND has_table_privilege('{role}', c.oid, 'SELECT')"
        )
    };
    assert_eq!(text(&mut client, &granted("app")), "usual");
    assert_eq!(text(&mut client, &granted("manager")), "active_tokens");
    client.batch_execute("SELECT create_distributed_table('temptoken.temp_tokens', 'id')").unwrap();
    assert_eq!(text(&mut client, &ask), "ok", "and once more into shards");
    client.batch_execute("DROP EXTENSION temptoken").unwrap();
}

#[test]
fn dropping_the_extension_drops_its_shards() {
    let Some(citus) = Citus::start("postgres", &[]) else { return };
    let mut client = citus.coordinator.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 100, "1 hour");
    let shards = "SELECT count(*) FROM pg_class WHERE relname ~ '^temp_tokens_[0-9]+$' AND relkind = 'r'";
    let count_on = |worker: &Cluster| {
        let mut client = worker.connect("postgres");
        // Citus hides shards from those who look into the catalog.
        client.batch_execute("SET citus.override_table_visibility = off").unwrap();
        text(&mut client, shards).parse::<u32>().unwrap()
    };
    let count = |citus: &Citus| citus.workers.iter().map(count_on).sum::<u32>();
    assert_eq!(count(&citus), 32);
    client.batch_execute("DROP EXTENSION temptoken").unwrap();
    wait_until("the shards are gone", || count(&citus) == 0);
}
