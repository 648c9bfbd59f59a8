//! The soak: every job at once for a long time, while processes of the sweep are ended and killed, against a ledger of
//! what must be true; and a steady load whose table must stop growing.
//!
//! `make test` runs the first for some seconds; `make soak` both, for TEMPTOKEN_SOAK seconds (600 unless told).

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::{Cluster, LAUNCHER, WORKERS, text, value, wait_for, wait_until};
use postgres::types::{FromSqlOwned, ToSql};
use postgres::{Client, Error};

const CLIENTS: u64 = 32;

/// How many live tokens a client keeps at most.
const LIVE: usize = 40;

const REGISTER: &str = "SELECT temptoken_register_scope('flows', ARRAY['GET /f/{id}'], '1 day', '{id}')";

/// How long `make soak` is to take; None in `make test`.
fn soak_time() -> Option<Duration> {
    let seconds = std::env::var("TEMPTOKEN_SOAK").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("TEMPTOKEN_SOAK is a number of seconds")))
}

/// Unix microseconds, by the same clock as the server's.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64
}

/// Random enough for a load: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The ledger
// ---------------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    Yes,
    No,
    /// The answer to its deletion was lost.
    InDoubt,
}

/// What must be true of a token that was handed out.
#[derive(Debug)]
struct Entry {
    token: String,
    resource_id: String,
    /// Unix microseconds.
    expires_at: u64,
    stored: Stored,
    /// At least and at most so many uses are left: they differ where the answer to a spending was lost.
    uses: Option<(i32, i32)>,
}

impl Entry {
    fn new(token: String, resource_id: &str, max_uses: Option<i32>) -> Self {
        // The id leads with the expiry, in milliseconds.
        let expires_at = u64::from_str_radix(&token[3..15], 16).unwrap() * 1000;
        let uses = max_uses.map(|uses| (uses, uses));
        Self { token, resource_id: resource_id.to_owned(), expires_at, stored: Stored::Yes, uses }
    }

    fn id(&self) -> &str {
        &self.token[3..35]
    }

    fn path(&self) -> String {
        format!("/f/{}", self.resource_id)
    }

    /// Takes note of the answer to a validation between two moments; fails the test if it is a wrong one.
    fn validated(&mut self, status: &str, spends: bool, from: u64, to: u64) {
        let (may_live, may_be_over) = (from < self.expires_at, to >= self.expires_at);
        let is_right = match status {
            "ok" => may_live && self.stored != Stored::No && self.uses.is_none_or(|(_, most)| most > 0),
            "token_used_up" => may_live && self.stored != Stored::No && self.uses.is_some_and(|(least, _)| least == 0),
            "token_expired" => may_be_over && self.stored != Stored::No,
            "token_not_found" => may_be_over || self.stored != Stored::Yes,
            _ => false,
        };
        assert!(is_right, "{status} from {from} to {to}: {self:?}");
        self.stored = if status == "token_not_found" { Stored::No } else { Stored::Yes };
        self.uses = match (self.uses, status) {
            (Some((least, most)), "ok") => {
                let spent = i32::from(spends);
                Some((least.max(1) - spent, most - spent))
            }
            (Some(_), "token_used_up") => Some((0, 0)),
            (uses, _) => uses,
        };
    }

    /// Takes note of a spending whose answer was lost.
    fn maybe_spent(&mut self) {
        self.uses = self.uses.map(|(least, most)| ((least - 1).max(0), most));
    }

    /// Takes note of the answer to a deletion that was over at `to`, or that there was none.
    fn deleted(&mut self, answer: Option<bool>, to: u64) {
        let is_right = match answer {
            Some(true) => self.stored != Stored::No,
            Some(false) => to >= self.expires_at || self.stored != Stored::Yes,
            None => true,
        };
        assert!(is_right, "{answer:?} at {to}: {self:?}");
        self.stored = match (answer, self.stored) {
            (None, Stored::Yes) => Stored::InDoubt,
            (None, stored) => stored,
            (Some(_), _) => Stored::No,
        };
    }

