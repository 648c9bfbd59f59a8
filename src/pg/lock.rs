//! Locks on tables, rows and names, which the transaction holds until it ends.

use pgrx::pg_sys::{self, Oid};

use super::ffi::GetCurrentCommandId;
use super::keyed_hash::keyed_hash;
use super::lookup::{Key, Lookup};
use super::relation::{TableChanged, open};
use super::session::{check_for_interrupts, database_oid};

const WRITING: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;

/// Locks table `relation` for writing.
pub fn lock_for_writing(relation: Oid) -> Result<(), TableChanged> {
    // SAFETY: within a transaction.
    unsafe { lock_and_get_owner(relation, WRITING).map(drop) }
}

/// Locks table `relation` for reading.
pub fn lock_for_reading(relation: Oid) -> Result<(), TableChanged> {
    // SAFETY: within a transaction.
    unsafe { lock_and_get_owner(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE).map(drop) }
}

/// Locks table `relation` for writing and returns true, unless that means waiting.
pub fn lock_for_writing_without_waiting(relation: Oid) -> bool {
    // SAFETY: within a transaction.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, WRITING) }
}

/// Locks table `relation`. Returns its owner.
///
/// # Safety
/// Within a transaction.
pub(super) unsafe fn lock_and_get_owner(relation: Oid, lock: pg_sys::LOCKMODE) -> Result<Oid, TableChanged> {
    // SAFETY: by the caller's promise.
    unsafe {
        let table = open(relation, lock)?;
        let owner = (*(*table).rd_rel).relowner;
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        Ok(owner)
    }
}

/// Under REPEATABLE READ and SERIALIZABLE: locks the row of table `relation` whose first column, its primary key, is `key`,
/// and waits for other transactions that are changing it. A statement that then changes the row finds nobody before it, and
/// does not fail with 40001. Under READ COMMITTED a statement waits by itself.
///
/// An error leaves by longjmp.
pub fn lock_row_to_update(relation: Oid, key: &Key) -> Result<(), TableChanged> {
    // SAFETY: within a transaction. The table stays locked, so that the tid stays the row's after the lookup has ended.
    unsafe {
        if pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 {
            return Ok(());
        }
        lock_for_writing(relation)?;
        loop {
            check_for_interrupts();
            let lookup = Lookup::begin(relation, || true, key)?;
            let Some(row) = lookup.tuple() else {
                lookup.end();
                return Ok(());
            };
            let (mode, wait) = (pg_sys::LockTupleMode::LockTupleNoKeyExclusive, pg_sys::LockWaitPolicy::LockWaitBlock);
            let result = lock_tuple(lookup.table, (*row).t_self, GetCurrentCommandId(true), mode, wait);
            lookup.end();
            match result {
                // Another transaction was first and has committed: look again.
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => {}
                _ => return Ok(()),
            }
        }
    }
}

/// Locks the row at `tid`.
///
/// # Safety
/// `table` is open and locked for writing.
pub(super) unsafe fn lock_tuple(
    table: pg_sys::Relation,
    tid: pg_sys::ItemPointerData,
    cid: pg_sys::CommandId,
    mode: pg_sys::LockTupleMode::Type,
    wait: pg_sys::LockWaitPolicy::Type,
) -> pg_sys::TM_Result::Type {
    let mut row = pg_sys::HeapTupleData { t_self: tid, ..Default::default() };
    let mut failure = pg_sys::TM_FailureData::default();
    let mut buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
    // SAFETY: by the caller's promise. The buffer is pinned whatever the result is.
    unsafe {
        let result = pg_sys::heap_lock_tuple(table, &mut row, cid, mode, wait, false, &mut buffer, &mut failure);
        pg_sys::ReleaseBuffer(buffer);
        result
    }
}

/// Locks the name that `parts` make up, among names of the same `kind`, and waits for others who hold it. The lock is
/// advisory, in a space of its own beside that of pg_advisory_lock(). Names with the same hash share a lock.
///
/// pg_locks shows the hash to every role, and it is keyed.
pub fn lock_name(kind: u16, parts: &[&[u8]], is_shared: bool) {
    let hash = keyed_hash(parts);
    let [first, second] = [0, 4].map(|at| u32::from_be_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]));
    let tag = pg_sys::LOCKTAG {
        locktag_field1: database_oid(),
        locktag_field2: first,
        locktag_field3: second,
        locktag_field4: kind,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    };
    let mode = if is_shared { pg_sys::ShareLock } else { pg_sys::ExclusiveLock };
    // SAFETY: within a transaction.
    unsafe { pg_sys::LockAcquire(&tag, mode as pg_sys::LOCKMODE, false, false) };
}
