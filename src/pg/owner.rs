//! Acting as the owner of a table, with what that must not become: a way for the caller to run code with the owner's rights.
//!
//! Triggers, constraints, defaults and expression indexes on our tables are code of the owner's. They run under a search
//! path that the caller cannot choose. No search path hides the caller's temporary schema, which holds tables and types.
//! So a statement that names another role's temporary table is refused, before it is planned: planning computes constants
//! and estimates, and may call functions for that. And as long as the caller has a temporary type, nothing is done as the
//! owner: types are looked up in too many places to be refused one by one.
//!
//! Our own statements name the table, and a schema can be renamed at any moment, without a lock. So the same look at a
//! parsed statement makes sure that the name has led to the table whose owner we act as.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::OnceLock;

use pgrx::pg_sys::{self, Oid};

use super::lock::lock_and_get_owner;
use super::relation::TableChanged;
use super::report::Report;

const SEARCH_PATH: &CStr = c"pg_catalog, pg_temp";

/// A bit of our own in the security context (miscadmin.h), set while we act as an owner. PostgreSQL restores it with the
/// user when a transaction or savepoint is rolled back.
const ACTING_AS_OWNER: c_int = 1 << 24;

/// Runs `work` as the owner of table `relation`, which stays locked in this mode.
///
/// # Safety
/// Within a transaction. Errors leave by longjmp.
pub(super) unsafe fn as_owner<R>(
    relation: Oid,
    lock: pg_sys::LOCKMODE,
    work: impl FnOnce() -> R,
) -> Result<R, TableChanged> {
    // SAFETY: by the caller's promise.
    unsafe { lock_and_get_owner(relation, lock).map(|owner| as_user(owner, work)) }
}

/// Runs `work` as `user`, without the row-level security of its tables, as foreign keys are checked (ri_triggers.c), and
/// under [`SEARCH_PATH`], as maintenance is done (guc.c, RestrictSearchPath).
///
/// # Safety
/// Within a transaction. An error leaves by longjmp; the abort of the transaction or savepoint restores user and settings.
unsafe fn as_user<R>(user: Oid, work: impl FnOnce() -> R) -> R {
    let (mut caller, mut context) = (pg_sys::InvalidOid, 0);
    let flags = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as c_int | ACTING_AS_OWNER;
    // SAFETY: by the caller's promise.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut caller, &mut context);
        if user != caller && !pg_sys::superuser_arg(caller) {
            refuse_temporary_types();
        }
        // An owner who is no superuser must not get at the caller's rights: a held cursor or a deferred trigger would run
        // when the transaction commits.
        let is_restricted = user != caller && !pg_sys::superuser_arg(user);
        let restriction = if is_restricted { pg_sys::SECURITY_RESTRICTED_OPERATION as c_int } else { 0 };
        pg_sys::SetUserIdAndSecContext(user, context | flags | restriction);
        let level = pg_sys::NewGUCNestLevel();
        let (setting, source) = (pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_SESSION);
        let action = pg_sys::GucAction::GUC_ACTION_SAVE;
        let (name, value) = (c"search_path".as_ptr(), SEARCH_PATH.as_ptr());
        pg_sys::set_config_option(name, value, setting, source, action, true, 0, false);
        let result = work();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(caller, context);
        result
    }
}

/// Acts as the owner of `relation` until the user is set again or the transaction is rolled back. What runs meanwhile cannot
/// go back. For background workers.
pub fn become_owner(relation: Oid) -> Result<(), TableChanged> {
    // SAFETY: within a transaction.
    unsafe {
        let owner = lock_and_get_owner(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)?;
        pg_sys::SetUserIdAndSecContext(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int);
    }
    Ok(())
}

/// The errors for a temporary table, for a temporary type, and for a name that leads to another table.
pub struct Refusals {
    pub temporary_table: fn() -> Report,
    pub temporary_type: fn() -> Report,
    pub other_table: fn() -> Report,
}

/// The statement of ours that runs, and the only table that it may name.
#[derive(Clone, Copy)]
struct Running {
    sql: &'static CStr,
    table: Oid,
}

