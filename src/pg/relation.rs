//! Tables and rows of catalogs: found, described, and watched for changes.

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::OnceLock;

use pgrx::pg_sys::{self, Datum, Oid};

use super::ffi;

/// The table was dropped, or is not the one any more that the caller takes it for.
#[derive(Clone, Copy, Debug)]
pub struct TableChanged;

/// Opens a table, which is closed again, or at the latest at the end of the transaction.
///
/// # Safety
/// Within a transaction.
pub(super) unsafe fn open(relation: Oid, lock: pg_sys::LOCKMODE) -> Result<pg_sys::Relation, TableChanged> {
    // SAFETY: by the caller's promise.
    let table = unsafe { pg_sys::try_relation_open(relation, lock) };
    if table.is_null() { Err(TableChanged) } else { Ok(table) }
}

/// What `ask` answers about table `relation`, which is open and locked for reading meanwhile.
pub(super) fn of_table<R>(relation: Oid, ask: impl FnOnce(pg_sys::Relation) -> R) -> Result<R, TableChanged> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: within a transaction, as every call from SQL and from a worker is.
    unsafe {
        let table = open(relation, lock)?;
        let answer = ask(table);
        pg_sys::relation_close(table, lock);
        Ok(answer)
    }
}

/// What `ask` answers about the row `key` of a catalog. `None` if there is none.
///
/// # Safety
/// Within a transaction. The cache has rows of type `Row`, found by one oid. An error leaves by longjmp.
pub(super) unsafe fn of_catalog<Row, R>(
    cache: pg_sys::SysCacheIdentifier::Type,
    key: Oid,
    ask: impl FnOnce(&Row) -> R,
) -> Option<R> {
    // SAFETY: by the caller's promise. The cached row is held while it is read.
    unsafe {
        let tuple = ffi::SearchSysCache1(cache as c_int, key.into());
        if tuple.is_null() {
            return None;
        }
        let answer = ask(&*pg_sys::GETSTRUCT(tuple).cast());
        ffi::ReleaseSysCache(tuple);
        Some(answer)
    }
}

/// The table `name` in `schema`. Names are taken as they are, without a search path.
pub fn table_oid(schema: &CStr, name: &CStr) -> Option<Oid> {
    // SAFETY: catalog lookups by name.
    unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if namespace == pg_sys::InvalidOid {
            return None;
        }
        Some(pg_sys::get_relname_relid(name.as_ptr(), namespace)).filter(|oid| *oid != pg_sys::InvalidOid)
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

/// Whether `relation` is a table, perhaps a partitioned one, whose first columns have these names and types.
pub fn starts_with_columns(relation: Oid, names: &[&CStr], types: &[Oid]) -> Result<bool, TableChanged> {
    // SAFETY: the description has natts attributes. A dropped column has no type.
    of_table(relation, |table| unsafe {
        let description = (*table).rd_att;
        let is_called = |number, name: &CStr| {
            let found = pg_sys::SPI_fname(description, number);
            !found.is_null() && CStr::from_ptr(found) == name
        };
        [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&((*(*table).rd_rel).relkind as u8))
            && (*description).natts as usize >= types.len()
            && (1..).zip(types).all(|(number, of)| pg_sys::SPI_gettypeid(description, number) == *of)
            && (1..).zip(names).all(|(number, name)| is_called(number, name))
    })
}

/// Where the rows of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// In the table, in PostgreSQL's usual way.
    Here,
    /// In its partitions, or in the table in the way of another table access method.
    Elsewhere,
    /// In shards on other servers, by Citus. The table itself is empty.
    InShards,
}

/// Where the rows of table `relation` are. Takes no lock on it.
pub fn rows_of(relation: Oid) -> Rows {
    let is_heap = |class: &pg_sys::FormData_pg_class| {
        class.relkind as u8 == pg_sys::RELKIND_RELATION && class.relam == pg_sys::HEAP_TABLE_AM_OID
    };
    // SAFETY: within a transaction.
    let is_heap = unsafe { of_catalog(pg_sys::SysCacheIdentifier::RELOID, relation, is_heap) };
    match is_heap {
        _ if is_distributed(relation) => Rows::InShards,
        Some(true) => Rows::Here,
        _ => Rows::Elsewhere,
    }
}

