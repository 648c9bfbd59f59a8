//! Sweeping through what happens to a server in its life: a standby promoted, a volume full, the clock set, settings of
//! roles, databases that come and go, a backlog, sweeps by hand at the same time. Driven from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::common::{
    self, Clock, Cluster, LAUNCHER, REGISTER, WORKERS, has_tokens, mint, sqlstate, stays_for, text, value, wait_for,
    wait_until,
};
use postgres::Client;
use tempfile::TempDir;

/// What a server logs when something has gone wrong.
const TROUBLE: &[&str] = &["ERROR:", "FATAL:", "PANIC:", "WARNING:", "panicked"];

fn assert_no_trouble(log: &str) {
    assert!(!TROUBLE.iter().any(|word| log.contains(word)), "{log}");
}

/// As [`assert_no_trouble`], but for lines with these words.
fn assert_no_trouble_but(log: &str, words: &str) {
    for line in log.lines().filter(|line| !line.contains(words)) {
        assert_no_trouble(line);
    }
}

fn status(client: &mut Client, token: &str) -> String {
    text(client, &format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status"))
}

fn mint_one(client: &mut Client, ttl: &str) -> String {
    text(client, &format!("SELECT temptoken_mint('files', '42', '{ttl}')"))
}

#[test]
fn a_standby_has_no_launcher_and_nothing_to_say_until_it_is_promoted() {
    if !common::has_program("pg_basebackup") {
        return common::skipped("a standby is not tested: this PostgreSQL comes without pg_basebackup");
    }
    let primary = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = primary.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 5, "1 millisecond");
    let token = mint_one(&mut client, "1 hour");
    let standby = primary.standby();
    standby.configure(&["temptoken.sweep_interval = 1s"]);
    standby.reload();
    let mut reader = standby.connect("postgres");
    wait_until("the reload is in force", || text(&mut reader, "SHOW temptoken.sweep_interval") == "1s");
    stays_for(Duration::from_millis(2_500), "nothing sweeps", || {
        assert_eq!(status(&mut reader, &token), "ok");
        has_tokens(&mut reader, 6) && value(&mut reader, LAUNCHER).is_none() && value(&mut reader, WORKERS).is_none()
    });
    let stands_by = "worker = 'standby' AND rows_waiting = 5 AND last_start IS NULL AND next_start IS NULL";
    assert_eq!(text(&mut reader, &format!("SELECT {stands_by} FROM temptoken_sweep_status()")), "t");
    let log = standby.log();
    assert!(!log.contains("temptoken:") && !log.contains("temptoken sweep"), "{log}");
    assert_no_trouble(&log);
    primary.stop("fast");
    // It has lost its primary, and says so.
    let before = standby.log().len();
    text(&mut reader, "SELECT pg_promote()");
    wait_until("the launcher runs", || value(&mut reader, LAUNCHER).is_some());
    wait_until("what had expired before is swept", || has_tokens(&mut reader, 1));
    assert_eq!(status(&mut reader, &token), "ok");
    mint(&mut reader, 5, "1 millisecond");
    wait_until("what expires after is swept", || has_tokens(&mut reader, 1));
    let log = standby.log();
    for line in log[before..].lines().filter(|line| line.contains("temptoken:") || line.contains("temptoken sweep")) {
        assert!(line.contains("temptoken: swept database \"postgres\": 5 rows in"), "{line}");
    }
}

/// A volume of its own, small enough to fill up.
struct Volume {
    dir: TempDir,
}

impl Volume {
    /// None where this user may not mount one.
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("temptoken-volume-").tempdir_in("/tmp").unwrap();
        let options = format!("size={size},mode=1777");
        let mut mount = common::root_program("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self { dir })
    }

    /// A directory on it for the server to write to.
    fn for_server(&self) -> PathBuf {
        let dir = self.dir.path().join("server");
        fs::create_dir(&dir).unwrap();
        common::give_to_server(&dir);
        dir
    }

    /// Leaves no room on it; the file that takes it.
    fn fill(&self) -> PathBuf {
        let path = self.dir.path().join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = common::root_program("umount").arg("--lazy").arg(self.dir.path()).status();
    }
}

