//! pg_cron, where it lives in another database than this: it is asked by a background worker that connects there.
//!
//! Lives here: the worker, its three statements, and the shared memory through which question and answer go. May not come
//! in here: what is scheduled; sql/sweep.sql says that.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, DynamicBackgroundWorker};
use pgrx::pg_sys::{self, Datum, Oid};

use super::{LIBRARY, catch, has_ended, listen_to_signals, override_settings, sleep};
use crate::errors::Error;
use crate::pg::{self, Call};

/// Schedules a job that runs `command` in this database, as the caller; its id.
pub fn schedule(call: &Call<'_>, name: &[u8], schedule: &[u8], command: &[u8]) -> Result<u64, Error> {
    let database = pg::database_name_of(call);
    let job = ask(call, pg::user(), Question::Schedule, &[name, schedule, command, database])?;
    Ok(number(job))
}

/// Unschedules the caller's job of this name; whether there was one.
pub fn unschedule(call: &Call<'_>, name: &[u8]) -> Result<bool, Error> {
    Ok(number(ask(call, pg::user(), Question::Unschedule, &[name])?) > 0)
}

/// The schedule of an active job, whoever's, of this database with a command like `command`.
pub fn find<'call>(call: &Call<'call>, command: &[u8]) -> Result<Option<&'call [u8]>, Error> {
    ask(call, Oid::INVALID, Question::Find, &[pg::database_name_of(call), command])
}

fn number(answer: Option<&[u8]>) -> u64 {
    answer.and_then(|text| str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0)
}

/// What pg_cron is asked.
#[derive(Clone, Copy)]
enum Question {
    /// Schedule a job: name, schedule, command, database. The job's id.
    Schedule,
    /// Unschedule the jobs of a name. How many there were.
    Unschedule,
    /// The schedule of an active job, whoever's, in a database, with a command like a pattern. NULL when there is none.
    Find,
}

impl Question {
    const ALL: [Self; 3] = [Self::Schedule, Self::Unschedule, Self::Find];

    fn statement(self) -> &'static CStr {
        match self {
            Self::Schedule => c"SELECT cron.schedule_in_database($1, $2, $3, $4)",
            Self::Unschedule => {
                c"SELECT pg_catalog.count(cron.unschedule(j.jobid)) FROM cron.job AS j
                  WHERE j.jobname OPERATOR(pg_catalog.=) $1 AND j.username OPERATOR(pg_catalog.=) CURRENT_USER"
            }
            Self::Find => {
                c"SELECT j.schedule FROM cron.job AS j
                  WHERE j.database OPERATOR(pg_catalog.=) $1 AND j.command OPERATOR(pg_catalog.~~) $2 AND j.active LIMIT 1"
            }
        }
    }
}

/// The shared memory of one question. The asker makes it, the worker answers in it.
#[repr(C)]
struct Exchange {
    state: AtomicU32,
    question: u32,
    /// The encoding of the arguments. The answer is ASCII.
    encoding: c_int,
    /// How many of `bytes` are in use: the arguments, a NUL after each; then the answer.
    length: usize,
    bytes: [u8; 8192],
}

/// States of an exchange; a worker that dies leaves it at 0.
const NULL: u32 = 1;
const ANSWERED: u32 = 2;
const REFUSED: u32 = 3;

/// What a worker runs under, whatever the database or a role has set.
const OVERRIDES: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"lock_timeout", c"1s"),
];

/// Asks pg_cron, acting as `role` in its database with no more than that role's rights; InvalidOid is the superuser that
/// initdb made. None of the arguments has a NUL in it.
fn ask<'call>(
    call: &Call<'call>,
    role: Oid,
    question: Question,
    arguments: &[&[u8]],
) -> Result<Option<&'call [u8]>, Error> {
    let name = pg::setting_of_loaded_library(call, c"cron.database_name").ok_or_else(Error::cron_missing)?;
    let packed: Vec<u8> = arguments.iter().flat_map(|argument| argument.iter().chain(b"\0")).copied().collect();
    if packed.len() > size_of::<[u8; 8192]>() {
        return Err(Error::cron_refused(b"the schedule is too long"));
    }
    // SAFETY: the segment is as large as an exchange, aligned for any type, and mapped until it is detached; the worker has
    // ended when the answer is read.
    unsafe {
        let database = pg_sys::get_database_oid(pg::copy_to_cstring(name), true);
        if database == Oid::INVALID {
            return Err(Error::cron_refused(b"the database of cron.database_name does not exist"));
        }
        let segment = pg_sys::dsm_create(size_of::<Exchange>(), 0);
        let exchange = pg_sys::dsm_segment_address(segment).cast::<Exchange>();
        ptr::write_bytes(exchange, 0, 1);
        (*exchange).question = question as u32;
        (*exchange).encoding = pg_sys::GetDatabaseEncoding();
        (*exchange).length = packed.len();
        (&mut (*exchange).bytes)[..packed.len()].copy_from_slice(&packed);
        let worker = BackgroundWorkerBuilder::new("temptoken worker for pg_cron")
            .set_library(LIBRARY)
            .set_function("temptoken_cron_worker_main")
            .set_argument(Some(Datum::from(pg_sys::dsm_segment_handle(segment))))
            .set_extra(&format!("{} {}", database.to_u32(), role.to_u32()))
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::ConsistentState)
            .set_restart_time(None)
            .set_notify_pid(pg::pid())
            .load_dynamic();
        let Ok(worker) = worker else {
            pg_sys::dsm_detach(segment);
            return Err(Error::no_worker_slot());
        };
        Awaited(Some(worker)).wait();
        let state = (*exchange).state.load(Ordering::Acquire);
        let text = pg::keep(call, &(&(*exchange).bytes)[..(*exchange).length]);
        pg_sys::dsm_detach(segment);
        match state {
            NULL => Ok(None),
            ANSWERED => Ok(Some(text)),
            REFUSED => Err(Error::cron_refused(text)),
            _ => Err(Error::cron_refused(b"it could not be reached; the server's log says why")),
        }
    }
}

