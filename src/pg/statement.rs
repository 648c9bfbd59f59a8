//! Kept SQL statements, run through SPI as the owner of a table.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys::{self, Datum, Oid};

use super::call::{Call, split};
use super::datum::Boolean;
use super::ffi::SPI_execute_snapshot;
use super::guard::{guarded, naming_only};
use super::lookup::{Reader, Tuple};
use super::owner::{as_owner, set_meanwhile};
use super::relation::TableChanged;
use super::report::require_memory;
use super::session::commit_durably;

/// What a statement may need in small pieces: that an error in it can be copied depends on some being left.
const MEMORY: usize = 1 << 20;

/// What a statement does with the rows of its table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    /// Inserts, updates or deletes, or locks rows.
    Writes,
}

/// A statement on one table that is planned once a session. The table is qualified in it; functions and operators are
/// PostgreSQL's own, since it runs under the search path `pg_catalog, pg_temp`.
pub struct Statement {
    sql: &'static CStr,
    types: &'static [Oid],
    effect: Effect,
    /// Whether it asks the catalogs.
    is_question: bool,
    plan: AtomicPtr<pg_sys::_SPI_plan>,
}

impl Statement {
    /// A statement that inserts, updates, deletes or locks rows, with parameters of `types`, at most
    /// [`COLUMNS_MAX`](super::call::COLUMNS_MAX).
    pub const fn writing(sql: &'static CStr, types: &'static [Oid]) -> Self {
        Self::new(sql, types, Effect::Writes, false)
    }

    /// A statement that reads.
    pub const fn reading(sql: &'static CStr, types: &'static [Oid]) -> Self {
        Self::new(sql, types, Effect::Reads, false)
    }

    /// A question to the catalogs. One plan does for all parameters: its planning can take longer than its answer.
    pub const fn asking(sql: &'static CStr, types: &'static [Oid]) -> Self {
        Self::new(sql, types, Effect::Reads, true)
    }

