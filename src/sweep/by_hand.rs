//! A launcher for one database, started and stopped by SQL, where the library is not preloaded. Its states and their diagram
//! are in `by_hand_state`.

use std::time::Duration;

use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::{self, Oid};

use super::by_hand_state::{Hello, State};
use super::{is_running, launcher, sleep, status, wake};
use crate::pg;

/// What came of starting a launcher.
pub enum Start {
    Started,
    /// One was started before. It may be about to come back after an error.
    Already,
    NoSlot,
}

/// Starts a launcher for `database` alone.
pub fn start(database: u32) -> Start {
    // At least the time at which the memory was allocated. A launcher that survived a crash has an older id.
    let (me, id) = (pg::pid(), status::made_at().max(pg::now()));
    loop {
        let seen = status::of(database).map_or(0, |place| place.by_hand.pid);
        let is_alive = is_running(seen);
        // `is_running` takes locks of its own, during which the place may change.
        let reserved = status::change(database, |place| {
            (place.by_hand.pid == seen).then(|| place.by_hand.reserve(me, id, is_alive))
        });
        match reserved {
            Some(Some(true)) => break,
            Some(Some(false)) => return Start::Already,
            Some(None) => pg::check_for_interrupts(),
            None => return Start::NoSlot,
        }
    }
    let registered = launcher::builder(&format!("{} for database {database}", launcher::NAME))
        .set_argument(Some(Oid::from(database).into()))
        .set_extra(&id.to_string())
        .set_notify_pid(me)
        .load_dynamic();
    let Ok(registered) = registered else {
        status::amend(database, |place| place.by_hand.not_registered(id));
        return Start::NoSlot;
    };
    status::amend(database, |place| place.by_hand.registered(id, 0));
    // If it was terminated before it said hello, it has no process now. It is registered, so that it comes back.
    if let Ok(pid) = registered.wait_for_startup() {
        status::amend(database, |place| place.by_hand.registered(id, pid));
    }
    Start::Started
}

/// Stops the launcher that was started for `database`, and waits until it has ended; false when there was none.
pub fn stop(database: u32) -> bool {
    let here = || status::of(database).map(|place| place.by_hand);
    // A session is registering it. If it were told to stop now, it would take a worker slot until it has come and gone.
    while here()
        .is_some_and(|by_hand| by_hand.state == State::Starting && by_hand.pid != pg::pid() && is_running(by_hand.pid))
    {
        pause();
    }
    let pid = here().map_or(0, |by_hand| by_hand.pid);
    let is_alive = is_running(pid);
    if status::amend(database, |place| place.by_hand.stop(is_alive && place.by_hand.pid == pid)) != Some(true) {
        return false;
    }
    let is_stopping = || here().is_some_and(|by_hand| by_hand.state == State::Stopping && by_hand.pid == pid);
    while is_running(pid) && is_stopping() {
        wake(pid);
        pause();
    }
    true
}

/// Waits a moment for the place to change.
fn pause() {
    sleep(Duration::from_millis(10), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
    pg::check_for_interrupts();
}

/// Whether the launcher of `database` was told to stop.
pub fn is_told_to_stop(database: u32) -> bool {
    status::of(database).is_some_and(|place| place.by_hand.state == State::Stopping)
}

/// This process, as the launcher of one database.
#[derive(Clone, Copy)]
pub struct Me {
    pub database: u32,
    id: i64,
}

impl Me {
    /// Says hello. `None` when another has come after it, or the extension was dropped: the process ends.
    pub fn hello(database: u32) -> Option<Self> {
        let me = Self { database, id: BackgroundWorker::get_extra().parse().unwrap_or(0) };
        let (pid, made_at, now) = (pg::pid(), status::made_at(), pg::now());
        let hello = status::change(database, |place| {
            let hello = place.by_hand.hello(pid, me.id, made_at);
            if hello == Hello::AfterCrash {
                place.note_crash(now);
            }
            hello
        });
        (hello != Some(Hello::Unknown) && me.goes_on()).then_some(me)
    }

    /// Whether this process goes on: it is the launcher of its database, and has not been told to stop.
    pub fn goes_on(self) -> bool {
        status::amend(self.database, |place| place.by_hand.goes_on(pg::pid(), self.id)).unwrap_or(false)
    }
}
