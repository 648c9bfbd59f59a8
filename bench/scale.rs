//! `make bench-scale`: what standbys and Citus cost, for the figures of docs/scale-out.md. Prints them as Markdown.
//!
//! All servers share this machine. So this compares what a call costs, and says nothing about how much many machines do.

#[path = "../tests/common/mod.rs"]
mod common;
#[expect(dead_code, reason = "the other benchmark's arithmetic, of which this takes a part")]
mod measure;

use std::time::{Duration, Instant};

use common::citus::Citus;
use common::{Cluster, has_program, mint, text, wait_until};
use measure::{Contestant, Spread, interleave};
use postgres::Client;

const ROUNDS: usize = 15;

const SCOPES: &str = "
    SELECT temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
    SELECT temptoken_register_scope('once', ARRAY['GET /once/{id}'], '1 hour', '{id}', max_uses => 1)";

fn main() {
    standbys();
    citus();
}

// ---------------------------------------------------------------------------------------------------------------------
// Standbys
// ---------------------------------------------------------------------------------------------------------------------

fn standbys() {
    if !has_program("pg_basebackup") {
        return println!("Standbys are left out: this PostgreSQL comes without pg_basebackup.");
    }
    println!("\nFrom the answer of temptoken_delete on the primary until the last standby answers token_not_found:\n");
    println!("| standbys | synchronous_commit | median | 99 of 100 | longest | the deletion itself took |");
    println!("|---|---|---|---|---|---|");
    for count in [1, 3] {
        let primary = Cluster::with_extension(&[]);
        primary.connect("postgres").batch_execute(SCOPES).unwrap();
        let standbys: Vec<Cluster> = (0..count).map(|_| primary.standby()).collect();
        measure_lag(&primary, &standbys, "on");
        primary.configure(&[&format!("synchronous_standby_names = 'ANY {count} (*)'")]);
        primary.reload();
        let waits = format!("SELECT count(*) = {count} FROM pg_stat_replication WHERE sync_state = 'quorum'");
        let mut client = primary.connect("postgres");
        wait_until("the standbys are synchronous", || text(&mut client, &waits) == "t");
        measure_lag(&primary, &standbys, "remote_apply");
    }
}

