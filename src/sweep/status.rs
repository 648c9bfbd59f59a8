//! What is known of sweeping, for every session to see.
//!
//! Lives here: a table in shared memory with a place for each database, and a file from which it is filled again after a
//! restart or crash. May not come in here: what sweeps. Nothing in here fails: where there is no place for a database, it
//! is swept all the same, and its status is not known.
//!
//! Where the library is not preloaded, the table is made by whoever needs it first, in the reserve that PostgreSQL keeps
//! for this, as contrib/pg_prewarm does.

use std::cell::UnsafeCell;
use std::hint;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_guard, pg_sys};
use serde_json::{Value, json};

/// The most databases whose status is kept, where memory for it could be asked for at the start of the server.
const PLACES_PRELOADED: usize = 1024;
/// And where it could not: the reserve is some 100 kB for all extensions.
const PLACES: usize = 64;

/// The file, beside those of other extensions in the data directory. Base backups and pg_upgrade leave this directory out.
const FILE: &str = "pg_stat_tmp/temptoken_sweep.json";

/// The most bytes that are kept of an error message.
const ERROR_MAX: usize = 240;

/// What is known of sweeping one database. Times are Unix microseconds, 0 for never; pids are 0 for none. All zeros is a
/// place that is free.
#[derive(Clone, Copy)]
pub struct Place {
    database: u32,
    /// The launcher that sweeps this database alone, and whether it was told to stop.
    pub launcher: i32,
    pub stop: bool,
    pub next_start: i64,
    pub worker: i32,
    /// A sweep has been begun and is neither finished nor given up.
    pub unfinished: bool,
    pub last_start: i64,
    pub last_finish: i64,
    /// Rows that the sweep which began at `last_start` has removed, and all sweeps.
    pub removed: u64,
    pub removed_in_total: u64,
    /// The last sweep has failed.
    pub failing: bool,
    pub last_error_at: i64,
    error: [u8; ERROR_MAX],
    error_length: usize,
}

impl Place {
    const FREE: Self = Self {
        database: 0,
        launcher: 0,
        stop: false,
        next_start: 0,
        worker: 0,
        unfinished: false,
        last_start: 0,
        last_finish: 0,
        removed: 0,
        removed_in_total: 0,
        failing: false,
        last_error_at: 0,
        error: [0; ERROR_MAX],
        error_length: 0,
    };

    /// A worker begins, or goes on with what its predecessor had no time for.
    pub fn begin(&mut self, pid: i32, now: i64) {
        if !self.unfinished {
            (self.last_start, self.removed) = (now, 0);
        }
        (self.worker, self.unfinished) = (pid, true);
    }

    /// The worker has removed so many rows, and committed that.
    pub fn add(&mut self, rows: u64) {
        self.removed += rows;
        self.removed_in_total += rows;
    }

    /// The worker leaves before it is through.
    pub fn pause(&mut self) {
        self.worker = 0;
    }

    /// The sweep is through.
    pub fn finish(&mut self, now: i64) {
        (self.worker, self.unfinished, self.failing, self.last_finish) = (0, false, false, now);
    }

    /// The sweep has failed; whether it had not failed in the same way the time before.
    pub fn fail(&mut self, now: i64, error: &str) -> bool {
        let cut = (0..=error.len().min(ERROR_MAX)).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
        let is_new = !self.failing || self.last_error() != &error.as_bytes()[..cut];
        (self.worker, self.unfinished, self.failing, self.last_error_at) = (0, false, true, now);
        self.error[..cut].copy_from_slice(&error.as_bytes()[..cut]);
        self.error_length = cut;
        is_new
    }

    /// The message of the last error; empty when there was none.
    pub fn last_error(&self) -> &[u8] {
        &self.error[..self.error_length]
    }

