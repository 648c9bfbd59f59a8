//! What is known of sweeping, for every session to see.
//!
//! Lives here: a table in shared memory with a place for each database, and a file from which it is filled again after a
//! restart or crash. May not come in here: what sweeps. Where there is no place for a database, it is swept all the same,
//! and its status is not known.
//!
//! Where the library is not preloaded, the table is made by whoever needs it first, in the reserve that PostgreSQL keeps
//! for this, as contrib/pg_prewarm does; the one error that comes from here is PostgreSQL's when other extensions have
//! used that up.

use std::cell::UnsafeCell;
use std::hint;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::thread;
use std::time::Duration;

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_guard, pg_sys};
use serde_json::{Value, json};

use crate::pg;

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
    /// The launcher that sweeps this database alone, negative for a session that is starting it; when it was started,
    /// which tells it from those before it; and whether it was told to stop.
    pub launcher: i32,
    pub started_at: i64,
    pub stop: bool,
    pub next_start: i64,
    /// The worker; -1 for one that is about to come.
    pub worker: i32,
    /// A sweep has been begun and is neither finished nor given up.
    unfinished: bool,
    /// The worker had no time for more, and wants another turn.
    pub paused: bool,
    /// The last sweep could not have the table.
    locked: bool,
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
        started_at: 0,
        stop: false,
        next_start: 0,
        worker: 0,
        unfinished: false,
        paused: false,
        locked: false,
        last_start: 0,
        last_finish: 0,
        removed: 0,
        removed_in_total: 0,
        failing: false,
        last_error_at: 0,
        error: [0; ERROR_MAX],
        error_length: 0,
    };

    /// The launcher that was started at `started_at` comes, or comes back after an error or a crash.
    pub fn take_over(&mut self, pid: i32, started_at: i64, table_made_at: i64) {
        let is_after_crash = self.started_at == 0 && started_at < table_made_at;
        if self.started_at == started_at || is_after_crash {
            (self.launcher, self.started_at) = (pid, started_at);
        }
    }

    /// Whether the launcher goes on: it is the one, and has not been told to stop, which it then does.
    pub fn goes_on(&mut self, pid: i32) -> bool {
        let (mine, stop) = (self.launcher == pid, self.stop);
        if mine && stop {
            (self.launcher, self.started_at, self.stop) = (0, 0, false);
        }
        mine && !stop
    }

    /// A worker is about to come.
    pub fn expect(&mut self) {
        (self.worker, self.paused) = (-1, false);
    }

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
        (self.worker, self.paused) = (0, true);
    }

    /// The sweep is through.
    pub fn finish(&mut self, now: i64) {
        (self.worker, self.unfinished, self.locked, self.failing) = (0, false, false, false);
        self.last_finish = now;
    }

    /// The table was locked. Once is nothing to speak of.
    pub fn put_off(&mut self, now: i64) {
        if self.locked {
            self.fail(now, "another session holds a lock on temptoken.temp_tokens");
        }
        (self.worker, self.unfinished, self.locked) = (0, false, true);
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

    /// The extension is gone; what was known of it goes too, and with that the launcher that was started for it. One that
    /// was never seen may be about to be committed.
    pub fn miss(&mut self) {
        self.worker = 0;
        if self.last_start != 0 {
            *self = Self::FREE;
        }
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
    /// When the table was made: at the start of the server, after its last crash, or later.
    made_at: i64,
}

/// The lock, held while this lives. Whoever holds it only copies memory: it can neither fail nor wait.
struct Locked {
    table: *mut Table,
}

impl Locked {
    fn data(&mut self) -> &mut Data {
        // SAFETY: the table lives as long as the process; who holds the lock is alone with it.
        unsafe { &mut *(*self.table).data.get() }
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

impl PgSharedMemoryInitialization for Shared {
    type Value = bool;

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called while the postmaster collects requests.
        unsafe { pg_sys::RequestAddinShmemSpace(size()) }
    }

    unsafe fn on_shmem_startup(&'static self, _value: bool) {
        attach();
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

/// Finds the table in shared memory, or makes it. New memory is all zeros, which is an empty table: another process may use
/// it before what is in the file has been put there.
fn attach() {
    let mut found = false;
    // SAFETY: asks for as many bytes as the table and its places have, which PostgreSQL aligns for any type.
    let table = unsafe { pg_sys::ShmemInitStruct(c"temptoken sweep".as_ptr(), size(), &mut found).cast::<Table>() };
    SHARED.0.store(table, Ordering::Relaxed);
    if found {
        return;
    }
    let stored = read_file();
    let mut locked = lock();
    locked.data().made_at = pg::now();
    for stored in stored {
        if locked.place(stored.database).is_none()
            && let Some(free) = locked.place(0)
        {
            *free = stored;
        }
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

/// Changes what is known of `database`, which gets a place if it has none: a free one, or that of a database in which
/// nothing of ours runs. `None` when there is no such place.
pub fn change<R>(database: u32, how: impl FnOnce(&mut Place) -> R) -> Option<R> {
    let mut locked = lock();
    if locked.place(database).is_none() {
        let rank = |place: &&mut Place| (place.database != 0, place.last_start);
        let idle =
            locked.places().iter_mut().filter(|place| place.launcher == 0 && place.worker == 0).min_by_key(rank)?;
        *idle = Place { database, ..Place::FREE };
    }
    locked.place(database).map(how)
}

/// Changes what is known of `database`, if anything is.
pub fn amend<R>(database: u32, how: impl FnOnce(&mut Place) -> R) -> Option<R> {
    lock().place(database).map(how)
}

/// Forgets every database that is not among these.
pub fn retain(databases: &[u32]) {
    for place in lock().places() {
        if !databases.contains(&place.database) {
            *place = Place::FREE;
        }
    }
}

/// When the table was made.
pub fn made_at() -> i64 {
    // Nobody has had the time to say so.
    Some(lock().data().made_at).filter(|time| *time != 0).unwrap_or_else(pg::now)
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
    let mut places = Vec::with_capacity(PLACES_PRELOADED);
    places.extend(lock().places().iter().filter(|place| place.database != 0));
    let text = Value::from_iter(places.into_iter().map(Place::to_json)).to_string();
    let draft = format!("{FILE}.{}", std::process::id());
    if std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, FILE)).is_err() {
        let _ = std::fs::remove_file(&draft);
    }
}

fn read_file() -> Vec<Place> {
    let text = std::fs::read(FILE).unwrap_or_default();
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    value.as_array().into_iter().flatten().filter_map(Place::from_json).collect()
}