/// The tables on a full volume, WAL on another, as where a tablespace has a disk of its own. (Where WAL has no room the
/// server itself stops.)
#[test]
fn a_full_volume_stops_minting_cleanly_and_nothing_else() {
    let Some(volume) = Volume::mount("64m") else {
        return common::skipped("a full volume is not tested: this user may not mount a tmpfs, nor with sudo");
    };
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut postgres = cluster.connect("postgres");
    let location = volume.for_server();
    postgres.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", location.display())).unwrap();
    postgres.batch_execute("CREATE DATABASE small TABLESPACE small").unwrap();
    let mut client = cluster.connect("small");
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut client, REGISTER);
    let token = mint_one(&mut client, "1 hour");
    let doomed = mint_one(&mut client, "1 hour");
    let expired = mint_one(&mut client, "1 millisecond");
    mint(&mut client, 500, "1 millisecond");
    // What is in memory only would have no room later.
    client.batch_execute("CHECKPOINT").unwrap();
    let filler = volume.fill();
    // Many at once: none of them is there.
    let many = "SELECT count(*) FROM temptoken_mint_many('files',
                    ARRAY(SELECT i::text FROM generate_series(1, 20000) AS i), '1 hour')";
    assert_eq!(sqlstate(&mut client, many), "53100");
    assert!(has_tokens(&mut client, 503));
    // One by one, until the pages that are there are full.
    let one = "SELECT temptoken_mint('files', '42', '1 hour')";
    let mut minted = 0;
    let failure = wait_for("a mint fails", || match sqlstate(&mut client, one) {
        state if state == "ok" => {
            minted += 1;
            None
        }
        state => Some(state),
    });
    assert_eq!(failure, "53100");
    // Here and in a new session.
    for client in [&mut client, &mut cluster.connect("small")] {
        assert_eq!(status(client, &token), "ok");
        assert_eq!(status(client, &expired), "token_expired");
        assert_eq!(sqlstate(client, one), "53100");
    }
    assert_eq!(text(&mut client, &format!("SELECT temptoken_delete('{doomed}')")), "t");
    assert_eq!(status(&mut client, &doomed), "token_not_found");
    assert!(has_tokens(&mut client, 502 + minted));
    // To remove rows takes no room.
    cluster.configure(&["temptoken.sweep_interval = 1s"]);
    cluster.reload();
    wait_until("it sweeps though the volume is full", || has_tokens(&mut client, 1 + minted));
    client.batch_execute("CHECKPOINT").unwrap();
    fs::remove_file(filler).unwrap();
    assert_eq!(sqlstate(&mut client, many), "ok");
    mint(&mut client, 10, "1 millisecond");
    wait_until("it sweeps", || has_tokens(&mut client, 20_001 + minted));
    assert_eq!(status(&mut client, &token), "ok");
    assert_no_trouble_but(&cluster.log(), "No space left on device");
    drop((client, postgres));
    cluster.stop("fast");
}

/// What a publication streams: its messages by pgoutput, the output plugin that every PostgreSQL has.
fn stream(columns: &str, rest: &str) -> String {
    format!(
        "SELECT {columns} FROM pg_logical_slot_get_binary_changes('slot', NULL, NULL, 'proto_version', '1', \
             'publication_names', 'everything') {rest}"
    )
}

/// A sweep commits without waiting for its WAL; the stream has only what is on disk.
fn flush(client: &mut Client) {
    text(client, "SELECT pg_logical_emit_message(true, '', '')");
}

fn publish_everything(client: &mut Client) {
    client.batch_execute("CREATE PUBLICATION everything FOR ALL TABLES").unwrap();
    text(client, "SELECT pg_create_logical_replication_slot('slot', 'pgoutput')");
}

