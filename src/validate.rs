//! Validation: may the bearer of this token make this request?
//!
//! Lives here: the order in which a request is judged, the same for every function that asks. May not come in here: SQL,
//! rules, and any answer but a row or a refusal.

use crate::errors::{Error, Refusal};
use crate::pg::{self, Call};
use crate::store::{scopes, tokens};
use crate::token::{Token, has_expired};

/// A request as it was presented. NULL is `None` and matches nothing.
pub struct Request<'call> {
    pub token: Option<&'call [u8]>,
    pub method: Option<&'call [u8]>,
    pub path: Option<&'call [u8]>,
}

/// Whether a request that is authorized uses up one of a limited token's uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Uses {
    Spend,
    Leave,
}

/// The answer: the token that authorizes the request, or why none does, with the name of its scope where that is known.
pub enum Verdict<'call> {
    Ok(tokens::TokenRow<'call>),
    Refused { refusal: Refusal, scope: &'call [u8] },
}

/// Judges `request`: the token, its expiry, its scope, the route, its uses, in this order.
pub fn validate<'call>(call: &Call<'call>, request: &Request<'call>, uses: Uses) -> Result<Verdict<'call>, Error> {
    let refused = |refusal, scope| Ok(Verdict::Refused { refusal, scope });
    let Some(token) = request.token.and_then(Token::parse) else {
        return refused(Refusal::TokenNotFound, b"");
    };
    // Round again only after another transaction has taken the use that was there: then there is one less.
    loop {
        let Some(row) = find(call, &token)? else { return refused(Refusal::TokenNotFound, b"") };
        if has_expired(row.expires_at, pg::now()) {
            return refused(Refusal::TokenExpired, row.scope);
        }
        let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let asked = scopes::with(call, row.scope, |scope| {
            scope.allows(row.resource_id, method, path).then(|| scope.spends(method))
        })?;
        let spends = match asked {
            None => return refused(Refusal::ScopeUnknown, row.scope),
            Some(None) => return refused(Refusal::RouteNotAllowed, row.scope),
            Some(Some(spends)) => spends && uses == Uses::Spend,
        };
        match row.uses_left {
            Some(left) if left < 1 => return refused(Refusal::TokenUsedUp, row.scope),
            Some(_) if spends => {}
            _ => return Ok(Verdict::Ok(row)),
        }
        if tokens::spend(row.id)? {
            // Spending may have waited for another transaction, past the expiry.
            let expired = has_expired(row.expires_at, pg::now());
            return if expired { refused(Refusal::TokenExpired, row.scope) } else { Ok(Verdict::Ok(row)) };
        }
    }
}

/// The stored token that `token` is, if its secret is right.
pub fn find<'call>(call: &Call<'call>, token: &Token) -> Result<Option<tokens::TokenRow<'call>>, Error> {
    let row = tokens::find(call, token.id())?;
    Ok(row.filter(|row| token.digest().matches(row.token_hash)))
}
