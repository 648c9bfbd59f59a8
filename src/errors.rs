//! Refusals and errors: name, SQLSTATE, message and hint of each, in one table, and the one way to raise them.
//!
//! Lives here: everything a caller is told when the answer is no. May not come in here: rules, storage, and above all
//! token text: no message is ever made of a token, a secret or a digest.

use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum};

use crate::pg::{self, Call, OutOfMemory};
use crate::scope::{self, MintProblem, Problem, RESOURCE_ID_MAX, SUSPICIONS_MAX, Seconds, Suspicion};

/// Validation's answer to a request that it does not authorize, in the order in which it judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    TokenNotFound,
    TokenExpired,
    ScopeUnknown,
    RouteNotAllowed,
    TokenUsedUp,
}

impl Refusal {
    /// The name that `temptoken_try_validate` answers as its status.
    pub fn name(self) -> &'static str {
        self.kind().entry().name
    }

    fn kind(self) -> Kind {
        match self {
            Self::TokenNotFound => Kind::TokenNotFound,
            Self::TokenExpired => Kind::TokenExpired,
            Self::ScopeUnknown => Kind::ScopeUnknown,
            Self::RouteNotAllowed => Kind::RouteNotAllowed,
            Self::TokenUsedUp => Kind::TokenUsedUp,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    TokenNotFound,
    TokenExpired,
    ScopeUnknown,
    RouteNotAllowed,
    TtlExceedsMax,
    TokenUsedUp,
    ScopeAlreadyRegistered,
    InvalidScope,
    InvalidResourceId,
    InvalidMaxUses,
    InvalidArray,
    RepeatedResourceId,
    OutOfMemory,
    TemporaryTable,
    UntrustedFunction,
    TooManyResourceIds,
    NoRandomness,
    TablesMissing,
    NoTrigger,
    TriggerArguments,
    TriggerColumn,
    SweepPreloaded,
    SweepExcluded,
    NoWorkerSlot,
    Unauthorized,
}

struct Entry {
    name: &'static str,
    sqlstate: &'static [u8; 5],
    message: &'static str,
    hint: &'static CStr,
}

impl Kind {
    /// The table. Class TT is this extension's own, PGRST is PostgREST's, the others are PostgreSQL's.
    const fn entry(self) -> Entry {
        const fn row(
            name: &'static str,
            sqlstate: &'static [u8; 5],
            message: &'static str,
            hint: &'static CStr,
        ) -> Entry {
            Entry { name, sqlstate, message, hint }
        }
        match self {
            Self::TokenNotFound => row(
                "token_not_found",
                b"TT001",
                "token not found",
                c"It was deleted or swept, was never minted here, or is not a whole token. Mint a new one.",
            ),
            Self::TokenExpired => row("token_expired", b"TT002", "token expired", c"Mint a new token."),
            Self::ScopeUnknown => row(
                "scope_unknown",
                b"TT003",
                "scope is not registered",
                c"Register it with temptoken_register_scope().",
            ),
            Self::RouteNotAllowed => row(
                "route_not_allowed",
                b"TT004",
                "route not allowed",
                c"Pass the method and the raw path as the router sees it: before decoding, without the query string.",
            ),
            Self::TtlExceedsMax => row(
                "ttl_exceeds_max",
                b"TT005",
                "ttl is not allowed",
                c"Pass a finite interval greater than zero, without months or years, and at most the scope's max_ttl. \
                  PostgreSQL reads a number without a unit as seconds.",
            ),
            Self::TokenUsedUp => row("token_used_up", b"TT006", "token used up", c"Mint a new token."),
            Self::ScopeAlreadyRegistered => row(
                "scope_already_registered",
                b"TT010",
                "scope is already registered",
                c"To change a registered scope, pass replace => true.",
            ),
            Self::InvalidScope => row(
                "invalid_scope",
                b"TT011",
                "invalid scope",
                c"A scope looks like temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}').",
            ),
            Self::InvalidResourceId => row(
                "invalid_resource_id",
                b"TT012",
                "invalid resource id",
                c"Where the scope has a placeholder, pass one path segment of RFC 3986 characters without percent-encoding, \
                  which up to its first semicolon is neither empty nor . or .. (dots).",
            ),
            Self::InvalidMaxUses => row(
                "invalid_parameter_value",
                b"22023",
                "max_uses must be positive",
                c"Pass NULL for the scope's own limit, or a positive number that is not over it.",
            ),
            Self::InvalidArray => row(
                "array_subscript_error",
                b"2202E",
                "resource_ids must be a one-dimensional array",
                c"Pass ARRAY['id 1', 'id 2'].",
            ),
            Self::RepeatedResourceId => row(
                "invalid_parameter_value",
                b"22023",
                "resource_ids names a resource id twice",
                c"With replace => true, name each resource id once: only one token of it can be the newest.",
            ),
            Self::OutOfMemory => row(
                "out_of_memory",
                b"53200",
                "out of memory",
                c"Pass less at a time.",
            ),
            Self::TemporaryTable => row(
                "insufficient_privilege",
                b"42501",
                "code on the extension's tables names a temporary table of this session",
                c"Triggers, rules and constraints on the tables of schema temptoken must qualify what they name, such as \
                  public.audit_log.",
            ),
            Self::UntrustedFunction => row(
                "insufficient_privilege",
                b"42501",
                "code on the extension's tables calls a function of a role that is neither their owner nor a superuser",
                c"Whoever owns that function would act as the tables' owner. Give it to the owner or a superuser \
                  (ALTER FUNCTION ... OWNER TO), make it SECURITY DEFINER, or qualify the name that found it.",
            ),
            Self::TooManyResourceIds => row(
                "program_limit_exceeded",
                b"54000",
                "resource_ids has more than 1000000 elements",
                c"Mint them in several calls.",
            ),
            Self::NoRandomness => row(
                "system_error",
                b"58000",
                "the operating system gave no random bytes",
                c"Check that the getrandom system call is permitted to the server.",
            ),
            Self::TablesMissing => row(
                "undefined_table",
                b"42P01",
                "the extension's tables are missing or were altered in this database",
                c"Give the tables of schema temptoken their columns back, or drop the extension and create it again.",
            ),
            Self::NoTrigger => row(
                "trigger_protocol_violated",
                b"39P01",
                "temptoken_delete_by_resource_id_trigger() is not called as a trigger that it can be",
                c"Create it AFTER DELETE OR UPDATE, FOR EACH ROW.",
            ),
            Self::TriggerArguments => row(
                "invalid_parameter_value",
                b"22023",
                "temptoken_delete_by_resource_id_trigger() takes two arguments",
                c"EXECUTE FUNCTION temptoken_delete_by_resource_id_trigger('scope', 'column')",
            ),
            Self::TriggerColumn => row(
                "undefined_column",
                b"42703",
                "the column of temptoken_delete_by_resource_id_trigger() cannot hold a resource id",
                c"Name a column of the trigger's table that is of type text, varchar, uuid, smallint, integer or bigint.",
            ),
            Self::SweepPreloaded => row(
                "object_not_in_prerequisite_state",
                b"55000",
                "the library is preloaded, and its sweep worker starts and ends with the server",
                c"To choose the databases that it sweeps, set temptoken.sweep_databases.",
            ),
            Self::SweepExcluded => row(
                "object_not_in_prerequisite_state",
                b"55000",
                "this database is a template, or not named by temptoken.sweep_databases",
                c"Add its name to temptoken.sweep_databases, and reload the configuration.",
            ),
            Self::NoWorkerSlot => row(
                "insufficient_resources",
                b"53000",
                "no background worker slot is free",
                c"Raise max_worker_processes, which takes a restart of the server.",
            ),
            // What PostgREST makes of it is in the message and the detail, not here.
            Self::Unauthorized => row("unauthorized", b"PGRST", "", c""),
        }
    }
}

/// What ends a call that cannot answer. Owns bytes in the database's encoding.
pub struct Error {
    kind: Kind,
    message: Vec<u8>,
    detail: String,
}

impl Error {
    fn new(kind: Kind) -> Self {
        Self { kind, message: kind.entry().message.into(), detail: String::new() }
    }

    fn with_detail(kind: Kind, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..Self::new(kind) }
    }

    /// Names `scope` in the message, where it may be quoted: `scope "files" is not registered`.
    fn about_scope(kind: Kind, scope: &[u8], rest: &str) -> Self {
        Self { message: format!("{} {rest}", named("scope", scope)).into(), ..Self::new(kind) }
    }

    /// A refusal of validation; `scope` is the token's, where that is known and helps.
    pub fn refusal(refusal: Refusal, scope: &[u8]) -> Self {
        match refusal {
            Refusal::ScopeUnknown => Self::scope_unknown(scope),
            Refusal::RouteNotAllowed => {
                Self::about_scope(Kind::RouteNotAllowed, scope, "does not allow this method and path for this token")
            }
            _ => Self::new(refusal.kind()),
        }
    }

    /// Mint: there is no scope of that name.
    pub fn scope_unknown(scope: &[u8]) -> Self {
        Self::about_scope(Kind::ScopeUnknown, scope, "is not registered")
    }

    /// Mint: the rules of `scope`, whose longest TTL is `max_ttl` microseconds, do not let this token be.
    pub fn mint(problem: MintProblem, scope: &[u8], max_ttl: i64) -> Self {
        match problem {
            MintProblem::Ttl { given } => {
                let rest = format!("allows a ttl greater than zero and at most {}", Seconds(max_ttl.into()));
                let detail = match given {
                    None => "The ttl given is NULL.".to_owned(),
                    Some(ttl) if ttl.length().is_some_and(|length| length <= max_ttl) => {
                        format!(
                            "The ttl given is {ttl}. It would end after the latest time that an id can hold, in 10889."
                        )
                    }
                    Some(ttl) => format!("The ttl given is {ttl}."),
                };
                Self { detail, ..Self::about_scope(Kind::TtlExceedsMax, scope, &rest) }
            }
            MintProblem::ResourceId => Self::with_detail(
                Kind::InvalidResourceId,
                format!("It is NULL, longer than {RESOURCE_ID_MAX} bytes, or cannot stand in the paths of its scope."),
            ),
            MintProblem::MaxUses => Self::new(Kind::InvalidMaxUses),
            MintProblem::MaxUsesOverScope { most } => Self {
                message: format!("max_uses is over the scope's, which is {most}").into(),
                ..Self::new(Kind::InvalidMaxUses)
            },
        }
    }

    /// register_scope: the name is taken.
    pub fn scope_already_registered(scope: &[u8]) -> Self {
        Self::about_scope(Kind::ScopeAlreadyRegistered, scope, "is already registered")
    }

    /// A scope breaks a rule, from whichever side it comes.
    pub fn invalid_scope(scope: Option<&[u8]>, problem: &Problem) -> Self {
        if *problem == Problem::OutOfMemory {
            return Self::new(Kind::OutOfMemory);
        }
        let error = Self::about_scope(Kind::InvalidScope, scope.unwrap_or_default(), "is invalid");
        Self { detail: format!("Rule broken: {problem}."), ..error }
    }

    /// mint_many: the resource ids are an array of arrays.
    pub fn invalid_array() -> Self {
        Self::new(Kind::InvalidArray)
    }

    /// mint_many with `replace`: a resource id stands in the array twice.
    pub fn repeated_resource_id() -> Self {
        Self::new(Kind::RepeatedResourceId)
    }

    /// Code of the owner's on our tables names a temporary table that is not the owner's.
    pub fn temporary_table() -> Self {
        Self::new(Kind::TemporaryTable)
    }

    /// Code of the owner's on our tables calls a function that somebody else has written.
    pub fn untrusted_function() -> Self {
        Self::new(Kind::UntrustedFunction)
    }

    /// The trigger function is called in another way than as an AFTER ROW trigger of DELETE or UPDATE.
    pub fn no_trigger() -> Self {
        Self::new(Kind::NoTrigger)
    }

    /// The trigger function has other than two arguments.
    pub fn trigger_arguments() -> Self {
        Self::new(Kind::TriggerArguments)
    }

    /// The trigger function's column is not there, or of another type than a resource id can have.
    pub fn trigger_column(column: &[u8]) -> Self {
        let message = format!("{} cannot hold a resource id", named("column", column));
        Self { message: message.into(), ..Self::new(Kind::TriggerColumn) }
    }

    /// The sweep worker of a preloaded library cannot be started or stopped from SQL.
    pub fn sweep_preloaded() -> Self {
        Self::new(Kind::SweepPreloaded)
    }

    /// The sweep worker would pass this database over.
    pub fn sweep_excluded() -> Self {
        Self::new(Kind::SweepExcluded)
    }

    /// PostgreSQL has no place for another background worker.
    pub fn no_worker_slot() -> Self {
        Self::new(Kind::NoWorkerSlot)
    }

    /// A request through PostgREST that is not authorized: 401, the same for every refusal. PostgREST makes its answer of
    /// the JSON in message and detail (its documentation, "Errors", "RAISE Headers").
    pub fn unauthorized() -> Self {
        let message = br#"{"code":"401","message":"unauthorized","details":null,"hint":null}"#;
        let detail = r#"{"status":401,"headers":{"WWW-Authenticate":"Bearer"}}"#;
        Self { message: message.into(), ..Self::with_detail(Kind::Unauthorized, detail) }
    }

    /// mint_many: more resource ids than one call takes.
    pub fn too_many_resource_ids() -> Self {
        Self::new(Kind::TooManyResourceIds)
    }

    /// The random generator failed.
    pub fn no_randomness() -> Self {
        Self::new(Kind::NoRandomness)
    }

    /// The schema temptoken or a table in it is gone, or has other columns than the extension made.
    pub fn tables_missing() -> Self {
        Self::new(Kind::TablesMissing)
    }

    /// Moves the error into the current memory context, so that the frame that throws it owns nothing.
    fn into_report(self) -> Report {
        self.report().unwrap_or(Report::OUT_OF_MEMORY)
    }

    fn report(&self) -> Result<Report, OutOfMemory> {
        let prefix: &[u8] = if matches!(self.kind, Kind::Unauthorized) { b"" } else { b"temptoken: " };
        let message = [prefix, &self.message].concat();
        let detail = (!self.detail.is_empty()).then_some(self.detail.as_bytes());
        let entry = self.kind.entry();
        Ok(Report {
            sqlstate: encode(entry.sqlstate),
            message: pg::copy_to_cstring(&message)?,
            detail: detail.map_or(Ok(std::ptr::null()), pg::copy_to_cstring)?,
            hint: if entry.hint.is_empty() { std::ptr::null() } else { entry.hint.as_ptr() },
        })
    }
}

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::new(Kind::OutOfMemory)
    }
}

