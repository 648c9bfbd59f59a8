//! The worker: sweeps one database, batch after batch, and leaves.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::bgworkers::DynamicBackgroundWorker;
use pgrx::pg_sys::panic::ErrorReportWithLevel;
use pgrx::pg_sys::{self, Datum, Oid};

use super::place::{ByHand, Place};
use super::{builder, catch, heed_signals, log_failure, status};
use crate::errors::Error;
use crate::pg::{self, IntoReport as _};
use crate::settings;
use crate::store::expired::{Step, Sweep};
use crate::store::{self, Lock};

const NAME: &str = "temptoken sweep worker";

/// After this time a worker begins no other batch. It leaves, and another worker goes on. DROP DATABASE and its like wait at
/// most five seconds for others to leave (storage/ipc/procarray.c, CountOtherDBBackends).
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// After this time the launcher ends a worker, whatever it does: less than the five seconds of DROP DATABASE.
pub const OVERDUE: Duration = Duration::from_secs(4);

/// After a batch that took less than this, the next one may be twice as large.
const FAST: Duration = Duration::from_millis(500);

/// Settings of every worker. They override those of the database and of roles, so that no ALTER DATABASE or ALTER ROLE can
/// stop a worker.
const OVERRIDES: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_deferrable", c"off"),
    (c"statement_timeout", c"0"),
    // A worker never waits for a row or for the table of tokens. This is for other locks, as on a table that refers to it.
    (c"lock_timeout", c"1s"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"transaction_timeout", c"0"),
    (c"restrict_nonsystem_relation_kind", c""),
    (c"session_replication_role", c"origin"),
    // Where a sweep is statements, a batch is found by its ids.
    (c"enable_indexscan", c"on"),
    // Every database has a conversion to it.
    (c"client_encoding", c"SQL_ASCII"),
    // An error is for `catch`.
    (c"exit_on_error", c"off"),
    // If a crash undoes a sweep, the next sweep repeats it.
    (c"synchronous_commit", c"off"),
];

/// Starts a worker for `database`. `None` when no slot is free.
pub fn start(database: u32) -> Option<DynamicBackgroundWorker> {
    builder(NAME, "temptoken_sweep_worker_main", database).set_notify_pid(pg::pid()).load_dynamic().ok()
}

/// Main of a worker process; its argument is the oid of the database.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn temptoken_sweep_worker_main(argument: Datum) {
    pg::listen_to_signals();
    // SAFETY: called once, before any access to a database. Settings come first, so that they win over the database's own.
    // Without a user the worker acts as the superuser that initdb made, as autovacuum does.
    unsafe {
        // Some came with a later version.
        let has = |name: &CStr| !pg_sys::GetConfigOption(name.as_ptr(), true, false).is_null();
        for (name, value) in OVERRIDES.iter().filter(|(name, _)| has(name)) {
            let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_OVERRIDE);
            pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source);
        }
        let database = Oid::from(argument.value() as u32);
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
    }
    let name = in_transaction(|| Ok(pg::database_name()));
    let database = pg::database_oid();
    match catch(turn) {
        Ok(End::Absent) => _ = status::amend(database, Place::find_no_extension),
        Ok(End::Locked) => _ = status::change(database, |place| place.find_locked(pg::now())),
        Ok(End::Paused) => _ = status::change(database, Place::pause),
        Ok(End::Finished) => finish(&name),
        Err(error) => fail(&name, &error),
    }
}

/// How a turn of a worker ends.
#[derive(Clone, Copy)]
enum End {
    /// The extension is not in this database.
    Absent,
    /// Another session holds a lock on the table.
    Locked,
    /// Time is up, and there is more to do for another worker.
    Paused,
    /// Nothing is left to do.
    Finished,
}

/// Records the end of the sweep. If it has removed anything, logs that.
fn finish(database: &str) {
    let now = pg::now();
    let place = status::change(pg::database_oid(), |place| {
        place.finish(now);
        *place
    });
    if let Some(place) = place
        && place.removed > 0
    {
        let milliseconds = (now - place.last_start) / 1000;
        pgrx::log!("temptoken: swept database \"{database}\": {} rows in {milliseconds} ms", place.removed);
    }
}

/// Records that a batch or the whole sweep has failed, and logs it unless the sweep before failed in the same way.
fn fail(database: &str, error: &ErrorReportWithLevel) {
    let is_new = status::change(pg::database_oid(), |place| {
        place.fail_batch(pg::now(), error.message(), settings::sweep_batch_size())
    });
    if is_new != Some(false) {
        log_failure(database, error.sql_error_code(), error.message());
    }
}

/// Removes what has expired by now, in transactions of at most the batch size each, until none is left or time is up.
fn turn() -> End {
    let started = Instant::now();
    let mut sweep = Sweep::new(pg::now());
    loop {
        let (begun, batch_size) = (Instant::now(), settings::sweep_batch_size());
        let end = in_transaction(|| remove_batch(&mut sweep, batch_size));
        let step = match end {
            Ok(step) => step,
            Err(end) => return end,
        };
        let is_told_to_stop = status::change(pg::database_oid(), |place| {
            place.count_removed(step.removed, sweep.after, begun.elapsed() < FAST, batch_size);
            place.by_hand == ByHand::Stopping
        });
        heed_signals();
        if step.is_last {
            return End::Finished;
        }
        if started.elapsed() >= TIME_LIMIT || is_told_to_stop == Some(true) {
            return End::Paused;
        }
    }
}

/// Removes the next batch, in the transaction around it.
fn remove_batch(sweep: &mut Sweep, batch_size: u64) -> Result<Result<Step, End>, Error> {
    let table = match store::lock_to_sweep() {
        Lock::Absent => return Ok(Err(End::Absent)),
        Lock::Held => {
            begin();
            return Ok(Err(End::Locked));
        }
        Lock::Taken(table) => table,
    };
    let (mut limit, mut jump) = (batch_size, 0);
    if let Some(place) = begin() {
        (sweep.after, jump) = place.position();
        limit = place.batch(batch_size);
    }
    // Until the end of the transaction: deferred triggers run at commit, and are to have the rights of the table's owner, not
    // those of this process.
    let Ok(()) = pg::become_owner(table) else { return Ok(Err(End::Absent)) };
    if jump > 0 {
        sweep.pass_over(jump)?;
        status::change(pg::database_oid(), |place| place.land(sweep.after));
    }
    Ok(Ok(sweep.step(limit)?))
}

/// Records that this process sweeps the database.
fn begin() -> Option<Place> {
    status::change(pg::database_oid(), |place| {
        place.begin(pg::pid(), pg::now());
        *place
    })
}

/// Runs `work` in a transaction of its own. The transaction shows in pg_stat_activity, and the rows that it removes in the
/// statistics that autovacuum reads. An error leaves by longjmp.
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
            Err(error) => error.into_report().throw(),
        };
        pg_sys::CommitTransactionCommand();
        pg_sys::SetUserIdAndSecContext(user, context);
        pg_sys::pgstat_report_stat(false);
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
        result
    }
}
