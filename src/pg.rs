//! The seam to the server: arguments and results of SQL functions, primary-key lookups, kept statements, clock.
//!
//! Lives here: what any extension would need of PostgreSQL, behind functions that are safe to call, and with that most
//! of the `unsafe` of this crate. May not come in here: tokens, scopes, names of our tables. Storing many rows at once has
//! a file of its own, `copy`.
//!
//! Two habits of this file. What is opened has no destructor: after an error PostgreSQL's resource owners and memory
//! contexts clean up. And what outlives a function is palloc'd in the context current at the call, which the executor
//! resets.

pub mod copy;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, Oid};

use crate::scope::{Span, TextArray};

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const PG_EPOCH: i64 = 946_684_800_000_000;

// ---------------------------------------------------------------------------------------------------------------------
// Calls of SQL functions
// ---------------------------------------------------------------------------------------------------------------------

/// One call of an SQL function; `'call` is the life of the memory context current in it.
pub struct Call<'call> {
    fcinfo: pg_sys::FunctionCallInfo,
    memory: PhantomData<&'call ()>,
}

impl<'call> Call<'call> {
    /// # Safety
    /// `fcinfo` is the one that PostgreSQL passed, and the value is not used after the function returns.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self { fcinfo, memory: PhantomData }
    }

    /// The datum to return for `value`.
    pub fn give(&self, value: Option<Datum>) -> Datum {
        // SAFETY: fcinfo is valid for the call.
        unsafe { (*self.fcinfo).isnull = value.is_none() };
        value.unwrap_or(Datum::from(0))
    }

    /// Argument `index`, from 0. `None` for NULL.
    pub fn datum(&self, index: usize) -> Option<Datum> {
        // SAFETY: fcinfo is valid for the call, and `index` is below the number of arguments that SQL declares.
        unsafe { pgrx::fcinfo::pg_getarg_datum(self.fcinfo, index) }
    }

    /// A text argument, in the bytes of the database's encoding.
    pub fn text(&self, index: usize) -> Option<&'call [u8]> {
        // SAFETY: SQL declares this argument as text.
        self.datum(index).map(|datum| unsafe { varlena_bytes(datum) })
    }

    /// A text[] argument.
    pub fn text_array(&self, index: usize) -> Option<TextArray<'call>> {
        // SAFETY: SQL declares this argument as text[].
        self.datum(index).map(|datum| unsafe { text_array(datum) })
    }

    /// An interval argument.
    pub fn interval(&self, index: usize) -> Option<Span> {
        // SAFETY: SQL declares this argument as interval.
        self.datum(index).map(|datum| unsafe { interval(datum) })
    }

    /// An integer argument.
    pub fn int4(&self, index: usize) -> Option<i32> {
        self.datum(index).map(|datum| datum.value() as i32)
    }

    /// A boolean argument.
    pub fn boolean(&self, index: usize) -> Option<bool> {
        self.datum(index).map(|datum| datum.value() as u8 != 0)
    }

    /// A timestamptz argument, in Unix microseconds; minus infinity and infinity are the ends of the range.
    pub fn timestamptz(&self, index: usize) -> Option<i64> {
        self.datum(index).map(timestamptz_to_unix)
    }

    /// A uuid argument.
    pub fn uuid(&self, index: usize) -> Option<[u8; 16]> {
        // SAFETY: SQL declares this argument as uuid, whose datum points to its 16 bytes.
        self.datum(index).map(|datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// The relation whose change fired this trigger. `None` when the function is not called as a trigger.
    pub fn trigger_relation(&self) -> Option<pg_sys::Relation> {
        // SAFETY: the context of a trigger call is a TriggerData (commands/trigger.h, CALLED_AS_TRIGGER).
        unsafe {
            let context = (*self.fcinfo).context;
            (!context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData)
                .then(|| (*context.cast::<pg_sys::TriggerData>()).tg_relation)
        }
    }

    /// The deleted or updated row that fired this trigger. `None` when the function is not called as an AFTER ROW trigger
    /// of DELETE or UPDATE.
    pub fn trigger_on_old_row(&self) -> Option<Trigger<'call>> {
        self.trigger_relation()?;
        // SAFETY: the context is a TriggerData, as trigger_relation has checked; it outlives the call.
        let data = unsafe { &*(*self.fcinfo).context.cast::<pg_sys::TriggerData>() };
        let event = data.tg_event;
        let operation = event & pg_sys::TRIGGER_EVENT_OPMASK;
        let fits = event & pg_sys::TRIGGER_EVENT_ROW != 0
            && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER
            && (operation == pg_sys::TRIGGER_EVENT_DELETE || operation == pg_sys::TRIGGER_EVENT_UPDATE);
        fits.then_some(Trigger { data })
    }

    /// Answers with a set of rows: `fill` puts them, one call of its argument a row.
    pub fn rows(&self, row_type: &RowType, fill: impl FnOnce(&mut dyn FnMut(&[Option<Datum>]))) {
        // SAFETY: SQL declares the function as returning a set, which makes the executor pass a ReturnSetInfo; both
        // callers of set-returning functions allow a materialized result. The store lives in the query's context.
        unsafe {
            let info = (*self.fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let previous = pg_sys::MemoryContextSwitchTo((*(*info).econtext).ecxt_per_query_memory);
            // Never to disk, whatever work_mem is: tokens may be among the rows. They are in memory already.
            let store = pg_sys::tuplestore_begin_heap(true, false, c_int::MAX);
            // The executor frees the description with the store (executor/execSRF.c), so it gets its own.
            let description = pg_sys::CreateTupleDescCopy(row_type.description());
            pg_sys::MemoryContextSwitchTo(previous);
            (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*info).setResult = store;
            (*info).setDesc = description;
            fill(&mut |columns| {
                let (mut values, mut nulls) = split(columns);
                pg_sys::tuplestore_putvalues(store, description, values.as_mut_ptr(), nulls.as_mut_ptr());
            });
        }
    }
}

/// A trigger call with an old row.
pub struct Trigger<'call> {
    data: &'call pg_sys::TriggerData,
}

/// What a row has in a column, as a text that no setting changes.
pub enum ColumnText<'call> {
    /// There is no such column, or its type has no such text.
    Unfit,
    Null,
    Value(&'call [u8]),
}

impl<'call> Trigger<'call> {
    /// The two arguments that CREATE TRIGGER gave. `None` when it gave another number of them.
    pub fn two_arguments(&self) -> Option<(&'call CStr, &'call CStr)> {
        // SAFETY: a trigger has tgnargs arguments, C strings.
        unsafe {
            let trigger = &*self.data.tg_trigger;
            let argument = |at| CStr::from_ptr(*trigger.tgargs.add(at));
            (trigger.tgnargs == 2).then(|| (argument(0), argument(1)))
        }
    }

