//! PostgREST: the request that it is about to serve, read from the settings in which it puts it.
//!
//! Lives here: where PostgREST says what was requested (its documentation, "Transactions", "Transaction-Scoped
//! Settings"), and where in it a token may be. May not come in here: how a token is judged.

use serde_json::Value;

use crate::pg::{self, Call};
use crate::settings;
use crate::token::prefix_is_valid;
use crate::validate::Request;

/// Reads the request of this transaction.
pub fn request<'call>(call: &Call<'call>) -> Request<'call> {
    Request {
        token: pg::setting(call, c"request.headers").and_then(|headers| token(call, headers)),
        method: pg::setting(call, c"request.method"),
        path: pg::setting(call, c"request.path"),
    }
}

/// The token in `headers`, a JSON object of lower-case names: the value of the header that the setting names, else what
/// follows `Bearer` in Authorization, where that looks like a token and not like one of PostgREST's own.
fn token<'call>(call: &Call<'call>, headers: &[u8]) -> Option<&'call [u8]> {
    let headers: Value = serde_json::from_slice(headers).ok()?;
    let header = |name: &str| headers.get(name).and_then(Value::as_str);
    let named = settings::token_header().to_string_lossy().to_ascii_lowercase();
    let token = match header(&named).filter(|_| named != "authorization") {
        Some(token) => token,
        None => header("authorization").and_then(bearer)?,
    };
    Some(pg::keep(call, token.as_bytes()))
}

/// The token in `Bearer TOKEN` (RFC 6750, section 2.1; the scheme without regard to case).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    let (prefix, _) = token.rsplit_once('_')?;
    (scheme.eq_ignore_ascii_case("bearer") && prefix_is_valid(prefix.as_bytes())).then_some(token)
}
