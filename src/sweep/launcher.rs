//! The launcher: at each interval it runs a worker for each database, one after the other.
//!
//! Where the library is preloaded there is one for all databases; else `temptoken_sweep_worker_start()` starts one for its
//! database alone.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_int};
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use pgrx::PgMemoryContexts;
use pgrx::PgSqlErrorCode;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys::{self, Datum};

use super::place::{ByHand, Place, Worker};
use super::worker::{self, OVERDUE};
use super::{by_hand, heed_signals, idle, is_running, log_failure, micros, sleep, status};
use crate::{counters, pg, settings};

const NAME: &str = "temptoken sweep launcher";

/// How long the launcher waits for a worker that it has told to end. Then it goes on with other databases. It skips this one
/// until the worker is gone.
const PARTING: Duration = Duration::from_secs(1);

/// After this time it tries again to start a worker, where no slot was free.
const RETRY: Duration = Duration::from_secs(5);

const NO_SLOT: &str = "no background worker slot is free; raise max_worker_processes, or lower max_parallel_workers";
const DIED: &str = "the worker ended before it was through; the server's log says why";
const ENDED: &str = "the worker was ended after 4 s: a trigger, a lock or too large a batch held it up";
const _: () = assert!(OVERDUE.as_secs() == 4, "the messages around this line name it");
const STUCK: &str = "the worker was told to end after 4 s, and has not; it holds a worker slot until it does";

/// The registration of a launcher for `database`, or for all with 0. It starts again after it has ended with an error.
pub fn builder(database: u32) -> BackgroundWorkerBuilder {
    super::builder(NAME, "temptoken_sweep_launcher_main", database).set_restart_time(Some(Duration::from_secs(5)))
}

/// Main of the launcher process; its argument is the oid of the only database to sweep, or 0 for all.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn temptoken_sweep_launcher_main(argument: Datum) {
    pg::listen_to_signals();
    // SAFETY: called once, before any access. Without a database a process can read the shared catalogs only. The launcher needs
    // no more, and keeps nobody from dropping a database.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
        pg_sys::before_shmem_exit(Some(end_worker), Datum::from(0));
    }
    let only = Some(argument.value() as u32).filter(|database| *database != 0);
    status::note_crash(pg::now());
    if only.is_some_and(|database| !by_hand::hello(database)) {
        return;
    }
    let mut logged = Logged::default();
    loop {
        let started = Instant::now();
        announce(only, pg::now());
        let has_swept_all = sweep_all(databases(only, &mut logged), &mut logged);
        loop {
            if only.is_some_and(|database| !by_hand::goes_on(database)) {
                return;
            }
            // The interval counts from the start of a round. A reload may have changed it.
            let interval = settings::sweep_interval();
            let left = if has_swept_all { interval } else { interval.min(RETRY) }.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            announce(only, pg::now().saturating_add(micros(left)));
            sleep(left.max(Duration::from_millis(1)), idle());
            heed_signals();
        }
    }
}

/// Publishes when the next round begins.
fn announce(only: Option<u32>, next_start: i64) {
    match only {
        None => status::set_launcher(pg::pid(), next_start),
        Some(database) => _ = status::amend(database, |place| place.next_start = next_start),
    }
}

/// What the launcher has logged, so that it does not log the same in each round.
#[derive(Default)]
struct Logged {
    no_slot: bool,
    /// The value of temptoken.sweep_databases, and the names in it that no database has.
    unknown: (CString, Vec<CString>),
}

/// A row of pg_database.
struct Database {
    oid: u32,
    name: CString,
    is_to_be_swept: bool,
}

/// Sweeps each database once, then revisits those that ran out of time, until all are done or the interval is over. False where no
/// slot was free for a worker.
fn sweep_all(mut databases: Vec<Database>, logged: &mut Logged) -> bool {
    let (started, now, interval) = (Instant::now(), pg::now(), micros(settings::sweep_interval()));
    let of = |database: &Database| status::of(database.oid);
    databases.retain(|database| of(database).is_none_or(|place| !place.is_left_alone(now, interval)));
    // Those whose last sweep failed come last: they may take long.
    databases.sort_by_key(|database| of(database).is_some_and(|place| place.failing));
    let mut turns = VecDeque::from(databases);
    while let Some(database) = turns.pop_front() {
        heed_signals();
        if !run_worker(&database) {
            let now = pg::now();
            turns.push_front(database);
            turns.iter().for_each(|database| _ = status::change(database.oid, |place| place.fail(now, NO_SLOT)));
            if !logged.no_slot {
                pgrx::log!(
                    "temptoken: {NO_SLOT}; expired tokens stay until the launcher can start one, for which it goes on trying"
                );
            }
            logged.no_slot = true;
            return false;
        }
        // When the interval is over, the next round begins at once, with the databases that exist by then.
        let in_time = started.elapsed() < settings::sweep_interval();
        let has_more = |place: Place| place.paused && place.worker == Worker::None && place.by_hand != ByHand::Stopping;
        if in_time && of(&database).is_some_and(has_more) {
            turns.push_back(database);
        }
    }
    logged.no_slot = false;
    true
}