fn measure_lag(primary: &Cluster, standbys: &[Cluster], synchronous_commit: &str) {
    const DELETIONS: usize = 500;
    let mut client = primary.connect("postgres");
    client.batch_execute(&format!("SET synchronous_commit = {synchronous_commit}")).unwrap();
    let mut readers: Vec<Client> = standbys.iter().map(|it| it.connect("postgres")).collect();
    let delete = client.prepare("SELECT temptoken_delete($1)").unwrap();
    let (mut lags, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..DELETIONS {
        let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
        for reader in &mut readers {
            wait_until("the token has come", || status(reader, &token) == "ok");
        }
        let asked = Instant::now();
        client.execute(&delete, &[&token]).unwrap();
        let answered = Instant::now();
        let lag = readers.iter_mut().map(|reader| since(answered, || status(reader, &token) == "token_not_found"));
        lags.push(lag.max_by(f64::total_cmp).expect("there is a standby"));
        calls.push((answered - asked).as_secs_f64() * 1e3);
    }
    lags.sort_by(f64::total_cmp);
    let (most, longest) = (lags[DELETIONS * 99 / 100], lags[DELETIONS - 1]);
    println!(
        "| {} | {synchronous_commit} | {:.2} ms | {most:.2} ms | {longest:.2} ms | {:.2} ms |",
        standbys.len(),
        Spread::of(&lags).median,
        Spread::of(&calls).median,
    );
}

/// Milliseconds from `begun` until the answer became yes; 0 if it was yes at once.
fn since(begun: Instant, mut ask: impl FnMut() -> bool) -> f64 {
    let mut milliseconds = 0.0;
    while !ask() {
        milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    }
    milliseconds
}

fn status(client: &mut Client, token: &str) -> String {
    text(client, &format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status"))
}

// ---------------------------------------------------------------------------------------------------------------------
// Citus
// ---------------------------------------------------------------------------------------------------------------------

/// Live tokens there are while calls are measured.
const TOKENS: u32 = 100_000;

/// Rows of one call that takes many.
const MANY: u32 = 10_000;

/// A name, how many calls or rows one turn has, and what takes the turn and says how long it took.
type Job = (&'static str, u32, fn(&mut Client, u32) -> Duration);

const JOBS: [Job; 7] = [
    ("temptoken_validate, a call", 500, |client, calls| {
        let token = text(client, "SELECT temptoken_mint('files', '42', '1 hour')");
        call(client, "SELECT temptoken_validate($1, 'GET', '/files/42')", &vec![token; calls as usize])
    }),
    ("temptoken_validate of a limited token, a call", 200, |client, calls| {
        let mint = "SELECT temptoken_mint('once', '42', '1 hour')";
        let tokens: Vec<String> = (0..calls).map(|_| text(client, mint)).collect();
        call(client, "SELECT temptoken_validate($1, 'GET', '/once/42')", &tokens)
    }),
    ("temptoken_mint, a call", 500, |client, calls| {
        call(client, "SELECT temptoken_mint('files', $1, '1 hour')", &vec!["42".to_owned(); calls as usize])
    }),
    ("temptoken_mint_many, a token", MANY, |client, rows| timed(|| mint(client, rows, "1 hour"))),
    ("temptoken_delete_expired, a token", MANY, |client, rows| {
        mint(client, rows, "1 millisecond");
        timed(|| assert_eq!(text(client, "SELECT temptoken_delete_expired()"), rows.to_string()))
    }),
    ("temptoken_stats, a call", 5, |client, calls| repeat(client, "SELECT count(*) FROM temptoken_stats()", calls)),
    ("temptoken_sweep_status, a call", 20, |client, calls| {
        repeat(client, "SELECT count(*) FROM temptoken_sweep_status()", calls)
    }),
];

/// How long it takes to run `sql` once with each argument.
fn call(client: &mut Client, sql: &str, arguments: &[String]) -> Duration {
    let statement = client.prepare(sql).unwrap();
    timed(|| {
        for argument in arguments {
            client.query_one(&statement, &[argument]).unwrap();
        }
    })
}

fn repeat(client: &mut Client, sql: &str, times: u32) -> Duration {
    timed(|| (0..times).for_each(|_| _ = text(client, sql)))
}

fn timed(job: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    job();
    begun.elapsed()
}

fn citus() {
    let Some(citus) = Citus::start("postgres", &[]) else { return };
    let plain = Cluster::start(&[]);
    plain.connect("postgres").batch_execute("CREATE EXTENSION temptoken").unwrap();
    println!("\nA coordinator with two workers against one server, {TOKENS} live tokens, one client:\n");
    println!("| | in shards | plain | times as long | quartiles |");
    println!("|---|---|---|---|---|");
    for cluster in [&citus.coordinator, &plain] {
        let mut client = cluster.connect("postgres");
        client.batch_execute(SCOPES).unwrap();
        mint(&mut client, TOKENS, "1 hour");
        client.batch_execute("VACUUM ANALYZE temptoken.temp_tokens").unwrap();
    }
    for (name, size, job) in JOBS {
        let mut contestants = [&citus.coordinator, &plain].map(|cluster| {
            let mut client = cluster.connect("postgres");
            Box::new(move |_| job(&mut client, size).as_secs_f64() * 1e3 / f64::from(size)) as Contestant<'_>
        });
        let took = interleave(ROUNDS, &mut contestants);
        let ratios: Vec<f64> = took[0].iter().zip(&took[1]).map(|(ours, theirs)| ours / theirs).collect();
        let (ratio, medians) = (Spread::of(&ratios), [&took[0], &took[1]].map(|it| Spread::of(it).median));
        println!(
            "| {name} | {:.4} ms | {:.4} ms | {:.1} | {:.1} to {:.1} |",
            medians[0], medians[1], ratio.median, ratio.quartiles.0, ratio.quartiles.1
        );
    }
}
