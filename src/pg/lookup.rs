//! The lookup of one row by primary key, and what is read from a row.
//!
//! It has no planner, no search path and no privileges in its way, takes no transaction id, and works on a standby. No
//! setting of the session changes it: the catalogs' own lookups (systable_beginscan) obey ignore_system_indexes.

use std::marker::PhantomData;
use std::ptr;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, Oid};

use super::call::Call;
use super::datum::{Bytes, SqlType, varlena};
use super::ffi;
use super::relation::TableChanged;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// A row of a table, or of a statement's result.
pub struct Tuple<'a> {
    pub(super) tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
    columns: Columns,
    memory: PhantomData<&'a ()>,
}

/// The values of a row's columns, and which of them are NULL.
#[derive(Clone, Copy)]
struct Columns {
    values: *mut Datum,
    nulls: *mut bool,
    count: usize,
}

impl Columns {
    /// Room for rows of this description.
    ///
    /// # Safety
    /// The description is alive. An error leaves by longjmp.
    unsafe fn room(description: pg_sys::TupleDesc) -> Self {
        // SAFETY: an allocation is aligned for any type.
        unsafe {
            let count = (*description).natts as usize;
            let values = ffi::palloc(count * (size_of::<Datum>() + 1)).cast::<Datum>();
            Self { values, nulls: values.add(count).cast(), count }
        }
    }
}

/// Reads rows of one description, one after the other, into the same room.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    description: pg_sys::TupleDesc,
    columns: Columns,
}

impl Reader {
    /// # Safety
    /// The description outlives the reader. An error leaves by longjmp.
    pub unsafe fn new(description: pg_sys::TupleDesc) -> Self {
        // SAFETY: by the caller's promise.
        unsafe { Self { description, columns: Columns::room(description) } }
    }

    /// # Safety
    /// The tuple is of this description. It outlives the result, which is not used after the next one is read.
    pub unsafe fn read<'a>(&self, tuple: pg_sys::HeapTuple) -> Tuple<'a> {
        let Self { description, columns } = *self;
        // SAFETY: by the caller's promise.
        unsafe { ffi::heap_deform_tuple(tuple, description, columns.values, columns.nulls) };
        Tuple { tuple, description, columns, memory: PhantomData }
    }
}

impl<'a> Tuple<'a> {
    /// A copy of a row, with the values that are stored elsewhere.
    ///
    /// # Safety
    /// The row is visible to a registered snapshot. The copy is not used after the current memory context is gone.
    pub(super) unsafe fn copy_of(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) -> Self {
        // SAFETY: by the caller's promise.
        unsafe {
            let is_whole = (*(*tuple).t_data).t_infomask & pg_sys::HEAP_HASEXTERNAL as u16 == 0;
            let copy = if is_whole { ffi::heap_copytuple(tuple) } else { ffi::toast_flatten_tuple(tuple, description) };
            Reader::new(description).read(copy)
        }
    }

    /// As [`Self::copy_of`].
    ///
    /// # Safety
    /// As of [`Self::copy_of`].
    pub(super) unsafe fn copy<'b>(&self) -> Tuple<'b> {
        // SAFETY: by the caller's promise.
        unsafe { Tuple::copy_of(self.tuple, self.description) }
    }

    /// Whether this transaction has written the row, and may still roll it back.
    pub fn is_of_this_transaction(&self) -> bool {
        // SAFETY: every tuple has a header, and a copy keeps the writer in it.
        unsafe { pg_sys::TransactionIdIsCurrentTransactionId((*(*self.tuple).t_data).t_choice.t_heap.t_xmin) }
    }

    /// Column `number`, from 1, as the value that it is. `None` for NULL and past the last column.
    pub fn datum(&self, number: usize) -> Option<Datum> {
        let at = number - 1;
        // SAFETY: there are as many values and flags as columns.
        unsafe { (at < self.columns.count && !*self.columns.nulls.add(at)).then(|| *self.columns.values.add(at)) }
    }

    /// Column `number`, from 1, which the caller knows to be of this type. `None` for NULL.
    pub fn get<T: SqlType>(&self, number: usize) -> Option<T::Value<'a>> {
        // SAFETY: the types of the tables' columns are checked when the tables are found, and statements are our own. The
        // row outlives 'a.
        self.datum(number).map(|datum| unsafe { T::read(datum) })
    }

    /// A text or bytea column, with the value to hand on.
    pub fn bytes(&self, number: usize) -> Option<Bytes<'a>> {
        // SAFETY: as in `get`.
        self.datum(number).map(|datum| unsafe { Bytes::read(datum) })
    }
}

/// The value of a primary key.
pub struct Key {
    equals: u32,
    value: Datum,
}

impl Key {
    /// A key of type uuid.
    pub fn uuid(bytes: &[u8; 16]) -> Self {
        Self { equals: pg_sys::F_UUID_EQ, value: Datum::from(ptr::from_ref(bytes)) }
    }

