//! The seam to the server: arguments and results of SQL functions, primary-key lookups, kept statements, clock.
//!
//! Lives here: what any extension would need of PostgreSQL, behind functions that are safe to call, and with that most
//! of the `unsafe` of this crate. May not come in here: tokens, scopes, names of our tables.
//!
//! Two habits of this file. What is opened has no destructor: after an error PostgreSQL's resource owners and memory
//! contexts clean up. And what outlives a function is palloc'd in the context current at the call, which the executor
//! resets.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, Oid};
use rustc_hash::FxHasher;

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
                tuplestore_putvalues(store, description, values.as_mut_ptr(), nulls.as_mut_ptr());
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

// What takes memory by the size of what a caller passes is declared here, and not taken from pgrx: where memory is at its
// end, pgrx's guard fails to copy the error that it has caught, and tries again until PostgreSQL gives up with a PANIC. The
// error leaves by longjmp instead: no frame that calls a function of this part with a caller's bytes, or in a loop, owns a
// destructor.
unsafe extern "C-unwind" {
    fn palloc(size: usize) -> *mut c_void;
    fn palloc_extended(size: usize, flags: c_int) -> *mut c_void;
    fn pg_detoast_datum(value: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
    fn pg_detoast_datum_packed(value: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
    fn deconstruct_array(
        array: *mut pg_sys::ArrayType,
        element: Oid,
        length: c_int,
        by_value: bool,
        align: c_char,
        values: *mut *mut Datum,
        nulls: *mut *mut bool,
        count: *mut c_int,
    );
    fn construct_array(
        elements: *mut Datum,
        count: c_int,
        element: Oid,
        length: c_int,
        by_value: bool,
        align: c_char,
    ) -> *mut pg_sys::ArrayType;
    fn appendBinaryStringInfo(text: pg_sys::StringInfo, bytes: *const c_void, length: c_int);
    fn tuplestore_putvalues(
        store: *mut pg_sys::Tuplestorestate,
        description: pg_sys::TupleDesc,
        values: *mut Datum,
        nulls: *mut bool,
    );
    fn hash_search(
        table: *mut pg_sys::HTAB,
        key: *const c_void,
        action: pg_sys::HASHACTION::Type,
        found: *mut bool,
    ) -> *mut c_void;
}

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
        if is_plain { value } else { pg_detoast_datum_packed(value) }
    }
}

/// # Safety
/// `datum` is a non-null text[].
unsafe fn text_array<'a>(datum: Datum) -> TextArray<'a> {
    let (mut values, mut nulls, mut count) = (ptr::null_mut(), ptr::null_mut(), 0);
    // SAFETY: an array's header is followed by its dimensions (utils/array.h, ARR_DIMS). deconstruct_array fills `count`
    // values and null flags; the elements are texts.
    unsafe {
        let array = pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let length = pg_sys::ArrayGetNItems((*array).ndim, array.add(1).cast::<c_int>()) as usize;
        if length > TextArray::LENGTH_MAX {
            return TextArray { dimensions: (*array).ndim, length, elements: &[] };
        }
        let align = pg_sys::TYPALIGN_INT as c_char;
        deconstruct_array(array, pg_sys::TEXTOID, -1, false, align, &mut values, &mut nulls, &mut count);
        let element = |at: usize| (!*nulls.add(at)).then(|| varlena_bytes(*values.add(at)));
        TextArray { dimensions: (*array).ndim, length, elements: palloc_list((0..count as usize).map(element)) }
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

/// A text or bytea of `bytes`, palloc'd. Bytes past 1 GB are PostgreSQL's error XX000 of an invalid request size.
pub fn varlena(bytes: &[u8]) -> Datum {
    // SAFETY: a copy with room for the header, which is written.
    unsafe {
        let copy = copy_bytes(pg_sys::VARHDRSZ, bytes, 0);
        pgrx::varlena::set_varsize_4b(copy.cast(), (pg_sys::VARHDRSZ + bytes.len()) as i32);
        Datum::from(copy)
    }
}

/// As [`varlena`], where the calling frame owns something: no error leaves by longjmp.
pub fn try_varlena(bytes: &[u8]) -> Result<Datum, OutOfMemory> {
    // SAFETY: the header is written into the room for it.
    unsafe {
        let copy = try_copy_bytes(pg_sys::VARHDRSZ, bytes, 0)?;
        pgrx::varlena::set_varsize_4b(copy.cast(), (pg_sys::VARHDRSZ + bytes.len()) as i32);
        Ok(Datum::from(copy))
    }
}

/// A copy of `bytes`, palloc'd, with so many bytes of room before and after it.
///
/// # Safety
/// The room is written before it is read.
unsafe fn copy_bytes(before: usize, bytes: &[u8], after: usize) -> *mut u8 {
    // SAFETY: palloc gives as many bytes, aligned for any type, or raises an error.
    unsafe { copy_to(palloc(before + bytes.len() + after).cast(), before, bytes) }
}

/// As [`copy_bytes`], where the calling frame owns something: no error leaves by longjmp.
///
/// # Safety
/// As of [`copy_bytes`].
unsafe fn try_copy_bytes(before: usize, bytes: &[u8], after: usize) -> Result<*mut u8, OutOfMemory> {
    let size = before + bytes.len() + after;
    // PostgreSQL's limit for a value (utils/memutils.h, MaxAllocSize).
    if size > 0x3fff_ffff {
        return Err(OutOfMemory);
    }
    // SAFETY: palloc_extended gives as many bytes, aligned for any type, or NULL.
    unsafe {
        let room = palloc_extended(size, pg_sys::MCXT_ALLOC_NO_OOM as c_int).cast::<u8>();
        if room.is_null() { Err(OutOfMemory) } else { Ok(copy_to(room, before, bytes)) }
    }
}

/// # Safety
/// `room` has room for `bytes`, and as many as that `before` them.
unsafe fn copy_to(room: *mut u8, before: usize, bytes: &[u8]) -> *mut u8 {
    // SAFETY: by the caller's promise.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), room.add(before), bytes.len()) };
    room
}

/// A copy of a jsonb or other varlena value on Rust's heap, header included, as [`from_raw`] takes it.
pub fn to_raw(value: Datum) -> Result<Box<[u8]>, OutOfMemory> {
    // SAFETY: the value is a varlena; detoasted, its header says how long it is.
    unsafe {
        let varlena = pg_detoast_datum(value.cast_mut_ptr());
        to_box(std::slice::from_raw_parts(varlena.cast::<u8>(), pgrx::varlena::varsize_any(varlena)))
    }
}

/// Memory on Rust's heap that could not be had. What a caller sizes must fail in this way: Rust's own answer is to end the
/// process, which restarts the server.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory;

/// A copy of `bytes` on Rust's heap.
pub fn to_box(bytes: &[u8]) -> Result<Box<[u8]>, OutOfMemory> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| OutOfMemory)?;
    copy.extend_from_slice(bytes);
    Ok(copy.into_boxed_slice())
}