thread_local! {
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

/// Has `sql`, when it is parsed while `work` runs, name no other table than `table`. An error may leave by longjmp, and
/// leaves a state that the next statement replaces.
pub(super) fn naming_only<R>(sql: &'static CStr, table: Oid, work: impl FnOnce() -> R) -> R {
    let before = RUNNING.replace(Some(Running { sql, table }));
    let result = work();
    RUNNING.set(before);
    result
}

static REFUSALS: OnceLock<Refusals> = OnceLock::new();
static NEXT_HOOK: OnceLock<pg_sys::post_parse_analyze_hook_type> = OnceLock::new();

/// Has every statement looked at that is parsed while we act as an owner. Call this once a process.
pub fn guard_owner(refusals: Refusals) {
    if REFUSALS.set(refusals).is_ok() {
        // SAFETY: the library is being loaded.
        unsafe {
            _ = NEXT_HOOK.set(pg_sys::post_parse_analyze_hook);
            pg_sys::post_parse_analyze_hook = Some(check_statement);
        }
    }
}

/// Raises a refusal, which leaves by longjmp.
unsafe fn refuse(which: impl Fn(&Refusals) -> fn() -> Report) {
    if let Some(refusals) = REFUSALS.get() {
        // SAFETY: the callers own no destructor.
        unsafe { which(refusals)().throw() }
    }
}

unsafe extern "C-unwind" fn check_statement(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: PostgreSQL passes a statement after its names were looked up.
    unsafe {
        if let Some(owner) = acting_as_owner() {
            let tables = tables_of(query);
            if tables.clone().any(|table| is_temporary_of_another(table, owner)) {
                refuse(|refusals| refusals.temporary_table);
            }
            let text = (*state).p_sourcetext;
            if let Some(ours) = RUNNING.get()
                && !text.is_null()
                && CStr::from_ptr(text) == ours.sql
                && tables.clone().any(|table| table != ours.table)
            {
                refuse(|refusals| refusals.other_table);
            }
        }
        if let Some(next) = NEXT_HOOK.get().copied().flatten() {
            next(state, query, jumble);
        }
    }
}

/// The role that we act as, while we act as the owner of a table.
fn acting_as_owner() -> Option<Oid> {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads variables of the backend.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    (context & ACTING_AS_OWNER != 0).then_some(user)
}

/// Every table that a statement names, at any depth.
///
/// # Safety
/// `query` is a statement after parse analysis. An error leaves by longjmp.
unsafe fn tables_of(query: *mut pg_sys::Query) -> impl Iterator<Item = Oid> + Clone {
    let (mut tables, mut others, mut has_row_security) = (ptr::null_mut(), ptr::null_mut(), false);
    // SAFETY: a list of oids has as many as its length says, and NULL is the empty list.
    unsafe {
        pg_sys::extract_query_dependencies(query.cast(), &mut tables, &mut others, &mut has_row_security);
        let count = tables.as_ref().map_or(0, |list| list.length as usize);
        (0..count).map(move |at| (*(*tables).elements.add(at)).oid_value)
    }
}

/// # Safety
/// Within a transaction. An error leaves by longjmp.
unsafe fn is_temporary_of_another(relation: Oid, user: Oid) -> bool {
    // SAFETY: the cached entry is held while it is read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as c_int, relation.into());
        if tuple.is_null() {
            return false;
        }
        let class = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let answer = class.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP && class.relowner != user;
        pg_sys::ReleaseSysCache(tuple);
        answer
    }
}

/// The catalog pg_depend, which pgrx has no bindings of: its oid, that of its index on what is depended on, and its first
/// columns (catalog/pg_depend.h).
const PG_DEPEND: u32 = 2608;
const PG_DEPEND_REFERENCE_INDEX: u32 = 2674;
const REFCLASSID: pg_sys::AttrNumber = 4;
const REFOBJID: pg_sys::AttrNumber = 5;

#[repr(C)]
struct PgDepend {
    classid: Oid,
}

/// Raises an error if this session's temporary schema holds a type. The row type of a temporary table depends on the table
/// and not on the schema, so it does not count.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
unsafe fn refuse_temporary_types() {
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads pg_depend, as PostgreSQL does to drop the schema's content (catalog/dependency.c).
    unsafe {
        pg_sys::GetTempNamespaceState(&mut schema, &mut toast);
        if schema == pg_sys::InvalidOid {
            return;
        }
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let mut keys = [pg_sys::ScanKeyData::default(); 2];
        let columns = [(REFCLASSID, pg_sys::NamespaceRelationId), (REFOBJID, schema)];
        for (key, (column, value)) in keys.iter_mut().zip(columns) {
            let strategy = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            pg_sys::ScanKeyInit(key, column, strategy, pg_sys::F_OIDEQ.into(), value.into());
        }
        let depend = pg_sys::table_open(PG_DEPEND.into(), lock);
        let index = PG_DEPEND_REFERENCE_INDEX.into();
        let scan = pg_sys::systable_beginscan(depend, index, true, ptr::null_mut(), 2, keys.as_mut_ptr());
        let mut has_type = false;
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() || has_type {
                break;
            }
            has_type = (*pg_sys::GETSTRUCT(tuple).cast::<PgDepend>()).classid == pg_sys::TypeRelationId;
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(depend, lock);
        if has_type {
            refuse(|refusals| refusals.temporary_type);
        }
    }
}
