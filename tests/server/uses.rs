//! Use limits under load: many clients race for the uses of one token.
//!
//! `make test` runs each race 200 times; `make soak` sets TEMPTOKEN_ROUNDS to 1,000.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};

use crate::common::citus::Citus;
use crate::common::{self, Cluster, partitioning, text};
use postgres::{Client, IsolationLevel};

const CLIENTS: usize = 64;

fn rounds() -> usize {
    std::env::var("TEMPTOKEN_ROUNDS").map_or(200, |rounds| rounds.parse().expect("TEMPTOKEN_ROUNDS is a number"))
}

fn cluster_with_scope(max_uses: u32, spending_methods: &str) -> Cluster {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    register_scope(&cluster, max_uses, spending_methods);
    cluster
}

fn register_scope(cluster: &Cluster, max_uses: u32, spending_methods: &str) {
    let register = format!(
        "SELECT temptoken_register_scope('limited', ARRAY['GET /r/{{id}}', 'POST /r/{{id}}'], '1 hour', '{{id}}', \
             max_uses => {max_uses}, spending_methods => {spending_methods})"
    );
    text(&mut cluster.connect("postgres"), &register);
}

/// As many connections as a race takes, and the right to have them: one race at a time, since an ordinary user's programs may
/// have 1,024 files open. They are made before threads wait for each other, so that one that fails keeps none waiting.
fn clients(cluster: &Cluster) -> (MutexGuard<'static, ()>, Vec<Client>) {
    static RACE: Mutex<()> = Mutex::new(());
    let turn = RACE.lock().unwrap_or_else(PoisonError::into_inner);
    (turn, (0..CLIENTS).map(|_| cluster.connect("postgres")).collect())
}

/// What one client is told: the status, or the SQLSTATE.
fn redeem(client: &mut Client, level: IsolationLevel, token: &str) -> String {
    let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
    let sql = "SELECT (temptoken_try_validate($1, 'POST', '/r/42')).status";
    let told = transaction.query_one(sql, &[&token]).map(|row| row.get(0)).and_then(|status| {
        transaction.commit()?;
        Ok(status)
    });
    told.unwrap_or_else(|error| error.code().unwrap_or_else(|| panic!("{error:?}")).code().to_owned())
}

