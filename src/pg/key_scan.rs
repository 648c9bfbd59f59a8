//! A scan of a table by its primary key: what the lookup and the walk have in common.

use std::ptr;

use pgrx::pg_sys;

use super::ffi;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// A scan of a table by its primary key, in the order of the key.
#[derive(Clone, Copy)]
pub(super) struct KeyScan {
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
}

impl KeyScan {
    /// The snapshot is taken once the index is open, which may have waited for another transaction: what that has committed is
    /// seen. With `wants_keys`, [`Self::key`] may be asked.
    ///
    /// # Safety
    /// As of [`open_primary_key`], which has opened the index. The `keys` are of its column.
    pub unsafe fn begin(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        keys: &mut [pg_sys::ScanKeyData],
        wants_keys: bool,
    ) -> Self {
        // SAFETY: by the caller's promise. The scan copies the keys.
        unsafe {
            let slot = ffi::table_slot_create(table, ptr::null_mut());
            let count = keys.len() as i32;
            let scan = ffi::begin_index_scan(table, index, snapshot, count);
            (*scan).xs_want_itup = wants_keys;
            ffi::index_rescan(scan, keys.as_mut_ptr(), count, ptr::null_mut(), 0);
            Self { index, scan, slot }
        }
    }

    /// The next row, valid until the one after it is asked for. NULL at the end.
    ///
    /// # Safety
    /// As of `begin`, before `end`.
    pub unsafe fn next(&self) -> pg_sys::HeapTuple {
        // SAFETY: the slot is one of the table's, and keeps the tuple.
        unsafe {
            if ffi::index_getnext_slot(self.scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) {
                ffi::ExecFetchSlotHeapTuple(self.slot, false, &mut false)
            } else {
                ptr::null_mut()
            }
        }
    }

    /// Goes to the next entry of the index, which may be of a row that is dead. False at the end.
    ///
    /// # Safety
    /// As of `next`. The snapshot is an MVCC snapshot, of which a row has one version at most.
    pub unsafe fn next_entry(&self) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { !ffi::index_getnext_tid(self.scan, pg_sys::ScanDirection::ForwardScanDirection).is_null() }
    }

    /// The row of the entry, valid until the next one is asked for. NULL if it is dead.
    ///
    /// # Safety
    /// After `next_entry`.
    pub unsafe fn row(&self) -> pg_sys::HeapTuple {
        // SAFETY: by the caller's promise. This and `next_entry` are what index_getnext_slot does (access/index/indexam.c).
        unsafe {
            if ffi::index_fetch_heap(self.scan, self.slot) {
                ffi::ExecFetchSlotHeapTuple(self.slot, false, &mut false)
            } else {
                ptr::null_mut()
            }
        }
    }

    /// The key of the entry, not NULL.
    ///
    /// # Safety
    /// After `next_entry`; `begin` was told that keys are wanted.
    pub unsafe fn key(&self) -> pg_sys::Datum {
        // SAFETY: by the caller's promise; a primary key is not NULL.
        unsafe { ffi::nocache_index_getattr((*self.scan).xs_itup, 1, (*self.scan).xs_itupdesc) }
    }

    /// # Safety
    /// As of `begin`, once.
    pub unsafe fn end(self) {
        // SAFETY: `begin` has opened these.
        unsafe {
            ffi::index_endscan(self.scan);
            ffi::ExecDropSingleTupleTableSlot(self.slot);
            ffi::index_close(self.index, LOCK);
        }
    }
}

/// Opens the index of the primary key. `None` if that is not the first column alone. It is looked up each time, since REINDEX
/// CONCURRENTLY replaces it.
///
/// # Safety
/// Within a transaction. `table` is open. An error leaves by longjmp.
pub(super) unsafe fn open_primary_key(table: pg_sys::Relation) -> Option<pg_sys::Relation> {
    // SAFETY: by the caller's promise.
    unsafe {
        let oid = ffi::primary_key(table);
        if oid == pg_sys::InvalidOid {
            return None;
        }
        let index = ffi::index_open(oid, LOCK);
        if !is_of_first_column(&*(*index).rd_index) {
            ffi::index_close(index, LOCK);
            return None;
        }
        Some(index)
    }
}

/// Whether an index is on the first column of its table alone.
pub(super) fn is_of_first_column(index: &pg_sys::FormData_pg_index) -> bool {
    // SAFETY: an index has as many key columns as it says.
    index.indnkeyatts == 1 && unsafe { *index.indkey.values.as_ptr() } == 1
}
