//! The status of sweeping one database, and how it changes. Pure: no shared memory, no processes.
//!
//! Each database has a [`Place`] in the shared memory of `status`. docs/internals.md has a diagram of its states.

use crate::token::TokenId;

/// The most bytes that are kept of an error message.
const ERROR_MAX: usize = 240;

/// When a batch has failed, the next one has this many times fewer rows.
const SHRINK: u64 = 10;

/// So many rows in a row may fail before a sweep leaves more than one at a time.
const ONE_BY_ONE: u32 = 8;

/// After so many batches of one row that have failed one after the other, a sweep gives up. By then it has come to the end of any
/// table: what it passes over at once grows to more rows than there are, and then halves what is left each time.
const FAILURES_MAX: u32 = ONE_BY_ONE + 64;

const LOCKED: &str = "another session holds a lock on temptoken.temp_tokens";
const CRASHED: &str = "the worker crashed, or the server did while it ran; this database is left alone for an interval";

/// The launcher that a session has registered for one database.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ByHand {
    /// There is none.
    None,
    /// It runs, starts, or is about to come back after an error.
    Wanted,
    /// It was told to stop, and has not noticed.
    Stopping,
}

/// The process that sweeps a database.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Worker {
    None,
    /// The launcher has registered it.
    Expected,
    /// It has the table. The pid.
    Running(i32),
}

/// The status of sweeping one database. Times are Unix microseconds, 0 for never. All zeros is a free place, because new
/// shared memory is all zeros.
#[derive(Clone, Copy)]
pub struct Place {
    pub database: u32,
    pub by_hand: ByHand,
    /// The process of the launcher that was started by hand, 0 while it has not had one; and when it begins its next round.
    pub launcher: i32,
    pub next_start: i64,
    pub worker: Worker,
    /// There is more to do, for another worker in the same round.
    pub paused: bool,
    /// The last sweep found the table locked.
    locked: bool,
    pub last_start: i64,
    pub last_finish: i64,
    /// Rows that the sweep which began at `last_start` has removed, and all sweeps.
    pub removed: u64,
    pub removed_in_total: u64,
    /// How many rows a transaction may remove here, when that is less than the setting; else 0.
    batch: u64,
    /// Where the sweep is: behind this id, and about to pass over so many rows, the first of which has failed.
    after: TokenId,
    jump: u64,
    /// How many batches of one row have failed since one succeeded.
    failures: u32,
    /// The sweep has left rows that it could not remove.
    has_left_rows: bool,
    /// The last sweep has failed.
    pub failing: bool,
    /// When the database was last found to have crashed.
    pub crashed_at: i64,
    pub last_error_at: i64,
    error: [u8; ERROR_MAX],
    error_length: usize,
}

impl Place {
    // SAFETY: numbers, flags, an id, and enums of which zero is the first variant.
    pub const FREE: Self = unsafe { std::mem::zeroed() };

    /// Whether neither a worker nor a launcher of its own runs for this database.
    pub fn is_idle(&self) -> bool {
        self.by_hand == ByHand::None && self.worker == Worker::None
    }

    /// Whether the last crash was so recent that this round skips the database. `interval` is in microseconds.
    pub fn is_left_alone(&self, now: i64, interval: i64) -> bool {
        // Nine tenths: the round an interval after the crash is not to be skipped too. A clock that was set back ends the wait.
        self.crashed_at != 0 && (0..interval / 10 * 9).contains(&(now - self.crashed_at))
    }

    /// The most rows that the next transaction may remove, where the setting is `batch_size`.
    pub fn batch(&self, batch_size: u64) -> u64 {
        if self.batch == 0 { batch_size } else { self.batch.min(batch_size) }
    }

    /// A worker is about to be registered.
    pub fn register_worker(&mut self) {
        self.worker = Worker::Expected;
    }

    /// The worker `pid` has locked the table. If it has not done so before, it begins a sweep, or goes on with a paused one.
    pub fn begin(&mut self, pid: i32, now: i64) {
        if self.worker == Worker::Running(pid) {
            return;
        }
        if !self.paused {
            (self.last_start, self.removed) = (now, 0);
            (self.after, self.jump, self.failures, self.has_left_rows) = (TokenId::nil(), 0, 0, false);
        }
        (self.worker, self.paused) = (Worker::Running(pid), false);
    }

