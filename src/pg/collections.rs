//! Lists, sets, arrays and JSON in the memory of a call. PostgreSQL frees them, so none has a destructor. Where
//! memory is at its end, 53200 leaves by longjmp.

use std::ffi::{CStr, c_char, c_int};

use pgrx::fcinfo::direct_function_call_as_datum;
use pgrx::pg_sys::{self, Datum};
use pgrx::{PgSqlErrorCode, PgTryBuilder};

use super::call::Call;
use super::datum::{SqlType as _, Text, copy_to_cstring, palloc_list, varlena};
use super::ffi::{construct_array, hash_search};
use super::keyed_hash::keyed_hash;
use super::report::{ERROR_MEMORY, require_memory};
use crate::values::OutOfMemory;

/// A list of `values`.
pub fn list<'call, T: Copy>(_call: &Call<'call>, values: impl ExactSizeIterator<Item = T>) -> &'call mut [T] {
    // SAFETY: the list lives as long as the call.
    unsafe { palloc_list(values) }
}

/// The element types of [`array`].
#[derive(Clone, Copy)]
pub enum ElementType {
    Uuid,
    Bytea,
}

/// A one-dimensional array without NULL.
pub fn array(call: &Call<'_>, elements: impl ExactSizeIterator<Item = Datum>, of: ElementType) -> Datum {
    let (oid, length, align) = match of {
        ElementType::Uuid => (pg_sys::UUIDOID, 16, pg_sys::TYPALIGN_CHAR),
        ElementType::Bytea => (pg_sys::BYTEAOID, -1, pg_sys::TYPALIGN_INT),
    };
    let elements = list(call, elements);
    // SAFETY: length, passing by reference and alignment are those of the type (pg_type.dat).
    unsafe {
        let count = elements.len() as c_int;
        construct_array(elements.as_mut_ptr(), count, oid, length, false, align as c_char).into()
    }
}

/// The jsonb that `json` stands for, which is JSON and ASCII. An error of PostgreSQL's leaves as a panic.
pub fn jsonb(_call: &Call<'_>, json: &str) -> Result<Option<Datum>, OutOfMemory> {
    let argument = Some(Datum::from(copy_to_cstring(json.as_bytes())?));
    // SAFETY: jsonb_in takes a C string.
    Ok(unsafe { direct_function_call_as_datum(pg_sys::jsonb_in, &[argument]) })
}

/// A jsonb as a text. As a value it may be thousands of times smaller: 1e131071 takes 16 bytes.
pub fn jsonb_text<'call>(_call: &Call<'call>, value: Datum) -> &'call [u8] {
    // SAFETY: the callers pass jsonb. The text is a C string in the memory of the call.
    unsafe {
        let text = direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(value)]);
        text.map_or(&[], |text| CStr::from_ptr(text.cast_mut_ptr()).to_bytes())
    }
}

/// The field `name` of a JSON object, as a text; the last one if there are several. `None` if there is none, it is null, or
/// `json` is no JSON: PostgreSQL's error would repeat what is in it.
pub fn json_field<'call>(_call: &Call<'call>, json: &[u8], name: &[u8]) -> Option<&'call [u8]> {
    let arguments = [json, name].map(|text| Some(varlena(text)));
    // SAFETY: the function takes a json, which is stored as text, and a text, and does nothing but read them: there is
    // nothing to roll back after its error. The result lives as long as the call.
    let field =
        PgTryBuilder::new(|| unsafe { direct_function_call_as_datum(pg_sys::json_object_field_text, &arguments) });
    let malformed = [
        PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
        PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER,
        PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
        // Too deep for the stack.
        PgSqlErrorCode::ERRCODE_STATEMENT_TOO_COMPLEX,
    ];
    let field = malformed.into_iter().fold(field, |field, code| field.catch_when(code, |_| None)).execute();
    // SAFETY: the result is a text.
    field.map(|field| unsafe { Text::read(field) })
}

/// Memory for one step of many, such as a row. It is small, and free again after each step. The memory of a call grows, in blocks
/// that double: at its end it is not enough for the error of a guarded call, whatever was there before.
#[derive(Clone, Copy)]
pub struct StepMemory(pg_sys::MemoryContext);

impl StepMemory {
    /// Memory that lives as long as the call.
    pub fn new(_call: &Call<'_>) -> Self {
        let sizes = [pg_sys::ALLOCSET_SMALL_MINSIZE, pg_sys::ALLOCSET_SMALL_INITSIZE, pg_sys::ALLOCSET_SMALL_MAXSIZE]
            .map(|size| size as usize);
        // SAFETY: a context that is part of the call's.
        unsafe {
            let parent = pg_sys::CurrentMemoryContext;
            Self(pg_sys::AllocSetContextCreateInternal(
                parent,
                c"temptoken step".as_ptr(),
                sizes[0],
                sizes[1],
                sizes[2],
            ))
        }
    }

    /// Runs one step. What it returns is not in the memory.
    pub fn step<R>(self, step: impl FnOnce() -> R) -> R {
        require_memory(ERROR_MEMORY);
        // SAFETY: the context lives. An error sets the current context by itself.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = step();
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(self.0);
            result
        }
    }
}

/// A set of keys. They are kept as keyed hashes: whoever chooses keys cannot choose where PostgreSQL's hash table puts them, and so
/// have all in one place.
pub struct Set(*mut pg_sys::HTAB);

impl Set {
    /// An empty set.
    pub fn new(_call: &Call<'_>) -> Self {
        const LENGTH: usize = 32;
        let flags = pg_sys::HASH_ELEM | pg_sys::HASH_BLOBS | pg_sys::HASH_CONTEXT;
        // SAFETY: the table is made in the memory context of the call.
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

    /// Adds `key`. Returns whether it is new.
    pub fn insert(&mut self, key: &[u8]) -> bool {
        let (hash, mut found) = (keyed_hash(&[key]), false);
        // SAFETY: the hash has the length of the table's keys. The table copies it as its entry.
        unsafe { hash_search(self.0, hash.as_ptr().cast(), pg_sys::HASHACTION::HASH_ENTER, &mut found) };
        !found
    }
}