/// Has all clients redeem a new token at once, `rounds` times over; what they were told, each round.
fn race(cluster: &Cluster, level: IsolationLevel, rounds: usize) -> Vec<BTreeMap<String, usize>> {
    let mut minter = cluster.connect("postgres");
    let mint = "SELECT temptoken_mint('limited', '42', '1 hour')";
    let tokens: Vec<String> = (0..rounds).map(|_| text(&mut minter, mint)).collect();
    let (_turn, clients) = clients(cluster);
    let barrier = Barrier::new(CLIENTS);
    let told: Vec<Vec<String>> = std::thread::scope(|scope| {
        let ask = |mut client: Client| {
            let (barrier, tokens) = (&barrier, &tokens);
            scope.spawn(move || {
                let turn = |token: &String| {
                    barrier.wait();
                    redeem(&mut client, level, token)
                };
                tokens.iter().map(turn).collect()
            })
        };
        let clients: Vec<_> = clients.into_iter().map(ask).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let round = |at: usize| {
        told.iter().fold(BTreeMap::new(), |mut counts, client| {
            *counts.entry(client[at].clone()).or_insert(0) += 1;
            counts
        })
    };
    (0..rounds).map(round).collect()
}

fn assert_exactly(uses: usize, rounds: &[BTreeMap<String, usize>]) {
    for (number, round) in rounds.iter().enumerate() {
        let expected = BTreeMap::from([("ok".to_owned(), uses), ("token_used_up".to_owned(), CLIENTS - uses)]);
        assert_eq!(*round, expected, "round {number}");
    }
}

/// Where a serialization failure may be the answer: at least one has the token, and the others are told why not.
fn assert_no_more_than(uses: usize, rounds: &[BTreeMap<String, usize>]) {
    for (number, round) in rounds.iter().enumerate() {
        assert!((1..=uses).contains(round.get("ok").unwrap_or(&0)), "round {number}: {round:?}");
        let expected = |told: &String| matches!(told.as_str(), "ok" | "token_used_up" | "40001");
        assert!(round.keys().all(expected), "round {number}: {round:?}");
    }
}

#[test]
fn of_64_clients_exactly_three_get_a_token_of_three_uses() {
    let cluster = cluster_with_scope(3, "NULL");
    assert_exactly(3, &race(&cluster, IsolationLevel::ReadCommitted, rounds()));
}

#[test]
fn of_64_clients_under_repeatable_read_exactly_three_get_it() {
    let cluster = cluster_with_scope(3, "NULL");
    assert_exactly(3, &race(&cluster, IsolationLevel::RepeatableRead, rounds()));
}

#[test]
fn under_serializable_no_more_than_that_get_it() {
    let cluster = cluster_with_scope(3, "NULL");
    assert_no_more_than(3, &race(&cluster, IsolationLevel::Serializable, rounds()));
}

#[test]
fn a_trigger_on_the_table_makes_no_difference() {
    let cluster = cluster_with_scope(3, "NULL");
    cluster
        .connect("postgres")
        .batch_execute(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER nothing BEFORE UPDATE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION nothing()",
        )
        .unwrap();
    assert_exactly(3, &race(&cluster, IsolationLevel::ReadCommitted, rounds()));
}

#[test]
fn of_a_partitioned_table_no_more_than_that_get_it() {
    let cluster = cluster_with_scope(3, "NULL");
    cluster.run_script("postgres", &partitioning());
    assert_exactly(3, &race(&cluster, IsolationLevel::ReadCommitted, rounds()));
    assert_no_more_than(3, &race(&cluster, IsolationLevel::RepeatableRead, rounds() / 4));
}

#[test]
fn of_a_table_in_shards_no_more_than_that_get_it() {
    let Some(citus) = Citus::start("postgres", &[]) else { return };
    register_scope(&citus.coordinator, 3, "NULL");
    assert_exactly(3, &race(&citus.coordinator, IsolationLevel::ReadCommitted, rounds() / 4));
    assert_no_more_than(3, &race(&citus.coordinator, IsolationLevel::RepeatableRead, rounds() / 4));
}

/// The loudest complaint about one-time links: scanners and previews that open the page use them up.
#[test]
fn a_scanner_that_gets_the_page_does_not_use_up_the_link() {
    let cluster = cluster_with_scope(1, "'{POST}'");
    let mut client = cluster.connect("postgres");
    let token = text(&mut client, "SELECT temptoken_mint('limited', '42', '1 hour')");
    let get = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/r/42')).status");
    for _ in 0..200 {
        assert_eq!(text(&mut client, &get), "ok");
    }
    assert_eq!(redeem(&mut client, IsolationLevel::ReadCommitted, &token), "ok");
    assert_eq!(redeem(&mut client, IsolationLevel::ReadCommitted, &token), "token_used_up");
    assert_eq!(text(&mut client, &get), "token_used_up");
}

/// A wait for another's spending can be cancelled, and costs nothing.
#[test]
fn a_cancelled_wait_leaves_the_token_and_the_session_as_they_were() {
    let cluster = cluster_with_scope(1, "NULL");
    let (mut holder, mut waiter) = (cluster.connect("postgres"), cluster.connect("postgres"));
    let token = text(&mut holder, "SELECT temptoken_mint('limited', '42', '1 hour')");
    let spend = format!("SELECT (temptoken_try_validate('{token}', 'POST', '/r/42')).status");
    holder.batch_execute("BEGIN").unwrap();
    assert_eq!(text(&mut holder, &spend), "ok");
    waiter.batch_execute("SET statement_timeout = '100ms'").unwrap();
    assert_eq!(common::sqlstate(&mut waiter, &spend), "57014");
    waiter.batch_execute("SET statement_timeout = '60s'").unwrap();
    let (cancel, pid) = (waiter.cancel_token(), text(&mut waiter, "SELECT pg_backend_pid()"));
    // Not the holder, whose transaction sees the activity of its first look.
    let mut watcher = cluster.connect("postgres");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| common::sqlstate(&mut waiter, &spend));
        let waits = format!("SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}");
        common::wait_until("it waits", || common::value(&mut watcher, &waits).as_deref() == Some("Lock"));
        cancel.cancel_query(postgres::NoTls).unwrap();
        assert_eq!(waiting.join().unwrap(), "57014");
    });
    holder.batch_execute("ROLLBACK").unwrap();
    let peek = format!("SELECT (temptoken_peek('{token}', 'POST', '/r/42')).status");
    for _ in 0..100 {
        assert_eq!(text(&mut waiter, &peek), "ok");
    }
    assert_eq!(text(&mut waiter, &spend), "ok");
}

