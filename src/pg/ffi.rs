//! Functions of the server that are declared anew, because pgrx's own declarations do not serve.
//!
//! Three reasons. pgrx guards every call, which costs as much as some of these functions do. When the guard catches an
//! error it copies it: without memory the copy fails, and PostgreSQL gives up with a PANIC. And the guard raises errors
//! anew from a closed list of SQLSTATEs, so that the error of a user's trigger would reach the client as XX000.
//!
//! Errors of these functions leave by longjmp: see the rule in the header of `pg`. Only `pg` imports this file.

use std::ffi::{c_char, c_int, c_long, c_void};

use pgrx::pg_sys::{self, Datum, Oid};

/// Declares functions, and has the compiler compare each signature with that of pgrx's binding for this major.
macro_rules! declare {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        unsafe extern "C-unwind" {
            $($(#[$attribute])* pub fn $name($($argument: $type),*) $(-> $result)?;)*
        }
        $($(#[$attribute])* const _: unsafe fn($($type),*) $(-> $result)? = pg_sys::$name;)*
    };
}

/// Arguments that are only read, as each major declares them.
#[cfg(any(feature = "pg15", feature = "pg16"))]
type In<T> = *mut T;
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
type In<T> = *const T;
#[cfg(feature = "pg15")]
type Bytes = c_char;
#[cfg(not(feature = "pg15"))]
type Bytes = c_void;

declare! {
    // Memory and values
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
    fn appendBinaryStringInfo(text: pg_sys::StringInfo, bytes: *const Bytes, length: c_int);
    fn tuplestore_putvalues(
        store: *mut pg_sys::Tuplestorestate,
        description: pg_sys::TupleDesc,
        values: In<Datum>,
        nulls: In<bool>,
    );
    fn hash_search(
        table: *mut pg_sys::HTAB,
        key: *const c_void,
        action: pg_sys::HASHACTION::Type,
        found: *mut bool,
    ) -> *mut c_void;

    // Rows
    fn heap_copytuple(tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple;
    fn heap_form_tuple(description: pg_sys::TupleDesc, values: In<Datum>, nulls: In<bool>) -> pg_sys::HeapTuple;
    fn heap_deform_tuple(
        tuple: pg_sys::HeapTuple,
        description: pg_sys::TupleDesc,
        values: *mut Datum,
        nulls: *mut bool,
    );
    fn HeapTupleHeaderGetDatum(tuple: pg_sys::HeapTupleHeader) -> Datum;

    // The lookup
    fn LockRelationOid(relation: Oid, lock: pg_sys::LOCKMODE);
    fn UnlockRelationOid(relation: Oid, lock: pg_sys::LOCKMODE);
    fn relation_open(relation: Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
    fn relation_close(relation: pg_sys::Relation, lock: pg_sys::LOCKMODE);
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
        keys: c_int,
        key: pg_sys::ScanKey,
    ) -> pg_sys::SysScanDesc;
    fn systable_getnext(scan: pg_sys::SysScanDesc) -> pg_sys::HeapTuple;
    fn systable_endscan(scan: pg_sys::SysScanDesc);
    fn index_open(index: Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
    fn index_close(index: pg_sys::Relation, lock: pg_sys::LOCKMODE);
    fn index_rescan(
        scan: pg_sys::IndexScanDesc,
        key: pg_sys::ScanKey,
        keys: c_int,
        order_by: pg_sys::ScanKey,
        order_bys: c_int,
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

    // The walk
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

    // Statements
    fn SPI_execute_snapshot(
        plan: pg_sys::SPIPlanPtr,
        values: *mut Datum,
        nulls: *const c_char,
        snapshot: pg_sys::Snapshot,
        crosscheck_snapshot: pg_sys::Snapshot,
        read_only: bool,
        fire_triggers: bool,
        row_limit: c_long,
    ) -> c_int;

    // The clock, which raises no error
    fn GetCurrentTimestamp() -> pg_sys::TimestampTz;

    // Signal handlers. pgrx's bindings are Rust functions, which PostgreSQL cannot call.
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
}

// pgrx has no binding for these to compare with, or it takes any number of arguments. They are the same from 15 to 18.
unsafe extern "C-unwind" {
    // access/heaptoast.h
    pub fn toast_flatten_tuple(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) -> pg_sys::HeapTuple;
    // What ereport() calls, utils/elog.h
    pub fn errstart(level: c_int, domain: *const c_char) -> bool;
    pub fn errcode(sqlstate: c_int) -> c_int;
    pub fn errmsg_internal(format: *const c_char, ...) -> c_int;
    pub fn errdetail_internal(format: *const c_char, ...) -> c_int;
    pub fn errhint(format: *const c_char, ...) -> c_int;
    pub fn errhidestmt(hide: bool) -> c_int;
    pub fn errhidecontext(hide: bool) -> c_int;
    pub fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

pub use of_major::{begin_index_scan, pqsignal, primary_key};

/// What differs between majors.
#[cfg(not(feature = "pg18"))]
mod of_major {
    use super::{Oid, c_int, pg_sys};

    pub use pg_sys::pqsignal;

    declare! {
        fn RelationGetPrimaryKeyIndex(table: pg_sys::Relation) -> Oid;
        fn index_beginscan(
            table: pg_sys::Relation,
            index: pg_sys::Relation,
            snapshot: pg_sys::Snapshot,
            keys: c_int,
            order_bys: c_int,
        ) -> pg_sys::IndexScanDesc;
    }

    /// The index of the primary key, or InvalidOid.
    pub unsafe fn primary_key(table: pg_sys::Relation) -> Oid {
        // SAFETY: the caller has opened the table.
        unsafe { RelationGetPrimaryKeyIndex(table) }
    }

    /// Begins a scan of `table` by `index`.
    pub unsafe fn begin_index_scan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        keys: c_int,
    ) -> pg_sys::IndexScanDesc {
        // SAFETY: the caller has opened both.
        unsafe { index_beginscan(table, index, snapshot, keys, 0) }
    }
}

#[cfg(feature = "pg18")]
mod of_major {
    use super::{Oid, c_int, pg_sys};

    pub use pg_sys::pqsignal_be as pqsignal;

    declare! {
        fn RelationGetPrimaryKeyIndex(table: pg_sys::Relation, deferrable_too: bool) -> Oid;
        fn index_beginscan(
            table: pg_sys::Relation,
            index: pg_sys::Relation,
            snapshot: pg_sys::Snapshot,
            instrument: *mut pg_sys::IndexScanInstrumentation,
            keys: c_int,
            order_bys: c_int,
        ) -> pg_sys::IndexScanDesc;
    }

    /// The index of the primary key, or InvalidOid.
    pub unsafe fn primary_key(table: pg_sys::Relation) -> Oid {
        // SAFETY: the caller has opened the table.
        unsafe { RelationGetPrimaryKeyIndex(table, false) }
    }

    /// Begins a scan of `table` by `index`.
    pub unsafe fn begin_index_scan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        keys: c_int,
    ) -> pg_sys::IndexScanDesc {
        // SAFETY: the caller has opened both.
        unsafe { index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0) }
    }
}
