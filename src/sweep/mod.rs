//! Sweeping: the background workers that remove expired tokens.
//!
//! Lives here and below: a launcher that holds no database open, and short-lived workers, one at a time, that each sweep
//! one database and leave. May not come in here: statements; the workers use the store like any caller.
//!
//! An error ends the process that met it. The launcher is then started again by the postmaster; a database whose worker
//! failed has its next turn at the next interval, and `status` says what happened.

pub mod cron;
mod launcher;
mod status;
mod worker;

use std::ffi::{CStr, c_int, c_long};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::PgTryBuilder;
use pgrx::bgworkers::{BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel, pgrx_extern_c_guard};

use crate::errors::Error;
use crate::pg;

const LIBRARY: &str = "temptoken";

/// Asks for shared memory and registers the launcher, when the library is loaded through shared_preload_libraries. No
/// launcher while pg_upgrade has the server: it counts on transaction ids standing still.
pub fn init() {
    status::init();
    // SAFETY: reads flags of the postmaster's start.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade } {
        launcher::register();
    }
}

/// How sweeping stands in this database. Times are Unix microseconds.
pub struct State {
    /// `running`: a worker is sweeping. `waiting`: one starts at `next_start`, or is about to. `excluded`: a launcher runs,
    /// but passes this database over. `standby`: this server sweeps nothing until it is promoted. `none`: no launcher runs.
    pub worker: &'static str,
    pub next_start: Option<i64>,
    /// What is known of the sweeps so far, which is nothing before the first.
    pub place: Option<status::Place>,
    pub preloaded: bool,
}

/// How sweeping stands in this database, from any session, without a look at the table.
pub fn state() -> State {
    let place = status::of(pg::database_oid());
    let (launcher, next_start) = launcher_of(place.as_ref());
    let worker = match place {
        _ if pg::in_recovery() => "standby",
        Some(place) if is_running(place.worker) => "running",
        _ if !is_running(launcher) => "none",
        _ if pg::of_database(launcher::is_swept) => "waiting",
        _ => "excluded",
    };
    State { worker, next_start: (worker == "waiting").then_some(next_start), place, preloaded: status::is_preloaded() }
}

/// The launcher that sees to this database, 0 for none, and when it begins its next round.
fn launcher_of(place: Option<&status::Place>) -> (i32, i64) {
    match place {
        Some(place) if place.launcher != 0 => (place.launcher, place.next_start),
        _ => status::launcher(),
    }
}

/// Starts a launcher for this database alone; false when one runs already.
pub fn start_worker() -> Result<bool, Error> {
    let database = pg::database_oid();
    if status::is_preloaded() {
        return Err(Error::sweep_preloaded());
    }
    if !pg::of_database(launcher::is_swept) {
        return Err(Error::sweep_excluded());
    }
    match launcher::start(database) {
        launcher::Start::Started => Ok(true),
        launcher::Start::Already => Ok(false),
        launcher::Start::NoSlot => Err(Error::no_worker_slot()),
    }
}

/// Stops the launcher that [`start_worker`] has started; false when there was none.
pub fn stop_worker() -> Result<bool, Error> {
    if status::is_preloaded() {
        return Err(Error::sweep_preloaded());
    }
    Ok(launcher::stop(pg::database_oid()))
}

// The handlers themselves: pgrx's bindings of the same names are Rust functions, which PostgreSQL cannot call.
unsafe extern "C-unwind" {
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
}

/// Has this process answer to signals as a backend does: SIGTERM ends it at the next check for interrupts, also while it
/// waits for a lock; SIGHUP has it read the configuration again.
fn listen_to_signals() {
    // SAFETY: the handlers are PostgreSQL's own for processes of this kind (tcop/postgres.c, postmaster/interrupt.c).
    unsafe {
        pqsignal(pg_sys::SIGTERM as c_int, Some(die));
        pqsignal(pg_sys::SIGHUP as c_int, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

#[cfg(not(feature = "pg18"))]
unsafe fn pqsignal(signal: c_int, handler: pg_sys::pqsigfunc) {
    // SAFETY: by the caller's promise.
    unsafe { pg_sys::pqsignal(signal, handler) };
}

#[cfg(feature = "pg18")]
unsafe fn pqsignal(signal: c_int, handler: pg_sys::pqsigfunc) {
    // SAFETY: by the caller's promise.
    unsafe { pg_sys::pqsignal_be(signal, handler) };
}

/// Waits until `time` has passed or a signal has come; `event` is what pg_stat_activity shows meanwhile.
fn sleep(time: Duration, event: u32) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: waits on this process's own latch; ends the process if the postmaster is gone.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as c_int, time.as_millis() as c_long, event);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// The wait event of a process with nothing to do: with a name of its own where PostgreSQL has such.
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

/// Ends this process if it was told to or the postmaster is gone, and reads the configuration again if that was asked for.
/// To be called where there is nothing to undo: the end is not worth the FATAL that a backend would log.
fn heed_signals() {
    sleep(Duration::ZERO, idle());
    // SAFETY: in the main loop of a background worker, outside any transaction. The flags are set by signal handlers.
    unsafe {
        if std::ptr::read_volatile(&raw const pg_sys::ProcDiePending) != 0 {
            pg_sys::proc_exit(1);
        }
        pgrx::check_for_interrupts!();
        if std::ptr::read_volatile(&raw const pg_sys::ConfigReloadPending) != 0 {
            std::ptr::write_volatile(&raw mut pg_sys::ConfigReloadPending, 0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Puts these settings in force for this process, before its database or role has a say.
fn override_settings(settings: &[(&CStr, &CStr)]) {
    for (name, value) in settings {
        let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_OVERRIDE);
        // SAFETY: both are C strings.
        unsafe { pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source) };
    }
}

/// Runs `work`, which may start transactions. An error is caught, whichever way it comes, and the transaction rolled back.
/// No frame of `work` may own a destructor where a statement runs.
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

/// Whether a process of this server has the pid; 0 is none.
fn is_running(pid: i32) -> bool {
    // SAFETY: looks through the list of processes in shared memory.
    pid != 0 && !unsafe { pg_sys::BackendPidGetProc(pid) }.is_null()
}

/// Whether a worker that this process has started has come to its end.
fn has_ended(worker: &DynamicBackgroundWorker) -> bool {
    matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied))
}

/// Wakes a process of this server from its sleep, if there is one with the pid.
fn wake(pid: i32) {
    // SAFETY: the structures of processes stay where they are as long as the server runs; to wake another process that has
    // taken the place of one that ended does no harm.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if !process.is_null() {
            pg_sys::SetLatch(&raw mut (*process).procLatch);
        }
    }
}