    /// What the old row has in `column`.
    pub fn old_value(&self, column: &CStr) -> ColumnText<'call> {
        // SAFETY: the tuple is of the relation, which is open. The functions of SPI that are called need no connection.
        unsafe {
            let description = (*self.data.tg_relation).rd_att;
            let number = pg_sys::SPI_fnumber(description, column.as_ptr());
            let fits = number > 0
                && matches!(
                    pg_sys::SPI_gettypeid(description, number),
                    pg_sys::TEXTOID
                        | pg_sys::VARCHAROID
                        | pg_sys::UUIDOID
                        | pg_sys::INT2OID
                        | pg_sys::INT4OID
                        | pg_sys::INT8OID
                );
            if !fits {
                return ColumnText::Unfit;
            }
            let value = pg_sys::SPI_getvalue(self.data.tg_trigtuple, description, number);
            if value.is_null() { ColumnText::Null } else { ColumnText::Value(CStr::from_ptr(value).to_bytes()) }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Values
// ---------------------------------------------------------------------------------------------------------------------

/// # Safety
/// `datum` is a non-null varlena (text, bytea). The slice lives as long as the value it points to, or, where that had
/// to be decompressed, as the current memory context.
unsafe fn varlena_bytes<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: by the caller's promise.
    unsafe { pgrx::varlena::varlena_to_byte_slice(detoasted(datum)) }
}

/// A varlena with its bytes in it. Nearly all have them, and need no call for it.
///
/// # Safety
/// `datum` is a non-null varlena.
unsafe fn detoasted(datum: Datum) -> *mut pg_sys::varlena {
    let value = datum.cast_mut_ptr();
    // SAFETY: by the caller's promise.
    unsafe {
        let is_plain = pgrx::varlena::varatt_is_4b_u(value)
            || (pgrx::varlena::varatt_is_1b(value) && !pgrx::varlena::varatt_is_1b_e(value));
        if is_plain { value } else { pg_sys::pg_detoast_datum_packed(value) }
    }
}

/// # Safety
/// `datum` is a non-null text[].
unsafe fn text_array<'a>(datum: Datum) -> TextArray<'a> {
    let (mut values, mut nulls, mut count) = (ptr::null_mut(), ptr::null_mut(), 0);
    // SAFETY: an array's header is followed by its dimensions (utils/array.h, ARR_DIMS). deconstruct_array fills `count`
    // values and null flags; the elements are texts.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let length = pg_sys::ArrayGetNItems((*array).ndim, array.add(1).cast::<c_int>()) as usize;
        if length > TextArray::LENGTH_MAX {
            return TextArray { dimensions: (*array).ndim, length, elements: Vec::new() };
        }
        let align = pg_sys::TYPALIGN_INT as c_char;
        pg_sys::deconstruct_array(array, pg_sys::TEXTOID, -1, false, align, &mut values, &mut nulls, &mut count);
        let element = |at: usize| (!*nulls.add(at)).then(|| varlena_bytes(*values.add(at)));
        TextArray { dimensions: (*array).ndim, length, elements: (0..count as usize).map(element).collect() }
    }
}

/// # Safety
/// `datum` is a non-null interval.
unsafe fn interval(datum: Datum) -> Span {
    // SAFETY: by the caller's promise.
    let interval = unsafe { &*datum.cast_mut_ptr::<pg_sys::Interval>() };
    Span { months: interval.month, days: interval.day, micros: interval.time }
}

fn timestamptz_to_unix(datum: Datum) -> i64 {
    (datum.value() as i64).saturating_add(PG_EPOCH)
}

/// A timestamptz of Unix microseconds.
pub fn timestamptz(unix_micros: i64) -> Datum {
    Datum::from(unix_micros.saturating_sub(PG_EPOCH))
}

/// A text or bytea of `bytes`, palloc'd.
pub fn varlena(bytes: &[u8]) -> Datum {
    pgrx::varlena::rust_byte_slice_to_bytea(bytes).into_pg().into()
}

/// The bytes of a jsonb or other varlena value, header included, as [`from_raw`] takes them.
pub fn to_raw(value: Datum) -> Box<[u8]> {
    // SAFETY: the value is a varlena; detoasted, its header says how long it is.
    unsafe {
        let varlena = pg_sys::pg_detoast_datum(value.cast_mut_ptr());
        std::slice::from_raw_parts(varlena.cast::<u8>(), pgrx::varlena::varsize_any(varlena)).into()
    }
}

/// A varlena value of the bytes that [`to_raw`] gave, palloc'd.
pub fn from_raw(bytes: &[u8]) -> Datum {
    // SAFETY: palloc gives as many bytes, aligned for any type, or raises an error.
    unsafe {
        let copy = pg_sys::palloc(bytes.len()).cast::<u8>();
        ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        Datum::from(copy)
    }
}

/// The jsonb that `text`, in the database's encoding, stands for; 22P02 when it is no JSON.
pub fn jsonb(text: &[u8]) -> Datum {
    // SAFETY: jsonb_in takes a C string.
    unsafe {
        let argument = Some(Datum::from(copy_to_cstring(text)));
        pgrx::fcinfo::direct_function_call_as_datum(pg_sys::jsonb_in, &[argument]).unwrap_or(Datum::from(0))
    }
}

/// A uuid of `bytes`, palloc'd.
pub fn uuid(bytes: &[u8; 16]) -> Datum {
    // SAFETY: palloc gives 16 bytes, or raises an error.
    unsafe {
        let copy = pg_sys::palloc(bytes.len()).cast::<[u8; 16]>();
        copy.write(*bytes);
        Datum::from(copy)
    }
}

/// A list of these values, palloc'd: it needs no destructor.
pub fn list<'call, T: Copy>(_call: &Call<'call>, values: impl ExactSizeIterator<Item = T>) -> &'call mut [T] {
    // SAFETY: the memory is of the size asked for, aligned to the largest type, lives as long as the call, and as many
    // values as are in the list have been written to it.
    unsafe {
        let length = values.len();
        let size = length * size_of::<T>();
        let start = pg_sys::palloc_extended(size, pg_sys::MCXT_ALLOC_HUGE as c_int).cast::<T>();
        let written = values.take(length).enumerate().map(|(at, value)| start.add(at).write(value)).count();
        std::slice::from_raw_parts_mut(start, written)
    }
}

/// A one-dimensional array of values that are not NULL, palloc'd.
pub fn array(call: &Call<'_>, elements: impl ExactSizeIterator<Item = Datum>, of: ElementType) -> Datum {
    let (oid, length, align) = match of {
        ElementType::Uuid => (pg_sys::UUIDOID, 16, pg_sys::TYPALIGN_CHAR),
        ElementType::Bytea => (pg_sys::BYTEAOID, -1, pg_sys::TYPALIGN_INT),
    };
    let elements = list(call, elements);
    // SAFETY: length, by-reference and alignment are those of the type (pg_type.dat).
    unsafe {
        let count = elements.len() as c_int;
        pg_sys::construct_array(elements.as_mut_ptr(), count, oid, length, false, align as c_char).into()
    }
}

/// The element types that [`array`] knows.
#[derive(Clone, Copy)]
pub enum ElementType {
    Uuid,
    Bytea,
}

/// `bytes` as a C string, palloc'd. They come from SQL values and constants, so none of them is NUL.
pub fn copy_to_cstring(bytes: &[u8]) -> *const c_char {
    // SAFETY: palloc gives length + 1 bytes, or raises an error.
    unsafe {
        let copy = pg_sys::palloc(bytes.len() + 1).cast::<u8>();
        ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        copy.add(bytes.len()).write(0);
        copy.cast()
    }
}

/// The start of `text`, in the database's encoding, cut where a character ends: enough to recognise a name by.
pub fn clip(text: &[u8]) -> &[u8] {
    const LIMIT: usize = 64;
    if text.len() <= LIMIT {
        return text;
    }
    // SAFETY: the text is longer than the bytes that are looked at.
    let length = unsafe { pg_sys::pg_mbcliplen(text.as_ptr().cast(), text.len() as c_int, LIMIT as c_int) };
    &text[..length as usize]
}

/// The clock at this moment, in Unix microseconds.
pub fn now() -> i64 {
    // Declared here, and not taken from pgrx, since it raises no error that would have to be guarded against.
    unsafe extern "C-unwind" {
        fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
    }
    // SAFETY: reads the clock.
    unsafe { GetCurrentTimestamp() }.saturating_add(PG_EPOCH)
}

/// `text`, which is UTF-8, in the database's encoding: ASCII of it, where that is another.
pub fn from_utf8(text: &[u8]) -> Vec<u8> {
    // SAFETY: reads a variable of the backend.
    let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as c_int;
    text.iter().map(|byte| if is_utf8 || byte.is_ascii() { *byte } else { b'?' }).collect()
}

