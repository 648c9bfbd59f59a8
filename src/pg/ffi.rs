//! Functions of the server that are declared anew, because pgrx's own declarations do not serve.
//!
//! Three reasons. pgrx guards every call, which costs as much as some of these functions do. When the guard catches an
//! error it copies it: without memory the copy fails, and PostgreSQL gives up with a PANIC. And the guard raises errors
//! anew from a closed list of SQLSTATEs, so that the error of a user's trigger would reach the client as XX000.
//!
//! Errors of these functions leave by longjmp: see the rule in the header of `pg`. Only `pg` imports this file.

use std::ffi::{c_char, c_int, c_long, c_void};

use pgrx::pg_sys::{self, *};

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

declare! {
    // Memory and values
    fn palloc(size: usize) -> *mut c_void;
    fn palloc_extended(size: usize, flags: c_int) -> *mut c_void;
    fn pg_detoast_datum(value: *mut varlena) -> *mut varlena;
    fn pg_detoast_datum_packed(value: *mut varlena) -> *mut varlena;
    fn deconstruct_array(array: *mut ArrayType, element: Oid, length: c_int, by_value: bool, align: c_char,
        values: *mut *mut Datum, nulls: *mut *mut bool, count: *mut c_int);
    fn construct_array(elements: *mut Datum, count: c_int, element: Oid, length: c_int, by_value: bool,
        align: c_char) -> *mut ArrayType;
    fn tuplestore_putvalues(store: *mut Tuplestorestate, description: TupleDesc, values: In<Datum>, nulls: In<bool>);
    fn hash_search(table: *mut HTAB, key: *const c_void, action: HASHACTION::Type, found: *mut bool) -> *mut c_void;

    // Rows
    fn heap_copytuple(tuple: HeapTuple) -> HeapTuple;
    fn heap_form_tuple(description: TupleDesc, values: In<Datum>, nulls: In<bool>) -> HeapTuple;
    fn heap_deform_tuple(tuple: HeapTuple, description: TupleDesc, values: *mut Datum, nulls: *mut bool);
    fn HeapTupleHeaderGetDatum(tuple: HeapTupleHeader) -> Datum;

    // Calls
    fn IsInParallelMode() -> bool;

    // The lookup
    fn LockRelationOid(relation: Oid, lock: LOCKMODE);
    fn UnlockRelationOid(relation: Oid, lock: LOCKMODE);
    fn relation_open(relation: Oid, lock: LOCKMODE) -> Relation;
    fn relation_close(relation: Relation, lock: LOCKMODE);
    fn GetLatestSnapshot() -> Snapshot;
    fn RegisterSnapshot(snapshot: Snapshot) -> Snapshot;
    fn UnregisterSnapshot(snapshot: Snapshot);
    fn ScanKeyInit(entry: ScanKey, attribute: AttrNumber, strategy: StrategyNumber, procedure: RegProcedure,
        argument: Datum);
    fn systable_beginscan(table: Relation, index: Oid, use_index: bool, snapshot: Snapshot, keys: c_int,
        key: ScanKey) -> SysScanDesc;
    fn systable_getnext(scan: SysScanDesc) -> HeapTuple;
    fn systable_endscan(scan: SysScanDesc);
    fn index_open(index: Oid, lock: LOCKMODE) -> Relation;
    fn index_close(index: Relation, lock: LOCKMODE);
    fn index_rescan(scan: IndexScanDesc, key: ScanKey, keys: c_int, order_by: ScanKey, order_bys: c_int);
    fn index_getnext_slot(scan: IndexScanDesc, direction: ScanDirection::Type, slot: *mut TupleTableSlot) -> bool;
    fn index_getnext_tid(scan: IndexScanDesc, direction: ScanDirection::Type) -> ItemPointer;
    fn index_fetch_heap(scan: IndexScanDesc, slot: *mut TupleTableSlot) -> bool;
    fn nocache_index_getattr(tuple: IndexTuple, number: c_int, description: TupleDesc) -> Datum;
    fn index_endscan(scan: IndexScanDesc);
    fn table_slot_create(table: Relation, registered: *mut *mut List) -> *mut TupleTableSlot;
    fn ExecFetchSlotHeapTuple(slot: *mut TupleTableSlot, materialize: bool, should_free: *mut bool) -> HeapTuple;
    fn ExecDropSingleTupleTableSlot(slot: *mut TupleTableSlot);

    // The walk
    fn GetCurrentCommandId(used: bool) -> CommandId;
    fn heap_delete(relation: Relation, tid: ItemPointer, cid: CommandId, crosscheck: Snapshot, wait: bool,
        failure: *mut TM_FailureData, changing_partition: bool) -> TM_Result::Type;

    // Statements
    fn SPI_execute_snapshot(plan: SPIPlanPtr, values: *mut Datum, nulls: *const c_char, snapshot: Snapshot,
        crosscheck_snapshot: Snapshot, read_only: bool, fire_triggers: bool, row_limit: c_long) -> c_int;

    // What hooks call. An error there must not become a panic, which C does not expect.
    fn extract_query_dependencies(query: *mut Node, tables: *mut *mut List, others: *mut *mut List,
        has_row_security: *mut bool);
    fn SearchSysCache1(cache: c_int, key: Datum) -> HeapTuple;
    fn ReleaseSysCache(tuple: HeapTuple);

    // Raises an error that many callers see. pgrx's copy of it would leave some bytes on the heap each time.
    fn PreventCommandIfReadOnly(command: *const c_char);

    // The clock, which raises no error
    fn GetCurrentTimestamp() -> TimestampTz;

    // Signal handlers. pgrx's bindings are Rust functions, which PostgreSQL cannot call.
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
}

