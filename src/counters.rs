//! Counters: how often validation has answered what, and what was minted and spent, for each scope, since the server
//! started. A transaction that is rolled back is counted too.
//!
//! Lives here: an array in shared memory, where the library is preloaded. Backends add to it without a lock. May not come
//! in here: names. A database takes one of the parts, and a scope the slot in it that a hash leads to, so that the size is
//! fixed; databases and scopes that find none are not counted.

use std::hash::{Hash, Hasher};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_guard, pg_sys};
use rustc_hash::FxHasher;

use crate::errors::Refusal;
use crate::pg;

/// How many databases are counted.
const PARTS: usize = 64;
/// The slots of a database. Nearly as many of its scopes are counted.
const SLOTS: usize = 256;
/// Maximum probe distance in the hash table.
const REACH: usize = 32;

/// The counts of one scope: ok at 0, then each refusal, then these.
pub const MINTED: usize = 1 + Refusal::ALL.len();
pub const SPENT: usize = MINTED + 1;
const COUNTS: usize = SPENT + 1;

/// Aligned to a cache line, so that counting an answer fetches one.
#[repr(align(64))]
struct Slot {
    /// Hash of the scope. 0: the slot is free.
    key: AtomicU64,
    counts: [AtomicU64; COUNTS],
}

struct Counters {
    /// The databases that have the parts. 0: the part is free.
    databases: [AtomicU64; PARTS],
    parts: [Part; PARTS],
}

struct Part {
    /// For what has no scope: there is always room for it.
    unknown: Slot,
    slots: [Slot; SLOTS],
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
    if let Some(slot) = slot(scope, true) {
        slot.counts[at].fetch_add(times, Ordering::Relaxed);
    }
}

/// The counts of `scope` by name. `None` where nothing is counted.
pub fn of(scope: Option<&[u8]>) -> Option<[(&'static str, u64); COUNTS]> {
    let slot = slot(scope, false)?;
    let name = |at: usize| match at {
        0 => "ok",
        MINTED => "minted",
        SPENT => "spent",
        _ => Refusal::ALL[at - 1].name(),
    };
    Some(std::array::from_fn(|at| (name(at), slot.counts[at].load(Ordering::Relaxed))))
}

/// Frees the parts of databases that are not there any more. Nobody counts for them.
pub fn retain(is_there: impl Fn(u32) -> bool) {
    let Some(counters) = counters() else { return };
    for (database, part) in counters.databases.iter().zip(&counters.parts) {
        let oid = database.load(Ordering::Relaxed);
        if oid != 0 && !is_there(oid as u32) {
            for slot in part.slots.iter().chain([&part.unknown]) {
                slot.key.store(0, Ordering::Relaxed);
                slot.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
            }
            database.store(0, Ordering::Release);
        }
    }
}

fn counters() -> Option<&'static Counters> {
    // SAFETY: shared memory lives as long as the process, and is only reached through atomics.
    unsafe { SHARED.0.load(Ordering::Relaxed).as_ref() }
}

/// The slot of `scope` in this database, or else a free one, which it takes if `take` is true. `None` where the library is not
/// preloaded, and where others have all that are within reach.
fn slot(scope: Option<&[u8]>, take: bool) -> Option<&'static Slot> {
    let counters = counters()?;
    let database = pg::database_oid().into();
    let is = |key: &AtomicU64, known| key.load(Ordering::Relaxed) == known;
    // A part that became free may come before the one that the database has.
    let mut parts = (0..PARTS).map(|step| (database as usize + step) % PARTS);
    let at = parts.clone().find(|at| is(&counters.databases[*at], database));
    let part = &counters.parts[at.or_else(|| parts.find(|at| is_mine(&counters.databases[*at], database, take)))?];
    let Some(scope) = scope else { return Some(&part.unknown) };
    let mut hasher = FxHasher::default();
    scope.hash(&mut hasher);
    let key = hasher.finish().max(1);
    let first = key as usize % SLOTS;
    let mut within_reach = part.slots[first..].iter().chain(&part.slots[..first]).take(REACH);
    within_reach.find(|slot| is_mine(&slot.key, key, take))
}

/// Whether `key` is `mine`, or free. Takes it in that case if `take` is true, unless another backend is faster.
fn is_mine(key: &AtomicU64, mine: u64, take: bool) -> bool {
    match key.load(Ordering::Relaxed) {
        0 if take => match key.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(faster) => faster == mine,
        },
        known => known == 0 || known == mine,
    }
}
