//! The states of a launcher that `temptoken_sweep_worker_start()` registers for one database, where the library is not
//! preloaded. Pure: no shared memory, no processes.
//!
//! The postmaster starts that process again after an error, so a launcher without a process is not gone:
//!
//! ```text
//!             reserve               hello
//!      None ───────────▶ Starting ───────────▶ Running ◀──┐ the process ends with an error,
//!       ▲                  │                   │     ▲ └──┘ and its successor says hello
//!       │ no slot is free, │              stop │     │ start
//!       │ or stop          │                   ▼     │
//!       ├──────────────────┘                  Stopping
//!       │       the process has noticed          │
//!       └────────────────────────────────────────┘
//! ```
//!
//! Each launcher has an id. A process whose id is not the one in the place ends: it was stopped before it said hello, another
//! launcher has come after it, or the extension was dropped. Whoever finds `Starting` by a session that has ended reserves
//! anew.

/// The launcher of one database, as it was started by hand.
#[derive(Clone, Copy)]
pub struct ByHand {
    pub state: State,
    /// Of the session in `Starting`; of the launcher in `Running` and `Stopping`, 0 while it has not had a process.
    pub pid: i32,
    /// When it was reserved, in Unix microseconds.
    id: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    None,
    /// A session is registering it, which takes a moment.
    Starting,
    /// It is registered with the postmaster.
    Running,
    /// It is to end once its worker has come to the end of a transaction.
    Stopping,
}

/// What a launcher finds when it says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// It is the one.
    Welcome,
    /// It is the one, and the server has crashed since it was started.
    AfterCrash,
    /// Another has come after it, or the extension was dropped: it ends.
    Unknown,
}

impl ByHand {
    pub const NONE: Self = Self { state: State::None, pid: 0, id: 0 };

    /// Reserves the place for a new launcher, which the session `pid` is about to register. False when there is one already; if
    /// that was told to stop, and has not yet, it goes on. `is_alive`: whether the process `self.pid` runs.
    pub fn reserve(&mut self, pid: i32, id: i64, is_alive: bool) -> bool {
        match self.state {
            State::Running => false,
            // A session that finds itself here failed while it registered one.
            State::Starting if is_alive && self.pid != pid => false,
            State::Stopping => {
                self.state = State::Running;
                false
            }
            State::None | State::Starting => {
                *self = Self { state: State::Starting, pid, id };
                true
            }
        }
    }

    /// The launcher `id` is registered, as process `pid` if it has one yet. It may have said hello before, or have ended again.
    pub fn registered(&mut self, id: i64, pid: i32) {
        if self.id == id && self.state == State::Starting {
            (self.state, self.pid) = (State::Running, pid);
        } else if self.id == id && self.pid == 0 {
            self.pid = pid;
        }
    }

    /// The launcher `id` could not be registered.
    pub fn not_registered(&mut self, id: i64) {
        if self.id == id {
            *self = Self::NONE;
        }
    }

    /// The process of the launcher `id` begins, for the first time or again. `table_made_at`: when the shared table was
    /// made, which is after every crash of the server.
    pub fn hello(&mut self, pid: i32, id: i64, table_made_at: i64) -> Hello {
        let is_after_crash = self.state == State::None && id < table_made_at;
        if is_after_crash {
            *self = Self { state: State::Running, pid, id };
            return Hello::AfterCrash;
        }
        if self.id != id || self.state == State::None {
            return Hello::Unknown;
        }
        if self.state == State::Starting {
            self.state = State::Running;
        }
        self.pid = pid;
        Hello::Welcome
    }

    /// Tells the launcher to stop; false when there is none, or it was told before and has no process. `is_alive`: whether the
    /// process `self.pid` runs.
    pub fn stop(&mut self, is_alive: bool) -> bool {
        match self.state {
            State::None => false,
            State::Starting => {
                *self = Self::NONE;
                true
            }
            State::Running => {
                self.state = State::Stopping;
                true
            }
            State::Stopping => is_alive,
        }
    }

    /// Whether the process `pid` of the launcher `id` goes on. If not, it ends; one that was told to stop is gone with this.
    pub fn goes_on(&mut self, pid: i32, id: i64) -> bool {
        let is_mine = self.id == id && self.pid == pid;
        if is_mine && self.state == State::Stopping {
            *self = Self::NONE;
            return false;
        }
        is_mine && self.state == State::Running
    }
}