/// Whether this server is a standby.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// What `ask` says of the entry of this database in pg_database.
pub fn of_database(ask: impl FnOnce(&pg_sys::FormData_pg_database) -> bool) -> bool {
    // SAFETY: within a transaction; the cached entry is held while it is read.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::DATABASEOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::MyDatabaseId.into());
        if tuple.is_null() {
            return false;
        }
        let answer = ask(&*pg_sys::GETSTRUCT(tuple).cast());
        pg_sys::ReleaseSysCache(tuple);
        answer
    }
}

/// The oid of this database.
pub fn database_oid() -> u32 {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The id of this process.
pub fn pid() -> i32 {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::MyProcPid }
}

/// The name of this database, for messages.
pub fn database_name() -> String {
    // SAFETY: called within a transaction. The name is a C string, or NULL when the database was dropped a moment ago.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// A composite type that functions return. Its description is made once a process and kept.
pub struct RowType {
    columns: &'static [(&'static CStr, Oid)],
    description: AtomicPtr<pg_sys::TupleDescData>,
}

impl RowType {
    /// A row of these names and types, at most [`COLUMNS_MAX`].
    pub const fn new(columns: &'static [(&'static CStr, Oid)]) -> Self {
        Self { columns, description: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The row itself, in as many columns as the type has.
    pub fn form(&self, columns: &[Option<Datum>]) -> Datum {
        debug_assert_eq!(columns.len(), self.columns.len());
        let (mut values, mut nulls) = split(columns);
        let description = self.description();
        // SAFETY: the arrays hold at least as many columns as the description, of its types.
        unsafe { pg_guard_ffi_boundary(|| raw::form(description, values.as_mut_ptr(), nulls.as_mut_ptr())) }
    }

    fn description(&self) -> pg_sys::TupleDesc {
        let known = self.description.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: built in a context that is never reset; blessing registers it in this process's record cache.
        let made = unsafe {
            let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let description = pg_sys::CreateTemplateTupleDesc(self.columns.len() as c_int);
            for (index, (name, oid)) in self.columns.iter().enumerate() {
                let number = index as pg_sys::AttrNumber + 1;
                pg_sys::TupleDescInitEntry(description, number, name.as_ptr(), *oid, -1, 0);
            }
            let description = pg_sys::BlessTupleDesc(description);
            pg_sys::MemoryContextSwitchTo(previous);
            description
        };
        self.description.store(made, Ordering::Relaxed);
        made
    }
}

/// The most columns of a [`RowType`], and parameters of a [`Statement`].
const COLUMNS_MAX: usize = 9;

fn split(columns: &[Option<Datum>]) -> ([Datum; COLUMNS_MAX], [bool; COLUMNS_MAX]) {
    let (mut values, mut nulls) = ([Datum::from(0); COLUMNS_MAX], [true; COLUMNS_MAX]);
    for (index, column) in columns.iter().enumerate() {
        if let Some(datum) = column {
            (values[index], nulls[index]) = (*datum, false);
        }
    }
    (values, nulls)
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading tables
// ---------------------------------------------------------------------------------------------------------------------

/// A row of a table.
pub struct Tuple<'a> {
    tuple: pg_sys::HeapTuple,
    columns: Columns,
    memory: PhantomData<&'a ()>,
}

/// The columns of a row, taken apart: values, and which of them are NULL.
#[derive(Clone, Copy)]
struct Columns {
    values: *mut Datum,
    nulls: *mut bool,
    count: usize,
}

/// A text or bytea, and the value that it is.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    pub bytes: &'a [u8],
    pub value: Datum,
}

impl<'a> Tuple<'a> {
    /// Column `number`, from 1, whatever its type. `None` for NULL.
    pub fn datum(&self, number: usize) -> Option<Datum> {
        let at = number - 1;
        // SAFETY: there are as many values and flags as columns; a number past the last column reads as NULL.
        unsafe { (at < self.columns.count && !*self.columns.nulls.add(at)).then(|| *self.columns.values.add(at)) }
    }

    /// A text or bytea column.
    pub fn bytes(&self, number: usize) -> Option<&'a [u8]> {
        // SAFETY: our tables declare this column as text or bytea; the tuple outlives 'a.
        self.datum(number).map(|datum| unsafe { varlena_bytes(datum) })
    }

    /// A text or bytea column, with the value to hand on.
    pub fn value(&self, number: usize) -> Option<Bytes<'a>> {
        // SAFETY: as in `bytes`.
        self.datum(number).map(|datum| unsafe {
            let value = detoasted(datum);
            Bytes { bytes: pgrx::varlena::varlena_to_byte_slice(value), value: value.into() }
        })
    }

    /// A text[] column.
    pub fn text_array(&self, number: usize) -> Option<TextArray<'a>> {
        // SAFETY: our tables declare this column as text[].
        self.datum(number).map(|datum| unsafe { text_array(datum) })
    }

    /// An interval column.
    pub fn interval(&self, number: usize) -> Option<Span> {
        // SAFETY: our tables declare this column as interval.
        self.datum(number).map(|datum| unsafe { interval(datum) })
    }

    /// An integer column.
    pub fn int4(&self, number: usize) -> Option<i32> {
        self.datum(number).map(|datum| datum.value() as i32)
    }

    /// A timestamptz column, in Unix microseconds.
    pub fn timestamptz(&self, number: usize) -> Option<i64> {
        self.datum(number).map(timestamptz_to_unix)
    }

    /// A uuid column.
    pub fn uuid(&self, number: usize) -> Option<[u8; 16]> {
        // SAFETY: our tables declare this column as uuid, whose datum points to its 16 bytes.
        self.datum(number).map(|datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// A jsonb column, whole, in the current memory context.
    pub fn jsonb(&self, number: usize) -> Option<Datum> {
        // SAFETY: our tables declare this column as jsonb; a value stored elsewhere is fetched while its row is visible.
        self.datum(number).map(|datum| unsafe { detoasted(datum).into() })
    }
}

/// The value of a primary key to look for.
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

/// Looks up the row of table `relation` whose first column, its primary key, is `key`, in the newest committed state,
/// whatever snapshot the transaction holds; its own changes count. `None` when there is none; else a copy of it, with
/// everything that belongs to it.
///
/// `is_current` says, once the table is locked, which takes note of changes, whether it is still what the caller takes it
/// for; else it counts as gone. It calls nothing of PostgreSQL's.
///
/// This goes the way of the catalogs' own lookups (access/index/genam.c): no planner, no search path, no privileges, no
/// transaction id, nothing that a standby forbids. Without an index it reads the whole table. The lock is given back at
/// once, so that a long transaction which validates does not hold up DDL.
pub fn find<'call>(
    _call: &Call<'call>,
    relation: Oid,
    is_current: impl Fn() -> bool,
    key: &Key,
) -> Result<Option<Tuple<'call>>, TableGone> {
    // SAFETY: the key's value outlives the lookup. What is guarded are calls of PostgreSQL's functions and nothing else; after
    // an error its resource owner closes what is open.
    unsafe {
        pg_guard_ffi_boundary(|| raw::find(relation, &is_current, key, |tuple, of| raw::row(raw::copy(tuple, of), of)))
    }
}

/// As [`find`]; the whole row as a value of the table's row type.
pub fn find_composite(
    _call: &Call<'_>,
    relation: Oid,
    is_current: impl Fn() -> bool,
    key: &Key,
) -> Result<Option<Datum>, TableGone> {
    // SAFETY: as in `find`.
    unsafe { pg_guard_ffi_boundary(|| raw::find(relation, &is_current, key, |tuple, of| raw::composite(tuple, of))) }
}

/// The lookup itself, by functions that are declared here and not taken from pgrx: its guard around every single call
/// costs as much as some of them do.
mod raw {
    use super::{Columns, Datum, Indexes, Key, Oid, PhantomData, TableGone, Tuple, pg_sys};