    /// What outlives a restart.
    fn to_json(self) -> Value {
        json!({
            "database": self.database,
            "last_start": self.last_start,
            "last_finish": self.last_finish,
            "removed": self.removed,
            "removed_in_total": self.removed_in_total,
            "last_error_at": self.last_error_at,
            "last_error": String::from_utf8_lossy(self.last_error()),
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let mut place = Self::FREE;
        if let Some(error) = value["last_error"].as_str().filter(|error| !error.is_empty()) {
            place.fail(value["last_error_at"].as_i64()?, error);
            place.failing = false;
        }
        place.database = value["database"].as_u64()?.try_into().ok()?;
        place.last_start = value["last_start"].as_i64()?;
        place.last_finish = value["last_finish"].as_i64()?;
        place.removed = value["removed"].as_u64()?;
        place.removed_in_total = value["removed_in_total"].as_u64()?;
        Some(place)
    }
}

/// The table in shared memory. All zeros is an empty one.
#[repr(C)]
struct Table {
    locked: AtomicBool,
    data: UnsafeCell<Data>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Data {
    /// The launcher that sweeps every database.
    launcher: i32,
    next_start: i64,
    /// How many places follow this structure in memory.
    length: usize,
}

/// The lock, held while this lives. Whoever holds it only copies memory: it cannot fail, nor wait.
struct Locked {
    table: *mut Table,
}

impl Locked {
    fn data(&mut self) -> &mut Data {
        // SAFETY: the table lives as long as the process; who holds the lock is alone with it.
        unsafe { &mut *(*self.table).data.get() }
    }

    fn places(&mut self) -> &mut [Place] {
        let length = self.data().length;
        // SAFETY: as many places follow the table as its length says, for which `size` has accounted.
        unsafe { std::slice::from_raw_parts_mut(self.table.add(1).cast(), length) }
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

impl PgSharedMemoryInitialization for Shared {
    type Value = bool;

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called while the postmaster collects requests.
        unsafe { pg_sys::RequestAddinShmemSpace(size(PLACES_PRELOADED)) }
    }

    unsafe fn on_shmem_startup(&'static self, _value: bool) {
        attach(PLACES_PRELOADED);
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

fn size(places: usize) -> usize {
    size_of::<Table>() + places * size_of::<Place>()
}

/// Finds the table in shared memory, or makes it. New memory is all zeros, so that nobody can see half of a table.
fn attach(places: usize) {
    let mut found = false;
    // SAFETY: asks for as many bytes as the table and its places have, which PostgreSQL aligns for any type.
    let table =
        unsafe { pg_sys::ShmemInitStruct(c"temptoken sweep".as_ptr(), size(places), &mut found).cast::<Table>() };
    SHARED.0.store(table, Ordering::Relaxed);
    if !found {
        let stored = read_file();
        let mut locked = lock();
        locked.data().length = places;
        for (place, stored) in locked.places().iter_mut().zip(stored) {
            *place = stored;
        }
    }
}

fn lock() -> Locked {
    let mut table = SHARED.0.load(Ordering::Relaxed);
    if table.is_null() {
        attach(PLACES);
        table = SHARED.0.load(Ordering::Relaxed);
    }
    // SAFETY: the table lives as long as the process. The lock is held for microseconds.
    unsafe {
        while (*table).locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            hint::spin_loop();
        }
    }
    Locked { table }
}

/// What is known of `database`. `None` when nothing is.
pub fn of(database: u32) -> Option<Place> {
    lock().place(database).copied()
}

/// Changes what is known of `database`, which gets a place if it has none and one is free.
pub fn change<R>(database: u32, how: impl FnOnce(&mut Place) -> R) -> Option<R> {
    let mut locked = lock();
    if locked.place(database).is_none() {
        let free = locked.place(0)?;
        *free = Place { database, ..Place::FREE };
    }
    locked.place(database).map(how)
}

/// Forgets every database that is not among these.
pub fn retain(databases: &[u32]) {
    for place in lock().places() {
        if !databases.contains(&place.database) {
            *place = Place::FREE;
        }
    }
}

/// Forgets `database`.
pub fn forget(database: u32) {
    if let Some(place) = lock().place(database) {
        *place = Place::FREE;
    }
}

/// The launcher that sweeps every database, and when it does so next.
pub fn launcher() -> (i32, i64) {
    let mut locked = lock();
    (locked.data().launcher, locked.data().next_start)
}

/// Says that this process is the launcher that sweeps every database, and when it does so next.
pub fn set_launcher(pid: i32, next_start: i64) {
    let mut locked = lock();
    (locked.data().launcher, locked.data().next_start) = (pid, next_start);
}

/// Keeps what is known for after a restart. What cannot be written is lost with the memory.
pub fn save() {
    let places: Vec<Place> = lock().places().iter().filter(|place| place.database != 0).copied().collect();
    let text = Value::from_iter(places.into_iter().map(Place::to_json)).to_string();
    let draft = format!("{FILE}.{}", std::process::id());
    let _ = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, FILE));
}

fn read_file() -> Vec<Place> {
    let text = std::fs::read(FILE).unwrap_or_default();
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    value.as_array().into_iter().flatten().filter_map(Place::from_json).collect()
}
