//! The launcher: at each interval it runs a worker for each database, one after the other.
//!
//! Where the library is preloaded there is one for all databases; else `temptoken_sweep_worker_start()` starts one for its
//! database alone.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

use pgrx::PgMemoryContexts;
use pgrx::PgSqlErrorCode;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker};
use pgrx::pg_sys::{self, Datum};

use super::by_hand::{self, Me};
use super::place::Worker;
use super::status;
use super::worker::{self, OVERDUE};
use super::{LIBRARY, end, heed_signals, idle, is_running, is_told_to_end, log_failure, micros, sleep};
use crate::{pg, settings};

pub const NAME: &str = "temptoken sweep launcher";

/// How long the launcher waits for a worker that it has told to end. Then it goes on with other databases. It skips this one
/// until the worker is gone.
const PARTING: Duration = Duration::from_secs(1);

const NO_SLOT: &str = "no background worker slot is free; raise max_worker_processes";
const DIED: &str = "the worker ended before it was through; the server's log says why";
const ENDED: &str = "the worker was ended after 4 s: a trigger, a lock or too large a batch held it up";
const _: () = assert!(OVERDUE.as_secs() == 4, "the messages around this line name it");
const STUCK: &str = "the worker was told to end after 4 s, and has not; it holds a worker slot until it does";

/// The registration of a launcher, without what differs between the two kinds.
pub fn builder(name: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(name)
        .set_type(NAME)
        .set_library(LIBRARY)
        .set_function("temptoken_sweep_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(5)))
}

/// Registers the launcher for all databases with the postmaster. It starts once the server accepts writes, so on a
/// standby when that is promoted, and again after it has ended for whatever reason.
pub fn register() {
    builder(NAME).load();
}

/// Main of the launcher process; its argument is the oid of the only database to sweep, or 0 for all.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn temptoken_sweep_launcher_main(argument: Datum) {
    pg::listen_to_signals();
    // SAFETY: called once, before any access. Without a database a process can read the shared catalogs only. The launcher needs
    // no more, and keeps nobody from dropping a database.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let me = match argument.value() as u32 {
        0 => {
            status::note_crash(pg::now());
            None
        }
        only => match Me::hello(only) {
            None => return,
            me => me,
        },
    };
    let mut logged = Logged::default();
    loop {
        let started = Instant::now();
        announce(me, pg::now());
        sweep_all(databases(me, &mut logged), &mut logged);
        loop {
            if me.is_some_and(|me| !me.goes_on()) {
                return;
            }
            // The interval counts from the start of a round. A reload may have changed it.
            let left = settings::sweep_interval().saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            announce(me, pg::now().saturating_add(micros(left)));
            sleep(left.max(Duration::from_millis(1)), idle());
            heed_signals();
        }
    }
}

/// Publishes when the next round begins.
fn announce(me: Option<Me>, next_start: i64) {
    match me {
        None => status::set_launcher(pg::pid(), next_start),
        Some(me) => _ = status::amend(me.database, |place| place.next_start = next_start),
    }
}

/// What the launcher has logged, so that it does not log the same in each round.
#[derive(Default)]
struct Logged {
    no_slot: bool,
    /// The value of temptoken.sweep_databases, and the names in it that no database has.
    unknown: (CString, Vec<CString>),
}

/// A database to sweep.
struct Database {
    oid: u32,
    name: CString,
}

/// Sweeps each database once, then revisits those that ran out of time, until all are done or the interval is over.
fn sweep_all(databases: Vec<Database>, logged: &mut Logged) {
    let (started, now, interval) = (Instant::now(), pg::now(), micros(settings::sweep_interval()));
    // Those whose last sweep failed come last: they may take long.
    let of = |database: &Database| status::of(database.oid);
    let (failing, healthy): (Vec<_>, Vec<_>) = databases
        .into_iter()
        .filter(|database| of(database).is_none_or(|place| !place.is_left_alone(now, interval)))
        .partition(|database| of(database).is_some_and(|place| place.failing));
    let mut turns: VecDeque<_> = healthy.into_iter().chain(failing).collect();
    while let Some(database) = turns.pop_front() {
        heed_signals();
        if !run_worker(&database) {
            let now = pg::now();
            turns.push_front(database);
            turns.iter().for_each(|database| _ = status::change(database.oid, |place| place.fail(now, NO_SLOT)));
            if !logged.no_slot {
                pgrx::log!(
                    "temptoken: {NO_SLOT}; expired tokens stay until it can start one, at the next interval or later"
                );
            }
            logged.no_slot = true;
            return;
        }
        // When the interval is over, the next round begins at once, with the databases that exist by then.
        let in_time = started.elapsed() < settings::sweep_interval();
        if in_time
            && !by_hand::is_told_to_stop(database.oid)
            && of(&database).is_some_and(|place| place.paused && place.worker == Worker::None)
        {
            turns.push_back(database);
        }
    }
    logged.no_slot = false;
}