    unsafe extern "C-unwind" {
        fn LockRelationOid(relation: Oid, lock: pg_sys::LOCKMODE);
        fn UnlockRelationOid(relation: Oid, lock: pg_sys::LOCKMODE);
        fn relation_open(relation: Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
        fn relation_close(relation: pg_sys::Relation, lock: pg_sys::LOCKMODE);
        #[cfg(not(feature = "pg18"))]
        fn RelationGetPrimaryKeyIndex(relation: pg_sys::Relation) -> Oid;
        #[cfg(feature = "pg18")]
        fn RelationGetPrimaryKeyIndex(relation: pg_sys::Relation, deferrable_ok: bool) -> Oid;
        fn GetLatestSnapshot() -> pg_sys::Snapshot;
        fn RegisterSnapshot(snapshot: pg_sys::Snapshot) -> pg_sys::Snapshot;
        fn UnregisterSnapshot(snapshot: pg_sys::Snapshot);
        fn ScanKeyInit(
            entry: pg_sys::ScanKey,
            attribute: pg_sys::AttrNumber,
            strategy: pg_sys::StrategyNumber,
            procedure: pg_sys::RegProcedure,
            argument: Datum,
        );
        fn systable_beginscan(
            table: pg_sys::Relation,
            index: Oid,
            use_index: bool,
            snapshot: pg_sys::Snapshot,
            keys: std::ffi::c_int,
            key: pg_sys::ScanKey,
        ) -> pg_sys::SysScanDesc;
        fn systable_getnext(scan: pg_sys::SysScanDesc) -> pg_sys::HeapTuple;
        fn systable_endscan(scan: pg_sys::SysScanDesc);
        fn heap_copytuple(tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple;
        fn heap_form_tuple(description: pg_sys::TupleDesc, values: *mut Datum, nulls: *mut bool) -> pg_sys::HeapTuple;
        fn HeapTupleHeaderGetDatum(tuple: pg_sys::HeapTupleHeader) -> Datum;
        fn heap_copy_tuple_as_datum(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) -> Datum;
        fn toast_flatten_tuple(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) -> pg_sys::HeapTuple;
        fn heap_deform_tuple(
            tuple: pg_sys::HeapTuple,
            description: pg_sys::TupleDesc,
            values: *mut Datum,
            nulls: *mut bool,
        );
        fn palloc(size: usize) -> *mut std::ffi::c_void;
        fn heap_update(
            table: pg_sys::Relation,
            tid: pg_sys::ItemPointer,
            new: pg_sys::HeapTuple,
            cid: pg_sys::CommandId,
            crosscheck: pg_sys::Snapshot,
            wait: bool,
            failure: *mut pg_sys::TM_FailureData,
            mode: *mut pg_sys::LockTupleMode::Type,
            #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
            update_indexes: *mut pg_sys::TU_UpdateIndexes::Type,
        ) -> pg_sys::TM_Result::Type;
        fn ExecInsertIndexTuples(
            #[cfg(not(feature = "pg13"))] target: *mut pg_sys::ResultRelInfo,
            slot: *mut pg_sys::TupleTableSlot,
            estate: *mut pg_sys::EState,
            #[cfg(not(feature = "pg13"))] is_update: bool,
            no_duplicate_error: bool,
            conflict: *mut bool,
            arbiters: *mut pg_sys::List,
            #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))] only_summarizing: bool,
        ) -> *mut pg_sys::List;
    }

    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

    /// See [`super::find`].
    ///
    /// # Safety
    /// Within a transaction and a guard.
    pub unsafe fn find<R>(
        relation: Oid,
        is_current: impl Fn() -> bool,
        key: &Key,
        copy: impl Fn(pg_sys::HeapTuple, pg_sys::TupleDesc) -> R,
    ) -> Result<Option<R>, TableGone> {
        // SAFETY: by the caller's promise. The row is copied before its buffer is let go.
        unsafe {
            let lookup = Lookup::begin(relation, is_current, key)?;
            let row = lookup.tuple().map(|tuple| copy(tuple, lookup.description()));
            lookup.end();
            Ok(row)
        }
    }

    /// A lookup that has been made and not ended.
    #[derive(Clone, Copy)]
    pub struct Lookup {
        table: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        scan: pg_sys::SysScanDesc,
        tuple: pg_sys::HeapTuple,
    }

    impl Lookup {
        /// # Safety
        /// Within a transaction, where an error of PostgreSQL's may leave by longjmp.
        pub unsafe fn begin(relation: Oid, is_current: impl Fn() -> bool, key: &Key) -> Result<Self, TableGone> {
            // SAFETY: by the caller's promise. A table that is locked and was not dropped before can be opened.
            unsafe {
                LockRelationOid(relation, LOCK);
                if !is_current() {
                    UnlockRelationOid(relation, LOCK);
                    return Err(TableGone);
                }
                let table = relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
                #[cfg(feature = "pg18")]
                let index = RelationGetPrimaryKeyIndex(table, false);
                #[cfg(not(feature = "pg18"))]
                let index = RelationGetPrimaryKeyIndex(table);
                let snapshot = RegisterSnapshot(GetLatestSnapshot());
                let mut entry = pg_sys::ScanKeyData::default();
                let strategy = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
                ScanKeyInit(&mut entry, 1, strategy, key.equals.into(), key.value);
                let scan = systable_beginscan(table, index, true, snapshot, 1, &mut entry);
                Ok(Self { table, snapshot, scan, tuple: systable_getnext(scan) })
            }
        }

        /// The row that was found, good until the lookup ends.
        pub fn tuple(&self) -> Option<pg_sys::HeapTuple> {
            (!self.tuple.is_null()).then_some(self.tuple)
        }

        /// The description of the table's rows.
        pub fn description(&self) -> pg_sys::TupleDesc {
            // SAFETY: the table is open.
            unsafe { (*self.table).rd_att }
        }

        /// # Safety
        /// As of `begin`, within the same transaction, once.
        pub unsafe fn end(self) {
            // SAFETY: what `begin` has opened.
            unsafe {
                systable_endscan(self.scan);
                UnregisterSnapshot(self.snapshot);
                relation_close(self.table, LOCK);
            }
        }
    }

    /// A value of the composite type of this description.
    ///
    /// # Safety
    /// Within a guard. There are as many values and flags as columns, and the values are of their types.
    pub unsafe fn form(description: pg_sys::TupleDesc, values: *mut Datum, nulls: *mut bool) -> Datum {
        // SAFETY: by the caller's promise.
        unsafe { HeapTupleHeaderGetDatum((*heap_form_tuple(description, values, nulls)).t_data) }
    }

    /// A copy of a tuple of this description, with the values that are stored elsewhere.
    ///
    /// # Safety
    /// As of [`take_apart`], while the tuple is visible to a registered snapshot.
    pub unsafe fn copy(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) -> pg_sys::HeapTuple {
        // SAFETY: by the caller's promise.
        unsafe {
            let is_whole = (*(*tuple).t_data).t_infomask & pg_sys::HEAP_HASEXTERNAL as u16 == 0;
            if is_whole { heap_copytuple(tuple) } else { toast_flatten_tuple(tuple, description) }
        }
    }

    /// A copy of a tuple of this description, as a value of the composite type.
    ///
    /// # Safety
    /// As of [`copy`].
    pub unsafe fn composite(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) -> Datum {
        // SAFETY: by the caller's promise.
        unsafe { heap_copy_tuple_as_datum(tuple, description) }
    }

    /// A tuple of this description as a row.
    ///
    /// # Safety
    /// As of [`take_apart`]. The row is good as long as the tuple.
    pub unsafe fn row<'a>(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) -> Tuple<'a> {
        // SAFETY: by the caller's promise.
        unsafe {
            let columns = room(description);
            take_apart(tuple, description, &columns);
            Tuple { tuple, columns, memory: PhantomData }
        }
    }

    /// Puts `new` in the place of the row at `tid`, after waiting for any other transaction that is changing that; with
    /// what came of it, which indexes the new row has to be put into.
    ///
    /// # Safety
    /// As of [`take_apart`]. The row at `tid` was found by a lookup that has not ended.
    pub unsafe fn update(
        table: pg_sys::Relation,
        tid: pg_sys::ItemPointer,
        new: pg_sys::HeapTuple,
    ) -> (pg_sys::TM_Result::Type, Option<Indexes>) {
        let mut failure = pg_sys::TM_FailureData::default();
        let mut mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
        // SAFETY: by the caller's promise.
        unsafe {
            let cid = super::GetCurrentCommandId(true);
            let none = std::ptr::null_mut();
            #[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15"))]
            {
                let result = heap_update(table, tid, new, cid, none, true, &mut failure, &mut mode);
                let is_heap_only = (*(*new).t_data).t_infomask2 & pg_sys::HEAP_ONLY_TUPLE as u16 != 0;
                (result, (!is_heap_only).then_some(Indexes::All))
            }
            #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
            {
                let mut update_indexes = pg_sys::TU_UpdateIndexes::TU_None;
                let result =
                    heap_update(table, tid, new, cid, none, true, &mut failure, &mut mode, &mut update_indexes);
                let indexes = match update_indexes {
                    pg_sys::TU_UpdateIndexes::TU_None => None,
                    pg_sys::TU_UpdateIndexes::TU_Summarizing => Some(Indexes::Summarizing),
                    _ => Some(Indexes::All),
                };
                (result, indexes)
            }
        }
    }

    /// Puts the row in `slot` into the open indexes of `target`.
    ///
    /// # Safety
    /// As of [`take_apart`].
    pub unsafe fn insert_index_tuples(
        target: *mut pg_sys::ResultRelInfo,
        slot: *mut pg_sys::TupleTableSlot,
        estate: *mut pg_sys::EState,
        indexes: Indexes,
    ) {
        let (conflict, none) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: by the caller's promise. No index is of a deferrable constraint, which would be a trigger of the table:
        // there is nothing to check again.
        unsafe {
            #[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15"))]
            debug_assert!(indexes == Indexes::All);
            #[cfg(feature = "pg13")]
            {
                (*estate).es_result_relation_info = target;
                ExecInsertIndexTuples(slot, estate, false, conflict, none);
            }
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            ExecInsertIndexTuples(target, slot, estate, true, false, conflict, none);
            #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
            ExecInsertIndexTuples(target, slot, estate, true, false, conflict, none, indexes == Indexes::Summarizing);
        }
    }

    /// Takes a tuple of this description apart, into the room that there is for it.
    ///
    /// # Safety
    /// Where an error of PostgreSQL's may leave by longjmp.
    pub unsafe fn take_apart(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc, columns: &Columns) {
        // SAFETY: by the caller's promise.
        unsafe { heap_deform_tuple(tuple, description, columns.values, columns.nulls) }
    }

    /// Room for the columns of tuples of this description, palloc'd.
    ///
    /// # Safety
    /// As of [`take_apart`].
    pub unsafe fn room(description: pg_sys::TupleDesc) -> Columns {
        // SAFETY: an allocation is aligned for any type.
        unsafe {
            let count = (*description).natts as usize;
            let values = palloc(count * (size_of::<Datum>() + 1)).cast::<Datum>();
            Columns { values, nulls: values.add(count).cast(), count }
        }
    }
}

/// Rows of a table whose first column, its primary key, is a uuid: greater than `after`, and at most `to`.
#[derive(Clone, Copy)]
pub struct UuidRange {
    pub after: [u8; 16],
    pub to: [u8; 16],
}

/// A row that a walk has come to.
pub struct WalkedRow<'a> {
    table: pg_sys::Relation,
    tuple: Tuple<'a>,
}

// Declared here, and not taken from pgrx, whose guard around every call is dear where there is one for each row.
unsafe extern "C-unwind" {
    fn systable_getnext_ordered(scan: pg_sys::SysScanDesc, direction: pg_sys::ScanDirection::Type)
    -> pg_sys::HeapTuple;
    fn GetCurrentCommandId(used: bool) -> pg_sys::CommandId;
    fn heap_delete(
        relation: pg_sys::Relation,
        tid: pg_sys::ItemPointer,
        cid: pg_sys::CommandId,
        crosscheck: pg_sys::Snapshot,
        wait: bool,
        failure: *mut pg_sys::TM_FailureData,
        changing_partition: bool,
    ) -> pg_sys::TM_Result::Type;
}

/// Calls `visit` with each row of table `relation` in `range`, as committed now, in the order of the primary key, until
/// that answers false. A table whose primary key is not its first column, and that alone, counts as gone.
///
/// An error leaves by longjmp through `visit`: it may own no destructor.
pub fn walk(relation: Oid, range: &UuidRange, mut visit: impl FnMut(&WalkedRow<'_>) -> bool) -> Result<(), TableGone> {
    // SAFETY: as in `find`; the keys outlive the scan, and a row its visit.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = open(relation, lock)?;
        let Some(key) = key_to_walk(table) else {
            pg_sys::relation_close(table, lock);
            return Err(TableGone);
        };
        let index = pg_sys::index_open(key, lock);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let mut keys = [pg_sys::ScanKeyData::default(); 2];
        let bounds = [
            (pg_sys::BTGreaterStrategyNumber, pg_sys::F_UUID_GT, &range.after),
            (pg_sys::BTLessEqualStrategyNumber, pg_sys::F_UUID_LE, &range.to),
        ];
        for (key, (strategy, operator, bound)) in keys.iter_mut().zip(bounds) {
            let strategy = strategy as pg_sys::StrategyNumber;
            pg_sys::ScanKeyInit(key, 1, strategy, operator.into(), Datum::from(ptr::from_ref(bound)));
        }
        let columns = raw::room((*table).rd_att);
        let scan = pg_sys::systable_beginscan_ordered(table, index, snapshot, 2, keys.as_mut_ptr());
        loop {
            check_for_interrupts();
            let tuple = systable_getnext_ordered(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            raw::take_apart(tuple, (*table).rd_att, &columns);
            let tuple = Tuple { tuple, columns, memory: PhantomData };
            if !visit(&WalkedRow { table, tuple }) {
                break;
            }
        }
        pg_sys::systable_endscan_ordered(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::index_close(index, lock);
        pg_sys::relation_close(table, lock);
        Ok(())
    }
}

impl<'a> WalkedRow<'a> {
    /// What is in it.
    pub fn tuple(&self) -> &Tuple<'a> {
        &self.tuple
    }

    /// Deletes the row, unless another transaction holds it locked or has changed it meanwhile; whether it did. Only where
    /// the table [`deletes_plainly`], and locked for writing.
    pub fn delete(&self) -> bool {
        // SAFETY: table and row are those of a running walk. Whoever has locked the row deletes it without waiting.
        unsafe {
            let mut failure = pg_sys::TM_FailureData::default();
            let (tid, cid) = (&raw mut (*self.tuple.tuple).t_self, GetCurrentCommandId(true));
            let mut delete = |wait| heap_delete(self.table, tid, cid, ptr::null_mut(), wait, &mut failure, false);
            match delete(false) {
                // It may be this very transaction that has.
                pg_sys::TM_Result::TM_BeingModified => self.lock(cid) && delete(true) == pg_sys::TM_Result::TM_Ok,
                result => result == pg_sys::TM_Result::TM_Ok,
            }
        }
    }

    /// Locks the row, if that can be had without waiting.
    ///
    /// # Safety
    /// As of [`Self::delete`].
    unsafe fn lock(&self, cid: pg_sys::CommandId) -> bool {
        // SAFETY: the row is found by its tid; the buffer that it is found in is let go.
        unsafe {
            let mut failure = pg_sys::TM_FailureData::default();
            let mut row = pg_sys::HeapTupleData { t_self: (*self.tuple.tuple).t_self, ..Default::default() };
            let (mode, policy) = (pg_sys::LockTupleMode::LockTupleExclusive, pg_sys::LockWaitPolicy::LockWaitSkip);
            let mut buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
            let result =
                pg_sys::heap_lock_tuple(self.table, &mut row, cid, mode, policy, false, &mut buffer, &mut failure);
            pg_sys::ReleaseBuffer(buffer);
            result == pg_sys::TM_Result::TM_Ok
        }
    }
}

/// A change of one column of a row.
pub struct Change<'a> {
    /// Its number, from 1.
    pub column: usize,
    /// Whether no CHECK constraint is about it, as [`is_checked`] says; asked once the table is locked.
    pub is_unchecked: &'a dyn Fn() -> bool,
    /// The new value for a row as it is; `None` leaves that as it is.
    pub value: &'a dyn Fn(&Tuple<'_>) -> Option<Datum>,
}

