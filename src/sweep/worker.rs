//! The worker: sweeps one database, batch after batch, and leaves.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime, DynamicBackgroundWorker};
use pgrx::pg_sys::{self, Datum, Oid};

use super::{LIBRARY, heed_signals, listen_to_signals};
use crate::errors::{Error, raise};
use crate::store::{self, tokens};
use crate::{pg, settings};

const NAME: &str = "temptoken sweep worker";

/// How long a worker stays connected before it leaves, and another goes on: DROP DATABASE and its like wait for others to
/// leave for five seconds (storage/ipc/procarray.c, CountOtherDBBackends).
pub const TIME_LIMIT: Duration = Duration::from_secs(2);

/// What a worker runs under, whatever the database or a role has set: a worker that an ALTER DATABASE could stop or
/// mislead would have to be remembered.
const OVERRIDES: &[(&CStr, &CStr)] = &[
    (c"search_path", c""),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_deferrable", c"off"),
    (c"statement_timeout", c"0"),
    // Rows and the table are never waited for; what else may be locked (a table that refers to this one) is left, so that
    // one database does not hold up the others.
    (c"lock_timeout", c"1s"),
    (c"idle_in_transaction_session_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
    (c"session_replication_role", c"origin"),
    // A sweep that a crash undoes is done again.
    (c"synchronous_commit", c"off"),
];

/// Starts a worker for `database`. `None` when no slot is free.
pub fn start(database: Oid) -> Option<DynamicBackgroundWorker> {
    BackgroundWorkerBuilder::new(&format!("{NAME} for database {}", database.to_u32()))
        .set_type(NAME)
        .set_library(LIBRARY)
        .set_function("temptoken_sweep_worker_main")
        .set_argument(Some(database.into()))
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None)
        // SAFETY: reads this process's own pid.
        .set_notify_pid(unsafe { pg_sys::MyProcPid })
        .load_dynamic()
        .ok()
}

/// Main of a worker process; its argument is the oid of the database.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn temptoken_sweep_worker_main(argument: Datum) {
    listen_to_signals();
    // SAFETY: once, before any access; settings first, so that they win over the database's own. No user: the worker
    // acts as the superuser that initdb made, as autovacuum does.
    unsafe {
        for (name, value) in OVERRIDES {
            let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_OVERRIDE);
            pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source);
        }
        let database = Oid::from(argument.value() as u32);
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
    }
    sweep();
}

/// Removes what has expired by now, in transactions of at most the batch size each.
fn sweep() {
    let started = Instant::now();
    let mut sweep = tokens::Sweep::new(pg::now());
    let mut removed = 0;
    loop {
        let limit = settings::sweep_batch_size();
        let step = in_transaction(|| match store::lock_to_sweep() {
            Some(table) => {
                // To the end of the transaction: what a deferred trigger does, it does with the rights of the table's
                // owner, not of this process.
                pg::become_owner(table)?;
                sweep.step(limit)
            }
            None => Ok(0),
        });
        removed += step;
        heed_signals();
        if step < limit as u64 || started.elapsed() >= TIME_LIMIT {
            break;
        }
    }
    if removed > 0 {
        let milliseconds = started.elapsed().as_millis();
        in_transaction(|| {
            let database = pg::database_name();
            pgrx::log!("temptoken: swept database \"{database}\": {removed} rows in {milliseconds} ms");
            Ok(())
        });
    }
}

/// Runs `work` in a transaction of its own, seen as such in pg_stat_activity, its rows counted for autovacuum. An error
/// ends the process.
fn in_transaction<R>(work: impl FnOnce() -> Result<R, Error>) -> R {
    // SAFETY: the order of calls that any background worker follows (test/modules/worker_spi). No frame from here to
    // the worker's main owns a destructor.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, c"temptoken: sweeping".as_ptr());
        let result = match work() {
            Ok(result) => result,
            Err(error) => raise(error),
        };
        pg_sys::CommitTransactionCommand();
        pg_sys::SetUserIdAndSecContext(user, context);
        pg_sys::pgstat_report_stat(false);
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
        result
    }
}