/// A varlena value of the bytes that [`to_raw`] gave, palloc'd.
pub fn from_raw(bytes: &[u8]) -> Result<Datum, OutOfMemory> {
    // SAFETY: there is no room to be written.
    unsafe { try_copy_bytes(0, bytes, 0).map(Datum::from) }
}

/// The jsonb that `text`, in the database's encoding, stands for; 22P02 when it is no JSON.
pub fn jsonb(text: &Text) -> Datum {
    // SAFETY: jsonb_in takes a C string, which a StringInfo's text is (lib/stringinfo.h).
    unsafe {
        let argument = Some(Datum::from(text.0.data));
        pgrx::fcinfo::direct_function_call_as_datum(pg_sys::jsonb_in, &[argument]).unwrap_or(Datum::from(0))
    }
}

/// A uuid of `bytes`, palloc'd.
pub fn uuid(bytes: &[u8; 16]) -> Datum {
    // SAFETY: there is no room to be written.
    unsafe { Datum::from(copy_bytes(0, bytes, 0)) }
}

/// A list of these values, palloc'd: it needs no destructor.
pub fn list<'call, T: Copy>(_call: &Call<'call>, values: impl ExactSizeIterator<Item = T>) -> &'call mut [T] {
    // SAFETY: the list lives as long as the call.
    unsafe { palloc_list(values) }
}

/// # Safety
/// The list is not used after the current memory context is reset.
unsafe fn palloc_list<'a, T: Copy>(values: impl ExactSizeIterator<Item = T>) -> &'a mut [T] {
    // SAFETY: the memory is of the size asked for, aligned to the largest type, and as many values as are in the list have
    // been written to it.
    unsafe {
        let length = values.len();
        let size = length * size_of::<T>();
        let start = palloc_extended(size, pg_sys::MCXT_ALLOC_HUGE as c_int).cast::<T>();
        let written = values.take(length).enumerate().map(|(at, value)| start.add(at).write(value)).count();
        std::slice::from_raw_parts_mut(start, written)
    }
}

/// A text that grows, palloc'd. Text past 1 GB is PostgreSQL's error 54000.
pub struct Text(pg_sys::StringInfoData);

impl Text {
    /// An empty text.
    pub fn new(_call: &Call<'_>) -> Self {
        let mut text = pg_sys::StringInfoData::default();
        // SAFETY: fills in the structure.
        unsafe { pg_sys::initStringInfo(&mut text) };
        Self(text)
    }

