//! A launcher for one database, started and stopped by SQL, where the library is not preloaded.
//!
//! The postmaster starts its process again after an error, so that a launcher without a process is not gone. It is gone once
//! its process has returned. [`goes_on`] alone has it do so. [`ByHand`], in its place, says what is wanted of it.
//!
//! A crash of the server makes shared memory anew. The launcher that the postmaster starts after it finds no place, and ends.

use std::mem;
use std::time::{Duration, Instant};

use pgrx::bgworkers::DynamicBackgroundWorker;
use pgrx::pg_sys::{self, Datum};

use super::place::ByHand;
use super::{idle, is_running, is_told_to_end, launcher, sleep, status, wake};
use crate::errors::{Error, Kind};
use crate::pg;

/// Starts a launcher for this database alone. False if there is one: it runs, is about to come back after an error, or was told
/// to stop and has not yet. Then it goes on.
pub fn start() -> Result<bool, Error> {
    if status::is_preloaded() {
        return Err(Kind::SweepPreloaded.into());
    }
    if !pg::of_database(launcher::is_to_be_swept) {
        return Err(Kind::SweepExcluded.into());
    }
    let database = pg::database_oid();
    match status::change(database, |place| mem::replace(&mut place.by_hand, ByHand::Wanted)) {
        None => return Err(Kind::NoWorkerSlot.into()),
        Some(ByHand::None) => {}
        Some(ByHand::Wanted | ByHand::Stopping) => return Ok(false),
    }
    // Until it is registered this session looks at no signal. So nobody finds a launcher wanted that never comes.
    let Some(registered) = register(database) else {
        status::amend(database, |place| place.by_hand = ByHand::None);
        return Err(Kind::NoWorkerSlot.into());
    };
    // An error means that it was terminated by now. It comes back.
    if let Ok(pid) = registered.wait_for_startup() {
        status::amend(database, |place| {
            // If it has said hello, it may have ended, or be another process already.
            if place.launcher == 0 && place.by_hand != ByHand::None {
                place.launcher = pid;
            }
        });
    }
    Ok(true)
}

/// Registers a launcher for `database`. `None` unless a second slot is free, which its workers need: were launchers alone to take
/// all slots, nothing would be swept by any of them.
fn register(database: u32) -> Option<DynamicBackgroundWorker> {
    let second = super::builder("temptoken slot", "temptoken_slot_main", 0).load_dynamic().ok()?;
    let launcher = launcher::builder(database).set_notify_pid(pg::pid()).load_dynamic();
    _ = second.terminate();
    launcher.ok()
}

/// How long a second slot is held at most, should [`register`] not come to its end.
const HELD: Duration = Duration::from_secs(10);

/// Main of the process that holds the second slot until [`register`] ends it. That is mostly before the postmaster starts it.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn temptoken_slot_main(_argument: Datum) {
    pg::listen_to_signals();
    let begun = Instant::now();
    // The latch is set as a process begins.
    while !is_told_to_end() && begun.elapsed() < HELD {
        sleep(HELD, idle());
    }
}

/// Stops the launcher that [`start`] has started, and waits until its process has ended. False if there is none, or it was told
/// before and has no process.
pub fn stop() -> Result<bool, Error> {
    if status::is_preloaded() {
        return Err(Kind::SweepPreloaded.into());
    }
    let database = pg::database_oid();
    let told = status::amend(database, |place| {
        let before = place.by_hand;
        if before == ByHand::Wanted {
            place.by_hand = ByHand::Stopping;
        }
        (before, place.launcher)
    });
    let Some((before @ (ByHand::Wanted | ByHand::Stopping), pid)) = told else { return Ok(false) };
    let was_there = before == ByHand::Wanted || is_running(pid);
    // Another session may want it again.
    while is_running(pid) && !status::of(database).is_some_and(|place| place.by_hand == ByHand::Wanted) {
        wake(pid);
        sleep(Duration::from_millis(10), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
        pg::check_for_interrupts();
    }
    Ok(was_there)
}

/// This process begins as the launcher of `database`, for the first time or again. Whether it goes on.
pub fn hello(database: u32) -> bool {
    status::amend(database, |place| place.launcher = pg::pid());
    goes_on(database)
}

/// Whether this process goes on as the launcher of `database`. If not, it returns. From this moment on a start begins another
/// launcher; before it, this one goes on.
pub fn goes_on(database: u32) -> bool {
    let goes_on = status::amend(database, |place| match place.by_hand {
        // Another one was started after a crash, or after the extension was dropped.
        _ if place.launcher != pg::pid() => false,
        ByHand::None => false,
        ByHand::Wanted => true,
        ByHand::Stopping => {
            (place.by_hand, place.launcher) = (ByHand::None, 0);
            false
        }
    });
    goes_on == Some(true)
}
