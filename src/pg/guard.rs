//! What is refused while we act as the owner of a table.
//!
//! No search path hides the session's temporary schema, which holds tables and types:
//!
//! - A statement that names another role's temporary table is refused. It is looked at when it is parsed, when it is planned
//!   and when it starts. Planning may call functions, for constants and estimates; and a plan that the caller has made
//!   before, under the same search path, is not parsed again. TRUNCATE is none of that, and looked at by itself.
//! - Types are looked up in too many places to be refused one by one. So nothing is written as the owner while the temporary
//!   schema has a type that another role has made, or a table with a column of such a type. That a table seems to have no
//!   code makes no difference: a replaced constraint, an index or a column's type may bring it.
//!
//! Our own statements name the table, and a schema can be renamed at any moment, without a lock. So the same look at a
//! parsed statement makes sure that the name has led to the table whose owner we act as.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use pgrx::pg_sys::{self, Oid};

use super::ffi;
use super::relation::of_catalog;
use super::report::Report;

/// A bit of our own in the security context (miscadmin.h), set while we act as an owner. PostgreSQL restores it with the
/// user when a transaction or savepoint is rolled back.
pub(super) const ACTING_AS_OWNER: c_int = 1 << 24;

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
static NEXT_PARSE: OnceLock<pg_sys::post_parse_analyze_hook_type> = OnceLock::new();
static NEXT_PLAN: OnceLock<pg_sys::planner_hook_type> = OnceLock::new();
static NEXT_START: OnceLock<pg_sys::ExecutorStart_hook_type> = OnceLock::new();
static NEXT_ACCESS: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();

/// Has every statement looked at that is parsed, planned or started while we act as an owner. Call this once a process.
pub fn guard_owner(refusals: Refusals) {
    if REFUSALS.set(refusals).is_ok() {
        // SAFETY: the library is being loaded.
        unsafe {
            _ = NEXT_PARSE.set(pg_sys::post_parse_analyze_hook);
            pg_sys::post_parse_analyze_hook = Some(check_parsed);
            _ = NEXT_PLAN.set(pg_sys::planner_hook);
            pg_sys::planner_hook = Some(check_and_plan);
            _ = NEXT_START.set(pg_sys::ExecutorStart_hook);
            pg_sys::ExecutorStart_hook = Some(check_and_start);
            _ = NEXT_ACCESS.set(pg_sys::object_access_hook);
            pg_sys::object_access_hook = Some(check_access);
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

unsafe extern "C-unwind" fn check_parsed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: PostgreSQL passes a statement after its names were looked up.
    unsafe {
        if acting_as_owner().is_some() {
            let tables = tables_of(query);
            refuse_temporary_tables(tables);
            let text = (*state).p_sourcetext;
            if let Some(ours) = RUNNING.get()
                && !text.is_null()
                && CStr::from_ptr(text) == ours.sql
                && oids(tables).any(|table| table != ours.table)
            {
                refuse(|refusals| refusals.other_table);
            }
        }
        if let Some(next) = NEXT_PARSE.get().copied().flatten() {
            next(state, query, jumble);
        }
    }
}

unsafe extern "C-unwind" fn check_and_plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: PostgreSQL passes a statement after it was rewritten.
    unsafe {
        if acting_as_owner().is_some() {
            refuse_temporary_tables(tables_of(query));
        }
        let next = NEXT_PLAN.get().copied().flatten().unwrap_or(ffi::standard_planner);
        next(query, text, options, parameters)
    }
}

unsafe extern "C-unwind" fn check_and_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: PostgreSQL passes a planned statement.
    unsafe {
        if acting_as_owner().is_some() {
            refuse_temporary_tables((*(*query).plannedstmt).relationOids);
        }
        let next = NEXT_START.get().copied().flatten().unwrap_or(ffi::standard_ExecutorStart);
        next(query, flags);
    }
}

