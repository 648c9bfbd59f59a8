//! Validation: may the bearer of this token make this request?
//!
//! Lives here: the order in which a request is judged, the same for every function that asks. May not come in here: SQL,
//! rules, and any answer but a row or a refusal.

use crate::counters;
use crate::errors::{Error, Refusal};
use crate::pg::{self, Call};
use crate::scope::Scope;
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
        let Some((row, answer)) = find_with_scope(call, &token, |row, scope| spends(request, row, scope))? else {
            return Ok(refused(Refusal::TokenNotFound, None));
        };
        let spends_one = match judge(&row, answer) {
            Ok(spends_one) => spends_one,
            Err(refusal) => return Ok(refused(refusal, Some(&row))),
        };
        match row.uses_left {
            Some(left) if left < 1 => return Ok(refused(Refusal::TokenUsedUp, Some(&row))),
            Some(_) if spends_one && uses == Uses::Spend => {}
            _ => return Ok(Verdict::Ok(row)),
        }
        if let Some(spent) = tokens::spend(call, &row)? {
            counters::add(Some(row.scope.bytes), counters::SPENT, 1);
            // Spending may have waited for another transaction, while the token expired or its scope changed; and a trigger
            // on the table may have changed the row. It is this transaction's now.
            if !is_of(&token, &spent) {
                return Ok(refused(Refusal::TokenNotFound, None));
            }
            let answer = scopes::with(call, spent.scope.bytes, |scope| spends(request, &spent, scope))?;
            return Ok(match judge(&spent, answer) {
                Ok(_) => Verdict::Ok(spent),
                Err(refusal) => refused(refusal, Some(&spent)),
            });
        }
        // Another transaction was faster: look again. If nothing has changed since the last look, a trigger or rule keeps
        // the row from being updated.
        if before.is_some_and(|before| before.is_same(&row)) {
            return Ok(refused(Refusal::TokenUsedUp, Some(&row)));
        }
        before = Some(row);
    }
}

/// Whether the request spends a use of the token `row`, whose scope is `scope`, if it is allowed.
fn spends(request: &Request<'_>, row: &tokens::TokenRow<'_>, scope: &Scope) -> Result<bool, Refusal> {
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let is_allowed = scope.allows(row.resource_id.bytes, method, path);
    is_allowed.then(|| scope.spends(method)).ok_or(Refusal::RouteNotAllowed)
}

/// Judges a request by the row of its token and what the token's scope answers: whether it spends a use.
fn judge(row: &tokens::TokenRow<'_>, answer: Option<Result<bool, Refusal>>) -> Result<bool, Refusal> {
    // After the look at the scope, which may have waited for a lock.
    if has_expired(row.expires_at, pg::now()) {
        return Err(Refusal::TokenExpired);
    }
    answer.unwrap_or(Err(Refusal::ScopeUnknown))
}

/// The stored token that `token` is, if its secret is right, and what `ask` answers about it and its scope, if there is that scope.
///
/// The row is no older than the scope. Else a token would work that is deleted in the transaction in which its scope gets other
/// routes, or comes back: it would be seen from before that transaction, and the scope from after it.
fn find_with_scope<'call, R>(
    call: &Call<'call>,
    token: &Token,
    mut ask: impl FnMut(&tokens::TokenRow<'call>, &Scope) -> R,
) -> Result<Option<(tokens::TokenRow<'call>, Option<R>)>, Error> {
    let mut asked: Option<(tokens::TokenRow<'call>, Option<R>)> = None;
    loop {
        let reads = scopes::reads();
        let Some(row) = find(call, token)? else { return Ok(None) };
        if let Some((before, answer)) = asked
            && before.is_same(&row)
        {
            return Ok(Some((row, answer)));
        }
        let answer = scopes::with(call, row.scope.bytes, |scope| ask(&row, scope))?;
        if scopes::reads() == reads {
            return Ok(Some((row, answer)));
        }
        pg::check_for_interrupts();
        asked = Some((row, answer));
    }
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
    let Some((row, scope)) = find_with_scope(call, token, |_, _| ())? else { return Ok(None) };
    let has_uses = row.uses_left.is_none_or(|left| left > 0);
    Ok((has_uses && scope.is_some() && !has_expired(row.expires_at, pg::now())).then_some(row))
}
