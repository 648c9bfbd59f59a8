//! SQL values: from Rust to Datum and back.
//!
//! What these functions return lies in the memory context that is current at the call. Where its size depends on a caller,
//! there are two ways to ask for memory. `palloc` raises 53200 by longjmp. The functions that return [`OutOfMemory`] are
//! for frames that own destructors.

use std::ffi::{c_char, c_int};
use std::ptr;

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::varlena::{set_varsize_4b, varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, varlena_to_byte_slice, varsize_any};

use super::ffi::{deconstruct_array, palloc, palloc_extended, pg_detoast_datum, pg_detoast_datum_packed};
use crate::values::{OutOfMemory, Span, TextArray, to_box};

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const PG_EPOCH: i64 = 946_684_800_000_000;

/// PostgreSQL's limit for a value (utils/memutils.h, MaxAllocSize).
const SIZE_MAX: usize = 0x3fff_ffff;

/// An SQL type, and how its values are read.
pub trait SqlType {
    /// What a value is read as. It borrows the memory of the value, or of the current memory context.
    type Value<'a>;
    const OID: Oid;

    /// # Safety
    /// `datum` is a value of this type and not NULL. The result is not used after the value or the current memory context
    /// is gone.
    unsafe fn read<'a>(datum: Datum) -> Self::Value<'a>;
}

macro_rules! sql_types {
    ($($name:ident = $oid:ident, read as $value:ty: $read:expr;)*) => {
        $(
            #[doc = concat!("The type behind ", stringify!($oid), ".")]
            pub struct $name;

            impl SqlType for $name {
                type Value<'a> = $value;
                const OID: Oid = pg_sys::$oid;

                unsafe fn read<'a>(datum: Datum) -> Self::Value<'a> {
                    // SAFETY: by the caller's promise.
                    #[allow(unused_unsafe, reason = "some types are read without")]
                    unsafe { $read(datum) }
                }
            }
        )*
    };
}

sql_types! {
    Boolean = BOOLOID, read as bool: |datum: Datum| datum.value() as u8 != 0;
    Int4 = INT4OID, read as i32: |datum: Datum| datum.value() as i32;
    Int8 = INT8OID, read as i64: |datum: Datum| datum.value() as i64;
    // In the bytes of the database's encoding.
    Text = TEXTOID, read as &'a [u8]: varlena_bytes;
    TextList = TEXTARRAYOID, read as TextArray<'a>: text_array;
    Bytea = BYTEAOID, read as &'a [u8]: varlena_bytes;
    Interval = INTERVALOID, read as Span: interval;
    // In Unix microseconds. Minus infinity and infinity are the ends of the range.
    Timestamptz = TIMESTAMPTZOID, read as i64: |datum: Datum| to_unix(datum.value() as i64);
    Uuid = UUIDOID, read as [u8; 16]: |datum: Datum| *datum.cast_mut_ptr::<[u8; 16]>();
    // Something of PostgreSQL's own.
    Internal = INTERNALOID, read as Datum: |datum: Datum| datum;
    // Whole, with what is stored elsewhere.
    Jsonb = JSONBOID, read as Datum: |datum: Datum| Datum::from(detoasted(datum));
}

/// A text or bytea, and the value that it was read from.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    pub bytes: &'a [u8],
    pub value: Datum,
}

impl Bytes<'_> {
    /// # Safety
    /// As of [`SqlType::read`], of a text or bytea.
    pub(super) unsafe fn read(datum: Datum) -> Self {
        // SAFETY: by the caller's promise.
        unsafe {
            let value = detoasted(datum);
            Self { bytes: varlena_to_byte_slice(value), value: value.into() }
        }
    }
}

/// # Safety
/// As of [`SqlType::read`], of a varlena.
unsafe fn varlena_bytes<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: by the caller's promise.
    unsafe { varlena_to_byte_slice(detoasted(datum)) }
}

/// A varlena that is neither compressed nor stored elsewhere. Nearly all come like that, and need no call.
///
/// # Safety
/// As of [`SqlType::read`], of a varlena.
unsafe fn detoasted(datum: Datum) -> *mut pg_sys::varlena {
    let value = datum.cast_mut_ptr();
    // SAFETY: by the caller's promise.
    unsafe {
        let is_plain = varatt_is_4b_u(value) || (varatt_is_1b(value) && !varatt_is_1b_e(value));
        if is_plain { value } else { pg_detoast_datum_packed(value) }
    }
}

/// # Safety
/// As of [`SqlType::read`], of a text[].
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
/// As of [`SqlType::read`], of an interval.
unsafe fn interval(datum: Datum) -> Span {
    // SAFETY: by the caller's promise.
    let interval = unsafe { &*datum.cast_mut_ptr::<pg_sys::Interval>() };
    Span { months: interval.month, days: interval.day, micros: interval.time }
}

/// Unix microseconds of a timestamptz.
pub(super) fn to_unix(timestamptz: i64) -> i64 {
    timestamptz.saturating_add(PG_EPOCH)
}

/// A timestamptz of Unix microseconds.
pub fn timestamptz(unix_micros: i64) -> Datum {
    Datum::from(unix_micros.saturating_sub(PG_EPOCH))
}

/// A uuid.
pub fn uuid(bytes: &[u8; 16]) -> Datum {
    // SAFETY: there is no room to be written.
    unsafe { Datum::from(copy(0, bytes, 0)) }
}