    fn is_over(&self) -> bool {
        self.stored == Stored::No || self.expires_at <= now()
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The clients
// ---------------------------------------------------------------------------------------------------------------------

/// What all of them share.
struct Run<'a> {
    cluster: &'a Cluster,
    over: AtomicBool,
    /// How often each call had each answer.
    answers: Mutex<BTreeMap<String, u64>>,
}

impl Run<'_> {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn count(&self, what: String) {
        *self.answers.lock().unwrap().entry(what).or_insert(0) += 1;
    }

    /// Answers of all calls by kind, and kills.
    fn summary(&self) -> String {
        let answers = self.answers.lock().unwrap();
        let mut kinds = BTreeMap::new();
        for (what, times) in answers.iter() {
            let kind = what.split_once(": ").map_or(&**what, |(_, kind)| kind);
            *kinds.entry(kind).or_insert(0) += times;
        }
        kinds.iter().map(|(kind, times)| format!("  {times} {kind}")).collect()
    }

    /// A connection, as soon as the server takes one. What its statements are refused, they are told; the log is for
    /// the rest.
    fn connect(&self) -> Client {
        wait_for("the server takes connections", || {
            let mut client = self.cluster.try_connect("postgres")?;
            client.batch_execute("SET log_min_messages = fatal").ok()?;
            Some(client)
        })
    }
}

/// Ends the run early when the thread that has it fails.
struct EndsTheRun<'a>(&'a AtomicBool);

impl Drop for EndsTheRun<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether the connection broke, so that the outcome of the call is not known.
fn is_lost(error: &Error) -> bool {
    let by_the_network = std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
    error.is_closed() || by_the_network || error.code().is_some_and(|state| state.code().starts_with("57P"))
}

/// A client with tokens of its own: it knows what each answer must be. All share the table and its indexes.
struct Visitor<'a> {
    run: &'a Run<'a>,
    client: Client,
    number: u64,
    random: Random,
    minted: u64,
    live: Vec<Entry>,
    ended: Vec<Entry>,
    /// Resource ids of the mints whose answer was lost: each may have stored a token.
    lost_mints: Vec<String>,
}

impl<'a> Visitor<'a> {
    fn new(run: &'a Run<'a>, number: u64) -> Self {
        let (live, ended, lost_mints) = (Vec::new(), Vec::new(), Vec::new());
        let client = run.connect();
        Self { run, client, number, random: Random(now() ^ (number << 48)), minted: 0, live, ended, lost_mints }
    }