/// Changes the row of table `relation` whose first column, its primary key, is `key`, as it is committed now or changed by
/// this transaction, after waiting for any other that is changing it. Whether it did: there may be no such row, or nothing
/// to change in it. The commit of this transaction waits for the WAL of that, whatever synchronous_commit says.
///
/// `None`, and nothing done, where updating a row is more than that, and a statement's work: a trigger, rule, constraint or
/// storage of another kind has a part in it. `is_current` is that of [`find`].
///
/// An error leaves by longjmp through the caller's frames: no caller may own a destructor across this call.
pub fn update(
    relation: Oid,
    is_current: impl Fn() -> bool,
    key: &Key,
    change: &Change<'_>,
) -> Result<Option<bool>, TableGone> {
    let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    // SAFETY: the table is open to the end, and locked to the end of the transaction, so that no trigger, rule, constraint or
    // column is added.
    unsafe {
        let table = open(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)?;
        if !is_current() {
            pg_sys::relation_close(table, no_lock);
            return Err(TableGone);
        }
        let changed = updates_plainly(table, change).then(|| {
            pg_sys::CheckCmdReplicaIdentity(table, pg_sys::CmdType::CMD_UPDATE);
            as_user((*(*table).rd_rel).relowner, || update_row(table, relation, key, change))
        });
        pg_sys::relation_close(table, no_lock);
        if changed == Some(true) {
            pg_sys::ForceSyncCommit();
        }
        Ok(changed)
    }
}

