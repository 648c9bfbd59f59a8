//! Acting as the owner of a table, with what that must not become: a way for the caller to run code with the owner's rights.
//!
//! Triggers, constraints, defaults and expression indexes on our tables are code of the owner's. They run under a search
//! path that the caller cannot choose. What that path does not hide is refused: see `guard`.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys::{self, Oid};

use super::guard::{ACTING_AS_OWNER, refuse_temporary_types};
use super::lock::lock_and_get_owner;
use super::relation::{TableChanged, of_catalog, of_table};

/// The language c (catalog/pg_language.dat).
const LANGUAGE_C: Oid = Oid::from_u32(13);

const SEARCH_PATH: &CStr = c"pg_catalog, pg_temp";

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
    unsafe {
        let owner = lock_and_get_owner(relation, lock)?;
        if has_code(relation)? {
            refuse_temporary_types(owner);
        }
        Ok(as_user(owner, work))
    }
}

/// Whether anything on table `relation` may run code that is not the extension's own: triggers and rules, and more checks,
/// defaults or indexes than the extension's tables come with.
fn has_code(relation: Oid) -> Result<bool, TableChanged> {
    const CHECKS: u16 = 1;
    const DEFAULTS: u16 = 1;
    const INDEXES: i32 = 2;
    // SAFETY: the table is open. There are as many triggers as numtriggers says.
    of_table(relation, |table| unsafe {
        let in_c = |trigger: &pg_sys::Trigger| {
            let language =
                of_catalog(pg_sys::SysCacheIdentifier::PROCOID, trigger.tgfoid, |row: &pg_sys::FormData_pg_proc| {
                    row.prolang
                });
            !trigger.tgisinternal && language == Some(LANGUAGE_C)
        };
        let has_triggers = (*table).trigdesc.as_ref().is_some_and(|triggers| {
            !std::slice::from_raw_parts(triggers.triggers, triggers.numtriggers as usize).iter().all(in_c)
        });
        let constraints = (*(*table).rd_att).constr.as_ref();
        let indexes = pg_sys::RelationGetIndexList(table).as_ref().map_or(0, |list| list.length);
        has_triggers
            || !(*table).rd_rules.is_null()
            || constraints.is_some_and(|has| has.num_check > CHECKS || has.num_defval > DEFAULTS)
            || indexes > INDEXES
            || (*(*table).rd_rel).relkind as u8 != pg_sys::RELKIND_RELATION
    })
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