#[test]
fn under_a_publication_of_all_tables_everything_works_and_the_stream_has_hashes_only() {
    let cluster = Cluster::with_extension(&["wal_level = logical"]);
    let mut client = cluster.connect("postgres");
    publish_everything(&mut client);
    text(&mut client, "SELECT temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}', 2)");
    let (used, deleted) = (mint_one(&mut client, "1 hour"), mint_one(&mut client, "1 hour"));
    assert_eq!(status(&mut client, &used), "ok");
    assert_eq!(text(&mut client, &format!("SELECT temptoken_delete('{deleted}')")), "t");
    mint(&mut client, 5, "1 millisecond");
    wait_until("it sweeps", || has_tokens(&mut client, 1));
    flush(&mut client);
    // Insert, update and delete messages begin with I, U and D.
    let of_kind =
        "string_agg(chr(get_byte(data, 0)), '' ORDER BY ordinality) AS kinds, string_agg(data, ''::bytea) AS data";
    let all = stream("data, row_number() OVER () AS ordinality", "WHERE chr(get_byte(data, 0)) IN ('I', 'U', 'D')");
    client.batch_execute(&format!("CREATE TABLE streamed AS SELECT {of_kind} FROM ({all}) AS changes")).unwrap();
    // The scope; two tokens, a use, a deletion; five more, and the sweep.
    assert_eq!(text(&mut client, "SELECT kinds FROM streamed"), "IIIUDIIIIIDDDDD");
    let hash = text(&mut client, "SELECT encode(token_hash, 'hex') FROM temptoken.temp_tokens");
    // As bytes and as text.
    let mut streams = |hex: &str| {
        let found = format!("'{hex}' IN encode(data, 'hex')) + position(convert_to('{hex}', 'UTF8') IN data) > 0");
        text(&mut client, &format!("SELECT position({found} FROM streamed"))
    };
    assert_eq!(streams(&hash), "t", "the search finds what is there");
    for token in [&used, &deleted] {
        assert_eq!(streams(&token[35..]), "f");
    }
    assert_no_trouble(&cluster.log());
}