    /// The one value that `sql` answers; Err with the SQLSTATE of a refusal; None when the connection broke, and there
    /// is a new one now.
    fn ask<T: FromSqlOwned>(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Option<Result<T, String>> {
        match self.client.query_one(sql, parameters) {
            Ok(row) => Some(Ok(row.get(0))),
            Err(error) if is_lost(&error) => {
                self.client = self.run.connect();
                self.run.count("lost".to_owned());
                None
            }
            Err(error) => Some(Err(error.code().expect("it is not lost").code().to_owned())),
        }
    }

    fn stay(mut self) -> Self {
        let _guard = EndsTheRun(&self.run.over);
        while self.run.goes_on() {
            match self.random.below(10) {
                0..3 if self.live.len() < LIVE => self.mint(),
                0..4 if !self.live.is_empty() => self.delete(),
                _ if !self.live.is_empty() || !self.ended.is_empty() => self.validate(),
                _ => {}
            }
            let (ended, live) = self.live.drain(..).partition(Entry::is_over);
            self.live = live;
            self.ended.extend::<Vec<_>>(ended);
            if self.ended.len() > 1000 {
                self.check_ended();
            }
            std::thread::sleep(Duration::from_millis(self.random.below(10)));
        }
        self
    }

    fn mint(&mut self) {
        // Some share a resource.
        let resource_id = format!("{}-{}", self.number, self.minted / 3);
        self.minted += 1;
        let max_uses = (self.random.below(3) == 0).then(|| 1 + self.random.below(3) as i32);
        let ttl = if self.random.below(2) == 0 { 500 + self.random.below(2500) } else { 86_400_000 };
        let ttl = format!("{ttl} milliseconds");
        let sql = "SELECT temptoken_mint('flows', $1, $2::text::interval, max_uses => $3)";
        match self.ask(sql, &[&resource_id, &ttl, &max_uses]) {
            Some(token) => {
                self.run.count("mint: ok".to_owned());
                self.live.push(Entry::new(token.unwrap(), &resource_id, max_uses));
            }
            None => self.lost_mints.push(resource_id),
        }
    }

    fn validate(&mut self) {
        let is_old = self.live.is_empty() || (!self.ended.is_empty() && self.random.below(10) == 0);
        let entries = if is_old { &mut self.ended } else { &mut self.live };
        let mut entry = entries.swap_remove(self.random.below(entries.len() as u64) as usize);
        let (call, spends) = match self.random.below(3) {
            0 => ("temptoken_peek($1, 'GET', $2)).status", false),
            1 => ("temptoken_try_validate($1, 'GET', $2)).status", true),
            _ => ("temptoken_validate($1, 'GET', $2)).scope", true),
        };
        let from = now();
        let answer = self.ask::<String>(&format!("SELECT ({call}"), &[&entry.token, &entry.path()]);
        let to = now();
        if let Some(answer) = answer {
            let status = match answer.as_deref().map_err(String::as_str) {
                Ok("flows") => "ok",
                Ok(status) => status,
                Err("TT001") => "token_not_found",
                Err("TT002") => "token_expired",
                Err("TT006") => "token_used_up",
                Err(state) => panic!("{state}: {entry:?}"),
            };
            self.run.count(format!("{}: {status}", call.split('(').next().unwrap().trim_start_matches("temptoken_")));
            entry.validated(status, spends, from, to);
        } else if spends {
            entry.maybe_spent();
        }
        if is_old { self.ended.push(entry) } else { self.live.push(entry) }
    }

    fn delete(&mut self) {
        let at = self.random.below(self.live.len() as u64) as usize;
        if self.random.below(3) == 0 {
            return self.delete_by_resource_id(self.live[at].resource_id.clone());
        }
        let (call, argument) = match self.random.below(2) {
            0 => ("delete($1)", self.live[at].token.clone()),
            _ => ("delete_by_id($1::text::uuid)", self.live[at].id().to_owned()),
        };
        let answer = self.ask::<bool>(&format!("SELECT temptoken_{call}"), &[&argument]).map(Result::unwrap);
        self.live[at].deleted(answer, now());
        if let Some(answer) = answer {
            self.run.count(format!("{}: {answer}", call.split('(').next().unwrap()));
        }
    }

    fn delete_by_resource_id(&mut self, resource_id: String) {
        let sql = "SELECT temptoken_delete_by_resource_id('flows', $1)";
        let answer = self.ask::<i64>(sql, &[&resource_id]).map(Result::unwrap);
        let to = now();
        let of_resource = || self.live.iter().chain(&self.ended).filter(|entry| entry.resource_id == resource_id);
        if let Some(rows) = answer {
            let least = of_resource().filter(|entry| entry.stored == Stored::Yes && to < entry.expires_at).count();
            let lost = self.lost_mints.iter().filter(|lost| **lost == resource_id).count();
            let most = of_resource().filter(|entry| entry.stored != Stored::No).count() + lost;
            assert!((least..=most).contains(&(rows as usize)), "{rows} rows, {least} to {most} of {resource_id}");
            self.run.count("delete_by_resource_id: ok".to_owned());
            // Those that were minted then are gone now.
            self.lost_mints.retain(|lost| *lost != resource_id);
        }
        for entry in self.live.iter_mut().chain(&mut self.ended).filter(|entry| entry.resource_id == resource_id) {
            // Whether this very row was among those that went does not matter: it is not there any more.
            match answer {
                Some(_) => entry.stored = Stored::No,
                None => entry.deleted(None, to),
            }
        }
    }

    /// Checks that what has ended is refused, and forgets what is not in the table any more.
    fn check_ended(&mut self) {
        check(self.run, &mut self.ended);
        self.ended.retain(|entry| entry.stored != Stored::No);
    }
}

/// Checks many entries in one statement: the answer to each, and its uses.
fn check(run: &Run<'_>, entries: &mut [Entry]) {
    let column = |of: fn(&Entry) -> String| entries.iter().map(of).collect::<Vec<_>>();
    let (tokens, paths) = (column(|entry| entry.token.clone()), column(Entry::path));
    let ids = column(|entry| entry.id().to_owned());
    let sql = "SELECT (temptoken_peek(token, 'GET', path)).status, uses_left
               FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (token, path, token_id, place)
                   LEFT JOIN temptoken.temp_tokens ON id = token_id::uuid
               ORDER BY place";
    let from = now();
    let rows = wait_for("an answer that is not lost", || {
        let answer = run.connect().query(sql, &[&tokens, &paths, &ids]);
        answer.map_err(|error| assert!(is_lost(&error), "{error:?}")).ok()
    });
    let to = now();
    assert_eq!(rows.len(), entries.len());
    for (entry, row) in entries.iter_mut().zip(rows) {
        entry.validated(row.get(0), false, from, to);
        if let (Some((least, most)), Some(left)) = (entry.uses, row.get::<_, Option<i32>>(1)) {
            assert!((least..=most).contains(&left), "{left} uses: {entry:?}");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The killer
// ---------------------------------------------------------------------------------------------------------------------

/// Every few seconds ends a process of the sweep, as an administrator would; once a minute kills one, and the server
/// goes through its crash recovery.
fn kill(run: &Run<'_>, time: Duration) {
    let _guard = EndsTheRun(&run.over);
    let mut random = Random(now());
    let mut next_crash = Instant::now() + Duration::min(time / 2, Duration::from_secs(30));
    let mut next = Instant::now();
    let mut turn = 0;
    while run.goes_on() {
        if Instant::now() < next {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let mut client = run.connect();
        if Instant::now() >= next_crash {
            next_crash += Duration::from_secs(60);
            let before = crashes(run);
            wait_until("the server has noticed that a process was killed", || {
                let mut kill = |processes| catch(&mut client, processes).is_some_and(kill_9);
                // One that was just leaving is not missed.
                (kill(WORKERS) || kill(LAUNCHER)) && soon(|| (crashes(run) > before).then_some(())).is_some()
            });
            run.count("kill -9".to_owned());
        } else {
            // The launcher is away for five seconds each time.
            let processes = if turn % 6 == 0 { LAUNCHER } else { WORKERS };
            turn += 1;
            if let Some(pid) = catch(&mut client, processes)
                && value(&mut client, &format!("SELECT pg_terminate_backend({pid})")).as_deref() == Some("t")
            {
                run.count("pg_terminate_backend".to_owned());
            }
        }
        next = Instant::now() + Duration::from_millis(1000 + random.below(4000));
    }
}

/// How many times the server has gone through a crash of one of its processes.
fn crashes(run: &Run<'_>) -> usize {
    run.cluster.log().matches("was terminated by signal 9").count()
}

/// The pid of a process: workers come and go.
fn catch(client: &mut Client, processes: &str) -> Option<i32> {
    soon(|| Some(client.query_opt(processes, &[]).ok()??.get(0)))
}

/// Asks without pause for what may come within a few seconds.
fn soon<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    let mut found = None;
    while found.is_none() && begun.elapsed() < Duration::from_secs(3) {
        found = ask();
    }
    found
}

/// Kills the process if it is still what it was.
fn kill_9(pid: i32) -> bool {
    let is_ours =
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it.contains("temptoken sweep"));
    is_ours && common::try_signal(&pid.to_string(), "KILL")
}

// ---------------------------------------------------------------------------------------------------------------------
// The tests
// ---------------------------------------------------------------------------------------------------------------------

/// Sizes of the table and its indexes over time.
struct Sizes {
    begun: Instant,
    samples: Vec<(i64, i64)>,
}

impl Sizes {
    fn new() -> Self {
        Self { begun: Instant::now(), samples: Vec::new() }
    }

    /// Takes a sample, and prints it with what else is to be said. Not while the server recovers.
    fn sample(&mut self, client: &mut Client, said: &str) {
        let table = "'temptoken.temp_tokens'";
        let sql =
            format!("SELECT pg_table_size({table}), pg_indexes_size({table}), count(*) FROM temptoken.temp_tokens");
        let row = match client.query_one(&sql, &[]) {
            Err(error) if is_lost(&error) => return,
            answer => answer.unwrap(),
        };
        let (table, indexes, rows): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let (seconds, table_kb, indexes_kb) = (self.begun.elapsed().as_secs(), table / 1024, indexes / 1024);
        eprintln!("{seconds:>5} s  table {table_kb:>6} kB  indexes {indexes_kb:>6} kB  {rows:>6} rows{said}");
        self.samples.push((table, indexes));
    }

    /// Fails the test if the second half went on growing by more than this.
    fn assert_level(&self, indexes_may: i64) {
        let (half, last) = (self.samples[self.samples.len() / 2], self.samples[self.samples.len() - 1]);
        assert!(
            last.0 * 2 <= half.0 * 3 && (last.1 - indexes_may) * 2 <= half.1 * 3,
            "it grows: {half:?}, then {last:?}"
        );
    }
}

/// Long enough for autovacuum to have its say.
fn is_long(time: Duration) -> bool {
    time >= Duration::from_secs(300)
}

/// What an administrator, a kill and the recovery after it have the server log.
const EXPECTED: &[&str] = &[
    "FATAL:  terminating background worker \"temptoken sweep",
    "WARNING:  terminating connection because of crash of another server process",
    "FATAL:  the database system is in recovery mode",
    "FATAL:  the database system is starting up",
    "FATAL:  the database system is not yet accepting connections",
];

#[test]
fn all_jobs_at_once_with_processes_killed_agree_with_the_ledger() {
    let time = soak_time().unwrap_or(Duration::from_secs(15));
    let cluster = Cluster::with_extension(&[
        "temptoken.sweep_batch_size = 100",
        "autovacuum_naptime = 5s",
        "deadlock_timeout = 100ms",
    ]);
    let run = Run { cluster: &cluster, over: AtomicBool::new(false), answers: Mutex::default() };
    text(&mut run.connect(), REGISTER);
    let mut sizes = Sizes::new();
    let mut visitors: Vec<Visitor<'_>> = std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let run = &run;
                    move || Visitor::new(run, number).stay()
                })
            })
            .collect();
        let killer = scope.spawn(|| kill(&run, time));
        let begun = Instant::now();
        let every = Duration::min(time / 2, Duration::from_secs(60));
        while run.goes_on() && begun.elapsed() < time {
            std::thread::sleep(Duration::from_millis(100));
            if begun.elapsed() >= every * (sizes.samples.len() as u32 + 1) {
                sizes.sample(&mut run.connect(), &run.summary());
            }
        }
        run.over.store(true, Ordering::Relaxed);
        killer.join().unwrap();
        visitors.into_iter().map(|visitor| visitor.join().unwrap()).collect()
    });
    let mut client = run.connect();
    for visitor in &mut visitors {
        check(&run, &mut visitor.live);
        visitor.check_ended();
    }
    let expired =
        "SELECT count(*) FROM temptoken.temp_tokens WHERE expires_at <= clock_timestamp() + interval '5 seconds'";
    wait_until("what expired is swept", || text(&mut client, expired) == "0");
    // In the table: what lives, and what may have been minted without an answer.
    let rows = client.query("SELECT replace(id::text, '-', ''), resource_id FROM temptoken.temp_tokens", &[]).unwrap();
    let mut live: BTreeSet<String> = BTreeSet::new();
    let mut lost: Vec<String> = Vec::new();
    for visitor in &mut visitors {
        check(&run, &mut visitor.live);
        live.extend(visitor.live.iter().filter(|entry| !entry.is_over()).map(|entry| entry.id().to_owned()));
        lost.append(&mut visitor.lost_mints);
    }
    let known = live.len();
    for row in rows {
        let (id, resource_id): (String, String) = (row.get(0), row.get(1));
        if !live.remove(&id) {
            let at = lost.iter().position(|lost| *lost == resource_id);
            lost.swap_remove(at.unwrap_or_else(|| panic!("nobody was given {id} for {resource_id}")));
        }
    }
    assert!(live.is_empty(), "these have disappeared: {live:?}");
    eprintln!("{known} tokens live, and all of them are there");
    let answers = run.answers.into_inner().unwrap();
    for (what, times) in &answers {
        eprintln!("{times:>9}  {what}");
    }
    let happened =
        ["mint: ok", "try_validate: ok", "validate: token_used_up", "delete: true", "pg_terminate_backend", "kill -9"];
    assert!(happened.iter().all(|what| answers.contains_key(*what)), "{answers:?}");
    let log = cluster.log();
    assert!(log.contains("temptoken: swept database \"postgres\": "), "{log}");
    for line in log.lines() {
        let is_trouble = ["WARNING:", "ERROR:", "FATAL:", "PANIC:", "panicked"].iter().any(|word| line.contains(word));
        assert!(!is_trouble || EXPECTED.iter().any(|expected| line.contains(expected)), "{line}");
    }
    if is_long(time) {
        // A crash forgets which pages of an index are free, and it grows until VACUUM has found them again.
        sizes.assert_level(answers["kill -9"] as i64 * 128 * 1024);
    }
}