    /// A key of type text, compared byte for byte.
    pub fn text(bytes: &[u8]) -> Self {
        Self { equals: pg_sys::F_TEXTEQ, value: varlena(bytes) }
    }
}

/// A copy of the row of table `relation` whose first column, its primary key, is `key`. `None` if there is none.
///
/// The row is read from the newest committed state, whatever snapshot the transaction holds; its own changes count. Without
/// such a primary key the whole table is read. The lock is given back at once, so that a long transaction does not hold up
/// DDL.
///
/// Locking the table processes pending invalidations. `is_current` is called right after and returns false if `relation` is
/// not the right table any more; the lookup then fails with [`TableChanged`]. `is_current` calls nothing of PostgreSQL's.
pub fn find<'call>(
    _call: &Call<'call>,
    relation: Oid,
    is_current: impl Fn() -> bool,
    key: &Key,
) -> Result<Option<Tuple<'call>>, TableChanged> {
    // SAFETY: one guard around the whole lookup, which owns no destructor. The row is copied while its buffer is pinned.
    unsafe {
        pg_guard_ffi_boundary(|| {
            let lookup = Lookup::begin(relation, &is_current, key)?;
            let row = lookup.tuple().map(|tuple| Tuple::copy_of(tuple, (*lookup.table).rd_att));
            lookup.end();
            Ok(row)
        })
    }
}

/// A lookup that is under way. After an error PostgreSQL's resource owner closes what is open.
pub(super) struct Lookup {
    pub table: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    scan: Scan,
    tuple: pg_sys::HeapTuple,
}

enum Scan {
    ByKey(KeyScan),
    WholeTable(pg_sys::SysScanDesc),
}

impl Lookup {
    /// # Safety
    /// Within a transaction. An error leaves by longjmp.
    pub unsafe fn begin(relation: Oid, is_current: impl Fn() -> bool, key: &Key) -> Result<Self, TableChanged> {
        // SAFETY: by the caller's promise. A table that is locked and still the right one can be opened.
        unsafe {
            ffi::LockRelationOid(relation, LOCK);
            if !is_current() {
                ffi::UnlockRelationOid(relation, LOCK);
                return Err(TableChanged);
            }
            let table = ffi::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            let snapshot = ffi::RegisterSnapshot(ffi::GetLatestSnapshot());
            let mut entry = pg_sys::ScanKeyData::default();
            let strategy = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            ffi::ScanKeyInit(&mut entry, 1, strategy, key.equals.into(), key.value);
            let (scan, tuple) = match KeyScan::begin(table, snapshot, std::slice::from_mut(&mut entry), false) {
                Some(scan) => (Scan::ByKey(scan), scan.next()),
                None => {
                    let scan = ffi::systable_beginscan(table, pg_sys::InvalidOid, false, snapshot, 1, &mut entry);
                    (Scan::WholeTable(scan), ffi::systable_getnext(scan))
                }
            };
            Ok(Self { table, snapshot, scan, tuple })
        }
    }

    /// The row that was found. It is valid until the lookup ends.
    pub fn tuple(&self) -> Option<pg_sys::HeapTuple> {
        (!self.tuple.is_null()).then_some(self.tuple)
    }

    /// # Safety
    /// In the transaction of `begin`.
    pub unsafe fn end(self) {
        // SAFETY: `begin` has opened these.
        unsafe {
            match self.scan {
                Scan::ByKey(scan) => scan.end(),
                Scan::WholeTable(scan) => ffi::systable_endscan(scan),
            }
            ffi::UnregisterSnapshot(self.snapshot);
            ffi::relation_close(self.table, LOCK);
        }
    }
}

/// A scan of a table by its primary key, in the order of the key.
#[derive(Clone, Copy)]
pub(super) struct KeyScan {
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
}

impl KeyScan {
    /// `None` if the primary key is not the first column alone. The index is looked up each time, since REINDEX
    /// CONCURRENTLY replaces it. With `wants_keys`, [`Self::key`] may be asked.
    ///
    /// # Safety
    /// As of [`Lookup::begin`]. `table` is open; the `keys` are of its first column.
    pub unsafe fn begin(
        table: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        keys: &mut [pg_sys::ScanKeyData],
        wants_keys: bool,
    ) -> Option<Self> {
        // SAFETY: by the caller's promise. The scan copies the keys.
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
            let slot = ffi::table_slot_create(table, ptr::null_mut());
            let count = keys.len() as i32;
            let scan = ffi::begin_index_scan(table, index, snapshot, count);
            (*scan).xs_want_itup = wants_keys;
            ffi::index_rescan(scan, keys.as_mut_ptr(), count, ptr::null_mut(), 0);
            Some(Self { index, scan, slot })
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

/// Whether an index is on the first column of its table alone.
pub(super) fn is_of_first_column(index: &pg_sys::FormData_pg_index) -> bool {
    // SAFETY: an index has as many key columns as it says.
    index.indnkeyatts == 1 && unsafe { *index.indkey.values.as_ptr() } == 1
}
