//! The places of all databases, in shared memory, for every session to see.
//!
//! Lives here: the memory, its lock, and which database gets a place. May not come in here: what a change means (`place`).
//! A database without a place is swept too, but has no status.
//!
//! All places are free when the server starts. Where the library is preloaded, they survive a crash of a server process:
//! the postmaster copies them before it releases shared memory, and restores them. Elsewhere the first process that needs
//! the memory allocates it, from the reserve that PostgreSQL keeps for this, as contrib/pg_prewarm does. If other extensions
//! have used that up, PostgreSQL raises an error.

use std::ffi::c_int;
use std::hint;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::thread;
use std::time::Duration;

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_guard, pg_sys};

use super::place::{Place, Worker};

/// The most databases whose status is kept, where memory for it could be asked for at the start of the server.
const PLACES_PRELOADED: usize = 1024;
/// The same for memory from the reserve, which is some 100 kB for all extensions.
const PLACES: usize = 64;

/// What is in shared memory before the places. All zeros is valid.
#[repr(C)]
struct Table {
    locked: AtomicBool,
    data: Data,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Data {
    /// The process of the launcher that sweeps every database, and when it does so next.
    launcher: (i32, i64),
    /// The places were restored after a crash, and [`note_crash`] has not been called since.
    is_restored: bool,
}

/// The lock, held while this lives. Its holder only copies memory, which neither fails nor waits.
struct Locked {
    table: *mut Table,
}

impl Locked {
    fn data(&mut self) -> &mut Data {
        // SAFETY: the table lives as long as the process; who holds the lock is alone with it.
        unsafe { &mut (*self.table).data }
    }

    fn places(&mut self) -> &mut [Place] {
        // SAFETY: as many places follow the table, for which `size` has accounted.
        unsafe { std::slice::from_raw_parts_mut(self.table.add(1).cast(), capacity()) }
    }

    fn place(&mut self, database: u32) -> Option<&mut Place> {
        self.places().iter_mut().find(|place| place.database == database)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: the table lives as long as the process.
        unsafe { (*self.table).locked.store(false, Ordering::Release) }
    }
}

/// The table as this process knows it: NULL until it is there.
struct Shared(AtomicPtr<Table>);

static SHARED: Shared = Shared(AtomicPtr::new(ptr::null_mut()));
/// Whether the library was loaded at the start of the server.
static PRELOADED: AtomicBool = AtomicBool::new(false);

/// The postmaster's copy of the table, from the moment at which a crash makes it give shared memory up until it is restored;
/// else empty.
static COPY: Mutex<Vec<MaybeUninit<u8>>> = Mutex::new(Vec::new());

impl PgSharedMemoryInitialization for Shared {
    type Value = bool;

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called while the postmaster collects requests.
        unsafe { pg_sys::RequestAddinShmemSpace(size()) }
    }

    unsafe fn on_shmem_startup(&'static self, _value: bool) {
        attach();
        // Now, since memory may be short at a crash.
        if let Ok(mut copy) = COPY.lock() {
            copy.reserve_exact(size());
        }
        // SAFETY: the hook runs in the postmaster, at its start and after each crash of its children. A callback holds for one
        // life of shared memory. Callbacks are called in the reverse order of their registration (storage/ipc/ipc.c,
        // shmem_exit), and memory was mapped, and its unmapping registered, before this hook was called
        // (storage/ipc/ipci.c). Children drop the callback (utils/init/miscinit.c, InitPostmasterChild).
        unsafe { pg_sys::on_shmem_exit(Some(copy_table), pg_sys::Datum::from(0)) };
    }
}

/// Copies the table before the postmaster gives shared memory up. What crashed may have left anything in it: the bytes are
/// copied, and not looked at.
#[pg_guard]
unsafe extern "C-unwind" fn copy_table(_code: c_int, _argument: pg_sys::Datum) {
    let table = SHARED.0.load(Ordering::Relaxed);
    if let Ok(mut copy) = COPY.lock() {
        // SAFETY: the table is still mapped, and nobody else runs.
        copy.extend_from_slice(unsafe { std::slice::from_raw_parts(table.cast(), size()) });
    }
}

