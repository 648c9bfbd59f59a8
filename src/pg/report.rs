//! Errors, warnings and notices, with any SQLSTATE. pgrx's own way to raise an error knows a closed list of SQLSTATEs, and
//! turns every other one into XX000.

use std::alloc::{GlobalAlloc as _, Layout, System};
use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::datum::copy_to_cstring;
use super::ffi::{
    errcode, errdetail_internal, errfinish, errhidecontext, errhidestmt, errhint, errmsg_internal, errstart,
};
use crate::values::OutOfMemory;

/// What a caller is told. It owns nothing, so that an error can leave by longjmp from the frame that holds it.
#[derive(Clone, Copy)]
pub struct Report {
    sqlstate: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
}

/// What can be raised as an error.
pub trait IntoReport {
    /// Moves the error's texts into the current memory context.
    fn into_report(self) -> Report;
}

impl Report {
    /// The error for which there is no memory.
    pub const OUT_OF_MEMORY: Self = Self {
        sqlstate: encode(b"53200"),
        message: c"temptoken: out of memory".as_ptr(),
        detail: ptr::null(),
        hint: ptr::null(),
    };

    /// A report of these texts, in the database's encoding. An empty detail or hint is left out.
    pub fn new(sqlstate: &[u8; 5], message: &[u8], detail: &[u8], hint: &[u8]) -> Result<Self, OutOfMemory> {
        let copy = |text: &[u8]| if text.is_empty() { Ok(ptr::null()) } else { copy_to_cstring(text) };
        Ok(Self {
            sqlstate: encode(sqlstate),
            message: copy_to_cstring(message)?,
            detail: copy(detail)?,
            hint: copy(hint)?,
        })
    }

    /// Raises an ERROR, which leaves by longjmp.
    ///
    /// # Safety
    /// No frame between the caller and PostgreSQL owns a destructor.
    pub unsafe fn throw(self) -> ! {
        // SAFETY: by the caller's promise.
        unsafe { self.send(PgLogLevel::ERROR) };
        unreachable!("an ERROR does not return")
    }

    /// Sends a WARNING. If the client has cancelled, that error leaves as a panic, which runs destructors.
    pub fn warn(self) {
        // SAFETY: between the guard and errfinish no frame owns a destructor.
        unsafe { pg_guard_ffi_boundary(|| self.send(PgLogLevel::WARNING)) }
    }

    /// # Safety
    /// As of [`Self::throw`], and the texts are alive.
    unsafe fn send(self, level: PgLogLevel) {
        // SAFETY: by the caller's promise; the texts are C strings or NULL, and go through "%s".
        unsafe {
            if errstart(level as c_int, ptr::null()) {
                errcode(self.sqlstate);
                errmsg_internal(c"%s".as_ptr(), self.message);
                if !self.detail.is_null() {
                    errdetail_internal(c"%s".as_ptr(), self.detail);
                }
                if !self.hint.is_null() {
                    errhint(c"%s".as_ptr(), self.hint);
                }
                // By default the server logs the statement that failed, and the functions it was called in. Either may
                // hold the token as a literal.
                errhidestmt(true);
                errhidecontext(true);
                errfinish(c"report.rs".as_ptr(), line!() as c_int, c"send".as_ptr());
            }
        }
    }
}

/// What a guarded call may need in small pieces, and for its error.
pub const ERROR_MEMORY: usize = 64 << 10;

/// Raises 53200, by longjmp, unless this much memory can be had now. pgrx copies an error that it catches into PostgreSQL's
/// memory. If that fails it catches the failure, and so on until PostgreSQL gives up with a PANIC. So whatever is guarded
/// begins with some memory to spare.
pub fn require_memory(bytes: usize) {
    // SAFETY: the layout is not empty.
    unsafe {
        let layout = Layout::from_size_align_unchecked(bytes.max(1), 8);
        let memory = std::hint::black_box(System.alloc(layout));
        if memory.is_null() {
            Report::OUT_OF_MEMORY.throw();
        }
        System.dealloc(memory, layout);
    }
}

/// Sends a NOTICE. It may leave by longjmp.
pub fn notice(message: &'static CStr, hint: &'static CStr) {
    let report = Report { sqlstate: 0, message: message.as_ptr(), detail: ptr::null(), hint: hint.as_ptr() };
    // SAFETY: the texts are static. The callers own no destructors.
    unsafe { report.send(PgLogLevel::NOTICE) }
}

/// PostgreSQL's `MAKE_SQLSTATE` (utils/elog.h): six bits a character.
const fn encode(sqlstate: &[u8; 5]) -> c_int {
    let mut code = 0;
    let mut place = 0;
    while place < 5 {
        code |= (((sqlstate[place] - b'0') & 0x3f) as c_int) << (6 * place);
        place += 1;
    }
    code
}

/// Turns Rust's backtraces off, whatever the server's environment says: pgrx puts them into the DETAIL of every error of
/// PostgreSQL's that it catches. Call this before the first panic, since the standard library reads the environment once.
/// Other libraries are not affected: each has a standard library of its own.
pub fn disable_backtraces() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(VARIABLE);
    // SAFETY: a process of PostgreSQL's has one thread when it loads a library.
    unsafe {
        std::env::set_var(VARIABLE, "0");
        drop(std::backtrace::Backtrace::capture());
        match before {
            Some(value) => std::env::set_var(VARIABLE, value),
            None => std::env::remove_var(VARIABLE),
        }
    }
}
