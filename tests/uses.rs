//! Use limits under load: many clients race for the uses of one token.

mod common;

use std::collections::BTreeMap;
use std::sync::Barrier;

use common::{Cluster, text};
use postgres::{Client, IsolationLevel};

const CLIENTS: usize = 64;

fn cluster_with_scope(max_uses: u32, spending_methods: &str) -> Cluster {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let register = format!(
        "SELECT temptoken_register_scope('limited', ARRAY['GET /r/{{id}}', 'POST /r/{{id}}'], '1 hour', '{{id}}', \
             max_uses => {max_uses}, spending_methods => {spending_methods})"
    );
    text(&mut cluster.connect("postgres"), &register);
    cluster
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
    let barrier = Barrier::new(CLIENTS);
    let told: Vec<Vec<String>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = cluster.connect("postgres");
                    let turn = |token: &String| {
                        barrier.wait();
                        redeem(&mut client, level, token)
                    };
                    tokens.iter().map(turn).collect()
                })
            })
            .collect();
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
        assert_eq!(round.get("ok"), Some(&uses), "round {number}: {round:?}");
        let expected = |told: &&String| matches!(told.as_str(), "ok" | "token_used_up" | "40001");
        assert!(round.keys().all(|told| expected(&told)), "round {number}: {round:?}");
    }
}

#[test]
fn of_64_clients_exactly_three_get_a_token_of_three_uses() {
    let cluster = cluster_with_scope(3, "NULL");
    assert_exactly(3, &race(&cluster, IsolationLevel::ReadCommitted, 1000));
}

#[test]
fn of_64_clients_exactly_one_gets_a_token_of_one_use_at_each_isolation_level() {
    let cluster = cluster_with_scope(1, "NULL");
    for level in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        assert_exactly(1, &race(&cluster, level, 100));
    }
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

/// Everything at once: minting, validating, spending, deleting by resource, and a sweep every second. TEMPTOKEN_SOAK is for
/// how many seconds (10 unless told).
#[test]
fn all_jobs_at_once_meet_no_deadlock_and_no_wrong_answer() {
    let seconds = std::env::var("TEMPTOKEN_SOAK").ok().and_then(|it| it.parse().ok()).unwrap_or(10);
    let cluster = Cluster::with_extension(&["temptoken.sweep_batch_size = 100", "deadlock_timeout = 100ms"]);
    let mut client = cluster.connect("postgres");
    let register = "temptoken_register_scope('flows', ARRAY['GET /f/{id}', 'POST /f/{id}'], '1 hour', '{id}', \
                    max_uses => 2, spending_methods => '{POST}')";
    text(&mut client, &format!("SELECT {register}"));
    let begun = std::time::Instant::now();
    let goes_on = || begun.elapsed().as_secs() < seconds;
    // Each client keeps to resources of its own, so that it knows what every answer must be; all share table and indexes.
    let job = |number: usize| {
        let mut client = cluster.connect("postgres");
        let mint = client.prepare("SELECT temptoken_mint('flows', $1, $2::text::interval)").unwrap();
        let check = client.prepare("SELECT (temptoken_try_validate($1, $2, $3)).status").unwrap();
        let end = client.prepare("SELECT temptoken_delete_by_resource_id('flows', $1)").unwrap();
        let mut rounds = 0u64;
        while goes_on() {
            let id = format!("{number}-{rounds}");
            let path = format!("/f/{id}");
            let mut token = |ttl: &str| client.query_one(&mint, &[&id, &ttl]).unwrap().get::<_, String>(0);
            let (long, short) = (token("30 minutes"), token("1 millisecond"));
            let mut status = |token: &str, method: &str| {
                client.query_one(&check, &[&token, &method, &path]).unwrap().get::<_, String>(0)
            };
            assert_eq!(status(&long, "GET"), "ok");
            assert_eq!(status(&long, "POST"), "ok");
            assert_eq!(status(&long, "POST"), "ok");
            assert_eq!(status(&long, "POST"), "token_used_up");
            std::thread::sleep(std::time::Duration::from_millis(2));
            let gone = status(&short, "GET");
            assert!(matches!(gone.as_str(), "token_expired" | "token_not_found"), "{gone}");
            assert!(client.query_one(&end, &[&id]).unwrap().get::<_, i64>(0) >= 1);
            assert_eq!(
                client.query_one(&check, &[&long, &"GET", &path]).unwrap().get::<_, String>(0),
                "token_not_found"
            );
            rounds += 1;
        }
        rounds
    };
    let keep = text(&mut client, "SELECT temptoken_mint('flows', 'kept', '1 hour')");
    let rounds: u64 = std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..16).map(|number| scope.spawn(move || job(number))).collect();
        jobs.into_iter().map(|job| job.join().unwrap()).sum()
    });
    assert!(rounds > 100, "{rounds} rounds");
    eprintln!("{rounds} rounds in {seconds} seconds");
    let status = format!("SELECT (temptoken_peek('{keep}', 'POST', '/f/kept')).status");
    assert_eq!(text(&mut client, &status), "ok");
    common::wait_until("what expired is swept", || common::has_tokens(&mut client, 1));
    assert!(!cluster.log().contains("ERROR"), "{}", cluster.log());
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
    let cancel = waiter.cancel_token();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| common::sqlstate(&mut waiter, &spend));
        std::thread::sleep(std::time::Duration::from_millis(300));
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
