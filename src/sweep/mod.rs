//! Sweeping: the background workers that remove expired tokens.
//!
//! Lives here and below: a launcher that holds no database open, and short-lived workers, one at a time, that each sweep
//! one database and leave. May not come in here: statements; the workers use the store like any caller.
//!
//! An error ends the process that met it. The postmaster restarts a launcher. A database whose worker failed is swept again
//! at the next interval; its `Place` says what happened. The launcher ends a worker that takes too long. A worker that
//! crashes makes the server restart all processes; its database is left alone for an interval.

mod by_hand;
mod launcher;
mod place;
mod status;
mod worker;

use std::ffi::{c_int, c_long};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::bgworkers::BackgroundWorkerBuilder;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport, ErrorReportWithLevel, pgrx_extern_c_guard};
use pgrx::pg_sys::{self, Oid};
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder};

use crate::pg;
use place::{ByHand, Place, Worker};

pub use by_hand::{start as start_by_hand, stop as stop_by_hand};

/// Asks for shared memory and registers the launcher, when the library is loaded through shared_preload_libraries. No
/// launcher while pg_upgrade has the server: it counts on transaction ids standing still.
pub fn init() {
    status::init();
    // SAFETY: reads flags of the postmaster's start.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade } {
        launcher::builder(0).load();
    }
}

/// How sweeping stands in this database. Times are Unix microseconds.
pub struct State {
    /// `running`: a worker sweeps. `waiting`: the next one starts at `next_start`. `excluded`: a launcher runs, but not for
    /// this database. `standby`: this server sweeps nothing until it is promoted. `none`: no launcher runs.
    pub worker: &'static str,
    pub next_start: Option<i64>,
    /// `None` before the first sweep.
    pub place: Option<Place>,
    pub preloaded: bool,
}

/// How sweeping stands in this database. Reads shared memory only.
pub fn state() -> State {
    let place = status::of(pg::database_oid());
    let (launcher, next_start) = match place {
        Some(place) if place.by_hand != ByHand::None => (place.launcher, place.next_start),
        _ => status::launcher(),
    };
    let worker = match place.map(|place| place.worker) {
        _ if pg::in_recovery() => "standby",
        Some(Worker::Running(pid)) if is_running(pid) => "running",
        _ if !is_running(launcher) => "none",
        _ if pg::of_database(launcher::is_to_be_swept) => "waiting",
        _ => "excluded",
    };
    State { worker, next_start: (worker == "waiting").then_some(next_start), place, preloaded: status::is_preloaded() }
}

/// The registration of a process that runs `function` with the oid of `database`, which may be 0. pg_stat_activity shows it as
/// `kind`. It starts once the server accepts writes, so on a standby when that is promoted.
fn builder(kind: &str, function: &str, database: u32) -> BackgroundWorkerBuilder {
    let name = if database == 0 { kind.to_owned() } else { format!("{kind} for database {database}") };
    BackgroundWorkerBuilder::new(&name)
        .set_type(kind)
        .set_library("temptoken")
        .set_function(function)
        .set_argument(Some(Oid::from(database).into()))
        .enable_spi_access()
}

/// Waits for `time`, or until this process's latch is set, which every signal does. pg_stat_activity shows `event`.
fn sleep(time: Duration, event: u32) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: waits on this process's own latch; ends the process if the postmaster is gone.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as c_int, time.as_millis() as c_long, event);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// The wait event of a process that has nothing to do. Extensions can name theirs from PostgreSQL 17 on.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
fn idle() -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn idle() -> u32 {
    static EVENT: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    // SAFETY: registers the name in shared memory, or finds it there.
    *EVENT.get_or_init(|| unsafe { pg_sys::WaitEventExtensionNew(c"TemptokenSweepIdle".as_ptr()) })
}

/// Whether this process was told to end.
fn is_told_to_end() -> bool {
    // SAFETY: the flag is set by a signal handler.
    unsafe { std::ptr::read_volatile(&raw const pg_sys::ProcDiePending) != 0 }
}

/// Ends this process with status 1, upon which the postmaster restarts it if it has a restart time. Nothing is logged.
#[allow(unreachable_code, reason = "on some majors the binding says that proc_exit does not return")]
fn end() -> ! {
    // SAFETY: in the main loop of a background worker, outside any transaction.
    unsafe { pg_sys::proc_exit(1) };
    unreachable!("proc_exit does not return")
}

/// Ends this process if it was told to or the postmaster is gone. Reads the configuration again on SIGHUP. Call this outside
/// any transaction.
fn heed_signals() {
    sleep(Duration::ZERO, idle());
    if is_told_to_end() {
        end();
    }
    pgrx::check_for_interrupts!();
    // SAFETY: outside any transaction. The flag is set by a signal handler.
    unsafe {
        if std::ptr::read_volatile(&raw const pg_sys::ConfigReloadPending) != 0 {
            std::ptr::write_volatile(&raw mut pg_sys::ConfigReloadPending, 0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Runs `work`, which may start transactions. Catches every error and panic, and rolls the transaction back. `work` owns no
/// destructor where an error leaves it.
fn catch<R: Copy>(work: impl FnOnce() -> R) -> Result<R, Box<ErrorReportWithLevel>> {
    // SAFETY: `work` is guarded, so that it leaves by return or by an error of PostgreSQL, never by a panic, and the frames
    // that the error skips own nothing. After it the transaction is ended as the main loop of a backend does.
    unsafe {
        PgTryBuilder::new(AssertUnwindSafe(|| Ok(pg_guard_ffi_boundary(|| pgrx_extern_c_guard(work)))))
            .catch_others(|caught| {
                pg_sys::AbortCurrentTransaction();
                let (CaughtError::PostgresError(report)
                | CaughtError::ErrorReport(report)
                | CaughtError::RustPanic { ereport: report, .. }) = caught;
                Err(Box::new(report))
            })
            .execute()
    }
}

/// Logs why sweeping `database` failed. Not the error's DETAIL, which may be a whole row, its hash too.
fn log_failure(database: &str, code: PgSqlErrorCode, message: &str) {
    let report = ErrorReport::new(
        code,
        format!("temptoken: sweeping database \"{database}\" failed: {message}"),
        "sweep",
    )
    .set_hint(
        "It is tried again at every interval (temptoken.sweep_interval), and not logged again as long as it fails in \
             the same way. temptoken_sweep_status() shows how it stands.",
    );
    report.report(PgLogLevel::WARNING);
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Whether a process of this server has this pid. 0 is none.
fn is_running(pid: i32) -> bool {
    // SAFETY: looks through the list of processes in shared memory.
    pid != 0 && !unsafe { pg_sys::BackendPidGetProc(pid) }.is_null()
}

/// Sets the latch of a process of this server, if there is one with this pid.
fn wake(pid: i32) {
    // SAFETY: the structures of processes stay where they are. If another process has this one by now, waking it does no harm.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if !process.is_null() {
            pg_sys::SetLatch(&raw mut (*process).procLatch);
        }
    }
}
