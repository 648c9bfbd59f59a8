//! The tables of the schema `temptoken`: where they are, and what is cached of them.
//!
//! Lives here and below: every statement and every index scan on `temp_tokens` (`tokens`) and `scopes` (`scopes`). May
//! not come in here: what an answer means to a caller; the rules are in `token` and `scope`, their order in `mint` and
//! `validate`.

pub mod scopes;
pub mod tokens;

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys::{self, Datum, Oid};

use crate::errors::{Error, raise};
use crate::pg::{self, Guard, TableGone};

const EXTENSION: &CStr = c"temptoken";
const SCHEMA: &CStr = c"temptoken";

/// Counts the moments at which something cached here may have ended. A cache is good as long as the count that it was
/// filled under stands.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A table of the extension, found by name and remembered until it changes.
struct Table {
    name: &'static CStr,
    columns: &'static [Oid],
    oid: AtomicU32,
}

static TEMP_TOKENS: Table = Table::new(c"temp_tokens", tokens::COLUMNS);
static SCOPES: Table = Table::new(c"scopes", scopes::COLUMNS);

impl Table {
    const fn new(name: &'static CStr, columns: &'static [Oid]) -> Self {
        Self { name, columns, oid: AtomicU32::new(0) }
    }

    /// What `with` answers about the table, of which it is given the oid and a check to make when it has locked it. Taking
    /// a lock takes note of what others have committed: the table may have become another one meanwhile, or have got other
    /// columns. Then `with` says that it is gone, and is asked about the one that is there now.
    fn locked<R>(&self, with: impl Fn(Oid, &dyn Fn() -> bool) -> Result<R, TableGone>) -> Result<R, Error> {
        /// Nobody changes a table more often while a call waits for it. The last attempt takes it as it was found a moment
        /// ago: a server that is built to forget at every occasion (debug_discard_caches) never knows more.
        const ATTEMPTS: usize = 100;
        for attempt in 1..=ATTEMPTS {
            let oid = self.oid()?;
            let is_current = || attempt == ATTEMPTS || self.oid.load(Ordering::Relaxed) == oid.to_u32();
            if let Ok(answer) = with(oid, &is_current) {
                return Ok(answer);
            }
        }
        Err(Error::tables_missing())
    }

    /// Locks the table for writing until the transaction ends.
    fn lock_for_writing(&self) -> Result<Oid, Error> {
        self.locked(|oid, is_current| {
            pg::lock_for_writing(oid)?;
            if is_current() { Ok(oid) } else { Err(TableGone) }
        })
    }

    /// The table's oid, once it is known to be the extension's own table, and not another one of its name, with the columns
    /// that it was created with: reading by position depends on them.
    fn oid(&self) -> Result<Oid, Error> {
        let known = self.oid.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(Oid::from(known));
        }
        let generation = GENERATION.load(Ordering::Relaxed);
        let oid = pg::table_oid(SCHEMA, self.name).ok_or_else(Error::tables_missing)?;
        if !pg::belongs_to_extension(oid, EXTENSION) || !pg::starts_with_columns(oid, self.columns)? {
            return Err(Error::tables_missing());
        }
        if generation == GENERATION.load(Ordering::Relaxed) {
            self.oid.store(oid.to_u32(), Ordering::Relaxed);
        }
        Ok(oid)
    }
}

/// Has the caches emptied by invalidation, and what runs as the tables' owner guarded, once a process.
pub fn watch() {
    pg::on_relation_invalidation(forget);
    pg::guard_owner(Guard { refuse_temporary_table, refuse_function });
}

/// # Safety
/// As of [`raise`].
unsafe fn refuse_temporary_table() -> ! {
    // SAFETY: by the caller's promise.
    unsafe { raise(Error::temporary_table()) }
}

/// # Safety
/// As of [`raise`].
unsafe fn refuse_function() -> ! {
    // SAFETY: by the caller's promise.
    unsafe { raise(Error::untrusted_function()) }
}

/// Called by PostgreSQL, at any moment at which it takes note of changes: it may only count.
///
/// While an oid is not known, any table may be the one: the count goes up then too, so that an answer found meanwhile is
/// not kept.
unsafe extern "C-unwind" fn forget(_argument: Datum, relation: Oid) {
    let concerns = |table: &&Table| match table.oid.load(Ordering::Relaxed) {
        0 => true,
        known => known == relation.to_u32(),
    };
    let tables = [&TEMP_TOKENS, &SCOPES];
    if relation == pg_sys::InvalidOid || tables.iter().any(concerns) {
        for table in tables {
            table.oid.store(0, Ordering::Relaxed);
        }
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
}

/// What came of locking the table of tokens.
pub enum Lock {
    /// The extension is not in this database.
    Absent,
    /// It would have meant waiting for another session.
    Held,
    /// The table is locked until the transaction ends.
    Taken(Oid),
}

/// Locks the table of tokens for writing, without waiting.
pub fn lock_to_sweep() -> Lock {
    match temp_tokens() {
        None => Lock::Absent,
        Some(table) if pg::lock_for_writing_without_waiting(table) => Lock::Taken(table),
        Some(_) => Lock::Held,
    }
}

/// How many tokens have expired by `now` (Unix microseconds), if that can be had without waiting.
pub fn count_expired(now: i64) -> Option<u64> {
    pg::walk_without_waiting(temp_tokens()?, || tokens::Sweep::new(now).count().ok())?
}

/// The table of tokens, where this database has the extension. A schema of the same name that is somebody else's does not
/// count.
fn temp_tokens() -> Option<Oid> {
    pg::table_oid(SCHEMA, TEMP_TOKENS.name).filter(|oid| pg::belongs_to_extension(*oid, EXTENSION))
}
