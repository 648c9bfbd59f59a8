//! PostgREST: the request that it is about to serve, read from the settings in which it puts it.
//!
//! Lives here: where PostgREST says what was requested (its documentation, "Transactions", "Transaction-Scoped
//! Settings"), and where in it a token may be. May not come in here: how a token is judged.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::errors::Error;
use crate::pg::{self, Call};
use crate::settings;
use crate::token::prefix_is_valid;
use crate::validate::Request;

/// The most bytes of headers that are read; servers let through a small part of that.
const HEADERS_MAX: usize = 1 << 20;

/// Reads the request of this transaction.
pub fn request<'call>(call: &Call<'call>) -> Result<Request<'call>, Error> {
    let token = match pg::setting(call, c"request.headers")? {
        Some(headers) if headers.len() > HEADERS_MAX => return Err(Error::unauthorized()),
        Some(headers) => token(call, headers)?,
        None => None,
    };
    Ok(Request { token, method: pg::setting(call, c"request.method")?, path: pg::setting(call, c"request.path")? })
}

/// The token in `headers`, a JSON object of lower-case names: the value of the header that the setting names, else what
/// follows `Bearer` in Authorization, where that looks like a token and not like one of PostgREST's own.
fn token<'call>(call: &Call<'call>, headers: &[u8]) -> Result<Option<&'call [u8]>, Error> {
    let named = settings::token_header().to_string_lossy().to_ascii_lowercase();
    let found = Headers { named: &named };
    let picked = serde_json::Deserializer::from_slice(headers).deserialize_map(found);
    let Ok((named_value, authorization)) = picked else { return Ok(None) };
    let token = match (&named_value, &authorization) {
        (Some(token), _) => Some(token.as_str()),
        (None, Some(authorization)) => bearer(authorization),
        (None, None) => None,
    };
    Ok(token.map(|token| pg::keep(call, token.as_bytes())).transpose()?)
}

/// Picks two headers out of the JSON object: the one that is `named`, and Authorization. Nothing else is kept.
struct Headers<'a> {
    named: &'a str,
}

impl<'json> Visitor<'json> for Headers<'_> {
    type Value = (Option<String>, Option<String>);

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of headers")
    }

    fn visit_map<A: MapAccess<'json>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut named, mut authorization) = (None, None);
        while let Some(name) = map.next_key::<Cow<'json, str>>()? {
            if name == "authorization" {
                authorization = Some(map.next_value()?);
            } else if name == self.named {
                named = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((named, authorization))
    }
}

/// The token in `Bearer TOKEN` (RFC 6750, section 2.1; the scheme without regard to case).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    let (prefix, _) = token.rsplit_once('_')?;
    (scheme.eq_ignore_ascii_case("bearer") && prefix_is_valid(prefix.as_bytes())).then_some(token)
}