#[test]
fn a_backlog_goes_in_transactions_of_at_most_the_batch_size() {
    const BACKLOG: u32 = 300_000;
    const BATCH: u64 = 10_000;
    let cluster =
        Cluster::with_extension(&["temptoken.sweep_interval = 1h", "wal_level = logical", "autovacuum = off"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let token = mint_one(&mut client, "1 hour");
    mint(&mut client, BACKLOG, "1 millisecond");
    publish_everything(&mut client);
    cluster.configure(&[&format!("temptoken.sweep_batch_size = {BATCH}"), "temptoken.sweep_interval = 1s"]);
    cluster.reload();
    wait_until("it is swept, and validation goes on meanwhile", || {
        assert_eq!(status(&mut client, &token), "ok");
        has_tokens(&mut client, 1)
    });
    wait_until("all is logged", || cluster.rows_logged("postgres") == BACKLOG.into());
    flush(&mut client);
    let per_transaction = stream("count(*) AS rows", "WHERE chr(get_byte(data, 0)) = 'D' GROUP BY xid");
    let (rows, largest) = {
        let sql = format!("SELECT sum(rows)::bigint, max(rows) FROM ({per_transaction}) AS deletes");
        let row = client.query_one(&sql, &[]).unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    assert_eq!((rows as u32, largest as u64), (BACKLOG, BATCH));
}

/// Sessions mint, sessions sweep by hand, the worker sweeps.
#[test]
fn sweeps_at_the_same_time_count_every_row_once_and_take_none_that_lives() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_batch_size = 100", "deadlock_timeout = 100ms"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let over = AtomicBool::new(false);
    let goes_on = || !over.load(Ordering::Relaxed);
    // Long-lived and short-lived ones in turn; the ids that live, and how many were to expire.
    let minter = || {
        let mut client = cluster.connect("postgres");
        let (mut live, mut expired) = (BTreeSet::new(), 0);
        while goes_on() {
            live.insert(mint_one(&mut client, "1 hour")[3..35].to_owned());
            mint(&mut client, 50, "1 millisecond");
            live.insert(mint_one(&mut client, "10 minutes")[3..35].to_owned());
            mint(&mut client, 25, "20 milliseconds");
            expired += 75;
        }
        (live, expired)
    };
    let sweeper = || {
        let mut client = cluster.connect("postgres");
        let mut removed = 0;
        while goes_on() {
            removed += text(&mut client, "SELECT temptoken_delete_expired()").parse::<u64>().unwrap();
        }
        removed
    };
    let (minted, by_hand) = std::thread::scope(|scope| {
        let minters: Vec<_> = (0..3).map(|_| scope.spawn(minter)).collect();
        let sweepers: Vec<_> = (0..3).map(|_| scope.spawn(sweeper)).collect();
        std::thread::sleep(Duration::from_secs(4));
        over.store(true, Ordering::Relaxed);
        let minted: Vec<_> = minters.into_iter().map(|minter| minter.join().unwrap()).collect();
        (minted, sweepers.into_iter().map(|sweeper| sweeper.join().unwrap()).sum::<u64>())
    });
    let live: BTreeSet<String> = minted.iter().flat_map(|(live, _)| live.iter().cloned()).collect();
    // The last ones are for the worker.
    mint(&mut client, 250, "1 millisecond");
    wait_until("all that expired is swept", || has_tokens(&mut client, live.len() as u32));
    wait_until("no worker is at it any more", || value(&mut client, WORKERS).is_none());
    let expired = minted.iter().map(|(_, expired)| expired).sum::<u64>() + 250;
    let by_worker = cluster.rows_logged("postgres");
    assert!(by_hand > 0 && by_worker >= 250, "{by_hand} {by_worker}");
    assert_eq!(by_hand + by_worker, expired);
    let rows = client.query("SELECT replace(id::text, '-', '') FROM temptoken.temp_tokens", &[]).unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<BTreeSet<String>>(), live);
    assert_no_trouble(&cluster.log());
}

#[test]
fn between_sweeps_there_is_no_worker_and_the_launcher_holds_nothing() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    mint(&mut client, 5, "1 millisecond");
    text(&mut client, &format!("SELECT pg_terminate_backend(({LAUNCHER}))"));
    wait_until("a new launcher has swept", || has_tokens(&mut client, 0));
    wait_until("its worker has left", || value(&mut client, WORKERS).is_none());
    // Held against VACUUM, against DROP DATABASE, against ALTER TABLE.
    let held = "SELECT concat_ws(' ', backend_xmin, backend_xid, xact_start, query_start, datname,
                        (SELECT string_agg(mode, ' ') FROM pg_locks WHERE pg_locks.pid = launcher.pid))
                FROM pg_stat_activity AS launcher WHERE backend_type = 'temptoken sweep launcher'";
    wait_until("the launcher has gone to sleep", || text(&mut client, held).is_empty());
    for _ in 0..100 {
        assert_eq!(text(&mut client, held), "");
        assert_eq!(value(&mut client, WORKERS), None);
    }
}

#[test]
fn when_the_clock_is_set_back_or_forward_the_expiry_of_a_token_decides() {
    const HOUR: i64 = 3600;
    let cluster = Cluster::with_extension(&[]);
    cluster.stop("fast");
    let before = cluster.log().len();
    let clock = Clock::start(&cluster);
    clock.set(HOUR);
    let mut client = cluster.connect("postgres");
    let hours_ahead = |client: &mut Client| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let sql = format!("SELECT round(((extract(epoch FROM clock_timestamp()) - {now}) / 3600)::numeric)");
        text(client, &sql)
    };
    assert_eq!(hours_ahead(&mut client), "1", "the server's clock can be set");
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('long', ARRAY['GET /files/{id}'], '7 days', '{id}')");
    let kept = text(&mut client, "SELECT temptoken_mint('long', '42', '3 days')");
    let token = mint_one(&mut client, "100 milliseconds");
    // Sweeps pass over what is locked.
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN").unwrap();
    text(&mut holder, "SELECT id FROM temptoken.temp_tokens WHERE scope = 'files' FOR UPDATE");
    wait_until("it has expired", || status(&mut client, &token) == "token_expired");
    let launcher = wait_for("the launcher runs", || value(&mut client, LAUNCHER));

    clock.set(0);
    assert_eq!(hours_ahead(&mut client), "0");
    assert_eq!(status(&mut client, &token), "ok");
    holder.batch_execute("ROLLBACK").unwrap();
    for _ in 0..3 {
        mint(&mut client, 10, "1 millisecond");
        wait_until("the worker sweeps on its interval", || has_tokens(&mut client, 2));
    }
    assert_eq!(status(&mut client, &token), "ok");

    clock.set(24 * HOUR);
    assert_eq!(hours_ahead(&mut client), "24");
    let answer = status(&mut client, &token);
    assert!(matches!(&*answer, "token_expired" | "token_not_found"), "{answer}");
    wait_until("it is swept", || has_tokens(&mut client, 1));
    assert_eq!(status(&mut client, &kept), "ok");
    mint(&mut client, 10, "1 millisecond");
    wait_until("the worker sweeps on its interval", || has_tokens(&mut client, 1));
    assert_eq!(text(&mut client, LAUNCHER), launcher);
    assert_no_trouble(&cluster.log()[before..]);
}