/// A thousand mints a second that live for a minute: the table levels off with nothing tuned.
#[test]
fn under_a_steady_load_the_table_stops_growing() {
    let Some(time) = soak_time() else {
        return common::skipped("only `make soak` takes the time for this");
    };
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 5s"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let (over, minted) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut sizes = Sizes::new();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let minter = || {
            let _guard = EndsTheRun(&over);
            let mut client = cluster.connect("postgres");
            let many = "SELECT count(token) FROM temptoken_mint_many('flows',
                            ARRAY(SELECT gen_random_uuid()::text FROM generate_series(1, 10)), '1 minute')";
            let many = client.prepare(many).unwrap();
            for turn in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                minted.fetch_add(client.query_one(&many, &[]).unwrap().get::<_, i64>(0) as u64, Ordering::Relaxed);
                let next = Duration::from_millis(turn * 40);
                std::thread::sleep(next.saturating_sub(begun.elapsed()));
            }
        };
        for _ in 0..4 {
            scope.spawn(minter);
        }
        while begun.elapsed() < time && !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
            if begun.elapsed() >= Duration::from_secs(30) * (sizes.samples.len() as u32 + 1) {
                sizes.sample(&mut client, &format!("  {} minted", minted.load(Ordering::Relaxed)));
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let minted = minted.into_inner();
    wait_until("what is minted is swept or there", || {
        let rows: u64 = text(&mut client, "SELECT count(*) FROM temptoken.temp_tokens").parse().unwrap();
        cluster.rows_logged("postgres") + rows == minted
    });
    let rate = minted as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{rate:.0} mints a second");
    if is_long(time) {
        assert!(rate > 500.0, "{rate} mints a second are no load");
        sizes.assert_level(0);
    }
}
