//! Calls of trigger functions.

use std::ffi::CStr;

use pgrx::fcinfo::direct_function_call;
use pgrx::pg_sys::{self, Oid};

use super::call::Call;
use super::datum::varlena;
use super::ffi;
use super::relation::{of_catalog, oids};

/// A call as an AFTER ROW trigger of DELETE or UPDATE.
pub struct Trigger<'call> {
    data: &'call pg_sys::TriggerData,
    function: Oid,
}

/// The value of a column, as a text that no setting changes.
pub enum ColumnText<'call> {
    /// The column does not exist, is virtual, or its type has no such text.
    Unfit,
    Null,
    Value(&'call [u8]),
}

impl<'call> Call<'call> {
    /// `None` if the function is not called as a trigger.
    fn trigger_data(&self) -> Option<&'call pg_sys::TriggerData> {
        // SAFETY: the context of a trigger call is a TriggerData (commands/trigger.h, CALLED_AS_TRIGGER), which outlives it.
        unsafe {
            let context = self.context();
            (!context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData)
                .then(|| &*context.cast::<pg_sys::TriggerData>())
        }
    }

    /// Queues a relcache invalidation of the trigger's table: other sessions see it when this transaction commits, this one
    /// after the current command, and again if it rolls back. Standbys replay it. Does nothing if the function is not called
    /// as a trigger.
    pub fn invalidate_trigger_table(&self) {
        if let Some(data) = self.trigger_data() {
            // SAFETY: the relation of a running trigger is open.
            unsafe { pg_sys::CacheInvalidateRelcache(data.tg_relation) }
        }
    }

    /// `None` if the function is called otherwise than as an AFTER ROW trigger of DELETE or UPDATE.
    pub fn trigger(&self) -> Option<Trigger<'call>> {
        let data = self.trigger_data()?;
        let event = data.tg_event;
        let operation = event & pg_sys::TRIGGER_EVENT_OPMASK;
        let fits = event & pg_sys::TRIGGER_EVENT_ROW != 0
            && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER
            && (operation == pg_sys::TRIGGER_EVENT_DELETE || operation == pg_sys::TRIGGER_EVENT_UPDATE);
        fits.then_some(Trigger { data, function: self.function() })
    }
}

impl<'call> Trigger<'call> {
    /// Whether the owner of the trigger's table may execute the function. PostgreSQL asks that of whoever creates a trigger, and
    /// never again. A partition has copies of its parents' triggers, so that their owners need it too.
    pub fn is_owner_allowed(&self) -> bool {
        // SAFETY: the relation is open. The arguments are of the types of has_function_privilege(oid, oid, text).
        unsafe {
            let may_execute = |owner: Oid| {
                let arguments = [Some(owner.into()), Some(self.function.into()), Some(varlena(b"EXECUTE"))];
                direct_function_call(pg_sys::has_function_privilege_id_id, &arguments) == Some(true)
            };
            let table = &*self.data.tg_relation;
            let of_parent = |parent: Oid| {
                let owner = |row: &pg_sys::FormData_pg_class| row.relowner;
                of_catalog(pg_sys::SysCacheIdentifier::RELOID, parent, owner).is_some_and(may_execute)
            };
            may_execute((*table.rd_rel).relowner)
                && (!(*table.rd_rel).relispartition || oids(ffi::get_partition_ancestors(table.rd_id)).all(of_parent))
        }
    }

    /// The arguments that CREATE TRIGGER gave, if there are two.
    pub fn two_arguments(&self) -> Option<(&'call CStr, &'call CStr)> {
        // SAFETY: a trigger has tgnargs arguments, which are C strings.
        unsafe {
            let trigger = &*self.data.tg_trigger;
            let argument = |at| CStr::from_ptr(*trigger.tgargs.add(at));
            (trigger.tgnargs == 2).then(|| (argument(0), argument(1)))
        }
    }

    /// The value of `column` in the old row.
    pub fn old_value(&self, column: &CStr) -> ColumnText<'call> {
        use pg_sys::{INT2OID, INT4OID, INT8OID, TEXTOID, UUIDOID, VARCHAROID};
        // SAFETY: the tuple is one of the relation, which is open. These functions of SPI need no connection.
        unsafe {
            let description = (*self.data.tg_relation).rd_att;
            let number = pg_sys::SPI_fnumber(description, column.as_ptr());
            // A virtual generated column is computed when it is read, and has no value in the row.
            let is_virtual =
                || pg_sys::get_attgenerated((*self.data.tg_relation).rd_id, number as pg_sys::AttrNumber) as u8 == b'v';
            let fits = number > 0
                && [TEXTOID, VARCHAROID, UUIDOID, INT2OID, INT4OID, INT8OID]
                    .contains(&pg_sys::SPI_gettypeid(description, number))
                && !is_virtual();
            if !fits {
                return ColumnText::Unfit;
            }
            let value = pg_sys::SPI_getvalue(self.data.tg_trigtuple, description, number);
            if value.is_null() { ColumnText::Null } else { ColumnText::Value(CStr::from_ptr(value).to_bytes()) }
        }
    }
}
