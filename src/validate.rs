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
    let refused = |refusal, scope| Ok(Verdict::Refused { refusal, scope });
    let Some(token) = request.token.and_then(Token::parse) else {
        return refused(Refusal::TokenNotFound, None);
    };
    let mut before: Option<tokens::TokenRow<'_>> = None;
    loop {
        let Some(row) = find(call, &token)? else { return refused(Refusal::TokenNotFound, None) };
        let spends = match judge(call, &row, request)? {
            Ok(spends) => spends && uses == Uses::Spend,
            Err(refusal) => return refused(refusal, Some(row.scope.bytes)),
        };
        match row.uses_left {
            Some(left) if left < 1 => return refused(Refusal::TokenUsedUp, Some(row.scope.bytes)),
            Some(_) if spends => {}
            _ => return Ok(Verdict::Ok(row)),
        }
        if let Some(spent) = tokens::spend(call, &row)? {
            counters::add(Some(row.scope.bytes), counters::SPENT, 1);
            return judge_spent(call, &token, spent, request);
        }
        // Another transaction was faster: look again. If nothing has changed since the last look, a trigger or rule keeps
        // the row from being updated.
        if before.is_some_and(|before| before.is_same(&row)) {
            return refused(Refusal::TokenUsedUp, Some(row.scope.bytes));
        }
        before = Some(row);
    }
}

/// Judges the request again, against the token as it is after its use was spent. Spending may have waited for another
/// transaction, while the token expired or its scope changed; and a trigger on the table may have changed the row.
fn judge_spent<'call>(
    call: &Call<'call>,
    token: &Token,
    row: tokens::TokenRow<'call>,
    request: &Request<'call>,
) -> Result<Verdict<'call>, Error> {
    if !is_of(token, &row) {
        return Ok(Verdict::Refused { refusal: Refusal::TokenNotFound, scope: None });
    }
    Ok(match judge(call, &row, request)? {
        Ok(_) => Verdict::Ok(row),
        Err(refusal) => Verdict::Refused { refusal, scope: Some(row.scope.bytes) },
    })
}

/// Judges the request against a stored token. Returns whether the request spends a use, or why it is refused.
fn judge<'call>(
    call: &Call<'call>,
    row: &tokens::TokenRow<'call>,
    request: &Request<'call>,
) -> Result<Result<bool, Refusal>, Error> {
    if has_expired(row.expires_at, pg::now()) {
        return Ok(Err(Refusal::TokenExpired));
    }
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let answer =
        scopes::with(call, row.scope.bytes, |scope| match scope.allows(row.resource_id.bytes, method, path) {
            true => Ok(scope.spends(method)),
            false => Err(Refusal::RouteNotAllowed),
        })?;
    Ok(answer.unwrap_or(Err(Refusal::ScopeUnknown)))
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
        has_uses && !has_expired(row.expires_at, pg::now()) && scopes::with(call, row.scope.bytes, |_| ())?.is_some();
    Ok(is_active.then_some(row))
}
