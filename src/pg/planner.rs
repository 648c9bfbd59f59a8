//! What the planner asks of the functions that it plans calls of.

use pgrx::pg_sys;

use super::call::{Call, InParallelOperation};
use super::ffi::IsInParallelMode;
use super::session::set_for_transaction;

impl Call<'_> {
    /// Whether the planner asks, of a function's SUPPORT function, to simplify a call, in a statement that may join something with
    /// it. A call in a part that is moved to the level above, with columns of that as arguments, is asked about there too.
    pub fn is_asked_about_join(&self) -> bool {
        // SAFETY: SQL declares the argument as internal, so that PostgreSQL passes it: a node (nodes/supportnodes.h).
        unsafe {
            let Some(request) = self.datum(0) else { return false };
            let request = request.cast_mut_ptr::<pg_sys::SupportRequestSimplify>();
            if (*request).type_ != pg_sys::NodeTag::T_SupportRequestSimplify {
                return false;
            }
            (*request).root.as_ref().is_some_and(|root| {
                // An expression that is planned by itself, as a cast of PL/pgSQL's, has no statement.
                let tables = root.parse.as_ref().and_then(|statement| statement.rtable.as_ref());
                tables.is_some_and(|tables| tables.length > 1) || !root.parent_root.is_null()
            })
        }
    }
}

/// Has statements that are planned from here on to the transaction's end keep no answers of what they call for rows that are
/// alike (Memoize). Refused in a parallel operation, in which no setting can be changed: the plan could be kept for later. The calls
/// themselves are refused there too. An error of PostgreSQL's leaves as a panic.
pub fn call_for_each_row() -> Result<(), InParallelOperation> {
    // SAFETY: reads variables of the backend.
    unsafe {
        if pg_sys::enable_memoize {
            if IsInParallelMode() {
                return Err(InParallelOperation);
            }
            set_for_transaction(c"enable_memoize", c"off");
        }
    }
    Ok(())
}