/// Whether updating a row of `table` is nothing but that.
///
/// # Safety
/// `table` is open.
unsafe fn updates_plainly(table: pg_sys::Relation, change: &Change<'_>) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let has_triggers = (*table).trigdesc.as_ref().is_some_and(|triggers| {
            triggers.trig_update_before_row
                || triggers.trig_update_after_row
                || triggers.trig_update_instead_row
                || triggers.trig_update_before_statement
                || triggers.trig_update_after_statement
        });
        let has_generated_columns = (*(*table).rd_att).constr.as_ref().is_some_and(|constraints| {
            #[cfg(feature = "pg18")]
            let has_virtual_ones = constraints.has_generated_virtual;
            #[cfg(not(feature = "pg18"))]
            let has_virtual_ones = false;
            constraints.has_generated_stored || has_virtual_ones
        });
        is_plain(table) && !has_triggers && !has_generated_columns && (change.is_unchecked)()
    }
}

/// Whether `table` keeps its own rows and nobody else's, in the usual way, and no rule says otherwise.
///
/// # Safety
/// `table` is open.
unsafe fn is_plain(table: pg_sys::Relation) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let class = &*(*table).rd_rel;
        class.relkind as u8 == pg_sys::RELKIND_RELATION
            && class.relam == pg_sys::HEAP_TABLE_AM_OID
            && !class.relhassubclass
            && !class.relispartition
            && (*table).rd_rules.is_null()
    }
}

/// Whether a CHECK constraint of table `relation` is about column `column`, from 1, or about the whole row.
pub fn is_checked(relation: Oid, column: usize) -> Result<bool, TableGone> {
    // SAFETY: the relation is open while its constraints are read, of which there are num_check; sets of columns count from
    // below the system's (access/sysattr.h), and number 0 is the whole row.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = open(relation, lock)?;
        let is_about_it = |check: &pg_sys::ConstrCheck| {
            let mut columns = ptr::null_mut();
            pg_sys::pull_varattnos(pg_sys::stringToNode(check.ccbin).cast(), 1, &mut columns);
            [0, column as c_int]
                .iter()
                .any(|number| pg_sys::bms_is_member(number - pg_sys::FirstLowInvalidHeapAttributeNumber, columns))
        };
        let constraints = (*(*table).rd_att).constr.as_ref();
        let checked =
            constraints.is_some_and(|all| (0..all.num_check).any(|at| is_about_it(&*all.check.add(at.into()))));
        pg_sys::relation_close(table, lock);
        Ok(checked)
    }
}

/// # Safety
/// As of [`update`]; `table`, which is `relation`, is open and locked for writing.
unsafe fn update_row(table: pg_sys::Relation, relation: Oid, key: &Key, change: &Change<'_>) -> bool {
    // SAFETY: the row that is found stays where it is while the lookup has not ended; the new one is made of it.
    unsafe {
        // What the running command has changed before, this is to see.
        end_command();
        let (mut column, mut not_null) = (change.column as c_int, false);
        loop {
            let Ok(lookup) = raw::Lookup::begin(relation, || true, key) else { return false };
            let description = lookup.description();
            let value = |tuple| (change.value)(&raw::row(tuple, description)).map(|value| (tuple, value));
            let Some((tuple, mut value)) = lookup.tuple().and_then(value) else {
                lookup.end();
                return false;
            };
            let new = pg_sys::heap_modify_tuple_by_cols(tuple, description, 1, &mut column, &mut value, &mut not_null);
            let (result, index) = raw::update(table, &raw mut (*tuple).t_self, new);
            lookup.end();
            match result {
                pg_sys::TM_Result::TM_Ok => {
                    if let Some(index) = index {
                        insert_into_indexes(table, new, index);
                    }
                    end_command();
                    return true;
                }
                // Another transaction was first, and has committed: look again.
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => check_for_interrupts(),
                _ => return false,
            }
        }
    }
}

/// Which indexes a row that was updated has to be put into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexes {
    All,
    /// Those that keep summaries of blocks, such as BRIN.
    #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
    Summarizing,
}

/// # Safety
/// As of [`update_row`]; `tuple` was stored in `table` a moment ago.
unsafe fn insert_into_indexes(table: pg_sys::Relation, tuple: pg_sys::HeapTuple, indexes: Indexes) {
    // SAFETY: what executor/execReplication.c does, without a range table, as catalog/indexing.c. The memory for the result
    // relation is filled in by InitResultRelInfo.
    unsafe {
        let estate = pg_sys::CreateExecutorState();
        let target = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
        pg_sys::InitResultRelInfo(target, table, 0, ptr::null_mut(), 0);
        pg_sys::ExecOpenIndices(target, false);
        let slot = pg_sys::MakeSingleTupleTableSlot((*table).rd_att, &pg_sys::TTSOpsHeapTuple);
        pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        raw::insert_index_tuples(target, slot, estate, indexes);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::ExecCloseIndices(target);
        pg_sys::FreeExecutorState(estate);
    }
}

