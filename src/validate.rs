//! Validation: may the bearer of this token make this request?
//!
//! Lives here: the order in which a request is judged, the same for every function that asks. May not come in here: SQL,
//! rules, and any answer but a row or a refusal.

use crate::counters;
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

/// Whether an authorized request spends one of a limited token's uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Uses {
    Spend,
    Keep,
}

/// The token that authorizes the request, or why none does. `scope` is the token's, if it is known.
pub enum Verdict<'call> {
    Ok(tokens::TokenRow<'call>),
    Refused { refusal: Refusal, scope: Option<&'call [u8]> },
}

/// Judges `request`: the token, its expiry, its scope, the route, its uses, in this order. Counts the answer if uses are
/// spent.
pub fn validate<'call>(call: &Call<'call>, request: &Request<'call>, uses: Uses) -> Result<Verdict<'call>, Error> {
    let verdict = decide(call, request, uses)?;
    if uses == Uses::Spend {
        match &verdict {
            Verdict::Ok(row) => counters::count(Some(row.scope.bytes), None),
            Verdict::Refused { refusal, scope } => counters::count(*scope, Some(*refusal)),
        }
    }
    Ok(verdict)
}

fn decide<'call>(call: &Call<'call>, request: &Request<'call>, uses: Uses) -> Result<Verdict<'call>, Error> {
    let Some(token) = request.token.and_then(Token::parse) else { return Ok(refused(Refusal::TokenNotFound, None)) };
    let mut before: Option<tokens::TokenRow<'_>> = None;
    loop {
        let (row, spends) = match judge(call, &token, tokens::find(call, token.id())?, request)? {
            Ok(judged) => judged,
            Err(refused) => return Ok(refused),
        };
        match row.uses_left {
            Some(left) if left < 1 => return Ok(refused(Refusal::TokenUsedUp, Some(&row))),
            Some(_) if spends && uses == Uses::Spend => {}
            _ => return Ok(Verdict::Ok(row)),
        }
        let spent = tokens::spend(call, &row)?;
        if spent.is_some() {
            counters::add(Some(row.scope.bytes), counters::SPENT, 1);
            // Spending may have waited for another transaction, while the token expired or its scope changed; and a trigger
            // on the table may have changed the row.
            return Ok(judge(call, &token, spent, request)?.map_or_else(|refused| refused, |(row, _)| Verdict::Ok(row)));
        }
        // Another transaction was faster: look again. If nothing has changed since the last look, a trigger or rule keeps
        // the row from being updated.
        if before.is_some_and(|before| before.is_same(&row)) {
            return Ok(refused(Refusal::TokenUsedUp, Some(&row)));
        }
        before = Some(row);
    }
}

/// Judges the request against the row of the token's id. Returns it, and whether the request spends a use, or the refusal.
fn judge<'call>(
    call: &Call<'call>,
    token: &Token,
    row: Option<tokens::TokenRow<'call>>,
    request: &Request<'call>,
) -> Result<Result<(tokens::TokenRow<'call>, bool), Verdict<'call>>, Error> {
    let Some(row) = row.filter(|row| is_of(token, row)) else { return Ok(Err(refused(Refusal::TokenNotFound, None))) };
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let answer = scopes::with(call, row.scope.bytes, |scope| {
        let spends = scope.allows(row.resource_id.bytes, method, path).then(|| scope.spends(method));
        spends.ok_or(Refusal::RouteNotAllowed)
    })?;
    // After the look at the scope, which may have waited for a lock.
    if has_expired(row.expires_at, pg::now()) {
        return Ok(Err(refused(Refusal::TokenExpired, Some(&row))));
    }
    let spends = answer.unwrap_or(Err(Refusal::ScopeUnknown));
    Ok(spends.map(|spends| (row, spends)).map_err(|refusal| refused(refusal, Some(&row))))
}

fn refused<'call>(refusal: Refusal, row: Option<&tokens::TokenRow<'call>>) -> Verdict<'call> {
    Verdict::Refused { refusal, scope: row.map(|row| row.scope.bytes) }
}

/// The stored token that `token` is, if its secret is right.
pub fn find<'call>(call: &Call<'call>, token: &Token) -> Result<Option<tokens::TokenRow<'call>>, Error> {
    let row = tokens::find(call, token.id())?;
    Ok(row.filter(|row| is_of(token, row)))
}

/// Whether the secret of `token` is the one that was stored.
fn is_of(token: &Token, row: &tokens::TokenRow<'_>) -> bool {
    token.digest().matches(row.token_hash.bytes)
}

/// The stored token that `token` is, if it would authorize some request now.
pub fn find_active<'call>(call: &Call<'call>, token: &Token) -> Result<Option<tokens::TokenRow<'call>>, Error> {
    let Some(row) = find(call, token)? else { return Ok(None) };
    let has_uses = row.uses_left.is_none_or(|left| left > 0);
    let is_active =
        has_uses && scopes::with(call, row.scope.bytes, |_| ())?.is_some() && !has_expired(row.expires_at, pg::now());
    Ok(is_active.then_some(row))
}