    const fn new(sql: &'static CStr, types: &'static [Oid], effect: Effect, is_question: bool) -> Self {
        Self { sql, types, effect, is_question, plan: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Runs the statement on the newest committed state, as the owner of table `relation` and without its row-level
    /// security, so that the caller of an SQL function needs no right on the table. Returns how many rows were inserted,
    /// updated, deleted or returned.
    ///
    /// An error leaves by longjmp.
    pub fn run(&self, relation: Oid, parameters: &[Option<Datum>]) -> Result<u64, TableChanged> {
        self.run_for_rows(relation, parameters, |_| {})
    }

    /// As [`Self::run`]. Calls `visit` with each row that the statement returns.
    pub fn run_for_rows(
        &self,
        relation: Oid,
        parameters: &[Option<Datum>],
        mut visit: impl FnMut(&Tuple<'_>),
    ) -> Result<u64, TableChanged> {
        // SAFETY: within a transaction. The frames up to PostgreSQL's own no destructor.
        unsafe {
            let reads = self.effect == Effect::Reads;
            let lock = if reads { pg_sys::AccessShareLock } else { pg_sys::RowExclusiveLock };
            as_owner(relation, lock as pg_sys::LOCKMODE, |roles| {
                guarded(relation, self.effect, roles, || {
                    naming_only(self.sql, relation, || self.execute(parameters, &mut visit))
                })
            })
        }
    }

    /// What the statement, a question about at most two `objects`, answers. Without an answer: true.
    ///
    /// # Safety
    /// Acting as an owner. Catalogs alone are read. An error leaves by longjmp.
    pub(super) unsafe fn asks(&self, objects: &[Oid]) -> bool {
        let mut answer = true;
        let parameters = [0, 1].map(|at| objects.get(at).map(|oid| Datum::from(*oid)));
        // SAFETY: by the caller's promise.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            // What takes less than a millisecond is not to be compiled. And by index, also where a catalog is small while the
            // question is planned: others can make it large.
            set_meanwhile(c"jit", c"off");
            set_meanwhile(c"enable_seqscan", c"off");
            self.execute(&parameters[..objects.len()], &mut |row| answer = row.get::<Boolean>(1) != Some(false));
            pg_sys::AtEOXact_GUC(false, level);
        }
        answer
    }

    /// # Safety
    /// The parameters are of the declared types. An error leaves by longjmp.
    unsafe fn execute(&self, parameters: &[Option<Datum>], visit: &mut impl FnMut(&Tuple<'_>)) -> u64 {
        let (mut values, nulls) = split(parameters);
        let nulls = nulls.map(|null| if null { b'n' } else { b' ' } as c_char);
        // SAFETY: by the caller's promise. After an error PostgreSQL unwinds SPI's stack.
        unsafe {
            require_memory(MEMORY);
            let caller = pg_sys::CurrentMemoryContext;
            check(pg_sys::SPI_connect());
            // Planned as the owner too, since parsing needs USAGE on the schema.
            let (plan, snapshot, none) = (self.plan(), pg_sys::GetLatestSnapshot(), ptr::null_mut());
            check(SPI_execute_snapshot(plan, values.as_mut_ptr(), nulls.as_ptr(), snapshot, none, false, true, 0));
            let rows = pg_sys::SPI_processed;
            let inner = pg_sys::MemoryContextSwitchTo(caller);
            visit_result(visit);
            pg_sys::MemoryContextSwitchTo(inner);
            check(pg_sys::SPI_finish());
            rows
        }
    }

    /// As [`Self::run`], for a statement that returns at most one row: a copy of it.
    pub fn run_for_row<'call>(
        &self,
        _call: &Call<'call>,
        relation: Oid,
        parameters: &[Option<Datum>],
    ) -> Result<Option<Tuple<'call>>, TableChanged> {
        let mut found = None;
        // SAFETY: while rows are visited, the memory context of the call is current.
        self.run_for_rows(relation, parameters, |row| found = Some(unsafe { row.copy() }))?;
        Ok(found)
    }

    /// As [`Self::run`]. The commit waits for its WAL whatever synchronous_commit says, so that no crash undoes it; also where
    /// the statement counts no row, since a rule of the owner's may have done something else.
    pub fn run_durably(&self, relation: Oid, parameters: &[Option<Datum>]) -> Result<u64, TableChanged> {
        commit_durably();
        self.run(relation, parameters)
    }

    /// # Safety
    /// SPI is connected.
    unsafe fn plan(&self) -> pg_sys::SPIPlanPtr {
        let known = self.plan.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the statement is static text. A kept plan lives as long as the session.
        let made = unsafe {
            let types = self.types.as_ptr().cast_mut();
            let options = if self.is_question { pg_sys::CURSOR_OPT_GENERIC_PLAN } else { 0 } as c_int;
            let plan = pg_sys::SPI_prepare_cursor(self.sql.as_ptr(), self.types.len() as c_int, types, options);
            assert!(!plan.is_null(), "SPI_prepare_cursor: error {}", { pg_sys::SPI_result });
            check(pg_sys::SPI_keepplan(plan));
            plan
        };
        self.plan.store(made, Ordering::Relaxed);
        made
    }
}

/// Calls `visit` with each row of the statement's result, if it has one.
///
/// # Safety
/// SPI is connected and has run a statement.
unsafe fn visit_result(visit: &mut impl FnMut(&Tuple<'_>)) {
    // SAFETY: a result has `numvals` rows of its description.
    unsafe {
        let Some(result) = pg_sys::SPI_tuptable.as_ref() else { return };
        let reader = Reader::new(result.tupdesc);
        for tuple in std::slice::from_raw_parts(result.vals, result.numvals as usize) {
            visit(&reader.read(*tuple));
        }
    }
}

fn check(code: c_int) {
    assert!(code >= 0, "SPI: error {code}");
}