/// Asks for the shared memory, when the library is loaded through shared_preload_libraries.
pub fn init() {
    // SAFETY: reads a flag of the postmaster's start.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        PRELOADED.store(true, Ordering::Relaxed);
        pgrx::pg_shmem_init!(SHARED = false);
    }
}

/// Whether the library was loaded through shared_preload_libraries.
pub fn is_preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

/// How many places there are, which is the same for every process of a server.
fn capacity() -> usize {
    if is_preloaded() { PLACES_PRELOADED } else { PLACES }
}

fn size() -> usize {
    size_of::<Table>() + capacity() * size_of::<Place>()
}

/// Finds the table in shared memory, or makes it. New memory is all zeros, which is an empty table.
fn attach() {
    let mut found = false;
    // SAFETY: asks for as many bytes as the table and its places have, which PostgreSQL aligns for any type.
    let table = unsafe { pg_sys::ShmemInitStruct(c"temptoken sweep".as_ptr(), size(), &mut found).cast::<Table>() };
    SHARED.0.store(table, Ordering::Relaxed);
    if !found
        && let Ok(mut copy) = COPY.lock()
        && !copy.is_empty()
    {
        // SAFETY: the copy is as large as the table. This process is the postmaster, and nobody else has the memory yet.
        unsafe {
            ptr::copy_nonoverlapping(copy.as_ptr(), table.cast(), copy.len());
            // Whoever held the lock is gone, and the launcher too.
            (*table).locked.store(false, Ordering::Relaxed);
            (*table).data = Data { launcher: (0, 0), is_restored: true };
        }
        copy.clear();
    }
}

fn lock() -> Locked {
    let mut table = SHARED.0.load(Ordering::Relaxed);
    if table.is_null() {
        attach();
        table = SHARED.0.load(Ordering::Relaxed);
    }
    let mut tries = 0;
    // SAFETY: the table lives as long as the process. The lock is held for microseconds, unless its holder is not running.
    unsafe {
        while (*table).locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            tries += 1;
            if tries % 1000 == 0 { thread::sleep(Duration::from_millis(1)) } else { hint::spin_loop() }
        }
    }
    Locked { table }
}

/// What is known of `database`. `None` when nothing is.
pub fn of(database: u32) -> Option<Place> {
    lock().place(database).copied()
}

/// Changes what is known of `database`, which gets a place if it has none: a free one, or that of a database for which
/// nothing of ours runs. `None` when there is no such place.
pub fn change<R>(database: u32, how: impl FnOnce(&mut Place) -> R) -> Option<R> {
    let mut locked = lock();
    if locked.place(database).is_none() {
        let rank = |place: &&mut Place| (place.database != 0, place.last_start.max(place.crashed_at));
        let idle = locked.places().iter_mut().filter(|place| place.is_idle()).min_by_key(rank)?;
        *idle = Place::FREE;
        idle.database = database;
    }
    locked.place(database).map(how)
}

/// Changes what is known of `database`, if anything is.
pub fn amend<R>(database: u32, how: impl FnOnce(&mut Place) -> R) -> Option<R> {
    lock().place(database).map(how)
}

/// Forgets every database that is not among these.
pub fn retain(is_there: impl Fn(u32) -> bool) {
    for place in lock().places() {
        if place.database != 0 && !is_there(place.database) {
            *place = Place::FREE;
        }
    }
}

/// If the server has crashed since the last call: notes a crash in every database that had a worker then.
pub fn note_crash(now: i64) {
    let mut locked = lock();
    if std::mem::take(&mut locked.data().is_restored) {
        locked.places().iter_mut().filter(|place| place.worker != Worker::None).for_each(|place| place.note_crash(now));
    }
}

/// The launcher that sweeps every database, and when it does so next.
pub fn launcher() -> (i32, i64) {
    lock().data().launcher
}

/// Says that this process is the launcher that sweeps every database, and when it does so next.
pub fn set_launcher(pid: i32, next_start: i64) {
    lock().data().launcher = (pid, next_start);
}
