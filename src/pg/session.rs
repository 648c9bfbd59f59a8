//! The session: its clock, its database, its process, its settings and its transaction.

use std::ffi::{CStr, c_void};
use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::panic::{CaughtError, pgrx_extern_c_guard};
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use super::call::Call;
use super::datum::{copy_bytes, to_unix};
use super::ffi;
use super::relation::of_catalog;
use crate::values::OutOfMemory;

/// The clock, in Unix microseconds.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    to_unix(unsafe { ffi::GetCurrentTimestamp() })
}

/// Whether this server is a standby.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// What `ask` answers about the row of this database in pg_database. False if there is none.
pub fn of_database(ask: impl FnOnce(&pg_sys::FormData_pg_database) -> bool) -> bool {
    // SAFETY: within a transaction.
    unsafe { of_catalog(pg_sys::SysCacheIdentifier::DATABASEOID, pg_sys::MyDatabaseId, ask).unwrap_or(false) }
}

pub fn database_oid() -> u32 {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The name of this database, for messages. Empty if it was dropped a moment ago.
pub fn database_name() -> String {
    // SAFETY: within a transaction. The name is a C string or NULL.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

pub fn pid() -> i32 {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::MyProcPid }
}

/// The value of a setting. `None` if it is empty, which settings of past transactions are, or does not exist.
pub fn setting<'call>(_call: &Call<'call>, name: &CStr) -> Result<Option<&'call [u8]>, OutOfMemory> {
    // SAFETY: the value is a C string, valid until the setting changes. The copy lives as long as the call.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() || *value == 0 {
            return Ok(None);
        }
        copy_bytes(CStr::from_ptr(value).to_bytes()).map(Some)
    }
}

/// Sets a setting that every role may set, until the transaction ends. An error leaves as a panic.
pub fn set_for_transaction(name: &CStr, value: &CStr) {
    let (context, source) = (pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_SESSION);
    let action = pg_sys::GucAction::GUC_ACTION_LOCAL;
    // SAFETY: within a transaction. Both are copied.
    unsafe { pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), context, source, action, true, 0, false) };
}

/// Raises the error with which this session was told to stop, if it was. It leaves as a panic, which runs destructors.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Raises 25006, naming `command`, in a read-only transaction and on a standby. It leaves by longjmp.
pub fn require_writable(command: &CStr) {
    // SAFETY: reads the state of the transaction.
    unsafe { ffi::PreventCommandIfReadOnly(command.as_ptr()) }
}

/// Makes the changes of this command visible to the next one in the transaction.
pub fn end_command() {
    // SAFETY: within a transaction.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// Has the commit of this transaction wait for its WAL, whatever synchronous_commit says.
pub fn commit_durably() {
    // SAFETY: sets a flag of the transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// What `work` answers, in a savepoint of its own. `None` if it raises an error other than a cancellation: the savepoint is
/// rolled back then. The error leaves `work` by longjmp or as a panic.
pub fn unless_it_fails<R: Copy>(work: impl FnOnce() -> R) -> Option<R> {
    // SAFETY: the order of calls is that of PL/pgSQL's exception blocks (pl_exec.c, exec_stmt_block). What is restored was
    // current before.
    unsafe {
        let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        let restore = move || {
            pg_sys::MemoryContextSwitchTo(memory);
            pg_sys::CurrentResourceOwner = owner;
        };
        pg_sys::BeginInternalSubTransaction(ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        PgTryBuilder::new(AssertUnwindSafe(|| {
            // No panic may pass the boundary, so that the inner guard makes an error of it.
            let answer = pg_guard_ffi_boundary(|| pgrx_extern_c_guard(AssertUnwindSafe(work)));
            pg_sys::ReleaseCurrentSubTransaction();
            restore();
            Some(answer)
        }))
        .catch_others(|error| {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            restore();
            match &error {
                CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)
                    if report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED =>
                {
                    error.rethrow()
                }
                _ => None,
            }
        })
        .execute()
    }
}

/// The innermost savepoint, or the transaction itself.
pub type Savepoint = pg_sys::SubTransactionId;

/// The innermost savepoint that is open.
pub fn savepoint() -> Savepoint {
    // SAFETY: within a transaction.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// The end of a transaction, or of a savepoint.
pub enum End {
    Transaction,
    /// The savepoint was rolled back.
    RolledBack(Savepoint),
    /// The savepoint was released, or its subtransaction has committed, into its parent.
    Released {
        savepoint: Savepoint,
        parent: Savepoint,
    },
}

/// What is called at each [`End`].
static ON_END: std::sync::OnceLock<fn(End)> = std::sync::OnceLock::new();

/// Has `call` called at the end of every transaction and savepoint. It raises no error. Call this once a process.
pub fn on_end(call: fn(End)) {
    if ON_END.set(call).is_ok() {
        // SAFETY: the callbacks are static functions.
        unsafe {
            pg_sys::RegisterXactCallback(Some(transaction_event), ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(savepoint_event), ptr::null_mut());
        }
    }
}

unsafe extern "C-unwind" fn transaction_event(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::*;
    if !matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PARALLEL_PRE_COMMIT | XACT_EVENT_PRE_PREPARE) {
        ON_END.get().inspect(|call| call(End::Transaction));
    }
}

unsafe extern "C-unwind" fn savepoint_event(
    event: pg_sys::SubXactEvent::Type,
    savepoint: Savepoint,
    parent: Savepoint,
    _argument: *mut c_void,
) {
    use pg_sys::SubXactEvent::*;
    let end = match event {
        SUBXACT_EVENT_ABORT_SUB => End::RolledBack(savepoint),
        SUBXACT_EVENT_COMMIT_SUB => End::Released { savepoint, parent },
        _ => return,
    };
    ON_END.get().inspect(|call| call(end));
}