/// Runs a worker for `database`, to its end or until it is overdue. False when no slot is free.
fn run_worker(database: &Database) -> bool {
    if let Some(Worker::Running(pid)) = status::of(database.oid).map(|place| place.worker)
        && is_running(pid)
    {
        // It was told to end, and still runs.
        return true;
    }
    status::change(database.oid, |place| place.register_worker());
    let run = |_: &mut PgMemoryContexts| worker::start(database.oid).map(wait_for_worker);
    // SAFETY: PostgreSQL's handle of the worker lies in this context. It is not used after the context is freed.
    let Some(end) = (unsafe { PgMemoryContexts::new("temptoken sweep").switch_to(run) }) else { return false };
    let (now, batch_size) = (pg::now(), settings::sweep_batch_size());
    // A worker that left in order has set its state to None.
    let is_new = status::amend(database.oid, |place| match end {
        _ if place.worker == Worker::None => false,
        WorkerEnd::ByItself => {
            place.fail(now, DIED);
            // The postmaster or the worker has logged why.
            false
        }
        WorkerEnd::Overdue => place.end_overdue(now, ENDED, batch_size),
        WorkerEnd::Stuck(pid) => {
            let is_new = place.end_overdue(now, STUCK, batch_size);
            place.worker = Worker::Running(pid);
            is_new
        }
    });
    if is_new == Some(true) {
        let message = if matches!(end, WorkerEnd::Stuck(_)) { STUCK } else { ENDED };
        log_failure(&database.name.to_string_lossy(), PgSqlErrorCode::ERRCODE_QUERY_CANCELED, message, None);
    }
    true
}

/// How the launcher's wait for a worker ends.
#[derive(Clone, Copy)]
enum WorkerEnd {
    ByItself,
    /// The launcher has ended it.
    Overdue,
    /// The launcher has told this pid to end, and it has not.
    Stuck(i32),
}

/// Waits until the worker ends, and has the postmaster end it when it takes too long.
fn wait_for_worker(worker: DynamicBackgroundWorker) -> WorkerEnd {
    let mut begun = None;
    loop {
        let left = match worker.pid() {
            Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied) => {
                return WorkerEnd::ByItself;
            }
            Ok(pid) => {
                let left = OVERDUE.saturating_sub(begun.get_or_insert_with(Instant::now).elapsed());
                if left.is_zero() {
                    worker.terminate();
                    return see_off(pid);
                }
                left
            }
            // The postmaster has not started it yet. It wakes this process when it does.
            Err(_) => Duration::from_secs(60),
        };
        sleep(left.max(Duration::from_millis(1)), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
        if is_told_to_end() {
            // Once this process is gone, nobody would end the worker when it is overdue.
            worker.terminate();
            end();
        }
        heed_signals();
    }
}

/// Waits for the end of a worker that was told to end.
fn see_off(pid: i32) -> WorkerEnd {
    let begun = Instant::now();
    while is_running(pid) {
        if begun.elapsed() >= PARTING {
            return WorkerEnd::Stuck(pid);
        }
        sleep(Duration::from_millis(10), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
        heed_signals();
    }
    WorkerEnd::Overdue
}

/// Whether a database is one to sweep: connectable, no template, and named by the setting.
pub fn is_to_be_swept(database: &pg_sys::FormData_pg_database) -> bool {
    // What an interrupted DROP DATABASE leaves (catalog/pg_database.h, DATCONNLIMIT_INVALID_DB).
    let is_valid = database.datconnlimit != -2;
    is_valid && database.datallowconn && !database.datistemplate && settings::sweeps_database(name_of(database))
}

fn name_of(database: &pg_sys::FormData_pg_database) -> &CStr {
    // SAFETY: the name of a database is a C string, within its row.
    unsafe { CStr::from_ptr(database.datname.data.as_ptr()) }
}

/// The databases to sweep: all, or with `me` the one of this launcher. Frees the places of dropped databases, which ends
/// their launchers.
fn databases(me: Option<Me>, logged: &mut Logged) -> Vec<Database> {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    // SAFETY: reads pg_database as the autovacuum launcher does (postmaster/autovacuum.c, get_database_list): a shared
    // catalog, in a transaction of its own.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        pg_sys::StartTransactionCommand();
        pg_sys::GetTransactionSnapshot();
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            let database = Database { oid: row.oid.to_u32(), name: name_of(row).to_owned() };
            let to = if is_to_be_swept(row) { &mut found } else { &mut others };
            to.push(database);
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, lock);
        pg_sys::CommitTransactionCommand();
    }
    let any = |is_meant: &dyn Fn(&Database) -> bool| found.iter().chain(&others).any(is_meant);
    status::retain(|oid| any(&|database| database.oid == oid));
    match me {
        None => log_unknown(|name| any(&|database| database.name.as_c_str() == name), logged),
        Some(me) => found.retain(|database| database.oid == me.database),
    }
    found
}

/// Logs the names in temptoken.sweep_databases that no database has: once, and again when there are others or the setting has
/// changed.
fn log_unknown(is_there: impl Fn(&CStr) -> bool, logged: &mut Logged) {
    let (setting, mut names) = settings::sweep_databases();
    names.retain(|name| !is_there(name));
    let unknown = (setting, names);
    if unknown == logged.unknown {
        return;
    }
    for name in &unknown.1 {
        pgrx::log!(
            "temptoken: there is no database \"{}\", which temptoken.sweep_databases names",
            name.to_string_lossy()
        );
    }
    logged.unknown = unknown;
}
