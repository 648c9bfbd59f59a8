//! The seam to the server: what any extension would need of PostgreSQL, behind functions that are safe to call.
//!
//! Lives here and below: calls of SQL functions, values, the lookup, the walk, statements, locks, the session, and most of
//! this crate's `unsafe`. May not come in here: tokens, scopes, names of our tables.
//!
//! Two habits. What is opened has no destructor: after an error PostgreSQL's resource owners and memory contexts clean up.
//! And what outlives a function is palloc'd in the memory context that is current at the call, which the executor resets.
//!
//! **The longjmp rule.** PostgreSQL raises an error by longjmp, which runs no destructor. pgrx guards its bindings: there an
//! error becomes a panic, and destructors run. The functions of `ffi` are not guarded. Whoever calls one of the following
//! owns no destructor at that moment, and neither do its callers: no Vec, String or Box, no RefCell's borrow.
//!
//! - `datum`: `varlena`, `uuid`, and what reads a value (`SqlType::read`, `Bytes::read`), where it is compressed
//! - `collections`: all
//! - `lock`: `lock_row_to_update`
//! - `statement`: all that run one; also what `visit` does
//! - `relation`: `has_trigger_enabled_always`, `rows_of`
//! - `walk`: `deletes_plainly`, `walk`; also what `visit` does
//! - `session`: `of_database`, `require_writable`
//! - `report`: `Report::throw`, `notice`, `require_memory`
//!
//! No panic may pass `pg_guard_ffi_boundary`, or the process ends: inside it only functions of `ffi` are called, or there is
//! a `pgrx_extern_c_guard` around what is.
//!
//! `find` has one guard of its own around the whole lookup. The functions that return `OutOfMemory` raise no error.

mod call;
mod collections;
mod datum;
mod ffi;
mod guard;
mod key_scan;
mod keyed_hash;
mod lock;
mod lookup;
mod owner;
mod planner;
mod relation;
mod report;
mod session;
mod signals;
mod statement;
mod trigger;
mod walk;

pub use pgrx::pg_sys::{Datum, InvalidOid, Oid};

pub use call::{Call, InParallelOperation, RowType, enter};
pub(crate) use call::{row_type, sql_functions};
pub use collections::{ElementType, Set, StepMemory, array, json_field, jsonb, jsonb_text, list};
pub use datum::{
    Boolean, Bytea, Bytes, Int4, Int8, Internal, Interval, Jsonb, SqlType, Text, TextList, Timestamptz, Uuid,
    from_boxed, from_utf8, keep_varlena, timestamptz, to_boxed, try_varlena, uuid, varlena,
};
pub use guard::{Guard, guard_owner};
pub use lock::{lock_for_reading, lock_for_writing, lock_for_writing_without_waiting, lock_name, lock_row_to_update};
pub use lookup::{Key, Tuple, find};
pub use owner::become_owner;
pub use planner::call_for_each_row;
pub use relation::{
    Rows, TableChanged, accept_invalidations, belongs_to_extension, has_trigger_enabled_always, on_invalidation,
    rows_of, starts_with_columns, table_oid,
};
pub use report::{IntoReport, Report, disable_backtraces, notice, require_memory};
pub use session::{
    End, Savepoint, check_for_interrupts, commit_durably, database_name, database_oid, end_command, in_recovery, now,
    of_database, on_end, pid, require_writable, savepoint, set_for_transaction, setting, unless_it_fails,
};
pub use signals::listen_to_signals;
pub use statement::Statement;
pub use trigger::ColumnText;
pub use walk::{Deletion, UuidRange, deletes_plainly, walk};

/// The oids of types that are parameters of statements.
pub const OID: Oid = pgrx::pg_sys::OIDOID;
pub const UUID_ARRAY: Oid = pgrx::pg_sys::UUIDARRAYOID;
pub const BYTEA_ARRAY: Oid = pgrx::pg_sys::BYTEAARRAYOID;
