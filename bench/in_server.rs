//! Validation in the server: many calls in one statement, so that neither client nor planner counts.

use std::cell::RefCell;
use std::time::Instant;

use postgres::Client;

use crate::common::text;
use crate::measure::{Contestant, Goal, Measured, Pair, Reading, interleave};
use crate::report::Report;
use crate::servers::{CALLS, connect, has_pgcrypto, settle};
use crate::{Bench, common::Cluster};

/// Calls in one statement. Rather more rounds than longer ones: what else the machine does then spoils fewer of them.
const SLICE: usize = 10_000;
const ROUNDS: usize = 21;

/// A connection whose joins are nested loops over indexes, row by row, which is the way that a single call goes.
pub fn connect_for_lookups(cluster: &Cluster, database: &str) -> Client {
    let mut client = connect(cluster, database);
    let off = "SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('enable_hashjoin', \
               'enable_mergejoin', 'enable_memoize', 'enable_seqscan', 'enable_bitmapscan', 'enable_material')";
    client.simple_query(off).unwrap();
    client
}

/// Microseconds a row of `sql`, which counts its rows, all of them if all is well. `{slice}` in it stands for the
/// condition that picks the slice of this turn from the `rows` calls of a table `c`.
pub fn per_call(client: &RefCell<Client>, sql: &str, rows: usize, turn: usize) -> f64 {
    let slice = SLICE.min(rows);
    let first = turn % (rows / slice) * slice;
    let sql = sql.replace("{slice}", &format!("c.n > {first} AND c.n <= {}", first + slice));
    let mut client = client.borrow_mut();
    let begun = Instant::now();
    let counted = text(&mut client, &sql);
    let elapsed = begun.elapsed();
    assert_eq!(counted, slice.to_string(), "{sql}");
    elapsed.as_secs_f64() * 1e6 / slice as f64
}

pub const VALIDATE: &str = "SELECT count((temptoken_validate(c.token, 'GET', c.path)).resource_id) \
                            FROM bench.calls AS c WHERE {slice}";
pub const BARE: &str = "SELECT count(t.resource_id) FROM bench.calls AS c \
                    JOIN temptoken.temp_tokens AS t ON t.id = c.id WHERE {slice}";
/// The same for ids of which some may not be there.
const BARE_OR_NONE: &str = "SELECT count(coalesce(t.resource_id, '')) FROM bench.{table} AS c \
                            LEFT JOIN temptoken.temp_tokens AS t ON t.id = c.id WHERE {slice}";

/// Validation against the bare lookup and against what people write.
pub fn validate(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Validate, in the server";
    let client = RefCell::new(connect_for_lookups(&bench.cluster, &bench.main));
    must_be_nested_loop(&mut client.borrow_mut(), BARE);

    let mut contestants = vec![
        ("bare primary-key lookup", BARE.to_owned(), CALLS),
        ("temptoken_validate", VALIDATE.to_owned(), CALLS),
        (
            "temptoken_validate in FROM",
            "SELECT count(v.resource_id) FROM bench.calls AS c, \
             LATERAL temptoken_validate(c.token, 'GET', c.path) AS v WHERE {slice}"
                .into(),
            CALLS,
        ),
        (
            "primary-key lookup in an SQL function",
            "SELECT count(bench.look_up(c.id)) FROM bench.calls AS c WHERE {slice}".into(),
            CALLS,
        ),
        ("PL/pgSQL function", by_hand("validate_in_plpgsql"), CALLS),
        ("SQL function", by_hand("validate_in_sql"), CALLS),
    ];
    if has_pgcrypto(&mut client.borrow_mut()) {
        let sql = "SELECT count(bench.verify_hs256(c.jwt)) FROM bench.jwts AS c WHERE {slice}";
        contestants.push(("HS256 of pgcrypto", sql.into(), 50_000));
    } else {
        bench.progress.say("no pgcrypto comes with this PostgreSQL: HS256 is left out");
    }
    let measured = measure(&client, &contestants);
    let [bare, ours, in_from, looked_up, plpgsql, sql, ..] = &measured[..] else { unreachable!("six at least") };
    let mut add = |reading, goal, ours, theirs| report.add(Pair::new(GROUP, reading, goal, ours, theirs));
    add(Reading::Time, Some(Goal::AtMost(1.5)), ours, bare);
    add(Reading::Time, None, in_from, bare);
    add(Reading::TimesAsFast, None, ours, looked_up);
    add(Reading::TimesAsFast, Some(Goal::AtLeast(2.5)), ours, plpgsql);
    add(Reading::TimesAsFast, None, ours, sql);
    if let Some(hs256) = measured.get(6) {
        add(Reading::TimesAsFast, None, ours, hs256);
    }
    report.add_bars("validate", "Validate in the server: time a call, less is better", bare, &measured, Some(1.5));
}

