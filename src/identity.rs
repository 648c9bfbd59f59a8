//! Identity: the token that `temptoken_authenticate` has bound to this transaction.
//!
//! Lives here: the binding, and when it ends. May not come in here: how a token is judged.
//!
//! It is kept in the memory of this process, and nowhere that SQL can write to. It ends with the transaction, and with
//! the savepoint in which it was bound when that is rolled back.

use std::cell::RefCell;

use pgrx::pg_sys::{self, SubTransactionId};

use crate::pg;
use crate::token::TokenId;

/// Who has presented a token in this transaction.
pub struct Identity {
    pub id: TokenId,
    pub scope: Box<[u8]>,
    pub resource_id: Box<[u8]>,
    /// A jsonb varlena.
    pub metadata: Option<Box<[u8]>>,
}

thread_local! {
    /// One entry for each level of savepoints in which something was bound, innermost last: that one is current.
    static BOUND: RefCell<Vec<(SubTransactionId, Identity)>> = const { RefCell::new(Vec::new()) };
}

/// Has bindings end when they must, once a process.
pub fn watch() {
    pg::on_transaction_event(transaction_event, subtransaction_event);
}

/// Binds `identity` to the transaction, in the place of what was bound before.
pub fn bind(identity: Identity) {
    let level = pg::subtransaction_id();
    BOUND.with_borrow_mut(|bound| {
        if bound.last().is_some_and(|(last, _)| *last == level) {
            bound.pop();
        }
        bound.push((level, identity));
    });
}

/// What `ask` makes of the identity that is bound. `None` when none is.
pub fn current<R>(ask: impl FnOnce(&Identity) -> R) -> Option<R> {
    BOUND.with_borrow(|bound| bound.last().map(|(_, identity)| ask(identity)))
}

unsafe extern "C-unwind" fn transaction_event(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    if matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PARALLEL_PRE_COMMIT | XACT_EVENT_PRE_PREPARE) {
        return;
    }
    BOUND.with_borrow_mut(Vec::clear);
}

unsafe extern "C-unwind" fn subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    ended: SubTransactionId,
    parent: SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::*;
    BOUND.with_borrow_mut(|bound| match event {
        SUBXACT_EVENT_ABORT_SUB => bound.retain(|(level, _)| *level != ended),
        // What was bound inside takes the place of what the parent had.
        SUBXACT_EVENT_COMMIT_SUB if bound.iter().any(|(level, _)| *level == ended) => {
            bound.retain(|(level, _)| *level != parent);
            bound.iter_mut().filter(|(level, _)| *level == ended).for_each(|(level, _)| *level = parent);
        }
        _ => {}
    });
}
