//! Validation over a socket: prepared statements, by several clients at once, beside other lookups and Redis.

use std::time::Duration;

use crate::charts::Series;
use crate::client::{Postgres, Redis as RedisClient, Request, Until, drive};
use crate::measure::{Contestant, Goal, Measured, Pair, Reading, interleave};
use crate::report::{Report, table_of_lines};
use crate::servers::{Redis, connect};
use crate::{Bench, common::text};

const ROUNDS: usize = 15;
const TURN: Duration = Duration::from_millis(250);

/// A call that a client makes: parameters as text.
pub struct Call {
    pub id: String,
    pub token: String,
    pub path: String,
    pub hash: String,
}

/// What a statement is given of a call.
type Parameters = for<'c> fn(&'c Call) -> Vec<&'c str>;

/// The calls of the main database.
pub fn calls(bench: &Bench) -> Vec<Call> {
    let mut client = connect(&bench.cluster, &bench.main);
    let rows = client.query("SELECT id::text, token, path, hash FROM bench.calls ORDER BY n", &[]).unwrap();
    rows.iter().map(|row| Call { id: row.get(0), token: row.get(1), path: row.get(2), hash: row.get(3) }).collect()
}

/// One column of the answer, which needs no FROM.
pub const VALIDATE: &str = "SELECT (temptoken_validate($1, 'GET', $2)).resource_id";

/// A client that runs `sql` on the main database, one of the calls after another, from a place of its own.
pub fn postgres_client<'a>(
    bench: &Bench,
    calls: &'a [Call],
    number: usize,
    sql: &str,
    parameters: Parameters,
) -> Request<'a> {
    let mut client = Postgres::prepare(bench.cluster.socket(), &bench.main, sql);
    let mut next = number * 6151;
    Box::new(move |_| {
        next += 1;
        let call = &calls[next % calls.len()];
        assert_eq!(client.run(&parameters(call)), 1);
    })
}

fn redis_client<'a>(redis: &Redis, calls: &'a [Call], number: usize) -> Request<'a> {
    let mut client = RedisClient::connect(&redis.socket());
    let mut next = number * 6151;
    Box::new(move |_| {
        next += 1;
        assert!(client.get(&calls[next % calls.len()].hash) > 0);
    })
}

pub fn validate(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Validate, over a socket";
    let calls = calls(bench);
    let redis = fill_redis(bench);
    let mut shares: Vec<Series> = Vec::new();
    for count in [1, 8, 32] {
        let validation: Parameters = |call| vec![&call.token, &call.path];
        let statements: [(&str, &str, Parameters); 7] = [
            ("SELECT 1", "SELECT 1", |_| vec![]),
            ("SELECT by primary key", "SELECT resource_id FROM temptoken.temp_tokens WHERE id = $1", |call| {
                vec![&call.id]
            }),
            ("validate", VALIDATE, validation),
            ("validate, in FROM", "SELECT resource_id FROM temptoken_validate($1, 'GET', $2)", validation),
            ("validate, whole row", "SELECT * FROM temptoken_validate($1, 'GET', $2)", validation),
            (
                "SELECT by hash, whole row",
                "SELECT id, scope, resource_id, expires_at, metadata FROM bench.usual
                 WHERE token_hash = decode($1, 'hex') AND expires_at > clock_timestamp()",
                |call| vec![&call.hash],
            ),
            ("validate, whole row as one value", "SELECT temptoken_validate($1, 'GET', $2)", validation),
        ];
        let mut contestants: Vec<Contestant<'_>> = Vec::new();
        for (_, sql, parameters) in statements {
            let mut clients: Vec<_> =
                (0..count).map(|number| postgres_client(bench, &calls, number, sql, parameters)).collect();
            contestants.push(Box::new(move |_| drive(&mut clients, Until::After(TURN)).rate));
        }
        let mut clients: Vec<_> = (0..count).map(|number| redis_client(&redis, &calls, number)).collect();
        contestants.push(Box::new(move |_| drive(&mut clients, Until::After(TURN)).rate));

        let names = statements.iter().map(|(name, ..)| *name).chain(["Redis GET"]);
        let measured: Vec<_> = names
            .zip(interleave(ROUNDS, &mut contestants))
            .map(|(name, rounds)| Measured::new(format!("{name}, {}", clients_in_words(count)), "/s", rounds))
            .collect();
        let [one, by_key, validate, in_from, whole, by_hash, value, get] = &measured[..] else { unreachable!("eight") };
        let mut add = |goal, ours, theirs| report.add(Pair::new(GROUP, Reading::Rate, goal, ours, theirs));
        add(None, validate, one);
        add(Some(Goal::AtLeast(0.9)), validate, by_key);
        add(Some(Goal::AtLeast(0.9)), in_from, by_key);
        add(None, whole, by_hash);
        add(Some(Goal::AtLeast(0.75)), value, get);
        // What PostgreSQL can reach at all.
        add(None, one, get);
        if count == 8 {
            report.add_bars(
                "socket",
                "Validate over a unix socket: requests a second, more is better",
                by_key,
                &measured,
                Some(0.9),
            );
        }
        for (at, measured) in measured.iter().enumerate() {
            let name = measured.name.rsplit_once(", ").expect("with its clients").0;
            if shares.len() == at {
                shares.push(Series::new(name));
            }
            shares[at].points.push((count as f64, measured.median()));
        }
        bench.progress.say(&format!("over a socket: {} done", clients_in_words(count)));
    }
    report.add_table(table_of_lines("Over a socket, requests a second (this machine's)", "clients", &shares));
}

pub fn clients_in_words(count: usize) -> String {
    if count == 1 { "1 client".into() } else { format!("{count} clients") }
}

/// Redis with every token that is called: its hash as the key, and as the value what a validation answers, as JSON.
fn fill_redis(bench: &Bench) -> Redis {
    let redis = Redis::start();
    let mut client = connect(&bench.cluster, &bench.main);
    let rows = client
        .query(
            "SELECT DISTINCT c.hash, json_build_object('id', t.id, 'scope', t.scope, 'resource_id', t.resource_id,
                 'expires_at', t.expires_at, 'metadata', t.metadata)::text
             FROM bench.calls AS c JOIN temptoken.temp_tokens AS t ON t.id = c.id",
            &[],
        )
        .unwrap();
    let mut to_redis = RedisClient::connect(&redis.socket());
    for row in &rows {
        to_redis.set(row.get(0), row.get(1));
    }
    let keys: usize = text(&mut client, "SELECT count(DISTINCT hash) FROM bench.calls").parse().unwrap();
    assert_eq!(rows.len(), keys);
    redis
}
