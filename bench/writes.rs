//! What writes: mint, mint_many, spend, sweep, each beside the same change made by a statement of one's own.
//!
//! With fsync on. Each measurement has a database of its own, so that none inherits another's bloat.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::Bench;
use crate::client::{Ending, Postgres, Request, Until, drive};
use crate::common::{text, wait_until};
use crate::measure::{Contestant, Goal, Measured, Pair, Reading, interleave};
use crate::over_socket::{VALIDATE, calls, clients_in_words, postgres_client};
use crate::report::Report;
use crate::servers::{configure, create_database, mint_expired, resource_ids, settle, wal};

/// The most rows that a measurement here writes in a round.
const ROWS_MAX: usize = 100_000;

/// One mint a transaction, against the INSERT of the same rows: what was minted in one turn is inserted in a later one.
pub fn mint(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Mint, over a socket";
    const ROUNDS: usize = 7;
    for count in [1, 8] {
        let database = format!("mints_by_{count}");
        let client = RefCell::new(create_database(&bench.cluster, &database));
        let prepare = |sql: &str| -> Vec<Postgres> {
            (0..count).map(|_| Postgres::prepare(bench.cluster.socket(), &database, sql)).collect()
        };
        let mut minters = prepare("SELECT temptoken_mint('files', $1, '1 hour')");
        let mut inserters = prepare(
            "INSERT INTO bench.same_shape (id, token_hash, scope, resource_id, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        );
        let minted = RefCell::new(VecDeque::new());
        let mut mint = |_| {
            let mut requests: Vec<Request<'_>> = minters
                .iter_mut()
                .map(|minter| Box::new(|number| assert_eq!(minter.run(&[&format!("r{number}")]), 1)) as Request<'_>)
                .collect();
            let load = drive(&mut requests, Until::After(Duration::from_secs(1)));
            minted.borrow_mut().push_back(take_minted(&mut client.borrow_mut()));
            load.rate
        };
        let mut insert = |_| {
            let rows: Vec<[String; 6]> = minted.borrow_mut().pop_front().expect("mint goes first");
            let mut shares = rows.chunks(rows.len() / count);
            let mut requests: Vec<Request<'_>> = inserters
                .iter_mut()
                .map(|inserter| {
                    let share = shares.next().expect("a share for each client");
                    let insert = move |number: usize| {
                        inserter.run(&share[number].each_ref().map(String::as_str));
                    };
                    Box::new(insert) as Request<'_>
                })
                .collect();
            drive(&mut requests, Until::Requests(rows.len() / count)).rate
        };
        // One turn ahead, since either may come first in a round.
        mint(0);
        let rounds = interleave(ROUNDS, &mut [Box::new(mint), Box::new(&mut insert)]);
        let names = ["temptoken_mint", "INSERT of the same row"];
        let [ours, theirs] = two(names.map(|name| format!("{name}, {}", clients_in_words(count))), "/s", rounds);
        report.add(Pair::new(GROUP, Reading::Rate, Some(Goal::AtLeast(0.95)), &ours, &theirs));
    }
}

fn two(names: [String; 2], unit: &'static str, rounds: Vec<Vec<f64>>) -> [Measured; 2] {
    let mut rounds = rounds.into_iter();
    names.map(|name| Measured::new(name, unit, rounds.next().expect("as many rounds as names")))
}

/// The columns of the tokens that were minted since this was last called, as text.
fn take_minted(client: &mut Client) -> Vec<[String; 6]> {
    let rows = client
        .query(
            "SELECT id::text, token_hash::text, scope, resource_id, created_at::text, expires_at::text
             FROM temptoken.temp_tokens WHERE created_at > (SELECT at FROM bench.taken) ORDER BY created_at",
            &[],
        )
        .unwrap();
    client.batch_execute("UPDATE bench.taken SET at = clock_timestamp()").unwrap();
    rows.iter().map(|row| std::array::from_fn(|column| row.get(column))).collect()
}

/// One statement for many tokens, against INSERT ... SELECT of the same rows into a table of the same shape and into the
/// usual one. All three tables grow from empty.
pub fn mint_many(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Mint, in bulk";
    const ROUNDS: usize = 10;
    let rows = (bench.tokens / ROUNDS).min(ROWS_MAX);
    let client = RefCell::new(create_database(&bench.cluster, "bulk"));
    let wal_of = [const { RefCell::new(Vec::new()) }; 3];
    // Microseconds a row; notes the bytes of WAL a row.
    let run = |contestant: usize, sql: &str| {
        let mut client = client.borrow_mut();
        let before = wal(&mut client);
        let begun = Instant::now();
        client.batch_execute(sql).unwrap();
        let elapsed = begun.elapsed();
        wal_of[contestant].borrow_mut().push((wal(&mut client) - before) / rows as f64);
        elapsed.as_secs_f64() * 1e6 / rows as f64
    };
    let minted = RefCell::new(0);
    let mint = |_| {
        let ids = resource_ids(1, rows);
        let time = run(0, &format!("SELECT count(*) FROM temptoken_mint_many('files', {ids}, '1 hour')"));
        // In the order in which they were stored.
        let batch = *minted.borrow();
        *minted.borrow_mut() += 1;
        let keep = format!(
            "CREATE UNLOGGED TABLE bench.batch_{batch} AS SELECT * FROM temptoken.temp_tokens
             WHERE created_at > (SELECT at FROM bench.taken);
             UPDATE bench.taken SET at = clock_timestamp()"
        );
        client.borrow_mut().batch_execute(&keep).unwrap();
        time
    };
    let insert_into_same_shape = {
        let mut batch = 0..;
        move |_| {
            let batch: usize = batch.next().expect("without end");
            run(1, &format!("INSERT INTO bench.same_shape SELECT * FROM bench.batch_{batch}"))
        }
    };
    let insert_into_usual = {
        let mut batch = 0..;
        move |_| {
            let batch: usize = batch.next().expect("without end");
            run(
                2,
                &format!(
                    "INSERT INTO bench.usual (token_hash, scope, resource_id, created_at, expires_at)
                     SELECT token_hash, scope, resource_id, created_at, expires_at FROM bench.batch_{batch}"
                ),
            )
        }
    };
    client.borrow_mut().batch_execute("CHECKPOINT").unwrap();
    // One turn ahead, since any may come first in a round.
    mint(0);
    let mut contestants: [Contestant<'_>; 3] =
        [Box::new(mint), Box::new(insert_into_same_shape), Box::new(insert_into_usual)];
    let times = interleave(ROUNDS, &mut contestants);
    drop(contestants);

    let names = ["temptoken_mint_many", "INSERT ... SELECT, same shape", "INSERT ... SELECT, usual table"];
    let measured = |unit, rounds: Vec<Vec<f64>>| -> Vec<Measured> {
        names.iter().zip(rounds).map(|(name, rounds)| Measured::new(*name, unit, rounds)).collect()
    };
    let times = measured("µs", times);
    // Without the turns before the first round.
    let last_rounds = |all: RefCell<Vec<f64>>| {
        let all = all.into_inner();
        all[all.len() - ROUNDS..].to_vec()
    };
    let wal = measured("B", wal_of.map(last_rounds).to_vec());
    report.add(Pair::new(GROUP, Reading::Time, Some(Goal::AtMost(1.6)), &times[0], &times[1]));
    report.add(Pair::new(GROUP, Reading::TimesAsFast, Some(Goal::AtLeast(1.8)), &times[0], &times[2]));
    report.add(Pair::new(GROUP, Reading::Wal, None, &wal[0], &wal[1]));
    report.add(Pair::new(GROUP, Reading::Wal, Some(Goal::AtMost(0.5)), &wal[0], &wal[2]));
    report.add_bars("mint", "Mint in bulk: time a token, less is better", &times[1], &times, Some(1.6));
}

/// Validations of limited tokens, against an UPDATE of the same rows by primary key.
pub fn spend(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Spend, over a socket";
    const ROUNDS: usize = 7;
    const TOKENS: usize = 10_000;
    let mut client = create_database(&bench.cluster, "spends");
    client
        .batch_execute(
            "SELECT temptoken_register_scope('limited', ARRAY['GET /limited/{id}'], '7 days', '{id}',
                 max_uses => 1000000000)",
        )
        .unwrap();
    let mint = format!(
        "SELECT token, '/limited/' || resource_id FROM temptoken_mint_many('limited', {}, '1 day') ORDER BY random()",
        resource_ids(1, TOKENS)
    );
    let tokens: Vec<(String, String, String)> = client
        .query(&mint, &[])
        .unwrap()
        .iter()
        .map(|row| (row.get::<_, String>(0)[3..35].to_owned(), row.get(0), row.get(1)))
        .collect();
    client.batch_execute("INSERT INTO bench.same_shape SELECT * FROM temptoken.temp_tokens").unwrap();
    settle(&mut client);
    for count in [1, 8] {
        let clients = |sql: &str, by_id: bool| -> Vec<Request<'_>> {
            let tokens = &tokens;
            (0..count)
                .map(|number| {
                    let mut client = Postgres::prepare(bench.cluster.socket(), "spends", sql);
                    let mut next = number * TOKENS / count;
                    let request = move |_| {
                        next += 1;
                        let (id, token, path) = &tokens[next % TOKENS];
                        let rows = if by_id { client.run(&[id]) } else { client.run(&[token, path]) };
                        assert_eq!(rows, 1);
                    };
                    Box::new(request) as Request<'_>
                })
                .collect()
        };
        let mut spenders = clients(VALIDATE, false);
        let mut updaters = clients(
            "UPDATE bench.same_shape SET uses_left = uses_left - 1 WHERE id = $1 AND uses_left > 0
             RETURNING resource_id",
            true,
        );
        let turn = Until::After(Duration::from_millis(700));
        let rounds = interleave(
            ROUNDS,
            &mut [Box::new(|_| drive(&mut spenders, turn).rate), Box::new(|_| drive(&mut updaters, turn).rate)],
        );
        let names = ["validate a limited token", "UPDATE ... RETURNING"];
        let [ours, theirs] = two(names.map(|name| format!("{name}, {}", clients_in_words(count))), "/s", rounds);
        report.add(Pair::new(GROUP, Reading::Rate, Some(Goal::AtLeast(0.9)), &ours, &theirs));
    }
}

/// Sweeps by the function and by the worker, against one DELETE of the same rows; then what a sweep does to validation.
pub fn sweep(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Sweep";
    const ROUNDS: usize = 5;
    let rows = (bench.tokens / 2).min(ROWS_MAX);
    let client = RefCell::new(create_database(&bench.cluster, "sweeps"));
    let wal_of = [const { RefCell::new(Vec::new()) }; 3];
    // Rows a second; notes the bytes of WAL a row. `work` removes all rows and answers how long that took.
    let run = |contestant: usize, work: &dyn Fn(&mut Client) -> Duration| {
        let mut client = client.borrow_mut();
        client.batch_execute("TRUNCATE temptoken.temp_tokens").unwrap();
        mint_expired(&mut client, rows);
        let before = wal(&mut client);
        let elapsed = work(&mut client);
        wal_of[contestant].borrow_mut().push((wal(&mut client) - before) / rows as f64);
        assert_eq!(text(&mut client, "SELECT count(*) FROM temptoken.temp_tokens"), "0");
        rows as f64 / elapsed.as_secs_f64()
    };
    let timed = |sql: &'static str| {
        move |client: &mut Client| {
            let begun = Instant::now();
            client.batch_execute(sql).unwrap();
            begun.elapsed()
        }
    };
    let names = ["temptoken_delete_expired", "DELETE of the same rows", "sweep worker"];
    let rates = interleave(
        ROUNDS,
        &mut [
            Box::new(|_| run(0, &timed("SELECT temptoken_delete_expired()"))),
            Box::new(|_| run(1, &timed("DELETE FROM temptoken.temp_tokens WHERE expires_at <= now()"))),
            Box::new(|_| run(2, &|_| by_worker(bench, rows))),
        ],
    );
    let measured = |unit, rounds: Vec<Vec<f64>>| -> Vec<Measured> {
        names.iter().zip(rounds).map(|(name, rounds)| Measured::new(*name, unit, rounds)).collect()
    };
    let rates = measured("rows/s", rates);
    let wal = measured("B", wal_of.map(|all| all.into_inner()[1..].to_vec()).to_vec());
    for at in [0, 2] {
        report.add(Pair::new(GROUP, Reading::Rate, Some(Goal::AtLeast(0.8)), &rates[at], &rates[1]));
        report.add(Pair::new(GROUP, Reading::Wal, None, &wal[at], &wal[1]));
    }
    report.add_bars("sweep", "Sweep: rows a second, more is better", &rates[1], &rates, Some(0.8));
    latency(bench, report, rows);
}

