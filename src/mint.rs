//! Minting: from a request for tokens to their text, handed out once.
//!
//! Lives here: the order in which mint judges, and what it stores. May not come in here: SQL, rules.

use pgrx::pg_sys::Datum;

use crate::errors::Error;
use crate::pg::{self, Call};
use crate::scope::{MintProblem, Scope, Span, TextArray};
use crate::settings;
use crate::store::{scopes, tokens};
use crate::token::Token;

/// What every token of one call shares. NULL is `None`.
pub struct Request<'call> {
    pub scope: Option<&'call [u8]>,
    pub ttl: Option<Span>,
    pub metadata: Option<Datum>,
    pub max_uses: Option<i32>,
}

impl<'call> Request<'call> {
    /// Judges the scope, then the TTL, then every resource id, then the uses.
    fn admit(&self, call: &Call<'call>, resource_ids: &[Option<&[u8]>]) -> Result<tokens::Mint<'call>, Error> {
        let name = self.scope.unwrap_or_default();
        let now = pg::now();
        let judge = |scope: &Scope| self.judge(scope, now, resource_ids).map_err(|problem| (problem, scope.max_ttl()));
        scopes::with(call, name, judge)?
            .ok_or_else(|| Error::scope_unknown(name))?
            .map_err(|(problem, max_ttl)| Error::mint(problem, name, max_ttl))
    }

    fn judge(
        &self,
        scope: &Scope,
        now: i64,
        resource_ids: &[Option<&[u8]>],
    ) -> Result<tokens::Mint<'call>, MintProblem> {
        let expires_at_ms = scope.expires_at_ms(now, self.ttl)?;
        resource_ids.iter().try_for_each(|id| scope.accepts(*id))?;
        let uses_left = scope.uses_left(self.max_uses)?;
        let scope = self.scope.unwrap_or_default();
        Ok(tokens::Mint { scope, created_at: now, expires_at_ms, uses_left, metadata: self.metadata })
    }
}

/// Mints one token: its text.
pub fn one(call: &Call<'_>, request: &Request<'_>, resource_id: Option<&[u8]>) -> Result<Datum, Error> {
    let mint = request.admit(call, &[resource_id])?;
    let token = Token::generate(mint.expires_at_ms).ok_or_else(Error::no_randomness)?;
    let text = text(&token);
    tokens::insert(&mint, token.id(), token.digest(), resource_id.unwrap_or_default())?;
    Ok(text)
}

/// Tokens with the resource ids that they are bound to, in the order asked for.
pub struct Pairs<'call> {
    pub resource_ids: &'call [Datum],
    pub tokens: &'call [Datum],
}

/// Mints a token for each element of the text[] argument `index`, all or none.
pub fn many<'call>(call: &Call<'call>, request: &Request<'call>, index: usize) -> Result<Pairs<'call>, Error> {
    let (mint, batch, pairs) = prepare(call, request, index)?;
    tokens::insert_many(call, &mint, &batch)?;
    Ok(pairs)
}

/// Everything that `many` needs, in memory of the call: its frame must own nothing while the tokens are stored.
fn prepare<'call>(
    call: &Call<'call>,
    request: &Request<'call>,
    index: usize,
) -> Result<(tokens::Mint<'call>, tokens::Batch<'call>, Pairs<'call>), Error> {
    let array = call.text_array(index).filter(|array| array.dimensions <= 1).ok_or_else(Error::invalid_array)?;
    if array.length > TextArray::LENGTH_MAX {
        return Err(Error::too_many_resource_ids());
    }
    let mint = request.admit(call, &array.elements)?;
    let generated = Token::generate_many(mint.expires_at_ms, array.elements.len()).ok_or_else(Error::no_randomness)?;
    let resource_ids = || array.elements.iter().map(|id| id.unwrap_or_default());
    let new = |(token, resource_id): (&Token, &'call [u8])| {
        pg::check_for_interrupts();
        tokens::New { id: token.id(), digest: token.digest(), resource_id }
    };
    let batch = tokens::Batch {
        tokens: pg::list(call, generated.iter().zip(resource_ids()).map(new)),
        resource_ids: call.datum(index).ok_or_else(Error::invalid_array)?,
    };
    let pairs = Pairs {
        resource_ids: pg::list(call, resource_ids().map(pg::varlena)),
        tokens: pg::list(call, generated.iter().map(text)),
    };
    Ok((mint, batch, pairs))
}

fn text(token: &Token) -> Datum {
    pg::varlena(token.text(settings::token_prefix().to_bytes()).as_bytes())
}
