//! The launcher: at each interval, one worker after the other for every database that is to be swept.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pgrx::PgMemoryContexts;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys::{self, Datum, Oid};

use super::{LIBRARY, heed_signals, listen_to_signals, sleep, worker};
use crate::settings;

const NAME: &str = "temptoken sweep launcher";

/// Registers the launcher with the postmaster. It starts once the server accepts writes, so on a standby when that is
/// promoted, and again after it has ended for whatever reason.
pub fn register() {
    BackgroundWorkerBuilder::new(NAME)
        .set_type(NAME)
        .set_library(LIBRARY)
        .set_function("temptoken_sweep_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

/// Main of the launcher process.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn temptoken_sweep_launcher_main(_argument: Datum) {
    listen_to_signals();
    // SAFETY: once, before any access. Without a database only the shared catalogs can be read, which is all it needs,
    // and no database is held open.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let mut no_slot_logged = false;
    loop {
        let started = Instant::now();
        no_slot_logged = sweep_all(no_slot_logged);
        // Counted from the start, and with the interval as it stands after each reload.
        while let Some(left) = settings::sweep_interval().checked_sub(started.elapsed()).filter(|left| !left.is_zero())
        {
            sleep(left.max(Duration::from_millis(1)));
            heed_signals();
        }
    }
}

/// Sweeps every database that is to be swept, one after the other and then, what had more to do than fits in a turn,
/// again. Answers whether no worker slot was free; that is logged when it begins, not each time.
fn sweep_all(no_slot_logged: bool) -> bool {
    let mut turns = VecDeque::from(databases());
    while let Some(database) = turns.pop_front() {
        heed_signals();
        let started = Instant::now();
        if !run_worker(database) {
            if !no_slot_logged {
                pgrx::log!(
                    "temptoken: no background worker slot is free, expired tokens stay until the next interval; raise \
                     max_worker_processes"
                );
            }
            return true;
        }
        if started.elapsed() >= worker::TIME_LIMIT {
            turns.push_back(database);
        }
    }
    false
}

/// Runs a worker for `database`, to its end. False when no slot is free.
fn run_worker(database: Oid) -> bool {
    let run = |_: &mut PgMemoryContexts| match worker::start(database) {
        Some(running) => {
            let _ = running.wait_for_shutdown();
            true
        }
        None => false,
    };
    // SAFETY: what PostgreSQL keeps to follow a worker by is freed with this context, and not used after.
    unsafe { PgMemoryContexts::new("temptoken sweep").switch_to(run) }
}

/// The databases to sweep: connectable ones that are no templates and that the setting names.
fn databases() -> Vec<Oid> {
    let mut found = Vec::new();
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
            let name = std::ffi::CStr::from_ptr(database.datname.data.as_ptr());
            // What an interrupted DROP DATABASE leaves (catalog/pg_database.h, DATCONNLIMIT_INVALID_DB).
            let is_valid = database.datconnlimit != -2;
            if is_valid && database.datallowconn && !database.datistemplate && settings::sweeps_database(name) {
                found.push(database.oid);
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, lock);
        pg_sys::CommitTransactionCommand();
    }
    found
}
