//! The servers: a throwaway cluster, its databases, and a throwaway Redis.
//!
//! Lives here: settings, and filling databases with tokens. May not come in here: measurements.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use postgres::Client;
use tempfile::TempDir;

use crate::Bench;
use crate::common::{Cluster, REGISTER, text, wait_until};
use crate::progress::Progress;

/// How many calls, of random tokens, each database keeps to be made.
pub const CALLS: usize = 200_000;

/// And how many of the tokens that were minted last.
pub const LATEST: usize = 10_000;

/// How many tokens one statement mints while a database is filled.
const BATCH: usize = 100_000;

/// postgresql.conf of the cluster.
pub fn settings() -> Vec<String> {
    let memory_mb = memory_kb() / 1024;
    vec![
        "fsync = on".into(),
        "synchronous_commit = on".into(),
        "full_page_writes = on".into(),
        format!("shared_buffers = {}MB", (memory_mb / 4).min(8192)),
        // No checkpoint and no vacuum comes but when asked for: they would fall on one of a pair.
        "max_wal_size = 64GB".into(),
        "min_wal_size = 2GB".into(),
        "checkpoint_timeout = 1d".into(),
        "autovacuum = off".into(),
        "jit = off".into(),
        "max_parallel_workers_per_gather = 0".into(),
        "max_connections = 300".into(),
        "temptoken.sweep_interval = 7d".into(),
    ]
}

fn memory_kb() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find(|line| line.starts_with("MemTotal:")).expect("/proc/meminfo has MemTotal");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of kB")
}

pub fn start() -> Cluster {
    let settings = settings();
    Cluster::with_extension(&settings.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Has the server take the settings above with these in addition, or without what was added before.
pub fn configure(cluster: &Cluster, added: &[&str]) {
    let mut settings = settings();
    settings.push("temptoken.sweep_databases = ''".into());
    settings.extend(added.iter().map(|line| line.to_string()));
    cluster.configure(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.reload();
}

/// The database with the tokens that validation is measured on, and with its competitors.
pub fn create_main_database(bench: &Bench) {
    let mut client = create_database_with_tokens(&bench.cluster, &bench.main, bench.tokens, &bench.progress);
    client.batch_execute(include_str!("sql/refused.sql")).unwrap();
    client.batch_execute(include_str!("sql/usual.sql")).unwrap();
    if has_pgcrypto(&mut client) {
        client.batch_execute(include_str!("sql/hs256.sql")).unwrap();
    }
    settle(&mut client);
}

/// Does now what a server would do sooner or later: vacuum, statistics, checkpoint.
pub fn settle(client: &mut Client) {
    for command in ["VACUUM ANALYZE", "CHECKPOINT"] {
        client.batch_execute(command).unwrap();
    }
}

/// Some packagings come without it.
pub fn has_pgcrypto(client: &mut Client) -> bool {
    text(client, "SELECT count(*) FROM pg_available_extensions WHERE name = 'pgcrypto'") == "1"
}

/// A connection as the superuser; unlike a test's, it lets statements take long.
pub fn connect(cluster: &Cluster, database: &str) -> Client {
    let mut client = cluster.connect(database);
    client.batch_execute("SET statement_timeout = 0").unwrap();
    client
}

/// A new database with the extension, the scope `files` and the schema `bench`.
pub fn create_database(cluster: &Cluster, name: &str) -> Client {
    connect(cluster, "postgres").batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    let mut client = connect(cluster, name);
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    client.batch_execute(&REGISTER.replace("1 hour", "7 days")).unwrap();
    client.batch_execute(include_str!("sql/tables.sql")).unwrap();
    client
}

/// A new database with `tokens` live tokens, each with its text in `bench.minted`, and random ones of them in
/// `bench.calls`.
pub fn create_database_with_tokens(cluster: &Cluster, name: &str, tokens: usize, progress: &Progress) -> Client {
    let mut client = create_database(cluster, name);
    for first in (1..=tokens).step_by(BATCH) {
        let last = (first + BATCH - 1).min(tokens);
        client
            .batch_execute(&format!(
                "INSERT INTO bench.minted (n, token, resource_id)
                 SELECT {first} - 1 + m.n, m.token, m.resource_id
                 FROM temptoken_mint_many('files', {ids}, '1 day')
                     WITH ORDINALITY AS m (resource_id, token, n)",
                ids = resource_ids(first, last),
            ))
            .unwrap();
        if last.is_multiple_of(1_000_000) {
            progress.say(&format!("{name}: {last} tokens"));
        }
    }
    client.batch_execute(include_str!("sql/calls.sql")).unwrap();
    settle(&mut client);
    client
}

/// An array of resource ids, one for each number.
pub fn resource_ids(first: usize, last: usize) -> String {
    format!("ARRAY(SELECT 'r' || i FROM generate_series({first}, {last}) AS i)")
}

/// Mints tokens that have expired when this returns.
pub fn mint_expired(client: &mut Client, count: usize) {
    let ids = resource_ids(1, count);
    text(client, &format!("SELECT count(*) FROM temptoken_mint_many('files', {ids}, '1 millisecond')"));
    std::thread::sleep(std::time::Duration::from_millis(5));
}

/// Bytes of WAL written so far.
pub fn wal(client: &mut Client) -> f64 {
    text(client, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')").parse().unwrap()
}

/// A Redis of its own, without persistence, on a unix socket; ends when dropped.
pub struct Redis {
    server: Child,
    directory: TempDir,
}

impl Redis {
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("temptoken-bench-").tempdir_in("/tmp").unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(socket(directory.path())).arg("--dir").arg(directory.path());
        let server = command.stdout(Stdio::null()).spawn().expect("redis-server, which scripts/setup --bench installs");
        let redis = Self { server, directory };
        wait_until("Redis listens", || redis.socket().exists());
        redis
    }

    pub fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    /// Version as the program says it.
    pub fn version() -> String {
        let output = Command::new("redis-server").arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or_default().to_owned()
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("redis.sock")
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
