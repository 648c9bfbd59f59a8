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
use super::key_scan::{KeyScan, open_primary_key};
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
            let index = open_primary_key(table);
            let snapshot = ffi::RegisterSnapshot(ffi::GetLatestSnapshot());
            let mut entry = pg_sys::ScanKeyData::default();
            let strategy = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            ffi::ScanKeyInit(&mut entry, 1, strategy, key.equals.into(), key.value);
            let (scan, tuple) = match index {
                Some(index) => {
                    let scan = KeyScan::begin(table, index, snapshot, std::slice::from_mut(&mut entry), false);
                    (Scan::ByKey(scan), scan.next())
                }
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