/// Has the worker sweep the database `sweeps`; how long its log says that took.
fn by_worker(bench: &Bench, rows: usize) -> Duration {
    let seen = bench.cluster.log().len();
    configure(&bench.cluster, &["temptoken.sweep_databases = sweeps", "temptoken.sweep_interval = 1s"]);
    let mut milliseconds = 0;
    // It may leave the database in between, and come back.
    wait_until("the worker has swept", || {
        let log = bench.cluster.log();
        let swept = log[seen..].lines().filter_map(|line| line.split_once("temptoken: swept database \"sweeps\": "));
        let numbers: Vec<Vec<u64>> =
            swept.map(|(_, rest)| rest.split(' ').filter_map(|word| word.parse().ok()).collect()).collect();
        milliseconds = numbers.iter().map(|pair| pair[1]).sum();
        numbers.iter().map(|pair| pair[0]).sum::<u64>() == rows as u64
    });
    configure(&bench.cluster, &[]);
    Duration::from_millis(milliseconds)
}

/// The 99th percentile of validation's times: with a sweep going on, with a DELETE of the same rows going on, and alone. By
/// one client, which leaves other processes a core if there are two, and by so many that no core is ever idle.
fn latency(bench: &Bench, report: &mut Report, rows: usize) {
    const ROUNDS: usize = 7;
    let calls = calls(bench);
    for count in [1, 4] {
        let clients = || -> Vec<_> {
            (0..count)
                .map(|number| postgres_client(bench, &calls, number, VALIDATE, |call| vec![&call.token, &call.path]))
                .collect()
        };
        let (mut alone, beside) = (clients(), RefCell::new(clients()));
        let remover = RefCell::new(crate::servers::connect(&bench.cluster, &bench.main));
        let beside = |sql: &'static str| {
            let (beside, remover) = (&beside, &remover);
            move |_: usize| {
                let remover: &mut Client = &mut remover.borrow_mut();
                mint_expired(remover, rows);
                let removing = AtomicBool::new(true);
                let p99 = std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let _ending = Ending(&removing);
                        remover.batch_execute(sql).unwrap();
                    });
                    drive(&mut beside.borrow_mut(), Until::Ends(&removing)).p99
                });
                settle(remover);
                p99
            }
        };
        let rounds = interleave(
            ROUNDS,
            &mut [
                Box::new(beside("SELECT temptoken_delete_expired()")),
                Box::new(beside("DELETE FROM temptoken.temp_tokens WHERE expires_at <= now()")),
                Box::new(|_| drive(&mut alone, Until::After(Duration::from_millis(500))).p99),
            ],
        );
        let measured: Vec<Measured> =
            ["p99 of validate beside a sweep", "p99 of validate beside a DELETE", "p99 of validate"]
                .iter()
                .zip(rounds)
                .map(|(name, rounds)| Measured::new(format!("{name}, {}", clients_in_words(count)), "µs", rounds))
                .collect();
        let [sweep, delete, alone] = &measured[..] else { unreachable!("three") };
        report.add(Pair::new("Sweep", Reading::Time, Some(Goal::AtMost(1.5)), sweep, alone));
        report.add(Pair::new("Sweep", Reading::Time, None, delete, alone));
    }
}
