//! What is refused while we act as the owner of a table.
//!
//! No search path hides the session's temporary schema. Code of the owner's that does not qualify a name takes a table or type
//! there for its own, with the triggers, defaults, checks and casts that it has. So where a table has code, nothing is
//! written as its owner while the temporary schema has a table or type of another role.
//!
//! Our own statements name the table, and a schema can be renamed at any moment, without a lock. So a look at each parsed
//! statement of ours makes sure that the name has led to the table whose owner we act as.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::slice;
use std::sync::OnceLock;

use pgrx::pg_sys::{self, Oid};

use super::ffi;
use super::relation::{TableChanged, of_catalog, of_table};
use super::report::Report;

/// A bit of our own in the security context (miscadmin.h), set while we act as an owner. PostgreSQL restores it with the
/// user when a transaction or savepoint is rolled back.
pub(super) const ACTING_AS_OWNER: c_int = 1 << 24;

/// What the guard has to be told.
pub struct Guard {
    /// The triggers, checks and columns with a default that the extension's tables come with.
    pub own: &'static [&'static CStr],
    /// The error for what another role has in the temporary schema.
    pub temporary_object: fn() -> Report,
    /// The error for a name that leads to another table.
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

static GUARD: OnceLock<Guard> = OnceLock::new();
static NEXT_PARSE: OnceLock<pg_sys::post_parse_analyze_hook_type> = OnceLock::new();

/// Has our statements looked at when they are parsed. Call this once a process.
pub fn guard_owner(guard: Guard) {
    if GUARD.set(guard).is_ok() {
        // SAFETY: the library is being loaded.
        unsafe {
            _ = NEXT_PARSE.set(pg_sys::post_parse_analyze_hook);
            pg_sys::post_parse_analyze_hook = Some(check_parsed);
        }
    }
}

/// Raises a refusal, which leaves by longjmp.
unsafe fn refuse(which: impl Fn(&Guard) -> fn() -> Report) {
    if let Some(guard) = GUARD.get() {
        // SAFETY: the callers own no destructor.
        unsafe { which(guard)().throw() }
    }
}

unsafe extern "C-unwind" fn check_parsed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: PostgreSQL passes a statement after its names were looked up.
    unsafe {
        let text = (*state).p_sourcetext;
        if let Some(ours) = RUNNING.get()
            && is_acting_as_owner()
            && !text.is_null()
            && CStr::from_ptr(text) == ours.sql
            && names_another(query, ours.table)
        {
            refuse(|guard| guard.other_table);
        }
        if let Some(next) = NEXT_PARSE.get().copied().flatten() {
            next(state, query, jumble);
        }
    }
}

fn is_acting_as_owner() -> bool {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads variables of the backend.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    context & ACTING_AS_OWNER != 0
}

