//! The launcher: at each interval, one worker after the other for every database that is to be swept.
//!
//! Where the library is preloaded there is one for all databases; else `temptoken_sweep_worker_start()` starts one for its
//! database alone.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::PgMemoryContexts;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime};
use pgrx::pg_sys::{self, Datum, Oid};

use super::{LIBRARY, heed_signals, idle, is_running, listen_to_signals, sleep, status, wake, worker};
use crate::{pg, settings};

const NAME: &str = "temptoken sweep launcher";

/// What is said and kept of a database for which no worker could be started.
const NO_SLOT: &str = "no background worker slot is free; raise max_worker_processes";

fn builder(name: &str) -> BackgroundWorkerBuilder {
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

/// What came of starting a launcher for one database.
pub enum Start {
    Started,
    /// One was started before and has not been stopped. It may be about to come back after an error.
    Already,
    NoSlot,
}

/// Starts a launcher for `database` alone.
pub fn start(database: u32) -> Start {
    // SAFETY: reads this process's own pid.
    let me = unsafe { pg_sys::MyProcPid };
    let seen = status::of(database).map_or((0, false), |place| (place.launcher, place.stop));
    if is_in_charge(seen) {
        return Start::Already;
    }
    // While it is being started, who starts it stands in for it.
    let reserved = status::change(database, |place| {
        let unchanged = (place.launcher, place.stop) == seen;
        if unchanged {
            (place.launcher, place.stop) = (-me, false);
        }
        unchanged
    });
    if reserved == Some(false) {
        return Start::Already;
    }
    let started = builder(&format!("{NAME} for database {database}"))
        .set_argument(Some(Oid::from(database).into()))
        .set_notify_pid(me)
        .load_dynamic()
        .ok()
        .and_then(|launcher| launcher.wait_for_startup().ok());
    status::change(database, |place| {
        if place.launcher == -me {
            place.launcher = started.unwrap_or(0);
        }
    });
    if started.is_some() { Start::Started } else { Start::NoSlot }
}

/// Whether there is a launcher, and it was not told to stop. It may be about to come back after an error; a negative pid
/// is that of a session which is starting it.
fn is_in_charge((launcher, stop): (i32, bool)) -> bool {
    !stop && (launcher > 0 || is_running(-launcher))
}

/// Stops the launcher that was started for `database` alone, and waits until it has ended; false when there was none.
pub fn stop(database: u32) -> bool {
    if !status::of(database).is_some_and(|place| is_in_charge((place.launcher, place.stop))) {
        return false;
    }
    status::change(database, |place| place.stop = true);
    loop {
        let launcher = status::of(database).map_or(0, |place| place.launcher);
        if !is_running(launcher) {
            return true;
        }
        wake(launcher);
        sleep(Duration::from_millis(10), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
        pg::check_for_interrupts();
    }
}

/// Main of the launcher process; its argument is the oid of the only database to sweep, or 0 for all.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn temptoken_sweep_launcher_main(argument: Datum) {
    listen_to_signals();
    // SAFETY: once, before any access. Without a database only the shared catalogs can be read, which is all it needs,
    // and no database is held open.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let only = argument.value() as u32;
    if only != 0 && !take_over(only) {
        return;
    }
    let mut no_slot_logged = false;
    loop {
        let started = Instant::now();
        announce(only, pg::now());
        let Some(databases) = databases(only) else {
            status::forget(only);
            return;
        };
        no_slot_logged = sweep_all(databases, no_slot_logged);
        loop {
            if is_told_to_stop(only) {
                return;
            }
            // Counted from the start, and with the interval as it stands after each reload.
            let left = settings::sweep_interval().saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            announce(only, pg::now().saturating_add(left.as_micros() as i64));
            sleep(left.max(Duration::from_millis(1)), idle());
            heed_signals();
        }
    }
}

/// Becomes the launcher of `database`, unless there is one, or it was stopped before it could come back.
fn take_over(database: u32) -> bool {
    // SAFETY: reads this process's own pid.
    let me = unsafe { pg_sys::MyProcPid };
    let other = status::of(database).map_or(0, |place| place.launcher);
    if is_running(other) && other != me {
        return false;
    }
    status::change(database, |place| place.launcher = me);
    !is_told_to_stop(database)
}

/// Whether the launcher of `database` alone was told to stop, which it then does.
fn is_told_to_stop(database: u32) -> bool {
    let stop = database != 0 && status::of(database).is_some_and(|place| place.stop);
    if stop {
        status::change(database, |place| (place.launcher, place.stop) = (0, false));
    }
    stop
}

/// Says when the next round begins.
fn announce(only: u32, next_start: i64) {
    match only {
        // SAFETY: reads this process's own pid.
        0 => status::set_launcher(unsafe { pg_sys::MyProcPid }, next_start),
        _ => _ = status::change(only, |place| place.next_start = next_start),
    }
}

/// Sweeps `databases`, one after the other and then, what had more to do than fits in a turn, again. Answers whether no
/// worker slot was free; that is logged when it begins, not each time.
fn sweep_all(databases: Vec<u32>, no_slot_logged: bool) -> bool {
    let mut turns = VecDeque::from(databases);
    while let Some(database) = turns.pop_front() {
        heed_signals();
        if !run_worker(database) {
            let now = pg::now();
            turns.push_front(database);
            turns.iter().for_each(|database| _ = status::change(*database, |place| place.fail(now, NO_SLOT)));
            if !no_slot_logged {
                pgrx::log!(
                    "temptoken: {NO_SLOT}; expired tokens stay until it can start one, at the next interval or later"
                );
            }
            return true;
        }
        if status::of(database).is_some_and(|place| place.unfinished && !place.stop) {
            turns.push_back(database);
        }
    }
    false
}

/// Runs a worker for `database`, to its end. False when no slot is free.
fn run_worker(database: u32) -> bool {
    let run = |_: &mut PgMemoryContexts| match worker::start(database) {
        Some(running) => {
            while !matches!(
                running.pid(),
                Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied)
            ) {
                sleep(Duration::from_secs(60), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
                heed_signals();
            }
            true
        }
        None => false,
    };
    // SAFETY: what PostgreSQL keeps to follow a worker by is freed with this context, and not used after.
    let started = unsafe { PgMemoryContexts::new("temptoken sweep").switch_to(run) };
    // One that has left in order has said so.
    let died = status::of(database).is_some_and(|place| place.worker != 0 && !is_running(place.worker));
    if started && died {
        let error = "the worker ended before it was through; the server's log says why";
        status::change(database, |place| place.fail(pg::now(), error));
        status::save();
    }
    started
}

/// Whether a database is one to sweep: connectable, no template, and named by the setting.
pub fn is_swept(database: &pg_sys::FormData_pg_database) -> bool {
    // What an interrupted DROP DATABASE leaves (catalog/pg_database.h, DATCONNLIMIT_INVALID_DB).
    let is_valid = database.datconnlimit != -2;
    // SAFETY: the name of a database is a C string.
    let name = unsafe { CStr::from_ptr(database.datname.data.as_ptr()) };
    is_valid && database.datallowconn && !database.datistemplate && settings::sweeps_database(name)
}

/// The databases to sweep; `only` one, if that is not 0, and `None` when that is no more.
fn databases(only: u32) -> Option<Vec<u32>> {
    let (mut all, mut found) = (Vec::new(), Vec::new());
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
            let database = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            all.push(database.oid.to_u32());
            if is_swept(database) {
                found.push(database.oid.to_u32());
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, lock);
        pg_sys::CommitTransactionCommand();
    }
    if only == 0 {
        status::retain(&all);
        return Some(found);
    }
    found.retain(|database| *database == only);
    all.contains(&only).then_some(found)
}