/// Whether Citus has distributed table `relation`: it lists the tables that it has in a catalog of its own, whose first
/// column is the table's oid.
fn is_distributed(relation: Oid) -> bool {
    const LOGICALRELID: pg_sys::AttrNumber = 1;
    // SAFETY: within a transaction. Nobody but a superuser can make a table in pg_catalog.
    unsafe {
        let catalog = pg_sys::get_relname_relid(c"pg_dist_partition".as_ptr(), pg_sys::PG_CATALOG_NAMESPACE.into());
        if catalog == pg_sys::InvalidOid {
            return false;
        }
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let strategy = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(&mut key, LOGICALRELID, strategy, pg_sys::F_OIDEQ.into(), relation.into());
        let table = pg_sys::table_open(catalog, lock);
        let scan = pg_sys::systable_beginscan(table, pg_sys::InvalidOid, false, ptr::null_mut(), 1, &mut key);
        let is_listed = !pg_sys::systable_getnext(scan).is_null();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(table, lock);
        is_listed
    }
}

/// Whether table `relation` has a trigger of this name, in C, that fires for each row that is inserted, updated or deleted, and
/// is enabled ALWAYS, so that it fires for replicated rows too.
pub fn has_trigger_enabled_always(relation: Oid, name: &CStr) -> Result<bool, TableChanged> {
    /// The language c (catalog/pg_language.dat).
    const LANGUAGE_C: u32 = 13;
    const EVENTS: i32 = (pg_sys::TRIGGER_TYPE_ROW
        | pg_sys::TRIGGER_TYPE_INSERT
        | pg_sys::TRIGGER_TYPE_DELETE
        | pg_sys::TRIGGER_TYPE_UPDATE) as i32;
    let is_in_c = |function: &pg_sys::FormData_pg_proc| function.prolang.to_u32() == LANGUAGE_C;
    // SAFETY: the names of triggers are C strings.
    of_table(relation, |table| unsafe {
        let fires = |trigger: &pg_sys::Trigger| {
            CStr::from_ptr(trigger.tgname) == name
                && trigger.tgenabled as u8 == pg_sys::TRIGGER_FIRES_ALWAYS
                && i32::from(trigger.tgtype) & EVENTS == EVENTS
                && trigger.tgqual.is_null()
                && trigger.tgnattr == 0
                && of_catalog(pg_sys::SysCacheIdentifier::PROCOID, trigger.tgfoid, is_in_c) == Some(true)
        };
        triggers(table).iter().any(fires)
    })
}

/// Whether writing to table `relation` may set off code of others than its owner: it is a partition, a foreign key leads to or
/// from it or a partition or child table of it, or one of these, or the function of a trigger on one, has another owner. They are
/// locked for writing until the transaction ends.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
pub(super) unsafe fn reaches_others(relation: Oid) -> bool {
    // A foreign key has triggers of its own on both tables. Who attached another one is not known.
    let leads_on = |trigger: &pg_sys::Trigger, owner: Oid| {
        let owner_of = |function: &pg_sys::FormData_pg_proc| function.proowner;
        // SAFETY: within a transaction.
        trigger.tgisinternal
            || unsafe { of_catalog(pg_sys::SysCacheIdentifier::PROCOID, trigger.tgfoid, owner_of) } != Some(owner)
    };
    // SAFETY: by the caller's promise. The tables are open while they are asked.
    unsafe {
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        let describe = |table: pg_sys::Relation| {
            let class = *(*table).rd_rel;
            (class, triggers(table).iter().any(|trigger| leads_on(trigger, class.relowner)))
        };
        let Ok((class, leads)) = of_table(relation, describe) else { return false };
        let leads_away =
            |child| of_table(child, describe).is_ok_and(|(of, leads)| of.relowner != class.relowner || leads);
        leads || class.relispartition || class.relhassubclass && lock_with_children(relation, lock).any(leads_away)
    }
}