/// Runs a worker for `database`, to its end or until it is overdue. False when no slot is free.
fn run_worker(database: &Database) -> bool {
    if let Some(Worker::Running(pid)) = status::of(database.oid).map(|place| place.worker)
        && is_running(pid)
    {
        // It was told to end, and still runs.
        return true;
    }
    status::change(database.oid, Place::register_worker);
    // PostgreSQL's handle of the worker lies in this context. An error leaves it, since the handle is still needed.
    let run = |_: &mut PgMemoryContexts| {
        WORKER.set(worker::start(database.oid));
        WORKER.with_borrow(Option::is_some).then(wait_for_worker)
    };
    // SAFETY: nobody uses the handle after the context is emptied.
    let ended = HANDLE.with_borrow_mut(|context| unsafe {
        let ended = context.switch_to(run);
        WORKER.set(None);
        context.reset();
        ended
    });
    let Some(ended) = ended else { return false };
    let stuck = ended.filter(|pid| is_running(*pid));
    let message = if stuck.is_some() { STUCK } else { ENDED };
    let (now, batch_size) = (pg::now(), settings::sweep_batch_size());
    let is_new = status::amend(database.oid, |place| {
        if place.worker == Worker::None {
            // It has left in order.
            false
        } else if ended.is_none() {
            place.fail(now, DIED);
            // The postmaster or the worker has logged why.
            false
        } else {
            let is_new = place.fail_batch(now, message, batch_size);
            place.worker = stuck.map_or(Worker::None, Worker::Running);
            is_new
        }
    });
    if is_new == Some(true) {
        log_failure(&database.name.to_string_lossy(), PgSqlErrorCode::ERRCODE_QUERY_CANCELED, message);
    }
    true
}

thread_local! {
    /// The worker that runs.
    static WORKER: RefCell<Option<DynamicBackgroundWorker>> = const { RefCell::new(None) };
    /// The memory of its handle, for as long as this process runs.
    static HANDLE: RefCell<ManuallyDrop<PgMemoryContexts>> =
        RefCell::new(ManuallyDrop::new(PgMemoryContexts::new("temptoken sweep")));
}

/// Has the postmaster end the worker. Also called as this process ends, however it does: nobody else would end a worker that
/// is overdue.
extern "C-unwind" fn end_worker(_code: c_int, _argument: Datum) {
    _ = WORKER.take().map(DynamicBackgroundWorker::terminate);
}

/// Waits until the worker ends. When it takes too long, has the postmaster end it, and returns its pid.
fn wait_for_worker() -> Option<i32> {
    let mut begun = None;
    loop {
        let state = WORKER.with_borrow(|worker| worker.as_ref().map(DynamicBackgroundWorker::pid))?;
        let left = match state {
            Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied) => return None,
            Ok(pid) => {
                let left = OVERDUE.saturating_sub(begun.get_or_insert_with(Instant::now).elapsed());
                if left.is_zero() {
                    end_worker(0, Datum::from(0));
                    see_off(pid);
                    return Some(pid);
                }
                left
            }
            // The postmaster has not started it yet. It wakes this process when it does.
            Err(_) => Duration::from_secs(60),
        };
        sleep(left.max(Duration::from_millis(1)), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
        heed_signals();
    }
}

/// Waits for the end of a worker that was told to end, but no longer than [`PARTING`].
fn see_off(pid: i32) {
    let begun = Instant::now();
    while is_running(pid) && begun.elapsed() < PARTING {
        sleep(Duration::from_millis(10), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
        heed_signals();
    }
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

/// The databases to sweep: all, or `only` one. Frees the places of dropped databases, which ends their launchers.
fn databases(only: Option<u32>, logged: &mut Logged) -> Vec<Database> {
    let mut databases = Vec::new();
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
            databases.push(Database {
                oid: row.oid.to_u32(),
                name: name_of(row).to_owned(),
                is_to_be_swept: is_to_be_swept(row),
            });
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, lock);
        pg_sys::CommitTransactionCommand();
    }
    let is_there = |oid| databases.iter().any(|database| database.oid == oid);
    status::retain(is_there);
    counters::retain(is_there);
    if only.is_none() {
        log_unknown(&databases, logged);
    }
    databases.retain(|database| database.is_to_be_swept && only.is_none_or(|only| database.oid == only));
    databases
}

/// Logs the names in temptoken.sweep_databases that no database has: once, and again when there are others or the setting has
/// changed.
fn log_unknown(databases: &[Database], logged: &mut Logged) {
    let (setting, mut names) = settings::sweep_databases();
    names.retain(|name| databases.iter().all(|database| database.name != *name));
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