    /// Appends `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        // A slice is at most isize::MAX bytes long; one that is longer than PostgreSQL's limit counts as longest.
        let length = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
        // SAFETY: the structure was filled in; a length past the limit is an error before anything is copied.
        unsafe { appendBinaryStringInfo(&mut self.0, bytes.as_ptr().cast(), length) };
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// A set of keys of `LENGTH` bytes, in memory of the call.
pub struct Set<const LENGTH: usize>(*mut pg_sys::HTAB);

impl<const LENGTH: usize> Set<LENGTH> {
    /// An empty set.
    pub fn new(_call: &Call<'_>) -> Self {
        let flags = pg_sys::HASH_ELEM | pg_sys::HASH_BLOBS | pg_sys::HASH_CONTEXT;
        // SAFETY: the table is made in the memory that is current in the call, and goes with it.
        unsafe {
            let mut control = pg_sys::HASHCTL {
                keysize: LENGTH,
                entrysize: LENGTH,
                hcxt: pg_sys::CurrentMemoryContext,
                ..Default::default()
            };
            Self(pg_sys::hash_create(c"temptoken set".as_ptr(), 256, &raw mut control, flags as c_int))
        }
    }

    /// Adds `key`; whether it was not there yet.
    pub fn insert(&mut self, key: &[u8; LENGTH]) -> bool {
        let mut found = false;
        // SAFETY: a key is as long as the table's keys; an entry is its key, which the table copies.
        unsafe { hash_search(self.0, key.as_ptr().cast(), pg_sys::HASHACTION::HASH_ENTER, &mut found) };
        !found
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
        construct_array(elements.as_mut_ptr(), count, oid, length, false, align as c_char).into()
    }
}

/// The element types that [`array`] knows.
#[derive(Clone, Copy)]
pub enum ElementType {
    Uuid,
    Bytea,
}

/// `bytes` as a C string, palloc'd. They come from SQL values and constants, so none of them is NUL.
pub fn copy_to_cstring(bytes: &[u8]) -> Result<*const c_char, OutOfMemory> {
    // SAFETY: the NUL is written into the room for it.
    unsafe {
        let copy = try_copy_bytes(0, bytes, 1)?;
        copy.add(bytes.len()).write(0);
        Ok(copy.cast_const().cast())
    }
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
    description: pg_sys::TupleDesc,
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
    /// Whether this transaction has written the row, and may still roll it back.
    pub fn is_of_this_transaction(&self) -> bool {
        // SAFETY: the tuple has a header, of which copies have the writer too.
        unsafe { pg_sys::TransactionIdIsCurrentTransactionId((*(*self.tuple).t_data).t_choice.t_heap.t_xmin) }
    }

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
/// There is no planner, no search path, no privileges, no transaction id in the way, nothing that a standby forbids, and
/// no setting of the session (the catalogs' own lookups obey ignore_system_indexes). Without a primary key of that column
/// it reads the whole table. The lock is given back at once, so that a long transaction which validates does not hold up
/// DDL.
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
    use super::{Columns, Datum, Key, Oid, PhantomData, TableGone, Tuple, pg_sys};

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
        fn index_open(index: Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
        fn index_close(index: pg_sys::Relation, lock: pg_sys::LOCKMODE);
        fn index_beginscan(
            table: pg_sys::Relation,
            index: pg_sys::Relation,
            snapshot: pg_sys::Snapshot,
            #[cfg(feature = "pg18")] instrument: *mut pg_sys::IndexScanInstrumentation,
            keys: std::ffi::c_int,
            order_bys: std::ffi::c_int,
        ) -> pg_sys::IndexScanDesc;
        fn index_rescan(
            scan: pg_sys::IndexScanDesc,
            key: pg_sys::ScanKey,
            keys: std::ffi::c_int,
            order_by: pg_sys::ScanKey,
            order_bys: std::ffi::c_int,
        );
        fn index_getnext_slot(
            scan: pg_sys::IndexScanDesc,
            direction: pg_sys::ScanDirection::Type,
            slot: *mut pg_sys::TupleTableSlot,
        ) -> bool;
        fn index_endscan(scan: pg_sys::IndexScanDesc);
        fn table_slot_create(
            table: pg_sys::Relation,
            registered: *mut *mut pg_sys::List,
        ) -> *mut pg_sys::TupleTableSlot;
        fn ExecFetchSlotHeapTuple(
            slot: *mut pg_sys::TupleTableSlot,
            materialize: bool,
            should_free: *mut bool,
        ) -> pg_sys::HeapTuple;
        fn ExecDropSingleTupleTableSlot(slot: *mut pg_sys::TupleTableSlot);
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
        pub table: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        scan: Scan,
        tuple: pg_sys::HeapTuple,
    }

    /// How the rows of a lookup are read.
    #[derive(Clone, Copy)]
    enum Scan {
        ByKey(KeyScan),
        /// The whole table: it has no primary key of its first column alone.
        WholeTable(pg_sys::SysScanDesc),
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
                let snapshot = RegisterSnapshot(GetLatestSnapshot());
                let mut entry = pg_sys::ScanKeyData::default();
                let strategy = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
                ScanKeyInit(&mut entry, 1, strategy, key.equals.into(), key.value);
                let (scan, tuple) = match KeyScan::begin(table, snapshot, std::slice::from_mut(&mut entry)) {
                    Some(scan) => (Scan::ByKey(scan), scan.next()),
                    None => {
                        let none = pg_sys::InvalidOid;
                        let scan = systable_beginscan(table, none, false, snapshot, 1, &mut entry);
                        (Scan::WholeTable(scan), systable_getnext(scan))
                    }
                };
                Ok(Self { table, snapshot, scan, tuple })
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
                match self.scan {
                    Scan::ByKey(scan) => scan.end(),
                    Scan::WholeTable(scan) => systable_endscan(scan),
                }
                UnregisterSnapshot(self.snapshot);
                relation_close(self.table, LOCK);
            }
        }
    }

    /// A scan of a table by its primary key, in the order of the key.
    #[derive(Clone, Copy)]
    pub struct KeyScan {
        index: pg_sys::Relation,
        scan: pg_sys::IndexScanDesc,
        slot: *mut pg_sys::TupleTableSlot,
    }

    impl KeyScan {
        /// `None` where the primary key is not the first column alone.
        ///
        /// # Safety
        /// As of [`Lookup::begin`]; `table` is open, and `keys`, which are of its first column, outlive the call.
        pub unsafe fn begin(
            table: pg_sys::Relation,
            snapshot: pg_sys::Snapshot,
            keys: &mut [pg_sys::ScanKeyData],
        ) -> Option<Self> {
            // SAFETY: by the caller's promise. The column is the first of the index too.
            unsafe {
                #[cfg(feature = "pg18")]
                let oid = RelationGetPrimaryKeyIndex(table, false);
                #[cfg(not(feature = "pg18"))]
                let oid = RelationGetPrimaryKeyIndex(table);
                if oid == pg_sys::InvalidOid {
                    return None;
                }
                let index = index_open(oid, LOCK);
                if !super::is_of_first_column(&*(*index).rd_index) {
                    index_close(index, LOCK);
                    return None;
                }
                let slot = table_slot_create(table, std::ptr::null_mut());
                let count = keys.len() as std::ffi::c_int;
                #[cfg(feature = "pg18")]
                let scan = index_beginscan(table, index, snapshot, std::ptr::null_mut(), count, 0);
                #[cfg(not(feature = "pg18"))]
                let scan = index_beginscan(table, index, snapshot, count, 0);
                index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
                Some(Self { index, scan, slot })
            }
        }

        /// The next row, good until the one after it is asked for; NULL when there is none.
        ///
        /// # Safety
        /// As of `begin`, before `end`.
        pub unsafe fn next(&self) -> pg_sys::HeapTuple {
            // SAFETY: the slot is one of the table's. Its tuple stays in the slot, which frees it.
            unsafe {
                if index_getnext_slot(self.scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) {
                    let mut should_free = false;
                    ExecFetchSlotHeapTuple(self.slot, false, &mut should_free)
                } else {
                    std::ptr::null_mut()
                }
            }
        }

        /// # Safety
        /// As of `begin`, once.
        pub unsafe fn end(self) {
            // SAFETY: what `begin` has opened.
            unsafe {
                index_endscan(self.scan);
                ExecDropSingleTupleTableSlot(self.slot);
                index_close(self.index, LOCK);
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
            Tuple { tuple, description, columns, memory: PhantomData }
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
            let values = super::palloc(count * (size_of::<Datum>() + 1)).cast::<Datum>();
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
        let scan = raw::KeyScan::begin(table, snapshot, &mut keys);
        if let Some(scan) = scan {
            let description = (*table).rd_att;
            let columns = raw::room(description);
            loop {
                check_for_interrupts();
                let tuple = scan.next();
                if tuple.is_null() {
                    break;
                }
                raw::take_apart(tuple, description, &columns);
                let tuple = Tuple { tuple, description, columns, memory: PhantomData };
                if !visit(&WalkedRow { table, tuple }) {
                    break;
                }
            }
            scan.end();
        }
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::relation_close(table, lock);
        scan.map(|_| ()).ok_or(TableGone)
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
        // SAFETY: by the caller's promise.
        unsafe {
            let row = pg_sys::HeapTupleData { t_self: (*self.tuple.tuple).t_self, ..Default::default() };
            let (mode, wait) = (pg_sys::LockTupleMode::LockTupleExclusive, pg_sys::LockWaitPolicy::LockWaitSkip);
            lock_tuple(self.table, row, cid, mode, wait) == pg_sys::TM_Result::TM_Ok
        }
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
        let is_first_column = is_of_first_column(&*pg_sys::GETSTRUCT(tuple).cast());
        pg_sys::ReleaseSysCache(tuple);
        is_first_column.then_some(index)
    }
}

/// Whether an index is of the first column of its table, and of that alone.
fn is_of_first_column(index: &pg_sys::FormData_pg_index) -> bool {
    // SAFETY: an index has as many key columns as it says.
    index.indnkeyatts == 1 && unsafe { *index.indkey.values.as_ptr() } == 1
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
    unsafe { lock_and_get_owner(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE).map(drop) }
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
pub fn keep<'call>(_call: &Call<'call>, bytes: &[u8]) -> Result<&'call [u8], OutOfMemory> {
    // SAFETY: there is no room to be written; the copy lives as long as the call.
    unsafe { Ok(std::slice::from_raw_parts(try_copy_bytes(0, bytes, 0)?, bytes.len())) }
}