#[test]
fn no_setting_of_a_role_stops_the_worker() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    client.batch_execute("CREATE ROLE powerless").unwrap();
    let settings = [
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "search_path = nowhere",
        "session_replication_role = replica",
        "row_security = off",
        "temp_file_limit = 0",
        "work_mem = '64kB'",
        "role = powerless",
    ];
    for target in ["ROLE postgres", "ROLE ALL", "ROLE postgres IN DATABASE postgres", "DATABASE postgres"] {
        for setting in settings {
            client.batch_execute(&format!("ALTER {target} SET {setting}")).unwrap();
        }
        mint(&mut client, 50, "1 millisecond");
        wait_until(&format!("it has swept all the same, {target}"), || has_tokens(&mut client, 0));
        client.batch_execute(&format!("ALTER {target} RESET ALL")).unwrap();
    }
    // An encoding is checked where it is set, and another database has more conversions.
    client.batch_execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0").unwrap();
    let encoding = "ALTER DATABASE postgres SET client_encoding = 'MULE_INTERNAL'";
    cluster.connect("ascii").batch_execute(encoding).unwrap();
    mint(&mut client, 50, "1 millisecond");
    wait_until("it has swept all the same, client_encoding", || has_tokens(&mut client, 0));
    client.batch_execute("ALTER DATABASE postgres RESET client_encoding").unwrap();
    // Nor does it when nobody is let in.
    client
        .batch_execute(
            "ALTER ROLE postgres NOLOGIN CONNECTION LIMIT 0;
             ALTER DATABASE postgres CONNECTION LIMIT 0;
             REVOKE CONNECT ON DATABASE postgres FROM PUBLIC, postgres",
        )
        .unwrap();
    mint(&mut client, 50, "1 millisecond");
    wait_until("it has swept all the same", || has_tokens(&mut client, 0));
    assert_no_trouble(&cluster.log());
}

/// A setting that keeps statements from views came with minor versions of 15 and 16.
#[test]
fn no_setting_keeps_the_worker_from_a_view_that_a_trigger_reads() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    let setting = "restrict_nonsystem_relation_kind";
    if value(&mut client, &format!("SELECT current_setting('{setting}', true)")).is_none() {
        return common::skipped(&format!("this PostgreSQL has no {setting}"));
    }
    text(&mut client, REGISTER);
    client
        .batch_execute(&format!(
            "CREATE SCHEMA audit;
             CREATE VIEW audit.switch AS SELECT true AS is_on;
             CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
                 'BEGIN PERFORM FROM audit.switch; RETURN NULL; END';
             CREATE TRIGGER note AFTER DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION audit.note();
             ALTER DATABASE postgres SET {setting} = 'view'"
        ))
        .unwrap();
    mint(&mut client, 50, "1 millisecond");
    wait_until("it has swept all the same", || has_tokens(&mut client, 0));
    assert_no_trouble(&cluster.log());
}

