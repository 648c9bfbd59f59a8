//! Settings: every `temptoken.*` variable, with its bounds, its context and its check.
//!
//! Lives here: the names, defaults and meanings of settings. May not come in here: what is done with them.

use std::ffi::{CStr, CString, c_char, c_void};
use std::time::Duration;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

use crate::scope;
use crate::token::{self, Prefix};

static SWEEP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(300);
static SWEEP_BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static SWEEP_DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TOKEN_PREFIX: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"tt"));
static TOKEN_HEADER: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"X-Temp-Token"));
static REQUIRE_TOKEN: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Declares the settings to PostgreSQL, once a process.
pub fn define() {
    GucRegistry::define_int_guc(
        c"temptoken.sweep_interval",
        c"Time between the starts of two sweeps.",
        c"The background worker sweeps expired tokens once at start and then at this interval.",
        &SWEEP_INTERVAL,
        1,
        7 * 24 * 60 * 60,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"temptoken.sweep_batch_size",
        c"Most rows that the background worker removes in one transaction.",
        c"A sweep goes on with transactions of this size until no expired token is left.",
        &SWEEP_BATCH_SIZE,
        1,
        1_000_000,
        GucContext::Sighup,
        GucFlags::empty(),
    );
    let define_text = |name, short, long, setting, context, check: pg_sys::GucStringCheckHook| {
        let flags = GucFlags::empty();
        // SAFETY: the hooks are guarded by #[pg_guard] and follow the protocol of check hooks (utils/guc.h).
        unsafe {
            GucRegistry::define_string_guc_with_hooks(name, short, long, setting, context, flags, check, None, None);
        }
    };
    define_text(
        c"temptoken.sweep_databases",
        c"Databases that the background worker sweeps, separated by commas.",
        c"Empty: every database in which the extension is installed.",
        &SWEEP_DATABASES,
        GucContext::Sighup,
        Some(check_sweep_databases),
    );
    define_text(
        c"temptoken.token_prefix",
        c"What new tokens start with, before an underscore.",
        c"1 to 16 lower-case letters, digits and underscores. Tokens minted under another prefix stay valid.",
        &TOKEN_PREFIX,
        GucContext::Suset,
        Some(check_token_prefix),
    );
    define_text(
        c"temptoken.token_header",
        c"Request header in which temptoken_pre_request() looks for a token.",
        c"Without that header it looks for Authorization: Bearer with a token in it.",
        &TOKEN_HEADER,
        GucContext::Suset,
        Some(check_token_header),
    );
    GucRegistry::define_bool_guc(
        c"temptoken.require_token",
        c"Has temptoken_pre_request() refuse requests without a token.",
        c"Off: such requests are left to the other rules of the database.",
        &REQUIRE_TOKEN,
        GucContext::Suset,
        GucFlags::empty(),
    );
    // SAFETY: the settings of that prefix are all defined.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"temptoken".as_ptr()) };
}

/// Time between the starts of two sweeps.
pub fn sweep_interval() -> Duration {
    Duration::from_secs(SWEEP_INTERVAL.get().unsigned_abs().into())
}

/// Most rows that a sweep removes in one transaction.
pub fn sweep_batch_size() -> u64 {
    SWEEP_BATCH_SIZE.get().unsigned_abs().into()
}

/// Whether temptoken.sweep_databases names `database`, or is empty, which means all.
pub fn sweeps_database(database: &CStr) -> bool {
    let (_, names) = sweep_databases();
    names.is_empty() || names.iter().any(|name| name.as_c_str() == database)
}

/// The setting temptoken.sweep_databases: its text, and the names in it.
pub fn sweep_databases() -> (CString, Vec<CString>) {
    let list = SWEEP_DATABASES.get().unwrap_or_default();
    // The check hook has accepted the value, so that it parses.
    let names = parse_names(&list).unwrap_or_default();
    (list, names)
}

/// The request header in which a token is looked for first.
pub fn token_header() -> CString {
    TOKEN_HEADER.get().unwrap_or_default()
}

/// Whether a request without a token is refused.
pub fn require_token() -> bool {
    REQUIRE_TOKEN.get()
}

/// What new tokens start with.
pub fn token_prefix() -> Prefix {
    let set = TOKEN_PREFIX.get();
    // The check hook has accepted the value.
    set.and_then(|text| Prefix::new(text.to_bytes())).or_else(|| Prefix::new(b"tt")).expect("tt is a prefix")
}

/// Names separated by commas, spaces around them ignored, each as it is or in double quotes. `None` when malformed.
fn parse_names(list: &CStr) -> Option<Vec<CString>> {
    // SAFETY: SplitGUCList (utils/varlena.h) writes into the copy and returns a list of pointers into it, in the current
    // memory context; both are read before this function returns.
    unsafe {
        let copy = pg_sys::pstrdup(list.as_ptr());
        let mut elements: *mut pg_sys::List = std::ptr::null_mut();
        let well_formed = pg_sys::SplitGUCList(copy, b',' as c_char, &mut elements);
        let length = elements.as_ref().map_or(0, |list| list.length as usize);
        let name = |at| CStr::from_ptr((*(*elements).elements.add(at)).ptr_value.cast()).to_owned();
        let names = well_formed.then(|| (0..length).map(name).collect());
        pg_sys::list_free(elements);
        pg_sys::pfree(copy.cast());
        names
    }
}

/// A check hook (utils/guc.h): `judge` says what is wrong with a new value, for the DETAIL of the error.
macro_rules! check_hook {
    ($hook:ident, $judge:expr) => {
        #[pgrx::pg_guard]
        unsafe extern "C-unwind" fn $hook(
            value: *mut *mut c_char,
            _extra: *mut *mut c_void,
            _source: pg_sys::GucSource::Type,
        ) -> bool {
            let judge: fn(&CStr) -> Option<&'static CStr> = $judge;
            // SAFETY: PostgreSQL passes a C string, or NULL. It reads the detail while it reports the error, and does not
            // write or free it.
            unsafe {
                let problem = judge(if (*value).is_null() { c"" } else { CStr::from_ptr(*value) });
                if let Some(detail) = problem {
                    pg_sys::GUC_check_errdetail_string = detail.as_ptr().cast_mut();
                }
                problem.is_none()
            }
        }
    };
}

check_hook!(check_sweep_databases, |value| {
    let problem = c"It is not a list of database names separated by commas, each as it is or in double quotes.";
    parse_names(value).is_none().then_some(problem)
});

check_hook!(check_token_prefix, |value| {
    let problem = c"A prefix is 1 to 16 lower-case letters, digits and underscores.";
    (!token::prefix_is_valid(value.to_bytes())).then_some(problem)
});

check_hook!(check_token_header, |value| match value.to_bytes() {
    b"" => Some(c"It is empty. For tokens in Authorization alone, name that header: Authorization."),
    name if scope::is_token(name) => None,
    _ => Some(c"The name of a header is made of letters, digits and !#$%&'*+-.^_`|~ (RFC 9110, section 5.6.2)."),
});