/// A text or bytea of at most 1 GB. More is PostgreSQL's error XX000, "invalid memory alloc request size".
pub fn varlena(bytes: &[u8]) -> Datum {
    // SAFETY: the header is written into the room for it.
    unsafe {
        let room = copy(pg_sys::VARHDRSZ, bytes, 0);
        set_varsize_4b(room.cast(), (pg_sys::VARHDRSZ + bytes.len()) as i32);
        Datum::from(room)
    }
}

/// A copy of a varlena, which outlives the row that it was read from.
pub fn keep_varlena(value: Datum) -> Datum {
    // SAFETY: the callers pass varlenas.
    varlena(unsafe { varlena_bytes(value) })
}

/// As [`varlena`], where the calling frame owns a destructor.
pub fn try_varlena(bytes: &[u8]) -> Result<Datum, OutOfMemory> {
    // SAFETY: the header is written into the room for it.
    unsafe {
        let room = try_copy(pg_sys::VARHDRSZ, bytes, 0)?;
        set_varsize_4b(room.cast(), (pg_sys::VARHDRSZ + bytes.len()) as i32);
        Ok(Datum::from(room))
    }
}

/// A copy of a varlena on Rust's heap, header included. [`from_boxed`] reads it.
pub fn to_boxed(value: Datum) -> Result<Box<[u8]>, OutOfMemory> {
    // SAFETY: the value is a varlena, whose header says how long it is.
    unsafe {
        let varlena = pg_detoast_datum(value.cast_mut_ptr());
        to_box(std::slice::from_raw_parts(varlena.cast::<u8>(), varsize_any(varlena)))
    }
}

/// The varlena that [`to_boxed`] has copied.
pub fn from_boxed(bytes: &[u8]) -> Result<Datum, OutOfMemory> {
    // SAFETY: there is no room to be written.
    unsafe { try_copy(0, bytes, 0).map(Datum::from) }
}

/// A copy of `bytes`.
///
/// # Safety
/// The copy is not used after the current memory context is gone.
pub(super) unsafe fn copy_bytes<'a>(bytes: &[u8]) -> Result<&'a [u8], OutOfMemory> {
    // SAFETY: by the caller's promise. There is no room to be written.
    unsafe { Ok(std::slice::from_raw_parts(try_copy(0, bytes, 0)?, bytes.len())) }
}

/// `bytes` as a C string. SQL values and constants contain no NUL.
pub(super) fn copy_to_cstring(bytes: &[u8]) -> Result<*const c_char, OutOfMemory> {
    // SAFETY: the NUL is written into the room for it.
    unsafe {
        let room = try_copy(0, bytes, 1)?;
        room.add(bytes.len()).write(0);
        Ok(room.cast_const().cast())
    }
}

/// `text`, which is UTF-8, in the database's encoding. Where that is another one, each character that is not ASCII becomes a `?`.
pub fn from_utf8(text: &[u8]) -> Vec<u8> {
    // SAFETY: reads a variable of the backend.
    let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as c_int;
    if is_utf8 {
        return text.to_vec();
    }
    let is_within_character = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    let bytes = text.iter().filter(|byte| !is_within_character(**byte));
    bytes.map(|byte| if byte.is_ascii() { *byte } else { b'?' }).collect()
}

/// A copy of `bytes`, with so many bytes of room before and after it.
///
/// # Safety
/// The room is written before it is read.
unsafe fn copy(before: usize, bytes: &[u8], after: usize) -> *mut u8 {
    // SAFETY: palloc returns as many bytes, aligned for any type, or raises an error.
    unsafe { copy_into(palloc(before + bytes.len() + after).cast(), before, bytes) }
}

/// As [`copy`], where the calling frame owns a destructor.
///
/// # Safety
/// As of [`copy`].
unsafe fn try_copy(before: usize, bytes: &[u8], after: usize) -> Result<*mut u8, OutOfMemory> {
    let size = before + bytes.len() + after;
    if size > SIZE_MAX {
        return Err(OutOfMemory);
    }
    // SAFETY: palloc_extended returns as many bytes, aligned for any type, or NULL.
    unsafe {
        let room = palloc_extended(size, pg_sys::MCXT_ALLOC_NO_OOM as c_int).cast::<u8>();
        if room.is_null() { Err(OutOfMemory) } else { Ok(copy_into(room, before, bytes)) }
    }
}

/// # Safety
/// `room` has at least `before` and as many bytes as `bytes`.
unsafe fn copy_into(room: *mut u8, before: usize, bytes: &[u8]) -> *mut u8 {
    // SAFETY: by the caller's promise.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), room.add(before), bytes.len()) };
    room
}

/// A list of `values`.
///
/// # Safety
/// The list is not used after the current memory context is gone.
pub(super) unsafe fn palloc_list<'a, T: Copy>(values: impl ExactSizeIterator<Item = T>) -> &'a mut [T] {
    // SAFETY: the memory has the size asked for and is aligned for any type. The list has as many values as were written.
    unsafe {
        let length = values.len();
        let start = palloc_extended(length * size_of::<T>(), pg_sys::MCXT_ALLOC_HUGE as c_int).cast::<T>();
        let written = values.take(length).enumerate().map(|(at, value)| start.add(at).write(value)).count();
        std::slice::from_raw_parts_mut(start, written)
    }
}
