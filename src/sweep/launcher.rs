//! The launcher: at each interval, one worker after the other for every database that is to be swept.
//!
//! Where the library is preloaded there is one for all databases; else `temptoken_sweep_worker_start()` starts one for its
//! database alone.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::PgMemoryContexts;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys::{self, Datum, Oid};

use super::status::{self, Place};
use super::{LIBRARY, has_ended, heed_signals, idle, is_running, listen_to_signals, sleep, wake, worker};
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
    /// One was started before. It may be about to come back after an error.
    Already,
    NoSlot,
}

/// Starts a launcher for `database` alone.
pub fn start(database: u32) -> Start {
    // Not before the table was made, which tells it from one that has survived a crash.
    let (me, now) = (pg::pid(), status::made_at().max(pg::now()));
    loop {
        let seen = status::of(database).map_or(0, |place| place.launcher);
        let lives = is_running(seen.abs());
        // While it is being started, who starts it stands in for it.
        let reserved = status::change(database, |place| match place.launcher {
            launcher if launcher != seen => None,
            // One that has been told to stop, and has not yet, goes on.
            _ if lives || (seen > 0 && !place.stop) => {
                place.stop = false;
                Some(false)
            }
            _ => {
                (place.launcher, place.started_at, place.stop) = (-me, now, false);
                Some(true)
            }
        });
        match reserved {
            Some(Some(true)) => break,
            Some(Some(false)) => return Start::Already,
            Some(None) => pg::check_for_interrupts(),
            None => return Start::NoSlot,
        }
    }
    let started = builder(&format!("{NAME} for database {database}"))
        .set_argument(Some(Oid::from(database).into()))
        .set_extra(&now.to_string())
        .set_notify_pid(me)
        .load_dynamic()
        .ok()
        .and_then(|launcher| launcher.wait_for_startup().ok());
    status::amend(database, |place| {
        if place.launcher == -me {
            place.launcher = started.unwrap_or(0);
        }
    });
    if started.is_some() { Start::Started } else { Start::NoSlot }
}

/// Stops the launcher that was started for `database` alone, and waits until it has ended; false when there was none.
pub fn stop(database: u32) -> bool {
    let launcher = status::of(database).map_or(0, |place| place.launcher);
    let runs = is_running(launcher);
    // One that is not running may be about to come back, or, if it is being started, to come.
    let told = status::amend(database, |place| {
        let told = launcher != 0 && place.launcher == launcher && (runs || !place.stop);
        place.stop |= told;
        told
    });
    if told != Some(true) {
        return false;
    }
    while is_running(launcher) && status::of(database).is_some_and(|place| place.launcher == launcher && place.stop) {
        wake(launcher);
        sleep(Duration::from_millis(10), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
        pg::check_for_interrupts();
    }
    true
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
    if only != 0 {
        let started_at = BackgroundWorker::get_extra().parse().unwrap_or(0);
        let made_at = status::made_at();
        status::change(only, |place| place.take_over(pg::pid(), started_at, made_at));
        if !goes_on(only) {
            return;
        }
    }
    let mut no_slot_logged = false;
    loop {
        let started = Instant::now();
        announce(only, pg::now());
        no_slot_logged = sweep_all(databases(only), no_slot_logged);
        loop {
            if only != 0 && !goes_on(only) {
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

/// Whether this process is the launcher of `database` and has not been told to stop, which it then does.
fn goes_on(database: u32) -> bool {
    status::amend(database, |place| place.goes_on(pg::pid())).unwrap_or(false)
}

/// Says when the next round begins.
fn announce(only: u32, next_start: i64) {
    match only {
        0 => status::set_launcher(pg::pid(), next_start),
        _ => _ = status::amend(only, |place| place.next_start = next_start),
    }
}

/// Sweeps `databases`, one after the other and then, within the interval, what had more to do than fits in a turn, again.
/// Answers whether no worker slot was free; that is logged when it begins, not each time.
fn sweep_all(databases: Vec<u32>, no_slot_logged: bool) -> bool {
    let started = Instant::now();
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
        // Past the interval the next round begins at once, with the databases that there are by then.
        let in_time = started.elapsed() < settings::sweep_interval();
        if in_time && status::of(database).is_some_and(|place| place.paused && !place.stop) {
            turns.push_back(database);
        }
    }
    false
}

/// Runs a worker for `database`, to its end. False when no slot is free.
fn run_worker(database: u32) -> bool {
    status::amend(database, Place::expect);
    let run = |_: &mut PgMemoryContexts| match worker::start(database) {
        Some(running) => {
            while !has_ended(&running) {
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
        status::amend(database, |place| place.fail(pg::now(), error));
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

/// The databases to sweep; `only` one, if that is not 0. What is known of those that are no more is forgotten, which ends
/// their launchers.
fn databases(only: u32) -> Vec<u32> {
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
    status::retain(&all);
    found.retain(|database| only == 0 || *database == only);
    found
}