/// Whether a partition or child table of table `relation`, or a table that it is a partition of, belongs to an ordinary role other
/// than the owner. Code on these runs when a statement that reads `relation` is planned. None of them is locked.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
pub(super) unsafe fn has_relative_of_another(relation: Oid) -> bool {
    let class = |class: &pg_sys::FormData_pg_class| (class.relowner, class.relhassubclass, class.relispartition);
    // SAFETY: by the caller's promise.
    unsafe {
        let describe = |table| of_catalog(pg_sys::SysCacheIdentifier::RELOID, table, class);
        let Some((owner, has_children, is_partition)) = describe(relation) else { return false };
        let is_of_another = |table| describe(table).is_some_and(|(by, ..)| by != owner && !pg_sys::superuser_arg(by));
        let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        has_children && oids(ffi::find_all_inheritors(relation, no_lock, ptr::null_mut())).any(is_of_another)
            || is_partition && oids(ffi::get_partition_ancestors(relation)).any(is_of_another)
    }
}

/// Locks table `relation`, its partitions and its child tables, which it returns. While one of the locks is waited for, others may
/// come: they are looked for until there are none.
///
/// # Safety
/// Within a transaction. An error leaves by longjmp.
pub(super) unsafe fn lock_with_children(relation: Oid, lock: pg_sys::LOCKMODE) -> impl Iterator<Item = Oid> {
    // SAFETY: by the caller's promise. Lists of oids can be compared.
    unsafe {
        let mut locked: *mut pg_sys::List = ptr::null_mut();
        loop {
            let found = ffi::find_all_inheritors(relation, lock, ptr::null_mut());
            if pg_sys::equal(found.cast(), locked.cast()) {
                return oids(found);
            }
            locked = found;
        }
    }
}

/// The oids of a list.
///
/// # Safety
/// `list` is a list of oids, or NULL for the empty one.
pub(super) unsafe fn oids(list: *mut pg_sys::List) -> impl Iterator<Item = Oid> {
    // SAFETY: by the caller's promise.
    unsafe {
        let count = list.as_ref().map_or(0, |list| list.length as usize);
        (0..count).map(move |at| (*(*list).elements.add(at)).oid_value)
    }
}

/// A copy, in the current memory context. The table's own description of its triggers can end at each look into a catalog, when
/// another session has changed what the table is granted or how it is estimated.
///
/// # Safety
/// The table is open.
unsafe fn triggers<'a>(table: pg_sys::Relation) -> &'a [pg_sys::Trigger] {
    // SAFETY: there are as many triggers as numtriggers says.
    unsafe {
        pg_sys::CopyTriggerDesc((*table).trigdesc)
            .as_ref()
            .map_or(&[], |triggers| std::slice::from_raw_parts(triggers.triggers, triggers.numtriggers as usize))
    }
}

/// Processes pending invalidations, as taking a lock does.
pub fn accept_invalidations() {
    // SAFETY: within a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}

/// What is called when the description of a table may have ended.
static ON_INVALIDATION: OnceLock<fn(Oid)> = OnceLock::new();

/// Has `call` called with the oid of every table whose relcache entry ends, and with InvalidOid when that may be any table
/// or a schema has changed. `call` raises no error and calls nothing of PostgreSQL's. Call this once a process.
pub fn on_invalidation(call: fn(Oid)) {
    if ON_INVALIDATION.set(call).is_ok() {
        // SAFETY: the callbacks are static functions.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_ended), Datum::from(0));
            let cache = pg_sys::SysCacheIdentifier::NAMESPACEOID as c_int;
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(schema_changed), Datum::from(0));
        }
    }
}

unsafe extern "C-unwind" fn relation_ended(_argument: Datum, relation: Oid) {
    ON_INVALIDATION.get().inspect(|call| call(relation));
}

unsafe extern "C-unwind" fn schema_changed(_argument: Datum, _cache: c_int, _hash: u32) {
    ON_INVALIDATION.get().inspect(|call| call(pg_sys::InvalidOid));
}