fn by_hand(function: &str) -> String {
    format!(
        "SELECT count((bench.{function}(c.token, 'GET', c.path)).resource_id) FROM bench.calls AS c WHERE {{slice}}"
    )
}

fn measure(client: &RefCell<Client>, contestants: &[(&str, String, usize)]) -> Vec<Measured> {
    let mut turns: Vec<Contestant<'_>> = contestants
        .iter()
        .map(|(_, sql, rows)| Box::new(|turn| per_call(client, sql, *rows, turn)) as Contestant<'_>)
        .collect();
    let rounds = interleave(ROUNDS, &mut turns);
    contestants.iter().zip(rounds).map(|((name, ..), rounds)| Measured::new(*name, "µs", rounds)).collect()
}

/// Each refusal against the bare lookup of the same ids, and against the same refusal by the PL/pgSQL function.
pub fn refuse(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Refuse, in the server";
    let client = RefCell::new(connect_for_lookups(&bench.cluster, &bench.main));
    must_be_nested_loop(&mut client.borrow_mut(), &BARE_OR_NONE.replace("{table}", "unknown"));
    for (what, status, table, path) in [
        ("not a token", "token_not_found", "malformed", "c.path"),
        ("unknown", "token_not_found", "unknown", "c.path"),
        ("expired", "token_expired", "expired", "c.path"),
        ("wrong route", "route_not_allowed", "calls", "'/files/other'"),
    ] {
        let call = |function: &str| {
            format!(
                "SELECT count(*) FROM bench.{table} AS c WHERE {{slice}} \
                 AND ({function}(c.token, 'GET', {path})).status = '{status}'"
            )
        };
        let measured = measure(
            &client,
            &[
                (&format!("bare lookup: {what}"), BARE_OR_NONE.replace("{table}", table), 50_000),
                (&format!("temptoken_try_validate: {what}"), call("temptoken_try_validate"), 50_000),
                (&format!("PL/pgSQL function: {what}"), call("bench.validate_in_plpgsql"), 50_000),
            ],
        );
        let [bare, ours, plpgsql] = &measured[..] else { unreachable!("three") };
        report.add(Pair::new(GROUP, Reading::Time, Some(Goal::AtMost(1.5)), ours, bare));
        report.add(Pair::new(GROUP, Reading::TimesAsFast, Some(Goal::AtLeast(2.5)), ours, plpgsql));
    }
}

/// The bare lookup is what it is called: one index scan a row.
fn must_be_nested_loop(client: &mut Client, sql: &str) {
    let sql = format!("EXPLAIN (COSTS off) {}", sql.replace("{slice}", "c.n > 0 AND c.n <= 10000"));
    let plan: Vec<String> = client.query(&sql, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)).collect();
    let plan = plan.join("\n");
    let is_so = plan.contains("Nested Loop")
        && plan.contains("Index Scan using temp_tokens_pkey")
        && !["Memoize", "Hash", "Merge", "Seq Scan", "Gather"].iter().any(|node| plan.contains(node));
    assert!(is_so, "the bare lookup is planned otherwise:\n{plan}");
}

/// What scopes cost: many of them, and many routes in one.
pub fn scopes(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Many scopes and routes";
    const TOKENS: usize = 20_000;
    // The most scopes last: only so many are counted, and those that come first.
    let variants = [(1, 1), (1, 10), (1, 200), (100, 1), (10_000, 1)];
    let client = RefCell::new(connect_for_lookups(&bench.cluster, &bench.main));
    let mut contestants = Vec::new();
    for (scopes, routes) in variants {
        let table = format!("calls_{scopes}_{routes}");
        let sql = include_str!("sql/scopes.sql")
            .replace("{table}", &table)
            .replace("{scopes}", &scopes.to_string())
            .replace("{routes}", &routes.to_string())
            .replace("{tokens}", &(TOKENS / scopes).to_string());
        client.borrow_mut().batch_execute(&sql).unwrap();
        let name = match (scopes, routes) {
            (1, 1) => "one scope, one route".to_owned(),
            (1, _) => format!("{routes} routes"),
            _ => format!("{scopes} scopes"),
        };
        contestants.push((name, VALIDATE.replace("bench.calls", &format!("bench.{table}"))));
    }
    settle(&mut client.borrow_mut());
    let contestants: Vec<_> = contestants.iter().map(|(name, sql)| (name.as_str(), sql.clone(), TOKENS)).collect();
    let measured = measure(&client, &contestants);
    for (many, (_, routes)) in measured.iter().zip(variants).skip(1) {
        let goal = (routes < 200).then_some(Goal::AtMost(1.1));
        report.add(Pair::new(GROUP, Reading::Time, goal, many, &measured[0]));
    }
}
