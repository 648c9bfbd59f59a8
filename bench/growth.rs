//! Growth: the same calls with ten thousand tokens in the database, and with up to ten million.

use std::cell::RefCell;
use std::time::Instant;

use postgres::Client;

use crate::Bench;
use crate::charts::Series;
use crate::common::text;
use crate::in_server::{BARE, VALIDATE, connect_for_lookups, per_call};
use crate::measure::{Contestant, Goal, Measured, Pair, Reading, interleave};
use crate::report::{Report, Table, grouped};
use crate::servers::{CALLS, LATEST, create_database_with_tokens, mint_expired, settle, wal};

const ROUNDS: usize = 11;

/// Name of the database with this many tokens.
pub fn database(tokens: usize) -> String {
    format!("tokens_{tokens}")
}

/// Databases of all sizes, measured in turns, so that what the machine does meanwhile falls on all of them.
pub fn grow(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Growth, in the server";
    let mut sizes: Vec<usize> =
        [10_000, 100_000, 1_000_000, 10_000_000].into_iter().filter(|size| *size < bench.tokens).collect();
    for size in &sizes {
        bench.progress.say(&format!("filling {} with {size} tokens", database(*size)));
        create_database_with_tokens(&bench.cluster, &database(*size), *size, &bench.progress);
    }
    sizes.push(bench.tokens);
    let clients: Vec<RefCell<Client>> =
        sizes.iter().map(|size| RefCell::new(connect_for_lookups(&bench.cluster, &database(*size)))).collect();
    // The main database has had its expired tokens added to be refused: away with them, as everywhere else.
    let main = &clients[sizes.len() - 1];
    text(&mut main.borrow_mut(), "SELECT temptoken_delete_expired()");
    settle(&mut main.borrow_mut());
    let bytes: Vec<[f64; 3]> =
        sizes.iter().zip(&clients).map(|(size, client)| bytes(&mut client.borrow_mut(), *size)).collect();

    let validate_latest = VALIDATE.replace("bench.calls", "bench.latest");
    let wal_a_mint = vec![RefCell::new(Vec::new()); sizes.len()];
    let mut contestants: Vec<Contestant<'_>> = Vec::new();
    for client in &clients {
        contestants.push(Box::new(|turn| per_call(client, VALIDATE, CALLS, turn)));
    }
    for (client, wal) in clients.iter().zip(&wal_a_mint) {
        contestants.push(Box::new(|_| {
            let (time, bytes) = mint(&mut client.borrow_mut());
            wal.borrow_mut().push(bytes);
            time
        }));
    }
    for client in &clients {
        contestants.push(Box::new(|_| sweep(&mut client.borrow_mut())));
    }
    for client in &clients {
        contestants.push(Box::new(|turn| per_call(client, BARE, CALLS, turn)));
    }
    for client in &clients {
        contestants.push(Box::new(|turn| per_call(client, &validate_latest, LATEST, turn)));
    }
    let rounds = interleave(ROUNDS, &mut contestants);
    drop(contestants);
    let measured = |what: &str, from: usize| -> Vec<Measured> {
        let name = |size: &usize| format!("{what}, {} tokens", grouped(*size as f64));
        sizes
            .iter()
            .zip(&rounds[from..])
            .map(|(size, rounds)| Measured::new(name(size), "µs", rounds.clone()))
            .collect()
    };
    let names =
        ["validate", "mint", "sweep", "bare primary-key lookup", "validate one of the 10,000 that were minted last"];
    let mut place = 0..;
    let [validate, mint, sweep, bare, validate_latest] =
        names.map(|what| measured(what, place.next().expect("without end") * sizes.len()));
    for all in [&validate, &validate_latest, &bare, &mint, &sweep] {
        let is_validation = std::ptr::eq(all, &validate) || std::ptr::eq(all, &validate_latest);
        let goal = is_validation.then_some(Goal::AtMost(1.5));
        for larger in &all[1..] {
            report.add(Pair::new(GROUP, Reading::Time, goal, larger, &all[0]));
        }
    }
    let line = |name: &str, all: &[Measured]| Series {
        name: name.into(),
        points: sizes.iter().zip(all).map(|(size, measured)| (*size as f64, measured.median())).collect(),
    };
    report.add_lines(
        "growth",
        "Time a call in the server (this machine's)",
        ("tokens in the database", "microseconds"),
        &[
            line("validate", &validate),
            line("validate one of the last 10,000", &validate_latest),
            line("bare primary-key lookup", &bare),
            line("mint", &mint),
            line("sweep, a row", &sweep),
        ],
    );
    report.add_table(Table {
        title: "Growth (times are this machine's)".into(),
        header: ["tokens", "validate µs", "mint µs", "sweep µs a row", "WAL bytes a mint", "bytes a token: table"]
            .into_iter()
            .chain(["primary key", "(scope, resource_id)"])
            .map(str::to_owned)
            .collect(),
        rows: (0..sizes.len())
            .map(|at| {
                let times = [&validate[at], &mint[at], &sweep[at]].map(|measured| format!("{:.2}", measured.median()));
                let wal = crate::measure::median(&wal_a_mint[at].borrow());
                let sizes_of = bytes[at].map(|bytes| format!("{bytes:.0}"));
                [grouped(sizes[at] as f64)]
                    .into_iter()
                    .chain(times)
                    .chain([format!("{wal:.0}")])
                    .chain(sizes_of)
                    .collect()
            })
            .collect(),
    });
}

/// Bytes a token: of the table, its primary key, its other index.
fn bytes(client: &mut Client, tokens: usize) -> [f64; 3] {
    ["in_table", "primary_key", "other_index"].map(|what| {
        let bytes: f64 = text(client, &format!("SELECT {what} FROM bench.bytes")).parse().unwrap();
        bytes / tokens as f64
    })
}

/// Mints in one statement: microseconds and bytes of WAL a call.
fn mint(client: &mut Client) -> (f64, f64) {
    const MINTS: usize = 2_000;
    let sql = format!("SELECT count(temptoken_mint('files', 'm' || i, '1 day')) FROM generate_series(1, {MINTS}) AS i");
    let before = wal(client);
    let begun = Instant::now();
    assert_eq!(text(client, &sql), MINTS.to_string());
    let elapsed = begun.elapsed();
    (elapsed.as_secs_f64() * 1e6 / MINTS as f64, (wal(client) - before) / MINTS as f64)
}

/// Microseconds a row of sweeping what has just expired.
fn sweep(client: &mut Client) -> f64 {
    const ROWS: usize = 10_000;
    mint_expired(client, ROWS);
    let begun = Instant::now();
    assert_eq!(text(client, "SELECT temptoken_delete_expired()"), ROWS.to_string());
    begun.elapsed().as_secs_f64() * 1e6 / ROWS as f64
}