/// The value of a setting that may not exist. Empty, which is what a setting of a past transaction leaves, is `None`.
pub fn setting<'call>(call: &Call<'call>, name: &CStr) -> Result<Option<&'call [u8]>, OutOfMemory> {
    // SAFETY: the value is a C string that is good until the setting changes: it is copied into the call's memory.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() || *value == 0 {
            return Ok(None);
        }
        keep(call, CStr::from_ptr(value).to_bytes()).map(Some)
    }
}

/// Raises the error with which this session was told to stop, if it was. It leaves as a panic, which runs destructors.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Raises 25006 in a read-only transaction and on a standby, naming `command`.
pub fn require_writable(command: &CStr) {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) }
}

// ---------------------------------------------------------------------------------------------------------------------
// Statements
// ---------------------------------------------------------------------------------------------------------------------

/// An SQL statement that is planned once a session. It runs under the search path `pg_catalog, pg_temp`, so that functions
/// and operators are PostgreSQL's own; tables in it are qualified.
pub struct Statement {
    sql: &'static CStr,
    types: &'static [Oid],
    lock: pg_sys::LOCKMODE,
    plan: AtomicPtr<pg_sys::_SPI_plan>,
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
    /// A statement that writes, with parameters of `types`, at most [`COLUMNS_MAX`].
    pub const fn new(sql: &'static CStr, types: &'static [Oid]) -> Self {
        Self::with_lock(sql, types, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)
    }