/// Whether a statement names a table other than `table`, at any depth.
///
/// # Safety
/// `query` is a statement after parse analysis. An error leaves by longjmp.
unsafe fn names_another(query: *mut pg_sys::Query, table: Oid) -> bool {
    let (mut tables, mut others, mut has_row_security) = (ptr::null_mut(), ptr::null_mut(), false);
    // SAFETY: by the caller's promise. The list is one of oids, or NULL for the empty one.
    unsafe {
        ffi::extract_query_dependencies(query.cast(), &mut tables, &mut others, &mut has_row_security);
        oids(tables).any(|named| named != table)
    }
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

/// Raises an error if table `relation` has code and another role than `owner` has something in the temporary schema. Whose
/// session it is makes no difference: the caller may act as somebody else already.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
pub(super) unsafe fn refuse_temporary_objects(relation: Oid, owner: Oid) -> Result<(), TableChanged> {
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: by the caller's promise.
    unsafe {
        pg_sys::GetTempNamespaceState(&mut schema, &mut toast);
        if schema != pg_sys::InvalidOid
            && of_table(relation, |table| has_code(table))?
            && has_object_of_another(schema, owner)
        {
            refuse(|guard| guard.temporary_object);
        }
    }
    Ok(())
}

/// Whether a write to `table` may run anything that the extension did not come with.
///
/// # Safety
/// `table` is open. An error leaves by longjmp.
unsafe fn has_code(table: pg_sys::Relation) -> bool {
    // SAFETY: by the caller's promise. There are as many triggers, checks and defaults as their numbers say.
    unsafe {
        let (class, description) = (&*(*table).rd_rel, (*table).rd_att);
        let is_own = |name: *const c_char| {
            let name = CStr::from_ptr(name);
            GUARD.get().is_some_and(|guard| guard.own.contains(&name))
        };
        let default_is_own = |default: &pg_sys::AttrDefault| {
            let name = pg_sys::SPI_fname(description, default.adnum.into());
            !name.is_null() && is_own(name)
        };
        let has_triggers = (*table).trigdesc.as_ref().is_some_and(|has| {
            !slice::from_raw_parts(has.triggers, has.numtriggers as usize).iter().all(|trigger| is_own(trigger.tgname))
        });
        let has_constraints = (*description).constr.as_ref().is_some_and(|has| {
            let checks = (0..has.num_check as usize).map(|at| &*has.check.add(at));
            let defaults = (0..has.num_defval as usize).map(|at| &*has.defval.add(at));
            !checks.into_iter().all(|check| is_own(check.ccname)) || !defaults.into_iter().all(default_is_own)
        });
        let has_types = (1..=(*description).natts)
            .any(|number| pg_sys::SPI_gettypeid(description, number).to_u32() >= pg_sys::FirstNormalObjectId);
        class.relkind as u8 != pg_sys::RELKIND_RELATION
            || class.relhassubclass
            || !(*table).rd_rules.is_null()
            || has_triggers
            || has_constraints
            || has_types
            || oids(pg_sys::RelationGetIndexList(table)).any(|index| has_expression(index))
    }
}

/// Whether an index has an expression or a condition.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
unsafe fn has_expression(index: Oid) -> bool {
    const EXPRESSIONS: c_int = pg_sys::Anum_pg_index_indexprs as c_int;
    const CONDITION: c_int = pg_sys::Anum_pg_index_indpred as c_int;
    // SAFETY: the cached row is held while it is read. An index that is gone has none.
    unsafe {
        let row = ffi::SearchSysCache1(pg_sys::SysCacheIdentifier::INDEXRELID as c_int, index.into());
        if row.is_null() {
            return false;
        }
        let is_null = |number| pg_sys::heap_attisnull(row, number, ptr::null_mut());
        let answer = !is_null(EXPRESSIONS) || !is_null(CONDITION);
        ffi::ReleaseSysCache(row);
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
    objid: Oid,
}

/// Whether `schema` has a table or type that belongs to an ordinary role other than `owner`.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
unsafe fn has_object_of_another(schema: Oid, owner: Oid) -> bool {
    // SAFETY: reads pg_depend, as PostgreSQL does to drop the schema's content (catalog/dependency.c).
    unsafe {
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
        let mut found = false;
        while !found {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let by = owner_of(&*pg_sys::GETSTRUCT(tuple).cast());
            found = by.is_some_and(|by| by != owner && !pg_sys::superuser_arg(by));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(depend, lock);
        found
    }
}

/// The owner of a table or type. Nothing else is looked for in the temporary schema.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
unsafe fn owner_of(object: &PgDepend) -> Option<Oid> {
    use pg_sys::SysCacheIdentifier::{RELOID, TYPEOID};
    // SAFETY: by the caller's promise.
    unsafe {
        match object.classid {
            pg_sys::RelationRelationId => {
                of_catalog(RELOID, object.objid, |row: &pg_sys::FormData_pg_class| row.relowner)
            }
            pg_sys::TypeRelationId => of_catalog(TYPEOID, object.objid, |row: &pg_sys::FormData_pg_type| row.typowner),
            _ => None,
        }
    }
}