unsafe extern "C-unwind" fn check_access(
    access: pg_sys::ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    part: c_int,
    argument: *mut c_void,
) {
    // SAFETY: PostgreSQL passes an object that it has looked up. Only tables are truncated.
    unsafe {
        if access == pg_sys::ObjectAccessType::OAT_TRUNCATE && acting_as_owner().is_some() && is_of_another(object) {
            refuse(|refusals| refusals.temporary_table);
        }
        if let Some(next) = NEXT_ACCESS.get().copied().flatten() {
            next(access, class, object, part, argument);
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

/// A list of every table that a statement names, at any depth.
///
/// # Safety
/// `query` is a statement after parse analysis. An error leaves by longjmp.
unsafe fn tables_of(query: *mut pg_sys::Query) -> *mut pg_sys::List {
    let (mut tables, mut others, mut has_row_security) = (ptr::null_mut(), ptr::null_mut(), false);
    // SAFETY: by the caller's promise.
    unsafe { ffi::extract_query_dependencies(query.cast(), &mut tables, &mut others, &mut has_row_security) };
    tables
}

/// # Safety
/// `list` is a list of oids, or NULL for the empty one.
unsafe fn oids(list: *mut pg_sys::List) -> impl Iterator<Item = Oid> {
    // SAFETY: by the caller's promise.
    unsafe {
        let count = list.as_ref().map_or(0, |list| list.length as usize);
        (0..count).map(move |at| (*(*list).elements.add(at)).oid_value)
    }
}

/// Raises an error if one of `tables` is a temporary table of a role other than the one that we act as.
///
/// # Safety
/// As of [`oids`]. An error leaves by longjmp.
unsafe fn refuse_temporary_tables(tables: *mut pg_sys::List) {
    // SAFETY: by the caller's promise.
    unsafe {
        if oids(tables).any(|table| is_of_another(table)) {
            refuse(|refusals| refusals.temporary_table);
        }
    }
}

/// Whether a table is a temporary one of a role other than the one that we act as.
///
/// # Safety
/// As of [`refuse_temporary_types`].
unsafe fn is_of_another(table: Oid) -> bool {
    // SAFETY: by the caller's promise.
    let answer = unsafe {
        of_catalog(pg_sys::SysCacheIdentifier::RELOID, table, |class: &pg_sys::FormData_pg_class| {
            class.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP && acting_as_owner() != Some(class.relowner)
        })
    };
    answer.unwrap_or(false)
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
    objid: Oid,
}

/// Raises an error if this session's temporary schema has a type that `owner` cannot trust, or a table with a column of
/// such a type. Whose session it is makes no difference: the caller may act as somebody else already.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
pub(super) unsafe fn refuse_temporary_types(owner: Oid) {
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads pg_depend, as PostgreSQL does to drop the schema's content (catalog/dependency.c). The row type of a
    // table depends on the table and not on the schema.
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
        let mut is_dangerous = false;
        while !is_dangerous {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let object = &*pg_sys::GETSTRUCT(tuple).cast::<PgDepend>();
            is_dangerous = match object.classid {
                pg_sys::TypeRelationId => !is_trusted_type(object.objid, owner),
                pg_sys::RelationRelationId => has_untrusted_column(object.objid, owner),
                _ => false,
            };
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(depend, lock);
        if is_dangerous {
            refuse(|refusals| refusals.temporary_type);
        }
    }
}

/// # Safety
/// As of [`refuse_temporary_types`].
unsafe fn has_untrusted_column(relation: Oid, owner: Oid) -> bool {
    // SAFETY: the columns of a relation are numbered from 1 to relnatts.
    unsafe {
        let columns =
            of_catalog(pg_sys::SysCacheIdentifier::RELOID, relation, |row: &pg_sys::FormData_pg_class| row.relnatts);
        (1..=columns.unwrap_or(0)).any(|number| {
            let of = pg_sys::get_atttype(relation, number);
            of != pg_sys::InvalidOid && !is_trusted_type(of, owner)
        })
    }
}

/// Whether no role but `owner` and superusers has a say in what runs when a value becomes one of this type. A check of a
/// domain runs then, and the domain may be within another type.
///
/// # Safety
/// As of [`refuse_temporary_types`].
unsafe fn is_trusted_type(of: Oid, owner: Oid) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let element = pg_sys::get_base_element_type(of);
        let of = if element == pg_sys::InvalidOid { of } else { element };
        let by = of_catalog(pg_sys::SysCacheIdentifier::TYPEOID, of, |row: &pg_sys::FormData_pg_type| {
            let is_plain =
                [pg_sys::TYPTYPE_BASE, pg_sys::TYPTYPE_ENUM, pg_sys::TYPTYPE_PSEUDO].contains(&(row.typtype as u8));
            (!is_plain).then_some(row.typowner)
        });
        by.flatten().is_none_or(|by| by == owner || pg_sys::superuser_arg(by))
    }
}
