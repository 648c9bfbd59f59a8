//! Counters: how often validation has answered what, for each scope, since the server started.
//!
//! Lives here: a table in shared memory, where the library is preloaded, that any backend adds to without a lock. May not
//! come in here: names. A place in the table is found by a hash over database and scope, so that what is counted has a
//! fixed size; scopes past that many are not counted.

use std::hash::{Hash, Hasher};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_guard, pg_sys};
use rustc_hash::FxHasher;

use crate::errors::Refusal;
use crate::pg;

/// Places for scopes, of all databases. Nearly as many are counted.
const PLACES: usize = 16_384;
/// How far from where a scope should be its place is looked for.
const REACH: usize = 32;

/// The outcomes that are counted of tokens of one scope: ok, and each refusal.
const OUTCOMES: usize = 1 + Refusal::ALL.len();

/// As large as a line of a processor's cache, so that to count fetches one.
#[repr(align(64))]
struct Place {
    /// Hash of the database and the scope; 0 while nobody has the place.
    key: AtomicU64,
    counts: [AtomicU64; OUTCOMES],
}

struct Table {
    places: [Place; PLACES],
}

/// The table, or NULL where the library is not preloaded.
struct Shared(AtomicPtr<Table>);

static SHARED: Shared = Shared(AtomicPtr::new(ptr::null_mut()));

impl PgSharedMemoryInitialization for Shared {
    type Value = bool;

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called while the postmaster collects requests.
        unsafe { pg_sys::RequestAddinShmemSpace(size_of::<Table>()) }
    }

    unsafe fn on_shmem_startup(&'static self, _value: bool) {
        // SAFETY: called while the postmaster sets up shared memory, alone. A table of zeros is an empty one.
        unsafe {
            let mut found = false;
            let table = pg_sys::ShmemInitStruct(c"temptoken counters".as_ptr(), size_of::<Table>(), &mut found);
            if !found {
                ptr::write_bytes(table.cast::<Table>(), 0, 1);
            }
            self.0.store(table.cast(), Ordering::Relaxed);
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

/// Counts an answer about a token of `scope`, `None` where that is not known: `refusal`, or none for ok.
pub fn count(scope: Option<&[u8]>, refusal: Option<Refusal>) {
    if let Some(place) = place(scope, true) {
        place.counts[refusal.map_or(0, |refusal| 1 + refusal as usize)].fetch_add(1, Ordering::Relaxed);
    }
}

/// The counts of `scope`, by name of the outcome. `None` where nothing is counted.
pub fn of(scope: Option<&[u8]>) -> Option<[(&'static str, u64); OUTCOMES]> {
    table()?;
    let place = place(scope, false);
    let count = |at: usize| place.map_or(0, |place| place.counts[at].load(Ordering::Relaxed));
    Some(std::array::from_fn(|at| (if at == 0 { "ok" } else { Refusal::ALL[at - 1].name() }, count(at))))
}

fn table() -> Option<&'static Table> {
    // SAFETY: shared memory lives as long as the process, and is only reached through atomics.
    unsafe { SHARED.0.load(Ordering::Relaxed).as_ref() }
}

/// The place of `scope` in this database; with `take`, a free one if it has none yet.
fn place(scope: Option<&[u8]>, take: bool) -> Option<&'static Place> {
    let table = table()?;
    let mut hasher = FxHasher::default();
    (pg::database_oid(), scope).hash(&mut hasher);
    let key = hasher.finish().max(1);
    let first = key as usize % PLACES;
    for place in table.places[first..].iter().chain(&table.places[..first]).take(REACH) {
        match place.key.load(Ordering::Relaxed) {
            known if known == key => return Some(place),
            0 if !take => return None,
            // Another backend may take it first, for another scope or for this one.
            0 => match place.key.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
                Err(taken) if taken != key => {}
                _ => return Some(place),
            },
            _ => {}
        }
    }
    None
}
