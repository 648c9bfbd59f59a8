//! Signals of a background worker.

use std::ffi::c_int;

use pgrx::pg_sys;

use super::ffi::{SignalHandlerForConfigReload, die, pqsignal};

/// Has this process answer to signals as a backend does: SIGTERM ends it at the next check for interrupts, also while it
/// waits for a lock; SIGHUP has it read the configuration again.
pub fn listen_to_signals() {
    // SAFETY: the handlers are PostgreSQL's own for processes of this kind (tcop/postgres.c, postmaster/interrupt.c).
    unsafe {
        pqsignal(pg_sys::SIGTERM as c_int, Some(die));
        pqsignal(pg_sys::SIGHUP as c_int, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}