/// Whether deleting a row of `relation` is nothing but that: no trigger, foreign key, rule, child table or storage of
/// another kind has a part in it. Raises the error of a table whose publication could not tell which row went.
pub fn deletes_plainly(relation: Oid) -> Result<bool, TableGone> {
    // SAFETY: the relation is open while its cached description is read.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = open(relation, lock)?;
        let has_triggers = (*table).trigdesc.as_ref().is_some_and(|triggers| {
            triggers.trig_delete_before_row
                || triggers.trig_delete_after_row
                || triggers.trig_delete_instead_row
                || triggers.trig_delete_before_statement
                || triggers.trig_delete_after_statement
        });
        let plainly = is_plain(table) && !has_triggers && key_to_walk(table).is_some();
        if plainly {
            pg_sys::CheckCmdReplicaIdentity(table, pg_sys::CmdType::CMD_DELETE);
        }
        pg_sys::relation_close(table, lock);
        Ok(plainly)
    }
}

/// Makes what this command has changed visible to what follows in the transaction.
pub fn end_command() {
    // SAFETY: within a transaction.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// The table was dropped a moment ago, or is not what it was.
#[derive(Clone, Copy, Debug)]
pub struct TableGone;

/// # Safety
/// Within a transaction; the table is closed again, or left to the end of the transaction.
unsafe fn open(relation: Oid, lock: pg_sys::LOCKMODE) -> Result<pg_sys::Relation, TableGone> {
    // SAFETY: by the caller's promise.
    let table = unsafe { pg_sys::try_relation_open(relation, lock) };
    if table.is_null() { Err(TableGone) } else { Ok(table) }
}

/// Whether `relation` is a plain table that starts with columns of these types, none of them dropped.
pub fn starts_with_columns(relation: Oid, types: &[Oid]) -> Result<bool, TableGone> {
    // SAFETY: the relation is open while its description is read, which has `natts` attributes.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = open(relation, lock)?;
        let description = (*table).rd_att;
        let is_table = (*(*table).rd_rel).relkind as u8 == pg_sys::RELKIND_RELATION;
        let has_type = |(index, of): (usize, &Oid)| pg_sys::SPI_gettypeid(description, index as c_int + 1) == *of;
        let matches =
            is_table && (*description).natts as usize >= types.len() && types.iter().enumerate().all(has_type);
        pg_sys::relation_close(table, lock);
        Ok(matches)
    }
}

/// The index of the primary key, looked up anew each time: REINDEX CONCURRENTLY puts another in its place.
///
/// # Safety
/// `table` is open.
unsafe fn primary_key(table: pg_sys::Relation) -> Oid {
    // SAFETY: by the caller's promise.
    unsafe {
        #[cfg(feature = "pg18")]
        return pg_sys::RelationGetPrimaryKeyIndex(table, false);
        #[cfg(not(feature = "pg18"))]
        return pg_sys::RelationGetPrimaryKeyIndex(table);
    }
}

/// The index of the primary key, where that is the first column alone.
///
/// # Safety
/// `table` is open.
unsafe fn key_to_walk(table: pg_sys::Relation) -> Option<Oid> {
    // SAFETY: by the caller's promise; the cached entry is held while it is read, and has as many key columns as it says.
    unsafe {
        let index = primary_key(table);
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::INDEXRELID as c_int, index.into());
        if tuple.is_null() {
            return None;
        }
        let entry = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_index>();
        let is_first_column = entry.indnkeyatts == 1 && *entry.indkey.values.as_ptr() == 1;
        pg_sys::ReleaseSysCache(tuple);
        is_first_column.then_some(index)
    }
}

/// Locks table `relation` and its primary key for a walk, if that can be had without waiting, while `walk` runs.
pub fn walk_without_waiting<R>(relation: Oid, walk: impl FnOnce() -> R) -> Option<R> {
    // SAFETY: each lock that is taken is given back.
    unsafe {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        if !pg_sys::ConditionalLockRelationOid(relation, mode) {
            return None;
        }
        let table = open(relation, mode).ok();
        let key = table.and_then(|table| key_to_walk(table));
        if let Some(table) = table {
            pg_sys::relation_close(table, mode);
        }
        let key = key.filter(|key| pg_sys::ConditionalLockRelationOid(*key, mode));
        let result = key.map(|_| walk());
        if let Some(key) = key {
            pg_sys::UnlockRelationOid(key, mode);
        }
        pg_sys::UnlockRelationOid(relation, mode);
        result
    }
}

/// The table `name` in `schema`, or `None`. Names are taken as they are; no search path.
pub fn table_oid(schema: &CStr, name: &CStr) -> Option<Oid> {
    // SAFETY: catalog lookups by name.
    unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        let oid = match namespace {
            pg_sys::InvalidOid => pg_sys::InvalidOid,
            _ => pg_sys::get_relname_relid(name.as_ptr(), namespace),
        };
        (oid != pg_sys::InvalidOid).then_some(oid)
    }
}

/// Whether table `relation` has a trigger of this name that fires always, for replicated rows too.
pub fn has_trigger_enabled_always(relation: Oid, name: &CStr) -> Result<bool, TableGone> {
    // SAFETY: the relation is open while its triggers are read, of which there are numtriggers.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = open(relation, lock)?;
        let triggers = (*table).trigdesc;
        let fires = |trigger: &pg_sys::Trigger| {
            CStr::from_ptr(trigger.tgname) == name && trigger.tgenabled as u8 == pg_sys::TRIGGER_FIRES_ALWAYS
        };
        let found = !triggers.is_null()
            && (0..(*triggers).numtriggers as usize).any(|at| fires(&*(*triggers).triggers.add(at)));
        pg_sys::relation_close(table, lock);
        Ok(found)
    }
}

/// Whether table `relation` belongs to the extension `name`.
pub fn belongs_to_extension(relation: Oid, name: &CStr) -> bool {
    // SAFETY: catalog lookups by name and oid.
    unsafe {
        let extension = pg_sys::get_extension_oid(name.as_ptr(), true);
        extension != pg_sys::InvalidOid
            && pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) == extension
    }
}

/// Locks table `relation` for writing until the transaction ends.
pub fn lock_for_writing(relation: Oid) -> Result<(), TableGone> {
    // SAFETY: within a transaction, as every call from SQL and from a worker is.
    unsafe { lock_and_get_owner(relation).map(drop) }
}

/// Locks table `relation` for writing until the transaction ends, if that can be had without waiting.
pub fn lock_for_writing_without_waiting(relation: Oid) -> bool {
    // SAFETY: takes a lock, or does not.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) }
}

/// Takes note of what other sessions have committed to the catalogs since, as taking a lock would.
pub fn accept_invalidations() {
    // SAFETY: within a transaction, which every SQL function is.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}

/// Has `callback` called with the oid of every table whose cached state ends, InvalidOid meaning all.
pub fn on_relation_invalidation(callback: unsafe extern "C-unwind" fn(Datum, Oid)) {
    // SAFETY: the callback is a static function.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(callback), Datum::from(0)) }
}

/// Ends the cached state of `relation` in every session when this transaction commits, and in this one with the command
/// that is running; in this one again if it rolls back. Standbys replay it.
pub fn invalidate_relation(relation: pg_sys::Relation) {
    // SAFETY: the relation of a running trigger is open.
    unsafe { pg_sys::CacheInvalidateRelcache(relation) }
}

/// Has these called at the end of every transaction and of every savepoint's (access/xact.h).
pub fn on_transaction_event(
    transaction: unsafe extern "C-unwind" fn(pg_sys::XactEvent::Type, *mut c_void),
    subtransaction: unsafe extern "C-unwind" fn(
        pg_sys::SubXactEvent::Type,
        pg_sys::SubTransactionId,
        pg_sys::SubTransactionId,
        *mut c_void,
    ),
) {
    // SAFETY: the callbacks are static functions.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction), ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction), ptr::null_mut());
    }
}