/// A worker that is not left behind: when the wait for it is broken off, it is ended.
struct Awaited(Option<DynamicBackgroundWorker>);

impl Awaited {
    fn wait(&self) {
        while self.0.as_ref().is_some_and(|worker| !has_ended(worker)) {
            sleep(Duration::from_secs(60), pg_sys::WaitEventIPC::WAIT_EVENT_BGWORKER_SHUTDOWN);
            pg::check_for_interrupts();
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.take().map(DynamicBackgroundWorker::terminate);
    }
}

/// Main of the worker; its argument is the handle of the exchange, its extra the oids of database and role.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn temptoken_cron_worker_main(argument: Datum) {
    listen_to_signals();
    override_settings(OVERRIDES);
    let mut oids = BackgroundWorker::get_extra().split(' ').map(|oid| Oid::from(oid.parse::<u32>().unwrap_or(0)));
    let (database, role) = (oids.next().unwrap_or(Oid::INVALID), oids.next().unwrap_or(Oid::INVALID));
    // SAFETY: once, before any access. As any other connection of the role it is turned away where the role may not
    // connect. The segment stays mapped until the process ends.
    let exchange = unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, role, 0);
        pg_sys::StartTransactionCommand();
        let segment = pg_sys::dsm_attach(argument.value() as pg_sys::dsm_handle);
        if segment.is_null() {
            // The asker was cancelled and has gone.
            return;
        }
        pg_sys::dsm_pin_mapping(segment);
        pg_sys::CommitTransactionCommand();
        &mut *pg_sys::dsm_segment_address(segment).cast::<Exchange>()
    };
    let question = Question::ALL[exchange.question as usize % Question::ALL.len()];
    let state = match catch(|| answer(question, exchange)) {
        Ok(state) => state,
        Err(error) => {
            put(exchange, error.message().as_bytes());
            REFUSED
        }
    };
    exchange.state.store(state, Ordering::Release);
}

/// Runs the statement of `question` in a transaction, and puts the first column of its first row into the exchange.
fn answer(question: Question, exchange: &mut Exchange) -> u32 {
    // SAFETY: the order of calls that any background worker follows (test/modules/worker_spi). The arguments are texts in
    // the transaction's memory.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        // Nothing that somebody else may have made under its name is called.
        if pg_sys::get_extension_oid(c"pg_cron".as_ptr(), true) == Oid::INVALID {
            pg_sys::CommitTransactionCommand();
            put(exchange, b"the extension pg_cron is not in the database of cron.database_name");
            return REFUSED;
        }
        pg_sys::SPI_connect();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, question.statement().as_ptr());
        let (mut values, mut types) = ([Datum::from(0); 4], [pg_sys::TEXTOID; 4]);
        let mut count = 0;
        for argument in exchange.bytes[..exchange.length].split_inclusive(|byte| *byte == 0).take(values.len()) {
            let (start, length) = (argument.as_ptr().cast(), argument.len() as c_int - 1);
            // Checked and converted, as what a client sends is; the NUL stays behind what is converted or not.
            let text = pg_sys::pg_any_to_server(start, length, exchange.encoding);
            values[count] = pg::varlena(CStr::from_ptr(text).to_bytes());
            count += 1;
        }
        let done = pg_sys::SPI_execute_with_args(
            question.statement().as_ptr(),
            count as c_int,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            ptr::null::<c_char>(),
            false,
            1,
        );
        let mut state = NULL;
        if done < 0 {
            put(exchange, format!("SPI error {done}").as_bytes());
            state = REFUSED;
        } else if pg_sys::SPI_processed > 0 {
            let table = pg_sys::SPI_tuptable;
            let value = pg_sys::SPI_getvalue(*(*table).vals, (*table).tupdesc, 1);
            if !value.is_null() {
                put(exchange, CStr::from_ptr(value).to_bytes());
                state = ANSWERED;
            }
        }
        pg_sys::SPI_finish();
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        state
    }
}

/// Puts `text` into the exchange, without what the asker's encoding may not have.
fn put(exchange: &mut Exchange, text: &[u8]) {
    let length = text.len().min(exchange.bytes.len());
    for (byte, from) in exchange.bytes.iter_mut().zip(text) {
        *byte = if from.is_ascii() { *from } else { b'?' };
    }
    exchange.length = length;
}
