//! What is refused while we act as the owner of a table.
//!
//! No search path hides the session's temporary schema. Code of the owner's that does not qualify a name takes a table or type
//! there for its own, with the triggers, defaults, checks and casts that it has. So where a table has code, nothing is done as
//! its owner while the temporary schema has a table or type of another role. Planning a statement runs code too.
//!
//! Our own statements name the table, and a schema can be renamed at any moment, without a lock. So a look at each parsed
//! statement of ours makes sure that the name has led to the table whose owner we act as.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::OnceLock;

use pgrx::pg_sys::{self, Oid};

use super::ffi;
use super::owner::Roles;
use super::relation::{has_relative_of_another, lock_with_children, of_catalog, oids, reaches_others};
use super::report::Report;
use super::statement::{Effect, Statement};

/// A bit of our own in the security context (miscadmin.h), set while we act as an owner. PostgreSQL restores it with the
/// user when a transaction or savepoint is rolled back.
pub(super) const ACTING_AS_OWNER: c_int = 1 << 24;

/// What the guard has to be told.
pub struct Guard {
    /// Whether the table of oid $1 has code that the extension did not come with: a boolean. It names what is PostgreSQL's.
    pub has_code: &'static Statement,
    /// Whether the role of oid $1, that of oid $2, or that of the session is a superuser or may become one: a boolean.
    pub may_be_superuser: &'static Statement,
    /// Whether what writes to the table of oid $1 may run code of ordinary roles, by foreign keys, partitions and triggers: a boolean.
    pub reaches_code: &'static Statement,
    /// The error for what another role has in the temporary schema.
    pub temporary_object: fn() -> Report,
    /// The error for tables of an ordinary owner in the session of a superuser.
    pub ordinary_owner: fn() -> Report,
    /// The error for another role's table, or code, that foreign keys or partitions tie to ours.
    pub reached_table: fn() -> Report,
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

/// Runs `work`, a statement on table `relation` of this effect, unless code on the table is not to run in this session:
/// since it has a temporary object that the code may take for its own, or since the owner is no superuser and whoever calls may
/// be one. Code that a superuser has run can leave more behind than can be looked for, and can be made while the statement waits.
///
/// # Safety
/// Acting as the owner. An error leaves by longjmp.
pub(super) unsafe fn guarded<R>(relation: Oid, effect: Effect, roles: Roles, work: impl FnOnce() -> R) -> R {
    let Some(guard) = GUARD.get() else { return work() };
    // SAFETY: by the caller's promise. A session's role in the list of processes is the one that has logged in; a worker has none.
    unsafe {
        let login = (*pg_sys::MyProc).roleId;
        // A session that only acts as the owner by now can go back to what it was.
        let is_owners_own = roles.caller == roles.owner && [roles.owner, pg_sys::InvalidOid].contains(&login);
        if !is_owners_own && !pg_sys::superuser_arg(roles.owner) && guard.may_be_superuser.asks(&[roles.caller, login])
        {
            refuse(|guard| guard.ordinary_owner);
        }
        if effect == Effect::Reads {
            if has_relative_of_another(relation) {
                refuse(|guard| guard.reached_table);
            }
        } else if reaches_others(relation) && guard.reaches_code.asks(&[relation]) {
            // No lock is taken on tables of others, which would hold up who deletes nothing there.
            refuse(|guard| guard.reached_table);
        }
        if has_temporary_object_of_another(roles.owner) {
            // A look that waits for a partition does not see what was done there meanwhile.
            _ = lock_with_children(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            if guard.has_code.asks(&[relation]) {
                refuse(|guard| guard.temporary_object);
            }
        }
        work()
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

/// Whether the temporary schema of this session has a table or type that an ordinary role other than `owner` has a hand in: it
/// belongs to one, or one has logged in, who may have been given rights on it. As whom the session acts by now makes no difference.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
unsafe fn has_temporary_object_of_another(owner: Oid) -> bool {
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads pg_depend, as PostgreSQL does to drop the schema's content (catalog/dependency.c).
    unsafe {
        pg_sys::GetTempNamespaceState(&mut schema, &mut toast);
        if schema == pg_sys::InvalidOid {
            return false;
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
        // Without a role it is a background worker's, which acts as the superuser that initdb made. No other role calls there.
        let is_trusted = |role: Oid| role == owner || role == pg_sys::InvalidOid || pg_sys::superuser_arg(role);
        let (login, mut found) = ((*pg_sys::MyProc).roleId, false);
        while !found {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let object = &*pg_sys::GETSTRUCT(tuple).cast::<PgDepend>();
            found = owner_of(object).is_some_and(|by| !(is_trusted(by) && is_trusted(login)));
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