/// The innermost savepoint that is open, or the transaction itself.
pub fn subtransaction_id() -> pg_sys::SubTransactionId {
    // SAFETY: within a transaction.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// A copy of `bytes` in the call's memory.
pub fn keep<'call>(_call: &Call<'call>, bytes: &[u8]) -> &'call [u8] {
    // SAFETY: palloc gives as many bytes, or raises an error; they live as long as the call.
    unsafe {
        let copy = pg_sys::palloc(bytes.len()).cast::<u8>();
        ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        std::slice::from_raw_parts(copy, bytes.len())
    }
}

/// The value of a setting that may not exist. Empty, which is what a setting of a past transaction leaves, is `None`.
pub fn setting<'call>(call: &Call<'call>, name: &CStr) -> Option<&'call [u8]> {
    // SAFETY: the value is a C string that is good until the setting changes: it is copied into the call's memory.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() || *value == 0 {
            return None;
        }
        Some(keep(call, CStr::from_ptr(value).to_bytes()))
    }
}

/// Raises the error with which this session was told to stop, if it was.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Raises 25006 in a read-only transaction and on a standby, naming `command`.
pub fn require_writable(command: &CStr) {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) }
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing tables
// ---------------------------------------------------------------------------------------------------------------------

/// An SQL statement that is planned once a session. Every name and operator in it is qualified, so that no search path
/// has a say.
pub struct Statement {
    sql: &'static CStr,
    types: &'static [Oid],
    plan: AtomicPtr<pg_sys::_SPI_plan>,
}

/// What a statement did.
pub struct Outcome {
    /// Rows inserted, updated, deleted or returned.
    pub rows: u64,
    /// The greatest value of the first column returned, where that is a uuid.
    pub greatest: Option<[u8; 16]>,
}

// Declared here, and not taken from pgrx, because an error that passes through pgrx's guard is raised anew with a closed
// list of SQLSTATEs: the one of a user's own trigger on our tables would reach the client as XX000.
unsafe extern "C-unwind" {
    fn SPI_execute_snapshot(
        plan: pg_sys::SPIPlanPtr,
        values: *mut Datum,
        nulls: *const c_char,
        snapshot: pg_sys::Snapshot,
        crosscheck_snapshot: pg_sys::Snapshot,
        read_only: bool,
        fire_triggers: bool,
        tcount: std::ffi::c_long,
    ) -> c_int;
}

impl Statement {
    /// A statement with parameters of `types`, at most [`COLUMNS_MAX`].
    pub const fn new(sql: &'static CStr, types: &'static [Oid]) -> Self {
        Self { sql, types, plan: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Runs the statement on the newest committed state, as the owner of table `relation` and without its row-level
    /// security: whoever may call the function needs no right on the table.
    ///
    /// An error leaves by longjmp through the caller's frames: no caller may own a destructor across this call.
    pub fn run(&self, relation: Oid, parameters: &[Option<Datum>]) -> Result<Outcome, TableGone> {
        let (mut values, nulls) = split(parameters);
        let nulls = nulls.map(|null| if null { b'n' } else { b' ' } as c_char);
        // SAFETY: as many parameters of the declared types as the plan has. After an error PostgreSQL takes SPI's stack back
        // itself.
        unsafe {
            as_owner(relation, || {
                spi_check(pg_sys::SPI_connect());
                // Planned as the owner too: parsing asks for USAGE on the schema.
                let plan = self.plan();
                let snapshot = pg_sys::GetLatestSnapshot();
                let none = ptr::null_mut();
                let code =
                    SPI_execute_snapshot(plan, values.as_mut_ptr(), nulls.as_ptr(), snapshot, none, false, true, 0);
                spi_check(code);
                let outcome = Outcome { rows: pg_sys::SPI_processed, greatest: greatest_uuid() };
                spi_check(pg_sys::SPI_finish());
                outcome
            })
        }
    }

    /// As [`Self::run`]; if it changed anything, the commit of this transaction waits for its WAL, whatever
    /// synchronous_commit says, so that no crash undoes what was taken from a token.
    pub fn run_durably(&self, relation: Oid, parameters: &[Option<Datum>]) -> Result<Outcome, TableGone> {
        let outcome = self.run(relation, parameters)?;
        if outcome.rows > 0 {
            // SAFETY: sets a flag of the transaction.
            unsafe { pg_sys::ForceSyncCommit() };
        }
        Ok(outcome)
    }

    /// # Safety
    /// SPI is connected.
    unsafe fn plan(&self) -> pg_sys::SPIPlanPtr {
        let known = self.plan.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the statement is static text; a kept plan lives as long as the session.
        let made = unsafe {
            let plan =
                pg_sys::SPI_prepare(self.sql.as_ptr(), self.types.len() as c_int, self.types.as_ptr().cast_mut());
            assert!(!plan.is_null(), "SPI_prepare: error {}", { pg_sys::SPI_result });
            spi_check(pg_sys::SPI_keepplan(plan));
            plan
        };
        self.plan.store(made, Ordering::Relaxed);
        made
    }
}

/// Runs `work` as `user`, and without the row-level security of that user's tables, the way foreign keys are checked
/// (utils/adt/ri_triggers.c).
///
/// # Safety
/// Within a transaction. An error leaves by longjmp; the abort of the transaction or savepoint puts the user back then.
unsafe fn as_user<R>(user: Oid, work: impl FnOnce() -> R) -> R {
    let (mut caller, mut context) = (pg_sys::InvalidOid, 0);
    let flags = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as c_int;
    // SAFETY: by the caller's promise.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut caller, &mut context);
        pg_sys::SetUserIdAndSecContext(user, context | flags);
        let result = work();
        pg_sys::SetUserIdAndSecContext(caller, context);
        result
    }
}

/// Acts as the owner of `relation`, with no way back for what runs meanwhile, until the user is set again or the
/// transaction is rolled back. For background workers.
pub fn become_owner(relation: Oid) -> Result<(), TableGone> {
    // SAFETY: within a transaction.
    unsafe {
        let owner = lock_and_get_owner(relation)?;
        pg_sys::SetUserIdAndSecContext(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int);
    }
    Ok(())
}

/// Runs `act` as the owner of table `relation` and without its row-level security. The table stays locked for writing.
///
/// # Safety
/// Within a transaction. An error of PostgreSQL's may leave `act` by longjmp: neither that nor a caller owns a destructor.
unsafe fn as_owner<R>(relation: Oid, act: impl FnOnce() -> R) -> Result<R, TableGone> {
    // SAFETY: by the caller's promise.
    unsafe { lock_and_get_owner(relation).map(|owner| as_user(owner, act)) }
}

/// # Safety
/// Within a transaction.
unsafe fn lock_and_get_owner(relation: Oid) -> Result<Oid, TableGone> {
    // SAFETY: the relation is open while its owner is read. The lock stays: the statement to come takes it anyway.
    unsafe {
        let table = open(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)?;
        let owner = (*(*table).rd_rel).relowner;
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        Ok(owner)
    }
}

/// # Safety
/// SPI is connected and a statement has run.
unsafe fn greatest_uuid() -> Option<[u8; 16]> {
    // SAFETY: a result, where there is one, has SPI_processed rows; its first column is checked to be a uuid.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        if table.is_null() || pg_sys::SPI_gettypeid((*table).tupdesc, 1) != pg_sys::UUIDOID {
            return None;
        }
        let mut is_null = false;
        (0..pg_sys::SPI_processed as usize)
            .map(|row| pg_sys::SPI_getbinval(*(*table).vals.add(row), (*table).tupdesc, 1, &mut is_null))
            .map(|datum| *datum.cast_mut_ptr::<[u8; 16]>())
            .max()
    }
}

fn spi_check(code: c_int) {
    assert!(code >= 0, "SPI: error {code}");
}
