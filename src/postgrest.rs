//! PostgREST: the request that it is about to serve, read from the settings in which it puts it.
//!
//! Lives here: where PostgREST says what was requested (its documentation, "Transactions", "Transaction-Scoped
//! Settings"), and where in it a token may be. May not come in here: how a token is judged.

use std::ffi::CStr;

use crate::errors::Error;
use crate::pg::{self, Call};
use crate::settings;
use crate::token::prefix_is_valid;
use crate::validate::Request;

/// The most bytes of headers that are read. Servers accept a small part of that.
const HEADERS_MAX: usize = 1 << 20;

/// The request of this transaction. 401 if its headers are too long.
pub fn request<'call>(call: &Call<'call>) -> Result<Request<'call>, Error> {
    let token = match pg::setting(call, c"request.headers")? {
        Some(headers) if headers.len() > HEADERS_MAX => return Err(Error::unauthorized()),
        Some(headers) => token(call, headers),
        None => None,
    };
    Ok(Request { token, method: pg::setting(call, c"request.method")?, path: pg::setting(call, c"request.path")? })
}

/// Has the answer not be cached, unless its headers are set by now: a shared cache knows nothing of the token's header, and would give
/// the answer to whoever comes without a token.
pub fn forbid_caching(call: &Call<'_>) -> Result<(), Error> {
    const HEADERS: &CStr = c"response.headers";
    if pg::setting(call, HEADERS)?.is_none() {
        pg::set_for_transaction(HEADERS, cr#"[{"Cache-Control": "no-store"}]"#);
    }
    Ok(())
}

/// The token in `headers`, a JSON object of lower-case names: the value of the header that the setting names, else what
/// follows `Bearer` in Authorization, if that looks like a token and not like one of PostgREST's own.
fn token<'call>(call: &Call<'call>, headers: &[u8]) -> Option<&'call [u8]> {
    /// How often PostgreSQL and pgrx copy the headers at most, for the errors of what is no JSON: there are two lookups, and
    /// what the first has taken is not free again.
    const COPIES: usize = 16;
    const AUTHORIZATION: &[u8] = b"authorization";
    pg::require_memory(COPIES * headers.len());
    let name = settings::token_header().to_bytes().to_ascii_lowercase();
    let named = if name == AUTHORIZATION { None } else { pg::json_field(call, headers, &name) };
    named.or_else(|| pg::json_field(call, headers, AUTHORIZATION).and_then(bearer))
}

/// The token in `Bearer TOKEN` (RFC 6750, section 2.1; the scheme without regard to case).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let space = authorization.iter().position(|byte| *byte == b' ')?;
    let (scheme, token) = (&authorization[..space], &authorization[space + 1..]);
    let underscore = token.iter().rposition(|byte| *byte == b'_')?;
    (scheme.eq_ignore_ascii_case(b"bearer") && prefix_is_valid(&token[..underscore])).then_some(token)
}