/// `what` with its name, where the name may be quoted: `scope "files"`. Every caller's text in a message comes this way.
fn named(what: &str, name: &[u8]) -> String {
    scope::quotable(name).map_or_else(|| what.to_owned(), |name| format!("{what} \"{name}\""))
}

/// Raises a WARNING, of SQLSTATE 01000, that routes of the scope `name` are probably mistakes.
pub fn warn_of_routes(name: &[u8], suspicions: &[Suspicion]) {
    if suspicions.is_empty() {
        return;
    }
    let message =
        format!("temptoken: {} is registered, and has routes that are probably mistakes", named("scope", name));
    let mut detail: Vec<String> = suspicions.iter().map(Suspicion::to_string).collect();
    if suspicions.len() == SUSPICIONS_MAX {
        detail.push("There may be more.".to_owned());
    }
    let mut hints: Vec<&str> = Vec::new();
    for suspicion in suspicions {
        if !hints.contains(&suspicion.kind.hint()) {
            hints.push(suspicion.kind.hint());
        }
    }
    let texts = [message, detail.join("\n"), hints.join(" ")].map(|text| pg::copy_to_cstring(text.as_bytes()));
    // Where there is no memory for a warning there is none.
    let [Ok(message), Ok(detail), Ok(hint)] = texts else { return };
    let report = Report { sqlstate: encode(b"01000"), message, detail, hint };
    // SAFETY: a warning looks for a cancel once it is sent, and may leave by longjmp. The guard turns that into a panic,
    // which runs the destructors of the callers; between it and errfinish no frame has any.
    unsafe { pg_guard_ffi_boundary(|| report.send(pg_sys::elog::PgLogLevel::WARNING)) }
}

