//! Standbys: they validate, follow what the primary deletes, and take its place.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::config::{LoadBalanceHosts, TargetSessionAttrs};
use postgres::{Client, NoTls};

use crate::common::{self, Cluster, REGISTER, partitioning, sqlstate, text, value, wait_for, wait_until};

/// A primary with the extension. `None`, and the test is noted as skipped, if this PostgreSQL cannot make standbys.
fn primary() -> Option<Cluster> {
    if !common::has_program("pg_basebackup") {
        common::skipped("this PostgreSQL comes without pg_basebackup");
        return None;
    }
    Some(Cluster::with_extension(&[]))
}

/// A connection to one of these servers, as an application makes it that knows no more than all their addresses.
fn connect_to_any<'a>(servers: impl IntoIterator<Item = &'a Cluster>, which: TargetSessionAttrs) -> Option<Client> {
    let mut config = postgres::Config::new();
    config.user("postgres").dbname("postgres").target_session_attrs(which).load_balance_hosts(LoadBalanceHosts::Random);
    config.connect_timeout(Duration::from_secs(10)).options("-c statement_timeout=60s");
    for server in servers {
        config.host_path(server.socket());
    }
    config.connect(NoTls).ok()
}

fn ask(token: &str, path: &str) -> String {
    format!("SELECT (temptoken_try_validate('{token}', 'GET', '{path}')).status")
}

#[test]
fn a_standby_validates_and_follows_changes() {
    standby_validates("");
}

#[test]
fn a_standby_of_a_partitioned_table_does_too() {
    standby_validates(&partitioning());
}

fn standby_validates(prepare: &str) {
    let Some(primary) = primary() else { return };
    primary.run_script("postgres", prepare);
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
    // Whoever may not get at the rights of an ordinary owner does not here either.
    let give = "CREATE ROLE ordinary LOGIN; GRANT USAGE ON SCHEMA temptoken TO ordinary; SELECT temptoken_grant('ordinary', 'monitor');
                ALTER TABLE temptoken.temp_tokens OWNER TO ordinary";
    client.batch_execute(give).unwrap();
    let owner = "SELECT relowner::regrole FROM pg_class WHERE oid = 'temptoken.temp_tokens'::regclass";
    wait_until("it is given", || text(&mut reader, owner) == "ordinary");
    let stats = "SELECT count(*) FROM temptoken_stats()";
    assert_eq!(sqlstate(&mut standby.connect_as("ordinary", "postgres"), stats), "ok");
    assert!(!standby.log().contains("ERROR:  temptoken"), "{}", standby.log());
    assert_eq!(sqlstate(&mut reader, stats), "42501");
}