    /// Where the next batch begins: behind this id, and so many rows.
    pub fn position(&self) -> (TokenId, u64) {
        (self.after, self.jump)
    }

    /// The worker has passed over rows, and is behind the id `after`.
    pub fn land(&mut self, after: TokenId) {
        (self.after, self.jump) = (after, 0);
    }

    /// The worker has committed the removal of `rows`, and is behind the id `after`. If there were any and that `was_fast`, the next
    /// batch may be twice as large.
    pub fn count_removed(&mut self, rows: u64, after: TokenId, was_fast: bool, batch_size: u64) {
        self.removed += rows;
        self.removed_in_total += rows;
        self.after = after;
        if rows == 0 {
            return;
        }
        self.failures = 0;
        if was_fast {
            let doubled = self.batch.saturating_mul(2);
            self.batch = if doubled < batch_size { doubled } else { 0 };
        }
    }

    /// The worker leaves, and another one goes on with the sweep in the same round.
    pub fn pause(&mut self) {
        (self.worker, self.paused) = (Worker::None, true);
    }

    /// The sweep is at its end. If it has left rows, it has failed.
    pub fn finish(&mut self, now: i64) {
        (self.worker, self.locked, self.failing) = (Worker::None, false, self.has_left_rows);
        if !self.has_left_rows {
            self.last_finish = now;
        }
    }

    /// Another session has locked the table. From the second time in a row that is an error.
    pub fn find_locked(&mut self, now: i64) {
        if self.locked {
            self.fail(now, LOCKED);
        }
        (self.worker, self.locked) = (Worker::None, true);
    }

    /// The sweep has failed. Returns whether the last one did not fail with the same error.
    pub fn fail(&mut self, now: i64, error: &str) -> bool {
        let cut = (0..=error.len().min(ERROR_MAX)).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
        let is_new = !self.failing || self.last_error() != &error.as_bytes()[..cut];
        (self.worker, self.paused, self.failing, self.last_error_at) = (Worker::None, false, true, now);
        self.error[..cut].copy_from_slice(&error.as_bytes()[..cut]);
        self.error_length = cut;
        is_new
    }

    /// A batch has failed, or the launcher has ended its worker because it took too long. It is rolled back. The next worker, in
    /// the same round, tries a smaller one. A row that fails by itself is left, and after some more in a row ever more at once.
    /// As [`Self::fail`], but of a sweep that leaves rows only the first error counts.
    pub fn fail_batch(&mut self, now: i64, error: &str, batch_size: u64) -> bool {
        if !matches!(self.worker, Worker::Running(_)) {
            return self.fail(now, error);
        }
        let is_new = !self.has_left_rows && self.fail(now, error);
        let tried = self.batch(batch_size);
        self.batch = (tried / SHRINK).max(1);
        if tried == 1 {
            // By the clock, which is as good as chance here: no row is left by every sweep because of those before it.
            let more = now.unsigned_abs() % (1 << self.failures.saturating_sub(ONE_BY_ONE).min(32));
            self.jump = 1 + more;
            self.failures += 1;
            self.has_left_rows = true;
        }
        (self.worker, self.paused, self.last_error_at) = (Worker::None, self.failures < FAILURES_MAX, now);
        is_new
    }

    /// The server has crashed while a worker was here.
    pub fn note_crash(&mut self, now: i64) {
        self.fail(now, CRASHED);
        self.crashed_at = now;
    }

    /// The extension is not in this database. The place becomes free, which ends a launcher that was started by hand. It stays
    /// if nothing was swept yet: the transaction that creates the extension may have started the launcher.
    pub fn find_no_extension(&mut self) {
        (self.worker, self.paused) = (Worker::None, false);
        if self.last_start != 0 || self.by_hand == ByHand::None {
            *self = Self::FREE;
        }
    }

    /// The message of the last error; empty when there was none.
    pub fn last_error(&self) -> &[u8] {
        self.error.get(..self.error_length).unwrap_or_default()
    }
}
