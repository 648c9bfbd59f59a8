//! Identity: the token that `temptoken_authenticate` has bound to this transaction.
//!
//! Lives here: the binding, and when it ends. May not come in here: how a token is judged.
//!
//! It is kept in the memory of this process, and nowhere that SQL can write to. It ends with the transaction, and with
//! the savepoint in which it was bound when that is rolled back.

use std::cell::RefCell;

use crate::pg::{self, End, Savepoint};
use crate::token::TokenId;
use crate::values::OutOfMemory;

/// Who has presented a token in this transaction.
pub struct Identity {
    pub id: TokenId,
    pub scope: Box<[u8]>,
    pub resource_id: Box<[u8]>,
    /// A jsonb varlena.
    pub metadata: Option<Box<[u8]>>,
}

thread_local! {
    /// One entry for each savepoint in which a token was bound, innermost last. The last one is current.
    static BOUND: RefCell<Vec<(Savepoint, Identity)>> = const { RefCell::new(Vec::new()) };
}

/// Has bindings end with transactions and savepoints. Call this once a process.
pub fn watch() {
    pg::on_end(end);
}

/// Binds `identity` to the transaction, and replaces what was bound before.
pub fn bind(identity: Identity) -> Result<(), OutOfMemory> {
    let level = pg::savepoint();
    BOUND.with_borrow_mut(|bound| {
        // There may be as many as savepoints.
        bound.try_reserve(1).map_err(|_| OutOfMemory)?;
        if bound.last().is_some_and(|(last, _)| *last == level) {
            bound.pop();
        }
        bound.push((level, identity));
        Ok(())
    })
}

/// What `ask` answers about the bound identity. `None` if there is none.
pub fn current<R>(ask: impl FnOnce(&Identity) -> R) -> Option<R> {
    BOUND.with_borrow(|bound| bound.last().map(|(_, identity)| ask(identity)))
}

/// The innermost savepoint ends first, so only the last entry can be of the one that ends.
fn end(of: End) {
    BOUND.with_borrow_mut(|bound| match of {
        End::Transaction => bound.clear(),
        End::RolledBack(savepoint) => _ = bound.pop_if(|(level, _)| *level == savepoint),
        End::Released { savepoint, parent } => {
            if let Some((_, identity)) = bound.pop_if(|(level, _)| *level == savepoint) {
                // What was bound inside replaces what the parent had.
                bound.pop_if(|(level, _)| *level == parent);
                bound.push((parent, identity));
            }
        }
    });
}