impl From<pg::TableGone> for Error {
    fn from(_: pg::TableGone) -> Self {
        Self::tables_missing()
    }
}

/// Runs the body of an SQL function: arguments in; a value, or NULL, or an error out.
///
/// # Safety
/// `fcinfo` is the one that PostgreSQL passed, and the calling frame owns nothing that has a destructor.
pub unsafe fn answer(fcinfo: pg_sys::FunctionCallInfo, body: fn(&Call<'_>) -> Result<Option<Datum>, Error>) -> Datum {
    // SAFETY: the guard turns a panic into an ERROR and runs directly under PostgreSQL's frame. A report owns nothing,
    // so throwing it from this frame skips no destructor.
    unsafe {
        let run = || {
            let call = Call::new(fcinfo);
            body(&call).map(|value| call.give(value)).map_err(Error::into_report)
        };
        match pg_sys::panic::pgrx_extern_c_guard(run) {
            Ok(datum) => datum,
            Err(report) => report.throw(),
        }
    }
}

/// Raises `error`, where there is no SQL function to answer for.
///
/// # Safety
/// As of [`Report::throw`].
pub unsafe fn raise(error: Error) -> ! {
    // SAFETY: by the caller's promise; the error is consumed before it is thrown.
    unsafe { error.into_report().throw() }
}

/// Has no error carry a backtrace of Rust's, whatever the server's environment says: pgrx would put it into the DETAIL of
/// every error of PostgreSQL's that passes through it. To be called before the first panic: the standard library asks the
/// environment once, and each library has a standard library of its own.
pub fn without_backtraces() {
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

/// Sends the caller a NOTICE. Control may leave by longjmp: no calling frame may own anything that has a destructor.
pub fn notice(message: &'static CStr, hint: &'static CStr) {
    // SAFETY: the texts are NUL-terminated, and go through "%s". Every caller keeps the promise about destructors.
    unsafe {
        if errstart(pg_sys::elog::PgLogLevel::NOTICE as c_int, std::ptr::null()) {
            errmsg_internal(c"%s".as_ptr(), message.as_ptr());
            errhint(c"%s".as_ptr(), hint.as_ptr());
            errfinish(c"errors.rs".as_ptr(), line!() as c_int, c"notice".as_ptr());
        }
    }
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

/// An error ready to be thrown: nothing in it needs to be dropped.
#[derive(Clone, Copy)]
struct Report {
    sqlstate: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
}

// pgrx's own way to raise an error takes a closed list of SQLSTATEs and turns every other into XX000, so the functions
// behind ereport() are declared here (utils/elog.h; the same from 13 to 18).
unsafe extern "C-unwind" {
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errhidestmt(hide: bool) -> c_int;
    fn errhidecontext(hide: bool) -> c_int;
    fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
}

impl Report {
    /// The error of an error that there is no memory for.
    const OUT_OF_MEMORY: Self = Self {
        sqlstate: encode(b"53200"),
        message: c"temptoken: out of memory".as_ptr(),
        detail: std::ptr::null(),
        hint: std::ptr::null(),
    };

    /// Raises the error. Control leaves by longjmp.
    ///
    /// # Safety
    /// No frame between the caller and PostgreSQL may own anything that has a destructor.
    unsafe fn throw(self) -> ! {
        // SAFETY: by the caller's promise.
        unsafe { self.send(pg_sys::elog::PgLogLevel::ERROR) };
        unreachable!("an ERROR does not return")
    }

    /// Reports at `level`, from a frame that owns nothing. Control may leave by longjmp.
    ///
    /// # Safety
    /// As of [`Self::throw`].
    unsafe fn send(self, level: pg_sys::elog::PgLogLevel) {
        // SAFETY: the pointers are NUL-terminated strings in a live memory context or static ones; every text goes
        // through "%s". That nothing is skipped by the longjmp of errfinish is the caller's promise.
        unsafe {
            if errstart(level as c_int, std::ptr::null()) {
                errcode(self.sqlstate);
                errmsg_internal(c"%s".as_ptr(), self.message);
                if !self.detail.is_null() {
                    errdetail_internal(c"%s".as_ptr(), self.detail);
                }
                if !self.hint.is_null() {
                    errhint(c"%s".as_ptr(), self.hint);
                }
                // At default settings the server logs the statement of an error, and in its context those of functions: with
                // the token, where it is a literal.
                errhidestmt(true);
                errhidecontext(true);
                errfinish(c"errors.rs".as_ptr(), line!() as c_int, c"send".as_ptr());
            }
        }
    }
}
