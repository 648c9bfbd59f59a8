//! Counters: how often validation has answered what, and what was minted and spent, for each scope, since the server
//! started. A transaction that is rolled back is counted too.
//!
//! Lives here: an array in shared memory, where the library is preloaded. Backends add to it without a lock. May not come
//! in here: names. A scope has the slot that a hash of database and scope leads to, so that the size is fixed; scopes that
//! find no slot are not counted.

use std::hash::{Hash, Hasher};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_guard, pg_sys};
use rustc_hash::FxHasher;

use crate::errors::Refusal;
use crate::pg;

/// A database has one of the parts, so that none can take the slots of all.
const PARTS: usize = 16;
/// The slots of a part. Nearly as many scopes are counted.
const SLOTS: usize = 1024;
/// Maximum probe distance in the hash table.
const REACH: usize = 32;

/// The counts of one scope: ok at 0, then each refusal, then these.
pub const MINTED: usize = 1 + Refusal::ALL.len();
pub const SPENT: usize = MINTED + 1;
const COUNTS: usize = SPENT + 1;

/// Aligned to a cache line, so that counting an answer fetches one.
#[repr(align(64))]
struct Slot {
    /// Hash of database and scope. 0: the slot is free.
    key: AtomicU64,
    counts: [AtomicU64; COUNTS],
}

struct Counters {
    parts: [[Slot; SLOTS]; PARTS],
}

/// NULL where the library is not preloaded.
struct Shared(AtomicPtr<Counters>);

static SHARED: Shared = Shared(AtomicPtr::new(ptr::null_mut()));

impl PgSharedMemoryInitialization for Shared {
    type Value = bool;

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called while the postmaster collects requests.
        unsafe { pg_sys::RequestAddinShmemSpace(size_of::<Counters>()) }
    }

    unsafe fn on_shmem_startup(&'static self, _value: bool) {
        // SAFETY: called while the postmaster sets up shared memory, alone. Zeros are free slots.
        unsafe {
            let mut found = false;
            let memory = pg_sys::ShmemInitStruct(c"temptoken counters".as_ptr(), size_of::<Counters>(), &mut found);
            if !found {
                ptr::write_bytes(memory.cast::<Counters>(), 0, 1);
            }
            self.0.store(memory.cast(), Ordering::Relaxed);
        }
    }
}

/// Asks for the shared memory, when the library is loaded through shared_preload_libraries.
pub fn init() {
    // SAFETY: reads a flag of the postmaster's start.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        pgrx::pg_shmem_init!(SHARED = false);
    }
}

/// Counts an answer about a token of `scope`: `refusal`, or ok if that is `None`. The scope is `None` if it is not known.
pub fn count(scope: Option<&[u8]>, refusal: Option<Refusal>) {
    add(scope, refusal.map_or(0, |refusal| 1 + refusal as usize), 1);
}

/// Adds to one of the counts of `scope`.
pub fn add(scope: Option<&[u8]>, at: usize, times: u64) {
    while let Some((slot, key)) = slot(scope) {
        // Another backend may be faster, for another scope or for this one. Then it is looked for again.
        let is_mine = slot.key.load(Ordering::Relaxed) == key
            || slot.key.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_mine {
            slot.counts[at].fetch_add(times, Ordering::Relaxed);
            return;
        }
    }
}

/// The counts of `scope` by name. `None` where nothing is counted.
pub fn of(scope: Option<&[u8]>) -> Option<[(&'static str, u64); COUNTS]> {
    let (slot, _) = slot(scope)?;
    let name = |at: usize| match at {
        0 => "ok",
        MINTED => "minted",
        SPENT => "spent",
        _ => Refusal::ALL[at - 1].name(),
    };
    Some(std::array::from_fn(|at| (name(at), slot.counts[at].load(Ordering::Relaxed))))
}

/// The slot of `scope` in this database, or else the one that is free for it; and the key that it has there. `None` where
/// the library is not preloaded, and where other scopes of the same part have all that are within reach.
fn slot(scope: Option<&[u8]>) -> Option<(&'static Slot, u64)> {
    // SAFETY: shared memory lives as long as the process, and is only reached through atomics.
    let counters = unsafe { SHARED.0.load(Ordering::Relaxed).as_ref() }?;
    let database = pg::database_oid();
    let mut hasher = FxHasher::default();
    (database, scope).hash(&mut hasher);
    let key = hasher.finish().max(1);
    let part = &counters.parts[database as usize % PARTS];
    let first = key as usize % SLOTS;
    let slots = part[first..].iter().chain(&part[..first]).take(REACH);
    slots.map(|slot| (slot, key)).find(|(slot, _)| [0, key].contains(&slot.key.load(Ordering::Relaxed)))
}