#[test]
fn three_standbys_behind_a_list_of_hosts_validate() {
    let Some(primary) = primary() else { return };
    let mut client = primary.connect("postgres");
    text(&mut client, REGISTER);
    let standbys = [primary.standby(), primary.standby(), primary.standby()];
    let all = || standbys.iter().chain([&primary]);
    let read_only = || connect_to_any(all(), TargetSessionAttrs::ReadOnly).expect("a standby answers");
    let tokens: Vec<String> =
        (0..20).map(|_| text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')")).collect();
    let mut asked = BTreeSet::new();
    wait_until("each standby has been asked", || {
        let mut reader = read_only();
        for token in &tokens {
            wait_until("the token has come", || text(&mut reader, &ask(token, "/files/42")) == "ok");
        }
        asked.insert(text(&mut reader, "SHOW unix_socket_directories"));
        asked.len() == standbys.len()
    });
    assert!(!asked.contains(&primary.socket().display().to_string()));
    // A deletion comes to all of them, one of which comes back after it.
    standbys[0].stop("fast");
    let mut writer = connect_to_any(all(), TargetSessionAttrs::ReadWrite).expect("the primary answers");
    for token in &tokens {
        assert_eq!(text(&mut writer, &format!("SELECT temptoken_delete('{token}')")), "t");
    }
    assert_eq!(text(&mut read_only(), "SELECT pg_is_in_recovery()"), "t");
    standbys[0].start_again();
    for standby in &standbys {
        let mut reader = standby.connect("postgres");
        for token in &tokens {
            wait_until("the deletion has come", || text(&mut reader, &ask(token, "/files/42")) == "token_not_found");
        }
    }
}

/// What one client was told before its server was gone. Of a call without an answer nobody knows whether it was committed.
#[derive(Default)]
struct Told {
    minted: Vec<String>,
    spent: Vec<String>,
    deleted: Vec<String>,
}

/// Mints, spends and deletes until told to end, or until the server is gone.
fn work(client: &mut Client, end: &AtomicBool) -> Told {
    let mut told = Told::default();
    while !end.load(Ordering::Relaxed) {
        let mut minted = Vec::new();
        for _ in 0..3 {
            let Ok(row) = client.query_one("SELECT temptoken_mint('once', '42', '1 hour')", &[]) else { return told };
            minted.push(row.get::<_, String>(0));
        }
        let [kept, spent, deleted] = minted.try_into().expect("three of them");
        told.minted.push(kept);
        let spend = "SELECT (temptoken_validate($1, 'GET', '/once/42')).uses_left";
        let Ok(row) = client.query_one(spend, &[&spent]) else { return told };
        assert_eq!(row.get::<_, Option<i32>>(0), Some(0));
        told.spent.push(spent);
        if client.query_one("SELECT temptoken_delete($1)", &[&deleted]).is_err() {
            return told;
        }
        told.deleted.push(deleted);
    }
    told
}

const ONCE: &str = "SELECT temptoken_register_scope('once', ARRAY['GET /once/{id}'], '1 hour', '{id}', max_uses => 1)";

fn status(client: &mut Client, token: &str) -> String {
    text(client, &ask(token, "/once/42"))
}

/// With synchronous replication, what was answered holds after a failover.
#[test]
fn a_synchronous_standby_that_is_promoted_under_load_has_forgotten_nothing() {
    const CLIENTS: usize = 8;
    let Some(primary) = primary() else { return };
    text(&mut primary.connect("postgres"), ONCE);
    let standby = primary.standby();
    primary.configure(&["synchronous_standby_names = '*'"]);
    primary.reload();
    let mut watcher = primary.connect("postgres");
    let replicated = "SELECT sync_state FROM pg_stat_replication";
    wait_until("the standby is synchronous", || value(&mut watcher, replicated).as_deref() == Some("sync"));
    let end = AtomicBool::new(false);
    let told: Vec<Told> = std::thread::scope(|scope| {
        let load = |_| {
            let mut client = primary.connect("postgres");
            let end = &end;
            scope.spawn(move || work(&mut client, end))
        };
        let clients: Vec<_> = (0..CLIENTS).map(load).collect();
        let spends = "SELECT count(*) > 500 FROM temptoken.temp_tokens WHERE uses_left = 0";
        wait_until("the load is heavy", || text(&mut watcher, spends) == "t");
        primary.stop("immediate");
        text(&mut standby.connect("postgres"), "SELECT pg_promote()");
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut client = wait_for("the promoted one takes writes", || {
        connect_to_any([&primary, &standby], TargetSessionAttrs::ReadWrite)
    });
    let mut all_are = |tokens: fn(&Told) -> &Vec<String>, answer: &str| {
        for token in told.iter().flat_map(tokens) {
            assert_eq!(status(&mut client, token), answer);
        }
    };
    all_are(|told| &told.minted, "ok");
    all_are(|told| &told.spent, "token_used_up");
    all_are(|told| &told.deleted, "token_not_found");
    assert!(told.iter().all(|told| told.spent.len() > 10), "each client has done some work");
}

/// With asynchronous replication, what the standby has not received is lost. Nothing before it is.
#[test]
fn an_asynchronous_standby_that_is_promoted_is_behind_by_what_it_had_not_received() {
    let Some(primary) = primary() else { return };
    let mut client = primary.connect("postgres");
    text(&mut client, ONCE);
    let mint = "SELECT temptoken_mint('once', '42', '1 hour')";
    let [before, spent_before, spent_after, deleted_after] = std::array::from_fn(|_| text(&mut client, mint));
    assert_eq!(status(&mut client, &spent_before), "ok");
    let standby = primary.standby();
    let mut reader = standby.connect("postgres");
    reader.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    standby.reload();
    wait_until("nothing is received any more", || value(&mut reader, "SELECT 1 FROM pg_stat_wal_receiver").is_none());
    let after = text(&mut client, mint);
    assert_eq!(status(&mut client, &spent_after), "ok");
    assert_eq!(text(&mut client, &format!("SELECT temptoken_delete('{deleted_after}')")), "t");
    primary.stop("immediate");
    text(&mut reader, "SELECT pg_promote()");
    wait_until("it takes writes", || text(&mut reader, "SHOW transaction_read_only") == "off");
    assert_eq!(status(&mut reader, &before), "ok");
    assert_eq!(status(&mut reader, &spent_before), "token_used_up");
    // The last moments of the primary, as scale-out.md says.
    assert_eq!(status(&mut reader, &after), "token_not_found");
    assert_eq!(status(&mut reader, &spent_after), "ok");
    assert_eq!(status(&mut reader, &deleted_after), "ok");
}
