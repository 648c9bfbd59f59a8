//! The tables of the schema `temptoken`: how they are found, and what is cached of them.
//!
//! Lives here and below: every statement and every index scan on `temp_tokens` (`tokens`, `expired`) and `scopes` (`scopes`), and
//! what else hangs on the two (`code`). May not come in here: what an answer means to a caller; the rules are in `token` and
//! `scope`, their order in `mint` and `validate`.

mod code;
pub mod expired;
pub mod scopes;
pub mod tokens;

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::errors::{Error, Kind};
use crate::pg::{self, Guard, IntoReport as _, Oid, Rows, TableChanged};

const EXTENSION: &CStr = c"temptoken";
const SCHEMA: &CStr = c"temptoken";

/// Incremented on every relevant invalidation. A cache entry is valid only while this equals the value at which it was
/// filled.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A table of the extension, found by name and remembered until it changes.
struct Table {
    name: &'static CStr,
    /// The names and types of its columns.
    names: &'static [&'static CStr],
    types: &'static [Oid],
    /// Whether the rows may be elsewhere: in partitions, in shards, or in the way of another table access method.
    may_be_elsewhere: bool,
    oid: AtomicU32,
    /// Whether the table keeps its own rows, so that they can be read by its index.
    has_rows: AtomicBool,
}

static TEMP_TOKENS: Table = Table::new(c"temp_tokens", tokens::NAMES, tokens::COLUMNS, true);
static SCOPES: Table = Table::new(c"scopes", scopes::NAMES, scopes::COLUMNS, false);

impl Table {
    const fn new(
        name: &'static CStr,
        names: &'static [&'static CStr],
        types: &'static [Oid],
        may_be_elsewhere: bool,
    ) -> Self {
        Self { name, names, types, may_be_elsewhere, oid: AtomicU32::new(0), has_rows: AtomicBool::new(false) }
    }

    /// What `with` answers about the table. `with` is given the oid, and a check to make once it has locked the table: that
    /// processes invalidations, after which the oid may not be the table's any more. Then `with` returns [`TableChanged`],
    /// and is called again.
    fn locked<R>(&self, with: impl Fn(Oid, &dyn Fn() -> bool) -> Result<R, TableChanged>) -> Result<R, Error> {
        /// Nobody changes a table more often during a call. The last attempt makes no check: a server that is built to
        /// discard its caches all the time (debug_discard_caches) would never pass it.
        const ATTEMPTS: usize = 100;
        for attempt in 1..=ATTEMPTS {
            let oid = self.oid()?;
            let is_current = || attempt == ATTEMPTS || self.oid.load(Ordering::Relaxed) == oid.to_u32();
            if let Ok(answer) = with(oid, &is_current) {
                return Ok(answer);
            }
        }
        Err(Kind::TablesMissing.into())
    }

    /// Locks the table for reading until the transaction ends. What a statement then reads is of the types that [`Self::oid`] has seen.
    fn lock_for_reading(&self) -> Result<Oid, Error> {
        self.lock(pg::lock_for_reading)
    }

    /// Locks the table for writing until the transaction ends.
    fn lock_for_writing(&self) -> Result<Oid, Error> {
        self.lock(pg::lock_for_writing)
    }

    fn lock(&self, take: impl Fn(Oid) -> Result<(), TableChanged>) -> Result<Oid, Error> {
        self.locked(|oid, is_current| {
            take(oid)?;
            if is_current() { Ok(oid) } else { Err(TableChanged) }
        })
    }

    /// The table's oid. 42P01 if the table of that name is not the extension's own, or has other columns: they are read by
    /// position and written by name.
    fn oid(&self) -> Result<Oid, Error> {
        let known = self.oid.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(Oid::from(known));
        }
        let generation = GENERATION.load(Ordering::Relaxed);
        let oid = pg::table_oid(SCHEMA, self.name).ok_or(Kind::TablesMissing)?;
        let has_rows = pg::rows_of(oid) == Rows::Here;
        let fits = pg::belongs_to_extension(oid, EXTENSION)
            && pg::starts_with_columns(oid, self.names, self.types)?
            && (has_rows || self.may_be_elsewhere);
        if !fits {
            return Err(Kind::TablesMissing.into());
        }
        self.has_rows.store(has_rows, Ordering::Relaxed);
        if generation == GENERATION.load(Ordering::Relaxed) {
            self.oid.store(oid.to_u32(), Ordering::Relaxed);
        }
        Ok(oid)
    }
}

/// Watches for invalidations, and guards what runs as the tables' owner. Call this once a process.
pub fn watch() {
    pg::on_invalidation(forget);
    pg::guard_owner(Guard {
        has_code: &code::HAS_CODE,
        may_be_superuser: &code::MAY_BE_SUPERUSER,
        reaches_code: &code::REACHES_CODE,
        temporary_object: || Error::from(Kind::TemporaryObject).into_report(),
        ordinary_owner: || Error::from(Kind::OrdinaryOwner).into_report(),
        reached_table: || Error::from(Kind::ReachedTable).into_report(),
        other_table: || Error::from(Kind::TablesMissing).into_report(),
    });
}

/// Empties the caches if `relation` may be one of the tables, which any may be while an oid is not known.
fn forget(relation: Oid) {
    let concerns = |table: &&Table| match table.oid.load(Ordering::Relaxed) {
        0 => true,
        known => known == relation.to_u32(),
    };
    let tables = [&TEMP_TOKENS, &SCOPES];
    if relation == pg::InvalidOid || tables.iter().any(concerns) {
        for table in tables {
            table.oid.store(0, Ordering::Relaxed);
        }
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
}

/// The result of [`lock_to_sweep`].
pub enum Lock {
    /// The extension is not in this database.
    Absent,
    /// Another session holds a lock.
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

/// How many tokens have expired by `now` (Unix microseconds). `None` where the extension is not in this database.
pub fn count_expired(now: i64) -> Option<u64> {
    temp_tokens()?;
    expired::count_expired(now).ok()
}

/// The table of tokens, if this database has the extension.
fn temp_tokens() -> Option<Oid> {
    pg::table_oid(SCHEMA, TEMP_TOKENS.name).filter(|oid| pg::belongs_to_extension(*oid, EXTENSION))
}
