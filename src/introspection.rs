//! Introspection: what is said of a token to those who may ask (RFC 7662).
//!
//! Lives here: the JSON of the response. May not come in here: how a token is found, or found active.

use crate::store::tokens::TokenRow;

/// The response (RFC 7662, section 2.2): of a token that is not active nothing but that.
pub fn response(active: Option<&TokenRow<'_>>) -> Vec<u8> {
    let Some(row) = active else { return br#"{"active": false}"#.into() };
    let mut json = br#"{"active": true, "scope": "#.to_vec();
    json.extend(quote(row.scope.bytes));
    json.extend_from_slice(br#", "sub": "#);
    json.extend(quote(row.resource_id.bytes));
    json.extend_from_slice(format!(r#", "jti": "{}""#, row.id).as_bytes());
    // NumericDate (RFC 7519, section 2): seconds since 1970. Cut, so that neither lies in the future of what is meant.
    let seconds = |micros: i64| micros.div_euclid(1_000_000);
    json.extend_from_slice(
        format!(r#", "iat": {}, "exp": {}}}"#, seconds(row.created_at), seconds(row.expires_at)).as_bytes(),
    );
    json
}

/// `text`, in the database's encoding, as a JSON string (RFC 8259, section 7). PostgreSQL's encodings for databases use
/// the bytes of ASCII for nothing else, so that looking at bytes is enough.
fn quote(text: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in text {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            0..0x20 => quoted.extend(format!("\\u{byte:04x}").into_bytes()),
            _ => quoted.push(*byte),
        }
    }
    quoted.push(b'"');
    quoted
}
