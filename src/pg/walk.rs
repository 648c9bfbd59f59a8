//! The walk over a table's primary key, which can delete on its way. It is several times as fast as a DELETE.

use std::ptr;

use pgrx::pg_sys::{self, Datum, Oid};

use super::datum::{SqlType as _, Uuid};
use super::ffi::{self, GetCurrentCommandId, heap_delete};
use super::key_scan::{KeyScan, is_of_first_column, open_primary_key};
use super::lock::lock_tuple;
use super::lookup::{Reader, Tuple};
use super::relation::{Rows, TableChanged, of_catalog, of_table, open, rows_of};
use super::session::check_for_interrupts;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// Keys greater than `after`, and at most `to`.
#[derive(Clone, Copy)]
pub struct UuidRange {
    pub after: [u8; 16],
    pub to: [u8; 16],
}

/// The row that a walk has come to.
pub struct WalkedRow<'a> {
    table: pg_sys::Relation,
    tuple: Tuple<'a>,
}

/// Calls `visit` with each row of table `relation` in `range`, in the order of its primary key, a uuid, until `visit`
/// returns false. The rows are those that are committed now. After so many `entries` of the index, also of rows that are dead, the
/// walk ends with the last entry of a key, and returns that key. With child tables, or without a primary key of the first column
/// alone: fails with [`TableChanged`].
///
/// An error leaves by longjmp through `visit`, which owns no destructor.
pub fn walk(
    relation: Oid,
    range: &UuidRange,
    entries: u64,
    mut visit: impl FnMut(&WalkedRow<'_>) -> bool,
) -> Result<Option<[u8; 16]>, TableChanged> {
    // SAFETY: within a transaction. The keys outlive the scan, and a row its visit.
    unsafe {
        let table = open(relation, LOCK)?;
        let has_children = (*(*table).rd_rel).relhassubclass;
        let index = if has_children { None } else { open_primary_key(table) };
        let snapshot = ffi::RegisterSnapshot(ffi::GetLatestSnapshot());
        let mut keys = [pg_sys::ScanKeyData::default(); 2];
        let bounds = [
            (pg_sys::BTGreaterStrategyNumber, pg_sys::F_UUID_GT, &range.after),
            (pg_sys::BTLessEqualStrategyNumber, pg_sys::F_UUID_LE, &range.to),
        ];
        for (key, (strategy, operator, bound)) in keys.iter_mut().zip(bounds) {
            let strategy = strategy as pg_sys::StrategyNumber;
            ffi::ScanKeyInit(key, 1, strategy, operator.into(), Datum::from(ptr::from_ref(bound)));
        }
        let scan = index.map(|index| KeyScan::begin(table, index, snapshot, &mut keys, true));
        let mut come_to: Option<[u8; 16]> = None;
        if let Some(scan) = scan {
            let reader = Reader::new((*table).rd_att);
            let mut seen = 0;
            while scan.next_entry() {
                check_for_interrupts();
                // The versions of an updated row have an entry each.
                if come_to.is_some_and(|key| key != Uuid::read(scan.key())) {
                    break;
                }
                let tuple = scan.row();
                if !tuple.is_null() && !visit(&WalkedRow { table, tuple: reader.read(tuple) }) {
                    come_to = None;
                    break;
                }
                seen += 1;
                if seen >= entries {
                    come_to = Some(Uuid::read(scan.key()));
                }
            }
            scan.end();
        }
        ffi::UnregisterSnapshot(snapshot);
        ffi::relation_close(table, LOCK);
        scan.map(|_| come_to).ok_or(TableChanged)
    }
}

/// What has come of deleting a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    Done,
    /// Another transaction has changed the row since the walk began, and has committed. A new walk comes to what it is now.
    Changed,
    /// Another transaction holds the row, or has deleted it.
    Left,
}

impl<'a> WalkedRow<'a> {
    /// What is in the row.
    pub fn tuple(&self) -> &Tuple<'a> {
        &self.tuple
    }

    /// Deletes the row, without waiting for others. Only for a table that [`deletes_plainly`] and is locked for writing.
    pub fn delete(&self) -> Deletion {
        // SAFETY: the walk is running. Once the row is locked, deleting it does not wait.
        unsafe {
            let mut failure = pg_sys::TM_FailureData::default();
            let (tid, cid) = (&raw mut (*self.tuple.tuple).t_self, GetCurrentCommandId(true));
            let mut delete = |wait| heap_delete(self.table, tid, cid, ptr::null_mut(), wait, &mut failure, false);
            let mut result = delete(false);
            // The lock may be this transaction's own.
            if result == pg_sys::TM_Result::TM_BeingModified {
                let (mode, wait) = (pg_sys::LockTupleMode::LockTupleExclusive, pg_sys::LockWaitPolicy::LockWaitSkip);
                result = lock_tuple(self.table, *tid, cid, mode, wait);
                if result == pg_sys::TM_Result::TM_Ok {
                    result = delete(true);
                }
            }
            match result {
                pg_sys::TM_Result::TM_Ok => Deletion::Done,
                pg_sys::TM_Result::TM_Updated => Deletion::Changed,
                _ => Deletion::Left,
            }
        }
    }
}

/// Whether a DELETE of a row of `relation` would do nothing but remove it: no trigger, foreign key, rule, child table or
/// other table access method takes part. Raises the error of a published table without a replica identity.
pub fn deletes_plainly(relation: Oid) -> Result<bool, TableChanged> {
    // SAFETY: the table is open.
    of_table(relation, |table| unsafe {
        let class = &*(*table).rd_rel;
        let has_triggers = (*table).trigdesc.as_ref().is_some_and(|triggers| {
            triggers.trig_delete_before_row
                || triggers.trig_delete_after_row
                || triggers.trig_delete_instead_row
                || triggers.trig_delete_before_statement
                || triggers.trig_delete_after_statement
        });
        let plainly = rows_of(relation) == Rows::Here
            && !class.relhassubclass
            && !class.relispartition
            && (*table).rd_rules.is_null()
            && !has_triggers
            && can_be_walked(table);
        if plainly {
            pg_sys::CheckCmdReplicaIdentity(table, pg_sys::CmdType::CMD_DELETE);
        }
        plainly
    })
}

/// Whether there is a primary key, of the first column alone.
///
/// # Safety
/// `table` is open.
unsafe fn can_be_walked(table: pg_sys::Relation) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        of_catalog(pg_sys::SysCacheIdentifier::INDEXRELID, ffi::primary_key(table), is_of_first_column).unwrap_or(false)
    }
}