/// A use belongs to its transaction: through two-phase commit, through a backend that is killed.
#[test]
fn an_uncommitted_use_is_returned_and_a_prepared_one_waits() {
    let cluster = cluster_with_scope(1, "NULL");
    cluster.stop("fast");
    cluster.configure(&["max_prepared_transactions = 2"]);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    let mint = "SELECT temptoken_mint('limited', '42', '1 hour')";
    let spend = |token: &str| format!("SELECT (temptoken_try_validate('{token}', 'POST', '/r/42')).status");
    for (ending, after) in [("COMMIT PREPARED 'p'", "token_used_up"), ("ROLLBACK PREPARED 'p'", "ok")] {
        let token = text(&mut client, mint);
        client.batch_execute("BEGIN").unwrap();
        assert_eq!(text(&mut client, &spend(&token)), "ok");
        client.batch_execute("PREPARE TRANSACTION 'p'; SET lock_timeout = '100ms'").unwrap();
        assert_eq!(common::sqlstate(&mut client, &spend(&token)), "55P03");
        client.batch_execute(ending).unwrap();
        assert_eq!(text(&mut client, &spend(&token)), after);
        assert_eq!(text(&mut client, &spend(&token)), "token_used_up");
    }
    let token = text(&mut client, mint);
    let mut killed = cluster.connect("postgres");
    killed.batch_execute("BEGIN").unwrap();
    assert_eq!(text(&mut killed, &spend(&token)), "ok");
    let pid = text(&mut killed, "SELECT pg_backend_pid()");
    cluster.kill_backend(&pid);
    let mut client = common::wait_for("the cluster is back", || cluster.try_connect("postgres"));
    assert_eq!(text(&mut client, &spend(&token)), "ok");
    assert_eq!(text(&mut client, &spend(&token)), "token_used_up");
}

/// With `replace` only the newest link of a resource works, however many ask for one at once.
#[test]
fn of_tokens_that_replace_each_other_one_lives() {
    let cluster = cluster_with_scope(1, "NULL");
    let (_turn, clients) = clients(&cluster);
    let barrier = Barrier::new(CLIENTS);
    let tokens: Vec<Vec<String>> = std::thread::scope(|scope| {
        let ask = |(number, mut client): (usize, Client)| {
            let barrier = &barrier;
            scope.spawn(move || {
                // Some of them as a mailing, some in transactions with an old snapshot.
                let mint = match number % 4 {
                    0 => {
                        "SELECT token FROM temptoken_mint_many('limited', '{41,42}', '1 hour', replace => true) \
                          WHERE resource_id = '42'"
                    }
                    _ => "SELECT temptoken_mint('limited', '42', '1 hour', replace => true)",
                };
                if number % 4 == 1 {
                    client.batch_execute("SET default_transaction_isolation = 'repeatable read'").unwrap();
                }
                let round = |_| {
                    barrier.wait();
                    text(&mut client, mint)
                };
                (0..20).map(round).collect()
            })
        };
        let clients: Vec<_> = clients.into_iter().enumerate().map(ask).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut client = cluster.connect("postgres");
    let mut alive = 0;
    for token in tokens.iter().flatten() {
        alive += usize::from(redeem(&mut client, IsolationLevel::ReadCommitted, token) == "ok");
    }
    assert_eq!(alive, 1);
    assert_eq!(text(&mut client, "SELECT count(*) FROM temptoken.temp_tokens WHERE resource_id = '42'"), "1");
}

/// A deletion does not wait for a token that is being spent, and so may leave one. One that was spent while it walked goes.
#[test]
fn a_deletion_of_all_gets_what_is_spent_meanwhile() {
    const TOKENS: i64 = 5_000;
    let cluster = cluster_with_scope(1000, "NULL");
    let (mut client, mut spender) = (cluster.connect("postgres"), cluster.connect("postgres"));
    // The walk comes to these first, and each takes it a moment, since another session holds it.
    let mut holder = cluster.connect("postgres");
    text(&mut holder, "SELECT count(temptoken_mint('limited', '42', '30 minutes')) FROM generate_series(1, 15000)");
    holder.batch_execute("BEGIN; SELECT FROM temptoken.temp_tokens FOR UPDATE").unwrap();
    let mint = format!(
        "CREATE TABLE minted AS SELECT token, ordinality AS number
         FROM temptoken_mint_many('limited', array_fill('42'::text, '{{{TOKENS}}}'), '1 hour') WITH ORDINALITY;
         CREATE UNIQUE INDEX ON minted (number)"
    );
    client.batch_execute(&mint).unwrap();
    let spend = "SELECT (temptoken_try_validate(token, 'POST', '/r/42')).status FROM minted WHERE number = $1";
    let (is_over, spent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let removed: i64 = std::thread::scope(|scope| {
        let spending = scope.spawn(|| {
            let spend = spender.prepare(spend).unwrap();
            // Backwards, so that it does not wait for the walk.
            for number in (1..=TOKENS).rev().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                spender.query(&spend, &[&number]).unwrap();
                spent.fetch_add(1, Ordering::Relaxed);
            }
        });
        common::wait_until("it spends", || spent.load(Ordering::Relaxed) > 100 || spending.is_finished());
        let delete = "SELECT temptoken_delete_expired(clock_timestamp() + interval '2 hours')";
        let removed = client.query_one(delete, &[]).map(|row| row.get(0));
        is_over.store(true, Ordering::Relaxed);
        removed.unwrap()
    });
    // One session holds one token at a time.
    assert!(TOKENS - removed < 10, "{} tokens were left", TOKENS - removed);
}