// pgrx has no binding for these to compare with, or it takes any number of arguments. They are the same from 15 to 18.
unsafe extern "C-unwind" {
    // access/heaptoast.h
    pub fn toast_flatten_tuple(tuple: HeapTuple, description: TupleDesc) -> HeapTuple;
    // catalog/partition.h
    pub fn get_partition_ancestors(table: Oid) -> *mut List;
    // catalog/pg_inherits.h
    pub fn find_all_inheritors(table: Oid, lock: LOCKMODE, parents: *mut *mut List) -> *mut List;
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
    use super::*;

    pub use pg_sys::pqsignal;

    declare! {
        fn RelationGetPrimaryKeyIndex(table: Relation) -> Oid;
        fn index_beginscan(table: Relation, index: Relation, snapshot: Snapshot, keys: c_int,
            order_bys: c_int) -> IndexScanDesc;
    }

    /// The index of the primary key, or InvalidOid.
    pub unsafe fn primary_key(table: Relation) -> Oid {
        // SAFETY: the caller has opened the table.
        unsafe { RelationGetPrimaryKeyIndex(table) }
    }

    /// Begins a scan of `table` by `index`.
    pub unsafe fn begin_index_scan(table: Relation, index: Relation, snapshot: Snapshot, keys: c_int) -> IndexScanDesc {
        // SAFETY: the caller has opened both.
        unsafe { index_beginscan(table, index, snapshot, keys, 0) }
    }
}

#[cfg(feature = "pg18")]
mod of_major {
    use super::*;

    pub use pg_sys::pqsignal_be as pqsignal;

    declare! {
        fn RelationGetPrimaryKeyIndex(table: Relation, deferrable_too: bool) -> Oid;
        fn index_beginscan(table: Relation, index: Relation, snapshot: Snapshot,
            instrument: *mut IndexScanInstrumentation, keys: c_int, order_bys: c_int) -> IndexScanDesc;
    }

    /// The index of the primary key, or InvalidOid.
    pub unsafe fn primary_key(table: Relation) -> Oid {
        // SAFETY: the caller has opened the table.
        unsafe { RelationGetPrimaryKeyIndex(table, false) }
    }

    /// Begins a scan of `table` by `index`.
    pub unsafe fn begin_index_scan(table: Relation, index: Relation, snapshot: Snapshot, keys: c_int) -> IndexScanDesc {
        // SAFETY: the caller has opened both.
        unsafe { index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0) }
    }
}