#[test]
fn databases_of_any_name_are_swept_and_logged_by_it() {
    let cluster = Cluster::with_extension(&[]);
    let mut postgres = cluster.connect("postgres");
    let longest = "é".repeat(31) + "x";
    assert_eq!(longest.len(), 63);
    let names = ["it's", " two  spaces ", "100%s %n %d", r"back\slash", "日本語 🐘", "$$;--", "Template1", &longest];
    for name in names {
        postgres.batch_execute(&format!("CREATE DATABASE \"{name}\"")).unwrap();
        let mut client = cluster.connect(name);
        client.batch_execute("CREATE EXTENSION temptoken").unwrap();
        text(&mut client, REGISTER);
        mint(&mut client, 20, "1 millisecond");
    }
    for name in names {
        wait_until(&format!("{name} is swept"), || cluster.rows_logged(name) == 20);
        assert!(has_tokens(&mut cluster.connect(name), 0), "{name}");
    }
    assert_no_trouble(&cluster.log());
}

#[test]
fn databases_come_and_go_while_workers_do() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_batch_size = 100"]);
    let mut postgres = cluster.connect("postgres");
    postgres.batch_execute("CREATE DATABASE model IS_TEMPLATE true").unwrap();
    let mut client = cluster.connect("model");
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut client, REGISTER);
    mint(&mut client, 2_000, "1 millisecond");
    drop(client);
    text(&mut postgres, REGISTER);
    let launcher = wait_for("the launcher runs", || value(&mut postgres, LAUNCHER));
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut client = cluster.connect("postgres");
            for _ in 0..6 {
                mint(&mut client, 10, "1 millisecond");
                wait_until("a database that stays is swept", || has_tokens(&mut client, 0));
            }
        });
        let mut rounds = 0..;
        while let Some(round) = rounds.next().filter(|round| *round < 20 || !others.is_finished()) {
            postgres.batch_execute(&format!("CREATE DATABASE \"new {round}\" TEMPLATE model")).unwrap();
            postgres.batch_execute(&format!("ALTER DATABASE \"new {round}\" RENAME TO \"old {round}\"")).unwrap();
            if round >= 3 {
                postgres.batch_execute(&format!("DROP DATABASE \"old {}\"", round - 3)).unwrap();
            }
        }
    });
    assert_eq!(text(&mut postgres, LAUNCHER), launcher, "the launcher has not started again");
    assert!(has_tokens(&mut cluster.connect("model"), 2_000), "a template is left alone");
    assert_no_trouble_but(&cluster.log(), "does not exist");
}

/// Dropped between the launcher's look at what there is and its worker's connection.
#[test]
fn a_database_that_is_gone_before_its_worker_comes_keeps_no_other_from_its_sweep() {
    let cluster = Cluster::with_extension(&[]);
    let mut postgres = cluster.connect("postgres");
    let mut with_tokens = |name: &str| {
        postgres.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let mut client = cluster.connect(name);
        client.batch_execute("CREATE EXTENSION temptoken").unwrap();
        text(&mut client, REGISTER);
        client
    };
    // The order in which they are swept.
    let mut first = with_tokens("first");
    for number in 0..5 {
        cluster.connect("postgres").batch_execute(&format!("CREATE DATABASE doomed_{number}")).unwrap();
    }
    let mut last = with_tokens("last");
    let launcher = wait_for("the launcher runs", || value(&mut postgres, LAUNCHER));
    first
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(0.1); RETURN OLD; END $$;
             CREATE TRIGGER slow BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .unwrap();
    mint(&mut first, 15, "1 millisecond");
    let busy = format!("{WORKERS} AND wait_event = 'PgSleep'");
    wait_until("the first is being swept", || value(&mut postgres, &busy).is_some());
    for number in 0..5 {
        postgres.batch_execute(&format!("DROP DATABASE doomed_{number}")).unwrap();
    }
    mint(&mut last, 15, "1 millisecond");
    wait_until("the others are swept", || has_tokens(&mut first, 0) && has_tokens(&mut last, 0));
    assert_eq!(text(&mut postgres, LAUNCHER), launcher, "the launcher has not started again");
    assert_no_trouble_but(&cluster.log(), "does not exist");
}
