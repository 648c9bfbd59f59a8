//! Acting as the owner of a table, with what that must not become: a way for the caller to run code with the owner's rights.
//!
//! Triggers, constraints, defaults and expression indexes on our tables are code of the owner's. They run under a search
//! path that the caller cannot choose. What that path does not hide is refused: see `guard`. Nor must it become a way for an
//! owner, or for somebody whose table refers to ours, to run code with more rights than they have.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys::{self, Oid};

use super::guard::ACTING_AS_OWNER;
use super::lock::lock_and_get_owner;
use super::relation::TableChanged;

const SEARCH_PATH: &CStr = c"pg_catalog, pg_temp";

/// Who acts as the owner of a table.
#[derive(Clone, Copy)]
pub(super) struct Roles {
    pub caller: Oid,
    pub owner: Oid,
}

impl Roles {
    /// Whether the owner must not get at the caller's rights.
    pub(super) fn are_apart(self) -> bool {
        // SAFETY: within a transaction.
        self.owner != self.caller && !unsafe { pg_sys::superuser_arg(self.owner) }
    }
}

/// Runs `work` as the owner of table `relation`. The table stays locked in this mode.
///
/// # Safety
/// Within a transaction. Errors leave by longjmp.
pub(super) unsafe fn as_owner<R>(
    relation: Oid,
    lock: pg_sys::LOCKMODE,
    work: impl FnOnce(Roles) -> R,
) -> Result<R, TableChanged> {
    // SAFETY: by the caller's promise.
    unsafe {
        let owner = lock_and_get_owner(relation, lock)?;
        Ok(as_user(owner, work))
    }
}

/// Runs `work` as `owner`, without the row-level security of its tables, as foreign keys are checked (ri_triggers.c), and
/// under [`SEARCH_PATH`], as maintenance is done (guc.c, RestrictSearchPath).
///
/// # Safety
/// Within a transaction. An error leaves by longjmp; the abort of the transaction or savepoint restores user and settings.
unsafe fn as_user<R>(owner: Oid, work: impl FnOnce(Roles) -> R) -> R {
    let (mut caller, mut context) = (pg_sys::InvalidOid, 0);
    let flags = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as c_int | ACTING_AS_OWNER;
    // SAFETY: by the caller's promise.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut caller, &mut context);
        let roles = Roles { caller, owner };
        // A held cursor or a deferred trigger would run when the transaction commits.
        let restriction = if roles.are_apart() { pg_sys::SECURITY_RESTRICTED_OPERATION as c_int } else { 0 };
        pg_sys::SetUserIdAndSecContext(owner, context | flags | restriction);
        let level = pg_sys::NewGUCNestLevel();
        set_meanwhile(c"search_path", SEARCH_PATH);
        let result = work(roles);
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(caller, context);
        result
    }
}

/// Sets a setting until the caller's GUC level ends.
///
/// # Safety
/// Acting as an owner. An error leaves by longjmp.
pub(super) unsafe fn set_meanwhile(name: &CStr, value: &CStr) {
    let (setting, source) = (pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_SESSION);
    let action = pg_sys::GucAction::GUC_ACTION_SAVE;
    // SAFETY: by the caller's promise.
    unsafe { pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), setting, source, action, true, 0, false) };
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
