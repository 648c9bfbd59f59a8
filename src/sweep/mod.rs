//! Sweeping: the background workers that remove expired tokens.
//!
//! Lives here and below: a launcher that holds no database open, and short-lived workers, one at a time, that each sweep
//! one database and leave. May not come in here: statements; the workers use the store like any caller.
//!
//! An error in either simply ends its process: PostgreSQL logs it and cleans up. The launcher is then started again by
//! the postmaster; a database whose worker failed has its next turn at the next interval.

mod launcher;
mod worker;

use std::ffi::{c_int, c_long};
use std::time::Duration;

use pgrx::pg_sys;

const LIBRARY: &str = "temptoken";

/// Registers the launcher, when the library is loaded through shared_preload_libraries. Not while pg_upgrade has the
/// server: it counts on transaction ids standing still.
pub fn init() {
    // SAFETY: reads flags of the postmaster's start.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade } {
        launcher::register();
    }
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

/// Waits until `time` has passed or a signal has come.
fn sleep(time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: waits on this process's own latch; ends the process if the postmaster is gone.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as c_int, time.as_millis() as c_long, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Ends this process if it was told to or the postmaster is gone, and reads the configuration again if that was asked for.
fn heed_signals() {
    sleep(Duration::ZERO);
    pgrx::check_for_interrupts!();
    // SAFETY: in the main loop of a background worker, outside any transaction.
    unsafe {
        if std::ptr::read_volatile(&raw const pg_sys::ConfigReloadPending) != 0 {
            std::ptr::write_volatile(&raw mut pg_sys::ConfigReloadPending, 0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
