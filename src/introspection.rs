//! Introspection: what is said of a token to those who may ask (RFC 7662).
//!
//! Lives here: the JSON of the response. May not come in here: how a token is found, or found active.

use std::fmt::Write as _;

use crate::pg::{Call, Datum, StringInfo};
use crate::store::tokens::TokenRow;

/// The response (RFC 7662, section 2.2): of a token that is not active nothing but that.
pub fn response(call: &Call<'_>, active: Option<&TokenRow<'_>>) -> Datum {
    let mut json = StringInfo::new(call);
    match active {
        None => json.push(br#"{"active": false}"#),
        Some(row) => describe(&mut json, row),
    }
    json.to_jsonb()
}

fn describe(json: &mut StringInfo, row: &TokenRow<'_>) {
    json.push(br#"{"active": true, "scope": "#);
    quote(json, row.scope.bytes);
    json.push(br#", "sub": "#);
    quote(json, row.resource_id.bytes);
    // NumericDate (RFC 7519, section 2): seconds since 1970. Cut, so that neither lies in the future of what is meant.
    let [issued, expires] = [row.created_at, row.expires_at].map(|micros| micros.div_euclid(1_000_000));
    let _ = write!(json, r#", "jti": "{}", "iat": {issued}, "exp": {expires}}}"#, row.id);
}

/// `text`, in the database's encoding, as a JSON string (RFC 8259, section 7). PostgreSQL's encodings for databases use
/// the bytes of ASCII for nothing else, so that looking at bytes is enough.
fn quote(json: &mut StringInfo, text: &[u8]) {
    json.push(b"\"");
    for byte in text {
        match byte {
            b'"' | b'\\' => json.push(&[b'\\', *byte]),
            0..0x20 => _ = write!(json, "\\u{byte:04x}"),
            _ => json.push(&[*byte]),
        }
    }
    json.push(b"\"");
}