    /// A statement that reads.
    pub const fn reading(sql: &'static CStr, types: &'static [Oid]) -> Self {
        Self::with_lock(sql, types, pg_sys::AccessShareLock as pg_sys::LOCKMODE)
    }

    const fn with_lock(sql: &'static CStr, types: &'static [Oid], lock: pg_sys::LOCKMODE) -> Self {
        Self { sql, types, lock, plan: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Runs the statement on the newest committed state, as the owner of table `relation` and without its row-level
    /// security: whoever may call the function needs no right on the table. `visit` is called with each row that the
    /// statement returns. Answers how many rows were inserted, updated, deleted or returned.
    ///
    /// An error leaves by longjmp through the caller's frames and `visit`: none may own a destructor across this call.
    pub fn run(
        &self,
        relation: Oid,
        parameters: &[Option<Datum>],
        mut visit: impl FnMut(&Tuple<'_>),
    ) -> Result<u64, TableGone> {
        let (mut values, nulls) = split(parameters);
        let nulls = nulls.map(|null| if null { b'n' } else { b' ' } as c_char);
        // SAFETY: as many parameters of the declared types as the plan has. After an error PostgreSQL takes SPI's stack back
        // itself.
        unsafe {
            as_owner(relation, self.lock, || {
                let caller = pg_sys::CurrentMemoryContext;
                spi_check(pg_sys::SPI_connect());
                // Planned as the owner too: parsing asks for USAGE on the schema.
                let plan = self.plan();
                let snapshot = pg_sys::GetLatestSnapshot();
                let none = ptr::null_mut();
                let code =
                    SPI_execute_snapshot(plan, values.as_mut_ptr(), nulls.as_ptr(), snapshot, none, false, true, 0);
                spi_check(code);
                let rows = pg_sys::SPI_processed;
                let inner = pg_sys::MemoryContextSwitchTo(caller);
                visit_result(&mut visit);
                pg_sys::MemoryContextSwitchTo(inner);
                spi_check(pg_sys::SPI_finish());
                rows
            })
        }
    }

    /// As [`Self::run`], for a statement that returns at most one row: a copy of that.
    pub fn run_for_row<'call>(
        &self,
        _call: &Call<'call>,
        relation: Oid,
        parameters: &[Option<Datum>],
    ) -> Result<Option<Tuple<'call>>, TableGone> {
        let mut found = None;
        // SAFETY: the row is copied, with what is stored elsewhere of it, into the memory that is current in this call.
        self.run(relation, parameters, |tuple| unsafe {
            found = Some(raw::row(raw::copy(tuple.tuple, tuple.description), tuple.description));
        })?;
        Ok(found)
    }

    /// As [`Self::run`], without a look at rows; if it changed anything, the commit of this transaction waits for its WAL,
    /// whatever synchronous_commit says, so that no crash undoes what was taken from a token.
    pub fn run_durably(&self, relation: Oid, parameters: &[Option<Datum>]) -> Result<u64, TableGone> {
        let rows = self.run(relation, parameters, |_| {})?;
        if rows > 0 {
            commit_durably();
        }
        Ok(rows)
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

/// Calls `visit` with each row of the result of the statement that has just run, if it has one.
///
/// # Safety
/// SPI is connected and a statement has run.
unsafe fn visit_result(visit: &mut impl FnMut(&Tuple<'_>)) {
    // SAFETY: a result, where there is one, has `numvals` rows of its description.
    unsafe {
        let Some(result) = pg_sys::SPI_tuptable.as_ref() else { return };
        let columns = raw::room(result.tupdesc);
        for at in 0..result.numvals as usize {
            let tuple = *result.vals.add(at);
            raw::take_apart(tuple, result.tupdesc, &columns);
            visit(&Tuple { tuple, description: result.tupdesc, columns, memory: PhantomData });
        }
    }
}

/// Has the commit of this transaction wait for its WAL, whatever synchronous_commit says.
pub fn commit_durably() {
    // SAFETY: sets a flag of the transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Under an isolation level that keeps its snapshot: locks the row of table `relation` whose first column, its primary key,
/// is `key`, after waiting for any other transaction that is changing it. A statement that then changes the row on the
/// newest committed state finds nobody before it, and so does not fail with 40001. Under READ COMMITTED a statement waits,
/// and looks again, by itself.
///
/// An error leaves by longjmp through the caller's frames: no caller may own a destructor across this call.
pub fn lock_row_to_update(relation: Oid, key: &Key) -> Result<(), TableGone> {
    // SAFETY: the row is found by its tid, of which a copy is taken before the lookup ends; the table stays locked, so that
    // the tid stays the row's, and the buffer that it is found in is let go.
    unsafe {
        if pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as c_int {
            return Ok(());
        }
        lock_and_get_owner(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)?;
        loop {
            check_for_interrupts();
            let lookup = raw::Lookup::begin(relation, || true, key)?;
            let Some(found) = lookup.tuple() else {
                lookup.end();
                return Ok(());
            };
            let row = pg_sys::HeapTupleData { t_self: (*found).t_self, ..Default::default() };
            let (mode, wait) = (pg_sys::LockTupleMode::LockTupleNoKeyExclusive, pg_sys::LockWaitPolicy::LockWaitBlock);
            let result = lock_tuple(lookup.table, row, GetCurrentCommandId(true), mode, wait);
            lookup.end();
            match result {
                // Another transaction was first, and has committed: look again.
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => {}
                _ => return Ok(()),
            }
        }
    }
}

/// # Safety
/// `table` is open and locked for writing, and `row` has the tid of a row of it.
unsafe fn lock_tuple(
    table: pg_sys::Relation,
    mut row: pg_sys::HeapTupleData,
    cid: pg_sys::CommandId,
    mode: pg_sys::LockTupleMode::Type,
    wait: pg_sys::LockWaitPolicy::Type,
) -> pg_sys::TM_Result::Type {
    let mut failure = pg_sys::TM_FailureData::default();
    let mut buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
    // SAFETY: by the caller's promise; the buffer is pinned whatever the result is.
    unsafe {
        let result = pg_sys::heap_lock_tuple(table, &mut row, cid, mode, wait, false, &mut buffer, &mut failure);
        pg_sys::ReleaseBuffer(buffer);
        result
    }
}

/// Locks what `bytes` name until the transaction ends, among those who lock names of the same `kind`; waits for others. The
/// lock is advisory, in a space apart from that of pg_advisory_lock(). Names with the same hash share a lock.
pub fn lock_name(kind: u16, bytes: &[&[u8]], is_shared: bool) {
    let mut hasher = FxHasher::default();
    bytes.hash(&mut hasher);
    let hash = hasher.finish();
    let tag = pg_sys::LOCKTAG {
        locktag_field1: database_oid(),
        locktag_field2: (hash >> 32) as u32,
        locktag_field3: hash as u32,
        locktag_field4: kind,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    };
    let mode = if is_shared { pg_sys::ShareLock } else { pg_sys::ExclusiveLock };
    // SAFETY: takes a lock of the transaction.
    unsafe { pg_sys::LockAcquire(&tag, mode as pg_sys::LOCKMODE, false, false) };
}

// ---------------------------------------------------------------------------------------------------------------------
// Acting as the owner of a table
// ---------------------------------------------------------------------------------------------------------------------

/// What names mean to code that runs as the owner of a table: what they mean to nobody else's search path.
const OWNER_SEARCH_PATH: &CStr = c"pg_catalog, pg_temp";

/// A flag of our own among those of the security context (miscadmin.h): set while we act as the owner of a table, in
/// everything that is called meanwhile too. PostgreSQL carries it along, and takes it back with the user when a
/// transaction or savepoint is rolled back.
const ACTING_AS_OWNER: c_int = 1 << 24;

/// Runs `work` as `user`, without the row-level security of that user's tables, the way foreign keys are checked
/// (utils/adt/ri_triggers.c), and under [`OWNER_SEARCH_PATH`], the way maintenance is done (utils/misc/guc.c,
/// RestrictSearchPath): triggers, constraints and the like on the table are code of the owner's, and what it names must not
/// be the caller's choice.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp; the abort of the transaction or savepoint puts user and search path
/// back then.
unsafe fn as_user<R>(user: Oid, work: impl FnOnce() -> R) -> R {
    let (mut caller, mut context) = (pg_sys::InvalidOid, 0);
    let flags = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as c_int | ACTING_AS_OWNER;
    // SAFETY: by the caller's promise.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut caller, &mut context);
        // An owner who is no superuser must not get at the caller's rights either: by a held cursor or a deferred trigger,
        // which would run when the transaction commits.
        let is_to_restrict = user != caller && !pg_sys::superuser_arg(user);
        let restriction = if is_to_restrict { pg_sys::SECURITY_RESTRICTED_OPERATION as c_int } else { 0 };
        pg_sys::SetUserIdAndSecContext(user, context | flags | restriction);
        let level = pg_sys::NewGUCNestLevel();
        set_owner_search_path();
        let result = work();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(caller, context);
        result
    }
}

/// # Safety
/// Within a level of settings of one's own.
unsafe fn set_owner_search_path() {
    // SAFETY: both are C strings.
    unsafe {
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            OWNER_SEARCH_PATH.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Acts as the owner of `relation`, with no way back for what runs meanwhile, until the user is set again or the
/// transaction is rolled back. For background workers.
pub fn become_owner(relation: Oid) -> Result<(), TableGone> {
    // SAFETY: within a transaction.
    unsafe {
        let owner = lock_and_get_owner(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)?;
        pg_sys::SetUserIdAndSecContext(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int);
    }
    Ok(())
}

/// Runs `act` as the owner of table `relation`, as [`as_user`] does. The table stays locked in this mode.
///
/// # Safety
/// Within a transaction. An error of PostgreSQL's may leave `act` by longjmp: neither that nor a caller owns a destructor.
unsafe fn as_owner<R>(relation: Oid, lock: pg_sys::LOCKMODE, act: impl FnOnce() -> R) -> Result<R, TableGone> {
    // SAFETY: by the caller's promise.
    unsafe { lock_and_get_owner(relation, lock).map(|owner| as_user(owner, act)) }
}

/// # Safety
/// Within a transaction.
unsafe fn lock_and_get_owner(relation: Oid, lock: pg_sys::LOCKMODE) -> Result<Oid, TableGone> {
    // SAFETY: the relation is open while its owner is read. The lock stays: the statement to come takes it anyway.
    unsafe {
        let table = open(relation, lock)?;
        let owner = (*(*table).rd_rel).relowner;
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        Ok(owner)
    }
}

/// Raises an error, and does not return.
type Raise = unsafe fn() -> !;

/// What is refused while we act as the owner of a table.
pub struct Guard {
    /// A statement names a temporary table of somebody else's. No search path hides pg_temp: where code of the owner's names
    /// a table that is not qualified and is not there, the caller's temporary table of that name is found, with the caller's
    /// triggers.
    pub refuse_temporary_table: Raise,
    /// A function is called that somebody has written who is neither that owner nor a superuser. The planner computes
    /// constants before a statement's tables are looked at: a default of the caller's temporary table, for one.
    pub refuse_function: Raise,
}

static GUARD: OnceLock<Guard> = OnceLock::new();
static NEXT_PERMISSIONS: OnceLock<pg_sys::ExecutorCheckPerms_hook_type> = OnceLock::new();
static NEXT_ACCESS: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();

/// Has `guard` refuse, once a process is set up, where an error leaves by longjmp.
pub fn guard_owner(guard: Guard) {
    if GUARD.set(guard).is_ok() {
        // SAFETY: when the library is loaded, once a process, as every extension does it.
        unsafe {
            _ = NEXT_PERMISSIONS.set(pg_sys::ExecutorCheckPerms_hook);
            pg_sys::ExecutorCheckPerms_hook = Some(check_permissions);
            _ = NEXT_ACCESS.set(pg_sys::object_access_hook);
            pg_sys::object_access_hook = Some(check_access);
        }
    }
}

unsafe extern "C-unwind" fn check_access(
    access: pg_sys::ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    part: c_int,
    argument: *mut c_void,
) {
    // SAFETY: PostgreSQL says what is accessed, to us and to whoever comes after us.
    unsafe {
        if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
            && acting_as_owner().is_some_and(|owner| !is_trusted(object, owner))
        {
            GUARD.get().inspect(|guard| (guard.refuse_function)());
        }
        if let Some(next) = NEXT_ACCESS.get().copied().flatten() {
            next(access, class, object, part, argument);
        }
    }
}

/// Whether `function` may run with the rights of `owner`: PostgreSQL's own, one in C, which takes a superuser to make, one
/// that runs with other rights, or one of the owner's or of a superuser's.
///
/// # Safety
/// Within a transaction, where errors may leave by longjmp.
unsafe fn is_trusted(function: Oid, owner: Oid) -> bool {
    /// internal and c (catalog/pg_language.dat).
    const LANGUAGES: [u32; 2] = [12, 13];
    if function.to_u32() < pg_sys::FirstNormalObjectId {
        return true;
    }
    // SAFETY: the cached entry is held while it is read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as c_int, function.into());
        if tuple.is_null() {
            return false;
        }
        let entry = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let by = entry.proowner;
        let is_trusted = by == owner || entry.prosecdef || LANGUAGES.contains(&entry.prolang.to_u32());
        pg_sys::ReleaseSysCache(tuple);
        is_trusted || pg_sys::superuser_arg(by)
    }
}

/// The role that we act as, while we act as the owner of a table.
fn acting_as_owner() -> Option<Oid> {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads variables of the backend.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    (context & ACTING_AS_OWNER != 0).then_some(user)
}

#[cfg(feature = "pg15")]
unsafe extern "C-unwind" fn check_permissions(tables: *mut pg_sys::List, is_to_raise: bool) -> bool {
    // SAFETY: PostgreSQL passes a statement's range table, to us and to whoever comes after us.
    unsafe {
        refuse_temporary_tables(tables);
        NEXT_PERMISSIONS.get().copied().flatten().is_none_or(|next| next(tables, is_to_raise))
    }
}

#[cfg(not(feature = "pg15"))]
unsafe extern "C-unwind" fn check_permissions(
    tables: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
    is_to_raise: bool,
) -> bool {
    // SAFETY: PostgreSQL passes a statement's range table, to us and to whoever comes after us.
    unsafe {
        refuse_temporary_tables(tables);
        NEXT_PERMISSIONS.get().copied().flatten().is_none_or(|next| next(tables, permissions, is_to_raise))
    }
}

/// # Safety
/// `tables` is a statement's range table; errors may leave by longjmp.
unsafe fn refuse_temporary_tables(tables: *mut pg_sys::List) {
    let Some(user) = acting_as_owner() else { return };
    if tables.is_null() {
        return;
    }
    // SAFETY: a list has as many cells as it says; each of a range table is an entry. A relation that is named in a
    // statement which is about to run is locked, so that its entry in pg_class is there.
    unsafe {
        for at in 0..(*tables).length as usize {
            let entry = (*(*tables).elements.add(at)).ptr_value.cast::<pg_sys::RangeTblEntry>();
            let relation = (*entry).relid;
            if relation != pg_sys::InvalidOid && is_temporary_of_another(relation, user) {
                GUARD.get().inspect(|guard| (guard.refuse_temporary_table)());
            }
        }
    }
}

/// # Safety
/// Within a transaction, where errors may leave by longjmp.
unsafe fn is_temporary_of_another(relation: Oid, user: Oid) -> bool {
    // SAFETY: the cached entry is held while it is read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as c_int, relation.into());
        if tuple.is_null() {
            return false;
        }
        let class = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let answer = class.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP && class.relowner != user;
        pg_sys::ReleaseSysCache(tuple);
        answer
    }
}

fn spi_check(code: c_int) {
    assert!(code >= 0, "SPI: error {code}");
}
